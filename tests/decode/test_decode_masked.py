"""A masked decoder in the search: the chain rule over its passes, exactly."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny_world
from oxyrec_jax.decode import rollout
from oxyrec_jax.decode.recommend import recommend

ITEMS, WIDTHS = 12, (3, 2, 4)


@pytest.fixture(scope="module")
def world():
    model = tiny_world.make_model(ITEMS, WIDTHS, decoding="masked", head="shared",
                                  decoder_layers=2)
    catalogue, leaves = tiny_world.make_items(ITEMS, WIDTHS)
    params = tiny_world.make_params(model, catalogue.tables)
    return model, catalogue, leaves, jax.tree.map(lambda leaf: leaf * 3, params)


def requests():
    real = np.arange(5)[None] < np.array([4, 3])[:, None]
    return {"items": np.array([[3, 1, 1, 7, 0], [5, 5, 2, 0, 0]], np.int32),
            "segments": real.astype(np.int32),
            "target_positions": np.array([[3], [2]], np.int32)}


@pytest.fixture(scope="module")
def by_training(world):
    """`[T, 2, N]`: log-probability of each level's code of every item, by number of
    codes shown, from the forward pass of training; legal children, float64."""
    model, catalogue, _, params = world
    codes = np.asarray(catalogue.tables.codes)
    forward = jax.jit(lambda batch: model.apply({"params": params}, batch,
                                                catalogue.tables)[0])
    found = np.zeros((3, 3, 2, ITEMS))
    for shown in range(3):
        batch = requests()
        batch |= {"targets": np.tile(np.arange(ITEMS, dtype=np.int32), (2, 1)),
                  "target_positions": np.repeat(batch["target_positions"], ITEMS, 1),
                  "hidden": np.broadcast_to(np.arange(3) >= shown, (2, ITEMS, 3))}
        logits = forward(batch)
        for row, item, level in itertools.product(range(2), range(ITEMS), range(3)):
            same = (codes[:, :level] == codes[item, :level]).all(1)
            legal = np.unique(codes[same, level])
            begin = model.starts[level]
            scores = np.asarray(logits[level][row, item], np.float64)[begin:]
            found[shown, level, row, item] = (
                scores[codes[item, level]] - np.log(np.exp(scores[legal]).sum()))
    return found


@pytest.mark.parametrize("passes, shown", [(1, (0, 0, 0)), (2, (0, 1, 1)),
                                           (3, (0, 1, 2))])
def test_the_search_gives_the_chain_rule_over_its_passes(world, by_training, passes,
                                                         shown):
    model, catalogue, leaves, params = world
    model = model.clone(cfg=dataclasses.replace(model.cfg, passes=passes))
    found = recommend(model, params, requests(), catalogue, beams=ITEMS)
    np.testing.assert_allclose(np.exp(found.log_probs).sum(1), 1, rtol=1e-5)
    expected = sum(by_training[known, level] for level, known in enumerate(shown))
    leaf_of = leaves.of_items()
    for row, item in itertools.product(range(2), range(ITEMS)):
        place = np.asarray(found.leaves[row]).tolist().index(leaf_of[item])
        np.testing.assert_allclose(found.log_probs[row, place], expected[row, item],
                                   atol=1e-4)


def test_the_number_of_passes_changes_the_answer(by_training):
    one, two, three = (sum(by_training[known, level]
                           for level, known in enumerate(seen))
                       for seen in ((0, 0, 0), (0, 1, 1), (0, 1, 2)))
    assert np.abs(one - two).max() > 0.01 and np.abs(two - three).max() > 0.01


def test_a_narrow_search_scores_its_results_as_rollouts_do(world):
    model, catalogue, leaves, params = world
    model = model.clone(cfg=dataclasses.replace(model.cfg, passes=2))
    found = recommend(model, params, requests(), catalogue, beams=4)
    items = rollout.first_items(leaves)[found.leaves]
    scores = jax.jit(lambda items: rollout.code_log_probs(
        model, params, requests(), catalogue, items))(items)
    np.testing.assert_allclose(jnp.sum(scores, axis=-1), found.log_probs,
                               rtol=1e-5, atol=1e-5)
