"""What a log's requests would have read: the latest window that had ended, or none."""

import dataclasses

import numpy as np
import pytest

from oxyrec_jax import instruction_store, quickstart, workspace
from oxyrec_jax.base import InputError
from oxyrec_jax.data import dataset as datasets
from oxyrec_jax.data import schema
from oxyrec_jax.thinking.records import Version
from oxyrec_jax.thinking.recording import Recorded
from oxyrec_jax.tokenizer.embeddings import EmbeddingConfig

TIMES = np.array([100, 400, 401, 900, 50, 1_000, 2_000, 9_000])
REQUEST = np.array([0, 1, 1, 2, 3, 4, 5, 6])
COUNTS = {"u": 4, "v": 4}


def make(folder, times=TIMES, **think):
    def fill(out):
        out.add_items(schema.item_table({"item_id": ["a"]}))
        columns = {"item": np.zeros(8, np.int32), "request": REQUEST}
        out.add_sequences(columns | ({} if times is None else {"time": times}),
                          np.array(list(COUNTS.values())), list(COUNTS))
        out.add_targets("train", np.array([[0, 1, 4]]))
    names = ("item", "request", *(() if times is None else ("time",)))
    datasets.write_dataset(folder / "data", fill, columns=names,
                           facts={"source": "table"})
    cfg = quickstart.tiny()
    store = dataclasses.replace(cfg.think.store, max_bytes=1 << 26, ttl=None)
    return workspace.Workspace(folder, dataclasses.replace(
        cfg, text=EmbeddingConfig(source="hashed", dimension=8),
        think=dataclasses.replace(cfg.think, store=store, **think)))


def write(space, rows, encoder=None):
    """Writes (user, window, text) as a run does."""
    encoder = encoder or instruction_store.Encoder(space)
    with (instruction_store.open_live(space, encoder) as live,
          instruction_store.open_history(space, encoder) as history):
        for user, window, text in rows:
            Recorded(live, history).put_many(
                [user], [text], encoder([text]), kind="reasoning", window=window,
                version=Version(1, "m", "p", encoder.name))


def served(space):
    log = datasets.load_dataset(space.data)
    found = instruction_store.instructions_of_log(space, log)
    return found, [found.table.texts[row] if row >= 0 else None
                   for row in found.table.index]


ROWS = [("u", 300, "tea soon"), ("u", 600, "cake"), ("v", 1_000, "tea soon"),
        ("v", 1_001, "rain"), ("gone", 10, "boots"), ("v", 60, "sun")]


def test_each_request_reads_the_latest_window_that_had_ended(tmp_path):
    space = make(tmp_path)
    write(space, ROWS)
    found, texts = served(space)
    # The event at 401 belongs to the request of 400; 1,000 is read at 1,000 itself.
    assert texts == [None, "tea soon", "tea soon", "cake",
                     None, "tea soon", "rain", "rain"]
    assert found.sources == {"stored": 6, "missing": 2, "expired": 0, "mismatch": 0}
    assert len(set(found.table.texts)) == len(found.table.texts) == 3
    encoder = instruction_store.Encoder(space)
    for row, text in zip(found.table.index, texts):
        if text:
            np.testing.assert_array_equal(found.table.vectors[row],
                                          encoder([text])[0].astype(np.float16))
    ages = [400 - 300, 400 - 300, 900 - 600, 0, 2_000 - 1_001, 9_000 - 1_001]
    assert found.ages == {"1 min": 1, "5 min": 2, "15 min": 1, "1 h": 1, "6 h": 1,
                          "1 day": 0, "7 days": 0, "older": 0} and max(ages) == 7_999


def test_what_outlived_its_time_is_the_default(tmp_path):
    space = make(tmp_path)
    write(space, ROWS)
    think = space.cfg.think
    short = dataclasses.replace(think, store=dataclasses.replace(think.store, ttl=999))
    found, texts = served(dataclasses.replace(
        space, cfg=dataclasses.replace(space.cfg, think=short)))
    assert texts[6:] == ["rain", None] and found.sources["expired"] == 1


def test_vectors_of_another_encoder_are_the_default(tmp_path):
    space = make(tmp_path)
    write(space, ROWS)
    other = dataclasses.replace(space, cfg=dataclasses.replace(
        space.cfg, text=EmbeddingConfig(source="hashed", dimension=9)))
    found, texts = served(other)
    assert set(texts) == {None} and found.sources["mismatch"] == 6
    assert found.table.vectors.shape == (1, 9)


def test_a_random_log_agrees_with_a_search_by_hand(tmp_path):
    rng = np.random.default_rng(0)
    space = make(tmp_path, np.sort(rng.integers(1, 5_000, 8).reshape(2, 4)).reshape(8))
    rows = {(str(rng.choice(["u", "v", "w"])), int(rng.integers(1, 5_000))): f"t {n}"
            for n in range(60)}
    write(space, [(*key, text) for key, text in rows.items()])
    log = datasets.load_dataset(space.data)
    times = log.column("time").copy()
    times[2] = times[1]  # one request
    expected = [max(((window, text) for (owner, window), text in rows.items()
                     if owner == user and window <= time), default=(0, None))[1]
                for user, time in zip(np.repeat(["u", "v"], 4), times)]
    assert served(space)[1] == expected and len(set(expected)) > 3


def test_a_log_that_nothing_was_thought_for_or_without_times_is_named(tmp_path):
    space = make(tmp_path)
    with pytest.raises(InputError, match="run oxyrec think --before test"):
        served(space)
    (tmp_path / "timeless").mkdir()
    timeless = make(tmp_path / "timeless", None)
    write(timeless, ROWS)
    with pytest.raises(InputError, match="has no column 'time'"):
        served(timeless)


def test_one_vector_of_a_text_whatever_it_comes_with(tmp_path):
    encoder = instruction_store.Encoder(make(tmp_path))
    together, alone = encoder(["tea cup", "tea", "tea cup"]), encoder(["tea cup"])
    np.testing.assert_array_equal(together[[0, 2]], alone[[0, 0]])
    assert encoder(["tea"]).shape == (1, encoder.dimension) == (1, 8)


def test_a_request_gets_an_answer_whatever_is_wrong_with_the_store(tmp_path):
    space = make(tmp_path)
    found = instruction_store.read_one(space, "u")
    assert found.told["source"] == "default" and "was not run" in found.told["why"]
    write(space, [("u", 600, "cake")])
    patient = dataclasses.replace(space.cfg.think, read=dataclasses.replace(
        space.cfg.think.read, deadline=10.0))
    space = dataclasses.replace(space, cfg=dataclasses.replace(
        space.cfg, think=patient))
    found = instruction_store.read_one(space, "u")
    assert {name: found.told[name] for name in ("source", "text", "version", "kind")
            } == {"source": "store", "text": "cake", "version": 1,
                  "kind": "reasoning"}
    assert 0 <= found.told["age_seconds"] < 60 and found.vector.any()
    missing = instruction_store.read_one(space, "v")
    assert missing.told["why"] == "missing" and not missing.vector.any()
    with open(space.thinking / "store" / "data.mdb", "r+b") as file:
        file.write(b"\xff" * 20_000)
    broken = instruction_store.read_one(space, "u")
    assert broken.told["source"] == "default" and broken.told["why"]
    dead = dataclasses.replace(patient, store=dataclasses.replace(
        patient.store, backend="redis", url="redis://127.0.0.1:1/0", timeout=0.2))
    found = instruction_store.read_one(dataclasses.replace(
        space, cfg=dataclasses.replace(space.cfg, think=dead)), "u")
    assert found.told["why"] == "failed" and not found.vector.any()
