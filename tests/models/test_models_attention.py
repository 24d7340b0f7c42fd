"""Which way attention takes, and that every way gives the same."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny_world
from oxyrec_jax.base import InputError
from oxyrec_jax.models import attention, layers, sizes
from oxyrec_jax.models.config import ModelConfig
from oxyrec_jax.train.objective import ObjectiveConfig, supervised_loss

FIT = ModelConfig(dtype="bfloat16", positions="rotary", head_width=64)


@pytest.mark.parametrize("options, platform, name, reason", [
    ({}, "gpu", "cudnn", "bfloat16, heads of 64, rotary positions"),
    ({}, "cpu", "plain", "devices are cpu"),
    ({}, "tpu", "plain", "devices are tpu"),
    ({"positions": "relative"}, "gpu", "plain", "model.positions is 'relative'"),
    ({"dtype": "float32"}, "gpu", "plain", "model.dtype is 'float32'"),
    ({"head_width": 20}, "gpu", "plain", "model.head_width is 20"),
    ({"head_width": 256}, "gpu", "plain", "multiples of 8 up to 128"),
    ({"attention": "cudnn"}, "gpu", "cudnn", "rotary positions"),
    ({"attention": "plain"}, "gpu", "plain", "model.attention asks for it"),
    ({"attention": "xla", "positions": "relative"}, "cpu", "xla", "asks for it")])
def test_a_configuration_takes_one_way_and_tells_why(options, platform, name, reason):
    path = attention.attention_path(dataclasses.replace(FIT, **options), platform)
    assert path.name == name and reason in path.reason


@pytest.mark.parametrize("options, platform", [
    ({}, "cpu"), ({"positions": "relative"}, "gpu"), ({"dtype": "float32"}, "gpu")])
def test_a_kernel_that_cannot_be_had_is_refused(options, platform):
    cfg = dataclasses.replace(FIT, attention="cudnn", **options)
    with pytest.raises(InputError, match="model.attention is 'cudnn', which cannot be"):
        attention.attention_path(cfg, platform)


@pytest.mark.parametrize("name", sizes.SIZES)
def test_the_published_sizes_are_fused_on_a_gpu(name):
    assert attention.attention_path(sizes.SIZES[name].model, "gpu").name == "cudnn"


@pytest.mark.parametrize("option", [
    {"positions": "absolute"}, {"positions": "rotary", "head_width": 7},
    {"attention": "flash"}])
def test_an_unknown_way_is_named(option):
    with pytest.raises(InputError, match=f"model.{next(iter(option))} is"):
        ModelConfig(**option)


def operands(queries, keys, seed=0):
    rng = np.random.default_rng(seed)
    query, key, value = (jnp.asarray(rng.normal(size=(2, 3, length, 8)), jnp.float32)
                         for length in (queries, keys, keys))
    allowed = rng.random((2, 1, queries, keys)) < 0.5
    allowed[..., 0] = True
    return query, key, value, jnp.asarray(allowed)


@pytest.mark.parametrize("queries, keys", [(6, 6), (5, 7), (4, 3)])
def test_fused_attention_gives_outputs_and_gradients_of_the_plain_one(queries, keys):
    *given, allowed = operands(queries, keys)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, queries, 8)))
    bias = jnp.asarray(np.random.default_rng(2).normal(size=(1, 3, queries, keys)))

    def of(attend, **options):
        def total(query, key, value, bias):
            mixed = attend(query, key, value, bias, allowed, **options)
            return jnp.sum(mixed * weights), mixed
        return jax.jit(jax.grad(total, argnums=(0, 1, 2, 3), has_aux=True))
    plain = of(layers.attend)(*given, bias)
    fused = of(attention.attend_fused, implementation="xla")(*given, bias)
    for one, other in zip(jax.tree.leaves(fused), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("queries, keys", [(6, 6), (5, 7), (4, 3)])
def test_odd_lengths_are_evened_out_for_the_kernel_and_change_nothing(
        queries, keys, monkeypatch):
    """What the kernel is handed, given to XLA in its place."""
    *given, allowed = operands(queries, keys)
    handed, by_xla = {}, jax.nn.dot_product_attention

    def kernel(query, key, value, *, bias, mask, implementation):
        handed.update(bias=bias, shape=mask.shape, implementation=implementation)
        assert query.shape[1] == mask.shape[2] and key.shape[1] == mask.shape[3]
        return by_xla(query, key, value, mask=mask, implementation="xla")
    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    found = attention.attend_fused(*given, jnp.float32(0), allowed,
                                   implementation="cudnn")
    assert handed == {"bias": None, "implementation": "cudnn", "shape": (
        2, 1, queries + queries % 2, keys + keys % 2)}
    np.testing.assert_allclose(
        found, layers.attend(*given, jnp.float32(0), allowed), rtol=1e-4, atol=1e-5)


def test_the_kernel_is_never_given_a_bias():
    *given, allowed = operands(4, 4)
    with pytest.raises(ValueError, match="no gradient of a bias"):
        attention.attend_fused(*given, jnp.zeros((1, 3, 4, 4)), allowed,
                               implementation="cudnn")


def test_turned_products_depend_on_the_distance_alone():
    rng = np.random.default_rng(0)
    one, other = (jnp.asarray(np.tile(rng.normal(size=8), (12, 1)), jnp.float32)
                  for _ in range(2))
    scores = np.asarray(attention.rotate(one) @ attention.rotate(other).T)
    for distance in range(-11, 12):
        diagonal = np.diagonal(scores, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], rtol=1e-4, atol=1e-4)
    assert np.ptp(scores[0]) > 0.1
    np.testing.assert_allclose(np.linalg.norm(attention.rotate(one), axis=-1),
                               np.linalg.norm(one, axis=-1), rtol=1e-5)


def test_a_pair_is_turned_by_hand():
    # D = 4: rates 1 and 1/100; position 1 turns (x0, x2) by 1 and (x1, x3) by 0.01.
    x = jnp.asarray([[0.0, 0, 0, 0], [1.0, 2, 0, 0]])
    np.testing.assert_allclose(attention.rotate(x)[1], [
        np.cos(1), 2 * np.cos(0.01), np.sin(1), 2 * np.sin(0.01)], rtol=1e-6)


def test_a_packed_network_learns_the_same_through_fused_attention():
    """Encoder and cross-attention, several targets in a row, by rotary positions."""
    catalogue, _ = tiny_world.make_items()
    batch = tiny_world.make_batch()
    found = []
    for name in ("plain", "xla"):
        model = tiny_world.make_model(positions="rotary", attention=name)
        params = tiny_world.make_params(model, catalogue.tables)
        assert "bias" not in params

        def loss(params, model=model):
            return supervised_loss(model, params, batch, catalogue, jax.random.key(0),
                                   ObjectiveConfig())[0].mean()
        found.append(jax.jit(jax.value_and_grad(loss))(params))
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(other, one, rtol=2e-4, atol=1e-5)
