"""Duplicates, the k-core, the protocols and the tie policy, by hand and brute force."""

import collections

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from oxyrec_jax.base import InputError
from oxyrec_jax.data import filters, protocols, ties

EVENTS = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=60)


@hypothesis.settings(deadline=None, max_examples=100)
@hypothesis.given(events=EVENTS, k=st.integers(0, 4))
def test_k_core_is_what_removing_one_event_at_a_time_leaves(events, k):
    kept = list(range(len(events)))
    while True:
        users = collections.Counter(events[e][0] for e in kept)
        items = collections.Counter(events[e][1] for e in kept)
        weak = [e for e in kept if users[events[e][0]] < k or items[events[e][1]] < k]
        if not weak:
            break
        kept.remove(weak[0])
    user, item = np.array(events, int).reshape(-1, 2).T
    assert np.flatnonzero(filters.k_core(user, item, k)).tolist() == kept


def test_k_core_needs_more_than_one_round():
    # Items a, b, c. Item c has one event, so with k = 2 it goes; user 2 then has one
    # event left and goes; item b is then left with user 0's alone and goes, and so on.
    user = np.array([0, 0, 1, 1, 2, 2])
    item = np.array([0, 1, 0, 0, 1, 2])
    assert filters.k_core(user, item, 2).tolist() == [
        False, False, True, True, False, False]


@hypothesis.settings(deadline=None, max_examples=100)
@hypothesis.given(events=EVENTS)
def test_only_the_first_of_equal_events_is_no_duplicate(events):
    seen, expected = set(), []
    for event in events:
        expected.append(event in seen)
        seen.add(event)
    keys = list(np.array(events, int).reshape(-1, 2).T)
    assert filters.duplicates(keys).tolist() == expected


def test_leave_one_out_by_hand():
    # 5 events: targets 1, 2 | 3 | 4. 3 events: none | 1 | 2. 2 events: 1 trains.
    splits = protocols.leave_one_out(np.array([5, 3, 2, 1]), first_sequence=10)
    assert splits["train"].tolist() == [[10, 1, 3], [12, 1, 2]]
    assert splits["valid"].tolist() == [[10, 3, 4], [11, 1, 2]]
    assert splits["test"].tolist() == [[10, 4, 5], [11, 2, 3]]


def test_global_temporal_by_hand():
    # Times of the targets (all but each first event), in order:
    #   s0: 1 2 3 4 5 6    s1: 2 3 9    s2: 7     -> 10 targets, 8 train, 1, 1
    #   sorted: 1 2(s0) 2(s1) 3(s0) 3(s1) 4 5 6 | 7 | 9
    lengths = np.array([7, 4, 2])
    time = np.array([0, 1, 2, 3, 4, 5, 6, 1, 2, 3, 9, 0, 7])
    splits = protocols.global_temporal(lengths, time)
    assert splits["train"].tolist() == [[0, 1, 7], [1, 1, 3]]
    assert splits["valid"].tolist() == [[2, 1, 2]]
    assert splits["test"].tolist() == [[1, 3, 4]]


@hypothesis.settings(deadline=None, max_examples=50)
@hypothesis.given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12),
                  seed=st.integers(0, 99))
def test_global_temporal_never_trains_on_the_future(lengths, seed):
    rng = np.random.default_rng(seed)
    time = np.concatenate([np.sort(rng.integers(0, 20, size=n)) for n in lengths])
    splits = protocols.global_temporal(np.array(lengths), time)
    begins = np.cumsum(lengths) - lengths
    targets = {name: [begins[s] + p for s, first, last in rows
                      for p in range(first, last)] for name, rows in splits.items()}
    found = sorted(sum(targets.values(), []))
    assert found == sorted(set(range(len(time))) - set(begins.tolist()))
    count = len(found)
    assert [len(targets[name]) for name in ("train", "valid", "test")] == [
        count * 8 // 10, count * 9 // 10 - count * 8 // 10, count - count * 9 // 10]
    latest = -1
    for name in ("train", "valid", "test"):
        times = time[targets[name]] if targets[name] else np.array([latest])
        assert times.min() >= latest
        latest = times.max()
        if name != "train":
            assert (np.diff(times) >= 0).all()


USER = np.array([1, 0, 0, 0, 1])
CLOCK = np.array([5, 3, 2, 2, 4])
ITEM = np.array([0, 1, 2, 0, 1])  # the two of user 0 at time 2 are items 2 and 0


@pytest.mark.parametrize("policy, names, expected", [
    ("file order", ["c", "b", "a"], [2, 3, 1, 4, 0]),
    ("by id", ["c", "b", "a"], [2, 3, 1, 4, 0]),   # a (item 2) before c (item 0)
    ("by id", ["a", "b", "c"], [3, 2, 1, 4, 0]),
    ("by id", ["10", "3", "9"], [2, 3, 1, 4, 0]),  # as numbers 9 < 10
    ("by id", ["10", "3", "9x"], [3, 2, 1, 4, 0]),  # as text "10" < "9x"
])
def test_ties_by_hand(policy, names, expected):
    assert ties.order(policy, USER, CLOCK, ITEM, names).tolist() == expected


def test_shuffled_ties_keep_time_and_depend_on_the_seed_alone():
    user, clock = np.zeros(200, int), np.repeat(np.arange(4), 50)
    item = np.zeros(200, int)
    orders = [ties.order(f"shuffled({seed})", user, clock, item, ["a"])
              for seed in (1, 1, 2)]
    assert (np.diff(clock[orders[0]]) >= 0).all()
    assert orders[0].tolist() == orders[1].tolist() != orders[2].tolist()
    assert orders[0].tolist() != list(range(200))
    assert sorted(orders[0]) == list(range(200))


def test_without_times_the_file_order_stays_and_by_id_is_refused():
    assert ties.order("file order", USER, None, ITEM, "abc").tolist() == [1, 2, 3, 0, 4]
    with pytest.raises(InputError, match="'by id', but the source has no times"):
        ties.order("by id", USER, None, ITEM, "abc")


def test_shuffled_heads_leave_the_tails():
    lengths, heads = np.array([30, 3, 20]), np.array([28, 0, 20])
    order = ties.shuffle_heads(lengths, heads, 3)
    assert sorted(order[:28]) == list(range(28)) != order[:28].tolist()
    assert order[28:33].tolist() == [28, 29, 30, 31, 32]
    assert sorted(order[33:]) == list(range(33, 53)) != order[33:].tolist()
    assert order.tolist() == ties.shuffle_heads(lengths, heads, 3).tolist()


@pytest.mark.parametrize("policy", ["", "random", "shuffled", "shuffled()",
                                    "File order", "shuffled(-1)", "shuffled(1) "])
def test_an_unknown_tie_policy_is_refused(policy):
    with pytest.raises(InputError, match="expected 'file order', 'by id' or 'shuffled"):
        ties.parse(policy)
    assert ties.parse("shuffled(12)") == 12
