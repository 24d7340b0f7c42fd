"""Which items a request may get, folded exactly into the trie.

A node may be entered exactly if an allowed item lies below it. A leaf that stands for
several items is open as long as one of them is allowed, and `decode.beam.expand_items`
leaves the others out.

    allowed = make_filter(trie, places, batch=3, pools=pools, pool=[0, 1, 0], deny=seen)
    beam_search(step, state, trie, beams=50, batch=3, allowed=allowed)

Large sets are pools (`item_sets`): bits that many requests share; whether a node is
open is counted for the nodes that a search looks at and no others, or, for pools that
live long, for all nodes in advance (`mark_nodes`). What belongs to one
request (items seen, a short list to choose from) is a list: for each level the nodes
that it shuts or opens are found once, so that it costs in proportion to its length and
not to the catalogue. All of it is traced: another filter of the same shapes compiles
nothing anew.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from oxyrec_jax.base import Array
from oxyrec_jax.tokenizer import item_sets
from oxyrec_jax.tokenizer.item_sets import END, Places, Pools
from oxyrec_jax.tokenizer.trie import Trie


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Filter:
    """What B requests may get; from `make_filter`.

    Attributes:
      pools: the pools that requests choose from; of G = 0 rows where all is allowed.
      pool: `[B]` int32: the pool of each request.
      limited: `[B]` bool: true: the listed items are the only ones allowed; false: they
        are the ones forbidden.
      listed: `[B, m]` int32: places of the listed items that are in the pool,
        ascending, each once, then `END`.
      nodes: for each level `[B, m]` int32: the nodes that a limited request may enter,
        or that another may not, ascending, then `END`.
      offsets: `[S + 1]` int32: the first place of each leaf, as in `Places`.
      of_items: `[N']` int32: the place of each item, as in `Places`.
    """

    pools: Pools
    pool: Array
    limited: Array
    listed: Array
    nodes: tuple[Array, ...]
    offsets: Array
    of_items: Array

    def open_children(self, trie: Trie, level: int, first: Array) -> Array:
        """Tells which children of each node have an allowed item below them.

        Args:
          trie: the trie that the filter was made for.
          level: static: the level of the children.
          first: `[B, ...]` int32: the first child of each node of request b.

        Returns:
          `[B, ..., M]` bool with M = trie.branches[level]: of child first + m; anything
          where there is no such child.

        Raises:
          ValueError: the filter is of another number of requests.
        """
        batch, shape, slots = len(self.pool), first.shape, trie.branches[level]
        if shape[:1] != (batch,):
            raise ValueError(f"nodes of {shape=}, expected {batch} requests first")
        first = first.reshape(batch, math.prod(shape[1:]))
        open_ = jnp.ones((*first.shape, slots), bool)
        if self.pools.nodes:
            child = first[..., None] + jnp.arange(slots, dtype=jnp.int32)
            open_ = _bit(self.pools.nodes[level], self.pool[:, None, None], child)
        elif len(self.pools.words):
            edges = first[..., None] + jnp.arange(slots + 1, dtype=jnp.int32)
            edges = _first_place(trie, self.offsets, level, edges)
            count = item_sets.rank(self.pools, self.pool[:, None, None], edges)
            open_ = count[..., 1:] > count[..., :-1]
        hit = _hit(self.nodes[level], first, slots)
        open_ = jnp.where(self.limited[:, None, None], hit, open_ & ~hit)
        return open_.reshape(*shape, slots)

    def admitted(self, items: int) -> Array:
        """Tells of the first items whether each request may get them; may be traced.

        Args:
          items: N, static: how many; those that are not in the catalogue are not.

        Returns:
          `[B, N]` bool.
        """
        place = self.of_items.at[jnp.arange(items)].get(mode="fill", fill_value=-1)
        batch, known = len(self.pool), len(self.of_items)
        safe = jnp.maximum(place, 0)
        open_ = jnp.ones((batch, items), bool)
        if len(self.pools.words):
            open_ = _bit(self.pools.words, self.pool[:, None], safe[None])
        rows = jnp.arange(batch)[:, None]
        listed = jnp.zeros((batch, known), bool).at[rows, self.listed].set(
            True, mode="drop")[:, safe]
        allowed = jnp.where(self.limited[:, None], listed, open_ & ~listed)
        return allowed & (place >= 0)

    def admits(self, row: int, places: np.ndarray) -> np.ndarray:
        """Tells which items a request may get; on the host.

        The first call copies pools and lists from an accelerator.

        Args:
          row: the request.
          places: `[n]` integers: places in `Leaves.items`.

        Returns:
          `[n]` bool.
        """
        listed = np.isin(places, np.asarray(self.listed)[row])
        if np.asarray(self.limited)[row]:
            return listed
        if not len(self.pools.words):
            return ~listed
        words = np.asarray(self.pools.words)[np.asarray(self.pool)[row], places // 32]
        return ((words >> (places % 32).astype(np.uint32)) & 1 == 1) & ~listed


def make_filter(
    trie: Trie,
    places: Places,
    *,
    batch: int,
    pools: Pools | None = None,
    pool: Array | None = None,
    allow: Array | None = None,
    limited: Array | None = None,
    deny: Array | None = None,
) -> Filter:
    """Folds what each request may get into the trie; may be traced.

    An item is allowed if it is in the request's pool, in its allow list (where it has
    one) and not in its deny list. Costs about 100 steps for each listed item and level,
    whatever the size of the catalogue.

    Args:
      trie: from `build_trie`.
      places: from `place_items`.
      batch: B, static.
      pools: sets that requests choose from. None: every item.
      pool: `[B]` integers: the pool of each request. None: pool 0.
      allow: `[B, m]` int32 item ids in any order, also repeated; -1 is none, so that a
        row of -1 allows nothing.
      limited: `[B]` bool: which requests have an allow list. None: all, where `allow`
        is given.
      deny: `[B, m]` int32, as `allow`; a row of -1 forbids nothing.

    Returns:
      The filter. A list of many thousands is cheaper as a pool of `pack_lists`.

    Raises:
      ValueError: a shape disagrees with B, or pools are not of this catalogue.
    """
    _check(places, batch, pools, pool, allow, limited, deny)
    if pools is None:
        words = jnp.zeros((0, item_sets.words_for(len(places.of_items))), jnp.uint32)
        pools = Pools(words, words.astype(jnp.int32))
    chosen = jnp.asarray(np.zeros(batch) if pool is None else pool, jnp.int32)
    restricted = jnp.asarray(
        np.full(batch, allow is not None) if limited is None else limited)
    none = np.full((batch, 0), -1, np.int32)
    listed, nodes = _fold(
        trie, places, pools, chosen, restricted,
        None if allow is None else jnp.asarray(allow),
        jnp.asarray(none if deny is None else deny))
    return Filter(pools, chosen, restricted, listed, nodes, places.offsets,
                  places.of_items)


def mark_nodes(trie: Trie, places: Places, pools: Pools) -> Pools:
    """Finds the open nodes of pools once, so that a search reads one bit for each.

    Worth it for pools that serve many requests: it looks at every node, which a search
    does not. Results are the same with and without.

    Args:
      trie: from `build_trie`.
      places: from `place_items`.
      pools: from `rank_sets`.

    Returns:
      The pools with `nodes`: a bit for each node and pool.
    """
    def mark(level: int, pool: Array) -> Array:
        size = -(-len(trie.codes[level]) // 32) * 32
        edges = jnp.arange(size + 1, dtype=jnp.int32)
        count = item_sets.rank(
            pools, pool, _first_place(trie, places.offsets, level, edges))
        open_ = (count[1:] > count[:-1]).reshape(-1, 32)
        bits = jnp.uint32(1) << jnp.arange(32, dtype=jnp.uint32)
        return jnp.sum(jnp.where(open_, bits, 0), axis=1, dtype=jnp.uint32)

    every = jnp.arange(len(pools.words), dtype=jnp.int32)
    return dataclasses.replace(pools, nodes=tuple(
        jax.lax.map(functools.partial(mark, level), every)
        for level in range(trie.depth)))


def _bit(words: Array, row: Array, at: Array) -> Array:
    """Whether bit `at` of a row of words is set."""
    word = words.at[row, at >> 5].get(mode="clip")
    return (word >> (at & 31).astype(jnp.uint32)) & 1 == 1


@jax.jit
def _fold(trie: Trie, places: Places, pools: Pools, pool: Array, limited: Array,
          allow: Array | None, deny: Array) -> tuple[Array, tuple[Array, ...]]:
    """`Filter.listed` and `Filter.nodes`.

    Compiled for itself so that nothing large is an output: the arrays of the catalogue
    would be copied, which took 130 ms for 20M items.
    """
    listed = denied = item_sets.sorted_places(places, deny)
    if allow is not None:
        wanted = item_sets.sorted_places(places, allow)
        wanted = jnp.sort(jnp.where(_found(denied, wanted), END, wanted), axis=-1)
        room = max(wanted.shape[1], denied.shape[1])
        wanted, denied = (jnp.pad(one, [(0, 0), (0, room - one.shape[1])],
                                  constant_values=END) for one in (wanted, denied))
        listed = jnp.where(limited[:, None], wanted, denied)
    if len(pools.words):
        inside = _bit(pools.words, pool[:, None], listed)
        listed = jnp.sort(jnp.where(inside, listed, END), axis=-1)
    return listed, _listed_nodes(trie, places, pools, pool, limited, listed)


def _listed_nodes(trie: Trie, places: Places, pools: Pools, pool: Array,
                  limited: Array, listed: Array) -> tuple[Array, ...]:
    """For each level `[B, m]`: ancestors of listed items that are opened or shut."""
    count = jax.vmap(jnp.searchsorted)
    levels: list[Array] = []
    node = _parent(places.offsets, listed)
    for level in reversed(range(trie.depth)):
        edges = [_first_place(trie, places.offsets, level, node + up) for up in (0, 1)]
        below = count(listed, edges[1]) - count(listed, edges[0])
        if len(pools.words):
            edges = [item_sets.rank(pools, pool[:, None], edge) for edge in edges]
        shut = below == edges[1] - edges[0]
        counts = (listed < END) & (limited[:, None] | shut)
        levels.append(jnp.sort(jnp.where(counts, node, END), axis=-1))
        node = _parent(trie.starts[level], node)
    return tuple(levels[::-1])


def _hit(nodes: Array, first: Array, slots: int) -> Array:
    """`[B, K, M]` bool: whether child first + m of each beam is in the sorted list."""
    shape, listed = (*first.shape, slots), nodes.shape[1]
    if listed > slots * listed.bit_length():
        child = first[..., None] + jnp.arange(slots, dtype=jnp.int32)
        child = child.reshape(shape[0], shape[1] * slots)
        return _found(nodes, child).reshape(shape)
    slot = nodes[:, None, :] - first[..., None]
    slot = jnp.where(slot < 0, slots, slot)  # out of the row, where it is dropped
    rows, beams = np.ogrid[:shape[0], :shape[1]]
    return jnp.zeros(shape, bool).at[rows[..., None], beams[..., None], slot].set(
        True, mode="drop")


def _parent(starts: Array, nodes: Array) -> Array:
    """The last n with starts[n] <= node; int32."""
    return jnp.searchsorted(starts, nodes, side="right").astype(jnp.int32) - 1


def _first_place(trie: Trie, offsets: Array, level: int, nodes: Array) -> Array:
    """The place of the first item below nodes of a level; also of the one after all."""
    for below in range(level + 1, trie.depth):
        nodes = trie.starts[below].at[nodes].get(mode="clip")
    return offsets.at[nodes].get(mode="clip")


def _found(table: Array, values: Array) -> Array:
    """`[B, m]` bool: whether each value is in the sorted row of the table."""
    if not table.shape[1]:
        return jnp.zeros(values.shape, bool)
    at = jax.vmap(jnp.searchsorted)(table, values)
    return jnp.take_along_axis(table, at, axis=1, mode="clip") == values


def _check(places: Places, batch: int, pools: Pools | None, pool: Array | None,
           allow: Array | None, limited: Array | None, deny: Array | None) -> None:
    words = item_sets.words_for(len(places.of_items))
    if pools is not None and pools.words.shape[-1] != words:
        raise ValueError(f"{pools.words.shape=}, expected [G, {words}]: the sets are "
                         "of another catalogue")
    if pool is not None and pools is None:
        raise ValueError("pool without pools")
    if limited is not None and allow is None:
        raise ValueError("limited without allow")
    for name, value, shape in (("pool", pool, (batch,)), ("limited", limited, (batch,)),
                               ("allow", allow, None), ("deny", deny, None)):
        if value is None:
            continue
        found = jnp.shape(value)
        if found != shape if shape else len(found) != 2 or found[0] != batch:
            raise ValueError(f"{name} of shape {found}, expected {batch} requests")
