"""The bar of a run counts what is done, looks without waiting, and says what it does.
"""

import logging

import pytest

from oxyrec_jax.train.counted import Counted


class Bar:
    """Takes what `progress.bar` yields is called with."""

    def __init__(self):
        self.done, self.notes = 0, []

    def __call__(self, count=1, note=None):
        self.done += count
        if note is not None:
            self.notes.append(note)


class Figure:
    """A figure that is there when it is told to be; counts who waited for it."""

    def __init__(self, bar):
        self.there, self.waited, self.bar = False, 0, bar

    def is_ready(self):
        return self.there

    def block_until_ready(self):
        self.waited += 1
        self.seen = self.bar.done  # how far the bar was when this step was waited for


@pytest.fixture
def bar():
    return Bar()


def test_steps_count_when_their_figures_are_there_and_nobody_waits(bar):
    counted, steps = Counted(bar), [Figure(bar) for _ in range(3)]
    counted.handed({"loss": steps[0]})
    assert bar.done == 0
    steps[0].there = True
    counted.handed({"loss": steps[1]})
    assert bar.done == 1
    steps[2].there = True  # a device ends them in order: what is behind does not count
    counted.handed({"loss": steps[2]})
    assert bar.done == 1 and not any(step.waited for step in steps)


def test_a_device_has_at_most_two_steps_before_it(bar):
    counted, steps = Counted(bar), [Figure(bar) for _ in range(5)]
    for step in steps:
        counted.handed({"loss": step})
    assert [step.waited for step in steps] == [1, 1, 1, 0, 0] and bar.done == 3


def test_waiting_counts_each_step_as_it_ends(bar):
    counted, steps = Counted(bar), [Figure(bar) for _ in range(3)]
    for step in steps:
        counted.handed({"loss": step})
    counted.wait()
    assert [step.seen for step in steps] == [0, 1, 2] and bar.done == 3
    counted.wait()
    assert bar.done == 3


def test_compiling_is_said_and_the_note_before_comes_back(bar, caplog):
    caplog.set_level(logging.INFO, "oxyrec_jax.train.counted")
    counted = Counted(bar)
    with counted.compiling("a step"):
        assert bar.notes == ["compiling"]
    counted.note("loss 1")
    with counted.compiling("another"):
        pass
    assert bar.notes == ["compiling", "", "loss 1", "compiling", "loss 1"]
    assert [record.getMessage() for record in caplog.records] == [
        "compiling a step", "compiling another"]
    assert bar.done == 0
