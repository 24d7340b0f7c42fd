"""Windows of changes against brute force, with clocks and events out of order."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxyrec_jax.base import InputError
from oxyrec_jax.thinking.changes import ChangedUsers


def test_a_user_is_due_once_when_the_window_has_ended():
    changed = ChangedUsers(300)
    for time in (1_000, 1_100, 1_199):  # window 900 to 1,200
        changed.add("a", time)
    changed.add("b", 1_150)
    assert changed.due(1_199.9) == []
    assert changed.due(1_200) == [(1_200, ["a", "b"])]
    assert changed.due(1_500) == []
    changed.add("a", 1_500)
    assert changed.due(5_000) == [(1_800, ["a"])]


def test_a_clock_that_goes_back_is_counted_and_gives_nothing_out_twice():
    changed = ChangedUsers(300)
    changed.add("a", 1_000, now=1_000)
    assert changed.due(1_200) == [(1_200, ["a"])]
    assert changed.due(900) == []  # the clock was set back
    changed.add("a", 910, now=910)
    assert changed.counts.backwards == 2
    assert changed.due(1_199) == []
    assert changed.due(1_500) == [(1_500, ["a"])]  # in the window after


def test_a_late_event_is_counted_to_the_open_window():
    changed = ChangedUsers(300)
    changed.add("a", 1_000, now=1_000)
    changed.due(1_200)
    changed.add("b", 1_100, now=1_250)
    assert changed.counts.late == 1
    assert changed.due(1_500) == [(1_500, ["b"])]


def test_an_event_from_the_future_does_not_wait_for_it():
    changed = ChangedUsers(300)
    changed.add("a", 9e9, now=1_000)
    assert changed.counts.early == 1
    assert changed.due(1_200) == [(1_200, ["a"])]


@pytest.mark.parametrize("time", [math.nan, math.inf, -1.0])
def test_a_time_that_is_none_is_refused_and_counted(time):
    changed = ChangedUsers(300)
    changed.add("a", time, now=1_000)
    assert changed.counts.refused == 1 and changed.flush() == []


@pytest.mark.parametrize("window", [0, -5, 0.5])
def test_a_window_that_cannot_be_is_named(window):
    with pytest.raises(InputError, match="expected a whole number"):
        ChangedUsers(window)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 2_000),
                          st.integers(-50, 400)), max_size=60), st.integers(1, 400))
def test_nobody_is_lost_and_nobody_is_due_twice_in_a_window(events, window):
    changed, clock, out = ChangedUsers(window), 0, []
    for user, time, step in events:  # any times, a clock that sometimes goes back
        clock += step
        changed.add(user, time, now=clock)
        out += changed.due(clock)
    out += changed.flush()
    marks = [mark for mark, _ in out]
    assert marks == sorted(set(marks))  # each window once, in order
    assert all(len(users) == len(set(users)) for _, users in out)
    assert {user for _, users in out for user in users} == {user for user, *_ in events}
    assert changed.counts.events == len(events)
    assert changed.counts.due == sum(len(users) for _, users in out)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 2_000)), max_size=60))
def test_a_log_in_order_gives_the_users_of_each_window(events):
    events.sort(key=lambda event: event[1])
    expected = {}
    for user, time in events:
        expected.setdefault((time // 300 + 1) * 300, []).append(user)
    changed, found = ChangedUsers(300), []
    for user, time in events:
        changed.add(user, time)
        found += changed.ended()
    found += changed.flush()
    assert [(mark, sorted(users)) for mark, users in found] == [
        (mark, sorted(set(users))) for mark, users in expected.items()]
