"""Rows of requests: who is in which split, honest histories, exact resume."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

import tiny_requests
from oxyrec_jax.base import InputError
from oxyrec_jax.data import pipeline
from oxyrec_jax.data.impressions import load_impressions, split_impressions
from oxyrec_jax.data.request_rows import SplitRequests

COLUMNS = ("behaviour", "scenario", "trigger", "query", "gap", "hour")
CONFIG = pipeline.Pipeline(batch=4, history=3, row_length=3, mode="requests",
                           columns=COLUMNS)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tiny_requests.make(tmp_path_factory.mktemp("log") / "d")


def test_a_request_knows_the_events_strictly_before_it(log):
    found = load_impressions(log)
    # Events of person 0: 5 (hour 10), 9 and 4 (12), 2 (14), 1 (16); of 1: 2, 6.
    assert found.row.tolist() == [1, 2, 3, 4, 5, 6, 7, 9]
    assert found.position.tolist() == [1, 1, 3, 3, 4, 4, 5, 1]
    assert found.columns["trigger"].tolist() == [5, -1, -1, 4, -1, -1, -1, 2]
    assert found.shown[0].tolist() == [7, 8, -1]


@pytest.mark.parametrize("split, rows", [
    ("train", [1, 2, 3, 9]),  # person 1 has two events: nothing is held out
    ("valid", [4, 5]),        # from the request of event 3 on, chosen from or not
    ("test", [6, 7])])
def test_under_p1_a_split_begins_with_the_request_of_its_target(log, split, rows):
    found = load_impressions(log)
    assert found.row[split_impressions(log, found, split)].tolist() == rows


def test_under_p2_a_split_begins_for_everybody_at_once(tmp_path):
    log = tiny_requests.make(tmp_path / "d", protocol="P2")
    # Targets in order of time: hours 12, 12, 14 | nothing (8:1:1 of 5 is 4 | 0 | 1).
    with pytest.raises(InputError, match="no 'valid' targets"):
        split_impressions(log, load_impressions(log), "train")
    log = tiny_requests.make(tmp_path / "e", protocol="P2",
                             log=tiny_requests.random_log())
    found = load_impressions(log)
    parts = {name: found.time[split_impressions(log, found, name)]
             for name in ("train", "valid", "test")}
    assert parts["train"].max() < parts["valid"].min()
    assert parts["valid"].max() < parts["test"].min()
    assert sum(map(len, parts.values())) == len(found.row)


@pytest.mark.parametrize("protocol", ["P1", "P2"])
def test_no_training_request_is_made_at_or_after_validation(tmp_path, protocol):
    log = tiny_requests.make(tmp_path / "d", protocol=protocol,
                             log=tiny_requests.random_log(90))
    found = load_impressions(log)
    train = found.take(split_impressions(log, found, "train"))
    events = log.offsets()[:-1]
    for sequence, position in log.targets("valid"):
        when = log.column("time")[events[sequence] + position]
        own = train.sequence == sequence if protocol == "P1" else slice(None)
        assert (train.time[own] < when // 3600 * 3600).all()


def test_a_row_holds_its_request_and_nothing_of_what_follows(log):
    batch = next(iter(SplitRequests(log, "train", CONFIG, 5)))
    assert batch["rows"].tolist() == [0, 1, 2, 3, -1]
    # Requests of hours 11, 12 and 13 of person 0, and of hour 18 of person 1.
    assert batch["items"].tolist() == [[5, 0, 0], [5, 0, 0], [5, 9, 4], [2, 0, 0],
                                       [0, 0, 0]]
    assert batch["segments"].tolist() == [[1, 0, 0], [1, 0, 0], [1, 1, 1], [1, 0, 0],
                                          [0, 0, 0]]
    assert batch["target_positions"].tolist() == [[0], [0], [2], [0], [0]]
    assert batch["behaviour"][2].tolist() == [0, 1, 2]
    # The event at 10:00:01 is 3599 s before hour 11, whose request chose nothing; to
    # the next event it would be 7199 s.
    assert batch["gap"][0].tolist() == [3599, 0, 0]
    assert batch["gap"][2].tolist() == [7199, 2, 3598]
    assert batch["hour"][0].tolist() == [12, 0, 0]  # counted from 1
    assert batch["hour"][2].tolist() == [13, 13, 14]
    assert batch["target_scenario"].tolist() == [[1], [0], [0], [1], [0]]
    assert batch["target_trigger"].tolist() == [[5], [-1], [-1], [2], [-1]]
    assert batch["target_query"].tolist() == [[-1], [1], [-1], [-1], [-1]]
    assert batch["candidates"].tolist() == [[7, 8, 0], [9, 5, 4], [1, 2, 3], [5, 6, 7],
                                            [0, 0, 0]]
    assert batch["outcome"].tolist() == [[0, 0, 0], [2, 0, 3], [0, 0, 0], [0, 1, 0],
                                         [0, 0, 0]]
    assert batch["target_mask"].tolist() == [[True, True, False], *[[True] * 3] * 3,
                                             [False] * 3]


def test_a_history_is_the_newest_events_and_may_end_with_the_log(log):
    batch = next(iter(SplitRequests(log, "test", CONFIG, 2)))
    # After all five events, the last request, of hour 17, still knows its own time.
    assert batch["items"].tolist() == [[9, 4, 2], [4, 2, 1]]
    assert batch["gap"][1, 2] == 3600 - 2


def test_an_epoch_asks_every_request_once_and_resumes_anywhere(tmp_path):
    log = tiny_requests.make(tmp_path / "d", log=tiny_requests.random_log(60))
    source = pipeline.TrainSource(log, CONFIG, seed=3)
    found = load_impressions(log)
    train = found.take(split_impressions(log, found, "train"))
    assert source.targets_per_epoch == int((train.shown >= 0).sum())
    rows = []
    for step in range(source.steps_per_epoch):
        batch = source[step]
        real = batch["target_mask"].any(axis=1)
        rows += batch["candidates"][real].tolist()
    assert sorted(rows) == sorted(train.shown.tolist())
    straight = pipeline.train_batches(log, CONFIG, seed=3)
    for _ in range(5):
        next(straight)
    state = json.loads(json.dumps(straight.get_state()))
    resumed = pipeline.train_batches(log, CONFIG, seed=3)
    resumed.set_state(state)
    one, other = next(straight), next(resumed)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
        np.testing.assert_array_equal(one[name], source[5][name])
    halves = [pipeline.TrainSource(log, CONFIG, seed=3, process_index=index,
                                   process_count=2)[5] for index in range(2)]
    for name in one:
        np.testing.assert_array_equal(
            one[name], np.concatenate([half[name] for half in halves]))


def test_a_log_without_impressions_is_refused(tmp_path):
    log = tiny_requests.make(tmp_path / "d", write=False)
    with pytest.raises(InputError, match="has no requests.parquet: a ranking model"):
        load_impressions(log)


@pytest.mark.parametrize("change, said", [
    (lambda table: table.drop_columns(["shown"]), "has no column shown"),
    (lambda table: table.set_column(1, "sequence", [np.full(10, 7)]),
     "sequence reaches from 7 to 7, expected 0 to 1"),
    (lambda table: table.set_column(
        table.column_names.index("shown"), "shown",
        tiny_requests.table([(*row[:5], (1, 2, 99), row[6])
                             for row in tiny_requests.LOG])["shown"]),
     "shown reaches from 1 to 99, expected -1 to 9")])
def test_a_table_of_another_data_set_is_named(tmp_path, change, said):
    log = tiny_requests.make(tmp_path / "d")
    pq.write_table(change(tiny_requests.table()), log.folder / "requests.parquet")
    with pytest.raises(InputError, match=said):
        load_impressions(log)


def test_weights_that_would_not_count_are_refused():
    with pytest.raises(InputError, match="'requests' counts every request once"):
        pipeline.Pipeline(mode="requests", scenarios=("home",))
    with pytest.raises(InputError, match="above 0 only in mode 'last'"):
        pipeline.Pipeline(mode="requests", long=5)
