"""A search goes on through a changing catalogue: nothing compiled, nobody forgotten."""

import jax.numpy as jnp
import numpy as np
import pytest

import tiny_world
from oxyrec_jax.decode.beam import expand_items
from oxyrec_jax.decode.recommend import recommend
from oxyrec_jax.models.memory import Successors
from oxyrec_jax.tokenizer.catalogue import make_catalogue

WIDTHS, ROWS, BEAMS = (3, 2, 4), 20, 14
CODES = tiny_world.make_codes(18, WIDTHS)  # four more than the 14 of the beginning
MODEL = tiny_world.make_model(ROWS, WIDTHS, memory=True, item_head=True)


def requests():
    return {"items": np.array([[3, 1, 1, 7], [5, 2, 0, 0]], np.int32),
            "segments": np.array([[1, 1, 1, 1], [1, 1, 0, 0]], np.int32),
            "target_positions": np.array([[3], [1]], np.int32)}


def catalogue_of(items, *, retired=(), rows=ROWS, at_least=None):
    gone = np.zeros(items, bool)
    gone[list(retired)] = True
    followed = np.random.default_rng(0).integers(0, 12, (12, 4)).astype(np.int32)
    return make_catalogue(
        CODES[:items], WIDTHS, popularity=np.zeros(items), retired=gone, rows=rows,
        successors=Successors(jnp.asarray(followed), jnp.ones((12, 4), jnp.float32)),
        at_least=at_least)


@pytest.fixture(scope="module")
def begun():
    return catalogue_of(14)


@pytest.fixture(scope="module")
def params(begun):
    return tiny_world.make_params(MODEL, begun[0].tables)


def test_a_search_is_not_compiled_again_when_items_come_and_go(begun, params):
    first = recommend(MODEL, params, requests(), begun[0], beams=BEAMS)
    compiled = recommend._cache_size()
    for items, retired in ((16, ()), (16, (2, 13)), (18, (2, 13, 17))):
        now, leaves = catalogue_of(items, retired=retired, at_least=begun[0].trie)
        found = recommend(MODEL, params, requests(), now, beams=BEAMS)
        assert recommend._cache_size() == compiled
        lists = expand_items(found, leaves, limit=BEAMS)
        assert set(lists.ravel().tolist()) <= {
            -1, *range(items)} - set(retired)
        assert (found.log_probs != first.log_probs).any()


@pytest.mark.parametrize("retired", [(), (0, 5, 11)], ids=["all live", "some retired"])
def test_all_that_may_be_found_sums_to_one(retired, begun, params):
    now, leaves = catalogue_of(14, retired=retired, at_least=begun[0].trie)
    found = recommend(MODEL, params, requests(), now, beams=BEAMS)
    assert len(leaves) == 14 - len(retired)
    assert ((np.asarray(found.leaves) >= 0).sum(1) == len(leaves)).all()
    np.testing.assert_allclose(np.exp(found.log_probs).sum(1), 1, rtol=1e-5)


def test_rows_without_items_change_nothing(begun, params):
    short, _ = catalogue_of(14, rows=14)
    assert short.tables.live is None
    padded, exact = (recommend(MODEL, params, requests(), items, beams=BEAMS)
                     for items in (begun[0], short))
    np.testing.assert_array_equal(padded.leaves, exact.leaves)
    np.testing.assert_allclose(padded.log_probs, exact.log_probs, atol=1e-5)


def test_a_retired_item_gives_its_chance_to_the_others_in_proportion(begun, params):
    """Of the item head, on which the gate is set; the exact search tells all."""
    alone = {**params, "gate_bias": jnp.array([-40.0, -40.0, 40.0])}
    now, fewer = catalogue_of(14, retired=(4,), at_least=begun[0].trie)
    chances = []
    for catalogue, leaves in (begun, (now, fewer)):
        found = recommend(MODEL, alone, requests(), catalogue, beams=BEAMS)
        lists = expand_items(found, leaves, limit=BEAMS)
        chances.append([dict(zip(items.tolist(), np.exp(log_probs).tolist()))
                        for items, log_probs in zip(lists, found.log_probs)])
    for before, after in zip(*chances):
        rest = 1 - before.pop(4)
        after.pop(-1)
        assert after.keys() == before.keys()
        for item, chance in before.items():
            np.testing.assert_allclose(after[item], chance / rest, rtol=1e-3)
