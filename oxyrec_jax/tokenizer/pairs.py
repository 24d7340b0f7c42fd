"""Pairs of items that belong together because people take them together.

They are what the contrastive training of item vectors pulls close. Only the training
split is read: a pair exists only where its later event is a training target.
"""

import dataclasses

import numpy as np
from scipy import sparse

from oxyrec_jax.base import InputError
from oxyrec_jax.data.packing import count_up
from oxyrec_jax.tokenizer import engagement


@dataclasses.dataclass(frozen=True)
class PairConfig:
    """Which pairs there are and how often each is drawn; every number is ours.

    The objective takes its negatives from the same draw, which alone makes the best
    score that of pointwise mutual information; so a little `debias` is enough. Nearest
    neighbours hit the validation event of Amazon Beauty among ten with .0883, .0869 and
    .0884 for 0, 0.25 and 0.5 (one seed).

    Attributes:
      window: events that count as close together.
      debias: exponent in [0, 1] that takes weight from frequent items: 0 draws pairs as
        often as they occur, 1 by how much more often than chance, see `behavioural`.
      known: the strongest partners of each item that are never its negatives.
    """

    window: int = 2
    debias: float = 0.25
    known: int = 32


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Unordered pairs of different items, each once.

    Attributes:
      items: `[P, 2]` int32, sorted, the first of a pair being the smaller id.
      weights: `[P]` float64, > 0, sum 1: the chance that a pair is drawn.
      partners: `[N, M]` int32: the M items most often taken with each, most often
        first, equals by id; -1 where there are fewer.
    """

    items: np.ndarray
    weights: np.ndarray
    partners: np.ndarray


def behavioural(items: np.ndarray, offsets: np.ndarray, targets: np.ndarray, *,
                num_items: int, cfg: PairConfig = PairConfig()) -> Pairs:
    """Finds the pairs of a data set's training split.

    With n(i, j) the co-engagement counts of `engagement.co_counts` (1/d for a pair at
    distance d <= window) and n(i) = sum_j n(i, j), a pair is drawn in proportion to

        n(i, j) / (n(i) n(j))^debias.

    Args:
      items: `[E]` int, the item of every event, sequence after sequence, oldest first.
      offsets: `[S + 1]` int, where each sequence starts in `items`.
      targets: `[R, 3]` int, the training rows `(sequence, first, last)`.
      num_items: N.
      cfg: how.

    Returns:
      The pairs; none where no training target has an event before it.

    Raises:
      InputError: a setting is out of range.
      ValueError: an item id or a row of `targets` is out of range.

    Source: ours. debias = 1 ranks pairs as pointwise mutual information does; 1/2 is
    the cosine weighting of item-to-item filtering (Sarwar et al. 2001,
    https://doi.org/10.1145/371920.372071, section 3.1.1).
    """
    if cfg.window < 1 or cfg.known < 1 or not 0 <= cfg.debias <= 1:
        raise InputError(f"the pairs have window {cfg.window}, known {cfg.known} and "
                         f"debias {cfg.debias}; expected at least 1, at least 1 and 0 "
                         "to 1")
    counts = engagement.co_counts(items, offsets, targets, num_items=num_items,
                                  window=cfg.window)
    counts.sort_indices()
    upper = sparse.triu(counts, k=1, format="csr").tocoo()
    rows, columns = upper.coords
    load = np.asarray(counts.sum(axis=1)).ravel()
    weights = upper.data / (load[rows] * load[columns]) ** cfg.debias
    return Pairs(np.stack([rows, columns], axis=1).astype(np.int32),
                 weights / weights.sum() if len(weights) else weights,
                 _partners(counts, cfg.known))


def draw(pairs: Pairs, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draws pairs by their weights, with replacement, each in either order.

    Args:
      pairs: at least one.
      count: how many.
      rng: the source of chance, advanced.

    Returns:
      `[count, 2]` int32 item ids.
    """
    ends = np.cumsum(pairs.weights)
    chosen = np.searchsorted(ends, rng.random(count) * ends[-1], side="right")
    drawn = pairs.items[np.minimum(chosen, len(ends) - 1)]
    return np.where(rng.random(count)[:, None] < 0.5, drawn, drawn[:, ::-1])


def _partners(counts: sparse.csr_array, most: int) -> np.ndarray:
    """The columns of each row's largest entries, `[N, most]` int32, -1 where none."""
    rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    order = np.lexsort((counts.indices, -counts.data, rows))
    rank = count_up(np.diff(counts.indptr))
    kept = rank < most
    result = np.full((counts.shape[0], most), -1, np.int32)
    result[rows[kept], rank[kept]] = counts.indices[order][kept]
    return result
