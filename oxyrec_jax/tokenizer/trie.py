"""The trie of all semantic IDs as flat arrays: legal next codes on the device.

The distinct prefixes of each length are numbered in lexicographic order, each length
for itself. The children of node n of one level are then consecutive nodes of the next,
so a level needs two arrays: the code of each node, and where each parent's children
start. Nothing is hashed, and a leaf is the rank of its semantic ID among all of them.

The arrays are padded to powers of two and are arguments of the compiled programs, so
that another catalogue of about the same size compiles nothing anew.

    trie, leaves = build_trie(codes, widths)
    legal = mask(trie, 1, advance(trie, 0, jnp.zeros(batch, jnp.int32), first_codes))

A node id belongs to a level: `children(trie, level, nodes)` takes nodes of level
`level - 1`. Level 0 has one parent, the root, which is node 0. Node -1 is dead: it has
no children and no code leads anywhere from it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from oxyrec_jax.base import Array, InputError

# Twice a node id, and a node id plus a slot, must stay below 2**31.
MOST_NODES = 2**30


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Trie:
    """Prefix tree of the semantic IDs; a pytree whose sizes are buckets.

    Attributes:
      codes: for each level `[S]` int32, the code of each node; -1 in the padding. S is
        the number of nodes rounded up to a power of two.
      starts: for each level `[P + 1]` int32 where P is the S of the level before, 1 at
        level 0: the children of parent n are the nodes starts[n] <= c < starts[n + 1].
      widths: static: how many codes each level has.
      branches: static: the most children of any parent at each level, rounded up to a
        power of two but never above the width.
    """

    codes: tuple[Array, ...]
    starts: tuple[Array, ...]
    widths: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    branches: tuple[int, ...] = dataclasses.field(metadata={"static": True})

    @property
    def depth(self) -> int:
        """How many codes one item has."""
        return len(self.widths)


@dataclasses.dataclass(frozen=True)
class Leaves:
    """Which items each semantic ID stands for; host arrays.

    Attributes:
      offsets: `[leaves + 1]` int64: leaf n holds items[offsets[n]:offsets[n + 1]].
      items: `[N]` int32: the item ids, leaf by leaf, the preferred item first.
    """

    offsets: np.ndarray
    items: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def of_items(self) -> np.ndarray:
        """Returns `[N]` int32: the leaf of each item."""
        leaf = np.empty(len(self.items), np.int32)
        leaf[self.items] = np.repeat(
            np.arange(len(self), dtype=np.int32), np.diff(self.offsets)
        )
        return leaf


def build_trie(
    codes: np.ndarray,
    widths: Sequence[int],
    *,
    order: np.ndarray | None = None,
    at_least: Trie | None = None,
) -> tuple[Trie, Leaves]:
    """Builds the trie of a catalogue and the list of items behind each leaf.

    One sort and one cumulative sum for each level, in NumPy on the host. The trie's
    arrays are placed on the default device.

    Args:
      codes: `[N, T]` integers: the semantic ID of each item, `0 <= code < width`.
      widths: T numbers: how many codes each level has.
      order: `[N]` integers: all item ids, the preferred first; it orders the items that
        share a semantic ID. None: by item id.
      at_least: a trie whose array sizes this one must not fall below, so that a smaller
        catalogue can take its place in a compiled program. Its widths must be equal.

    Returns:
      The trie, and its leaves: leaf n is the n-th semantic ID in lexicographic order.

    Raises:
      InputError: there are no items, too many, or a code lies outside its level.
      ValueError: shapes, dtypes or widths disagree, or `order` is no permutation.

    Source: ours (sorted prefixes with child offsets, as in LOUDS and CSR tries).
    """
    codes, widths = np.asarray(codes), tuple(int(width) for width in widths)
    _check(codes, widths)
    if at_least is not None and at_least.widths != widths:
        raise ValueError(f"{at_least.widths=}, expected {widths}")
    rows = _sorted_rows(codes, widths, _permutation(order, len(codes)))
    ordered = codes[rows]
    fresh = np.ones(ordered.shape, bool)  # row starts a new prefix of this length
    fresh[1:] = np.logical_or.accumulate(ordered[1:] != ordered[:-1], axis=1)

    parent_of_row = np.zeros(len(rows), np.int64)
    parents, parent_bucket = 1, 1
    levels, starts, branches = [], [], []
    for level, width in enumerate(widths):
        first = np.flatnonzero(fresh[:, level])
        counts = np.bincount(parent_of_row[first], minlength=parents)
        bucket, branch = _bucket(len(first)), min(_bucket(counts.max()), width)
        if at_least is not None:
            bucket = max(bucket, len(at_least.codes[level]))
            branch = max(branch, at_least.branches[level])
        padded = np.full(bucket, -1, np.int32)
        padded[: len(first)] = ordered[first, level]
        ends = np.full(parent_bucket + 1, len(first), np.int32)
        ends[0] = 0
        ends[1 : parents + 1] = np.cumsum(counts)
        levels.append(jnp.asarray(padded))
        starts.append(jnp.asarray(ends))
        branches.append(branch)
        parent_of_row = np.cumsum(fresh[:, level]) - 1
        parents, parent_bucket = len(first), bucket

    offsets = np.append(np.flatnonzero(fresh[:, -1]), len(rows)).astype(np.int64)
    trie = Trie(tuple(levels), tuple(starts), widths, tuple(branches))
    return trie, Leaves(offsets, rows.astype(np.int32))


def children(trie: Trie, level: int, nodes: Array) -> tuple[Array, Array, Array]:
    """Lists the children of nodes, in ascending order of code.

    Args:
      trie: from `build_trie`.
      level: static: the level of the children.
      nodes: `[...]` int32: nodes of level `level - 1`; 0 is the root at level 0; -1 is
        dead and has no children.

    Returns:
      With M = trie.branches[level], three arrays `[..., M]`: the children's codes int32
      (0 where there is none, so that they may be gathered with), their node ids int32
      (-1 where there is none), and bool, true where there is a child.
    """
    first, last = _range(trie, level, nodes)
    slots = first[..., None] + jnp.arange(trie.branches[level], dtype=jnp.int32)
    legal = slots < last[..., None]
    codes = trie.codes[level].at[slots].get(mode="clip")
    return jnp.where(legal, codes, 0), jnp.where(legal, slots, -1), legal


def mask(trie: Trie, level: int, nodes: Array) -> Array:
    """Marks the codes that may follow.

    Args:
      trie: from `build_trie`.
      level: static: the level of the codes.
      nodes: `[...]` int32: nodes of level `level - 1`, as in `children`.

    Returns:
      `[..., V]` bool with V = trie.widths[level]: true where the code leads to a child.
      All false for node -1.
    """
    codes, _, legal = children(trie, level, nodes)
    shape, width, slots = jnp.shape(nodes), trie.widths[level], codes.shape[-1]
    # Empty slots point outside the row and are dropped.
    columns = jnp.where(legal, codes, width).reshape(-1, slots)
    rows = jnp.arange(columns.shape[0], dtype=jnp.int32)[:, None]
    marks = jnp.zeros((columns.shape[0], width), bool)
    return marks.at[rows, columns].set(True, mode="drop").reshape(*shape, width)


def advance(trie: Trie, level: int, nodes: Array, codes: Array) -> Array:
    """Follows one code from each node, by binary search among its children.

    Args:
      trie: from `build_trie`.
      level: static: the level of the codes.
      nodes: `[...]` int32: nodes of level `level - 1`, as in `children`.
      codes: integers that broadcast against nodes; any value, even outside the level.

    Returns:
      int32 of the broadcast shape: the child's node id, -1 where there is none.
    """
    nodes, codes = jnp.broadcast_arrays(jnp.asarray(nodes), jnp.asarray(codes))
    first, last = _range(trie, level, nodes)
    table = trie.codes[level]

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) // 2
        less = table.at[middle].get(mode="clip") < codes
        apart = low < high
        return (
            jnp.where(apart & less, middle + 1, low),
            jnp.where(apart & ~less, middle, high),
        )

    # A loop, not unrolled: XLA would fuse the steps and repeat each in the next.
    steps = trie.branches[level].bit_length()
    place, _ = jax.lax.fori_loop(0, steps, halve, (first, last))
    found = (place < last) & (table.at[place].get(mode="clip") == codes)
    return jnp.where(found, place, -1)


def item_paths(trie: Trie, codes: Array) -> Array:
    """Follows whole semantic IDs (or their first codes) from the root.

    Args:
      trie: from `build_trie`.
      codes: `[..., T']` integers, T' <= T.

    Returns:
      `[..., T']` int32: the node reached at each level; -1 from the first code on that
      the trie does not hold. The last of T nodes is the leaf.
    """
    codes = jnp.asarray(codes)
    if codes.shape[-1] > trie.depth:
        raise ValueError(f"{codes.shape=}, expected at most {trie.depth} codes each")
    nodes, path = jnp.zeros(codes.shape[:-1], jnp.int32), []
    for level in range(codes.shape[-1]):
        nodes = advance(trie, level, nodes, codes[..., level])
        path.append(nodes)
    return jnp.stack(path, axis=-1)


def _range(trie: Trie, level: int, nodes: Array) -> tuple[Array, Array]:
    """First child and the one after the last, `[...]` each; equal for a dead node."""
    nodes = jnp.asarray(nodes)
    starts, parent = trie.starts[level], jnp.maximum(nodes, 0)
    first = starts.at[parent].get(mode="clip")
    last = starts.at[parent + 1].get(mode="clip")
    return first, jnp.where(nodes < 0, first, last)


def _bucket(size: Any) -> int:
    """The power of two that holds `size`."""
    return 1 << (int(size) - 1).bit_length()


def _sorted_rows(
    codes: np.ndarray, widths: tuple[int, ...], order: np.ndarray
) -> np.ndarray:
    """Item ids by semantic ID, and within one by their place in `order`."""
    keys: list[np.ndarray] = []
    room = 1
    for column, width in zip(codes[order].T, widths):
        if keys and room * width < 2**63:  # several levels share one sort key
            keys[-1] = keys[-1] * width + column
            room *= width
        else:
            keys.append(column.astype(np.int64))
            room = width
    return order[np.lexsort(keys[::-1])]


def _permutation(order: np.ndarray | None, items: int) -> np.ndarray:
    if order is None:
        return np.arange(items)
    order = np.asarray(order)
    if order.shape != (items,) or not np.issubdtype(order.dtype, np.integer):
        raise ValueError(f"{order.shape=} {order.dtype=}, expected [{items}] integers")
    if not np.array_equal(np.sort(order), np.arange(items)):
        raise ValueError("order must hold every item id exactly once")
    return order


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
    if len(codes) > MOST_NODES:
        raise InputError(
            f"semantic IDs: found {len(codes)} items, expected at most {MOST_NODES} "
            "(node ids are 32-bit); split the catalogue"
        )
    bad = np.argwhere((codes < 0) | (codes >= np.array(widths)))
    if len(bad):
        item, level = bad[0]
        raise InputError(
            f"semantic IDs: item {item} has code {codes[item, level]} at level {level},"
            f" expected 0 to {widths[level] - 1}; tokenize again with these widths"
        )
