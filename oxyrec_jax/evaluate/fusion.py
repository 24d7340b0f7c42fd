"""Several ranked lists of one request made into one."""

from collections.abc import Sequence

import numpy as np

from oxyrec_jax.data.packing import count_up

NEAR = 5
"""The constant of reciprocal rank fusion: 5 of 1, 5, 10 and 20 was best on the Complete
Journey's validation baskets; 60 in its paper."""


def fuse(lists: Sequence[np.ndarray], weights: Sequence[float], k: int) -> np.ndarray:
    """One list of several: item j scores the sum of weight / (place + NEAR) over them,
    places from 0.

    Args:
      lists: `[R, K]` int each, best first, -1 = none, no item twice in one.
      weights: of the lists, at least 0.
      k: length of the result.

    Returns:
      `[R, k]` int32, best first, equal ones by item id, -1 where there are fewer.

    Source: reciprocal rank fusion, Cormack et al. 2009,
    https://doi.org/10.1145/1571941.1572114; the weights are ours.
    """
    rows = len(lists[0])
    items = np.concatenate(lists, axis=1).astype(np.int64)
    scores = np.concatenate([np.broadcast_to(
        weight / (np.arange(own.shape[1]) + float(NEAR)), own.shape)
        for own, weight in zip(lists, weights, strict=True)], axis=1)
    row, place = np.nonzero(items >= 0)
    most = int(items.max(initial=0)) + 1
    pair, index = np.unique(row * most + items[row, place], return_inverse=True)
    total = np.bincount(index.reshape(-1), weights=scores[row, place],
                        minlength=len(pair))
    row, item = pair // most, pair % most
    order = np.lexsort([item, -np.round(total, 12), row])
    slot = count_up(np.bincount(row, minlength=rows))
    found = np.full((rows, k), -1, np.int32)
    kept = slot < k
    found[row[order][kept], slot[kept]] = item[order][kept]
    return found
