"""Figures of each scenario by itself: one mean hides a scenario that lost.

A target's scenario is that of its own event: a request knows where it is made.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from oxyrec_jax import metrics
from oxyrec_jax.data.dataset import Dataset
from oxyrec_jax.evaluate import tables
from oxyrec_jax.evaluate.rows import Targets


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


def _of(ranks: tables.Ranks, rows: np.ndarray) -> dict[str, np.ndarray]:
    return {level: found[rows] for level, found in ranks.items()}
