"""The tie policy: what orders events of one user that have the same time.

- "file order": as the file has them. It may leak: some public files list a day's events
  by product id.
- "by id": rising item id (as numbers where all ids are whole numbers, else as text).
- "shuffled(7)": at random, with the seed that is named.

A source without times is one tie from end to end. "file order" then takes the file's
order; "by id" would destroy it and is refused; "shuffled(seed)" shuffles what trains
(the events before a sequence's first held-out target) and leaves the held-out events
last, so that the same targets are asked for and only what the order told is gone.
"""

import re
from collections.abc import Sequence

import numpy as np

from oxyrec_jax.base import InputError


def parse(policy: str) -> int | None:
    """Returns the seed of "shuffled(seed)", None for the other policies.

    Raises:
      InputError: the policy is not one of the three.
    """
    if policy in ("file order", "by id"):
        return None
    match = re.fullmatch(r"shuffled\((\d{1,18})\)", policy)
    if not match:
        raise InputError(f"data.tie_policy is {policy!r}, expected 'file order', 'by "
                         "id' or 'shuffled(7)' with a seed of your own")
    return int(match[1])


def order(policy: str, user: np.ndarray, clock: np.ndarray | None, item: np.ndarray,
          item_ids: Sequence[str]) -> np.ndarray:
    """Orders events by user, time and tie policy.

    Args:
      policy: "file order", "by id" or "shuffled(seed)".
      user: `[E]` int; users keep their numbers' order.
      clock: `[E]` int, or None where the source has no times: events of a user then
        keep the file's order (see `shuffle_heads` for what "shuffled" adds).
      item: `[E]` int, index into `item_ids`.
      item_ids: the items' names.

    Returns:
      `[E]` int64, the events in their new order.

    Raises:
      InputError: an unknown policy, or "by id" without times.
    """
    seed = parse(policy)
    if clock is None:
        if policy == "by id":
            raise InputError("data.tie_policy is 'by id', but the source has no times: "
                             "its whole order is one tie; take 'file order' or "
                             "'shuffled(7)'")
        return np.argsort(user, kind="stable")
    if policy == "by id":
        return np.lexsort([_rank(item_ids)[item], clock, user])
    if seed is None:
        return np.lexsort([clock, user])
    return np.lexsort([np.random.default_rng(seed).permutation(len(user)), clock, user])


def shuffle_heads(lengths: np.ndarray, heads: np.ndarray, seed: int) -> np.ndarray:
    """Shuffles the first events of each sequence among themselves.

    Args:
      lengths: `[S]` int, events of each sequence.
      heads: `[S]` int, how many of its first events are shuffled; the rest stay.
      seed: of the order.

    Returns:
      `[E]` int64, the events in their new order.
    """
    lengths = np.asarray(lengths, np.int64)
    sequence = np.repeat(np.arange(len(lengths)), lengths)
    position = np.arange(len(sequence)) - (np.cumsum(lengths) - lengths)[sequence]
    draw = np.random.default_rng(seed).permutation(len(sequence))
    head = position < heads[sequence]
    return np.lexsort([np.where(head, draw, position), ~head, sequence])


def _rank(item_ids: Sequence[str]) -> np.ndarray:
    numbers = all(name.isascii() and name.isdigit() for name in item_ids)
    keys: list = [int(name) for name in item_ids] if numbers else list(item_ids)
    rank = np.empty(len(keys), np.int64)
    rank[sorted(range(len(keys)), key=keys.__getitem__)] = np.arange(len(keys))
    return rank
