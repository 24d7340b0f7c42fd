"""Ctrl-C: what was done is saved, and the same call ends as if nothing had been."""

import signal
import threading

import jax
import numpy as np
import pytest

import tiny_run
import tiny_world
from oxyrec_jax import parallel
from oxyrec_jax.checkpoint import Checkpoints
from oxyrec_jax.train import interrupts, loop
from oxyrec_jax.train.run_log import read_log


@pytest.fixture(autouse=True)
def usual(monkeypatch):
    """Ctrl-C as a command line has it; pytest is left as it was."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_first_is_held_back_and_the_second_is_not(caplog):
    with pytest.raises(KeyboardInterrupt):  # what was held back, at the end
        with interrupts.held_back() as stopping:
            assert not stopping()
            signal.raise_signal(signal.SIGINT)
            assert stopping() and "saved first" in caplog.text
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            assert stopping()
    with pytest.raises(KeyboardInterrupt):  # as before the block
        signal.raise_signal(signal.SIGINT)


def test_another_handler_and_another_thread_are_left_alone():
    heard = []
    signal.signal(signal.SIGINT, lambda *_: heard.append(1))
    with interrupts.held_back() as stopping:
        signal.raise_signal(signal.SIGINT)
        assert heard == [1] and not stopping()
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def aside():
        with interrupts.held_back() as stopping:
            heard.append(stopping())
            heard.append(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
    thread = threading.Thread(target=aside)
    thread.start()
    thread.join()
    assert heard == [1, False, True]


def test_a_run_that_is_stopped_saves_its_step_and_ends_with_the_same_bits(
        tmp_path, monkeypatch):
    data = tiny_world.make_dataset(tmp_path / "data")
    mesh = tiny_world.one_device()
    whole = tiny_run.run(data, tmp_path / "whole", mesh=mesh)
    batch, taken = parallel.global_batch, []

    def interrupted(*arguments):
        taken.append(1)
        if len(taken) == 5:  # the first is the example that the step is made for
            signal.raise_signal(signal.SIGINT)
        return batch(*arguments)
    monkeypatch.setattr(loop.parallel, "global_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tiny_run.run(data, tmp_path / "cut", mesh=mesh)
    with Checkpoints(tmp_path / "cut" / "checkpoints") as saved:
        assert saved.latest() == 4  # neither its turn to save nor to log
    assert read_log(tmp_path / "cut" / "log.jsonl")[-1]["step"] == 4
    again = tiny_run.run(data, tmp_path / "cut", mesh=mesh)
    assert len(taken) == 5 + 1 + 8 and again.figures == whole.figures
    for one, other in zip(jax.tree.leaves(again.params), jax.tree.leaves(whole.params),
                          strict=True):
        np.testing.assert_array_equal(one, other)


def test_one_that_comes_while_the_last_step_is_judged_is_not_lost(tmp_path):
    data = tiny_world.make_dataset(tmp_path / "data")

    def evaluate(params):
        signal.raise_signal(signal.SIGINT)
        return tiny_run.figure(params)
    options = {"mesh": tiny_world.one_device(), "steps": 2}
    with pytest.raises(KeyboardInterrupt):
        tiny_run.run(data, tmp_path / "run", evaluate=evaluate, **options)
    # All was saved before: the same call has nothing left to do.
    ended = tiny_run.run(data, tmp_path / "run", evaluate=None, **options)
    assert ended.steps == 2
