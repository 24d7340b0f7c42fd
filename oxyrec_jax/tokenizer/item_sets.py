"""Sets of items of one catalogue: bits in the order of the trie's leaves.

The items below any node of the trie stand side by side in the order of the leaves, so
that in such a set the items below a node are one stretch of bits, and two ranks count
them. Sets are joined in one pass over items / 32 words.

    places = place_items(trie, leaves)
    shoes = pack_flags(places, leaves, is_shoe)
    stock = pack_flags(places, leaves, in_stock)
    pools = rank_sets(stack_sets([shoes & stock, ~shoes]))
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from oxyrec_jax.base import Array, InputError
from oxyrec_jax.tokenizer.trie import Leaves, Trie
from oxyrec_jax.tokenizer.trie_layout import bucket, padded

END = 2**31 - 1  # fills lists of places and nodes; above every one


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Places:
    """Where the items of a catalogue stand in the order of its leaves.

    Attributes:
      of_items: `[N']` int32: the place of each item, -1 in the padding and of items
        that are not in the trie.
      offsets: `[S + 1]` int32: the first place of each leaf; N in the padding.
    """

    of_items: Array
    offsets: Array

    @property
    def nbytes(self) -> int:
        """Bytes with the padding."""
        return self.of_items.nbytes + self.offsets.nbytes


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ItemSet:
    """Sets of items of one catalogue as bits; joined by `&`, `|`, `-` and `~`.

    Attributes:
      words: `[..., W]` uint32: bit p % 32 of word p // 32 is the item at place p. Bits
        beyond the last item mean nothing.
    """

    words: Array

    def __and__(self, other: "ItemSet") -> "ItemSet":
        return ItemSet(self.words & other.words)

    def __or__(self, other: "ItemSet") -> "ItemSet":
        return ItemSet(self.words | other.words)

    def __sub__(self, other: "ItemSet") -> "ItemSet":
        return ItemSet(self.words & ~other.words)

    def __invert__(self) -> "ItemSet":
        return ItemSet(~self.words)

    def __getitem__(self, index: int) -> "ItemSet":
        return ItemSet(self.words[index])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pools:
    """Sets of items ready to be counted.

    Attributes:
      words: `[G, W]` uint32, as in `ItemSet`.
      before: `[G, W]` int32: how many bits are set in the words before each.
      nodes: for each level `[G, ceil(S / 32)]` uint32: the bit of a node tells whether
        an item of the pool lies below it; from `trie_filter.mark_nodes`, else empty.
    """

    words: Array
    before: Array
    nodes: tuple[Array, ...] = ()


def place_items(
    trie: Trie, leaves: Leaves, *, at_least: Places | None = None
) -> Places:
    """Puts on the device what filters need to know of a catalogue.

    Args:
      trie: from `build_trie`.
      leaves: from the same call.
      at_least: places whose number of items these must not fall below, as in
        `build_trie`.

    Returns:
      The places, sized so that catalogues of about one size have equal shapes.
    """
    items = len(leaves.items)
    rows = int(leaves.items.max(initial=-1)) + 1  # more than items where some retired
    size = bucket(rows, 2**20)
    if at_least is not None:
        size = max(size, len(at_least.of_items))
    of_items = np.full(rows, -1, np.int32)
    of_items[leaves.items] = np.arange(items, dtype=np.int32)
    room = len(trie.codes[-1])
    return Places(
        jnp.asarray(padded(of_items, size, -1)),
        jnp.asarray(padded(leaves.offsets, room + 1, items)),
    )


def pack_flags(places: Places, leaves: Leaves, members: np.ndarray) -> ItemSet:
    """Packs sets that are given as one flag for each item, on the host.

    Args:
      places: from `place_items`.
      leaves: from `build_trie`.
      members: `[..., N]` bool: true where the item is in the set.

    Returns:
      The sets, `[..., W]`.

    Raises:
      ValueError: the flags are not of this catalogue.
    """
    members = np.asarray(members)
    items = len(leaves.items)
    if members.dtype != bool or members.shape[-1:] != (items,):
        raise ValueError(f"{members.shape=} {members.dtype=}, expected [..., {items}] "
                         "bool: one flag for each item")
    room = 4 * words_for(len(places.of_items))
    packed = np.zeros((*members.shape[:-1], room), np.uint8)
    bits = np.packbits(members[..., leaves.items], axis=-1, bitorder="little")
    packed[..., : bits.shape[-1]] = bits
    return ItemSet(jnp.asarray(packed.view("<u4")))


def pack_lists(places: Places, items: Array) -> ItemSet:
    """Packs sets that are given as lists of items, on the device.

    Args:
      places: from `place_items`.
      items: `[..., m]` int32: item ids in any order, also repeated; -1 is none.

    Returns:
      The sets, `[..., W]`; a sort of each list and a pass over its words.
    """
    flat = sorted_places(places, jnp.asarray(items).reshape(-1, jnp.shape(items)[-1]))
    words = jnp.zeros((len(flat), words_for(len(places.of_items))), jnp.uint32)
    # each place comes once, so that adding its bit sets it; END lies outside
    bits = jnp.uint32(1) << (flat & 31).astype(jnp.uint32)
    rows = np.arange(len(flat))[:, None]
    words = words.at[rows, flat >> 5].add(bits, mode="drop")
    return ItemSet(words.reshape(*jnp.shape(items)[:-1], words.shape[-1]))


def stack_sets(sets: Sequence[ItemSet]) -> ItemSet:
    """Puts sets of one shape under each other."""
    return ItemSet(jnp.stack([one.words for one in sets]))


def rank_sets(sets: ItemSet) -> Pools:
    """Counts the items of `[G, W]` sets so that a filter can use them."""
    if sets.words.ndim != 2:
        raise ValueError(f"{sets.words.shape=}, expected [G, W]")
    counts = jax.lax.population_count(sets.words).astype(jnp.int32)
    return Pools(sets.words, jnp.cumsum(counts, axis=-1) - counts)


def item_lists(lists: Sequence[Sequence[int]], *, items: int) -> np.ndarray:
    """Checks lists of item ids and pads them to one length.

    Args:
      lists: B lists of item ids, of any lengths.
      items: N: how many items the catalogue has.

    Returns:
      `[B, m]` int32, -1 where a list has ended; m is a power of two, or 0 where all
      lists are empty.

    Raises:
      InputError: an id is not of the catalogue.
    """
    longest = max((len(one) for one in lists), default=0)
    room = bucket(longest, longest) if longest else 0
    table = np.full((len(lists), room), -1, np.int32)
    for row, one in enumerate(lists):
        ids = np.asarray(one, np.int64)
        bad = np.flatnonzero((ids < 0) | (ids >= items))
        if len(bad):
            raise InputError(f"filter of request {row}: found item {ids[bad[0]]}, "
                             f"expected 0 to {items - 1}; take ids of this catalogue")
        table[row, :len(ids)] = ids
    return table


def sorted_places(places: Places, items: Array) -> Array:
    """Returns `[B, m]` int32: ascending places of items, each once, then END."""
    items = jnp.asarray(items)
    found = places.of_items.at[items].get(mode="fill", fill_value=-1)
    found = jnp.where((items < 0) | (found < 0), END, found)
    found = jnp.sort(found, axis=-1)
    again = found[:, 1:] == found[:, :-1]
    again = jnp.pad(again, [(0, 0), (1, 0)])[:, : found.shape[1]]
    return jnp.sort(jnp.where(again, END, found), axis=-1)


def rank(pools: Pools, pool: Array, places: Array) -> Array:
    """Counts the items of pools `[...]` that stand before places `[...]`."""
    word, bit = places >> 5, (places & 31).astype(jnp.uint32)
    lower = pools.words.at[pool, word].get(mode="clip") & ((jnp.uint32(1) << bit) - 1)
    return (pools.before.at[pool, word].get(mode="clip")
            + jax.lax.population_count(lower).astype(jnp.int32))


def words_for(items: int) -> int:
    """Counts the words of a set; one more than needed, for the rank of the end."""
    return items // 32 + 1
