"""Beam search against enumeration of all paths and a search in plain Python."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_oracle import (
    BATCH, assert_row_is, enumerate_all, full_trie, host, python_beam_search,
    random_catalogue, random_tables, table_step)
from oxyrec_jax.decode import beam
from oxyrec_jax.tokenizer import trie as tries


@functools.partial(jax.jit, static_argnames=("beams", "normalise"))
def search(tables, trie, *, beams, normalise="legal"):
    batch = tables[0].shape[0]
    state = {"prefix": jnp.zeros((batch, 1), jnp.int32)}
    return beam.beam_search(
        table_step(tables), state, trie, beams=beams, batch=batch, normalise=normalise
    )


# --- the search ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "widths, beams, normalise",
    [
        ((7,), 3, "legal"),
        ((4, 3, 5), 1, "legal"),
        ((4, 3, 5), 6, "legal"),
        ((4, 3, 5), 6, "full"),
        ((4, 3, 5), 100, "legal"),
        ((4, 3, 5), 100, "full"),
        ((2, 3, 2, 3), 5, "legal"),
    ],
)
def test_equals_brute_force_and_the_plain_search(widths, beams, normalise):
    rng = np.random.default_rng(beams)
    largest, _ = full_trie(widths)
    for case in range(60):
        codes = random_catalogue(rng, widths)
        trie, _ = tries.build_trie(codes, widths, at_least=largest)
        tables = random_tables(rng, widths, impossible=0.3 if case % 3 == 0 else 0)
        sids = sorted({tuple(row) for row in codes.tolist()})
        result = host(search(tables, trie, beams=beams, normalise=normalise))
        for row in range(BATCH):
            expected = python_beam_search(
                tables, row, sids, beams=beams, normalise=normalise
            )
            assert_row_is(result, row, expected, sids, beams=beams)
            if beams >= len(sids):
                every = enumerate_all(tables, row, sids, normalise=normalise)
                assert_row_is(result, row, every, sids, beams=beams)


@pytest.mark.parametrize("beams", [1, 6, 100])
def test_equal_scores_are_ranked_by_leaf(beams):
    # The last code of each level is in no item and takes the whole softmax: its logit
    # is 0 and exp(-200) is nothing beside 1. The others keep their logits -200, -201,
    # -202 as log-probabilities to the last bit, so that whole numbers are added and
    # most paths tie, also those whose parents do not.
    widths = (4, 3, 5)
    largest, _ = full_trie(widths)
    ties = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        tables = [
            rng.integers(-202, -199, table.shape).astype(np.float32)
            for table in random_tables(rng, widths)
        ]
        for table in tables:
            table[..., -1] = 0
        codes = random_catalogue(rng, [width - 1 for width in widths])
        trie, _ = tries.build_trie(codes, widths, at_least=largest)
        sids = sorted({tuple(row) for row in codes.tolist()})
        result = host(search(tables, trie, beams=beams, normalise="full"))
        for row in range(BATCH):
            expected = python_beam_search(
                tables, row, sids, beams=beams, normalise="full"
            )
            assert_row_is(result, row, expected, sids, beams=beams)
            want = [score for score, _ in expected]
            assert result.log_probs[row, : len(want)].tolist() == want
            ties += len(want) - len(set(want))
            if beams >= len(sids):
                every = enumerate_all(tables, row, sids, normalise="full")
                assert_row_is(result, row, every, sids, beams=beams)
    assert ties > 100 or beams == 1  # there were equal scores to rank


def test_when_all_is_equal_the_lowest_leaves_come_in_order():
    widths = (4, 3, 5)
    trie, _ = full_trie(widths)
    tables = [np.zeros_like(t) for t in random_tables(np.random.default_rng(0), widths)]
    result = host(search(tables, trie, beams=6))
    assert result.leaves.tolist() == [[0, 1, 2, 3, 4, 5]] * BATCH
    np.testing.assert_allclose(result.log_probs, -math.log(4 * 3 * 5), rtol=1e-6)


def test_a_path_by_hand():
    #        root          items 0 0, 0 1, 1 1
    #      /      \        p(0) = 3/4, p(1) = 1/4 by logits ln 3 and 0
    #   0 (3/4)  1 (1/4)   after 0: equal, 1/2 each; after 1: code 1 alone, so 1
    #    / \        \
    #   3/8 3/8     1/4
    trie, _ = tries.build_trie(np.array([[0, 0], [0, 1], [1, 1]]), (2, 2))
    first = np.log([[[3.0, 1.0]]]).astype(np.float32)
    second = np.zeros((1, 2, 2), np.float32)
    legal = host(search([first, second], trie, beams=4))
    assert legal.codes[0].tolist() == [[0, 0], [0, 1], [1, 1], [-1, -1]]
    assert legal.leaves[0].tolist() == [0, 1, 2, -1]
    np.testing.assert_allclose(np.exp(legal.log_probs[0]), [3 / 8, 3 / 8, 1 / 4, 0])
    # over the whole codebook the single follower of 1 keeps only its half
    full = host(search([first, second], trie, beams=4, normalise="full"))
    np.testing.assert_allclose(np.exp(full.log_probs[0]), [3 / 8, 3 / 8, 1 / 8, 0])


def test_a_catalogue_of_one_item_is_certain():
    widths = (4, 3, 5)
    largest, _ = full_trie(widths)
    trie, _ = tries.build_trie(np.array([[3, 1, 2]]), widths, at_least=largest)
    tables = random_tables(np.random.default_rng(0), widths)
    result = host(search(tables, trie, beams=6))
    assert result.codes.tolist() == [[[3, 1, 2]] + [[-1, -1, -1]] * 5] * BATCH
    assert result.log_probs.tolist() == [[0.0] + [-np.inf] * 5] * BATCH


def test_probabilities_of_all_ids_sum_to_one_over_the_legal_set_only():
    rng, widths = np.random.default_rng(1), (4, 3, 5)
    codes = random_catalogue(rng, widths)
    trie, leaves = tries.build_trie(codes, widths, at_least=full_trie(widths)[0])
    tables = random_tables(rng, widths)
    total = {}
    for normalise in ("legal", "full"):
        result = host(search(tables, trie, beams=100, normalise=normalise))
        total[normalise] = np.exp(result.log_probs.astype(np.float64)).sum(axis=1)
    np.testing.assert_allclose(total["legal"], 1, rtol=1e-6)
    assert len(leaves) < 60 and np.all(total["full"] < 1)


@pytest.mark.parametrize("broken", ["sqrt", "difference", "infinite"])
def test_a_nan_that_is_computed_ranks_first_too(broken):
    """Its sign bit may be set, by which a sort puts it below -inf."""
    trie, _ = tries.build_trie(np.array([[0, 0], [0, 1], [1, 0], [1, 1], [2, 0]]),
                               (3, 2))

    def step(state, codes, level):
        logits = jnp.zeros((1, 1 if codes is None else codes.shape[1],
                            trie.widths[level]))
        if level == 0:
            return logits, state
        wrong = {"sqrt": jnp.sqrt(logits - 1), "difference": logits - jnp.inf + jnp.inf,
                 "infinite": logits.at[..., 0].set(jnp.inf)}[broken]
        return jnp.where((codes == 1)[..., None], wrong, logits), state
    for beams in (3, 10):
        found = beam.beam_search(step, (), trie, beams=beams, batch=1)
        shown = np.isnan(found.log_probs[0])
        assert shown.any() and shown[:shown.sum()].all(), found.log_probs


def test_nothing_possible_gives_nothing_and_a_nan_is_not_hidden():
    widths = (4, 3, 5)
    trie, _ = full_trie(widths)
    tables = random_tables(np.random.default_rng(0), widths)
    tables[1][0] = -np.inf  # request 0 has no second code at all
    tables[1][1, 2, 0] = np.nan  # request 1 after first code 2
    result = host(search(tables, trie, beams=6))
    assert np.all(result.leaves[0] == -1) and np.all(result.log_probs[0] == -np.inf)
    assert np.all(np.isnan(result.log_probs[1]))
    assert np.all(np.isfinite(result.log_probs[2]))


# --- state, batches, compilation -----------------------------------------------------


def recurrent_weights(rng, widths, hidden):
    return {
        "start": rng.normal(0, 1, (BATCH, hidden)).astype(np.float32),
        "turn": rng.normal(0, 0.7, (hidden, hidden)).astype(np.float32),
        "codes": [rng.normal(0, 1, (w, hidden)).astype(np.float32) for w in widths],
        "heads": [rng.normal(0, 1, (hidden, w)).astype(np.float32) for w in widths],
    }


@functools.partial(jax.jit, static_argnames=("beams",))
def recurrent_search(weights, trie, *, beams):
    def step(state, codes, level):
        hidden, past = state
        if level:
            turned = hidden @ weights["turn"] + weights["codes"][level - 1][codes]
            hidden = jnp.tanh(turned)
            past = past.at[:, :, level - 1].set(codes)
            # logits also read the cache of past codes, as a decoder its keys
            hidden = hidden + 0.1 * jnp.sum(past, axis=-1, keepdims=True)
        return hidden @ weights["heads"][level], (hidden, past)

    state = (weights["start"][:, None], jnp.zeros((BATCH, 1, trie.depth), jnp.int32))
    return beam.beam_search(step, state, trie, beams=beams, batch=BATCH)


def test_the_state_follows_the_parents():
    widths, beams = (5, 4, 3, 4), 5
    largest, _ = full_trie(widths)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        codes = random_catalogue(rng, widths)[:60]
        trie, _ = tries.build_trie(codes, widths, at_least=largest)
        weights = recurrent_weights(rng, widths, hidden=6)
        sids = sorted({tuple(row) for row in codes.tolist()})
        result = host(recurrent_search(weights, trie, beams=beams))
        for row in range(BATCH):
            tables = recurrent_tables(weights, row, widths)
            expected = python_beam_search(
                tables, 0, sids, beams=beams, normalise="legal"
            )
            assert_row_is(result, row, expected, sids, beams=beams)


def recurrent_tables(weights, row, widths):
    """The same network run from the start for every prefix, in float64."""
    tables = []
    for level in range(len(widths)):
        logits = []
        for prefix in itertools.product(*(range(width) for width in widths[:level])):
            hidden = weights["start"][row].astype(np.float64)
            for place, code in enumerate(prefix):
                turned = hidden @ weights["turn"] + weights["codes"][place][code]
                hidden = np.tanh(turned) + 0.1 * sum(prefix[: place + 1])
            logits.append(hidden @ weights["heads"][level])
        tables.append(np.stack(logits)[None])
    return tables


def test_a_request_gets_the_same_bits_alone_and_in_any_batch():
    widths = (4, 3, 5)
    rng = np.random.default_rng(5)
    codes = random_catalogue(rng, widths)
    trie, _ = tries.build_trie(codes, widths, at_least=full_trie(widths)[0])
    tables = random_tables(rng, widths, impossible=0.1)
    together = host(search(tables, trie, beams=6))
    turned = host(search([table[::-1] for table in tables], trie, beams=6))
    for row in range(BATCH):
        alone = host(search([t[row : row + 1] for t in tables], trie, beams=6))
        results = map(jax.tree.leaves, (alone, together, turned))
        for one, other, reverse in zip(*results, strict=True):
            np.testing.assert_array_equal(one[0], other[row])
            np.testing.assert_array_equal(one[0], reverse[BATCH - 1 - row])


def test_an_empty_batch_gives_empty_beams():
    trie, _ = tries.build_trie(np.array([[0, 1]]), (2, 2))
    tables = random_tables(np.random.default_rng(0), (2, 2), batch=0)
    shapes = jax.eval_shape(lambda t: search(t, trie, beams=3), tables)
    assert shapes.codes.shape == (0, 3, 2) and shapes.leaves.shape == (0, 3)


def test_eager_equals_jitted_and_bfloat16_logits_are_read_in_float32():
    trie, _ = tries.build_trie(np.array([[0, 0], [0, 1], [1, 1]]), (2, 2))
    tables = random_tables(np.random.default_rng(2), (2, 2), batch=1)
    half = [jnp.asarray(table, jnp.bfloat16) for table in tables]
    wide = [np.asarray(table, np.float32) for table in half]
    jitted = host(search(wide, trie, beams=4))
    eager = host(search.__wrapped__(half, trie, beams=4))
    np.testing.assert_array_equal(eager.codes, jitted.codes)
    np.testing.assert_array_equal(eager.leaves, jitted.leaves)
    np.testing.assert_allclose(eager.log_probs, jitted.log_probs, rtol=1e-6)
    assert eager.log_probs.dtype == np.float32


def test_many_catalogues_compile_once():
    widths = (10, 10, 10)
    traces = []

    @jax.jit
    def run(tables, trie):
        traces.append(None)
        state = {"prefix": jnp.zeros((BATCH, 1), jnp.int32)}
        return beam.beam_search(
            table_step(tables), state, trie, beams=8, batch=BATCH
        ).leaves

    rng = np.random.default_rng(0)
    tables = random_tables(rng, widths)
    answers = set()
    for _ in range(6):
        # 350 of 1,000 ids: 10 first codes, near 100 pairs, near 295 leaves of 512
        codes = np.stack([rng.integers(0, 10, 350) for _ in widths], axis=1)
        trie, _ = tries.build_trie(codes, widths)
        answers.add(np.asarray(run(tables, trie)).tobytes())
    assert len(traces) == run._cache_size() == 1
    assert len(answers) == 6


def test_levels_hold_no_more_beams_than_there_can_be_prefixes():
    trie, _ = tries.build_trie(np.array([[0, 0], [0, 1], [1, 1]]), (2, 2))
    seen = []

    def step(state, codes, level):
        seen.append(None if codes is None else codes.shape)
        return jnp.zeros((2, 1 if codes is None else codes.shape[1], 2)), state

    shapes = jax.eval_shape(
        lambda: beam.beam_search(step, (), trie, beams=50, batch=2)
    )
    assert seen == [None, (2, 2)]
    assert shapes.leaves.shape == (2, 50)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"beams": 0}, "beams"),
        ({"batch": -1}, "batch"),
        ({"normalise": "softmax"}, "normalise"),
        ({"state": jnp.zeros((2, 2))}, "state"),
        ({"state": jnp.zeros(2)}, "state"),
        ({"step_fn": lambda s, c, level: (jnp.zeros((2, 1, 3)), s)}, "logits.shape"),
        ({"step_fn": lambda s, c, level: (jnp.zeros((2, 1, 2)), s[:1])}, "state"),
    ],
)
def test_misuse_raises_while_tracing(change, message):
    trie, _ = tries.build_trie(np.array([[0, 0], [0, 1], [1, 1]]), (2, 2))
    given = {
        "step_fn": lambda s, c, level: (jnp.zeros((2, 1, 2)), s),
        "state": jnp.zeros((2, 1)),
        "trie": trie,
        "beams": 1,
        "batch": 2,
    } | change
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: beam.beam_search(**given))


# --- from semantic IDs to items ------------------------------------------------------


def test_items_follow_the_beams_and_their_own_order():
    # leaf 0: items 4 1 (1 less preferred), leaf 1: item 0, leaf 2: items 2 3 5
    codes = np.array([[1], [0], [2], [2], [0], [2]])
    _, leaves = tries.build_trie(codes, (3,), order=np.array([4, 2, 3, 5, 1, 0]))
    ranked = np.array([[2, 0, 1], [1, -1, -1], [-1, 0, 1]])
    assert beam.expand_items(ranked, leaves, limit=7).tolist() == [
        [2, 3, 5, 4, 1, 0, -1],
        [0, -1, -1, -1, -1, -1, -1],
        [4, 1, 0, -1, -1, -1, -1],
    ]
    assert beam.expand_items(ranked, leaves, limit=4).tolist()[0] == [2, 3, 5, 4]
    assert beam.expand_items(ranked, leaves, limit=4, limit_per_sid=1).tolist() == [
        [2, 4, 0, -1],
        [0, -1, -1, -1],
        [4, 0, -1, -1],
    ]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_expansion_equals_a_loop(data):
    size = data.draw(st.integers(1, 12))
    codes = data.draw(st.lists(st.integers(0, 4), min_size=size, max_size=size))
    _, leaves = tries.build_trie(np.array(codes)[:, None], (5,))
    rows, beams = data.draw(st.integers(0, 4)), data.draw(st.integers(1, 6))
    leaf = st.integers(-1, len(leaves) - 1)
    ranked = data.draw(st.lists(st.lists(leaf, min_size=beams, max_size=beams),
                                min_size=rows, max_size=rows))
    limit, per_sid = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 4))
    found = beam.expand_items(
        np.array(ranked, np.int32).reshape(rows, beams),
        leaves,
        limit=limit,
        limit_per_sid=per_sid,
    )
    held = [[i for i in range(size) if codes[i] == c] for c in sorted(set(codes))]
    expected = []
    for row in ranked:
        items = [i for leaf in row if leaf >= 0 for i in held[leaf][:per_sid]][:limit]
        expected.append(items + [-1] * (limit - len(items)))
    assert found.tolist() == expected and found.dtype == np.int32


def test_the_search_feeds_the_expansion():
    codes = np.array([[0, 0], [0, 1], [1, 1], [0, 1]])
    trie, leaves = tries.build_trie(codes, (2, 2))
    tables = [np.zeros((1, 1, 2), np.float32), np.zeros((1, 2, 2), np.float32)]
    beams = search(tables, trie, beams=4)  # 1 1 has 1/2, the others 1/4
    assert beam.expand_items(beams, leaves, limit=4).tolist() == [[2, 0, 1, 3]]


@pytest.mark.parametrize(
    "ranked, options",
    [
        (np.array([[3]]), {"limit": 1}),
        (np.array([[-2]]), {"limit": 1}),
        (np.array([[0]]), {"limit": 0}),
        (np.array([[0]]), {"limit": 1, "limit_per_sid": 0}),
        (np.array([0]), {"limit": 1}),
        (np.array([[0.0]]), {"limit": 1}),
    ],
)
def test_expansion_of_strange_leaves_raises(ranked, options):
    _, leaves = tries.build_trie(np.array([[0], [1], [2]]), (3,))
    with pytest.raises(ValueError):
        beam.expand_items(ranked, leaves, **options)
