"""Filters in the trie against the nodes on the paths of the allowed items."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxyrec_jax.base import InputError
from oxyrec_jax.tokenizer import item_sets, trie_filter
from oxyrec_jax.tokenizer import trie as tries

make_filter = jax.jit(trie_filter.make_filter, static_argnames="batch")
mark_nodes = jax.jit(trie_filter.mark_nodes)
children = jax.jit(tries.children, static_argnames="level")
mask = jax.jit(tries.mask, static_argnames="level")
BATCH, ROOM = 3, 128


@functools.cache
def largest(widths):
    """A trie whose sizes hold every catalogue of these widths."""
    grid = np.indices(widths).reshape(len(widths), -1).T
    return tries.build_trie(grid, widths)[0]


class Catalogue:
    """Random items with their trie, its places, and each item's node at each level."""

    def __init__(self, seed, widths, *, items=None):
        self.rng, self.widths = np.random.default_rng(seed), widths
        self.items = items or int(self.rng.integers(1, ROOM))
        self.codes = np.stack(
            [self.rng.integers(0, width, self.items) for width in widths], axis=1)
        self.trie, self.leaves = tries.build_trie(
            self.codes, widths, at_least=largest(widths))
        room = item_sets.Places(np.zeros(ROOM, np.int32), np.zeros(1, np.int32))
        self.places = item_sets.place_items(self.trie, self.leaves, at_least=room)
        self.paths = [
            np.unique(self.codes[:, :level + 1], axis=0, return_inverse=True)[1]
            for level in range(len(widths))]

    def pools(self, members):
        return item_sets.rank_sets(
            item_sets.pack_flags(self.places, self.leaves, members))

    def check(self, allowed, means):
        """Every node of every level is open exactly if an allowed item is below."""
        for level, width in enumerate(self.widths):
            parents = len(self.trie.codes[level - 1]) if level else 1
            nodes = np.tile(np.r_[np.arange(parents), -1], (BATCH, 1)).astype(np.int32)
            codes, found, legal = map(np.asarray, children(
                self.trie, level=level, nodes=nodes, allowed=allowed))
            marks = np.asarray(mask(
                self.trie, level=level, nodes=nodes, allowed=allowed))
            want_marks = np.zeros(marks.shape, bool)
            for row in range(BATCH):
                wanted = set(self.paths[level][means[row]].tolist())
                kept = found[row][legal[row]].tolist()
                assert sorted(kept) == sorted(wanted) and len(kept) == len(wanted)
                parent = self.paths[level - 1][means[row]] if level else 0
                want_marks[row, parent, self.codes[means[row], level]] = True
            assert np.all(found[~legal] == -1) and np.all(codes[~legal] == 0)
            np.testing.assert_array_equal(marks, want_marks)


def listed(rows, items):
    """`[B, N]` bool: what `[B, m]` lists with -1 mean."""
    return np.stack([np.isin(np.arange(items), row) for row in rows])


@pytest.mark.parametrize("widths", [(4, 3, 5), (40,), (2, 3, 2, 3)])
def test_a_node_is_open_exactly_if_an_allowed_item_is_below_it(widths):
    for seed in range(25):
        shop = Catalogue(seed, widths)
        rng, items = shop.rng, shop.items
        members = rng.random((2, items)) < rng.choice([0, 0.05, 0.5, 1], (2, 1))
        pool, limited = rng.integers(0, 2, BATCH), rng.random(BATCH) < 0.5
        allow = rng.integers(-1, items, (BATCH, 8))
        deny = rng.integers(-1, items, (BATCH, 64))
        deny[rng.random(BATCH) < 0.3] = -1
        means = members[pool] & ~listed(deny, items)
        means &= listed(allow, items) | ~limited[:, None]
        pools = shop.pools(members)
        if seed % 2:
            pools = mark_nodes(shop.trie, shop.places, pools)
        shop.check(make_filter(
            shop.trie, shop.places, batch=BATCH, pools=pools, pool=pool,
            allow=allow, limited=limited, deny=deny), means)
    # one program for each set of widths, with nodes marked in advance and without
    assert make_filter._cache_size() <= 6 and mark_nodes._cache_size() <= 3


@pytest.mark.parametrize("parts", [
    (), ("allow",), ("deny",), ("allow", "deny"), ("pool",)], ids="+".join)
def test_each_part_may_be_missing(parts):
    for seed in range(5):
        shop = Catalogue(seed, (4, 3, 5))
        given_, means = {}, np.ones((BATCH, shop.items), bool)
        if "allow" in parts:
            given_["allow"] = shop.rng.integers(-1, shop.items, (BATCH, 8))
            means &= listed(given_["allow"], shop.items)
        if "deny" in parts:
            given_["deny"] = shop.rng.integers(-1, shop.items, (BATCH, 32))
            means &= ~listed(given_["deny"], shop.items)
        if "pool" in parts:  # without the choice of a pool all have the first
            members = shop.rng.random((1, shop.items)) < 0.3
            given_["pools"] = shop.pools(members)
            means &= members
        shop.check(make_filter(shop.trie, shop.places, batch=BATCH, **given_), means)


def test_by_hand():
    # items: 0 is 0 1, 1 and 2 are 1 0, 3 is 1 2; leaves 0 1, 1 0, 1 2
    codes = np.array([[0, 1], [1, 0], [1, 0], [1, 2]])
    trie, leaves = tries.build_trie(codes, (2, 3))
    places = item_sets.place_items(trie, leaves)
    deny = np.array([[0, 1, -1], [2, 1, 3], [0, 0, 0], [-1, -1, -1]])
    allowed = trie_filter.make_filter(trie, places, batch=4, deny=deny)
    root = np.zeros(4, np.int32)
    assert mask(trie, level=0, nodes=root, allowed=allowed).tolist() == [
        [False, True],  # 0 1 has lost its only item
        [True, False],  # all below 1 are gone
        [False, True],
        [True, True]]
    below_1 = np.ones(4, np.int32)
    assert mask(trie, level=1, nodes=below_1, allowed=allowed).tolist() == [
        [True, False, True],  # item 2 still stands behind 1 0
        [False, False, False],
        [True, False, True],
        [True, False, True]]
    places_of = np.array([0, 1, 2, 3])
    assert allowed.admits(0, places_of).tolist() == [False, False, True, True]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**16), st.lists(st.sampled_from("&|-~"), max_size=4))
def test_joined_sets_are_the_joined_flags(seed, joins):
    shop = Catalogue(seed, (4, 3, 5))
    flags = shop.rng.random((6, shop.items)) < 0.5
    sets = item_sets.pack_flags(shop.places, shop.leaves, flags)
    packed, means = sets[0], flags[0]
    for number, join in enumerate(joins, 1):
        other, told = sets[number], flags[number]
        if join == "&":
            packed, means = packed & other, means & told
        elif join == "|":
            packed, means = packed | other, means | told
        elif join == "-":
            packed, means = packed - other, means & ~told
        else:
            packed, means = ~packed, ~means
    words = np.asarray(packed.words)
    bits = np.unpackbits(words.view(np.uint8), bitorder="little")[:shop.items]
    assert bits.astype(bool).tolist() == means[shop.leaves.items].tolist()
    lists = np.full(ROOM, -1, np.int32)
    ids = np.flatnonzero(means)
    lists[:len(ids)] = shop.rng.permutation(ids)
    lists[len(ids):][:len(ids)] = ids[:len(lists) - len(ids)]  # twice, and as one
    again = np.asarray(item_sets.pack_lists(shop.places, lists).words)
    again = np.unpackbits(again.view(np.uint8), bitorder="little")[:shop.items]
    assert again.tolist() == bits.tolist()


def test_ranks_count_the_bits_before_every_place():
    shop = Catalogue(1, (4, 3, 5), items=100)
    flags = shop.rng.random((2, 100)) < 0.5
    pools = shop.pools(flags)
    ordered = flags[:, shop.leaves.items].astype(int)
    places = np.arange(101, dtype=np.int32)
    for pool in range(2):
        np.testing.assert_array_equal(
            item_sets.rank(pools, pool, places), np.r_[0, np.cumsum(ordered[pool])])


def test_extremes_one_item_one_leaf_and_nothing_allowed():
    for codes in (np.array([[3, 2, 4]]), np.tile([[1, 1, 1]], (70, 1))):
        shop = Catalogue(0, (4, 3, 5), items=len(codes))
        shop.codes = codes
        shop.trie, shop.leaves = tries.build_trie(
            codes, (4, 3, 5), at_least=largest((4, 3, 5)))
        room = item_sets.Places(np.zeros(ROOM, np.int32), np.zeros(1, np.int32))
        shop.places = item_sets.place_items(shop.trie, shop.leaves, at_least=room)
        shop.paths = [np.zeros(len(codes), int)] * 3
        for denied in (len(codes) - 1, len(codes)):
            deny = np.full((BATCH, 128), -1)
            deny[:, :denied] = np.arange(denied)
            means = ~listed(deny, len(codes))
            shop.check(make_filter(shop.trie, shop.places, batch=BATCH, deny=deny),
                       means)
            members = means[:1]
            shop.check(make_filter(shop.trie, shop.places, batch=BATCH,
                                   pools=shop.pools(members)), means)


def test_lists_are_checked_and_padded():
    table = item_sets.item_lists([[3, 1], [], [0, 2, 4]], items=5)
    assert table.tolist() == [[3, 1, -1, -1], [-1] * 4, [0, 2, 4, -1]]
    assert item_sets.item_lists([[], []], items=5).shape == (2, 0)
    for bad in (5, -1):
        with pytest.raises(InputError, match=f"request 1: found item {bad}, expected"):
            item_sets.item_lists([[0], [bad]], items=5)


def test_items_that_are_in_no_trie_have_no_place():
    """Of items 0 to 4 the first and the last but one are retired."""
    live = np.array([1, 2, 4])
    trie, leaves = tries.build_trie(np.array([[1, 0], [0, 2], [1, 1]]), (2, 3))
    leaves = tries.Leaves(leaves.offsets, live[leaves.items].astype(np.int32))
    places = item_sets.place_items(trie, leaves)
    # in the order of their codes: item 2 (0, 2), item 1 (1, 0), item 4 (1, 1)
    assert places.of_items[:5].tolist() == [-1, 1, 0, -1, 2]


def test_bytes_of_places_are_stated():
    shop = Catalogue(0, (4, 3, 5))
    # 128 items and 64 leaves with one end, four bytes each
    assert shop.places.nbytes == 4 * (128 + 65)


@pytest.mark.parametrize("change, message", [
    ({"pool": np.zeros(2, int)}, "pool"),
    ({"deny": np.zeros((2, 4), int)}, "deny"),
    ({"allow": np.zeros(3, int)}, "allow"),
    ({"limited": np.ones(BATCH, bool)}, "limited without allow"),
    ({"pools": None, "pool": np.zeros(BATCH, int)}, "pool without pools"),
    ({"pools": item_sets.Pools(jnp.zeros((1, 9), jnp.uint32), jnp.zeros((1, 9), int))},
     "another catalogue"),
])
def test_misuse_raises(change, message):
    shop = Catalogue(0, (4, 3, 5))
    options = {"pools": shop.pools(np.ones((1, shop.items), bool))} | change
    with pytest.raises(ValueError, match=message):
        trie_filter.make_filter(shop.trie, shop.places, batch=BATCH, **options)
    with pytest.raises(ValueError, match="one flag for each item"):
        item_sets.pack_flags(shop.places, shop.leaves, np.ones(shop.items + 1, bool))
    with pytest.raises(ValueError, match="expected .G, W."):
        item_sets.rank_sets(item_sets.ItemSet(jnp.zeros(3, jnp.uint32)))
