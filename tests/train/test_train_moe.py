"""A decoder with experts in the training step, on one device and on eight."""

import dataclasses

import jax
import numpy as np
import pytest

import tiny_world
from oxyrec_jax import parallel
from oxyrec_jax.models.moe import MoEConfig
from oxyrec_jax.train import step as step_lib

EXPERTS = MoEConfig(experts=4, top_k=2, mlp_width=8)
ROUTER = {f"router_{name}" for name in ("balance", "z", "entropy", "dropped",
                                        "busiest")}


def curve(experts, sizes=(1,), steps=2):
    """Figures of a few steps."""
    devices = jax.devices()[:int(np.prod(sizes))]
    mesh = parallel.make_mesh(parallel.MeshConfig(*sizes), devices)
    cfg = step_lib.OptimizerConfig(learning_rate=0.02, warmup=0)
    model = tiny_world.make_model(moe=experts, item_embedding=False)
    step, state, batch, catalogue = tiny_world.make_step(
        model, cfg, mesh, tiny_world.make_batch(8, 6))
    rows = []
    for _ in range(steps):
        state, figures = step(state, batch, catalogue)
        rows.append({name: float(value) for name, value in figures.items()})
    return rows


def test_experts_learn_and_the_log_tells_what_the_router_does():
    rows = curve(EXPERTS, steps=4)
    assert ROUTER <= set(rows[0])
    assert rows[-1]["level_0"] < rows[0]["level_0"]
    first = rows[0]
    assert first["router_dropped"] == 0 and 1 <= first["router_busiest"] <= 4
    assert 0 < first["router_entropy"] <= np.log(4) * (1 + 1e-6)
    # The loss is the codes' likelihood and the router's two terms.
    levels = sum(first[f"level_{level}"] for level in range(3))
    np.testing.assert_allclose(
        first["loss"], levels + 0.01 * first["router_balance"]
        + 0.001 * first["router_z"], rtol=1e-5)


def test_a_dense_decoder_logs_no_router():
    assert not ROUTER & set(curve(MoEConfig(), steps=1)[0])


@pytest.mark.slow
def test_a_mesh_drops_what_one_device_drops():
    """Without a capacity: tests/train/test_train_meshes.py."""
    cfg = dataclasses.replace(EXPERTS, capacity_factor=0.75)
    expected = curve(cfg)
    assert expected[0]["router_dropped"] > 0
    for sizes in ((2, 1, 1, 4), (1, 2, 2, 2)):
        for one, other in zip(curve(cfg, sizes), expected, strict=True):
            assert one.keys() == other.keys()
            for name, value in other.items():
                np.testing.assert_allclose(one[name], value, rtol=5e-4, atol=1e-6)
