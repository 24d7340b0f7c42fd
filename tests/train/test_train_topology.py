"""A run goes on where it stopped on other devices, from the very same bits."""

import jax
import numpy as np
import pytest

import tiny_run
import tiny_world
from oxyrec_jax import parallel
from oxyrec_jax.checkpoint import Checkpoints
from oxyrec_jax.train import loop
from oxyrec_jax.train.run_log import read_log

TIMES = {"targets/s", "gflops", "mfu", "goodput"}  # the run decides all others
CHAIN = ({"data": 2, "fsdp": 4}, {"fsdp": 8}, {"fsdp": 2}, {})


class Stopped(Exception):
    """In place of a kill."""


class Kept(Checkpoints):
    """Checkpoints that remember what was saved and what came back."""

    saved: dict = {}
    restored: list = []

    def save(self, step, state, facts):
        self.saved[step] = jax.tree.map(np.array, state)
        super().save(step, state, facts)

    def restore(self, abstract, step=None):
        state, facts = super().restore(abstract, step)
        mesh = state.step.sharding.mesh  # steps take the arrays over
        self.restored.append((facts["done"], jax.tree.map(np.array, state), mesh))
        return state, facts


@pytest.fixture
def kept(monkeypatch):
    class Own(Kept):
        saved, restored = {}, []
    monkeypatch.setattr(loop, "Checkpoints", Own)
    return Own


def mesh_of(**sizes):
    cfg = parallel.MeshConfig(**{"data": 1, **sizes})
    return parallel.make_mesh(cfg, jax.devices()[:cfg.devices])


def assert_same_bits(one, other):
    for here, there in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        np.testing.assert_array_equal(here, there)


def assert_same_curve(one, other):
    """The tolerance is relative: sums over devices are made in another order."""
    logs = [read_log(work / "log.jsonl") for work in (one, other)]
    for here, there in zip(*logs, strict=True):
        assert here.keys() == there.keys()
        for name in here.keys() - TIMES - {"valid.figure"}:
            np.testing.assert_allclose(here[name], there[name], rtol=1e-3)


def test_two_by_four_then_eight_then_two_then_one_device(tmp_path, kept):
    """The last run ends with the curve of one that was never interrupted."""
    data = tiny_world.make_dataset(tmp_path / "data")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    often = {"evaluate_every": 3, "log_every": 1}
    tiny_run.run(data, whole, mesh=mesh_of(**CHAIN[0]), **often)
    kept.saved.clear()

    def stopping():
        calls = []

        def evaluate(params):
            calls.append(1)
            if len(calls) == 2:
                raise Stopped
            return tiny_run.figure(params)
        return evaluate

    for turn, sizes in enumerate(CHAIN):
        mesh = mesh_of(**sizes)
        if turn < 3:  # stops three steps after its first checkpoint
            with pytest.raises(Stopped):
                tiny_run.run(data, broken, mesh=mesh, evaluate=stopping(), **often)
        else:
            tiny_run.run(data, broken, mesh=mesh, **often)
        if turn:
            done, state, there = kept.restored[-1]
            assert done == 3 * turn and there == mesh
            assert_same_bits(state, kept.saved[done])
    assert len(kept.restored) == 3
    assert_same_curve(whole, broken)
