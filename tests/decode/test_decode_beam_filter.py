"""The filtered search against searches of the catalogue without the other items."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from beam_oracle import (
    BATCH, assert_row_is, enumerate_all, full_trie, host, python_beam_search,
    random_tables, table_step)
from oxyrec_jax.decode import beam
from oxyrec_jax.tokenizer import item_sets, trie_filter
from oxyrec_jax.tokenizer import trie as tries

WIDTHS, ITEMS = (4, 3, 5), 90  # of 60 semantic IDs, so that many are shared
make_filter = jax.jit(trie_filter.make_filter, static_argnames="batch")


@functools.partial(jax.jit, static_argnames=("beams", "normalise"))
def search(tables, trie, allowed, *, beams, normalise="legal"):
    state = {"prefix": jnp.zeros((BATCH, 1), jnp.int32)}
    return beam.beam_search(table_step(tables), state, trie, beams=beams, batch=BATCH,
                            normalise=normalise, allowed=allowed)


class Shop:
    """A random catalogue of at most `ITEMS` items, and its trie."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.items = int(self.rng.integers(1, ITEMS))
        self.codes = np.stack(
            [self.rng.integers(0, width, self.items) for width in WIDTHS], axis=1)
        self.order = self.rng.permutation(self.items)
        self.trie, self.leaves = tries.build_trie(
            self.codes, WIDTHS, order=self.order, at_least=full_trie(WIDTHS)[0])
        room = item_sets.Places(np.zeros(128, np.int32), np.zeros(1, np.int32))
        self.places = item_sets.place_items(self.trie, self.leaves, at_least=room)

    def draw(self):
        """A filter with all its parts, and what it means: `[B, N]` bool."""
        share = self.rng.choice([0, 0.05, 0.5, 1], (2, 1))
        members = self.rng.random((2, self.items)) < share
        pool = self.rng.integers(0, 2, BATCH)
        limited = self.rng.random(BATCH) < 0.3
        allow = self.rng.integers(-1, self.items, (BATCH, 16))
        deny = self.rng.integers(-1, self.items, (BATCH, 32))
        deny[self.rng.random(BATCH) < 0.3] = -1
        pools = item_sets.rank_sets(
            item_sets.pack_flags(self.places, self.leaves, members))
        allowed = make_filter(self.trie, self.places, batch=BATCH, pools=pools,
                              pool=pool, allow=allow, limited=limited, deny=deny)
        means = members[pool]
        for row in range(BATCH):
            if limited[row]:
                means[row] &= np.isin(np.arange(self.items), allow[row])
            means[row] &= ~np.isin(np.arange(self.items), deny[row])
        return allowed, means

    def sids(self, means):
        """All semantic IDs in order, and those with an allowed item."""
        every = [tuple(row) for row in self.codes.tolist()]
        return sorted(set(every)), {every[item] for item in np.flatnonzero(means)}


@pytest.mark.parametrize("beams, normalise", [(5, "legal"), (70, "legal"), (5, "full")])
def test_equals_a_search_of_the_filtered_catalogue(beams, normalise):
    empty, before = 0, search._cache_size()
    for seed in range(40):
        shop = Shop(seed)
        tables = random_tables(shop.rng, WIDTHS)
        allowed, means = shop.draw()
        result = host(search(tables, shop.trie, allowed, beams=beams,
                             normalise=normalise))
        for row in range(BATCH):
            every, legal = shop.sids(means[row])
            expected = python_beam_search(
                tables, row, sorted(legal), beams=beams, normalise=normalise)
            assert_row_is(result, row, expected, every, beams=beams)
            if beams >= len(legal):
                brute = enumerate_all(tables, row, sorted(legal), normalise=normalise)
                assert_row_is(result, row, brute, every, beams=beams)
            empty += not legal
    assert empty > 3  # nothing allowed, nothing found
    assert search._cache_size() - before <= 1  # all filters and catalogues: a program


def test_items_are_those_of_the_filtered_catalogue_in_its_order():
    partly = 0
    for seed in range(100):
        shop = Shop(seed)
        allowed, means = shop.draw()
        ranked = np.stack([shop.rng.permutation(len(shop.leaves))[:6]
                           for _ in range(BATCH)])
        ranked[shop.rng.random(ranked.shape) < 0.2] = -1
        limit, per_sid = int(shop.rng.integers(1, 12)), int(shop.rng.integers(1, 4))
        found = beam.expand_items(
            ranked, shop.leaves, limit=limit, limit_per_sid=per_sid, allowed=allowed)
        for row in range(BATCH):
            expected = []
            for leaf in ranked[row][ranked[row] >= 0]:
                first, last = shop.leaves.offsets[leaf:leaf + 2]
                held = shop.leaves.items[first:last].tolist()
                kept = [item for item in held if means[row, item]]
                partly += 0 < len(kept) < len(held)
                expected += kept[:per_sid]
            expected = expected[:limit]
            assert found[row].tolist() == expected + [-1] * (limit - len(expected))
    assert partly > 50


def test_a_partly_allowed_id_gives_its_allowed_items_only():
    # 0 0 stands for items 0, 1 and 2; item 3 is 1 0
    codes = np.array([[0, 0], [0, 0], [0, 0], [1, 0]])
    trie, leaves = tries.build_trie(codes, (2, 1))
    places = item_sets.place_items(trie, leaves)
    allowed = make_filter(trie, places, batch=2,
                          deny=np.array([[0, 2, -1], [0, 1, 2]]))
    first = jnp.log(jnp.broadcast_to(jnp.array([0.75, 0.25]), (2, 1, 2)))

    @jax.jit
    def find(trie, allowed):
        def step(state, chosen, level):
            return (jnp.zeros((2, 2, 1)) if level else first), state

        return beam.beam_search(step, (), trie, beams=2, batch=2, allowed=allowed)

    found = find(trie, allowed)
    assert found.leaves.tolist() == [[0, 1], [1, -1]]
    # request 1 has one semantic ID left and is certain of it
    np.testing.assert_allclose(np.exp(found.log_probs), [[0.75, 0.25], [1, 0]])
    items = beam.expand_items(found, leaves, limit=3, limit_per_sid=2, allowed=allowed)
    assert items.tolist() == [[1, 3, -1], [3, -1, -1]]


def test_a_thousand_items_on_one_id_and_the_first_ones_denied():
    trie, leaves = tries.build_trie(np.zeros((1000, 2), int), (3, 3))
    places = item_sets.place_items(trie, leaves)
    deny = np.arange(900)[None]
    allowed = make_filter(trie, places, batch=1, deny=deny)
    items = beam.expand_items(np.array([[0]]), leaves, limit=4, limit_per_sid=3,
                              allowed=allowed)
    assert items.tolist() == [[900, 901, 902, -1]]


def test_a_filter_of_other_requests_is_refused():
    shop = Shop(0)
    allowed, _ = shop.draw()
    with pytest.raises(ValueError, match="3 requests"):
        beam.expand_items(np.zeros((2, 1), int), shop.leaves, limit=1, allowed=allowed)
    with pytest.raises(ValueError, match="expected 3 requests"):
        tries.children(shop.trie, 0, jnp.zeros((2, 1), jnp.int32), allowed=allowed)


def test_a_level_with_too_many_candidates_is_refused_while_tracing():
    # 4096 prefixes, each with up to 2**20 children by the static bound
    rows = np.arange(4096)
    trie, _ = tries.build_trie(np.stack([rows, rows], axis=1), (4096, 2**20))
    wide = dataclasses.replace(trie, branches=(4096, 2**20))

    def step(state, chosen, level):
        beams = 1 if chosen is None else chosen.shape[1]
        return jnp.zeros((1, beams, wide.widths[level])), state

    with pytest.raises(ValueError, match="level 1 has 4096 beams of 1048576 children"):
        jax.eval_shape(
            lambda: beam.beam_search(step, (), wide, beams=4096, batch=1))
