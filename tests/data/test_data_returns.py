"""How far back the kind of a test request was last seen, by hand."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oxyrec_jax.data import dataset, protocols, returns, schema, statistics


def write(folder, sequences, category, **columns):
    """A data set by hand, protocol P1, many small shards."""
    lengths = [len(one) for one in sequences]
    ends = np.cumsum([0, *lengths])
    arrays = {"item": np.concatenate(sequences), **columns}

    def fill(out):
        out.add_items(schema.item_table({
            "item_id": [str(n) for n in range(len(category))], "category": category}))
        for place in range(len(sequences)):
            part = slice(ends[place], ends[place + 1])
            out.add_sequences({name: np.asarray(values)[part]
                               for name, values in arrays.items()},
                              lengths[place:place + 1], [f"user {place}"])
        for name, rows in protocols.leave_one_out(np.array(lengths)).items():
            out.add_targets(name, rows)
    dataset.write_dataset(folder, fill, columns=list(arrays),
                          facts={"source": "by hand"}, shard_events=4)
    return dataset.load_dataset(folder)


def found(log):
    return statistics.log_statistics(log)["last_seen"]


def test_gaps_are_counted_from_the_event_of_the_same_category(tmp_path, monkeypatch):
    monkeypatch.setattr(returns, "BEYOND", (1, 2, 3))
    log = write(tmp_path / "log", [
        [0, 1, 1, 2],       # category a of item 2 was seen 3 events ago (item 0)
        [1, 1, 3],          # c was never seen
        [0, 2, 0],          # a was seen 1 event ago
        [1, 0, 4]],         # of item 4 no category is known
        ["a", "b", "a", "c", None])
    category = found(log)["category"]
    assert category["targets"] == 3
    assert category["never"] == pytest.approx(1 / 3)
    assert category["beyond"] == pytest.approx({"1": 1 / 3, "2": 1 / 3, "3": 0})
    assert category["after_pause"] is None and "need" not in found(log)


def test_events_of_the_same_request_do_not_count(tmp_path, monkeypatch):
    monkeypatch.setattr(returns, "BEYOND", (1, 2))
    hour = returns.PAUSE
    log = write(tmp_path / "log", [[0, 1, 0, 0], [0, 1, 1]], ["a", "b"],
                request=[0, 1, 2, 2, 3, 4, 5],
                time=[0, 9, hour + 9, hour + 10, 0, 1, 2])
    # Sequence 0: the request of the last two events opens at place 2; a was seen at 0.
    # Sequence 1: b was seen one event ago, and no hour has passed.
    category = found(log)["category"]
    assert category["beyond"] == pytest.approx({"1": 1 / 2, "2": 0})
    assert category["after_pause"] == {"targets": 1, "never": 0,
                                       "beyond": {"1": 1.0, "2": 0.0}}


def test_needs_are_read_where_a_table_tells_them(tmp_path, monkeypatch):
    monkeypatch.setattr(returns, "BEYOND", (1, 2))
    log = write(tmp_path / "log", [[0, 0, 0], [0, 0, 0]], ["a"],
                request=[0, 1, 2, 3, 4, 5])
    pq.write_table(pa.table({"need": [7, 8, 7, 1, 2, 3]}),
                   tmp_path / "log" / "requests.parquet")
    need = found(log)["need"]  # 7 was seen two events ago, 3 never
    assert need["beyond"] == pytest.approx({"1": 1 / 2, "2": 0})
    assert need["never"] == 1 / 2


def test_against_a_walk_through_every_sequence(tmp_path):
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, 30, rng.integers(3, 200)) for _ in range(40)]
    category = [f"c{n}" for n in rng.integers(0, 12, 30)]
    events = sum(map(len, sequences))
    request = np.cumsum(rng.random(events) < 0.6)
    ends = np.cumsum([len(one) for one in sequences])
    for end in ends[:-1]:  # no request goes over two sequences
        request[end:] += 1
    log = write(tmp_path / "log", sequences, category, request=request)
    gaps = []
    for end, items in zip(ends, sequences):
        own = request[end - len(items):end]
        opening = int(np.argmax(own == own[-1]))
        before = [place for place in range(opening)
                  if category[items[place]] == category[items[-1]]]
        gaps.append(opening - before[-1] if before else 0)
    shares = found(log)["category"]
    assert shares["never"] == pytest.approx(np.mean(np.array(gaps) == 0))
    for k, share in shares["beyond"].items():
        assert share == pytest.approx(np.mean(np.array(gaps) > int(k)))


def test_a_log_without_categories_or_test_targets_says_nothing(tmp_path):
    assert found(write(tmp_path / "log", [[0, 1, 0]], [None, None])) is None
    assert found(write(tmp_path / "short", [[0, 1]], ["a", "b"])) is None
