"""Co-engagement embeddings: the counts, the mutual information, and no leakage."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from oxyrec_jax.tokenizer import engagement


def _split(lengths):
    """Leave-one-out training rows: every position from 1 to before the last two."""
    lengths = np.asarray(lengths)
    return np.stack([np.arange(len(lengths)), np.ones_like(lengths), lengths - 2], 1)


def test_counts_by_hand():
    # One sequence 0 1 2 | 3 4: targets are positions 1 and 2, so the pairs are
    # (0, 1) and (1, 2) at distance 1 and (0, 2) at distance 2 with weight 1/2.
    counts = engagement.co_counts(np.arange(5), np.array([0, 5]), _split([5]),
                                  num_items=5, window=2).toarray()
    expected = np.zeros((5, 5))
    expected[0, 1] = expected[1, 0] = expected[1, 2] = expected[2, 1] = 1
    expected[0, 2] = expected[2, 0] = 0.5
    np.testing.assert_array_equal(counts, expected)


def test_mutual_information_by_hand():
    # n = [[0, 3, 1], [3, 0, 0], [1, 0, 0]]; row sums 4, 3, 1; all 8; smoothing 1.
    # PMI(0, 1) = log(3 * 8 / (4 * 3)) = log 2, PMI(0, 2) = log(1 * 8 / (4 * 1)) too.
    counts = sparse.csr_array(np.array([[0, 3.0, 1], [3, 0, 0], [1, 0, 0]]))
    ppmi = engagement._ppmi(counts, 1.0).toarray()
    expected = np.log(2) * np.array([[0, 1, 1], [1, 0, 0], [1, 0, 0]])
    np.testing.assert_allclose(ppmi, expected, rtol=1e-12)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=12), min_size=1,
             max_size=6),
    st.integers(1, 4))
def test_counts_equal_a_plain_loop(sequences, window):
    lengths = [len(s) for s in sequences]
    targets = _split(lengths)
    expected = np.zeros((10, 10))
    for (row, first, last) in targets:
        for later in range(first, max(last, first)):
            for earlier in range(max(0, later - window), later):
                i, j = sequences[row][earlier], sequences[row][later]
                if i != j:
                    expected[i, j] += 1 / (later - earlier)
                    expected[j, i] += 1 / (later - earlier)
    counts = engagement.co_counts(
        np.concatenate(sequences).astype(np.int32), np.cumsum([0, *lengths]),
        targets[targets[:, 2] > 1], num_items=10, window=window).toarray()
    np.testing.assert_allclose(counts, expected, atol=1e-12)


def test_held_out_items_are_never_read():
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 15, 300)
    offsets = np.cumsum([0, *lengths])
    items = rng.integers(0, 200, offsets[-1])
    changed = items.copy()
    for back in (1, 2):  # the test item and the validation item of every sequence
        changed[offsets[1:] - back] = rng.integers(0, 200, 300)
    one, other = (engagement.co_engagement_embeddings(
        x, offsets, _split(lengths), num_items=200, dimension=8)
        for x in (items, changed))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("num_items", [40, 300], ids=["dense", "iterative"])
def test_embeddings_are_the_best_approximation_of_their_rank(num_items):
    rng = np.random.default_rng(1)
    items = rng.zipf(1.3, 4000) % num_items
    offsets = np.arange(0, 4001, 10)
    targets = _split(np.full(400, 10))
    found = engagement.co_engagement_embeddings(
        items, offsets, targets, num_items=num_items, dimension=12).astype(np.float64)
    ppmi = engagement._ppmi(engagement.co_counts(
        items, offsets, targets, num_items=num_items, window=5), 0.75).toarray()
    left, scale, _ = np.linalg.svd(ppmi)
    np.testing.assert_allclose(  # U S U' of the leading directions, free of the signs
        found @ found.T, left[:, :12] * scale[:12] @ left[:, :12].T, atol=1e-4)


def test_chunked_counts_equal_one_pass(monkeypatch):
    rng = np.random.default_rng(2)
    items, offsets = rng.integers(0, 50, 1000), np.arange(0, 1001, 10)
    arguments = dict(num_items=50, window=3)
    whole = engagement.co_counts(items, offsets, _split([10] * 100), **arguments)
    monkeypatch.setattr(engagement, "_PAIRS_AT_ONCE", 20)
    parts = engagement.co_counts(items, offsets, _split([10] * 100), **arguments)
    np.testing.assert_allclose(parts.toarray(), whole.toarray(), rtol=1e-12)


def test_items_without_a_pair_get_zero_rows_and_the_same_seed_the_same_bits():
    rng = np.random.default_rng(3)
    items, offsets = rng.integers(0, 150, 2000), np.arange(0, 2001, 20)
    runs = [engagement.co_engagement_embeddings(
        items, offsets, _split([20] * 100), num_items=160, dimension=16)
        for _ in range(2)]
    np.testing.assert_array_equal(*runs)
    assert not runs[0][150:].any() and runs[0][:150].any(axis=1).all()
    assert runs[0].dtype == np.float32


def test_no_training_pair_at_all_gives_zeros():
    found = engagement.co_engagement_embeddings(
        np.arange(3), np.array([0, 3]), np.zeros((0, 3), np.int64), num_items=3,
        dimension=2)
    np.testing.assert_array_equal(found, np.zeros((3, 2)))


def test_ids_out_of_range_are_refused():
    with pytest.raises(ValueError, match="num_items=3"):
        engagement.co_engagement_embeddings(
            np.array([0, 3]), np.array([0, 2]), np.array([[0, 1, 2]]), num_items=3)
    with pytest.raises(ValueError, match="outside their sequence"):
        engagement.co_engagement_embeddings(
            np.array([0, 1]), np.array([0, 2]), np.array([[0, 1, 3]]), num_items=3)
