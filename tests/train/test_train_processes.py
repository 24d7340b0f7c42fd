"""Two processes train as one does, and go on where one of them was killed."""

import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import tiny_run
import tiny_world
from oxyrec_jax.checkpoint import Checkpoints
from oxyrec_jax.train import loop
from oxyrec_jax.train.run_log import read_log

HERE = pathlib.Path(__file__).resolve().parent


def start(data, work, process, port, **options):
    text = json.dumps({"data": str(data), "work": str(work), "devices": 2,
                       "process": process, "address": f"localhost:{port}", **options})
    path = os.pathsep.join([str(HERE.parents[1]), str(HERE.parent), str(HERE)])
    return subprocess.Popen(
        [sys.executable, str(HERE / "tiny_run.py"), text], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"})


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


TIMES = {"targets/s", "gflops", "mfu", "goodput"}


@pytest.mark.slow
def test_two_processes_of_four_devices_train_as_one_of_eight_and_one_goes_on(
        tmp_path, monkeypatch):
    data = tiny_world.make_dataset(tmp_path / "data")
    port = free_port()
    both = [start(tmp_path / "data", tmp_path / "two", process, port, devices=4)
            for process in (0, 1)]
    try:
        tiny_run.run(data, tmp_path / "one")
        results = []
        for process in both:
            out, err = process.communicate(timeout=300)
            assert process.returncode == 0, err[-3000:]
            results.append(json.loads(out.splitlines()[-1]))
    finally:
        for process in both:
            process.kill()
    assert results[0] == results[1]  # both know the same best parameters
    logs = [read_log(tmp_path / name / "log.jsonl") for name in ("one", "two")]
    assert [line["step"] for line in logs[0]] == [line["step"] for line in logs[1]]
    for one, two in zip(*logs, strict=True):
        for name in one.keys() - TIMES - {"valid.figure"}:
            np.testing.assert_allclose(two[name], one[name], rtol=1e-3)
    with np.load(tmp_path / "two" / "evaluated0.npz") as first:
        with np.load(tmp_path / "two" / "evaluated1.npz") as second:
            for name in first.files:
                np.testing.assert_array_equal(first[name], second[name])
    goes_on_in_one_process(data, tmp_path / "two", monkeypatch)


def goes_on_in_one_process(data, work, monkeypatch):
    """What two processes saved is read on one device to the bit, and trains on."""
    class Watched(Checkpoints):
        def restore(self, abstract, step=None):
            restored.append(super().restore(abstract, step))
            return restored[-1]

    monkeypatch.setattr(loop, "Checkpoints", Watched)
    restored, before = [], read_log(work / "log.jsonl")
    tiny_run.run(data, work, mesh=tiny_world.one_device())  # has ended already
    (state, facts), = restored
    assert facts["done"] == 12
    with np.load(work / "evaluated0.npz") as last:  # the averages of step 12
        for path, leaf in jax.tree.leaves_with_path(state.ema):
            np.testing.assert_array_equal(leaf, last[jax.tree_util.keystr(path)])
    shutil.rmtree(work / "checkpoints" / "12")
    tiny_run.run(data, work, mesh=tiny_world.one_device())
    assert restored[1][1]["done"] == 9
    for one, two in zip(before, read_log(work / "log.jsonl"), strict=True):
        for name in one.keys() - TIMES - {"valid.figure"}:
            np.testing.assert_allclose(two[name], one[name], rtol=1e-3)


KILLS = int(os.environ.get("OXYREC_TEST_KILLS", "1"))  # 20 by hand
PATIENCE, WAIT = 5, 40
LONG = {"steps": 24, "checkpoint_every": 2, "evaluate_every": 12}


def both(data, work):
    port = free_port()
    return [start(data, work, process, port, train=LONG, patience=PATIENCE,
                  wait=WAIT) for process in (0, 1)]


@pytest.mark.slow
@pytest.mark.timeout(150 * (KILLS + 2))
def test_one_of_two_killed_ends_the_other_and_both_go_on_to_the_same_bits(tmp_path):
    tiny_world.make_dataset(tmp_path / "data")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for process in both(tmp_path / "data", whole):
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err[-3000:]
    first = random.randint(0, 1)
    for turn in range(KILLS):
        pair = both(tmp_path / "data", broken)
        step = random.randint(0, LONG["steps"] - 2)
        while not any((broken / "checkpoints" / str(later)).is_dir() for later in
                      range(step, LONG["steps"])) and pair[0].poll() is None:
            time.sleep(0.01)
        time.sleep(random.random() * 0.3)
        victim = (turn + first) % 2
        pair[victim].kill()
        _, err = pair[1 - victim].communicate(timeout=300)
        pair[victim].communicate()
        died = pair[victim].returncode
        if died == -signal.SIGKILL and pair[1 - victim].returncode:  # before the end
            assert any(word in err for word in (
                "task died", "onnection", "DEADLINE_EXCEEDED")), err[:3000]
    for process in both(tmp_path / "data", broken):
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err[-3000:]
    for process in (0, 1):
        with (np.load(whole / f"evaluated{process}.npz") as one,
              np.load(broken / f"evaluated{process}.npz") as other):
            assert one.files == other.files
            for name in one.files:
                np.testing.assert_array_equal(one[name], other[name])
