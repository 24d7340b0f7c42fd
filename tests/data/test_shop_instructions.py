"""Texts of a shop's requests: right, noisy, wrong or none on purpose."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from oxyrec_jax.base import InputError
from oxyrec_jax.data import dataset as datasets
from oxyrec_jax.data import instruction_table, pipeline, schema, shop
from oxyrec_jax.data.shop import instructions


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop") / "data"
    shop.prepare_shop(shop.ShopConfig(users=60, items=200, seed=3), folder)
    return datasets.load_dataset(folder)


@pytest.fixture(scope="module")
def truth(log):
    """For each event its need, and the table of needs."""
    needs = pq.read_table(log.folder / "needs.parquet").to_pylist()
    requests = pq.read_table(log.folder / "requests.parquet").to_pydict()
    at = dict(zip(requests["request"], requests["need"], strict=True))
    return [at[number] for number in log.column("request").tolist()], needs


def test_the_oracle_says_what_was_needed(log, truth):
    numbers, needs = truth
    found = instructions.instruction_texts(log, "oracle")
    assert [found.texts[row] for row in found.index] == [
        needs[number]["text"] for number in numbers]


def test_a_wrong_text_is_always_of_another_leaf_and_of_many(log, truth):
    numbers, needs = truth
    found = instructions.instruction_texts(log, "wrong")
    said = [needs[row]["leaf"] for row in found.index]
    assert all(leaf != needs[number]["leaf"]
               for leaf, number in zip(said, numbers, strict=True))
    assert len(set(said)) > 60  # of 188 leaves


def test_a_noisy_text_is_wrong_or_vague_as_often_as_asked(log, truth):
    """Of requests: 20 % wrong, then 30 % of the rest vague: 24 %, 56 % exact."""
    numbers, needs = truth
    found = instructions.instruction_texts(log, "noisy")
    request = log.column("request")
    _, first = np.unique(request, return_index=True)
    exact = vague = 0
    for event in first:
        text, need = found.texts[found.index[event]], needs[numbers[event]]
        root = need["category"].split(" > ")[0]
        exact += text == need["text"]
        vague += text == f"Is looking for something in {root}."
    count = len(first)
    spread = 4 * (0.25 / count) ** 0.5  # four standard deviations at the most
    assert abs(exact / count - 0.56) < spread and abs(vague / count - 0.24) < spread


@pytest.mark.parametrize("kind", instructions.KINDS)
def test_events_of_a_request_share_their_text_and_a_seed_repeats_it(log, kind):
    found = instructions.instruction_texts(log, kind, seed=5)
    again = instructions.instruction_texts(log, kind, seed=5)
    np.testing.assert_array_equal(found.index, again.index)
    pairs = set(zip(log.column("request").tolist(), found.index.tolist()))
    assert len(pairs) == len(set(log.column("request").tolist()))
    if kind in ("noisy", "wrong"):
        other = instructions.instruction_texts(log, kind, seed=6)
        assert (other.index != found.index).any()


def test_a_query_stands_where_the_request_was_a_search(log):
    found = instructions.instruction_texts(log, "query")
    search = log.column("scenario") == shop.SCENARIOS.index("search")
    np.testing.assert_array_equal(found.index >= 0, search)
    assert instructions.instruction_texts(log, "none").index.max() == -1


@pytest.mark.parametrize("arguments, words", [
    ({"kind": "good"}, "'good', expected one of oracle"),
    ({"kind": "noisy", "noise": 1.5}, "noise is 1.5"),
])
def test_what_cannot_be_asked_is_refused(log, arguments, words):
    with pytest.raises(InputError, match=words):
        instructions.instruction_texts(log, **arguments)


def test_only_a_shop_knows_the_needs(tmp_path):
    def fill(out):
        out.add_items(schema.item_table({"item_id": ["a", "b"]}))
        out.add_sequences({"item": np.array([0, 1])}, np.array([2]), ["u"])
        out.add_targets("train", np.array([[0, 1, 2]]))
    datasets.write_dataset(tmp_path / "d", fill, facts={"source": "table"})
    with pytest.raises(InputError, match="'table': only a simulated shop"):
        instructions.instruction_texts(datasets.load_dataset(tmp_path / "d"), "oracle")


def table_of(log, kind="oracle"):
    found = instructions.instruction_texts(log, kind)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(len(found.texts), 4)).astype(np.float32)
    return instruction_table.InstructionTable(found.index, vectors, found.texts)


def test_a_table_reads_back_and_another_log_or_damage_is_refused(log, tmp_path):
    table = table_of(log)
    instruction_table.write_instructions(table, log, tmp_path / "i", {"kind": "oracle"})
    back = instruction_table.load_instructions(tmp_path / "i", log)
    np.testing.assert_array_equal(back.index, table.index)
    np.testing.assert_array_equal(back.vectors, table.vectors)
    assert back.texts == table.texts
    shop.prepare_shop(shop.ShopConfig(users=60, items=200, seed=4), tmp_path / "other")
    with pytest.raises(InputError, match="made for another data set"):
        instruction_table.load_instructions(tmp_path / "i", datasets.load_dataset(
            tmp_path / "other"))
    with open(tmp_path / "i" / "vectors.npy", "r+b") as file:
        file.seek(200)
        file.write(b"\xff")
    with pytest.raises(InputError, match="vectors.npy was changed"):
        instruction_table.load_instructions(tmp_path / "i", log)


@pytest.mark.parametrize("index, vectors, words", [
    ([0, 2], np.zeros((2, 3)), "rows 0 to 2 of 2"),
    ([-2, 0], np.zeros((2, 3)), "rows -2 to 0 of 2"),
    ([0, 0], np.array([[0.0, 1], [np.nan, 0]]), "instruction 1 is not finite"),
])
def test_a_table_that_cannot_be_is_refused(index, vectors, words):
    with pytest.raises(InputError, match=words):
        instruction_table.InstructionTable(np.array(index), vectors, ["a", "b"])


@pytest.mark.parametrize("mode", ["packed", "last"])
def test_a_batch_holds_the_text_gap_and_weight_of_each_target(log, mode):
    table = table_of(log, "query")
    cfg = pipeline.Pipeline(batch=12, history=8, row_length=16, mode=mode,
                            columns=("time", "behaviour", "gap", "instruction",
                                     "weight"))
    batch = pipeline.TrainSource(log.with_instructions(table), cfg, seed=0)[1]
    mask = batch["target_mask"]
    weights = np.array([1.2, 1.5, 2.0], np.float32)[batch["target_behaviour"]]
    np.testing.assert_array_equal(batch["target_weight"][mask], weights[mask])
    last = np.take_along_axis(batch["time"], batch["target_positions"], axis=1)
    gap = np.take_along_axis(batch["gap"], batch["target_positions"], axis=1)
    seconds = (batch["target_time"] - last).astype(np.float32)
    np.testing.assert_array_equal(gap[mask], seconds[mask])
    # The vector of each target is that of an event with its item and time.
    events = {(item, time): row for item, time, row in zip(
        log.column("item").tolist(), log.column("time").tolist(), table.index.tolist())}
    some = 0
    for row, place in np.argwhere(mask):
        key = (int(batch["targets"][row, place]), int(batch["target_time"][row, place]))
        number = events[key]
        expected = table.vectors[number] if number >= 0 else np.zeros(4)
        np.testing.assert_array_equal(batch["target_instruction"][row, place], expected)
        some += number >= 0
    assert some


def test_a_column_that_cannot_be_made_is_named(log):
    cfg = pipeline.Pipeline(batch=4, columns=("instruction",))
    with pytest.raises(InputError, match="has no instructions; make them first"):
        pipeline.TrainSource(log, cfg, seed=0)
    with pytest.raises(InputError, match="events, the instruction table 12;"):
        log.with_instructions(instruction_table.InstructionTable(
            np.zeros(12, np.int32), np.zeros((1, 2)), ["x"]))
    with pytest.raises(InputError, match="behaviour_weights gives 'click' -1"):
        pipeline.Pipeline(behaviour_weights={"click": -1})
