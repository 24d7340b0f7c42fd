"""One step: optimisers, accumulation, averaging, and the same curve on any mesh."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

import tiny_world
from oxyrec_jax import parallel
from oxyrec_jax.base import InputError
from oxyrec_jax.train import step as step_lib
from oxyrec_jax.train.step import OptimizerConfig

STEPS = 4


def curve(cfg, *, mesh=None, steps=STEPS, rows=8, same_batch=False, **options):
    """Losses of a few steps, the last state, and how often the step compiled."""
    mesh = mesh or tiny_world.one_device()
    model = tiny_world.make_model(**options)
    step, state, _, catalogue = tiny_world.make_step(
        model, cfg, mesh, tiny_world.make_batch(rows, seed=0))
    batches = [parallel.global_batch(
        tiny_world.make_batch(rows, seed=0 if same_batch else number), mesh)
        for number in range(steps)]
    rows = []
    for batch in batches:
        state, figures = step(state, batch, catalogue)
        rows.append({name: float(value) for name, value in figures.items()})
    return rows, state, step._cache_size()


PLAIN = OptimizerConfig(learning_rate=0.01, warmup=2)


@pytest.mark.slow
def test_eight_devices_give_the_curve_of_one_and_compile_once():
    cfg = dataclasses.replace(PLAIN, ema=0.9)
    expected, last, _ = curve(cfg)
    for sizes in ((8, 1, 1), (2, 2, 2)):
        mesh = parallel.make_mesh(parallel.MeshConfig(*sizes))
        found, state, compiled = curve(cfg, mesh=mesh)
        assert compiled == 1
        for one, other in zip(found, expected, strict=True):
            for name, value in other.items():
                np.testing.assert_allclose(one[name], value, rtol=2e-4)
        for one, other in zip(jax.tree.leaves(state.best_params()),
                              jax.tree.leaves(last.best_params()), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-2, atol=2e-4)


@pytest.mark.slow
def test_micro_batches_give_the_curve_of_the_whole():
    whole, _, _ = curve(PLAIN)
    for mesh in (None, parallel.make_mesh(parallel.MeshConfig(2, 2, 2))):
        parts, _, _ = curve(dataclasses.replace(PLAIN, accumulate=2), mesh=mesh)
        for one, other in zip(parts, whole, strict=True):
            for name, value in other.items():
                np.testing.assert_allclose(one[name], value, rtol=2e-4)


def test_micro_batches_that_do_not_divide_the_batch_are_refused():
    with pytest.raises(InputError, match="accumulate is 3, which does not divide the"):
        curve(dataclasses.replace(PLAIN, accumulate=3), steps=1)


@pytest.mark.parametrize("cfg", [
    OptimizerConfig(name="adamw", learning_rate=0.02, warmup=0),
    OptimizerConfig(name="lion", learning_rate=0.003, warmup=0, clip_norm=0.0),
    OptimizerConfig(name="adafactor", learning_rate=0.02, warmup=0),
    OptimizerConfig(learning_rate=0.02, schedule="constant", warmup=0)],
    ids=["adamw", "lion", "adafactor", "constant"])
def test_every_optimiser_lowers_the_loss_from_its_first_step(cfg):
    rows, _, _ = curve(cfg, same_batch=True, steps=6)
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.05


def test_adafactor_factors_wide_tables_on_a_mesh():
    mesh = parallel.make_mesh(parallel.MeshConfig(2, 2, 2))
    cfg = OptimizerConfig(name="adafactor", learning_rate=0.02, warmup=0)
    rows, _, _ = curve(cfg, mesh=mesh, steps=1, width=128, mlp_width=128)
    assert np.isfinite(rows[0]["loss"])


def rates(cfg, steps=20):
    """The learning rate of each step, read from plain gradient signs."""
    optimizer = step_lib.make_optimizer(dataclasses.replace(
        cfg, name="lion", weight_decay=0.0, clip_norm=0.0), steps)
    params = {"x": np.float32(1)}
    state, found = optimizer.init(params), []
    for _ in range(steps):
        updates, state = optimizer.update({"x": np.float32(1)}, state, params)
        found.append(-float(updates["x"]))
    return np.array(found)


def test_schedules_by_hand():
    cfg = OptimizerConfig(learning_rate=1.0, warmup=4, final_fraction=0.1)
    cosine = rates(cfg)
    np.testing.assert_allclose(cosine[:5], [0, 0.25, 0.5, 0.75, 1], rtol=1e-5)
    np.testing.assert_allclose(  # half way from 4 to 20 the cosine is at (1 + 0.1) / 2
        cosine[12], 0.55, rtol=1e-5)
    assert (np.diff(cosine[4:]) < 0).all() and cosine[-1] > 0.1
    constant = rates(dataclasses.replace(cfg, schedule="constant"))
    np.testing.assert_allclose(constant[:6], [0, 0.25, 0.5, 0.75, 1, 1], rtol=1e-5)
    np.testing.assert_array_equal(
        rates(dataclasses.replace(cfg, schedule="constant", warmup=0)), 1)
    assert rates(dataclasses.replace(cfg, warmup=0))[0] == 1


def test_weight_decay_leaves_vectors_alone():
    optimizer = step_lib.make_optimizer(OptimizerConfig(
        learning_rate=1.0, warmup=0, weight_decay=0.5, schedule="constant"), 10)
    params = {"matrix": np.ones((2, 2), np.float32), "scale": np.ones(2, np.float32)}
    updates, _ = optimizer.update(jax.tree.map(np.zeros_like, params),
                                  optimizer.init(params), params)
    np.testing.assert_allclose(updates["matrix"], -0.5)
    np.testing.assert_array_equal(updates["scale"], 0)


def test_gradients_above_the_norm_shrink():
    clipped = optax.clip_by_global_norm(1.0)
    gradient = {"x": np.float32([3, 4])}
    np.testing.assert_allclose(clipped.update(gradient, clipped.init(gradient))[0]["x"],
                               [0.6, 0.8], rtol=1e-6)
    tight, _, _ = curve(dataclasses.replace(PLAIN, clip_norm=1e-9, weight_decay=0.0,
                                            name="lion", b1=0.0), steps=1)
    assert tight[0]["gradient_norm"] > 0.1  # the figure tells the norm before


def test_the_average_follows_its_formula():
    cfg = dataclasses.replace(PLAIN, ema=0.5)
    _, first, _ = curve(cfg, steps=1, same_batch=True)
    _, second, _ = curve(cfg, steps=2, same_batch=True)
    # After 1 and 2 steps the decays are min(.5, 1/10) and min(.5, 2/11).
    for average, before, now in zip(
            *map(jax.tree.leaves, (second.ema, first.ema, second.params)), strict=True):
        np.testing.assert_allclose(average, np.asarray(before) * (2 / 11) + np.asarray(
            now) * (9 / 11), rtol=1e-5, atol=1e-7)
    assert second.best_params() is second.ema


def test_without_an_average_the_parameters_are_evaluated():
    _, state, _ = curve(PLAIN, steps=1)
    assert state.ema == () and state.best_params() is state.params


@pytest.mark.parametrize("options, said", [
    ({"name": "sgd"}, "optimizer.name is 'sgd'"),
    ({"schedule": "linear"}, "optimizer.schedule is 'linear'")])
def test_an_unknown_choice_is_named(options, said):
    with pytest.raises(InputError, match=said):
        step_lib.make_optimizer(OptimizerConfig(**options), 10)
