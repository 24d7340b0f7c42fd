"""The step `think`: instructions for users of a log, or of a file of states.

    think/journal/version<n>/   what was asked and done, by version of the instructions
    think/answers/              what a language model said, for all versions
    think/store, think/history  see `instruction_store`
    think/version<n>.json       who writes the instructions of a version
"""

import dataclasses
import datetime
import functools
import json
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from oxyrec_jax import artifacts, instruction_store
from oxyrec_jax.base import InputError
from oxyrec_jax.data.dataset import Dataset, load_dataset
from oxyrec_jax.data.shop.knowledge import load_knowledge
from oxyrec_jax.data.shop.prepare import SOURCE
from oxyrec_jax.instruction_store import Encoder
from oxyrec_jax.thinking import cluster, pipeline, prompts
from oxyrec_jax.thinking.reasoner import RULES_NAME
from oxyrec_jax.thinking.states import UserState, read_states
from oxyrec_jax.user_states import LogStates
from oxyrec_jax.workspace import Workspace, need


@dataclasses.dataclass(frozen=True)
class Wanted:
    """For whom instructions are written, and as of when.

    Attributes:
      states: a file of states, one a line; None: the log of the work directory.
      since: of a log: users who changed from then on, once for each window.
      now: the end of what is known, seconds since 1970 or a date ("2024-12-30T18:00",
        UTC); None: the end of the log, or this machine's clock with `states`.
      before: of a log: the users of this split's targets, each as of the last window
        that had ended when the request was made.
      shard, shards: which part of the users, by a hash of their ids.
    """

    states: pathlib.Path | None = None
    since: str | None = None
    now: str | None = None
    before: str | None = None
    shard: int = 0
    shards: int = 1

    def __post_init__(self) -> None:
        if self.states is not None and (self.since or self.before):
            raise InputError("--states gives the users that are due; --since and "
                             "--before look for them in a log: give one of them")
        if self.before and (self.since or self.now):
            raise InputError("--before says for each request when it is; leave --since "
                             "and --now out")
        if self.before not in (None, "train", "valid", "test"):
            raise InputError(f"--before {self.before}: expected train, valid or test")
        if not 0 <= self.shard < self.shards:
            raise InputError(f"--shard {self.shard} of --shards {self.shards}: "
                             "expected a shard from 0 to one less than their number")


@dataclasses.dataclass(frozen=True)
class Due:
    """States to reason from, how many they are, and the run's window."""

    states: Iterator[UserState]
    total: int | None
    window: int
    span: dict[str, int]


def think(space: Workspace, wanted: Wanted = Wanted()) -> dict[str, Any]:
    """Writes the instructions that are due into the instruction store.

    Killed and started again with the same command it goes on: nobody is lost and
    nobody's question is sent twice.

    Args:
      space: with a prepared data set, unless `wanted.states` names a file.
      wanted: for whom and as of when.

    Returns:
      Every count of the run, who reasoned, and what the store holds now.

    Raises:
      InputError: a setting, the log, the file, the store or the key is not usable.
    """
    cfg = space.cfg.think
    due = _of_file(space, wanted) if wanted.states else _of_log(space, wanted)
    encoder = Encoder(space)
    space.save()
    with instruction_store.open_live(space, encoder) as store:
        store.get_many(["nobody"])  # a dead server is met before anything is paid
    _claim(space, encoder)
    summary = _run(space, due, encoder, wanted)
    with instruction_store.open_live(space, encoder) as store:
        held = store.summary()
    by_rules = cfg.endpoint is None
    return {"reasoner": summary.model, "language_model": not by_rules,
            "note": "The rules of a knowledge base answered, no language model."
                    if by_rules else "", **due.span,
            **{name: value for name, value in pipeline.as_json(summary).items()
               if name != "model"},
            "store": {"backend": cfg.store.backend, **held}}


def _run(space: Workspace, due: Due, encoder: Encoder, wanted: Wanted
         ) -> pipeline.Summary:
    cfg = space.cfg.think
    journal = space.thinking / "journal" / f"version{cfg.version}"
    answers, rules = space.thinking / "answers", load_knowledge().rules
    run = cfg.run(wanted.shard, wanted.shards)
    opening = functools.partial(instruction_store.open_sink, space, encoder,
                                recorded=not wanted.states)
    if cfg.engine == "ray":
        return cluster.think_on_ray(due.states, cluster.Job(
            cfg.endpoint, rules, encoder, opening, str(journal), str(answers), run,
            due.window, encoder.name), due.total)
    options: dict[str, Any] = {"window": due.window, "encoder": encoder.name,
                               "total": due.total}
    with opening() as sink:
        if cfg.endpoint is None:
            return pipeline.think_by_rules(due.states, rules, encoder, sink, journal,
                                           run, **options)
        return pipeline.think_by_llm(due.states, cfg.endpoint, encoder, sink, journal,
                                     run, answers=answers, **options)


def _of_file(space: Workspace, wanted: Wanted) -> Due:
    path = pathlib.Path(wanted.states or "")
    if not path.is_file():
        raise InputError(f"--states {path} is no file; write one user state a line")
    window = space.cfg.think.window
    end = (int(time.time()) if wanted.now is None else moment("--now", wanted.now)
           ) // window * window
    with open(path, "rb") as file:
        lines = sum(1 for _ in file)
    return Due(read_states(path), lines, end, {})


def _of_log(space: Workspace, wanted: Wanted) -> Due:
    cfg = space.cfg.think
    need(space.data, "prepare")
    dataset = load_dataset(space.data)
    if cfg.endpoint is None:
        _check_shop(dataset)
    log = LogStates(dataset, history=cfg.prompts.history, searches=cfg.prompts.searches)
    if log.times is None and not (wanted.since or wanted.now or wanted.before):
        everyone = log.everyone(0)
        return Due(log.states(everyone, None), len(everyone),
                   int(time.time()) // cfg.window * cfg.window, {})
    if wanted.before:
        users, windows = log.before(wanted.before, cfg.window)
    else:
        now = log.last() + cfg.window if wanted.now is None else moment(
            "--now", wanted.now)
        end = now // cfg.window * cfg.window
        if wanted.since:
            users, windows = log.changed(moment("--since", wanted.since), end,
                                         cfg.window)
        else:
            users = log.everyone(end)
            windows = np.full(len(users), end, np.int64)
    different = np.unique(windows)
    span = {"windows": len(different),
            **({"first_window": int(different[0]), "last_window": int(different[-1])}
               if len(different) else {})}
    return Due(log.states(users, windows), len(users),
               int(different[-1]) if len(different) else 0, span)


def _check_shop(dataset: Dataset) -> None:
    if dataset.manifest.get("source") != SOURCE:
        raise InputError(
            f"{dataset.folder} was made from {dataset.manifest.get('source')!r}: the "
            "rule base speaks of the simulated shop only; have a language model asked "
            "with --set think.endpoint.url=URL --set think.endpoint.model=NAME")


def _claim(space: Workspace, encoder: Encoder) -> None:
    """Writes down who writes a version's instructions, or refuses another writer."""
    cfg = space.cfg.think
    path = space.thinking / f"version{cfg.version}.json"
    now = {"reasoner": RULES_NAME if cfg.endpoint is None else cfg.endpoint.model,
           "prompts": {kind: prompts.prompt_version(kind, cfg.prompts)
                       for kind in cfg.prompts.kinds},
           "encoder": json.loads(encoder.name)}
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        artifacts.write_json(path, now)
        return
    there = artifacts.read_json(path)
    other = [name for name in ("reasoner", "encoder") if there[name] != now[name]]
    other += [f"prompt {kind}" for kind, name in now["prompts"].items()
              if there["prompts"].get(kind, name) != name]
    if other:
        raise InputError(
            f"{path} says that instructions of version {cfg.version} have another "
            f"{' and '.join(other)} than this run; raise it: --set "
            f"think.version={cfg.version + 1}")
    artifacts.write_json(path, there | {"prompts": there["prompts"] | now["prompts"]})


def moment(option: str, text: str) -> int:
    """Reads a time as whole seconds since 1970.

    Args:
      option: named in errors.
      text: such a number, or an ISO date with or without a time, UTC unless it says so.

    Raises:
      InputError: it is neither.
    """
    if text.isdigit():
        return int(text)
    try:
        day = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"{option} {text}: expected seconds since 1970 or a date such "
                         "as 2024-12-30 or 2024-12-30T18:00") from None
    if day.tzinfo is None:
        day = day.replace(tzinfo=datetime.timezone.utc)
    return int(day.timestamp())
