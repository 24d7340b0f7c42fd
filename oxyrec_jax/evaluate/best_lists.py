"""The best k items of each row of scores; equal scores go to the more popular item.

Scores have a column an item, numbered by popularity in training: `by_popularity` gives
the items in that order, `places` the column of each.
"""

import numpy as np
import scipy.sparse

from oxyrec_jax.evaluate import rows as split_rows
from oxyrec_jax.evaluate.rows import Events


def by_popularity(events: Events) -> np.ndarray:
    """Items by training popularity, most popular first, ties by id: `[N]`."""
    return np.argsort(-split_rows.popularity(events), kind="stable")


def places(order: np.ndarray) -> np.ndarray:
    """The inverse of a permutation."""
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return place


def best_sparse(scores: scipy.sparse.csr_array, order: np.ndarray, k: int
                ) -> np.ndarray:
    """First k of each row: stored scores (> 0), then the popular rest."""
    found = scores.tocoo()
    row, column = found.row.astype(np.int64), found.col.astype(np.int64)
    lists, sizes = _first(row, column, found.data, scores.shape[0], k)
    popular = np.ones((scores.shape[0], min(k, len(order))), bool)
    head = column < popular.shape[1]
    popular[row[head], column[head]] = False  # already among the scored
    # The first k popular items always hold the k - size that are still wanted.
    slot = sizes[:, None] + np.cumsum(popular, axis=1) - 1
    row, column = np.nonzero(popular & (slot < k))
    lists[row, slot[row, column]] = column
    return np.where(lists >= 0, order[lists], -1)


def best_dense(scores: np.ndarray, order: np.ndarray, k: int) -> np.ndarray:
    """First k of each row of `[R, N]`, columns numbered by popularity; not -inf."""
    kept = min(k, scores.shape[1])
    threshold = np.partition(scores, scores.shape[1] - kept, axis=1)[:, -kept]
    row, column = np.nonzero((scores >= threshold[:, None]) & (scores > -np.inf))
    lists, _ = _first(row, column, scores[row, column], len(scores), k)
    return np.where(lists >= 0, order[lists], -1)


def _first(row: np.ndarray, column: np.ndarray, score: np.ndarray, num_rows: int,
           k: int) -> tuple[np.ndarray, np.ndarray]:
    """First k columns of each row by score, then column: `[num_rows, k]`, `[num_rows]`.
    """
    sorting = np.lexsort((column, -score, row))
    row, column = row[sorting], column[sorting]
    sizes = np.bincount(row, minlength=num_rows)
    slot = np.arange(len(row)) - (np.cumsum(sizes) - sizes)[row]
    lists = np.full((num_rows, k), -1, np.int64)
    kept = slot < k
    lists[row[kept], slot[kept]] = column[kept]
    return lists, np.minimum(sizes, k)
