"""Profiles of users and the calendar: from the tables beside a log into the batches."""

import dataclasses
import types

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oxyrec_jax import answers
from oxyrec_jax.base import InputError
from oxyrec_jax.data import dataset, event_rows, pipeline, profiles, protocols, schema

LENGTHS = np.array([5, 3, 4])
COLUMNS = {
    "user_id": ["a", "b", "c"], "city": ["Rome", None, "Oslo"],
    "hobbies": pa.array([["music", "chess"], ["chess"], None], pa.list_(pa.string())),
    "tier": pa.array([-1.5, np.nan, 2.5], pa.float32()), "cat": [True, False, True],
    "empty": pa.array([None, None, None], pa.string())}


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    folder = tmp_path_factory.mktemp("log") / "log"
    events = int(LENGTHS.sum())

    def fill(out):
        out.add_items(schema.item_table({"item_id": [str(n) for n in range(9)]}))
        out.add_sequences({"item": np.arange(events) % 9,
                           "time": 3_600 * np.arange(events)}, LENGTHS, ["a", "b", "c"])
        for name, rows in protocols.leave_one_out(LENGTHS).items():
            out.add_targets(name, rows)
        pq.write_table(pa.table(COLUMNS), out.folder / "people.parquet")
    dataset.write_dataset(folder, fill, columns=["item", "time"], facts={},
                          shard_events=6)
    return dataset.load_dataset(folder)


def with_profiles(log, *names):
    return dataclasses.replace(log, profiles=profiles.load_profiles(log, names))


def test_words_and_lists_are_numbered_in_their_order(log):
    found = profiles.load_profiles(log, ["city", "hobbies"])
    # city: 0 unknown, 1 Oslo, 2 Rome. hobbies: 3 unknown, 4 chess, 5 music.
    np.testing.assert_array_equal(found.rows, [[2, 5, 4], [0, 4, -1], [1, 3, -1]])
    assert found.size == 6 and found.names == ("city", "hobbies")


def test_numbers_are_cut_into_eighths_of_the_users_and_truths_are_kinds(log):
    found = profiles.load_profiles(log, ["tier", "cat"])
    # tier has two known values: 0 unknown, 1 up to -1.5, 2 up to 2.5, 3 beyond.
    np.testing.assert_array_equal(found.rows[:, 0], [1, 0, 2])
    np.testing.assert_array_equal(found.rows[:, 1] - 4, [2, 1, 2])
    many = profiles.eighths(np.arange(80.0))
    assert many[1] == 9
    np.testing.assert_array_equal(np.bincount(many[0])[1:], np.full(8, 10))


def test_what_cannot_be_read_is_named(log, tmp_path):
    with pytest.raises(InputError, match="names 'age', and the users of .* have "
                                         "cat, city, empty, hobbies, tier; name"):
        profiles.load_profiles(log, ["age"])
    with pytest.raises(InputError, match="'empty' of .* is known of no user"):
        profiles.load_profiles(log, ["empty"])
    names = pa.chunked_array([[f"name {n}" for n in range(1_001)]])
    with pytest.raises(InputError, match="has 1001 different values, expected at most"):
        profiles._rows(names, "'name'")
    other = tmp_path / "log"

    def fill(out):
        out.add_items(schema.item_table({"item_id": ["x"]}))
        out.add_sequences({"item": np.zeros(2, np.int32)}, [2], ["user"])
    dataset.write_dataset(other, fill, facts={})
    plain = dataset.load_dataset(other)
    with pytest.raises(InputError, match="have no columns; name some of these, or set"):
        profiles.load_profiles(plain, ["city"])
    pq.write_table(pa.table({"user_id": ["z"], "city": ["Rome"]}),
                   other / "people.parquet")
    with pytest.raises(InputError, match="people.parquet has other users"):
        profiles.load_profiles(plain, ["city"])


def test_every_window_of_a_packed_row_has_the_profile_of_its_person(log):
    known = with_profiles(log, "city", "hobbies")
    cfg = pipeline.Pipeline(batch=2, history=3, row_length=5,
                            columns=("profile", "time"))
    source = pipeline.TrainSource(known, cfg, seed=0)
    rows = known.profiles.rows
    seen = 0
    for step in range(source.steps_per_epoch):
        batch = source[step]
        assert batch["profile"].shape == (2, 5, 3)
        real = batch["segments"] > 0
        event = batch["time"][real] // 3_600  # the time tells which event it is
        user = np.searchsorted(log.offsets(), event, side="right") - 1
        np.testing.assert_array_equal(batch["profile"][real], rows[user])
        assert (batch["profile"][~real] == -1).all()
        seen += len(set(user))
    assert seen == 2  # the second sequence is too short to train on


def test_requests_of_a_split_have_the_profile_of_their_person(log):
    known = with_profiles(log, "hobbies")
    batches = pipeline.eval_batches(known, "test", batch=4, history=2,
                                    columns=("profile",))
    batch = next(iter(batches))
    for row in range(3):
        np.testing.assert_array_equal(batch["profile"][row],
                                      [known.profiles.rows[row]] * 2)
    assert (batch["profile"][3] == -1).all()  # nobody's row
    with pytest.raises(InputError, match="name columns in model.profile"):
        pipeline.eval_batches(log, "test", batch=4, history=2, columns=("profile",))


def test_the_calendar_by_hand():
    moments = np.array([0, 3_599, 3_600, 86_399, 86_400, 4 * 86_400])
    # 1970-01-01 was a Thursday, weekday 4; the fifth of January a Monday.
    np.testing.assert_array_equal(event_rows.calendar("hour", moments),
                                  [1, 1, 2, 24, 1, 1])
    np.testing.assert_array_equal(event_rows.calendar("weekday", moments),
                                  [4, 4, 4, 4, 5, 1])


def test_hours_are_those_of_the_next_event_or_of_the_request(log):
    batches = pipeline.eval_batches(log, "test", batch=3, history=4, columns=("hour",))
    batch = next(iter(batches))
    # Events are an hour apart; the first sequence's test target is event 4, 04:00.
    np.testing.assert_array_equal(batch["hour"][0], [2, 3, 4, 5])
    np.testing.assert_array_equal(batch["hour"][1], [7, 8, 0, 0])  # two events, padding


def test_a_request_of_a_user_carries_the_profile_and_a_bare_history_none(log):
    known = with_profiles(log, "city", "hobbies")
    cfg = types.SimpleNamespace(
        sides=("hour",), told=("hour",), retrieval=types.SimpleNamespace(events=0),
        instructions=types.SimpleNamespace(reads=()))
    ready = types.SimpleNamespace(dataset=known, model=types.SimpleNamespace(cfg=cfg))
    steps = types.SimpleNamespace(pipeline=types.SimpleNamespace(history=4))
    space = types.SimpleNamespace(cfg=types.SimpleNamespace(
        train=steps, instructions=types.SimpleNamespace(behaviour="")))
    history = known.history(2, 4)
    batch = answers._request(space, ready, history, answers.Asked(), [], "c")
    np.testing.assert_array_equal(batch["profile"][0], [[1, 3, -1]] * 4)
    # Events at 08:00 to 11:00: the hours of the next, and none for the request's.
    np.testing.assert_array_equal(batch["hour"][0], [10, 11, 12, 0])
    bare = answers._request(space, ready, history, answers.Asked(), [], None)
    assert (bare["profile"] == -1).all() and (bare["hour"] == 0).all()
