"""A network that decodes all codes at once: the same search, exact, no code is read."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny_world
from oxyrec_jax.base import InputError
from oxyrec_jax.decode import rollout
from oxyrec_jax.decode.recommend import recommend
from oxyrec_jax.models.config import ModelConfig

ITEMS, WIDTHS = 12, (3, 2, 4)


@pytest.fixture(scope="module", params=["level", "shared"])
def world(request):
    model = tiny_world.make_model(ITEMS, WIDTHS, decoding="parallel", decoder_layers=2,
                                  head=request.param)
    catalogue, leaves = tiny_world.make_items(ITEMS, WIDTHS)
    params = tiny_world.make_params(model, catalogue.tables)
    return model, catalogue, leaves, jax.tree.map(lambda leaf: leaf * 3, params)


def requests(targets=None):
    real = np.arange(5)[None] < np.array([4, 3])[:, None]
    batch = {"items": np.array([[3, 1, 1, 7, 0], [5, 5, 2, 0, 0]], np.int32),
             "segments": real.astype(np.int32),
             "target_positions": np.array([[3], [2]], np.int32)}
    if targets is not None:
        batch["targets"] = np.tile(np.array(targets, np.int32), (2, 1))
        batch["target_positions"] = np.repeat(batch["target_positions"], len(targets),
                                              axis=1)
    return batch


def test_logits_depend_on_the_history_and_not_on_the_codes(world):
    model, catalogue, _, params = world
    logits, _ = tiny_world.forward(model, params, requests(range(ITEMS)),
                                   catalogue.tables)
    for rows in logits:
        np.testing.assert_allclose(rows, np.broadcast_to(rows[:, :1], rows.shape),
                                   rtol=1e-5, atol=1e-5)
        assert np.abs(np.asarray(rows[0, 0] - rows[1, 0])).max() > 0.01


def test_the_search_is_exact_over_all_items(world):
    model, catalogue, leaves, params = world
    found = recommend(model, params, requests(), catalogue, beams=ITEMS)
    logits, _ = tiny_world.forward(model, params, requests([0]), catalogue.tables)
    codes = np.asarray(catalogue.tables.codes)
    np.testing.assert_allclose(np.exp(found.log_probs).sum(1), 1, rtol=1e-5)
    for row, item in itertools.product(range(2), range(ITEMS)):
        expected = 0.0
        for level, width in enumerate(WIDTHS):
            same = (codes[:, :level] == codes[item, :level]).all(1)
            legal = np.unique(codes[same, level])
            begin = sum(WIDTHS[:level]) if model.cfg.head == "shared" else 0
            scores = np.asarray(logits[level][row, 0], np.float64)[begin:begin + width]
            expected += scores[codes[item, level]] - np.log(np.exp(scores[legal]).sum())
        place = np.asarray(found.leaves[row]).tolist().index(leaves.of_items()[item])
        np.testing.assert_allclose(found.log_probs[row, place], expected, atol=1e-4)


def test_rollouts_score_codes_as_the_search_does(world):
    model, catalogue, leaves, params = world
    found = recommend(model, params, requests(), catalogue, beams=4)
    items = rollout.first_items(leaves)[found.leaves]
    scores = jax.jit(rollout.code_log_probs, static_argnums=0)(
        model, params, requests(), catalogue, items)
    np.testing.assert_allclose(jnp.sum(scores, axis=-1), found.log_probs,
                               rtol=1e-5, atol=1e-5)


def test_another_way_of_decoding_is_refused():
    with pytest.raises(InputError, match="decoding"):
        ModelConfig(decoding="backwards")
