"""Experience and update: what they hold by hand, and a shop of twelve items solved."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tiny_world
from oxyrec_jax.base import InputError
from oxyrec_jax.decode import rollout
from oxyrec_jax.rewards import mapping as rewards
from oxyrec_jax.train.align import appraise, draw, update
from oxyrec_jax.train.align_settings import AlignConfig
from oxyrec_jax.train.policy import PolicyConfig

ITEMS, WIDTHS, REQUESTS = 12, (3, 2, 4), 3
code_log_probs = jax.jit(rollout.code_log_probs, static_argnums=0,
                         static_argnames="normalise")
BEST = jnp.array([2, 7, 10])  # what each request's user wants


def signals_of(batch, items):
    """How near an item's number is to the wanted one, and its parity as meaning."""
    distance = jnp.abs(items - BEST[:, None]).astype(jnp.float32)
    return {"near": -distance, "semantic": (items % 2).astype(jnp.float32)}


def near_alone(batch, items):
    return {"near": signals_of(batch, items)["near"]}


@functools.cache
def world():
    model = tiny_world.make_model(ITEMS, WIDTHS)
    catalogue, leaves = tiny_world.make_items(ITEMS, WIDTHS, distinct=True)
    lengths = np.array([4, 3, 1])
    batch = {"items": np.array([[3, 1, 1, 7, 0], [5, 5, 2, 0, 0], [11, 0, 0, 0, 0]],
                               np.int32),
             "segments": (np.arange(5)[None] < lengths[:, None]).astype(np.int32),
             "target_positions": lengths[:, None].astype(np.int32) - 1,
             "targets": np.array(BEST, np.int32)[:, None],
             "asked_scenario": np.array([0, 1, 0], np.int32)}
    return (model, catalogue, rollout.first_items(leaves),
            tiny_world.make_params(model, catalogue.tables),
            jax.tree.map(jnp.asarray, batch))


def fitted(*names):
    log = {"near": -np.arange(ITEMS, dtype=float), "semantic": np.array([0.0, 1.0])}
    weights = {"near": 3.0, "semantic": 1.0}
    return rewards.fit_mapping(
        log, {name: rewards.Component("quantile", weights[name]) for name in names},
        ("home", "cart"))


def with_logged(batch, cfg, fill=-1):
    return {**batch, "logged": jnp.full((REQUESTS, cfg.logged), fill, jnp.int32)}


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def gain_experience(model, cfg, signals, params, reference, batch, catalogue, preferred,
                    mapping, rng):
    """Draws and appraises, in one program."""
    found = draw(model, cfg, params, batch, catalogue, preferred, rng)
    return appraise(model, cfg, params, reference, batch, catalogue, found,
                    jax.tree_util.Partial(signals), mapping)


def test_an_experience_holds_what_each_part_says():
    model, catalogue, preferred, params, batch = world()
    cfg = AlignConfig(group=6, synthetic=0.5, policy=PolicyConfig("a2po"))
    other = jax.tree.map(lambda leaf: leaf * 1.1, params)
    batch = with_logged(batch, cfg, 4)
    seen = gain_experience(model, cfg, signals_of, params, other, batch, catalogue,
                           preferred, fitted("near", "semantic"), jax.random.key(0))
    items = seen.rollouts.items
    assert seen.rollouts.synthetic.sum(1).tolist() == [5, 5, 5]  # item 4 is logged
    for name, policy in (("old", params), ("reference", other)):
        np.testing.assert_allclose(
            getattr(seen, name), code_log_probs(model, policy, batch, catalogue, items),
            rtol=1e-5, atol=1e-6)
    distance = np.abs(np.asarray(items) - np.asarray(BEST)[:, None])
    np.testing.assert_array_equal(seen.signals["near"][:, :-1], -distance)
    np.testing.assert_array_equal(seen.signals["near"][:, -1], 0)
    # 12 logged distances: a candidate at distance d lies above 11 - d of them and half
    # of its own; the semantic stream, 1/4 or 3/4, is kept apart from the business.
    np.testing.assert_allclose(seen.rewards, (11.5 - distance) / 12, atol=1e-5)
    np.testing.assert_allclose(seen.target_rewards, 11.5 / 12, atol=1e-5)
    np.testing.assert_allclose(seen.semantic, 0.25 + 0.5 * (np.asarray(items) % 2))
    assert seen.silent.shape == (2,) and float(seen.silent[0]) == 0
    np.testing.assert_allclose(seen.parts, [np.mean(seen.rewards),
                                            np.mean(seen.semantic)], rtol=1e-5)
    # Few of the 24 code triples are items: mass is lost outside the trie.
    whole = code_log_probs(model, params, batch, catalogue, items, normalise="full")
    lost = np.exp(np.sum(np.asarray(whole) - np.asarray(seen.old), axis=-1))
    np.testing.assert_allclose(seen.legality, lost.mean(), rtol=1e-5)
    assert 0 < float(seen.legality) < 1


def test_a_unified_reward_is_the_weighted_mean_of_both():
    model, catalogue, preferred, params, batch = world()
    cfg = AlignConfig(group=4, synthetic=1.0, draw="beam", policy=PolicyConfig("grpo"))
    seen = gain_experience(model, cfg, signals_of, params, params,
                           with_logged(batch, cfg), catalogue, preferred,
                           fitted("near", "semantic"), jax.random.key(0))
    distance = np.abs(np.asarray(seen.rollouts.items) - np.asarray(BEST)[:, None])
    parity = 0.25 + 0.5 * (np.asarray(seen.rollouts.items) % 2)
    np.testing.assert_allclose(
        seen.rewards, (3 * (11.5 - distance) / 12 + parity) / 4, atol=1e-5)
    assert seen.semantic is None


def test_of_two_streams_a_group_that_nobody_judged_has_one():
    model, catalogue, preferred, params, batch = world()
    cfg = AlignConfig(group=6, synthetic=1.0, anchor=0.0, policy=PolicyConfig("a2po"))
    batch = with_logged(batch, cfg)
    seen = gain_experience(model, cfg, near_alone, params, params, batch, catalogue,
                           preferred, fitted("near"), jax.random.key(1))
    assert seen.semantic is None
    optimizer = optax.sgd(1e-3)

    def after(cfg, seen):
        return jax.jit(functools.partial(update, model, cfg, optimizer))(
            params, optimizer.init(params), batch, catalogue, seen)[0]
    with pytest.raises(ValueError, match="a2po needs semantic rewards"):
        after(cfg, seen)
    parity = jnp.asarray(seen.rollouts.items % 2, jnp.float32)
    judged = dataclasses.replace(seen, semantic=parity, judged=jnp.zeros(3, bool))
    alone = dataclasses.replace(cfg, policy=PolicyConfig("grpo"))
    jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, atol=1e-7),
                 after(cfg, judged), after(alone, seen))
    every = dataclasses.replace(judged, judged=jnp.ones(3, bool))
    moved = jax.tree.map(lambda one, two: float(jnp.abs(one - two).max()),
                         after(cfg, every), after(alone, seen))
    assert max(jax.tree.leaves(moved)) > 1e-6


def test_the_first_update_moves_by_the_advantages_and_the_anchor_by_the_choice():
    model, catalogue, preferred, params, batch = world()
    cfg = AlignConfig(group=6, synthetic=1.0, anchor=0.0, policy=PolicyConfig("grpo"))
    batch = with_logged(batch, cfg)
    seen = gain_experience(model, cfg, near_alone, params, params, batch, catalogue,
                           preferred, fitted("near"), jax.random.key(1))
    rate = 1e-3
    optimizer = optax.sgd(rate)
    moved, _, figures = jax.jit(functools.partial(update, model, cfg, optimizer))(
        params, optimizer.init(params), batch, catalogue, seen)
    raw = np.asarray(seen.rewards, np.float64)
    advantage = (raw - raw.mean(1, keepdims=True)) / (
        raw.std(1, ddof=1, keepdims=True) + 1e-4)

    def pull(params):  # what GRPO's gradient is while every ratio is 1
        log_probs = code_log_probs(model, params, batch, catalogue,
                                   seen.rollouts.items)
        return jnp.mean(jnp.asarray(advantage, jnp.float32) * log_probs.mean(-1))
    wanted = jax.tree.map(lambda leaf, slope: leaf + rate * slope, params,
                          jax.jit(jax.grad(pull))(params))
    jax.tree.map(lambda one, two: np.testing.assert_allclose(
        one, two, rtol=1e-4, atol=1e-6), moved, wanted)
    assert float(figures["synthetic"]) == 1
    np.testing.assert_allclose(figures["reward"], raw.mean(), rtol=1e-5)


def test_every_request_learns_its_best_item():
    model, catalogue, preferred, params, batch = world()
    cfg = AlignConfig(group=6, synthetic=0.67, anchor=0.0, updates=2,
                      policy=PolicyConfig("sa-gcpo"))
    batch = with_logged(batch, cfg)
    batch["logged"] = batch["logged"].at[:, 0].set(BEST)  # what was really chosen
    optimizer = optax.adam(0.005)
    mapping, reference = fitted("near"), params
    learn = jax.jit(functools.partial(update, model, cfg, optimizer))

    def chance(params):
        return np.exp(code_log_probs(model, params, batch, catalogue,
                                     BEST[:, None]).sum(-1)[:, 0])
    before, moments, rewarded = chance(params), optimizer.init(params), []
    for key in jax.random.split(jax.random.key(0), 40):
        seen = gain_experience(model, cfg, near_alone, params, reference, batch,
                               catalogue, preferred, mapping, key)
        for _ in range(cfg.updates):
            params, moments, figures = learn(params, moments, batch, catalogue, seen)
        rewarded.append(float(figures["reward"]))
    assert (before < 0.4).all() and (chance(params) > 0.6).all()
    assert np.mean(rewarded[-5:]) > np.mean(rewarded[:5])


def test_settings_that_make_no_sense_are_refused():
    for name, bad in (("group", 1), ("synthetic", 1.2), ("draw", "greedy"),
                      ("temperature", 0.0), ("normalise", "none"), ("anchor", -1.0),
                      ("steps", 0), ("staleness", 0), ("reward", {})):
        with pytest.raises(InputError, match=f"align.{name} is"):
            AlignConfig(**{name: bad})
