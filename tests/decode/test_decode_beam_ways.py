"""Searches below a prefix, in groups, and what they prove, against plain Python."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from beam_oracle import (
    BATCH, assert_row_is, enumerate_all, full_trie, host, python_beam_search,
    python_levels, random_catalogue, random_tables, step_scores, table_step)
from oxyrec_jax.decode import beam
from oxyrec_jax.decode.diversity import Diversity
from oxyrec_jax.decode.sampling import Sampling, request_keys
from oxyrec_jax.decode.scoring import open_nodes
from oxyrec_jax.tokenizer import trie as tries

WIDTHS = (4, 3, 5)


@functools.partial(jax.jit, static_argnames=("beams", "normalise", "cut"))
def search(tables, trie, *, beams, normalise="legal", prefix=None, diversity=None,
           sampling=None, cut=0):
    batch = tables[0].shape[0]
    state = {"prefix": jnp.zeros((batch, 1), jnp.int32)}
    return beam.beam_search(table_step(tables), state, trie, beams=beams, batch=batch,
                            normalise=normalise, prefix=prefix, diversity=diversity,
                            sampling=sampling, cut=cut)


def worlds(count, seed, impossible=True):
    """Random catalogues of one compiled shape, and tables of logits."""
    rng = np.random.default_rng(seed)
    largest, _ = full_trie(WIDTHS)
    for case in range(count):
        codes = random_catalogue(rng, WIDTHS)
        trie, _ = tries.build_trie(codes, WIDTHS, at_least=largest)
        tables = random_tables(
            rng, WIDTHS, impossible=0.3 if impossible and case % 3 == 0 else 0)
        yield rng, trie, tables, sorted({tuple(row) for row in codes.tolist()})


# --- below a prefix ------------------------------------------------------------------


@pytest.mark.parametrize("normalise", ["legal", "full"])
@pytest.mark.parametrize("beams", [3, 60])
def test_below_a_prefix_the_search_is_that_of_the_ids_that_begin_so(beams, normalise):
    lengths = set()
    for rng, trie, tables, sids in worlds(30, beams):
        prefix = np.stack([rng.integers(0, width + 1, BATCH) for width in WIDTHS], 1)
        for row in range(BATCH):  # some of them exist, some do not
            if rng.random() < 0.7:
                prefix[row] = sids[rng.integers(len(sids))]
            prefix[row, rng.integers(0, 4):] = -1
        result = host(search(tables, trie, beams=beams, normalise=normalise,
                             prefix=prefix.astype(np.int32)))
        for row in range(BATCH):
            wanted = tuple(code for code in prefix[row].tolist() if code >= 0)
            own = [sid for sid in sids if sid[:len(wanted)] == wanted]
            lengths.add((len(wanted), bool(own)))
            expected = python_beam_search(tables, row, own, beams=beams,
                                          normalise=normalise)
            assert_row_is(result, row, expected, sids, beams=beams)
    assert len(lengths) == 7  # every length, those of no item too


def test_below_a_prefix_probabilities_are_conditional():
    for rng, trie, tables, sids in worlds(5, 1, impossible=False):
        first = sids[rng.integers(len(sids))][0]
        every = host(search(tables, trie, beams=60))
        below = host(search(tables, trie, beams=60,
                            prefix=np.full((BATCH, 1), first, np.int32)))
        for row in range(BATCH):
            inside = every.codes[row, :, 0] == first
            whole = every.log_probs[row][inside]
            np.testing.assert_allclose(
                below.log_probs[row, :inside.sum()],
                whole - np.log(np.exp(whole.astype(float)).sum()), atol=1e-5)


def test_what_follows_the_first_minus_one_of_a_prefix_is_not_read():
    _, trie, tables, _ = next(worlds(1, 2))
    one = host(search(tables, trie, beams=6, prefix=np.array(
        [[1, -1, -1], [-1, -1, -1], [0, 2, -1]], np.int32)))
    other = host(search(tables, trie, beams=6, prefix=np.array(
        [[1, -1, 3], [-1, 2, 1], [0, 2, -1]], np.int32)))
    jax.tree.map(np.testing.assert_array_equal, one, other)


# --- what is proven ------------------------------------------------------------------


@pytest.mark.parametrize("beams", [1, 4, 60])
def test_places_above_the_bound_are_the_best_of_all(beams):
    proven = missed = 0
    for _, trie, tables, sids in worlds(30, 10 + beams):
        result = host(search(tables, trie, beams=beams))
        for row in range(BATCH):
            every = enumerate_all(tables, row, sids, normalise="legal")
            found = {tuple(codes) for codes in result.codes[row].tolist()}
            left = [score for score, sid in every if sid not in found]
            assert max(left, default=-np.inf) <= result.bound[row] + 1e-5
            if len(left) == 0 and beams == 60:
                assert result.bound[row] == -np.inf
            sure = int((result.log_probs[row] > result.bound[row] + 1e-5).sum())
            assert (result.codes[row, :sure].tolist()
                    == [list(sid) for _, sid in every[:sure]])
            proven += sure
            missed += [list(sid) for _, sid in every[:beams]] != [
                codes for codes in result.codes[row].tolist() if codes[0] >= 0]
    assert proven > 30 and (missed or beams == 60)


def test_what_a_sampled_search_leaves_behind_is_bounded_too():
    for _, trie, tables, sids in worlds(10, 7, impossible=False):
        how = Sampling(request_keys(jax.random.key(3), BATCH))
        result = host(search(tables, trie, beams=4, sampling=how))
        for row in range(BATCH):
            found = {tuple(codes) for codes in result.codes[row].tolist()}
            left = [score for score, sid in enumerate_all(
                tables, row, sids, normalise="legal") if sid not in found]
            assert max(left, default=-np.inf) <= result.bound[row] + 1e-5


# --- in groups -----------------------------------------------------------------------


def python_groups(tables, row, sids, *, beams, groups, strength):
    """Ranked (log-probability, semantic ID), by the definition."""
    alive = [[(0.0, ())] for _ in range(groups)]
    for level in range(len(tables)):
        uses, taken = {}, set()
        for group in range(groups):
            found = []
            for score, prefix in alive[group]:
                followers = sorted({s[level] for s in sids if s[:level] == prefix})
                steps = step_scores(tables, row, prefix, followers, "legal")
                found += [(score + step, (*prefix, c)) for c, step in steps.items()]
            if level + 1 == len(tables):
                found = [one for one in found if one[1] not in taken]
            found.sort(key=lambda one: (
                -(one[0] - strength * uses.get(one[1][-1], 0)), one[1]))
            alive[group] = found[:beams // groups]
            for _, prefix in alive[group]:
                uses[prefix[-1]] = uses.get(prefix[-1], 0) + 1
                taken.add(prefix)
    return sorted(sum(alive, []), key=lambda one: (-one[0], one[1]))


@pytest.mark.parametrize("beams, groups, strength", [
    (6, 3, 0.7), (6, 2, 5.0), (4, 4, 0.3), (60, 2, 1.0), (6, 3, 0.0)])
def test_groups_equal_the_definition(beams, groups, strength):
    for _, trie, tables, sids in worlds(20, beams):
        result = host(search(tables, trie, beams=beams,
                             diversity=Diversity(groups, strength)))
        for row in range(BATCH):
            expected = python_groups(tables, row, sids, beams=beams, groups=groups,
                                     strength=strength)
            assert_row_is(result, row, expected, sids, beams=beams)
            assert len({sid for _, sid in expected}) == len(expected)


def test_one_group_is_the_plain_search():
    for _, trie, tables, _ in worlds(10, 3):
        plain = host(search(tables, trie, beams=6))
        one = host(search(tables, trie, beams=6, diversity=Diversity(1, 2.0)))
        jax.tree.map(np.testing.assert_array_equal, plain, one)


def test_more_strength_brings_more_first_codes():
    # three items of code 0 are likely, one of code 1 and one of code 2 are not
    trie, _ = tries.build_trie(np.array([[0, 0], [0, 1], [0, 2], [1, 0], [2, 0]]),
                               (3, 3))
    tables = [np.array([[[4.0, 1.0, 0.0]]], np.float32),
              np.zeros((1, 3, 3), np.float32)]

    def firsts(strength):
        found = host(search(tables, trie, beams=3, diversity=Diversity(3, strength)))
        return sorted(found.codes[0, :, 0].tolist())
    assert firsts(0.0) == [0, 0, 0]
    assert firsts(3.5) == [0, 0, 1]  # code 0 costs 3.5 and then 7
    assert firsts(20.0) == [0, 1, 2]


@pytest.mark.parametrize("options, message", [
    ({"diversity": Diversity(4)}, "groups"),
    ({"diversity": Diversity(2), "sampling": Sampling(
        request_keys(jax.random.key(0), BATCH))}, "both"),
    ({"diversity": Diversity(2), "cut": 1}, "plain search"),
    ({"prefix": np.zeros((BATCH, 4), np.int32)}, "prefix.shape"),
    ({"prefix": np.zeros((1, 2), np.int32)}, "prefix.shape"),
])
def test_ways_that_make_no_sense_are_refused(options, message):
    _, trie, tables, _ = next(worlds(1, 0))
    with pytest.raises(ValueError, match=message):
        search(tables, trie, beams=6, **options)
    with pytest.raises(ValueError, match="groups"):
        Diversity(0)


# --- what was kept and cut ------------------------------------------------------------


@pytest.mark.parametrize("beams, cut", [(1, 3), (4, 2), (60, 5)])
def test_levels_tell_what_was_kept_and_the_best_of_what_was_cut(beams, cut):
    for _, trie, tables, sids in worlds(20, beams):
        plain = host(search(tables, trie, beams=beams))
        result = host(search(tables, trie, beams=beams, cut=cut))
        np.testing.assert_array_equal(result.codes, plain.codes)
        np.testing.assert_array_equal(result.log_probs, plain.log_probs)
        np.testing.assert_array_equal(result.bound, plain.bound)
        for row in range(BATCH):
            wanted = python_levels(tables, row, sids, beams=beams, normalise="legal")
            for level, ranked in zip(result.levels, wanted, strict=True):
                assert level.legal[row] == len(ranked)
                # never more places than there can be prefixes
                assert level.kept == min(beams, level.kept)
                assert level.kept >= min(beams, len(ranked))
                ranked = ranked[:beams + cut]
                found = level.codes[row, :len(ranked)].tolist()
                assert found == [list(codes) for _, codes in ranked]
                np.testing.assert_allclose(
                    level.log_probs[row, :len(ranked)],
                    [score for score, _ in ranked], rtol=1e-6, atol=2e-6)
                assert (level.codes[row, len(ranked):] == -1).all()
                assert (level.log_probs[row, len(ranked):] == -np.inf).all()


# --- chains are not run --------------------------------------------------------------


@functools.partial(jax.jit, static_argnames=("beams", "parts"))
def recurrent(weights, trie, *, beams, parts, sampling=None):
    """A step whose state is the hidden vector, so that a lost one shows."""
    def step(hidden, codes, level):
        if level:
            hidden = jnp.tanh(hidden @ weights["turn"]
                              + weights["codes"][level - 1][codes])
        return hidden @ weights["heads"][level], hidden
    start = weights["start"]
    return beam.beam_search(step, start[:, None], trie, beams=beams, batch=len(start),
                            parts=parts, sampling=sampling)


def sparse_world(seed, widths=(4, 5, 6, 3)):
    """A catalogue of chains and of prefixes that branch late, in one array size."""
    rng = np.random.default_rng(seed)
    every = np.stack(np.unravel_index(np.arange(math.prod(widths)), widths), 1)
    largest, _ = tries.build_trie(every[:300], widths)
    codes = every[rng.choice(300, rng.integers(1, 70), replace=False)]
    trie, _ = tries.build_trie(codes, widths, at_least=largest)
    weights = {"start": rng.normal(size=(BATCH, 6)), "turn": rng.normal(size=(6, 6)),
               "codes": [rng.normal(size=(w, 6)) for w in widths],
               "heads": [rng.normal(size=(6, w)) * 2 for w in widths]}
    return trie, jax.tree.map(lambda leaf: leaf.astype(np.float32), weights)


@pytest.mark.parametrize("beams, parts", [(5, 1), (5, 3), (100, 8)])
def test_leaving_chains_out_changes_no_result(beams, parts):
    for seed in range(12):
        trie, weights = sparse_world(seed)
        every = host(recurrent(weights, trie, beams=beams, parts=0))
        some = host(recurrent(weights, trie, beams=beams, parts=parts))
        np.testing.assert_array_equal(some.codes, every.codes)
        np.testing.assert_array_equal(some.leaves, every.leaves)
        np.testing.assert_allclose(some.log_probs, every.log_probs, rtol=1e-6,
                                   atol=2e-6)
        np.testing.assert_allclose(some.bound, every.bound, rtol=1e-6, atol=2e-6)


def test_leaving_chains_out_changes_no_draw():
    for seed in range(5):
        trie, weights = sparse_world(seed)
        how = Sampling(request_keys(jax.random.key(seed), BATCH), 0.7)
        every, some = (host(recurrent(weights, trie, beams=7, parts=parts,
                                      sampling=how)) for parts in (0, 2))
        np.testing.assert_array_equal(some.codes, every.codes)
        np.testing.assert_allclose(some.log_probs, every.log_probs, rtol=1e-6,
                                   atol=2e-6)


def test_alone_or_in_a_batch_the_same_though_others_need_more_parts():
    trie, weights = sparse_world(3)
    together = host(recurrent(weights, trie, beams=9, parts=5))
    for row in range(BATCH):
        one = {**weights, "start": weights["start"][row:row + 1]}
        alone = host(recurrent(one, trie, beams=9, parts=5))
        np.testing.assert_array_equal(alone.codes[0], together.codes[row])
        np.testing.assert_allclose(alone.log_probs[0], together.log_probs[row],
                                   rtol=2e-6)


def test_open_nodes_have_several_leaves():
    codes = np.array([[0, 0, 0], [0, 1, 0], [1, 0, 0], [2, 0, 0], [2, 0, 1]])
    trie, _ = tries.build_trie(codes, (3, 2, 2))
    first = open_nodes(trie, 1, np.array([0, 1, 2, -1], np.int32))
    assert first.tolist() == [True, False, True, False]
    second = open_nodes(trie, 2, np.arange(4, dtype=np.int32))
    assert second.tolist() == [False, False, False, True]


def test_parts_are_for_probabilities_over_the_legal_children():
    trie, _ = full_trie(WIDTHS)
    tables = random_tables(np.random.default_rng(0), WIDTHS)
    state = {"prefix": jnp.zeros((BATCH, 1), jnp.int32)}
    with pytest.raises(ValueError, match="parts"):
        beam.beam_search(table_step(tables), state, trie, beams=2, batch=BATCH,
                         normalise="full", parts=2)
