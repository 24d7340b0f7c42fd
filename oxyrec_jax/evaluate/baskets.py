"""Next baskets: lists judged by the set of items that was bought together.

A basket of B different items is one row, with one list; all its items are relevant.
Figures of a list's first k items, of which none is asked for twice:

    recall  share of the basket's items that are found
    hr      1 where any is found
    ndcg    sum of 1 / log2(place + 2) of those found, over that of min(k, B) places
    spend   share of what was paid for the basket that was paid for those found
    gmv     what was paid for those found, in the log's own currency

Source: recall, NDCG and the personal and repeat-aware baselines are those of Li et al.
2023, https://doi.org/10.1145/3587153; the two of money are ours.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from oxyrec_jax import artifacts, metrics
from oxyrec_jax.data.baskets import Baskets, of_split
from oxyrec_jax.data.dataset import Dataset
from oxyrec_jax.data.target_weights import target_events
from oxyrec_jax.evaluate import basket_baselines, baselines
from oxyrec_jax.evaluate import rows as split_rows
from oxyrec_jax.evaluate.evaluation import EvaluateConfig

Cells: TypeAlias = Mapping[str, np.ndarray]
NAMES = ("recall", "hr", "ndcg", "spend", "gmv")


def figures(lists: np.ndarray, baskets: Baskets, k: int) -> dict[str, np.ndarray]:
    """Every figure of `NAMES` of each list, `[R]` float64.

    Args:
      lists: `[R, K]` int, best first, -1 = none, no item twice.
      baskets: R.
      k: how many items of a list count, at most K.
    """
    if len(lists) != len(baskets) or not 1 <= k <= lists.shape[1]:
        raise ValueError(f"{lists.shape=}, {len(baskets)} baskets, {k=}")
    found = lists[baskets.row, :k] == baskets.item[:, None]
    hit, place = found.any(axis=1), found.argmax(axis=1)

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(baskets.row, weights=values, minlength=len(baskets))
    size, paid = total(np.ones(len(hit))), total(baskets.spent)
    gains = 1 / np.log2(np.arange(k) + 2.0)
    best = np.cumsum(gains)[np.minimum(size.astype(int), k) - 1]
    hits, money = total(hit), total(hit * baskets.spent)
    return {"recall": hits / size, "hr": (hits > 0).astype(np.float64),
            "ndcg": total(np.where(hit, gains[place], 0)) / best,
            "spend": money / np.where(paid > 0, paid, 1), "gmv": money}


def evaluate(dataset: Dataset, split: str, runs: Mapping[str, np.ndarray], *,
             ks: Sequence[int] = (5, 10, 20), headline: str = "basket.recall@10",
             samples: int = 1000, level: float = 0.95, seed: int = 0,
             rivals: Mapping[str, np.ndarray] | None = None) -> dict[str, Any]:
    """Judges the runs (seeds) of one model beside untrained baselines.

    Args:
      dataset: `by_basket`.
      split: "valid" or "test".
      runs: name of the run to its lists `[R, K]`, one for each basket.
      ks: cutoffs, at most K.
      headline: the cell that picks the best baseline.
      samples, level, seed: of the bootstrap over users.
      rivals: lists of the baselines by name; None: those of `baseline_lists`.

    Returns:
      Cells `basket.<name>@<k>`, the mean over runs; "runs", "seeds", "intervals",
      "baselines", "differences" as of `evaluation.evaluate`; "scenarios" the cells of
      model and baselines at the headline's k; "counts", "split", "protocol",
      "dataset", "notes".
    """
    baskets = of_split(dataset, split)
    users = _users(dataset, split, baskets)
    lists = rivals or baseline_lists(dataset, split, max(ks))

    def cells(items: np.ndarray) -> Cells:
        return {f"basket.{name}@{k}": values for k in ks
                for name, values in figures(items, baskets, k).items()}

    def drawn(found: Cells) -> dict[str, dict[str, float]]:
        told = metrics.bootstrap(np.stack(list(found.values()), axis=1), users,
                                 samples=samples, level=level, seed=seed)
        return {cell: {"mean": float(told.mean[place]), "low": float(told.low[place]),
                       "high": float(told.high[place])}
                for place, cell in enumerate(found)}

    def intervals(found: Cells) -> dict[str, list[float]]:
        return {cell: [one["low"], one["high"]] for cell, one in drawn(found).items()}
    own = {name: cells(items) for name, items in runs.items()}
    others = {name: cells(items) for name, items in lists.items()}
    model = {cell: np.mean([run[cell] for run in own.values()], axis=0)
             for cell in next(iter(own.values()))}
    means = {name: _means(found) for name, found in own.items()}
    seeds = metrics.across_seeds(list(means.values()))
    best = max(others, key=lambda name: float(others[name][headline].mean()))
    shown = [f"basket.{name}@{headline.rpartition('@')[2]}" for name in NAMES]
    return {
        **{cell: figure["mean"] for cell, figure in seeds.items()},
        "runs": means, "seeds": seeds, "intervals": intervals(model),
        "baselines": {name: {**_means(found), "intervals": intervals(found)}
                      for name, found in others.items()},
        "differences": {"baseline": best, "cells": drawn(
            {cell: model[cell] - others[best][cell] for cell in model})},
        "scenarios": {
            name: {"baskets": int(mine.sum()), **_means(model, mine, shown),
                   "baselines": {rival: _means(found, mine, shown)
                                 for rival, found in others.items()}}
            for name, mine in _by_scenario(dataset, split, baskets).items()},
        "counts": {"baskets": len(baskets), "bought": len(baskets.item),
                   "users": len(np.unique(users)), "items": dataset.num_items,
                   "runs": len(runs)},
        "split": split, "protocol": dataset.manifest.get("protocol"),
        "dataset": artifacts.value_digest(dataset.manifest),
        "notes": ["Every recommender ranks the full catalogue and knows what was "
                  "bought before the basket, nothing of it."]}


def of_lists(dataset: Dataset, split: str, runs: Mapping[str, np.ndarray],
             cfg: EvaluateConfig) -> dict[str, Any]:
    """`evaluate` of lists that stand beside every target of a split.

    Args:
      dataset, split: as of `evaluate`.
      runs: name of the run to `[R', K]` lists, the same for targets of one basket.
      cfg: cutoffs and bootstrap; the headline is recall at its headline's k.
    """
    asked = of_split(dataset, split).asked
    k = cfg.headline.rpartition("@")[2]
    return evaluate(dataset, split, {name: items[asked] for name, items in
                                     runs.items()}, ks=cfg.ks,
                    headline=f"basket.recall@{k}", samples=cfg.samples,
                    level=cfg.level, seed=cfg.seed)


def baseline_lists(dataset: Dataset, split: str, k: int) -> dict[str, np.ndarray]:
    """What untrained recommenders list for each basket: name to `[R, k]` int32."""
    events = split_rows.of_dataset(dataset)
    targets = split_rows.expand(events, dataset.split(split)).take(
        of_split(dataset, split).asked)
    return {"popularity": baselines.popularity(events, targets, k),
            "markov": basket_baselines.basket_markov(events, targets, k),
            "own frequency": basket_baselines.own_frequency(events, targets, k),
            "own frequency, fading": basket_baselines.own_frequency(
                events, targets, k, fade=basket_baselines.FADE)}


def _means(found: Cells, rows: np.ndarray | None = None,
           names: Sequence[str] | None = None) -> dict[str, float]:
    """Mean of some cells over some rows; None: all of them."""
    return {cell: float((found[cell] if rows is None else found[cell][rows]).mean())
            for cell in names or found}


def _users(dataset: Dataset, split: str, baskets: Baskets) -> np.ndarray:
    """`[R]` int64: rows of one user share a number."""
    _, user = np.unique(np.array(dataset.user_ids()), return_inverse=True)
    return user[dataset.targets(split)[baskets.asked, 0]].astype(np.int64)


def _by_scenario(dataset: Dataset, split: str, baskets: Baskets
                 ) -> dict[str, np.ndarray]:
    if "scenario" not in dataset.columns:
        return {}
    numbers = dataset.column("scenario")[target_events(dataset, split)[baskets.asked]]
    found = {name: numbers == number for number, name
             in enumerate(dataset.manifest.get("scenarios") or ())}
    return {name: mine for name, mine in found.items() if mine.any()}
