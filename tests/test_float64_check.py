"""The loss in float64 that benchmarks/gpu.py checks devices by is the package's."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny_world
from oxyrec_jax.train.objective import ObjectiveConfig, supervised_loss


@pytest.fixture(scope="module")
def float64(load_file):
    return load_file("benchmarks/float64.py")


def test_both_give_one_loss_and_gradient(float64):
    cfg = dataclasses.replace(float64.CONFIG, width=16, head_width=8, mlp_width=24,
                              encoder_layers=1, decoder_layers=1)
    model = tiny_world.make_model(**dataclasses.asdict(cfg) | {
        name: getattr(cfg, name) for name in ("moe", "instructions", "retrieval")})
    catalogue, _ = tiny_world.make_items()
    batch = tiny_world.make_batch(segments=[[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    batch |= {key: batch[key][:, -1:] for key in ("targets", "target_positions",
                                                  "target_mask")}
    params = tiny_world.make_params(model, catalogue.tables)
    value, slope = float64.loss_and_gradient(
        cfg, tiny_world.WIDTHS, params, batch, np.asarray(catalogue.tables.codes))

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        return supervised_loss(model, params, batch, catalogue, jax.random.key(0),
                               ObjectiveConfig())[0].mean()
    found, own = loss(params)
    assert jnp.zeros(1).dtype == np.float32  # float64 is left behind there
    np.testing.assert_allclose(found, value, rtol=1e-5)
    assert jax.tree.structure(own) == jax.tree.structure(slope)
    for one, other in zip(jax.tree.leaves(own), jax.tree.leaves(slope), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
