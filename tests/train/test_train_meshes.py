"""The loss curve of one device on 2, 4 and 8, however a mesh splits them.

By default a few splits; in those of eight devices every two axes meet. All 55 are tried
by hand: OXYREC_TEST_MESHES=all.
"""

import itertools
import math
import os

import jax
import numpy as np
import pytest

import tiny_world
from oxyrec_jax import parallel
from oxyrec_jax.models.moe import MoEConfig
from oxyrec_jax.train.loop import TrainConfig
from oxyrec_jax.train.objective import ObjectiveConfig
from oxyrec_jax.train.setup import set_up
from oxyrec_jax.train.sparse import RowsConfig
from oxyrec_jax.train.step import OptimizerConfig

ITEMS, STEPS = 32, 2
TOLERANCE = 5e-4  # relative, of every figure of every step: sums in another order
CONFIG = TrainConfig(steps=20, optimizer=OptimizerConfig(
    learning_rate=0.02, warmup=0, clip_norm=0.5, rows=RowsConfig("adagrad", 0.1)),
    objective=ObjectiveConfig(chunk=2))
AXES = ("data", "fsdp", "tensor", "expert", "table")
# Each two of the five axes are in one of these together.
TRIPLES = ("data fsdp tensor", "data expert table", "fsdp expert table",
           "tensor expert table")
FEW = [*({axis: 2 for axis in three.split()} for three in TRIPLES),
       {"expert": 4}, {"fsdp": 2}]


def every_split():
    """All ways to write 2, 4 and 8 as a product over the axes."""
    for sizes in itertools.product((1, 2, 4, 8), repeat=len(AXES)):
        if 1 < math.prod(sizes) <= 8:
            yield {axis: size for axis, size in zip(AXES, sizes) if size > 1}


SPLITS = list(every_split()) if os.environ.get("OXYREC_TEST_MESHES") == "all" else FEW


def curve(start=None, **sizes):
    """A first state, and figures of a few steps from it or from one given.

    Every axis of the network can be cut in eight.
    """
    cfg = parallel.MeshConfig(**{"data": 1, **sizes})
    mesh = parallel.make_mesh(cfg, jax.devices()[:cfg.devices])
    model = tiny_world.make_model(
        ITEMS, heads=8, head_width=2, moe=MoEConfig(experts=8, top_k=2, mlp_width=8))
    batches = [tiny_world.make_batch(8, 6, items=ITEMS, seed=seed)
               for seed in range(STEPS)]
    catalogue = jax.device_put(tiny_world.make_items(ITEMS)[0],
                               parallel.replicated(mesh))
    made = set_up(model, batches[0], catalogue, CONFIG, mesh, seed=0,
                  planned=start is not None)
    first = jax.device_get(made.state) if start is None else start
    state, rows = jax.device_put(first, made.shardings), []
    for batch in batches:
        state, figures = made.step(state, parallel.global_batch(batch, mesh), catalogue)
        rows.append({name: float(value) for name, value in figures.items()})
    assert made.step._cache_size() == 1
    return first, rows


@pytest.fixture(scope="module")
def alone():
    return curve()


def test_the_splits_of_every_day_let_every_two_axes_meet():
    met = {pair for split in FEW if math.prod(split.values()) == 8
           for pair in itertools.combinations(split, 2)}
    assert met == set(itertools.combinations(AXES, 2))
    assert len(list(every_split())) == 5 + 15 + 35


@pytest.mark.parametrize("split", SPLITS, ids=lambda split: ",".join(
    f"{axis}={size}" for axis, size in split.items()))
def test_a_split_gives_the_curve_of_one_device(alone, split):
    first, rows = alone
    _, curve_there = curve(first, **split)
    for step, (found, expected) in enumerate(zip(curve_there, rows, strict=True)):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=TOLERANCE, atol=1e-6,
                                       err_msg=f"{name} of step {step}")
