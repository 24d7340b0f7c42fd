"""Targets, histories and what training saw, against loops over small logs."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from oxyrec_jax.evaluate import rows

# Sequences 0: 5 6 7 8, 1: 1 2, 2: 4 4 9. Leave-one-out of the first and the last.
EVENTS = rows.Events(
    items=np.array([5, 6, 7, 8, 1, 2, 4, 4, 9], np.int32),
    offsets=np.array([0, 4, 6, 9]),
    train=np.array([[0, 1, 2], [2, 1, 2]]),
    num_items=10)


@strategies.composite
def logs(draw):
    """A small log with random train rows, and random rows to test."""
    sizes = draw(strategies.lists(strategies.integers(2, 7), min_size=1, max_size=6))
    items = np.array(draw(strategies.lists(strategies.integers(0, 7),
                                           min_size=sum(sizes), max_size=sum(sizes))))
    train, test = [], []
    for sequence, size in enumerate(sizes):
        cut = draw(strategies.integers(0, size))
        first = draw(strategies.integers(0, cut))
        train.append((sequence, first, cut))
        test.append((sequence, cut, size))
    events = rows.Events(items, np.cumsum([0, *sizes]), np.array(train), 8)
    return events, np.array(test)


def test_targets_expand_in_order():
    targets = rows.expand(EVENTS, np.array([[2, 1, 3], [0, 3, 4], [1, 1, 1]]))
    np.testing.assert_array_equal(targets.sequence, [2, 2, 0])
    np.testing.assert_array_equal(targets.place, [7, 8, 3])
    np.testing.assert_array_equal(targets.item, [4, 9, 8])
    assert len(targets) == 3


def test_recent_items_stop_at_the_start_of_the_sequence():
    targets = rows.expand(EVENTS, np.array([[0, 3, 4], [1, 1, 2], [2, 2, 3]]))
    np.testing.assert_array_equal(rows.recent(EVENTS, targets, 3),
                                  [[7, 6, 5], [1, -1, -1], [4, 4, -1]])


def test_popularity_counts_train_targets_and_the_opener_once():
    # Targets 6 and 4; openers 5 and 4 (positions 0 before a target at position 1).
    np.testing.assert_array_equal(rows.popularity(EVENTS),
                                  [0, 0, 0, 0, 2, 1, 1, 0, 0, 0])


def test_popularity_counts_an_event_once_when_each_row_is_its_own_sequence():
    # One user with 1 2 3 as rows "1 -> 2" and "1 2 -> 3": every event once.
    events = rows.Events(np.array([1, 2, 1, 2, 3]), np.array([0, 2, 5]),
                         np.array([[0, 1, 2], [1, 2, 3]]), 4)
    np.testing.assert_array_equal(rows.popularity(events), [0, 1, 1, 1])


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(logs())
def test_repeats_and_histories_equal_a_loop(log):
    events, test = log
    targets = rows.expand(events, test)
    expected, recent = [], []
    for sequence, first, last in test:
        whole = events.items[events.offsets[sequence]:events.offsets[sequence + 1]]
        for position in range(first, last):
            expected.append(whole[position] in whole[:position])
            recent.append([*whole[:position][::-1], -1, -1][:2])
    np.testing.assert_array_equal(rows.repeats(events, targets), expected)
    np.testing.assert_array_equal(rows.recent(events, targets, 2),
                                  np.reshape(recent, (-1, 2)))


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(logs(), strategies.integers(1, 9))
def test_the_share_of_repeats_is_the_same_in_any_blocks(log, block):
    events, _ = log
    train = rows.expand(events, events.train)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "_BLOCK", block)
        share = rows.repeat_share(events)
    if not len(train):
        assert share is None
    else:
        assert share == rows.repeats(events, train).mean()


def test_the_share_of_repeats_knows_that_a_request_is_a_set(monkeypatch):
    # 1 | 1 2 2 | 1: of the targets 1 2 2 the 1 repeats, 2 stands twice in one request.
    events = rows.Events(np.array([9, 9, 1, 1, 2, 2, 1]), np.array([0, 2, 7]),
                         np.array([[1, 1, 4]]), 10,
                         ends=np.array([0, 0, 2, 3, 3, 3, 6]))
    assert rows.repeat_share(events) == 1 / 3
    monkeypatch.setattr(rows, "_BLOCK", 2)
    assert rows.repeat_share(events) == 1 / 3


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(logs(), strategies.integers(0, 5))
def test_shuffle_permutes_what_training_reads_and_nothing_else(log, seed):
    events, _ = log
    shuffled = rows.shuffle_training(events, seed)
    for sequence, _, last in events.train:
        start, stop = events.offsets[sequence:sequence + 2]
        before, after = events.items[start:stop], shuffled.items[start:stop]
        np.testing.assert_array_equal(np.sort(before[:last]), np.sort(after[:last]))
        np.testing.assert_array_equal(before[last:], after[last:])
    np.testing.assert_array_equal(shuffled.items,
                                  rows.shuffle_training(events, seed).items)


def test_shuffle_reaches_every_order():
    events = rows.Events(np.arange(4), np.array([0, 4]), np.array([[0, 1, 3]]), 4)
    seen = {tuple(rows.shuffle_training(events, seed).items) for seed in range(60)}
    assert len(seen) == 6  # 3! orders of the first three, the fourth stays


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="train"):
        rows.Events(np.arange(4), np.array([0, 4]), np.array([0, 1, 3]), 4)
    with pytest.raises(ValueError, match="offsets"):
        rows.Events(np.arange(4), np.array([0, 3]), np.array([[0, 1, 3]]), 4)
