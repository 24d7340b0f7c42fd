"""Two processes train as one does."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

import tiny_run
import tiny_world
from oxyrec_jax import parallel
from oxyrec_jax.train.run_log import read_log

HERE = pathlib.Path(__file__).resolve().parent


def start(data, work, process, port):
    text = json.dumps({"data": str(data), "work": str(work), "devices": 2,
                       "process": process, "address": f"localhost:{port}"})
    path = os.pathsep.join([str(HERE.parents[1]), str(HERE.parent), str(HERE)])
    return subprocess.Popen(
        [sys.executable, str(HERE / "tiny_run.py"), text], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu",
             "XLA_FLAGS": "--xla_backend_optimization_level=0"})  # compiles faster


@pytest.mark.slow
def test_two_processes_of_two_devices_train_as_one_of_four(tmp_path):
    data = tiny_world.make_dataset(tmp_path / "data")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    both = [start(tmp_path / "data", tmp_path / "two", process, port)
            for process in (0, 1)]
    try:
        tiny_run.run(data, tmp_path / "one",
                     mesh=parallel.make_mesh(devices=jax.devices()[:4]))
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
        times = {"targets/s", "gflops", "mfu", "goodput"}
        for name in one.keys() - times - {"valid.figure"}:
            np.testing.assert_allclose(two[name], one[name], rtol=1e-3)
    with np.load(tmp_path / "two" / "evaluated0.npz") as first:
        with np.load(tmp_path / "two" / "evaluated1.npz") as second:
            for name in first.files:
                np.testing.assert_array_equal(first[name], second[name])
