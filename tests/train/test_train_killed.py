"""Killed at any moment, the same command ends with the very same bits."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import tiny_world
from oxyrec_jax.train.parameters import read_params
from oxyrec_jax.train.run_log import read_log

HERE = pathlib.Path(__file__).resolve().parent


def start(data, work, **options):
    text = json.dumps({"data": str(data), "work": str(work), **options})
    path = os.pathsep.join([str(HERE.parents[1]), str(HERE.parent), str(HERE)])
    return subprocess.Popen(
        [sys.executable, str(HERE / "tiny_run.py"), text], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"})


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def killed(process, after=None):
    """Waits until a run killed itself, or kills it a moment after something is so."""
    deadline = time.monotonic() + 300
    while after is not None and not after():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    if after is not None:
        time.sleep(random.random() * 0.05)
        process.kill()
    _, err = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, err


def steps_logged(work):
    return [line["step"] for line in read_log(work / "log.jsonl")]


def arrays(path):
    with np.load(path, allow_pickle=False) as found:
        return {name: found[name] for name in found.files}


@pytest.mark.slow
def test_killed_three_times_the_run_ends_bit_identical(tmp_path):
    data = tmp_path / "data"
    tiny_world.make_dataset(data)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    straight = finish(start(data, whole))

    killed(start(data, broken, kill={"checkpoint": 3}))  # the first one, half written
    assert not (broken / "checkpoints" / "3").exists()
    killed(start(data, broken, kill={"evaluation": 2}))  # step 12 done but not saved
    assert (broken / "checkpoints" / "6").is_dir()
    killed(start(data, broken), after=lambda: 10 in steps_logged(broken))

    assert finish(start(data, broken)) == straight
    for name in ("evaluated0.npz", "best"):
        read = arrays if name.endswith("npz") else lambda path: flat(read_params(
            path)[0])
        one, other = read(whole / name), read(broken / name)
        assert one.keys() == other.keys()
        for key, values in one.items():
            np.testing.assert_array_equal(values, other[key])
    times = {"targets/s", "gflops", "mfu", "goodput"}  # the run decides all others
    logs = [[{name: value for name, value in line.items() if name not in times}
             for line in read_log(work / "log.jsonl")] for work in (whole, broken)]
    assert logs[0] == logs[1]
    assert [line["step"] for line in logs[0]] == [3, 5, 6, 6, 9, 10, 12, 12]


def flat(params):
    return {name: leaf for top in params for name, leaf in _leaves(params[top], top)}


def _leaves(value, name):
    if not isinstance(value, dict):
        yield name, value
        return
    for key, inner in value.items():
        yield from _leaves(inner, f"{name}/{key}")
