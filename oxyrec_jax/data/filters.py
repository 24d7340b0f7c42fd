"""Which events stay: duplicates and the k-core, as masks over events."""

import numpy as np


def duplicates(keys: list[np.ndarray]) -> np.ndarray:
    """Marks every event that repeats an earlier one.

    Args:
      keys: `[E]` arrays; events are the same where all of them agree.

    Returns:
      `[E]` bool, false at the first of equal events, true at the others.
    """
    order = np.lexsort(keys)  # stable: equal events stay in their order
    again = np.zeros(len(order), bool)
    if len(order):
        same = np.ones(len(order) - 1, bool)
        for key in keys:
            sorted_key = key[order]
            same &= sorted_key[1:] == sorted_key[:-1]
        again[order[1:]] = same
    return again


def k_core(user: np.ndarray, item: np.ndarray, k: int) -> np.ndarray:
    """Keeps the largest set of events in which every user and item has k or more.

    Args:
      user: `[E]` int, from 0.
      item: `[E]` int, from 0.
      k: the fewest events of a user and of an item; at most 1 keeps all.

    Returns:
      `[E]` bool, true where the event stays. The set is unique, so it does not depend
      on the order of removal.

    Source: Seidman 1983, Network structure and minimum degree, for bipartite graphs.
    """
    keep = np.arange(len(user))
    while len(keep):
        counts = [np.bincount(side[keep]) for side in (user, item)]
        stay = (counts[0][user[keep]] >= k) & (counts[1][item[keep]] >= k)
        if stay.all():
            break
        keep = keep[stay]
    mask = np.zeros(len(user), bool)
    mask[keep] = True
    return mask
