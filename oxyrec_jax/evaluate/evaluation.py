"""From recommendation lists to a table that can be believed.

The table holds the model's figures beside those of untrained baselines, with intervals
over users, the tie policy and protocol of the data, figures by group of target, and
the spread over seeds. Everything returned obeys the HR/NDCG bound or is not returned.
The model itself is never seen here: whatever recommends hands over arrays.
"""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from oxyrec_jax import artifacts, metrics, progress
from oxyrec_jax.base import InputError
from oxyrec_jax.data.dataset import Dataset
from oxyrec_jax.evaluate import baselines as untrained
from oxyrec_jax.evaluate import rows as split_rows
from oxyrec_jax.evaluate import scenarios as target_scenarios
from oxyrec_jax.evaluate import strata as target_groups
from oxyrec_jax.evaluate import tables

KIND = "evaluation"
VERSION = 1
_RUN_NAME = re.compile(r"[A-Za-z0-9_-]+")


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """How recommendations are judged. Defaults are ours.

    Attributes:
      ks: the cutoffs K; lists must be at least as long as the largest.
      headline: the cell that picks the best baseline; its K is that of the groups.
      samples: bootstrap samples of users.
      level: coverage of the intervals.
      seed: of the bootstrap and of the baselines' shuffle.
      popularity_groups: groups of targets by training popularity.
    """

    ks: tuple[int, ...] = (1, 3, 5, 10, 20, 50)
    headline: str = "item.ndcg@10"
    samples: int = 1000
    level: float = 0.95
    seed: int = 0
    popularity_groups: int = 4

    def __post_init__(self):
        if not self.ks or min(self.ks) < 1 or len(set(self.ks)) != len(self.ks):
            raise InputError(f"evaluate.ks is {self.ks}, expected different K >= 1")
        cells = [f"item.{name}@{k}" for name in tables.NAMES for k in self.ks]
        if self.headline not in cells:
            raise InputError(f"evaluate.headline is {self.headline!r}, expected one of "
                             f"{', '.join(cells)}")
        if self.samples < 1 or not 0 < self.level < 1:
            raise InputError(f"evaluate.samples is {self.samples} and evaluate.level "
                             f"{self.level}, expected >= 1 and between 0 and 1")


@dataclasses.dataclass(frozen=True)
class Recommendations:
    """What one run of a model recommends for the R targets of a split.

    Attributes:
      items: `[R, K]` int, ranked items, -1 = none.
      sids: `[R, K']` int, ranked semantic IDs (leaves), -1 = none; may be shorter than
        the items, where there are fewer IDs. None: taken from the items, each semantic
        ID at its first item.
      item_sids: `[N]` int, the semantic ID (leaf) of each item; None: no SID figures.
    """

    items: np.ndarray
    sids: np.ndarray | None = None
    item_sids: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What `evaluate` returns.

    Attributes:
      results: JSON values; `evaluate` tells the keys.
      ranks: "run.item", "run.sid", "baseline.item" … to `[R]` int32 ranks.
      targets: `[R, 2]` int64 rows (sequence, item), what the ranks are ranks of.
      users: `[R]` int64, rows of one user share a number.
    """

    results: dict[str, Any]
    ranks: dict[str, np.ndarray]
    targets: np.ndarray
    users: np.ndarray


def evaluate(dataset: Dataset, split: str, runs: Mapping[str, Recommendations], *,
             cfg: EvaluateConfig = EvaluateConfig(),
             embeddings: np.ndarray | None = None) -> Evaluation:
    """Judges the runs (seeds) of one model beside untrained baselines.

    The results hold, as flat cells, the mean over runs of `item.hr@K`,
    `item.recall@K`, `item.ndcg@K`, `item.mrr@K`, the same under `sid.` where semantic
    IDs are known, `coverage@K`, `gini@K` and `validity@K`; and under names:

      runs: the cells of each run; seeds: their mean and standard deviation;
      intervals: cell to [low, high] over users, of the mean over runs;
      baselines: name to cells and intervals;
      differences: the best baseline by the headline cell, and cell to mean, low and
        high of model minus baseline on the same users;
      strata: the figures by group of target;
      scenarios: all of that by scenario, where the events have one, see `scenarios`;
      protocol, tie_policy, source, dataset, split, counts, config, notes.

    `workflow.evaluate` adds `unfinished`, sentences on runs that were judged before
    their end.

    Args:
      dataset: the prepared data.
      split: "valid" or "test".
      runs: name of the run to its recommendations.
      cfg: how to judge.
      embeddings: `[N, D]` float, item text embeddings for nearest titles.

    Returns:
      `Evaluation`.

    Raises:
      InputError: a cutoff above the catalogue or the lists' length, or no targets.
      ValueError: lists of a wrong shape, or a figure that breaks the bound.
    """
    rows = dataset.split(split)
    events = split_rows.of_dataset(dataset)
    targets = split_rows.expand(events, rows)
    _check(runs, len(targets), dataset.num_items, cfg)
    users = _users(dataset, targets)
    with progress.bar(f"evaluating {split}", 3) as advance:
        own = {name: tables.ranks(run.items, run.sids, run.item_sids, targets.item)
               for name, run in runs.items()}
        model = {level: np.stack([found[level] for found in own.values()])
                 for level in next(iter(own.values()))}
        advance(1, "baselines")
        lists = untrained.recommend(events, targets, max(cfg.ks), embeddings=embeddings,
                                    seed=cfg.seed)
        item_sids = next(iter(runs.values())).item_sids
        rivals = {name: tables.ranks(found, None, item_sids, targets.item)
                  for name, found in lists.items()}
        advance(1, "intervals")
        items = {name: run.items for name, run in runs.items()}
        results = {
            **_facts(dataset, split, cfg),
            "counts": {"targets": len(targets), "users": len(np.unique(users)),
                       "items": dataset.num_items, "runs": len(runs)},
            **_compared(own, items, model, rivals, lists, dataset.num_items,
                        _draw(users, cfg), cfg),
            "strata": _strata(dataset, events, targets, model, rivals, users, cfg),
            "scenarios": target_scenarios.figures(
                target_scenarios.of_targets(dataset, targets), own, rivals, users,
                cfg.ks, cfg.headline, functools.partial(_draw, cfg=cfg)),
            "notes": _notes(embeddings is not None, item_sids is not None, len(runs))}
        advance(1)
    _check_bounds(results)
    ranks = {f"{name}.{level}": found[level].astype(np.int32)
             for name, found in (own | rivals).items() for level in found}
    return Evaluation(results, ranks, np.stack([targets.sequence, targets.item], 1),
                      users)


def compare(one: Evaluation, other: Evaluation, names: tuple[str, str], *,
            cfg: EvaluateConfig = EvaluateConfig()) -> dict[str, dict[str, float]]:
    """Differences `one - other` of two runs on the same targets, paired over users.

    Args:
      one, other: evaluations of the same split.
      names: the run or baseline of each, as in `ranks` without its level.
      cfg: cutoffs and bootstrap.

    Returns:
      Cell (`item.hr@K` …) to `mean`, `low` and `high`.

    Raises:
      InputError: an unknown name, or the targets differ so that nothing can be paired.
    """
    if not np.array_equal(one.targets, other.targets):
        raise InputError("the two evaluations have other targets; evaluate both on the "
                         "same split of the same data set")
    found = []
    for name, where in zip(names, (one, other)):
        known = sorted({key.rpartition(".")[0] for key in where.ranks})
        if name not in known:
            raise InputError(f"there is no run {name!r}; there are {', '.join(known)}")
        found.append({key.rpartition(".")[2]: array for key, array
                      in where.ranks.items() if key.rpartition(".")[0] == name})
    return tables.differences(found[0], found[1], cfg.ks, _draw(one.users, cfg))


def write_evaluation(folder: str | pathlib.Path, evaluation: Evaluation) -> None:
    """Writes results and per-target ranks as a bundle of kind "evaluation"."""
    arrays = {f"ranks/{name}": array for name, array in evaluation.ranks.items()}
    arrays |= {"targets": evaluation.targets, "users": evaluation.users}
    artifacts.write_bundle(folder, kind=KIND, version=VERSION, arrays=arrays,
                           facts={"results": evaluation.results})


def read_evaluation(folder: str | pathlib.Path) -> Evaluation:
    """Reads what `write_evaluation` wrote; a damaged bundle raises `InputError`."""
    folder = pathlib.Path(folder)
    manifest = artifacts.read_manifest(folder, kind=KIND, version=VERSION)
    names = [name.removeprefix("ranks/").removesuffix(".npy")
             for name in manifest["files"] if name.startswith("ranks/")]
    ranks = {name: artifacts.read_array(folder, f"ranks/{name}") for name in names}
    return Evaluation(manifest["results"], ranks,
                      artifacts.read_array(folder, "targets"),
                      artifacts.read_array(folder, "users"))


def _check(runs: Mapping[str, Recommendations], rows: int, num_items: int,
           cfg: EvaluateConfig) -> None:
    if not runs:
        raise ValueError("no runs to evaluate")
    if max(cfg.ks) > num_items:
        raise InputError(f"evaluate.ks holds {max(cfg.ks)}, but the catalogue has only "
                         f"{num_items} items; ask for a smaller K")
    for name, run in runs.items():
        if not _RUN_NAME.fullmatch(name) or name in untrained.NAMES:
            raise InputError(f"a run is named {name!r}; use letters, digits, '-' and "
                             f"'_', and not the name of a baseline")
        for what, lists in (("items", run.items), ("sids", run.sids)):
            if lists is None:
                continue
            if lists.ndim != 2 or len(lists) != rows:
                raise ValueError(f"{name}: {what} {lists.shape}, expected [{rows}, K]")
        if run.items.shape[1] < max(cfg.ks):
            raise InputError(f"evaluate.ks holds {max(cfg.ks)}, but {name} gives "
                             f"{run.items.shape[1]} items a row; ask for more beams or "
                             "a smaller K")
        if run.items.min() < -1 or run.items.max() >= num_items:
            raise ValueError(f"{name}: items {run.items.min()} to {run.items.max()}, "
                             f"expected -1 to {num_items - 1}")
        if run.item_sids is None and run.sids is not None:
            raise ValueError(f"{name}: sids without item_sids")
        if run.item_sids is not None and run.item_sids.shape != (num_items,):
            raise ValueError(f"{name}: item_sids {run.item_sids.shape}, "
                             f"expected [{num_items}]")
    if len({run.item_sids is None for run in runs.values()}) > 1:
        raise ValueError("only some of the runs have item_sids")


def _users(dataset: Dataset, targets: split_rows.Targets) -> np.ndarray:
    """`[R]` int64: rows of one user share a number, also over sequences."""
    _, user = np.unique(np.array(dataset.user_ids()), return_inverse=True)
    return user[targets.sequence].astype(np.int64)


def _draw(users: np.ndarray, cfg: EvaluateConfig) -> tables.Draw:
    """The bootstrap of the configuration; every call draws the same users."""
    return lambda values: metrics.bootstrap(values, users, samples=cfg.samples,
                                            level=cfg.level, seed=cfg.seed)


def _compared(own: Mapping[str, tables.Ranks], items: Mapping[str, np.ndarray],
              model: tables.Ranks, rivals: Mapping[str, tables.Ranks],
              lists: Mapping[str, np.ndarray], num_items: int, draw: tables.Draw,
              cfg: EvaluateConfig) -> dict[str, Any]:
    """The figures of runs and baselines, intervals, and the paired differences."""
    runs = {name: tables.figures(found, cfg.ks)
            | tables.list_figures(items[name], cfg.ks, num_items)
            for name, found in own.items()}
    seeds = metrics.across_seeds(list(runs.values()))
    rows: dict[str, dict[str, Any]] = {}
    for name, found in rivals.items():
        twin = name.removesuffix("_shuffled")
        if twin in rows and lists[twin] is lists[name]:  # order made no difference
            rows[name] = rows[twin]
            continue
        rows[name] = {**tables.figures(found, cfg.ks),
                      **tables.list_figures(lists[name], cfg.ks, num_items),
                      "intervals": tables.intervals(found, cfg.ks, draw)}
    best = max(rows, key=lambda name: rows[name][cfg.headline])
    return {**{cell: figure["mean"] for cell, figure in seeds.items()},
            "runs": runs, "seeds": seeds, "baselines": rows,
            "intervals": tables.intervals(model, cfg.ks, draw),
            "differences": {"baseline": best, "cells": tables.differences(
                model, rivals[best], cfg.ks, draw)}}


def _strata(dataset: Dataset, events: split_rows.Events, targets: split_rows.Targets,
            model: tables.Ranks, rivals: Mapping[str, tables.Ranks], users: np.ndarray,
            cfg: EvaluateConfig) -> list[dict[str, Any]]:
    """Item-level figures at the headline's K, group by group."""
    item_ids = dataset.item_table()["item_id"].to_pylist()
    ks = (int(cfg.headline.rpartition("@")[2]),)
    found = []
    for group in target_groups.strata(events, targets, item_ids,
                                      groups=cfg.popularity_groups):
        own = {"item": model["item"][:, group.rows]}
        draw = _draw(users[group.rows], cfg)
        rows = {name: tables.figures({"item": rival["item"][group.rows]}, ks)
                for name, rival in rivals.items()}
        found.append({"axis": group.axis, "name": group.name,
                      "targets": int(group.rows.sum()), **tables.figures(own, ks),
                      "intervals": tables.intervals(own, ks, draw), "baselines": rows})
    return found


def _facts(dataset: Dataset, split: str, cfg: EvaluateConfig) -> dict[str, Any]:
    manifest = dataset.manifest
    return {"split": split, "source": manifest.get("source"),
            "protocol": manifest.get("protocol"),
            "tie_policy": manifest.get("tie_policy"),
            "dataset": artifacts.value_digest(manifest),
            "config": {**dataclasses.asdict(cfg), "ks": list(cfg.ks)}}


def _notes(titles: bool, sids: bool, runs: int) -> list[str]:
    notes = ["Every recommender ranks the full catalogue. Baselines break ties in "
             "score by training popularity, then item id.",
             "Popularity and nearest titles do not read the order of training "
             "histories: shuffling these changes nothing."]
    if not titles:
        notes.append("No item text embeddings were given: nearest titles are missing.")
    if sids:
        notes.append("SID figures of baselines take each semantic ID at its first "
                     "item, so a list of K items holds at most K semantic IDs.")
    if runs == 1:
        notes.append("One run: the spread over seeds is unknown.")
    return notes


def _check_bounds(results: Mapping[str, Any]) -> None:
    metrics.check_bounds(results, where="model")
    for kind in ("runs", "baselines"):
        for name, table in results[kind].items():
            metrics.check_bounds(table, where=name)
    groups = [(group["name"], group) for group in results["strata"]]
    for label, group in [*groups, *results["scenarios"].items()]:
        metrics.check_bounds(group, where=label)
        for name, table in group["baselines"].items():
            metrics.check_bounds(table, where=f"{label}, {name}")
