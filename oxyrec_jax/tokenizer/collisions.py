"""What to do about items that share a semantic ID: list, reassign or number them.

    list      keep them: the ID stands for a list of items, the preferred first
    reassign  move all but one to free codes of the last level under the same prefix
    dedup     append one more level that numbers the items of a list

Each policy comes twice: for a whole catalogue, and for items that join one later
without moving any other.
"""

import numpy as np

from oxyrec_jax.base import InputError

POLICIES = ("list", "reassign", "dedup")
_CODES_AT_ONCE = 1 << 22  # distances held at once when items join


def reassign(codes: np.ndarray, rest: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Reassigns last codes so that the items of a prefix share as few IDs as can be.

    Within each prefix (all codes but the last) the item nearest to a code keeps it; the
    others, those that fit their code best first, take the nearest code that is still
    free. Once a prefix has more items than codes, the least loaded codes count as free:
    no code is then held by two items more than another.

    Args:
      codes: `[N, T]` int32, as encoded: nearest centroids.
      rest: `[N, D]` float32: what the last level quantises of each item.
      last: `[V, D]` float32: the centroids of the last level.

    Returns:
      `[N, T]` int32 codes; prefixes never change, nor does the code of an item alone
      on its ID, unless its prefix has more items than codes.

    Source: ours (greedy; the published remedies are a Sinkhorn assignment and an extra
    digit).
    """
    codes, last = codes.copy(), np.asarray(last, np.float32)
    square = np.einsum("vd,vd->v", last, last)
    for items in items_of_prefixes(codes[:, :-1]):
        taken = codes[items, -1]
        if len(np.unique(taken)) < len(items):
            codes[items, -1] = _assign(taken, distances(rest[items], last, square))
    return codes


def number(codes: np.ndarray, priority: np.ndarray) -> tuple[np.ndarray, int]:
    """Appends to each ID the item's place in the list of items that share it.

    Args:
      codes: `[N, T]` int32.
      priority: `[N]` numbers: the item of a list with the highest gets 0, equals by
        item id.

    Returns:
      `[N, T + 1]` int32 codes, no two rows equal, and the width of the new level.

    Source: the extra digit of TIGER, https://arxiv.org/abs/2305.05065, section 3.1;
    the order is ours.
    """
    _, rank = np.unique(priority, return_inverse=True)  # has a negative of any dtype
    order = np.lexsort((np.arange(len(codes)), -rank, *codes.T[::-1]))
    ordered = codes[order]
    fresh = np.r_[True, (ordered[1:] != ordered[:-1]).any(axis=1)]
    ordinal = np.arange(len(codes))
    digit = np.empty(len(codes), np.int32)
    digit[order] = ordinal - np.maximum.accumulate(np.where(fresh, ordinal, 0))
    return np.concatenate([codes, digit[:, None]], axis=1), int(np.max(digit)) + 1


def join_reassigned(held: np.ndarray, codes: np.ndarray, rest: np.ndarray,
                    last: np.ndarray) -> np.ndarray:
    """Gives new items last codes that are free, and leaves every old item alone.

    One after the other takes the nearest code that the fewest items of its prefix hold.

    Args:
      held: `[N, T]` int32: the IDs that are taken.
      codes: `[M, T]` int32: the new items as encoded.
      rest: `[M, D]` float32: what the last level quantises of each new item.
      last: `[V, D]` float32: the centroids of the last level.

    Returns:
      `[M, T]` int32 codes; prefixes as they were.
    """
    codes, last = codes.copy(), np.asarray(last, np.float32)
    square = np.einsum("vd,vd->v", last, last)
    block = max(_CODES_AT_ONCE // len(last), 1)
    loads = _Loads(held[:, :-1], held[:, -1], len(last))
    for start in range(0, len(codes), block):
        block_distances = distances(rest[start : start + block], last, square)
        for row, distance in enumerate(block_distances, start):
            load = loads.of(codes[row, :-1])
            code = codes[row, -1]
            if load[code]:
                code = np.argmin(np.where(load == load.min(), distance, np.inf))
            codes[row, -1] = code
            load[code] += 1
    return codes


def join_numbered(held: np.ndarray, codes: np.ndarray, width: int) -> np.ndarray:
    """Gives new items the lowest digits that are free under their ID.

    Args:
      held: `[N, T + 1]` int32: the IDs that are taken, digit last.
      codes: `[M, T]` int32: the new items as encoded.
      width: of the last level: digits are below it.

    Returns:
      `[M, T + 1]` int32 codes, all different from each other and from `held`.

    Raises:
      InputError: an ID has no free digit.
    """
    loads = _Loads(held[:, :-1], held[:, -1], width)
    digits = np.empty((len(codes), 1), np.int32)
    for row, code in enumerate(codes):
        load = loads.of(code)
        digit = int(np.argmin(load))
        if load[digit]:
            raise InputError(
                f"new item {row} has the codes {'-'.join(map(str, code.tolist()))}, "
                f"which {width} items hold already: all digits of the last level are "
                "taken; run oxyrec tokenize --refit with a larger tokenizer.room")
        load[digit] += 1
        digits[row] = digit
    return np.concatenate([codes, digits], axis=1)


class _Loads:
    """How many items hold each last code under a prefix."""

    def __init__(self, prefixes: np.ndarray, last: np.ndarray, width: int):
        self._width = width
        self._order = (np.lexsort(prefixes.T[::-1]) if prefixes.shape[1]
                       else np.arange(len(prefixes)))
        self._prefixes, self._last = prefixes[self._order], last[self._order]
        self._known: dict[bytes, np.ndarray] = {}

    def of(self, prefix: np.ndarray) -> np.ndarray:
        """`[V]` int64 counts, one array for each prefix: what is added to it stays."""
        key = prefix.astype(np.int64).tobytes()
        if key not in self._known:
            first, end = 0, len(self._prefixes)
            for level, code in enumerate(prefix):
                column = self._prefixes[first:end, level]
                first, end = (first + int(np.searchsorted(column, code, side=side))
                              for side in ("left", "right"))
            self._known[key] = np.bincount(self._last[first:end],
                                           minlength=self._width)
        return self._known[key]


def items_of_prefixes(prefixes: np.ndarray) -> list[np.ndarray]:
    """Item ids of each prefix in use, from the prefix `[N, T']` of each item."""
    order = (np.lexsort(prefixes.T) if prefixes.shape[1]
             else np.arange(len(prefixes)))
    ordered = prefixes[order]
    fresh = np.r_[True, (ordered[1:] != ordered[:-1]).any(axis=1)]
    return np.split(order, np.flatnonzero(fresh)[1:])


def distances(x: np.ndarray, last: np.ndarray, square: np.ndarray) -> np.ndarray:
    """`[M, V]` squared distances of `[M, D]` points and `[V, D]` centroids, of which
    `square` `[V]` holds the squared lengths."""
    return np.einsum("md,md->m", x, x)[:, None] + square - 2 * x @ last.T


def _assign(taken: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """Assigns the items of one prefix: `[M]` nearest codes, `[M, V]` distances."""
    width = apart.shape[1]
    result, load = taken.copy(), np.zeros(width, np.int64)
    movers = []
    for item in np.argsort(apart[np.arange(len(taken)), taken], kind="stable"):
        if load[taken[item]]:
            movers.append(item)
        else:
            load[taken[item]] = 1
    for item in movers:
        free = np.where(load == np.min(load), apart[item], np.inf)
        result[item] = np.argmin(free)
        load[result[item]] += 1
    return result
