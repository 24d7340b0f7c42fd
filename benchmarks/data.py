"""How many sequences one core turns into training batches each second.

    python benchmarks/data.py --quick --json      # 10 s on one core

Writes a made-up data set of sequences of 51 events (50 positions, each with a target)
to a temporary folder and times whole epochs of the grain iterator on one pinned core:
drawing the epoch's order, reading the memory-mapped events and laying them into rows.
Pages are warm after the warm-up epoch. A sequence is one window of 50 positions.

`sequences_per_s_per_core` counts CPU seconds, so that other work on the machine does
not change it; the wall figure of the same run stands beside it. Target: 100,000.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import tempfile
import time

import jax
import numpy as np
import pyarrow as pa

from oxyrec_jax.data import dataset, pipeline, schema

POSITIONS = 50
TARGET = 100_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flag = {"action": "store_true"}
    parser.add_argument("--quick", help="a tenth of the sequences", **flag)
    parser.add_argument("--json", help="one JSON object as the last line", **flag)
    parser.add_argument("--peer", help="accepted; there is no peer", **flag)
    options = parser.parse_args()
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    sequences = 100_000 if options.quick else 1_000_000
    print(f"device: core {core} of {os.cpu_count()} ({platform.machine()}); Python "
          f"{platform.python_version()}, NumPy {np.__version__}, grain "
          f"{importlib.metadata.version('grain')}, JAX {jax.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        opened = _write(pathlib.Path(folder) / "data", sequences)
        results = {
            "packed": _measure(opened, pipeline.Pipeline(
                batch=128, history=POSITIONS, row_length=4 * POSITIONS)),
            "packed, 3 side columns": _measure(opened, pipeline.Pipeline(
                batch=128, history=POSITIONS, row_length=4 * POSITIONS,
                columns=("time", "behaviour", "scenario"))),
            "last": _measure(opened, pipeline.Pipeline(
                batch=512, history=POSITIONS, mode="last"), batches=400),
        }
    for name, figures in results.items():
        print(f"{name:>24}: {figures['per_core']:>9,.0f} sequences/s/core "
              f"({1e6 / figures['per_core']:.2f} us each), wall "
              f"{figures['wall']:,.0f}/s; spread of {figures['repeats']} repeats "
              f"{figures['spread']:.0%}; fill {figures['fill']:.1%}")
    packed = results["packed"]["per_core"]
    print(f"target {TARGET:,}: {packed / TARGET:.1f} times")
    if options.json:
        print(json.dumps({"sequences_per_s_per_core": round(packed), "target": TARGET,
                          "length": POSITIONS, "modes": results}))


def _write(folder: pathlib.Path, sequences: int) -> dataset.Dataset:
    items, rng, block = 1_000_000, np.random.default_rng(0), 50_000
    length = POSITIONS + 1

    def fill(out: dataset.DatasetWriter) -> None:
        out.add_items(schema.item_table(
            {"item_id": pa.array(np.arange(items)).cast(pa.string())}))
        for first in range(0, sequences, block):
            events = block * length
            out.add_sequences({
                "item": rng.integers(items, size=events, dtype=np.int32),
                "time": rng.integers(1 << 31, size=events),
                "behaviour": rng.integers(4, size=events, dtype=np.int8),
                "scenario": rng.integers(6, size=events, dtype=np.int8),
            }, np.full(block, length), [str(first + i) for i in range(block)])
            rows = np.full((block, 3), [0, 1, length])
            rows[:, 0] = first + np.arange(block)
            out.add_targets("train", rows)
    dataset.write_dataset(folder, fill, facts={"source": "benchmark"},
                          columns=("item", "time", "behaviour", "scenario"))
    print(f"shapes: {sequences:,} sequences of {length} events, {items:,} items, "
          "4 columns, one shard; warm-up: one epoch")
    return dataset.load_dataset(folder, verify=False)


def _measure(opened: dataset.Dataset, cfg: pipeline.Pipeline,
             batches: int | None = None, repeats: int = 5) -> dict[str, float]:
    source = pipeline.TrainSource(opened, cfg, seed=0)
    batches = batches or source.steps_per_epoch  # whole epochs: their planning counts
    iterator = pipeline.train_batches(opened, cfg, seed=0)
    for _ in range(batches):  # warm-up: one epoch
        next(iterator)
    cpu, wall = [], []
    for _ in range(repeats):
        begun, begun_wall, made = time.process_time(), time.perf_counter(), 0
        for _ in range(batches):
            batch = next(iterator)
            made += int(batch["segments"].max(axis=1).sum())
        cpu.append(made / (time.process_time() - begun))
        wall.append(made / (time.perf_counter() - begun_wall))
    return {"per_core": statistics.median(cpu), "wall": statistics.median(wall),
            "spread": (max(cpu) - min(cpu)) / statistics.median(cpu),
            "repeats": repeats, "fill": source.fill}


if __name__ == "__main__":
    main()
