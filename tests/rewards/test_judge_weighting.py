"""Stage B: weights of aspects, learnt from pairs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oxyrec_jax.base import InputError
from oxyrec_jax.rewards.judge import weighting
from oxyrec_jax.rewards.judge.aspects import JudgeRequest
from oxyrec_jax.rewards.judge.weighting import (FeatureSpec, Pairs, Weighting,
                                                WeightingConfig, fit_weighting)
from oxyrec_jax.thinking.states import UserState

SPEC = FeatureSpec(("home", "search"), buckets=2)
TRUE = {"home": np.array([0.7, 0.1, 0.1, 0.1]), "search": np.array([0.1, 0.2, 0, 0.7])}
CFG = {method: WeightingConfig(method=method, hidden=0, steps=400, batch=128,
                               learning_rate=3e-2, spread=0.3, draws=8)
       for method in weighting.METHODS}


def request(scenario, name="r"):
    return JudgeRequest(id=name, state=UserState("u"), scenario=scenario)


def synthetic(count=4_000, seed=0):
    """Pairs that follow `TRUE` exactly, and the requests that they belong to."""
    rng = np.random.default_rng(seed)
    scenarios = np.array(list(TRUE))[rng.integers(2, size=count)]
    scores = rng.random((count, 2, 4)).astype(np.float32)
    true = np.stack([TRUE[name] for name in scenarios])
    worth = np.einsum("pia,pa->pi", scores, true)
    order = np.argsort(-worth, axis=1)
    better, worse = np.take_along_axis(scores, order[..., None], 1).swapaxes(0, 1)
    features = SPEC.of([request(name) for name in scenarios])
    return Pairs(features, np.ones((count, 4), bool), better, worse)


@pytest.fixture(scope="module")
def fitted():
    pairs = synthetic()
    return {method: fit_weighting(pairs, SPEC, cfg, seed=0)
            for method, cfg in CFG.items()}


@pytest.mark.parametrize("method", weighting.METHODS)
def test_known_weights_are_recovered_scenario_by_scenario(fitted, method):
    found, course = fitted[method]
    assert course.shape == (400,) and course[-50:].mean() > course[:50].mean()
    for name, true in TRUE.items():
        weights = found.weights([request(name)], np.ones((1, 4), bool))[0]
        np.testing.assert_allclose(weights, true, atol=0.08)


@pytest.mark.parametrize("method", weighting.METHODS)
def test_new_pairs_are_put_in_the_right_order(fitted, method):
    held = synthetic(seed=9)
    found = fitted[method][0]
    weights = np.asarray(weighting._weights(
        weighting.WeightNet(0), found.params, held.features, held.given))
    assert (np.sum(weights * (held.better - held.worse), 1) > 0).mean() > 0.95


def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    pairs, cfg = synthetic(200), dataclasses.replace(CFG["reinforce"], steps=20)
    one, again, other = (fit_weighting(pairs, SPEC, cfg, seed=seed)[0].params
                         for seed in (1, 1, 2))
    leaves = [jax.tree.leaves(params) for params in (one, again, other)]
    assert all((a == b).all() for a, b in zip(leaves[0], leaves[1]))
    assert any((a != b).any() for a, b in zip(leaves[0], leaves[2]))


def test_weights_lie_in_the_simplex_and_leave_out_what_is_not_given(fitted):
    requests = [request(name) for name in ("home", "search", "never heard of")]
    given = np.ones((3, 4), bool)
    given[1, 3] = False
    for found in (fitted["reinforce"][0], Weighting(SPEC, CFG["reinforce"])):
        weights = found.weights(requests, given)
        assert (weights >= 0).all() and weights.dtype == np.float32
        np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-6)
        assert weights[1, 3] == 0 < weights[0, 3]


def test_weights_do_not_depend_on_who_else_is_asked_for(fitted):
    found = fitted["reinforce"][0]
    many = [request(name, str(place)) for place, name in enumerate(
        ["home", "search"] * 12)]
    together = found.weights(many, np.ones((24, 4), bool))
    np.testing.assert_allclose(together[:2], together[2:4], rtol=1e-6)
    np.testing.assert_allclose(
        found.weights(many[1:2], np.ones((1, 4), bool)), together[1:2], rtol=1e-5)


def test_scores_are_the_weighted_sum():
    given = np.array([[True, True, True, False]])
    scores = np.array([[[0.3, 0.6, 0.9, 0.0], [1, 1, 1, 0.0]]], np.float32)
    found = Weighting(SPEC, CFG["reinforce"]).scores([request("")], scores, given)
    np.testing.assert_allclose(found, [[0.6, 1.0]], rtol=1e-6)  # (.3 + .6 + .9) / 3


def test_pairs_that_are_equal_in_every_aspect_have_no_gradient():
    logits = jnp.array([[0.3, -0.2, 0.1, 0.0]])
    given, nothing = jnp.ones((1, 4), bool), jnp.zeros((1, 4))

    def objective(logits):
        return weighting.reinforce_objective(
            logits, given, nothing, jax.random.key(0), draws=8, spread=0.5)
    gradient, reward = jax.jit(jax.grad(objective, has_aux=True))(logits)
    assert (gradient == 0).all() and reward == 0.5
    gradient = jax.jit(jax.grad(lambda logits: weighting.bradley_terry_objective(
        logits, given, nothing, temperature=0.1)[0]))(logits)
    np.testing.assert_allclose(gradient, 0, atol=1e-7)


def test_the_policy_gradient_is_that_of_the_expected_reward():
    # Two aspects given, one better and one worse by as much: the drawn weights are
    # right where z1 > z2, so E[reward] = Phi((m1 - m2) / (spread sqrt 2)).
    mean, spread = np.array([0.2, -0.1, 0.0, 0.0]), 0.5
    given = jnp.array([[True, True, False, False]])
    difference = jnp.array([[0.4, -0.4, 0.0, 0.0]])

    def objective(logits, key):
        return weighting.reinforce_objective(logits, given, difference, key,
                                             draws=4_096, spread=spread)
    gradient = jax.jit(jax.vmap(jax.grad(objective, has_aux=True), (None, 0)))
    found, reward = gradient(jnp.asarray(mean, jnp.float32)[None],
                             jax.random.split(jax.random.key(0), 64))
    scale = spread * np.sqrt(2)
    gap = (mean[0] - mean[1]) / scale
    density = np.exp(-gap * gap / 2) / np.sqrt(2 * np.pi) / scale
    np.testing.assert_allclose(-np.asarray(found).mean(0)[0],
                               [density, -density, 0, 0], atol=0.01)
    from scipy.stats import norm
    np.testing.assert_allclose(np.asarray(reward).mean(), norm.cdf(gap), atol=0.005)


def test_scaling_all_score_differences_changes_no_reward():
    # The reward knows only the order, so neither does what is learnt.
    pairs, cfg = synthetic(200), dataclasses.replace(CFG["reinforce"], steps=20)
    half = dataclasses.replace(pairs, better=pairs.better / 2, worse=pairs.worse / 2)
    for one, other in zip(*(jax.tree.leaves(fit_weighting(
            given, SPEC, cfg, seed=0)[0].params) for given in (pairs, half))):
        np.testing.assert_array_equal(one, other)


def test_features_tell_requests_apart_and_nothing_of_candidates():
    spec = FeatureSpec(("home", "search"), buckets=4)
    baby = JudgeRequest("a", UserState("u", profile={"life": "baby"}), "search",
                        trigger=3, query="mug", history=(1, 2), second=6 * 3_600)
    found = spec.of([baby, request("elsewhere")])
    np.testing.assert_allclose(found[0, :7], [0, 1, 1, 1, np.log(3) / 3, 1, 0],
                               atol=1e-6)
    assert found.shape == (2, spec.width) == (2, 32)
    assert found[0, 7:11].sum() == 1 == found[0, 7:].sum() and not found[1].any()


@pytest.mark.parametrize("change, word", [
    ({"method": "guess"}, "method"), ({"draws": 1}, "draws"), ({"steps": 0}, "steps"),
    ({"spread": 0.0}, "spread"), ({"temperature": float("nan")}, "temperature")])
def test_settings_that_cannot_work_are_named(change, word):
    with pytest.raises(InputError, match=f"judge.weighting.{word}"):
        WeightingConfig(**change)


def test_no_pairs_is_said():
    none = synthetic(1)
    none = Pairs(*(values[:0] for values in dataclasses.astuple(none)))
    with pytest.raises(InputError, match="no pair"):
        fit_weighting(none, SPEC, CFG["reinforce"], seed=0)
