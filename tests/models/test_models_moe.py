"""Experts beside dense routing by hand, on every mesh, and in the search."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import tiny_world
from oxyrec_jax import parallel
from oxyrec_jax.base import InputError
from oxyrec_jax.decode.recommend import recommend
from oxyrec_jax.decode.rollout import code_log_probs
from oxyrec_jax.models import moe

ROWS, LENGTH, WIDTH, HIDDEN, EXPERTS = 8, 6, 8, 12, 8
CONFIG = moe.MoEConfig(EXPERTS, 2)


def make_x(seed=0):
    return np.random.default_rng(seed).normal(
        size=(ROWS, LENGTH, WIDTH)).astype(np.float32)


def make_real(seed=1):
    return np.random.default_rng(seed).random((ROWS, LENGTH)) < 0.8


def make_params(cfg):
    boxed = jax.jit(lambda: moe.MoE(cfg, HIDDEN).init(
        jax.random.key(0), jnp.asarray(make_x()), train=True))()["params"]
    return jax.tree.map(lambda leaf: 3 * leaf, nn.meta.unbox(boxed))


def run(cfg, params, *, mesh=None, x=None, real=None, train=True):
    """Outputs and what the router did."""
    layer = moe.MoE(cfg, HIDDEN, mesh)
    x = jnp.asarray(make_x()) if x is None else x
    found, sown = layer.apply({"params": params}, x, train=train, real=real,
                              mutable=[moe.COLLECTION])
    return found, moe.router_terms(sown)


def silu(x):
    return x / (1 + np.exp(-x))


def by_hand(cfg, params, x, real):
    """Every expert sees every position; NumPy float64, one position at a time."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    out, dropped = np.zeros(x.shape), 0
    capacity = cfg.capacity(x.shape[1]) if cfg.capacity_factor else 10**9
    for row in range(len(x)):
        logits = x[row].astype(np.float64) @ params["router"]["kernel"]
        probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        order = np.argsort(-probs, axis=-1, kind="stable")[:, :cfg.top_k]
        taken = np.zeros(cfg.experts, int)
        for choice in range(cfg.top_k):
            for place in range(x.shape[1]):
                expert = order[place, choice]
                if cfg.capacity_factor and not real[row, place]:
                    continue
                if taken[expert] == capacity:
                    dropped += 1
                    continue
                taken[expert] += 1
                gate, up, down = (params[name][expert]
                                  for name in ("gate", "up", "down"))
                said = (silu(x[row, place] @ gate) * (x[row, place] @ up)) @ down
                weight = probs[place, expert]
                if cfg.top_k > 1:
                    weight = weight / probs[place, order[place]].sum()
                out[row, place] += weight * said
    if cfg.shared:
        gate, up, down = (params["shared"][name]["kernel"]
                          for name in ("gate", "up", "down"))
        out += (silu(x @ gate) * (x @ up)) @ down
    return out, dropped / (real.sum() * cfg.top_k)


@pytest.mark.parametrize("options", [
    {}, {"top_k": 1}, {"shared": 2}, {"capacity_factor": 1.0},
    {"capacity_factor": 0.5, "top_k": 3}, {"capacity_factor": 8.0},
    {"experts": 5, "mlp_width": 7}], ids=str)
def test_experts_are_dense_routing_by_hand(options):
    cfg, real = dataclasses.replace(CONFIG, **options), make_real()
    params = make_params(cfg)
    expected, dropped = by_hand(cfg, params, make_x(), real)
    found, terms = jax.jit(lambda params: run(cfg, params, real=real))(params)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(terms["router_dropped"].mean(), dropped, rtol=1e-6)
    assert (dropped > 0) == (0 < cfg.capacity_factor < 8)
    if not cfg.capacity_factor:
        return
    answered, _ = jax.jit(lambda params: run(cfg, params, train=False))(params)
    free, _ = by_hand(dataclasses.replace(cfg, capacity_factor=0.0), params, make_x(),
                      real)
    np.testing.assert_allclose(answered, free, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("capacity, meshes", [
    (0.0, [(1, 1, 1, 4), (1, 1, 2, 2, 2)]), (1.0, [(2,), (2, 1, 1, 4)])],
    ids=str)
def test_every_mesh_gives_the_layer_and_the_gradient_of_one_device(capacity, meshes):
    cfg = dataclasses.replace(CONFIG, capacity_factor=capacity, shared=1)
    params, real = make_params(cfg), make_real()

    def figures(mesh):
        def loss(params, x):
            found, terms = run(cfg, params, mesh=mesh, x=x, real=real)
            return jnp.sum(found**2) + moe.router_loss(cfg, terms), (found, terms)
        x = parallel.global_batch({"x": make_x()}, mesh or tiny_world.one_device())["x"]
        return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, x)

    expected = jax.tree.leaves(figures(None))
    for sizes in meshes:
        devices = jax.devices()[:int(np.prod(sizes))]
        found = figures(parallel.make_mesh(parallel.MeshConfig(*sizes), devices))
        for one, other in zip(jax.tree.leaves(found), expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-4)


def test_places_by_hand():
    # Expert 0: positions 0, 1 by first choice; 3 by second finds it full. Position 2 is
    # padding. Expert 1: position 3 first, then the second choices of 0 and 1: one place
    # is left for 0.
    chosen = jnp.array([[0, 1], [0, 1], [0, 1], [1, 0]])
    found = moe.place_in_experts(chosen, jnp.array([True, True, False, True]), 2, 2)
    np.testing.assert_array_equal(found, [[0, 3], [1, 4], [4, 4], [2, 4]])


def test_what_the_router_did_by_hand():
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.5, 0.25, 0.25]],
                             np.float32))
    weights, chosen = moe.choose(jnp.asarray(logits), 2)
    np.testing.assert_array_equal(chosen, [[0, 1], [1, 0], [0, 1]])
    np.testing.assert_allclose(weights, [[2 / 3, 1 / 3]] * 3, rtol=1e-6)
    real = jnp.array([[True, True, False]])
    totals = moe._totals(jnp.asarray(logits)[None], chosen[None], real, 1)
    np.testing.assert_array_equal(totals.load, [2, 2, 0])
    np.testing.assert_allclose(totals.mass, [0.75, 0.75, 0.5], rtol=1e-6)
    terms = moe.router_terms({moe.COLLECTION: {"layer": {"totals": (totals,)}}})
    # 3 experts: sum of load shares (1/2, 1/2, 0) times mean masses .375, .375, .25.
    np.testing.assert_allclose(terms["router_balance"].mean(), 3 * 0.375, rtol=1e-6)
    np.testing.assert_allclose(terms["router_busiest"].mean(), 1.5, rtol=1e-6)
    np.testing.assert_allclose(terms["router_entropy"].mean(), 1.5 * np.log(2),
                               rtol=1e-6)
    np.testing.assert_allclose(terms["router_z"].mean(), 0, atol=1e-6)  # sums are 1
    assert terms["router_dropped"].mean() == 0.5  # one place, two who want it, twice
    np.testing.assert_allclose(moe.router_loss(CONFIG, terms), 0.01 * 1.125, rtol=1e-5)


def test_an_even_router_costs_one_and_a_lopsided_one_the_experts():
    @jax.jit
    def balance(logits):
        _, chosen = moe.choose(logits, 1)
        totals = moe._totals(logits, chosen, jnp.ones(logits.shape[:2], bool), 0)
        terms = moe.router_terms({moe.COLLECTION: {"totals": (totals,)}})
        return terms["router_balance"].mean()
    sure = 50.0 * np.eye(4, dtype=np.float32)[None]
    np.testing.assert_allclose(balance(sure), 1, rtol=1e-5)
    np.testing.assert_allclose(balance(sure[:, [0, 0, 0, 0]]), 4, rtol=1e-5)


@pytest.fixture(scope="module")
def network():
    """A decoder with experts, trained with a capacity that drops."""
    model = tiny_world.make_model(decoder_layers=2, moe=moe.MoEConfig(
        4, 2, mlp_width=8, shared=1, capacity_factor=0.5))
    catalogue, _ = tiny_world.make_items()
    return model, catalogue, tiny_world.make_params(model, catalogue.tables)


def requests(seed=3, rows=4):
    batch = tiny_world.make_batch(rows, seed=seed)
    return {"items": batch["items"], "segments": np.ones_like(batch["segments"]),
            "target_positions": np.full((rows, 1), 9, np.int32)}


def test_beams_have_the_probability_of_their_codes_and_no_neighbour_changes_them(
        network):
    model, catalogue, params = network
    together = recommend(model, params, requests(), catalogue, beams=5)
    items = np.argmax(np.asarray(catalogue.paths)[:, -1]
                      == np.asarray(together.leaves)[..., None], axis=-1)
    each = jax.jit(code_log_probs, static_argnums=0)(
        model, params, requests(), catalogue, items)
    np.testing.assert_allclose(together.log_probs, each.sum(-1), rtol=1e-4, atol=1e-4)
    others = jax.tree.map(lambda mine, other: np.concatenate([mine[:1], other[1:]]),
                          requests(), requests(seed=4))
    among = recommend(model, params, others, catalogue, beams=5)
    np.testing.assert_array_equal(among.leaves[0], together.leaves[0])
    np.testing.assert_array_equal(among.log_probs[0], together.log_probs[0])
    assert np.abs(among.log_probs[1] - together.log_probs[1]).max() > 1e-3


@pytest.mark.parametrize("options, said", [
    ({"experts": -1}, "experts is -1"), ({"top_k": 9}, "top_k is 9, expected 1 to 8"),
    ({"top_k": 0}, "top_k is 0"), ({"z_loss": -1.0}, "z_loss is -1.0"),
    ({"capacity_factor": -1.0}, "capacity_factor")], ids=str)
def test_impossible_experts_are_named(options, said):
    with pytest.raises(InputError, match=f"model.moe.{said}"):
        dataclasses.replace(CONFIG, **options)
