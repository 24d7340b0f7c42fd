"""How the arrays of a trie are laid out: sorting, numbering, sizes; NumPy on the host.

A row of codes becomes one 64-bit number with the row's place below the codes, so that
sorting the numbers sorts the rows, keeps the order of equal ones, and moves nothing
else: 20M rows of 3 x 13 bits take a second. Codes that do not fit beside the place are
sorted in passes, the last codes first.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from oxyrec_jax.base import InputError

# Twice a node id, and a node id plus a slot, must stay below 2**31.
MOST_NODES = 2**30
MOST_ITEMS = 2**31 - 2  # the last int32 marks the end of lists
BLOCK = 2**16  # rows packed at once: their keys stay in cache


@dataclasses.dataclass(frozen=True)
class Level:
    """The arrays of one level, padded; see `trie.Trie`.

    Attributes:
      codes: `[S]` int32, -1 in the padding.
      starts: `[P + 1]` int32.
      bits: `[P, ceil(V / 32)]` int32, or `[0, ceil(V / 32)]`.
      branch: the most children of a parent, rounded up.
    """

    codes: np.ndarray
    starts: np.ndarray
    bits: np.ndarray
    branch: int


def lay_out(
    codes: np.ndarray,
    widths: tuple[int, ...],
    *,
    order: np.ndarray | None = None,
    at_least: tuple[Sequence[int], Sequence[int]] | None = None,
) -> tuple[list[Level], np.ndarray, np.ndarray]:
    """Sorts a catalogue and numbers the prefixes of each length.

    Args:
      codes: `[N, T]` integers.
      widths: T numbers.
      order: `[N]` integers: the item ids in the order they keep within one semantic ID.
      at_least: sizes of S and of branches below which no level may fall.

    Returns:
      The levels; `[leaves + 1]` int64: where the items of each leaf begin; `[N]` int32:
      the items, leaf by leaf.

    Raises:
      InputError, ValueError: as `trie.build_trie`.
    """
    _check(codes, widths)
    order = None if order is None else _permutation(order, len(codes))
    keys, shifts, items = _sorted_rows(codes, widths, order)
    apart = keys[1:] ^ keys[:-1]
    fresh = np.ones(len(items), bool)  # the row starts a new prefix of this length
    fresh[1:] = False
    levels, parents = [], 1
    for level, width in enumerate(widths):
        parent = fresh.copy()
        if level < len(shifts):  # these codes are in the keys
            fresh[1:] |= apart >= (1 << shifts[level])
            first = np.flatnonzero(fresh)
            values = ((keys[first] >> shifts[level]) & (_room(width) - 1)).astype(int)
        else:
            column = codes[:, level][items]
            fresh[1:] |= column[1:] != column[:-1]
            first = np.flatnonzero(fresh)
            values = column[first].astype(int)
        _check_nodes(level, len(first))
        # a child that begins where a parent does is its first
        starts = np.flatnonzero(parent[first])
        counts = np.diff(starts, append=len(first))
        size, branch = bucket(len(first), 2**20), bucket(int(counts.max()), 2**8)
        if at_least is not None:
            size = max(size, at_least[0][level])
            branch = max(branch, at_least[1][level])
        levels.append(Level(
            padded(values, size, -1), padded(starts, parents + 1, len(first)),
            _child_bits(values, counts, width, parents, size), min(branch, width)))
        parents = size
    return levels, np.append(first, len(items)), items


def bucket(size: int, coarse: int) -> int:
    """Rounds a size up so that many catalogues share one compiled program.

    Args:
      size: at least 1.
      coarse: up to this the result is a power of two; above it the steps are an eighth
        of one, so that at most an eighth is padding.
    """
    power = 1 << (size - 1).bit_length()
    step = power // 16  # an eighth of the power of two below
    return power if size <= coarse else -(-size // step) * step


def padded(values: np.ndarray, size: int, fill: int) -> np.ndarray:
    """Returns `[size]` int32: the values, then `fill`."""
    result = np.full(size, fill, np.int32)
    result[: len(values)] = values
    return result


def _room(width: int) -> int:
    """The power of two that holds the codes of a level."""
    return 1 << (width - 1).bit_length()


def _child_bits(
    values: np.ndarray, counts: np.ndarray, width: int, parents: int, size: int
) -> np.ndarray:
    """Which codes follow each parent; no rows where they outgrow the level's codes."""
    words = -(-width // 32)
    if parents * words > size:
        return np.zeros((0, words), np.int32)
    word = np.repeat(np.arange(len(counts)) * words, counts) + (values >> 5)
    begin = np.flatnonzero(np.r_[True, word[1:] != word[:-1]])
    marks = np.uint32(1) << (values & 31).astype(np.uint32)
    bits = np.zeros(parents * words, np.uint32)
    bits[word[begin]] = np.bitwise_or.reduceat(marks, begin)
    return bits.view(np.int32).reshape(parents, words)


def _sorted_rows(
    codes: np.ndarray, widths: tuple[int, ...], order: np.ndarray | None
) -> tuple[np.ndarray, list[int], np.ndarray]:
    """Item ids by semantic ID, and within one by their place in `order`.

    Returns:
      `[N]` uint64 sorted numbers that hold the first levels' codes; by how many bits
      the code of each of those levels stands to the left; `[N]` int32 item ids.
    """
    place = (len(codes) - 1).bit_length()
    passes: list[list[int]] = [[]]
    room = 64 - place
    for level, width in enumerate(widths):
        bits = (width - 1).bit_length()
        if bits > room:
            passes.append([])
            room = 64 - place
        passes[-1].append(level)
        room -= bits
    rows = order
    for levels in reversed(passes):  # the last codes first: each pass keeps their order
        keys = np.empty(len(codes), np.uint64)
        for start in range(0, len(codes), BLOCK):
            part = slice(start, start + BLOCK)
            block = codes[part] if rows is None else codes[rows[part]]
            packed = np.zeros(len(block), np.uint64)
            for level in levels:
                packed <<= (widths[level] - 1).bit_length()
                packed |= block[:, level].astype(np.uint64)
            packed <<= place
            packed |= np.arange(start, start + len(block), dtype=np.uint64)
            keys[part] = packed
        keys.sort()
        moved = (keys & ((1 << place) - 1)).astype(np.int32)
        rows = moved if rows is None else rows[moved]
    shifts, shift = [], place
    for level in reversed(passes[0]):
        shifts.append(shift)
        shift += (widths[level] - 1).bit_length()
    return keys, shifts[::-1], np.asarray(rows, np.int32)


def _permutation(order: np.ndarray, items: int) -> np.ndarray:
    order = np.asarray(order)
    if order.shape != (items,) or not np.issubdtype(order.dtype, np.integer):
        raise ValueError(f"{order.shape=} {order.dtype=}, expected [{items}] integers")
    seen = np.zeros(items, bool)
    seen[order[(order >= 0) & (order < items)]] = True
    if not seen.all():
        raise ValueError("order must hold every item id exactly once")
    return order


def _check_nodes(level: int, nodes: int) -> None:
    if nodes > MOST_NODES:
        raise InputError(
            f"semantic IDs: level {level} has {nodes} nodes, expected at most "
            f"{MOST_NODES} (node ids are 32-bit); split the catalogue"
        )


def _check(codes: np.ndarray, widths: tuple[int, ...]) -> None:
    if codes.ndim != 2 or not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(f"{codes.shape=} {codes.dtype=}, expected [N, T] integers")
    if codes.shape[1] != len(widths) or not widths or min(widths) < 1:
        raise ValueError(f"{codes.shape=} {widths=}, expected one width >= 1 per level")
    if max(widths) > MOST_NODES:
        raise ValueError(f"{widths=}, expected at most {MOST_NODES} codes per level")
    if len(codes) == 0:
        raise InputError(
            "semantic IDs: found no items, expected at least one; tokenize a catalogue"
        )
    if len(codes) > MOST_ITEMS:
        raise InputError(
            f"semantic IDs: found {len(codes)} items, expected at most {MOST_ITEMS} "
            "(item ids are 32-bit); split the catalogue"
        )
    for level, width in enumerate(widths):
        column = codes[:, level]
        if column.min() < 0 or column.max() >= width:
            item = np.flatnonzero((column < 0) | (column >= width))[0]
            raise InputError(
                f"semantic IDs: item {item} has code {column[item]} at level {level},"
                f" expected 0 to {width - 1}; tokenize again with these widths"
            )
