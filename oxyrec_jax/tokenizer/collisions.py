"""What to do about items that share a semantic ID: list them, spread them, number them.

    list    keep them: the ID stands for a list of items, the most popular first
    spread  move all but one to free codes of the last level under the same prefix
    dedup   append one more level that numbers the items of a list
"""

import numpy as np

POLICIES = ("list", "spread", "dedup")


def spread(codes: np.ndarray, rest: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Reassigns last codes so that the items of a prefix share as few IDs as can be.

    Within each prefix (all codes but the last) the item nearest to a code keeps it; the
    others, those that fit their code best first, take the nearest code that is still
    free. Once a prefix has more items than codes, the least loaded codes count as free:
    no code is then held by two items more than another.

    Args:
      codes: `[N, T]` int32, as encoded: nearest centroids.
      rest: `[N, D]` float32: what the levels before the last left over of each item.
      last: `[V, D]` float32: the centroids of the last level.

    Returns:
      `[N, T]` int32 codes; prefixes never change, nor does the code of an item alone
      on its ID, unless its prefix has more items than codes.

    Source: ours (greedy; the published remedies are a Sinkhorn assignment and an extra
    digit).
    """
    codes, last = codes.copy(), np.asarray(last, np.float32)
    order = np.lexsort(codes[:, :-1].T) if codes.shape[1] > 1 else np.arange(len(codes))
    prefixes = codes[order, :-1]
    starts = np.flatnonzero(np.r_[True, (prefixes[1:] != prefixes[:-1]).any(axis=1)])
    square = np.einsum("vd,vd->v", last, last)
    for items in np.split(order, starts[1:]):
        taken = codes[items, -1]
        if len(np.unique(taken)) < len(items):
            x = rest[items]
            distances = np.einsum("md,md->m", x, x)[:, None] + square - 2 * x @ last.T
            codes[items, -1] = _assign(taken, distances)
    return codes


def number(codes: np.ndarray, popularity: np.ndarray) -> tuple[np.ndarray, int]:
    """Appends to each ID the item's place in the list of items that share it.

    Args:
      codes: `[N, T]` int32.
      popularity: `[N]` int: the most popular item of a list gets 0, equals by item id.

    Returns:
      `[N, T + 1]` int32 codes, no two rows equal, and the width of the new level.

    Source: the extra digit of TIGER, https://arxiv.org/abs/2305.05065, section 3.1;
    the order is ours.
    """
    order = np.lexsort((np.arange(len(codes)), -np.asarray(popularity), *codes.T[::-1]))
    ordered = codes[order]
    fresh = np.r_[True, (ordered[1:] != ordered[:-1]).any(axis=1)]
    ordinal = np.arange(len(codes))
    digit = np.empty(len(codes), np.int32)
    digit[order] = ordinal - np.maximum.accumulate(np.where(fresh, ordinal, 0))
    return np.concatenate([codes, digit[:, None]], axis=1), int(digit.max()) + 1


def _assign(taken: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Assigns the items of one prefix: `[M]` nearest codes, `[M, V]` distances."""
    width = distances.shape[1]
    result, load = taken.copy(), np.zeros(width, np.int64)
    movers = []
    for item in np.argsort(distances[np.arange(len(taken)), taken], kind="stable"):
        if load[taken[item]]:
            movers.append(item)
        else:
            load[taken[item]] = 1
    for item in movers:
        free = np.where(load == load.min(), distances[item], np.inf)
        result[item] = np.argmin(free)
        load[result[item]] += 1
    return result
