"""The trie of all semantic IDs as flat arrays: legal next codes on the device.

The distinct prefixes of each length are numbered in lexicographic order, each length
for itself. The children of node n of one level are then consecutive nodes of the next,
so a level needs two arrays: the code of each node, and where each parent's children
start. Nothing is hashed, and a leaf is the rank of its semantic ID among all of them.
Where most codes follow most parents, a level also has one bit for each pair of them.

The arrays are padded to size buckets and are arguments of the compiled programs, so
that another catalogue of about the same size compiles nothing anew.

    trie, leaves = build_trie(codes, widths)
    legal = mask(trie, 1, advance(trie, 0, jnp.zeros(batch, jnp.int32), first_codes))

A node id belongs to a level: `children(trie, level, nodes)` takes nodes of level
`level - 1`. Level 0 has one parent, the root, which is node 0. Node -1 is dead: it has
no children and no code leads anywhere from it.

20M random items of 3 x 8192 codes take 12 bytes each and are built in seconds
(`benchmarks/tokenizer.py`): one sort of 64-bit numbers that hold codes and row.
`trie_filter` holds a search to the items that a request may get.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from oxyrec_jax.base import Array
from oxyrec_jax.tokenizer import trie_layout


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Trie:
    """Prefix tree of the semantic IDs; a pytree whose sizes are buckets.

    Attributes:
      codes: for each level `[S]` int32, the code of each node; -1 in the padding. S is
        the number of nodes rounded up to a power of two; above a million to one of
        eight steps between two of them.
      starts: for each level `[P + 1]` int32 where P is the S of the level before, 1 at
        level 0: the children of parent n are the nodes starts[n] <= c < starts[n + 1].
      bits: for each level `[P, ceil(V / 32)]` int32: bit v % 32 of word v // 32 tells
        whether code v follows the parent; `[0, ceil(V / 32)]` at a level where that
        would take more room than its codes.
      widths: static: how many codes each level has.
      branches: static: the most children of any parent at each level, rounded up to a
        power of two, above 256 to one of eight steps between two of them, but never
        above the width.
    """

    codes: tuple[Array, ...]
    starts: tuple[Array, ...]
    bits: tuple[Array, ...]
    widths: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    branches: tuple[int, ...] = dataclasses.field(metadata={"static": True})

    @property
    def depth(self) -> int:
        """How many codes one item has."""
        return len(self.widths)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays with their padding."""
        return sum(array.nbytes for array in (*self.codes, *self.starts, *self.bits))


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

    @property
    def nbytes(self) -> int:
        """Bytes on the host."""
        return self.offsets.nbytes + self.items.nbytes

    def of_items(self) -> np.ndarray:
        """Returns `[N]` int32: the leaf of each item."""
        leaf = np.empty(len(self.items), np.int32)
        leaf[self.items] = np.repeat(
            np.arange(len(self), dtype=np.int32), np.diff(self.offsets)
        )
        return leaf


class Allowed(Protocol):
    """What `children` asks of a filter; `trie_filter.Filter` is one."""

    def open_children(self, trie: "Trie", level: int, first: Array) -> Array:
        """Tells which children of each node have an allowed item below them.

        Args:
          trie: the trie.
          level: static: the level of the children.
          first: `[B, ...]` int32: the first child of each node of request b.

        Returns:
          `[B, ..., M]` bool with M = trie.branches[level]: of child first + m; anything
          where there is no such child.
        """


def build_trie(
    codes: np.ndarray,
    widths: Sequence[int],
    *,
    order: np.ndarray | None = None,
    at_least: Trie | None = None,
) -> tuple[Trie, Leaves]:
    """Builds the trie of a catalogue and the list of items behind each leaf.

    Linear passes around one sort, in NumPy on the host (`trie_layout`). The trie's
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
      InputError: there are no items, too many, a code lies outside its level, or a
        level has more nodes than 32-bit ids can number.
      ValueError: shapes, dtypes or widths disagree, or `order` is no permutation.

    Source: ours (sorted prefixes with child offsets, as in LOUDS and CSR tries).
    """
    widths = tuple(int(width) for width in widths)
    if at_least is not None and at_least.widths != widths:
        raise ValueError(f"{at_least.widths=}, expected {widths}")
    sizes = None
    if at_least is not None:
        sizes = [len(level) for level in at_least.codes], at_least.branches
    levels, offsets, items = trie_layout.lay_out(
        np.asarray(codes), widths, order=order, at_least=sizes
    )
    trie = Trie(
        codes=tuple(jnp.asarray(level.codes) for level in levels),
        starts=tuple(jnp.asarray(level.starts) for level in levels),
        bits=tuple(jnp.asarray(level.bits) for level in levels),
        widths=widths,
        branches=tuple(level.branch for level in levels),
    )
    return trie, Leaves(offsets, items)


def children(
    trie: Trie, level: int, nodes: Array, *, allowed: Allowed | None = None
) -> tuple[Array, Array, Array]:
    """Lists the children of nodes, in ascending order of code.

    Args:
      trie: from `build_trie`.
      level: static: the level of the children.
      nodes: `[...]` int32: nodes of level `level - 1`; 0 is the root at level 0; -1 is
        dead and has no children.
      allowed: a filter of B requests: children without an allowed item below them are
        no children. Nodes are then `[B, ...]`.

    Returns:
      With M = trie.branches[level], three arrays `[..., M]`: the children's codes int32
      (0 where there is none, so that they may be gathered with), their node ids int32
      (-1 where there is none), and bool, true where there is a child.
    """
    first, last = _range(trie, level, nodes)
    slots = first[..., None] + jnp.arange(trie.branches[level], dtype=jnp.int32)
    legal = slots < last[..., None]
    if allowed is not None:
        legal &= allowed.open_children(trie, level, first)
    codes = trie.codes[level].at[slots].get(mode="clip")
    return jnp.where(legal, codes, 0), jnp.where(legal, slots, -1), legal


def mask(
    trie: Trie, level: int, nodes: Array, *, allowed: Allowed | None = None
) -> Array:
    """Marks the codes that may follow.

    Args:
      trie: from `build_trie`.
      level: static: the level of the codes.
      nodes: `[...]` int32: nodes of level `level - 1`, as in `children`.
      allowed: a filter of B requests, as in `children`.

    Returns:
      `[..., V]` bool with V = trie.widths[level]: true where the code leads to a child.
      All false for node -1.
    """
    if allowed is None and trie.bits[level].shape[0]:
        return _unpacked(trie.bits[level], nodes, trie.widths[level])
    codes, _, legal = children(trie, level, nodes, allowed=allowed)
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
    nodes, codes = jnp.broadcast_arrays(jnp.asarray(nodes), _narrow(codes))
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


def _narrow(codes: Array) -> Array:
    """Codes on the device; of 64 bits those beyond int32 stay beyond every level."""
    if isinstance(codes, np.ndarray) and codes.dtype.itemsize > 4:
        codes = np.clip(codes, -1, np.iinfo(np.int32).max).astype(np.int32)
    return jnp.asarray(codes)


def item_paths(trie: Trie, codes: Array) -> Array:
    """Follows whole semantic IDs (or their first codes) from the root.

    Args:
      trie: from `build_trie`.
      codes: `[..., T']` integers, T' <= T.

    Returns:
      `[..., T']` int32: the node reached at each level; -1 from the first code on that
      the trie does not hold. The last of T nodes is the leaf.
    """
    codes = _narrow(codes)
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


def _unpacked(bits: Array, nodes: Array, width: int) -> Array:
    """`[..., V]` bool: the bits of nodes; false for a dead one."""
    nodes = jnp.asarray(nodes)
    words = bits.at[jnp.maximum(nodes, 0)].get(mode="clip")
    words = jnp.where(nodes[..., None] < 0, 0, words)
    spread = (words[..., None] >> jnp.arange(32, dtype=jnp.int32)) & 1
    every = spread.astype(bool).reshape(*nodes.shape, 32 * bits.shape[1])
    return every[..., :width]
