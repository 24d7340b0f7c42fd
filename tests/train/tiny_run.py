"""A small training run, in this process or in one of its own that may kill itself.

    python tiny_run.py '{"data": ..., "work": ..., "kill": {"evaluation": 2}}'
"""

import dataclasses
import json
import os
import pathlib
import signal
import sys
import threading

import jax
import numpy as np

import tiny_world
from oxyrec_jax.data.dataset import load_dataset
from oxyrec_jax.data.pipeline import Pipeline
from oxyrec_jax.parallel import hosts
from oxyrec_jax.train.loop import TrainConfig, train
from oxyrec_jax.train.objective import ObjectiveConfig
from oxyrec_jax.train.step import OptimizerConfig

CONFIG = TrainConfig(
    steps=12, log_every=5, evaluate_every=6, checkpoint_every=3, metric="figure",
    pipeline=Pipeline(batch=8, history=6, row_length=8),
    optimizer=OptimizerConfig(learning_rate=0.01, warmup=2, ema=0.9),
    objective=ObjectiveConfig(item_loss=0.3, negatives=8))
MODEL = {"dropout": 0.2}


def figure(params):
    """A number that any change of any bit of the parameters is likely to change."""
    return {"figure": float(np.sin(100 * np.sum(params["code_vectors"])))}


def run(data, work, *, mesh=None, evaluate=figure, seed=0, model=MODEL, start=None,
        **options):
    """Trains the small model; options are fields of `TrainConfig`."""
    catalogue, _ = tiny_world.make_items(successors=tiny_world.successors_of(data))
    return train(tiny_world.make_model(**model), data, catalogue,
                 dataclasses.replace(CONFIG, **options), pathlib.Path(work), seed=seed,
                 evaluate=evaluate, mesh=mesh, start=start)


def main(options):
    """Runs in this process alone; keeps the parameters of each evaluation."""
    jax.config.update("jax_num_cpu_devices", options.get("devices", 1))
    if "address" in options:
        hosts.start(hosts.Hosts(options["address"], 2, options["process"],
                                options.get("patience", 30),
                                options.get("wait", 300)))
    work, kill, calls = pathlib.Path(options["work"]), options.get("kill", {}), []

    def evaluate(params):
        calls.append(1)
        if len(calls) == kill.get("evaluation"):
            os.kill(os.getpid(), signal.SIGKILL)
        flat = {jax.tree_util.keystr(path): leaf
                for path, leaf in jax.tree.leaves_with_path(params)}
        np.savez(work / f"evaluated{options.get('process', 0)}.npz", **flat)
        return figure(params)

    if "checkpoint" in kill:
        threading.Thread(target=_kill_while_saving, daemon=True, args=(
            work / "checkpoints", f"{kill['checkpoint']}.")).start()
    outcome = run(load_dataset(options["data"]), work, evaluate=evaluate,
                  **options.get("train", {}))
    print(json.dumps({"best": outcome.best, "best_step": outcome.best_step,
                      "steps": outcome.steps}))


def _kill_while_saving(folder, beginning):
    """Kills this process as soon as a half-written checkpoint of a step is there."""
    while True:
        if folder.is_dir() and any(name.startswith(beginning)
                                   for name in os.listdir(folder)):
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
