"""The work directory of an experiment, and what must agree in it.

    data/              prepared data set               `prepare`
    instructions/      texts of requests, by kind    where a network reads them
    think/             instruction store, its history, journals, answers   `think`
    semantic_ids/      codes, codebooks, quality       `tokenize`
    semantic_ids.html  every figure of them explained; .json: the same
    train/seed<n>/     checkpoints, log, best          `train`
    evaluation/<split> figures and ranks               `evaluate`
    judge/<kind>/      weights, records and figures of a judge     `judge`
    report.html                                        `report`
    experiment.json    the configuration of all of it
"""

import dataclasses
import json
import os
import pathlib
import shlex
from collections.abc import Sequence
from typing import Any

from oxyrec_jax import artifacts, config
from oxyrec_jax.base import InputError
from oxyrec_jax.config import Experiment
from oxyrec_jax.models.config import ModelConfig
from oxyrec_jax.tokenizer.sid_table import SemanticIds
from oxyrec_jax.train import pauses
from oxyrec_jax.train.align_loop import OUTCOME
from oxyrec_jax.train.beginning import completed
from oxyrec_jax.train.loop import TrainConfig
from oxyrec_jax.train.run_log import read_log

_IDS = "semantic_ids.json"  # beside each run: which ones it learns


@dataclasses.dataclass(frozen=True)
class Workspace:
    """A work directory and the experiment that it belongs to."""

    folder: pathlib.Path
    cfg: Experiment

    @property
    def data(self) -> pathlib.Path:
        return self.folder / "data"

    @property
    def semantic_ids(self) -> pathlib.Path:
        return self.folder / "semantic_ids"

    @property
    def semantic_ids_page(self) -> pathlib.Path:
        return self.folder / "semantic_ids.html"

    def instructions(self, kind: str) -> pathlib.Path:
        """Folder of the instructions of one kind."""
        return self.folder / "instructions" / kind

    @property
    def thinking(self) -> pathlib.Path:
        return self.folder / "think"

    def run(self, seed: int) -> pathlib.Path:
        """Folder of one training run."""
        return self.folder / "train" / f"seed{seed}"

    def evaluation(self, split: str) -> pathlib.Path:
        """Folder of one evaluation."""
        return self.folder / "evaluation" / split

    @property
    def report(self) -> pathlib.Path:
        return self.folder / "report.html"

    def save(self) -> None:
        """Makes this experiment the one that the folder belongs to."""
        artifacts.write_json(self.folder / "experiment.json", config.to_dict(self.cfg))


def open_workspace(folder: pathlib.Path, cfg: Experiment | None,
                   settings: Sequence[str] = ()) -> Workspace:
    """Opens a work directory.

    Args:
      folder: the work directory; made if it is not there.
      cfg: the experiment; None takes the one that the directory was made with.
      settings: "dotted.name=value" changes. The steps prepare, tokenize, train, think
        keep them in the directory; for the others they hold once.

    Raises:
      InputError: no experiment given and none in the directory, or a bad setting.
    """
    folder = pathlib.Path(folder)
    saved = folder / "experiment.json"
    if cfg is None:
        if not saved.exists():
            raise InputError(
                f"{folder} " + ("holds no experiment yet" if folder.exists() else
                                "does not exist")
                + "; name the --workdir of an experiment, or begin one: oxyrec prepare "
                f"experiments/quickstart.py --workdir {folder}")
        cfg = config.from_dict(artifacts.read_json(saved), str(saved))
    if settings:
        cfg = config.with_settings(cfg, settings)
    log = pathlib.Path(cfg.data.path).name
    cfg = config.named(cfg, ": ".join(filter(None, (folder.resolve().name, log))))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made: {error.strerror}") from error
    return Workspace(folder, cfg)


def share(space: Workspace, base: Workspace) -> Workspace:
    """Lets a work directory read data set and semantic IDs where they are in another.

    They are links, relative ones, so that the two can be moved together.

    Args:
      space: its own are left alone where it has some.
      base: with data set and semantic IDs.
    """
    need(base.data, "prepare")
    need(base.semantic_ids, "tokenize")
    for mine, theirs in ((space.data, base.data),
                         (space.semantic_ids, base.semantic_ids)):
        if not mine.exists():
            mine.unlink(missing_ok=True)  # a link that leads nowhere
            mine.symlink_to(os.path.relpath(theirs.resolve(), mine.parent.resolve()),
                            target_is_directory=True)
    return space


def need(folder: pathlib.Path, verb: str) -> None:
    """Raises `InputError` where a step's result is not there, naming the step."""
    if not folder.exists():
        raise InputError(f"{folder} is not there yet; run oxyrec {verb} with the same "
                         "--workdir first")


def begin_run(space: Workspace, seed: int, ids: SemanticIds) -> None:
    """Writes down which semantic IDs a new run learns, or checks an older run."""
    run, path = space.run(seed), _ids_of(space, seed)
    if (run / "run.json").exists():
        there = completed(artifacts.read_json(run / "run.json")["train"],
                          TrainConfig())
        _refuse(run, _changes("train", there, dataclasses.asdict(space.cfg.train)))
    if not path.exists():
        run.mkdir(parents=True, exist_ok=True)
        artifacts.write_json(path, _digests(ids))
    check_run(space, seed, ids)


def check_run(space: Workspace, seed: int, ids: SemanticIds) -> None:
    """Refuses a run that does not fit the semantic IDs or the experiment.

    Args:
      space: the work directory.
      seed: of the run.
      ids: the semantic IDs that stand there now.

    Raises:
      InputError: the run learnt other items, other semantic IDs, another network, or
        reads another history than the experiment says.
    """
    run, path = space.run(seed), _ids_of(space, seed)
    need(path, "train")
    if artifacts.read_json(path) != _digests(ids):
        raise InputError(
            f"{run} was trained on other semantic IDs than {space.semantic_ids} holds "
            f"now; make those again as they were, or delete {run} and run oxyrec train "
            "anew")
    if not (run / "run.json").exists():
        return
    found = artifacts.read_json(run / "run.json")
    history = found["train"]["pipeline"]["history"]
    _refuse(run, [
        *_changes("model", {**completed(found["model"], ModelConfig()),
                            "passes": space.cfg.model.passes},  # the search's alone
                  dataclasses.asdict(space.cfg.model)),
        *_changes("train.pipeline.history", history, space.cfg.train.pipeline.history)])


def unfinished(space: Workspace) -> list[str]:
    """One sentence on each run of the experiment that has not come to its end.

    It names the step reached and the command that continues it. A run without a log
    tells nothing.
    """
    found = []
    for seed in space.cfg.seeds:
        run = space.run(seed)
        log = read_log(run / "log.jsonl")
        if not log or not (run / "run.json").exists():
            continue
        settings = artifacts.read_json(run / "run.json")
        if "align" in settings:
            verb, ended = "align", (run / OUTCOME).exists()
            steps = settings[verb]["steps"]
        else:
            verb, cfg = "train", completed(settings["train"], TrainConfig())
            steps = cfg["steps"]
            ended = pauses.ended(log, steps, cfg["metric"], cfg["patience"])
        if not ended:
            found.append(
                f"the run of seed {seed} had come to step {log[-1]['step']} of {steps} "
                f"({verb}.steps) when it was judged; oxyrec {verb} --workdir "
                f"{shlex.quote(str(space.folder))} continues it")
    return found


def start_of(space: Workspace, seed: int, ids: SemanticIds) -> pathlib.Path:
    """Folder of the parameters that a run of the experiment starts from.

    Args:
      space: with `train.start_from` set.
      seed: of the run.
      ids: its semantic IDs.

    Raises:
      InputError: no parameters there, or they learnt other semantic IDs.
    """
    where = pathlib.Path(space.cfg.train.start_from)
    found = [folder for folder in (where, where / "best",
                                   where / "train" / f"seed{seed}" / "best")
             if (folder / artifacts.MANIFEST).exists() and folder.name == "best"]
    if not found:
        raise InputError(
            f"train.start_from is {str(where)!r}, where no trained parameters lie for "
            f"seed {seed}; give a work directory, one of its runs (train/seed0), or "
            "that run's folder best")
    known = found[0].parent / _IDS
    if not known.exists():
        raise InputError(f"train.start_from: {known} is missing, so that nobody knows "
                         "which semantic IDs those parameters learnt; give a run that "
                         "oxyrec train made")
    if artifacts.read_json(known) != _digests(ids):
        raise InputError(
            f"train.start_from: {found[0]} learnt other items or semantic IDs than "
            f"{space.semantic_ids} holds; start from a run on a copy of these")
    return found[0]


def _ids_of(space: Workspace, seed: int) -> pathlib.Path:
    return space.run(seed) / _IDS


def _digests(ids: SemanticIds) -> dict[str, str]:
    return {"dataset": ids.manifest["dataset"],
            "codes": ids.manifest["root"]}  # the same while no old item moves


def _refuse(run: pathlib.Path, changes: Sequence[str]) -> None:
    if changes:
        raise InputError(f"{run} was trained with another configuration "
                         f"({', '.join(changes)}); give the same settings, or another "
                         "work directory")


def _changes(name: str, there: Any, now: Any) -> list[str]:
    """Names fields of which a run was made with another value than stands now."""
    if isinstance(there, dict) and isinstance(now, dict):
        return [line for field in sorted(there.keys() | now.keys()) for line in
                _changes(f"{name}.{field}", there.get(field), now.get(field))]
    same = json.dumps(there) == json.dumps(now)  # a tuple reads back as a list
    return [] if same else [f"{name} is {there!r} there, {now!r} now"]
