"""Item embeddings from behaviour: which items training users take close together.

The matrix of positive pointwise mutual information (PPMI) between items that stand
within a few events of each other, cut down to its leading singular vectors. Text says
what an item is; this says what it is used with. Only the training split is read.
"""

from collections.abc import Iterator

import numpy as np
from scipy import sparse
from scipy.sparse import linalg

from oxyrec_jax.data.packing import spans

_PAIRS_AT_ONCE = 1 << 24


def co_engagement_embeddings(
    items: np.ndarray,
    offsets: np.ndarray,
    targets: np.ndarray,
    *,
    num_items: int,
    dimension: int = 128,
    window: int = 5,
    smoothing: float = 0.75,
    seed: int = 0,
) -> np.ndarray:
    """Embeds items by a truncated SVD of their PPMI within training histories.

    With n(i, j) = sum over training targets j and events i at distance d <= window
    before them of 1/d, made symmetric, and q(j) proportional to n(j)^smoothing,

        PPMI(i, j) = max(0, log(n(i, j) / (n(i) q(j)))),    PPMI ~ U S V',

    the embedding is U S^1/2. An item without a training pair gets a zero row.

    Args:
      items: `[E]` int, the item of every event, sequence after sequence, oldest first.
      offsets: `[S + 1]` int, where each sequence starts in `items`.
      targets: `[R, 3]` int, the training rows `(sequence, first, last)`: positions
        `first <= p < last` of that sequence are targets. A pair counts only when its
        later event is one, so no held-out target is ever read.
      num_items: N.
      dimension: D, columns of the result; those beyond the rank of the matrix are 0.
      window: how many events before a target are paired with it.
      smoothing: exponent of the context distribution, in (0, 1]; below 1 it takes
        weight from rare items, whose mutual information is overestimated.
      seed: of the start vector of the iterative SVD.

    Returns:
      `[N, D]` float32, unit-free, not normalised.

    Raises:
      ValueError: an item id or a row of `targets` is out of range.

    Source: Levy et al. 2015, https://aclanthology.org/Q15-1016, sections 2 and 3
    (PPMI, context distribution smoothing, symmetric U S^p with p = 1/2); weights 1/d
    as in Pennington et al. 2014, https://aclanthology.org/D14-1162, section 4.2.
    Items in place of words is ours.
    """
    if dimension < 1 or window < 1 or not 0 < smoothing <= 1:
        raise ValueError(f"{dimension=} {window=} {smoothing=}")
    counts = co_counts(items, offsets, targets, num_items=num_items, window=window)
    return _truncated_svd(_ppmi(counts, smoothing), dimension, seed)


def co_engaged(items: np.ndarray, offsets: np.ndarray, targets: np.ndarray, *,
               window: int = 5, most: int = 1 << 23
               ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Gives the pairs of items that training users took close together, in chunks.

    Each event at distance <= window before a training target makes one pair with it; a
    pair that occurs often is given as often, and so is an item paired with itself.

    Args:
      items, offsets, targets: as in `co_engagement_embeddings`.
      window: how many events before a target are paired with it.
      most: targets to read, about; of more, those of evenly spaced rows are read.

    Returns:
      Chunks of two `[P]` int arrays: the earlier item and the later one.
    """
    targets = np.asarray(targets, np.int64).reshape(-1, 3)
    count = int(np.maximum(targets[:, 2] - targets[:, 1], 0).sum())
    targets = targets[:: max(1, -(-count // most))]
    for earlier, later, _ in _pairs(items, offsets, targets, window=window):
        yield earlier, later


def training_popularity(items: np.ndarray, offsets: np.ndarray, targets: np.ndarray, *,
                        num_items: int) -> np.ndarray:
    """Counts how often each item is a training target: `[N]` int64.

    Args:
      items, offsets, targets, num_items: as in `co_engagement_embeddings`.
    """
    sequence, first, last = np.asarray(targets, np.int64).reshape(-1, 3).T
    start = np.asarray(offsets, np.int64)[sequence]
    events = spans(start + first, start + last)
    return np.bincount(np.asarray(items)[events], minlength=num_items)


def co_counts(items: np.ndarray, offsets: np.ndarray, targets: np.ndarray, *,
              num_items: int, window: int) -> sparse.csr_array:
    """Returns the symmetric `[N, N]` float64 counts n(i, j) with an empty diagonal.

    Raises:
      ValueError: an item id or a row of `targets` is out of range.
    """
    if len(items) and not 0 <= np.min(items) <= np.max(items) < num_items:
        raise ValueError(f"items in [{np.min(items)}, {np.max(items)}], {num_items=}")
    total = sparse.csr_array((num_items, num_items), dtype=np.float64)
    for earlier, later, distance in _pairs(items, offsets, targets, window=window):
        weight = np.full(len(later), 1 / distance)
        weight[earlier == later] = 0  # a repeat tells nothing of other items
        total = total + sparse.coo_array(
            (weight, (earlier, later)), shape=total.shape, dtype=np.float64).tocsr()
    total = (total + total.T).tocsr()
    total.eliminate_zeros()
    return total


def _pairs(items: np.ndarray, offsets: np.ndarray, targets: np.ndarray, *, window: int
           ) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Gives chunks of the items of earlier and later events, and their distance."""
    sequence, first, last = np.asarray(targets, np.int64).reshape(-1, 3).T
    starts = np.asarray(offsets, np.int64)[:-1]
    if len(sequence) and not 0 <= sequence.min() <= sequence.max() < len(starts):
        raise ValueError(f"sequence {sequence.max()} of {len(starts)} sequences")
    lengths = np.diff(np.asarray(offsets, np.int64))[sequence]
    if np.any((first < 0) | (last > lengths)):
        raise ValueError("targets name positions outside their sequence")
    for chunk in _chunks(np.maximum(last - first, 0), _PAIRS_AT_ONCE):
        position = spans(first[chunk], last[chunk])
        start = np.repeat(starts[sequence[chunk]],
                          np.maximum(last[chunk] - first[chunk], 0))
        for distance in range(1, window + 1):
            later = (start + position)[position >= distance]
            if not len(later):
                break
            earlier = later - distance
            yield np.asarray(items)[earlier], np.asarray(items)[later], distance


def _ppmi(counts: sparse.csr_array, smoothing: float) -> sparse.csr_array:
    row_sums = np.asarray(counts.sum(axis=1)).ravel()
    context = row_sums ** smoothing * (row_sums > 0)
    context /= max(context.sum(), 1e-30)
    result = counts.tocoo()
    rows, columns = result.coords
    value = np.log(result.data / (row_sums[rows] * context[columns]))
    kept = value > 0
    return sparse.csr_array((value[kept], (rows[kept], columns[kept])), counts.shape)


def _truncated_svd(matrix: sparse.csr_array, dimension: int, seed: int) -> np.ndarray:
    size = matrix.shape[0]
    result = np.zeros((size, dimension), np.float32)
    live = np.flatnonzero(np.diff(matrix.indptr))  # the SVD of the rest is 0
    if len(live) < 2:
        return result
    matrix = matrix[live][:, live]
    if len(live) <= max(64, dimension + 1):  # the iterative solver needs k < size
        left, scale, _ = np.linalg.svd(matrix.toarray())
    else:
        start = np.random.default_rng(seed).standard_normal(len(live))
        left, scale, _ = linalg.svds(matrix, k=dimension, v0=start)
        left, scale = left[:, ::-1], scale[::-1]
    left, scale = left[:, :dimension], scale[:dimension]
    # The sign of a singular vector is free: fix it, so that a refit agrees.
    largest = left[np.argmax(np.abs(left), axis=0), np.arange(left.shape[1])]
    left = left * np.where(largest < 0, -1, 1) * np.sqrt(scale)
    result[live, : left.shape[1]] = left
    return result


def _chunks(sizes: np.ndarray, at_once: int) -> list[np.ndarray]:
    """Splits rows into runs whose sizes add up to about `at_once`."""
    number = np.cumsum(sizes) // at_once
    return np.split(np.arange(len(sizes)), np.flatnonzero(np.diff(number)) + 1)
