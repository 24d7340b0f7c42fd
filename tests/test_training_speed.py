"""Figures of speed are quotients of what was counted and timed."""

import pytest

import tiny_world
from oxyrec_jax import training_speed, workflow
from oxyrec_jax.base import InputError
from oxyrec_jax.models.flops import ForwardFlops


def test_figures_by_hand():
    timed = training_speed.Steps(
        seconds=[2.0, 4.0, 8.0], waiting=[1.0, 1.0, 1.0],
        flops=[ForwardFlops(6.0, 3.0, 1.0)] * 3, counted=[90.0] * 3,
        places=[100] * 3, positions=[60, 90, 90], targets=[40, 40, 40])
    found = training_speed.summary(
        timed, peak=10.0, gemm=8.0, cfg=tiny_world.SMALL, levels=3)
    assert found["mfu"] == 3 * 10 / (4 * 10)
    assert found["gemm_share"] == 3 * 10 / (4 * 8)
    assert found["hardware_flops_share"] == 90 / (4 * 10)
    assert found["padding_share"] == pytest.approx(1 - 80 / 100)
    assert found["waiting_share"] == 1 / 4
    assert found["tokens_per_second"] == 80 / 4
    assert found["targets_per_second"] == 40 / 4
    # 80 items of three codes and their own vector, two codes before each of 40 targets
    assert found["embedding_bytes_per_second"] == (80 * 4 + 40 * 2) * 16 * 4 / 4
    assert found["model_flops"]["total"] == 30


def test_a_run_is_timed_and_nothing_of_it_is_kept(trained):
    space = workflow.open_workspace(trained, None)
    before = sorted(path for path in trained.rglob("*"))
    found = training_speed.measure(space, steps=2)
    assert before == sorted(path for path in trained.rglob("*"))
    assert 0 < found["mfu"] < 1 and found["compile_seconds"] > 0
    assert found["hardware_flops_share"] > found["mfu"]  # padding too
    assert found["devices"] == "8 x cpu" and found["rows"] == 8
    assert set(found["meaning"]) <= found.keys()


def test_no_steps_are_refused(trained):
    with pytest.raises(InputError, match="--steps is 0"):
        training_speed.measure(workflow.open_workspace(trained, None), steps=0)
