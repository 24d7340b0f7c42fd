"""Drawing without replacement: against enumeration, by frequencies of many draws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from beam_oracle import enumerate_all, random_tables, table_step
from oxyrec_jax.decode import beam, sampling
from oxyrec_jax.decode.sampling import Sampling
from oxyrec_jax.tokenizer import trie as tries

WIDTHS = (3, 2, 3)
SIDS = [(0, 0, 1), (0, 1, 0), (0, 1, 2), (1, 0, 0), (2, 1, 1), (2, 1, 2)]
DRAWS = 40_000


@functools.partial(jax.jit, static_argnames="beams")
def draw(tables, trie, how, *, beams):
    batch = how.keys.shape[0]
    tables = [jnp.broadcast_to(table, (batch, *table.shape[1:])) for table in tables]
    state = {"prefix": jnp.zeros((batch, 1), jnp.int32)}
    return beam.beam_search(table_step(tables), state, trie, beams=beams, batch=batch,
                            sampling=how)


@pytest.fixture(scope="module")
def catalogue():
    trie, _ = tries.build_trie(np.array(SIDS), WIDTHS)
    return trie, random_tables(np.random.default_rng(3), WIDTHS, batch=1)


def _keys(count=DRAWS, seed=0):
    return sampling.request_keys(jax.random.key(seed), count)


def _close(found, wanted, count=DRAWS):
    """Shares of independent draws, within five standard deviations and a little."""
    spread = np.sqrt(wanted * (1 - wanted) / count)
    np.testing.assert_array_less(np.abs(found - wanted), 5 * spread + 1e-4)


def _policy(tables, temperature=1.0):
    tempered = [np.asarray(table) / temperature for table in tables]
    found = {sid: score for score, sid in
             enumerate_all(tempered, 0, SIDS, normalise="legal")}
    return np.array([found[sid] for sid in SIDS])


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
def test_orders_of_draws_are_as_often_as_their_probability(catalogue, temperature):
    trie, tables = catalogue
    found = draw(tables, trie, Sampling(_keys(), temperature), beams=3)
    leaves = np.asarray(found.leaves)
    log_probs = _policy(tables, temperature)
    p = np.exp(log_probs)
    first = np.bincount(leaves[:, 0], minlength=6) / DRAWS
    _close(first, p)
    pairs = np.zeros((6, 6))
    np.add.at(pairs, (leaves[:, 0], leaves[:, 1]), 1 / DRAWS)
    wanted = p[:, None] * p[None] / (1 - p[:, None])  # the second, without the first
    np.fill_diagonal(wanted, 0)
    _close(pairs, wanted)
    np.testing.assert_allclose(found.log_probs, log_probs[leaves], atol=1e-5)


def test_more_places_than_ids_draw_each_once(catalogue):
    trie, tables = catalogue
    found = draw(tables, trie, Sampling(_keys(500)), beams=9)
    leaves = np.asarray(found.leaves)
    np.testing.assert_array_equal(np.sort(leaves[:, :6], axis=1),
                                  np.broadcast_to(np.arange(6), (500, 6)))
    assert (leaves[:, 6:] == -1).all()
    assert np.isneginf(np.asarray(found.log_probs)[:, 6:]).all()


def test_a_request_draws_the_same_alone_and_among_others(catalogue):
    trie, tables = catalogue
    keys = _keys(64)
    together = draw(tables, trie, Sampling(keys), beams=4)
    alone = draw(tables, trie, Sampling(keys[17:18]), beams=4)
    np.testing.assert_array_equal(together.codes[17], alone.codes[0])
    np.testing.assert_array_equal(together.log_probs[17], alone.log_probs[0])
    assert len(np.unique(np.asarray(together.leaves), axis=0)) > 10


def test_impossible_ids_are_never_drawn(catalogue):
    trie, tables = catalogue
    shut = [np.array(table) for table in tables]
    shut[0][:, :, 0] = -np.inf  # half of the IDs
    found = draw(shut, trie, Sampling(_keys(2000)), beams=4)
    leaves = np.asarray(found.leaves)
    assert set(leaves[:, :3].ravel()) == {3, 4, 5} and (leaves[:, 3] == -1).all()
    assert not np.isnan(np.asarray(found.log_probs)).any()


def test_truncation_keeps_the_probable_children():
    p = np.array([[[0.5, 0.3, 0.15, 0.05], [0.25, 0.25, 0.5, 0.0]]])
    with np.errstate(divide="ignore"):
        log_probs = jnp.asarray(np.log(p), jnp.float32)
    keys = _keys(1)
    first = np.exp(sampling.truncate(log_probs, Sampling(keys, top_k=2)))
    np.testing.assert_allclose(  # two are equal at the edge and both stay
        first, [[[0.625, 0.375, 0, 0], [0.25, 0.25, 0.5, 0]]], atol=1e-6)
    second = np.exp(sampling.truncate(log_probs, Sampling(keys, top_p=0.6)))
    np.testing.assert_allclose(
        second, [[[0.625, 0.375, 0, 0], [0.25, 0.25, 0.5, 0]]], atol=1e-6)
    third = np.exp(sampling.truncate(log_probs, Sampling(keys, top_p=0.2)))
    np.testing.assert_allclose(third, [[[1, 0, 0, 0], [0, 0, 1, 0]]], atol=1e-6)
    nothing = jnp.full((1, 1, 3), -jnp.inf)
    assert np.isneginf(sampling.truncate(nothing, Sampling(keys, top_k=1))).all()


def test_truncated_draws_are_normalised(catalogue):
    trie, tables = catalogue
    found = draw(tables, trie, Sampling(_keys(2000), top_k=1), beams=3)
    best = max(enumerate_all(tables, 0, SIDS, normalise="legal"))
    assert (np.asarray(found.leaves)[:, 1:] == -1).all()
    np.testing.assert_allclose(np.asarray(found.log_probs)[:, 0], 0, atol=1e-6)
    assert best[0] < 0  # it was not certain before


def test_what_makes_no_sense_is_refused():
    for bad in ({"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5},
                {"temperature": 0.0}, {"temperature": -1.0}):
        with pytest.raises(ValueError, match="expected"):
            Sampling(_keys(1), **bad)
