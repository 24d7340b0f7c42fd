"""Peaks are known or asked for, MFU is a plain quotient, and the clock can pause."""

import pytest

from oxyrec_jax import profiling


def test_a_known_device_has_its_datasheet_peak():
    assert profiling.datasheet_peak("NVIDIA H100 80GB HBM3", "bfloat16") == 989e12


@pytest.mark.parametrize("kind, dtype", [("cpu", "float32"), ("TPU v4", "float32")])
def test_an_unknown_device_or_dtype_raises_and_says_what_to_do(kind, dtype):
    with pytest.raises(LookupError, match="matmul_peak"):
        profiling.datasheet_peak(kind, dtype)


def test_mfu_by_hand():
    assert profiling.mfu(6e12, 2.0, devices=3, peak=4e12) == 0.25  # 6 / (2 * 3 * 4)


@pytest.mark.parametrize("seconds, devices, peak", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_mfu_refuses_what_is_not_positive(seconds, devices, peak):
    with pytest.raises(ValueError):
        profiling.mfu(1.0, seconds, devices=devices, peak=peak)


def test_a_measured_peak_is_a_rate_that_a_machine_can_have():
    assert 1e7 < profiling.matmul_peak(size=64, seconds=0.05) < 1e16


@pytest.fixture
def now(monkeypatch):
    """A clock that the test turns: a list whose only number is the time."""
    time = [100.0]
    monkeypatch.setattr(profiling.time, "perf_counter", lambda: time[0])
    return time


def test_the_clock_counts_steps_and_not_pauses(now):
    clock = profiling.StepClock()
    now[0] += 2
    with clock.paused():
        now[0] += 50
        assert clock.read() == 2
    now[0] += 3
    assert clock.read() == 5


def test_goodput_is_the_share_of_time_in_steps(now):
    clock = profiling.StepClock()
    now[0] += 3
    with clock.paused():
        now[0] += 1
    assert clock.goodput() == 0.75
    clock.restart()
    now[0] += 2
    assert clock.goodput() == 1.0


def test_pauses_may_nest_and_end_by_an_error(now):
    clock = profiling.StepClock()
    with pytest.raises(KeyError):
        with clock.paused():
            now[0] += 10
            with clock.paused():
                now[0] += 10
            now[0] += 10
            raise KeyError
    now[0] += 1
    assert clock.read() == 1


def test_restart_forgets_even_inside_a_pause(now):
    clock = profiling.StepClock()
    now[0] += 7
    with clock.paused():
        clock.restart()
        now[0] += 7
    now[0] += 1
    assert clock.read() == 1
