"""Recall of what is retrieved: by hand, against brute force, beside its controls."""

import numpy as np
import pytest

import tiny_world
from oxyrec_jax.data import dataset, pipeline, schema
from oxyrec_jax.evaluate import retrieval as lib
from oxyrec_jax.models.instructions import InstructionConfig
from oxyrec_jax.models.retrieval import RetrievalConfig

ITEMS, KEEP, LONG, HISTORY = 30, 3, 8, 2


def test_recall_and_share_by_hand():
    labels = np.array([0, 0, 1, 1, -1])  # of five items
    long = np.array([[0, 2, 3, 3], [4, 1, -1, -1], [2, 2, 2, 2], [-1, -1, -1, -1]])
    targets = np.array([1, 4, 0, 0])
    kept = np.array([
        [[0, 2], [4, 1], [2, 2], [-1, -1]],    # the network
        [[3, 3], [4, 1], [2, 2], [-1, -1]],    # the latest two
        [[2, 3], [4, -1], [2, 2], [-1, -1]]])  # two at random
    found = lib.match(kept, long, targets, labels)
    # Target 4 has no label, so nothing is of its kind; the last history is empty.
    assert found["recall"]["model"].tolist() == [1, 0, 0, 0]
    assert found["share"]["model"].tolist() == [0.5, 0, 0, 0]
    assert found["recall"]["recent"].tolist() == [0, 0, 0, 0]
    assert found["recall"]["ceiling"].tolist() == [1, 0, 0, 0]
    assert found["share"]["ceiling"].tolist() == [0.5, 0, 0, 0]  # one of two places


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A log with categories and scenarios, and a network that retrieves from it."""
    rng = np.random.default_rng(3)
    lengths = rng.integers(3, 14, 24)
    lengths[:2] = 3  # nothing older than the recent history

    def fill(out):
        out.add_items(schema.item_table({
            "item_id": [f"i{n}" for n in range(ITEMS)],
            "category": [f"c{n % 7}" for n in range(ITEMS)]}))
        events = int(lengths.sum())
        out.add_sequences({"item": rng.integers(0, ITEMS, events),
                           "scenario": rng.integers(0, 3, events)}, lengths,
                          [f"u{n}" for n in range(24)])
        out.add_targets("test", np.stack([np.arange(24), lengths - 1, lengths], 1))
    folder = tmp_path_factory.mktemp("long") / "d"
    dataset.write_dataset(folder, fill, columns=("item", "scenario"),
                          facts={"scenarios": ["a", "b", "c"]})
    log = dataset.load_dataset(folder)
    model = tiny_world.make_model(
        causal=False, instructions=InstructionConfig("right", scenarios=3, hidden=8),
        retrieval=RetrievalConfig(events=LONG, keep=KEEP, width=6, hidden=8))
    catalogue, _ = tiny_world.make_items(ITEMS)
    batches = pipeline.eval_batches(log, "test", batch=24, history=HISTORY, long=LONG,
                                    columns=model.columns)
    batch = next(iter(batches))
    params = tiny_world.init_params(model, batch, catalogue.tables)
    return model, params, log, catalogue.tables, batch


@pytest.fixture(scope="module")
def found(world):
    model, params, log, tables, _ = world
    return lib.retrieve_split(model, params, log, "test", tables, history=HISTORY,
                              batch=10)


def test_every_figure_is_that_of_brute_force(world, found):
    """Oracle: Python over the events of each user, one by one."""
    model, params, log, tables, batch = world
    kept = np.asarray(tiny_world.forward(model, params, batch, tables,
                                         method="retrieve"))
    offsets, items = log.offsets(), log.column("item").tolist()
    codes = np.asarray(tables.codes).tolist()
    assert found.labels == ("category", "sid1", "sid2", "sid3")
    for row in range(24):
        whole = items[offsets[row]:offsets[row + 1]]
        target, older = whole[-1], whole[:-1][:-HISTORY][-LONG:]
        assert found.older[row] == len(older)
        chosen = {"model": [item for item in kept[row].tolist() if item >= 0],
                  "recent": older[-KEEP:]}
        for place in range(4):
            def label(item):
                return item % 7 if place == 0 else tuple(codes[item][:place])
            for rule, few in chosen.items():
                same = [label(item) == label(target) for item in few]
                assert found.values["recall"][rule][row, place] == any(same)
                assert found.values["share"][rule][row, place] == pytest.approx(
                    sum(same) / max(len(few), 1))
            same = [label(item) == label(target) for item in older]
            assert found.values["recall"]["ceiling"][row, place] == any(same)
            room = max(min(KEEP, len(older)), 1)
            assert found.values["share"]["ceiling"][row, place] == pytest.approx(
                min(sum(same), room) / room)


def test_no_rule_beats_the_ceiling_and_longer_prefixes_are_rarer(found):
    for figure in lib.FIGURES:
        best = found.values[figure]["ceiling"]
        for rule in ("model", "recent", "random"):
            assert (found.values[figure][rule] <= best).all(), (figure, rule)
            prefixes = found.values[figure][rule][:, 1:]
            assert (np.diff(prefixes, axis=1) <= 0).all()


def test_histories_without_older_events_do_not_count(found):
    users = np.arange(24)
    judged = lib.judge({"seed0": found, "seed1": found}, users, keep=KEEP, samples=50,
                       level=0.9, seed=0)
    some = found.older > 0
    assert judged["targets"] == some.sum() < 24
    assert judged["with_choice"] == (found.older > KEEP).sum()
    cell = judged["cells"]["category.recall"]
    own = found.values["recall"]["model"][some, 0]
    assert cell["model"] == pytest.approx(own.mean())
    assert cell["interval"][0] <= cell["model"] <= cell["interval"][1]
    gap = own - found.values["recall"]["recent"][some, 0]
    assert cell["minus_recent"]["mean"] == pytest.approx(gap.mean())
    assert judged["runs"]["seed1"]["category.recall"] == pytest.approx(own.mean())


def test_where_nobody_has_older_events_there_are_no_figures(found):
    nobody = lib.Retrieved(found.labels, found.values, found.older * 0)
    judged = lib.judge({"seed0": nobody}, np.arange(24), keep=KEEP, samples=5,
                       level=0.9, seed=0)
    assert judged["targets"] == 0 and judged["cells"] == {}


def test_items_without_categories_have_no_such_label(tmp_path):
    log = tiny_world.make_dataset(tmp_path / "d")
    assert list(lib.item_labels(log, tiny_world.make_codes())) == ["sid1", "sid2",
                                                                   "sid3"]
