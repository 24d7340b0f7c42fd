"""Layers as one loop are the layers one by one: outputs, gradients, meshes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import tiny_world
from oxyrec_jax import parallel
from oxyrec_jax.models.moe import MoEConfig
from oxyrec_jax.models.stack import run_layers
from oxyrec_jax.parallel.collectives import collectives
from oxyrec_jax.train import step as step_lib
from oxyrec_jax.train.objective import ObjectiveConfig, supervised_loss

DEEP = {"encoder_layers": 2, "decoder_layers": 2}
EXPERTS = MoEConfig(experts=4, top_k=2, mlp_width=8, capacity_factor=1.0)
MODELS = {"experts": {"moe": EXPERTS, "remat": "dots"},
          "bidirectional": {"causal": False, "remat": "full"}}


def slope_of(**options):
    """The jitted loss, its terms and gradient of a network."""
    model = tiny_world.make_model(**DEEP, **options)
    catalogue, _ = tiny_world.make_items()

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def run(params, batch):
        total, terms = supervised_loss(model, params, batch, catalogue,
                                       jax.random.key(0), ObjectiveConfig())
        return total.mean(), terms
    return model, catalogue, run


@pytest.mark.parametrize("name", MODELS)
def test_a_loop_gives_the_loss_and_gradient_of_layers_one_by_one(name):
    model, catalogue, one_by_one = slope_of(**MODELS[name])
    _, _, looped = slope_of(scan=True, **MODELS[name])
    params = tiny_world.make_params(model, catalogue.tables)
    batch = tiny_world.make_batch()
    if not model.cfg.causal:
        batch |= {key: batch[key][:, :1] for key in
                  ("targets", "target_positions", "target_mask")}
    (loss, terms), slope = one_by_one(params, batch)
    (same_loss, same_terms), same_slope = looped(params, batch)
    np.testing.assert_allclose(same_loss, loss, rtol=1e-6)
    assert terms.keys() == same_terms.keys()
    for leaf, same in zip(jax.tree.leaves((terms, slope)),
                          jax.tree.leaves((same_terms, same_slope)), strict=True):
        np.testing.assert_allclose(same, leaf, rtol=2e-4, atol=2e-6)


def test_a_loop_changes_no_parameter():
    shapes = [jax.eval_shape(lambda: tiny_world.make_model(**DEEP, scan=scan).init(
        jax.random.key(0), tiny_world.make_batch(),
        tiny_world.make_items()[0].tables)) for scan in (False, True)]
    assert jax.tree.structure(shapes[0]) == jax.tree.structure(shapes[1])


def products(**options):
    """Matrix products in the program of a loss and its gradient."""
    model = tiny_world.make_model(**options)
    catalogue, _ = tiny_world.make_items()
    params = jax.eval_shape(lambda: nn.meta.unbox(model.init(
        jax.random.key(0), tiny_world.make_batch(), catalogue.tables)["params"]))

    def loss(params):
        return supervised_loss(model, params, tiny_world.make_batch(), catalogue,
                               jax.random.key(0), ObjectiveConfig())[0].mean()
    return jax.jit(jax.grad(loss)).lower(params).as_text().count("dot_general")


def test_a_deeper_loop_is_no_longer_program():
    shallow, deep = ({"encoder_layers": depth, "decoder_layers": depth}
                     for depth in (2, 5))
    assert products(**deep) > products(**shallow)
    assert products(**deep, scan=True) == products(**shallow, scan=True)


class Draws(nn.Module):
    """Adds one draw of the dropout stream."""

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones_init(), ())
        return x + scale * jax.random.uniform(self.make_rng("dropout"), x.shape)


class Stacked(nn.Module):
    scan: bool

    def setup(self):
        self.layers = [Draws() for _ in range(4)]

    def __call__(self, x):
        return run_layers(self, self.layers, lambda layer, x: layer(x), x,
                          scan=self.scan)


def test_every_turn_of_a_loop_draws_anew_and_reads_its_own_parameters():
    module = Stacked(True)

    @jax.jit
    def only(number, seed):
        """The sum of draws, of which all layers but one count nothing."""
        params = {f"layers_{layer}": {"scale": jnp.float32(layer == number)}
                  for layer in range(4)}
        return module.apply({"params": params}, jnp.zeros(3),
                            rngs={"dropout": jax.random.key(seed)})
    found = [np.asarray(only(number, seed)) for number in range(4) for seed in (0, 1)]
    assert len({value.tobytes() for value in found}) == 8


def trained(scan):
    """Losses of two steps on eight devices, and the bytes that a step sends."""
    mesh = parallel.make_mesh(parallel.MeshConfig(1, 2, 2, 2))
    cfg = step_lib.OptimizerConfig(learning_rate=0.02, warmup=0)
    model = tiny_world.make_model(**DEEP, moe=dataclasses.replace(
        EXPERTS, capacity_factor=0.0), remat="dots", scan=scan)
    step, state, batch, catalogue = tiny_world.make_step(
        model, cfg, mesh, tiny_world.make_batch(8, 6))
    compiled = step.lower(state, batch, catalogue).compile()
    losses = []
    for _ in range(2):
        state, figures = compiled(state, batch, catalogue)
        losses.append(float(figures["loss"]))
    return losses, sum(one.bytes for one in collectives(compiled.as_text()))


@pytest.mark.slow
def test_on_a_mesh_a_loop_gives_the_same_losses_and_sends_no_more():
    one_by_one, sent = trained(False)
    looped, sent_by_loop = trained(True)
    np.testing.assert_allclose(looped, one_by_one, rtol=1e-4)
    assert sent_by_loop < 1.1 * sent
