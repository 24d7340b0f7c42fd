"""The aligner's loop: experience, updates, evaluations, alarms, checkpoints.

Killed at any moment, the same call continues from the newest checkpoint and ends with
bit-identical parameters: requests and chance depend on the step alone, and the sampler,
where it lags behind the policy, is in the checkpoint.

A judge stands outside: between drawing and updating it is given the requests and their
candidates, and answers with semantic rewards for the share of the groups that it saw.
"""

import contextlib
import dataclasses
import functools
import logging
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from oxyrec_jax import artifacts, parallel, progress
from oxyrec_jax.base import Array, InputError
from oxyrec_jax.checkpoint import Checkpoints, abstract_like
from oxyrec_jax.data.align_requests import AlignRequests
from oxyrec_jax.models.config import ModelConfig
from oxyrec_jax.models.generator import Generator
from oxyrec_jax.profiling import Shares
from oxyrec_jax.rewards import mapping as rewards_lib
from oxyrec_jax.tokenizer.catalogue import Catalogue
from oxyrec_jax.train import align, beginning, interrupts, parameters, pauses
from oxyrec_jax.train import step as step_lib
from oxyrec_jax.train.align_settings import AlignConfig
from oxyrec_jax.train.alarms import Watch
from oxyrec_jax.train.counted import Counted
from oxyrec_jax.train.run_log import RunLog
from oxyrec_jax.train.signals import SignalSources

_log = logging.getLogger(__name__)
OUTCOME = "outcome.json"  # in the folder of a run that has ended
Evaluate = Callable[[Any], Mapping[str, float]]
# Semantic rewards `[B, G]` and which groups were judged `[B]`, of targets `[B]` of the
# training split by number and their candidates `[B, G]`.
Judge = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class AlignOutcome:
    """How an alignment ended.

    Attributes:
      best: value of the watched metric with the parameters in `best/`.
      best_step: experiences after which they stood; 0: those that it began with.
      steps: experiences done.
      start: the evaluation of the parameters that it began with.
      figures: the evaluation at `best_step`.
      last: the evaluation of the parameters in `last/`.
      reason: why it ended before its last step; "": it did not.
    """

    best: float
    best_step: int
    steps: int
    start: dict[str, float]
    figures: dict[str, float]
    last: dict[str, float]
    reason: str


@dataclasses.dataclass(frozen=True)
class Setting:
    """What an alignment works with, apart from parameters.

    Attributes:
      model: the network.
      catalogue: its items.
      preferred: from `rollout.first_items`.
      requests: to align on.
      signals_of: raw signals of candidates.
      mapping: of them to rewards.
      evaluate: gives figures of a set of parameters on the validation split, among
        them "reward@10".
      judge: gives semantic rewards, for the methods of two streams; None: there is
        none.
      flat: JSON values that decide the outcome beside the configuration, such as where
        the ranking model came from; a run is not continued with others.
    """

    model: Generator
    catalogue: Catalogue
    preferred: Array
    requests: AlignRequests
    signals_of: SignalSources
    mapping: rewards_lib.RewardMapping
    evaluate: Evaluate
    judge: Judge | None = None
    flat: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def align_run(setting: Setting, cfg: AlignConfig, folder: pathlib.Path, *, seed: int,
              start: Any, settings: Mapping[str, Any], mesh: Mesh | None = None
              ) -> AlignOutcome:
    """Aligns until the last step, an alarm, or until the metric stops rising.

    Args:
      setting: what it works with.
      cfg: how.
      folder: of this run: `checkpoints/`, `log.jsonl`, `tensorboard/`, `best/`,
        `last/`. One that holds a checkpoint is continued.
      seed: of requests and chance.
      start: the parameters to begin with, NumPy arrays; also the reference's.
      settings: JSON values to write into `run.json`, by which a run knows itself.
      mesh: the devices; all, as data parallel, by default.

    Raises:
      InputError: the folder holds a run of another configuration, `start` is another
        network's, a signal is poisoned, or a figure is not finite.
    """
    if cfg.two_streams and setting.judge is None and (
            align.SEMANTIC not in setting.mapping.names):
        raise InputError(f"align.policy.method is {cfg.policy.method}, which needs "
                         "semantic rewards; give a judge")
    mesh = parallel.make_mesh() if mesh is None else mesh
    devices = parallel.batch_parts(mesh)
    if cfg.batch % devices:
        raise InputError(f"align.batch is {cfg.batch}, which {devices} devices cannot "
                         "share equally; make it a multiple")
    check_folder(cfg, folder, seed=seed, settings={**settings, **setting.flat})
    run = _Run(setting, cfg, folder, mesh, seed, start)
    with run.checkpoints:
        return run.until_done()


def check_folder(cfg: AlignConfig, folder: pathlib.Path, *, seed: int,
                 settings: Mapping[str, Any], keep: bool = True) -> None:
    """Writes down what a new run is made with, or checks an older one against it.

    Args:
      cfg, folder, seed: as `align_run` takes them.
      settings: what `align_run` takes, and `Setting.flat`.
      keep: without it nothing is written.

    Raises:
      InputError: the folder holds a run of another configuration.
    """
    beginning.check_same_run(
        folder / "run.json",
        {**settings, "align": dataclasses.asdict(cfg), "seed": seed},
        {"align": AlignConfig(), "model": ModelConfig()}, keep=keep)


class _Run:
    """A run: its compiled programs, its state and what it remembers."""

    def __init__(self, setting: Setting, cfg: AlignConfig, folder: pathlib.Path,
                 mesh: Mesh, seed: int, start: Any):
        self.setting, self.cfg, self.folder, self.mesh = setting, cfg, folder, mesh
        self.key = jax.random.key(seed)
        whole = parallel.replicated(mesh)
        self.tables = jax.device_put((setting.catalogue, setting.preferred,
                                      setting.signals_of, setting.mapping), whole)
        optimizer = _optimizer(cfg)
        first = parallel.global_batch(setting.requests[0], mesh)
        state, shardings = step_lib.init_state(setting.model, optimizer, first,
                                               self.tables[0], mesh, seed=seed,
                                               ema=False)
        state = beginning.start_from(state, shardings, start, "the start")
        copy = jax.jit(functools.partial(jax.tree.map, jnp.copy),
                       out_shardings=shardings.params)
        self.copy, self.reference = copy, copy(state.params)
        self.sampler = copy(state.params) if cfg.renewal > 1 else ()
        self.params, self.moments = state.params, state.optimizer
        self.shardings = (shardings.params, shardings.optimizer,
                          shardings.params if cfg.renewal > 1 else ())
        leaves, tree = jax.tree.flatten(self.shardings[:2])
        self.draw, self.appraise, self.update = _programs(
            setting.model, cfg.compiled(), mesh, tuple(leaves), tree)
        self.checkpoints = Checkpoints(folder / "checkpoints")
        self.log, self.watch, self.shares = RunLog(folder), Watch(cfg), Shares()
        self.done, self.last_evaluated, self.best = 0, -1, pauses.Best()
        self.start: dict[str, float] = {}
        self.last: dict[str, float] = {}

    def until_done(self) -> AlignOutcome:
        """Begins or continues; returns once everything is on disk."""
        cfg, window = self.cfg, []
        resumed = self.checkpoints.latest() is not None
        if resumed:
            self._resume()
        else:
            self.log.truncate(-1)  # nothing, not even the start
        with (progress.bar("aligning", cfg.steps) as advance, self.log,
              interrupts.held_back() as stopping):
            advance(self.done)
            counted, compiled = Counted(advance), False
            if not resumed:
                self._evaluate()
            while self.done < cfg.steps and not (self.watch.reason or
                                                 self.best.ends(cfg.patience)):
                with (contextlib.nullcontext() if compiled else
                      counted.compiling("the programs of an experience")):
                    window += self._experience()
                compiled = True
                self.done += 1
                stop = stopping()
                if (stop or self.done % cfg.log_every == 0
                        or pauses.saves(cfg, self.done)):
                    line = self._log_window(window)
                    counted.note(
                        f"reward {line['reward']:.3f}  kl {line['kl_ref']:.4f}")
                    window = []
                advance(1)
                if pauses.evaluates(cfg, self.done):
                    self._evaluate()
                if stop or pauses.saves(cfg, self.done):
                    self._save()
                if stop:
                    break
            # An alarm ended it between two evaluations.
            if not stopping() and self.last_evaluated != self.done:
                self._evaluate()
                self._save()
            self.checkpoints.wait()
        if self.watch.reason:
            _log.warning("stopped after %d experiences: %s", self.done,
                         self.watch.reason)
        best = self.best
        outcome = AlignOutcome(best.value, best.step, self.done, self.start,
                               best.figures, self.last, self.watch.reason)
        if not jax.process_index():
            artifacts.write_json(self.folder / OUTCOME, dataclasses.asdict(outcome))
        return outcome

    def _experience(self) -> list[dict[str, Array]]:
        """One experience and the updates on it; their figures."""
        cfg, setting = self.cfg, self.setting
        catalogue, preferred, signals_of, mapping = self.tables
        local = setting.requests[self.done]
        batch = parallel.global_batch(local, self.mesh)
        if cfg.renewal > 1 and self.done % cfg.renewal == 0:
            self.sampler = self.copy(self.params)
        sampler = self.sampler if cfg.renewal > 1 else self.params
        with self.shares.of("rollout"):
            found = jax.block_until_ready(self.draw(
                sampler, batch, catalogue, preferred,
                jax.random.fold_in(self.key, self.done)))
        with self.shares.of("reward"):
            seen = self.appraise(sampler, self.reference, batch, catalogue, found,
                                 signals_of, mapping)
            self._check(batch, seen)
            if setting.judge is not None:
                seen = self._judged(batch, seen)
        figures = []
        with self.shares.of("update"):
            for _ in range(cfg.updates):
                self.params, self.moments, each = self.update(
                    self.params, self.moments, batch, catalogue, seen)
                figures.append(each | self._of_components(seen))
            jax.block_until_ready(figures)
        return figures

    def _check(self, batch: Any, seen: align.Experience) -> None:
        signals, scenario, rows = parameters.to_host(
            (seen.signals, batch["asked_scenario"], batch["rows"]))
        rewards_lib.check_signals(
            self.setting.mapping, signals,
            np.ones(next(iter(signals.values())).shape, bool), scenario,
            [f"training target {row}" for row in rows])

    def _judged(self, batch: Any, seen: align.Experience) -> align.Experience:
        rows, items = parameters.to_host((batch["rows"], seen.rollouts.items))
        semantic = np.zeros(items.shape, np.float32), np.zeros(len(items), bool)
        if not jax.process_index():
            semantic = self.setting.judge(rows, items)  # type: ignore[misc]
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils
            semantic = multihost_utils.broadcast_one_to_all(semantic)
        bad = np.argwhere(~np.isfinite(semantic[0]) & semantic[1][:, None])
        if len(bad):
            group, place = bad[0]
            raise InputError(
                f"reward component 'semantic' is {semantic[0][group, place]} for "
                f"training target {rows[group]}, candidate {place}; mend the judge")
        whole = parallel.replicated(self.mesh)
        return dataclasses.replace(
            seen, semantic=jax.device_put(np.float32(semantic[0]), whole),
            judged=jax.device_put(np.asarray(semantic[1], bool), whole))

    def _of_components(self, seen: align.Experience) -> dict[str, Array]:
        return {f"{kind}.{name}": values[place]
                for kind, values in (("part", seen.parts), ("silent", seen.silent))
                for place, name in enumerate(self.setting.mapping.names)}

    def _log_window(self, window: list[dict[str, Array]]) -> dict[str, float]:
        rows = jax.device_get(window)
        for row in rows:
            for name, value in row.items():
                if not np.isfinite(value):
                    raise InputError(
                        f"the {name} is not finite by experience {self.done}; lower "
                        "align.optimizer.learning_rate and run the same command: it "
                        "continues from the checkpoint before")
        line = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        self.watch.window(line)
        self.log.append({"step": self.done, **line, **self.shares.read(
            "rollouts", self.cfg.batch * self.cfg.group)})
        return line

    def _evaluate(self) -> None:
        params = parameters.to_host(self.params)
        figures = {name: float(value)
                   for name, value in self.setting.evaluate(params).items()}
        for field in ("metric", "guard"):
            pauses.check_named(f"align.{field}", getattr(self.cfg, field), figures)
        if not self.done:
            self.start = figures
        if self.best.offer(figures, self.cfg.metric, self.done):
            parameters.write_params(self.folder / "best", params, self.done)
        self.last, self.last_evaluated = figures, self.done
        parameters.write_params(self.folder / "last", params, self.done)
        self.log.append({"step": self.done, **{f"valid.{name}": value
                                               for name, value in figures.items()}})
        self.watch.evaluation(self.start, figures)

    def _save(self) -> None:
        self.checkpoints.save(
            self.done, (self.params, self.moments, self.sampler),
            {"done": self.done, **self.best.remembered(), "start": self.start,
             "last": self.last, "last_evaluated": self.last_evaluated,
             "watch": self.watch.remembered()})

    def _resume(self) -> None:
        state = self.params, self.moments, self.sampler
        (self.params, self.moments, self.sampler), facts = self.checkpoints.restore(
            abstract_like(state, self.shardings))
        self.best = pauses.Best.recalled(facts)
        self.done, self.start, self.last, self.last_evaluated = (
            facts[name] for name in ("done", "start", "last", "last_evaluated"))
        self.watch.recall(facts["watch"])
        self.log.truncate(self.done)
        _log.info("continuing %s after experience %d", self.folder, self.done)


def _optimizer(cfg: AlignConfig) -> optax.GradientTransformation:
    return step_lib.make_optimizer(cfg.optimizer, cfg.steps * cfg.updates)


@functools.lru_cache(maxsize=8)
def drawing(model: Generator, cfg: AlignConfig) -> Callable:
    """`align.draw` of a network and `cfg.compiled()`, compiled once in a process."""
    return jax.jit(functools.partial(align.draw, model, cfg))


@functools.lru_cache(maxsize=8)
def _programs(model: Generator, cfg: AlignConfig, mesh: Mesh, leaves: tuple,
              tree: Any) -> tuple[Callable, Callable, Callable]:
    """Draw, appraise and update, which several runs of a process share.

    Args:
      model, cfg, mesh: what they are compiled for.
      leaves, tree: flat, the shardings of parameters and moments.
    """
    shardings = jax.tree.unflatten(tree, leaves)
    return (drawing(model, cfg),
            jax.jit(functools.partial(align.appraise, model, cfg)),
            jax.jit(functools.partial(align.update, model, cfg, _optimizer(cfg)),
                    donate_argnums=(0, 1),
                    out_shardings=(*shardings, parallel.replicated(mesh))))


def read_outcome(folder: pathlib.Path) -> dict[str, Any]:
    """What `align_run` left of its outcome, JSON values."""
    return artifacts.read_json(folder / OUTCOME)
