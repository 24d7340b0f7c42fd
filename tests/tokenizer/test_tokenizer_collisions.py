"""Reassigned and numbered semantic IDs: what may change, what may not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxyrec_jax.base import InputError
from oxyrec_jax.tokenizer import collisions


def _draw(seed, items, widths, dimension=3):
    """Random items with a last code that is the nearest of random centroids."""
    rng = np.random.default_rng(seed)
    last = rng.normal(size=(widths[-1], dimension)).astype(np.float32)
    rest = rng.normal(size=(items, dimension)).astype(np.float32)
    codes = np.stack([rng.integers(0, width, items) for width in widths], 1)
    codes[:, -1] = ((rest[:, None] - last) ** 2).sum(-1).argmin(1)
    return codes.astype(np.int32), rest, last


CASES = st.tuples(st.integers(0, 1000), st.integers(1, 60),
                  st.sampled_from([(2, 4), (3, 2, 8), (16,), (1, 1)]))


def test_reassigned_by_hand():
    # Under prefix 0 the items .2, .1 and 2.1 choose among the centroids 0, 1 and 5. The
    # first two are nearest to 0: .1 is nearer and keeps it. 1 is held by 2.1, which is
    # alone on it, so the nearest that is free for .2 is 5.
    codes = np.array([[0, 0], [0, 0], [0, 1], [1, 0]], np.int32)
    rest = np.array([[0.2], [0.1], [2.1], [0.3]], np.float32)
    found = collisions.reassign(codes, rest, np.array([[0.0], [1], [5]], np.float32))
    assert found.tolist() == [[0, 2], [0, 0], [0, 1], [1, 0]]


@settings(deadline=None, max_examples=60)
@given(CASES)
def test_reassigned_ids_share_as_little_as_can_be(case):
    codes, rest, last = _draw(*case)
    found = collisions.reassign(codes, rest, last)
    np.testing.assert_array_equal(found[:, :-1], codes[:, :-1])
    assert found.dtype == np.int32 and found.min() >= 0
    width = len(last)
    prefixes, members = np.unique(codes[:, :-1], axis=0, return_inverse=True)
    for prefix in range(len(prefixes)):
        rows = np.flatnonzero(members.ravel() == prefix)
        loads = np.bincount(found[rows, -1], minlength=width)
        assert loads.max() == -(-len(rows) // width)
        before = np.bincount(codes[rows, -1], minlength=width)
        if before.max() == 1:
            np.testing.assert_array_equal(found[rows], codes[rows])
        if len(rows) <= width:  # a code that was in use stays with its best item
            for code in np.flatnonzero(before):
                holders = rows[codes[rows, -1] == code]
                error = ((rest[holders] - last[code]) ** 2).sum(1)
                assert found[holders[error.argmin()], -1] == code


@settings(deadline=None, max_examples=60)
@given(CASES)
def test_numbered_ids_are_unique_and_ordered_by_popularity(case):
    codes, _, _ = _draw(*case)
    popularity = np.random.default_rng(case[0]).integers(0, 4, len(codes))
    found, width = collisions.number(codes, popularity)
    assert len(np.unique(found, axis=0)) == len(codes)
    assert width == found[:, -1].max() + 1
    np.testing.assert_array_equal(found[:, :-1], codes)
    for row in np.unique(codes, axis=0):
        items = np.flatnonzero((codes == row).all(1))
        ranked = items[np.argsort(found[items, -1])]
        expected = sorted(items, key=lambda item: (-popularity[item], item))
        assert ranked.tolist() == expected
        assert sorted(found[items, -1]) == list(range(len(items)))


def test_identical_items_reassigned_use_every_code_once():
    codes, rest = np.zeros((5, 2), np.int32), np.ones((5, 3), np.float32)
    found = collisions.reassign(codes, rest, np.eye(5, 3, dtype=np.float32))
    assert sorted(found[:, 1]) == [0, 1, 2, 3, 4]


def test_an_item_joins_the_nearest_free_code_by_hand():
    # Under prefix 0 codes 0 and 2 are taken. A new item at 0.1 is nearest to centroid
    # 0, which is taken; of the free 1 (at 1) and 3 (at 9) the nearest is 1. The next,
    # also at 0.1, finds 3 alone free; the third shares the nearest of all.
    held = np.array([[0, 0], [0, 2], [1, 1]], np.int32)
    new = np.array([[0, 0]] * 3 + [[1, 0]], np.int32)
    rest = np.full((4, 1), 0.1, np.float32)
    last = np.array([[0.0], [1], [5], [9]], np.float32)
    found = collisions.join_reassigned(held, new, rest, last)
    assert found.tolist() == [[0, 1], [0, 3], [0, 0], [1, 0]]


@settings(deadline=None, max_examples=60)
@given(CASES, st.integers(1, 20))
def test_who_joins_takes_no_id_while_another_is_free(case, count):
    codes, rest, last = _draw(*case)
    held = collisions.reassign(codes, rest, last)
    new, rest, _ = _draw(case[0] + 1, count, case[2])
    new[:, -1] = ((rest[:, None] - last) ** 2).sum(-1).argmin(1)
    found = collisions.join_reassigned(held, new, rest, last)
    np.testing.assert_array_equal(found[:, :-1], new[:, :-1])
    width = len(last)
    whole = np.concatenate([held, found])
    for prefix in np.unique(found[:, :-1], axis=0):
        under = (whole[:, :-1] == prefix).all(1)
        loads = np.bincount(whole[under, -1], minlength=width)
        assert loads.max() == -(-int(under.sum()) // width)
    for row in range(count):  # who found the own code free kept it
        others = np.concatenate([held, found[:row]])
        if not (others == new[row]).all(1).any():
            np.testing.assert_array_equal(found[row], new[row])


@settings(deadline=None, max_examples=60)
@given(CASES, st.integers(1, 20))
def test_who_joins_a_numbered_list_gets_the_lowest_free_digit(case, count):
    codes, _, _ = _draw(*case)
    held, width = collisions.number(codes, np.zeros(len(codes)))
    held = held[np.random.default_rng(case[0]).random(len(held)) < 0.7]  # leaves gaps
    new, _, _ = _draw(case[0] + 1, count, case[2])
    found = collisions.join_numbered(held, new, width + count)
    whole = np.concatenate([held, found])
    assert len(np.unique(whole, axis=0)) == len(whole)
    for row in range(count):
        before = np.concatenate([held, found[:row]])
        taken = set(before[(before[:, :-1] == new[row]).all(1), -1].tolist())
        assert found[row, -1] == min(set(range(len(whole))) - taken)


def test_a_full_list_is_told():
    held = np.array([[3, 0], [3, 1]], np.int32)
    with pytest.raises(InputError, match="item 1 has the codes 3, .* tokenizer.room"):
        collisions.join_numbered(held, np.array([[2], [3]], np.int32), 2)


@pytest.mark.parametrize("dtype", [np.int64, np.uint32, np.uint8, np.int8, np.float32])
def test_the_highest_priority_comes_first_in_any_dtype(dtype):
    codes = np.zeros((3, 2), np.int32)
    low = np.iinfo(dtype).min if np.issubdtype(dtype, np.integer) else -9
    numbered, _ = collisions.number(codes, np.array([low, 5, 9], dtype))
    np.testing.assert_array_equal(numbered[:, 2], [2, 1, 0])
