"""A small alignment, in this process or in one of its own that may kill itself.

    python tiny_align.py '{"data": ..., "work": ..., "kill": {"evaluation": 2}}'
"""

import dataclasses
import json
import os
import pathlib
import signal
import sys

import jax
import numpy as np

import tiny_world
from oxyrec_jax.data.align_requests import AlignRequests
from oxyrec_jax.data.dataset import load_dataset
from oxyrec_jax.decode import rollout
from oxyrec_jax.rewards.mapping import Component, fit_mapping
from oxyrec_jax.train.align_loop import Setting, align_run
from oxyrec_jax.train.align_settings import AlignConfig
from oxyrec_jax.train.policy import PolicyConfig
from oxyrec_jax.train.signals import SignalSources
from oxyrec_jax.train.step import OptimizerConfig

CONFIG = AlignConfig(
    steps=6, batch=8, group=4, synthetic=0.75, updates=1, staleness=1, log_every=4,
    evaluate_every=3, checkpoint_every=2, metric="figure", guard="figure",
    policy=PolicyConfig("sa-gcpo"), reward={"tokens": Component("none")},
    optimizer=OptimizerConfig(learning_rate=0.01, warmup=1, schedule="constant"))


def figures(params):
    """Numbers that any change of any bit of the parameters is likely to change."""
    value = float(np.sin(100 * np.sum(params["code_vectors"])))
    return {"figure": value, "reward@10": value}


def setting(data, *, evaluate=figures, judge=None, cfg=CONFIG, signals_of=None,
            seed=0):
    """The small network and what it is aligned with."""
    model = tiny_world.make_model()
    catalogue, leaves = tiny_world.make_items()
    names = tuple(cfg.reward)
    mapping = fit_mapping({name: np.arange(9) / 8 for name in names}, cfg.reward,
                          ["all"])
    return Setting(
        model, catalogue, rollout.first_items(leaves),
        AlignRequests(data, batch=cfg.batch, logged=cfg.logged, history=6, seed=seed),
        signals_of or SignalSources(catalogue.tables.codes, None, None, names),
        mapping, evaluate, judge)


def run(data, work, *, mesh=None, seed=0, evaluate=figures, judge=None,
        signals_of=None, **options):
    """Aligns the small model; options are fields of `AlignConfig`."""
    cfg = dataclasses.replace(CONFIG, **options)
    given = setting(data, evaluate=evaluate, judge=judge, cfg=cfg,
                    signals_of=signals_of, seed=seed)
    start = jax.tree.map(np.asarray, tiny_world.make_params(
        given.model, given.catalogue.tables))
    return align_run(given, cfg, pathlib.Path(work), seed=seed, start=start,
                     settings={}, mesh=mesh or tiny_world.one_device())


def main(options):
    """Runs in this process alone and kills it where that is asked for."""
    jax.config.update("jax_num_cpu_devices", 1)
    kill, calls = options.get("kill", {}), []

    def evaluate(params):
        calls.append(1)
        if len(calls) == kill.get("evaluation"):
            os.kill(os.getpid(), signal.SIGKILL)
        return figures(params)

    outcome = run(load_dataset(options["data"]), options["work"], evaluate=evaluate)
    print(json.dumps(dataclasses.asdict(outcome)))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
