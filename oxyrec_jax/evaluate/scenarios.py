"""Figures of each scenario by itself: one mean hides a scenario that lost.

A target's scenario is that of its own event: a request knows where it is made.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from oxyrec_jax import metrics
from oxyrec_jax.data.dataset import Dataset
from oxyrec_jax.evaluate import tables
from oxyrec_jax.evaluate.rows import Targets

_KS = (1, 10)


def of_targets(dataset: Dataset, targets: Targets) -> dict[str, np.ndarray]:
    """The targets of each scenario, in the data set's order of scenarios.

    Returns:
      Name to `[R]` bool, of scenarios with at least one target; nothing where the
      events have no scenario.
    """
    if "scenario" not in dataset.columns:
        return {}
    numbers = np.asarray(dataset.column("scenario"))[targets.place]
    found = {name: numbers == number for number, name
             in enumerate(dataset.manifest.get("scenarios") or ())}
    return {name: rows for name, rows in found.items() if rows.any()}


def figures(groups: Mapping[str, np.ndarray], runs: Mapping[str, tables.Ranks],
            rivals: Mapping[str, tables.Ranks], users: np.ndarray, ks: Sequence[int],
            headline: str, draw: Callable[[np.ndarray], tables.Draw]
            ) -> dict[str, dict[str, Any]]:
    """The cells of every scenario, as if its targets were the whole split.

    Args:
      groups: from `of_targets`.
      runs: ranks `[R]` of each run of the model.
      rivals: the same of each baseline.
      users: `[R]` int64, rows of one user share a number.
      ks: cutoffs.
      headline: the cell that picks the best baseline.
      draw: makes the bootstrap over some rows' users.

    Returns:
      Scenario to "targets" and "users" (counts), the mean over runs of each cell, and

        seeds: mean and standard deviation of each cell over runs;
        intervals: cell to [low, high] over users, of the mean over runs;
        baselines: name to cells and intervals;
        differences: the best baseline by the headline cell, and cell to mean, low and
          high of model minus baseline on the same users.
    """
    found = {}
    for name, rows in groups.items():
        own = {run: _of(ranks, rows) for run, ranks in runs.items()}
        model = {level: np.stack([ranks[level] for ranks in own.values()])
                 for level in next(iter(own.values()))}
        others = {rival: _of(ranks, rows) for rival, ranks in rivals.items()}
        sample = draw(users[rows])
        seeds = metrics.across_seeds([tables.figures(ranks, ks)
                                      for ranks in own.values()])
        baselines: dict[str, dict[str, Any]] = {
            rival: {**tables.figures(ranks, ks),
                    "intervals": tables.intervals(ranks, ks, sample)}
            for rival, ranks in others.items()}
        best = max(baselines, key=lambda rival: baselines[rival][headline])
        found[name] = {
            "targets": int(rows.sum()), "users": len(np.unique(users[rows])),
            **{cell: figure["mean"] for cell, figure in seeds.items()},
            "seeds": seeds, "intervals": tables.intervals(model, ks, sample),
            "baselines": baselines,
            "differences": {"baseline": best, "cells": tables.differences(
                model, others[best], ks, sample)}}
    return found


def compare(groups: Mapping[str, np.ndarray], ranks: Mapping[str, np.ndarray],
            first: str, users: np.ndarray, cells: Sequence[str], *, samples: int = 1000,
            seed: int = 0) -> dict[str, dict[str, Any]]:
    """One way to recommend beside others, scenario by scenario, on the same users.

    Args:
      groups: from `of_targets`.
      ranks: way to `[seeds, R]` ranks of all targets, -1 where it was not asked; a
        scenario in which some way was not asked is left out.
      first: the way that the others are held against.
      users: `[R]` int64, rows of one user share a number.
      cells: such as "item.ndcg@10", of cutoffs 1 and 10.
      samples: bootstrap samples of users.
      seed: of the bootstrap.

    Returns:
      Scenario to "targets", "users", "rows" (way to cell to mean and sd over seeds and
      its "values") and "against" (way to cell to mean, low and high of `first` minus
      that way).
    """
    found: dict[str, dict[str, Any]] = {}
    for name, mine in groups.items():
        own = {way: values[:, mine] for way, values in ranks.items()}
        if any((values < 0).any() for values in own.values()):
            continue
        draw = functools.partial(metrics.bootstrap, users=users[mine],
                                 samples=samples, level=0.95, seed=seed)
        runs = {way: [tables.figures({"item": one}, _KS) for one in values]
                for way, values in own.items()}
        spread = {way: metrics.across_seeds(figures) for way, figures in runs.items()}
        found[name] = {
            "targets": int(mine.sum()), "users": len(np.unique(users[mine])),
            "rows": {way: {cell: spread[way][cell] | {
                "values": [float(one[cell]) for one in runs[way]]} for cell in cells}
                     for way in own},
            "against": {way: {cell: gap for cell, gap in tables.differences(
                {"item": own[first]}, {"item": values}, _KS, draw).items()
                if cell in cells} for way, values in own.items() if way != first}}
    return found


def _of(ranks: tables.Ranks, rows: np.ndarray) -> dict[str, np.ndarray]:
    return {level: found[rows] for level, found in ranks.items()}
