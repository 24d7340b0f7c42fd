"""The training loop: batches in, checkpoints, a log and the best parameters out.

Killed at any moment, the same call continues from the newest checkpoint and ends with
bit-identical parameters: batches and dropout depend on the step alone, and whatever
else decides the run (best metric so far, patience) is in the checkpoint.
"""

import dataclasses
import logging
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from oxyrec_jax import parallel, profiling, progress
from oxyrec_jax.base import InputError
from oxyrec_jax.checkpoint import Checkpoints
from oxyrec_jax.data.pipeline import Pipeline, TrainSource
from oxyrec_jax.data.dataset import Dataset
from oxyrec_jax.models.config import ModelConfig
from oxyrec_jax.models.generator import Generator
from oxyrec_jax.models.ranker import Ranker
from oxyrec_jax.tokenizer.catalogue import Catalogue
from oxyrec_jax.train import beginning, interrupts, parameters, pauses
from oxyrec_jax.train import step as step_lib
from oxyrec_jax.train.counted import Counted
from oxyrec_jax.train.objective import ObjectiveConfig, supervised_loss
from oxyrec_jax.train.run_log import RunLog
from oxyrec_jax.train.setup import Setup, feed, set_up

_log = logging.getLogger(__name__)
Evaluate = Callable[[Any], Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long to train and what to watch.

    Attributes:
      steps: of the whole run.
      log_every: steps in one window of the log.
      evaluate_every: steps between evaluations on the validation split.
      checkpoint_every: steps between checkpoints; evaluations save too.
      metric: the validation figure whose best parameters are kept.
      patience: evaluations without a better metric after which to stop; 0 never.
      start_from: a work directory, one of its runs, or a run's `best`, whose parameters
        the run begins with (fine-tuning); of a work directory the run of the same
        seed. Step and optimiser begin anew. "": random parameters.
      pipeline: how batches are made.
      optimizer: how parameters move.
      objective: the terms of the loss.
    """

    steps: int = 2000
    log_every: int = 50
    evaluate_every: int = 500
    checkpoint_every: int = 500
    metric: str = "item.ndcg@10"
    patience: int = 0
    start_from: str = ""
    pipeline: Pipeline = Pipeline()
    optimizer: step_lib.OptimizerConfig = step_lib.OptimizerConfig()
    objective: ObjectiveConfig = ObjectiveConfig()

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "evaluate_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise InputError(f"train.{name} is {getattr(self, name)}, expected at "
                                 "least 1")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
      params: the best parameters, NumPy arrays.
      best: value of the watched metric with them.
      best_step: steps after which they stood.
      steps: steps done.
      figures: the evaluation at `best_step`.
    """

    params: Any
    best: float
    best_step: int
    steps: int
    figures: dict[str, float]


def train(model: Generator | Ranker, dataset: Dataset, catalogue: Catalogue,
          cfg: TrainConfig, folder: pathlib.Path, *, seed: int, evaluate: Evaluate,
          mesh: Mesh | None = None, start: Callable[[], Any] | None = None,
          flops_per_target: float = 0.0, peak_flops: float = math.inf,
          loss: step_lib.Loss = supervised_loss,
          more: Mapping[str, Any] | None = None) -> Outcome:
    """Trains until the last step or until the metric stops rising.

    Args:
      model: the network.
      dataset: with training targets.
      catalogue: its items.
      cfg: how.
      folder: of this run: `checkpoints/`, `log.jsonl`, `tensorboard/`. One that holds
        a checkpoint is continued.
      seed: of parameters, batches and dropout.
      evaluate: gives figures of a set of parameters on the validation split.
      mesh: the devices; all, as data parallel, by default.
      start: reads the parameters to begin with, NumPy arrays; asked only by a run that
        has no checkpoint yet. None: random ones.
      flops_per_target: of a training step, for the achieved FLOP/s in the log.
      peak_flops: FLOP/s of all devices together, for the MFU in the log.
      loss: what is minimised; the generator's likelihood by default.
      more: other JSON values that decide the run, by name.

    Returns:
      `Outcome`.

    Raises:
      InputError: the folder holds a run of another configuration, `start` gives those
        of another network, or the loss is not finite: the message names the steps.
    """
    check_folder(model, cfg, folder, seed=seed, more=more)
    rows = feed(model, dataset, cfg.pipeline, seed=seed)
    mesh = parallel.make_mesh() if mesh is None else mesh
    with Checkpoints(folder / "checkpoints") as checkpoints:
        resumed = checkpoints.latest() is not None
        made = set_up(model, rows.example, catalogue, cfg, mesh, seed=seed, loss=loss,
                      planned=resumed)
        state = made.state
        run = _Run(cfg, folder, checkpoints, evaluate, rows.source, flops_per_target,
                   peak_flops)
        if resumed:
            state, facts = checkpoints.restore(state)
            rows.batches.set_state(facts["batches"])
            run.resume(facts)
            _log.info("continuing %s after step %d", folder, run.done)
        else:
            run.log.truncate(0)
            if start is not None:
                state = beginning.start_from(state, made.shardings, start(),
                                             cfg.start_from)
        return run.until_done(state, rows.batches, made)


def check_folder(model: Generator | Ranker, cfg: TrainConfig, folder: pathlib.Path, *,
                 seed: int, more: Mapping[str, Any] | None = None, keep: bool = True
                 ) -> None:
    """Writes down what a new run is made with, or checks an older one, as `train` does.

    Args:
      model, cfg, folder, seed, more: as `train` takes them.
      keep: without it nothing is written.

    Raises:
      InputError: the folder holds a run of another configuration.
    """
    settings = {"train": dataclasses.asdict(cfg),
                "model": dataclasses.asdict(model.cfg),
                "widths": list(model.widths), "seed": seed, **(more or {})}
    beginning.check_same_run(folder / "run.json", settings,
                             {"train": TrainConfig(), "model": ModelConfig()},
                             keep=keep)


class _Step(NamedTuple):
    """What a step left for the log.

    Attributes:
      figures: of the step.
      positions: of its batch, with padding.
      timed: false where the step was compiled, which is not step time.
    """

    figures: dict[str, jax.Array]
    positions: int
    timed: bool


class _Run:
    """What changes while a run goes on, apart from the training state."""

    def __init__(self, cfg: TrainConfig, folder: pathlib.Path, checkpoints: Checkpoints,
                 evaluate: Evaluate, source: TrainSource,
                 flops_per_target: float, peak_flops: float):
        self.cfg, self.folder, self.checkpoints = cfg, folder, checkpoints
        self.evaluate, self.source = evaluate, source
        self.flops_per_target, self.peak_flops = flops_per_target, peak_flops
        self.done, self.best = 0, pauses.Best()
        self.clock = profiling.StepClock()
        self.log = RunLog(folder)

    def resume(self, facts: dict[str, Any]) -> None:
        self.done, self.best = facts["done"], pauses.Best.recalled(facts)
        self.log.truncate(self.done)

    def until_done(self, state: step_lib.TrainState, batches: Any, made: Setup
                   ) -> Outcome:
        cfg = self.cfg
        window: list[_Step] = []
        compiled: set[tuple[int, ...]] = set()  # shapes: rows may differ in length
        with (progress.bar("training", cfg.steps) as advance, self.log,
              interrupts.held_back() as stopping):
            advance(self.done)
            counted = Counted(advance)
            while self.done < cfg.steps and not self.best.ends(cfg.patience):
                batch = parallel.global_batch(next(batches), made.mesh)
                shape = batch["segments"].shape
                timed = shape in compiled
                if timed:
                    state, figures = made.step(state, batch, made.catalogue)
                else:  # compiling is not step time
                    jax.block_until_ready([one.figures for one in window[-1:]])
                    with self.clock.paused(), counted.compiling(
                            "the training step for batches of "
                            f"{' x '.join(map(str, shape))}"):
                        state, figures = made.step(state, batch, made.catalogue)
                        jax.block_until_ready(figures)
                    if not compiled:
                        self.clock.restart()
                    compiled.add(shape)
                self.done += 1
                window.append(_Step(figures, math.prod(shape), timed))
                counted.handed(figures)
                stop = stopping()
                # A checkpoint closes the window too: a run that continues from it logs
                # the same lines, and parameters that are not finite are never saved.
                if (stop or self.done % cfg.log_every == 0
                        or pauses.saves(cfg, self.done)):
                    counted.wait()
                    line = self._log_window(window)
                    counted.note(f"loss {line['loss']:.3f}  {line['targets/s']:.0f} "
                                 "targets/s")
                    window = []
                self._pause_work(state, batches, stop)
                if stop:
                    break
            self.checkpoints.wait()
        return self._outcome()

    def _pause_work(self, state: step_lib.TrainState, batches: Any, stop: bool) -> None:
        if not (stop or pauses.saves(self.cfg, self.done)):
            return
        with self.clock.paused():
            if pauses.evaluates(self.cfg, self.done):
                self._evaluate(state)
            self.checkpoints.save(self.done, state, {
                "done": self.done, **self.best.remembered(),
                "batches": batches.get_state()})

    def _evaluate(self, state: step_lib.TrainState) -> None:
        params = parameters.to_host(state.best_params())
        figures = {name: float(value) for name, value in self.evaluate(params).items()}
        pauses.check_named("train.metric", self.cfg.metric, figures)
        if self.best.offer(figures, self.cfg.metric, self.done):
            parameters.write_params(self.folder / "best", params, self.done)
        valid = {f"valid.{name}": value for name, value in figures.items()}
        self.log.append({"step": self.done, **valid})
        _log.info("step %d: valid %s %.4f (best %.4f at step %d)", self.done,
                  self.cfg.metric, figures[self.cfg.metric], self.best.value,
                  self.best.step)

    def _outcome(self) -> Outcome:
        params, step = parameters.read_params(self.folder / "best")
        if step != self.best.step:
            raise InputError(f"{self.folder / 'best'} holds the parameters of step "
                             f"{step}, the run's best is {self.best.step}; delete "
                             f"{self.folder} and train again")
        return Outcome(params, self.best.value, self.best.step, self.done,
                       self.best.figures)

    def _log_window(self, window: list["_Step"]) -> dict[str, float]:
        rows = jax.device_get([one.figures for one in window])
        first = self.done - len(rows) + 1
        bad = [(first + place, name) for place, row in enumerate(rows)
               for name in ("loss", *row) if not np.isfinite(row[name])]
        if bad:
            step, name = bad[0]
            raise InputError(
                f"the {name} is not finite at step {step} (window {first} to "
                f"{self.done}); lower train.optimizer.learning_rate or clip_norm and "
                "run the same command: it continues from the checkpoint before")
        counts = np.array([row["targets"] for row in rows], float)
        line = {name: float(np.average(np.array([row[name] for row in rows], float),
                                       weights=counts))
                for name in rows[0] if name not in ("targets", "positions")}
        # 0 where nothing but the compiling step stands in the window.
        timed = np.array([one.timed for one in window])
        per_second = float(counts[timed].sum()) / max(self.clock.read(), 1e-9)
        real = sum(float(row["positions"]) for row in rows)
        line |= {"targets/s": float(per_second), "fill": self.source.fill,
                 "padding_share": 1 - real / sum(one.positions for one in window),
                 "epoch": self.done / self.source.steps_per_epoch,
                 "gflops": per_second * self.flops_per_target / 1e9,
                 "mfu": per_second * self.flops_per_target / self.peak_flops,
                 "goodput": self.clock.goodput()}
        self.clock.restart()
        self.log.append({"step": self.done, **line})
        return line
