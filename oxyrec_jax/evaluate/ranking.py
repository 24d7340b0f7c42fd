"""How well a ranking model foretells what becomes of the items that requests show.

Every item shown is a row, and "click", "cart" and "order" ask whether it got at least
so far, so that all three are judged on all rows. Two ways of asking are told apart:

    list    the item sees the items before it, at its place: what a packed list holds
    alone   it sees no other item, at its place: what scoring single items holds

Both foretell what happened, so both know the place. Scores that know no place (all
items as if first) are compared with the truth of a simulated shop, where it is known.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from oxyrec_jax import progress
from oxyrec_jax.base import Array
from oxyrec_jax.data.impressions import Impressions
from oxyrec_jax.evaluate import binary, calibration
from oxyrec_jax.models.ranker import HEADS, Ranker
from oxyrec_jax.models.tables import ItemTables

MODES = ("list", "alone")
FIRST = "first"  # alone, as if every item were the first of its list
FIGURES = ("auc", "gauc_user", "gauc_request", "log_loss", "ece")


@dataclasses.dataclass(frozen=True)
class Predicted:
    """What a network says of R requests that showed up to C items.

    Attributes:
      logits: way of asking to `[R, C, 3]` float32, see `models.ranker`.
    """

    logits: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Truth:
    """What a simulated shop knows of R requests.

    Attributes:
      shown: head to `[R, C]` float: the true chance of each item that was shown, once
        somebody looks at it.
      looks: `[C]` float, the true chance that somebody looks at each place.
      drawn: as `shown`, of items drawn from the whole catalogue: an old recommender
        shows the better ones, a new policy may show any.
      predicted: run to what it says of those, asked as if first.
    """

    shown: Mapping[str, np.ndarray]
    looks: np.ndarray
    drawn: Mapping[str, np.ndarray]
    predicted: Mapping[str, Predicted]


def predict(model: Ranker, params: Any, tables: ItemTables,
            batches: Any, *, ways: Sequence[str] = (*MODES, FIRST), what: str,
            items: np.ndarray | None = None) -> Predicted:
    """Runs the network over the requests of a split.

    Args:
      model: the network.
      params: its parameters.
      tables: what is known of every item.
      batches: a `data.request_rows.SplitRequests`.
      ways: "list", "alone" and "first".
      what: the work in a few words, for the progress bar.
      items: `[R, C]` int, asked instead of what was shown, by "first" alone.
    """
    params = jax.device_put(params)
    found: dict[str, list[np.ndarray]] = {way: [] for way in ways}
    for batch in progress.track(batches, what):
        real = batch["rows"] >= 0
        given = {name: batch[name] for name in
                 (*model.reads, "candidates", "target_mask")}
        if items is not None:
            given["candidates"] = items[np.maximum(batch["rows"], 0)]
        for way in ways:
            found[way].append(np.asarray(_ask(model, params, given, tables, way))[real])
    return Predicted({way: np.concatenate(parts) for way, parts in found.items()})


def _ask_network(model: Ranker, params: Any, batch: dict[str, Array],
                 tables: ItemTables, way: str) -> Any:
    items = batch["candidates"]
    if way == "list":
        return model.apply({"params": params}, batch, tables)
    places = jnp.arange(items.shape[1]) if way == "alone" else 0
    return model.apply({"params": params}, batch, tables, items, places,
                       method="alone")


_ask = jax.jit(_ask_network, static_argnames=("model", "way"))


def chances(logits: np.ndarray, scales: np.ndarray) -> dict[str, np.ndarray]:
    """Calibrated chances `[...]` of each head from logits `[..., 3]`.

    The same as `models.scorer.probabilities`, in float64 on the host.

    Args:
      logits: `[..., 3]` float.
      scales: `[3, 2]` float, scale and shift of each.
    """
    steps = -np.logaddexp(0, -(np.asarray(logits, np.float64) * scales[:, 0]
                               + scales[:, 1]))
    return dict(zip(HEADS, np.moveaxis(np.exp(np.cumsum(steps, axis=-1)), -1, 0)))


def fit_scales(predicted: Predicted, shown: Impressions, method: str) -> np.ndarray:
    """`[2, 3, 2]` float32: scale and shift of the three logits for each of `MODES`."""
    real = shown.shown >= 0
    return np.stack([calibration.fit_funnel(predicted.logits[mode], shown.outcome, real,
                                            method) for mode in MODES])


def cells(found: Mapping[str, np.ndarray], shown: Impressions,
          kept: np.ndarray | None = None) -> dict[str, float | None]:
    """Figures of each head over the items shown.

    Args:
      found: head to `[R, C]` chances.
      shown: what the R requests showed.
      kept: `[R]` bool, which requests count; None: all.

    Returns:
      "<head>.auc", ".gauc_user", ".gauc_request" (mean AUC within users and within
      requests that have both, weighted by items shown), ".log_loss" in nats, ".ece"
      (`binary.BINS` bins of equal mass), ".predicted" and ".rate" (means); None where
      a figure is not defined.
    """
    real = shown.shown >= 0
    if kept is not None:
        real = real & kept[:, None]
    request, _ = np.nonzero(real)
    result: dict[str, float | None] = {}
    for step, head in enumerate(HEADS):
        chance, label = found[head][real], shown.outcome[real] > step
        figures = {
            "auc": binary.auc(chance, label),
            "gauc_user": binary.gauc(chance, label, shown.sequence[request]),
            "gauc_request": binary.gauc(chance, label, request),
            "log_loss": binary.log_loss(chance, label),
            "ece": binary.calibration_error(chance, label),
            "predicted": float(np.mean(chance)) if len(chance) else float("nan"),
            "rate": float(np.mean(label)) if len(label) else float("nan")}
        result |= {f"{head}.{name}": None if np.isnan(value) else float(value)
                   for name, value in figures.items()}
    return result


def likelihood(logits: np.ndarray, shown: Impressions) -> float:
    """Mean log-likelihood of how far each item shown got, nats; see `models.ranker`."""
    real, total = shown.shown >= 0, 0.0
    for step in range(len(HEADS)):
        there = real & (shown.outcome >= step)
        scores = np.asarray(logits[..., step][there], np.float64)
        total += float(np.sum(np.logaddexp(0, scores)
                              - (shown.outcome[there] > step) * scores))
    return -total / max(int(real.sum()), 1)


def watched(predicted: Predicted, shown: Impressions) -> dict[str, float]:
    """Figures to follow in training, of items asked alone; larger is better for all."""
    logits = predicted.logits["alone"]
    found = cells(chances(logits, np.tile([1.0, 0.0], (len(HEADS), 1))), shown)
    kept = {name: value for name, value in found.items()
            if value is not None and name.split(".")[1] in FIGURES[:3]}
    return {**kept, "log_likelihood": likelihood(logits, shown)}


def judge(predicted: Mapping[str, Predicted], scales: Mapping[str, np.ndarray],
          shown: Impressions, scenarios: Sequence[str],
          truth: Truth | None = None) -> dict[str, Any]:
    """Judges the runs (seeds) of a ranking model on a split.

    Args:
      predicted: run to its predictions.
      scales: run to its calibration, `[2, 3, 2]`.
      shown: what the requests showed.
      scenarios: names of the scenarios.
      truth: what is known of the true chances; None: nothing.

    Returns:
      "runs": run to mode to cells; "cells": mode to the means over runs; "raw": the
      same without calibration; "scenarios": name to "shown" and mode to cells;
      "reliability": mode to head to bins of the first run; and where the truth is
      known "oracle", the cells of the true chances, and "truth", which compares scores
      of items as if first with it: "shown" and "drawn" to "<head>.correlation"
      (Pearson, of the logarithms), "<head>.order" (share of pairs of a request's items
      that stand in the right order) and "<head>.ratio" (mean score over mean truth).
    """
    named = {}
    for name, found in predicted.items():
        named[name] = {mode: chances(found.logits[mode], scales[name][place])
                       for place, mode in enumerate(MODES)}
    plain = np.tile([1.0, 0.0], (len(HEADS), 1))
    runs = {name: {mode: cells(found, shown) for mode, found in modes.items()}
            for name, modes in named.items()}
    raw = {name: {mode: cells(chances(found.logits[mode], plain), shown)
                  for mode in MODES} for name, found in predicted.items()}
    first, real = next(iter(named)), shown.shown >= 0
    result: dict[str, Any] = {
        "runs": runs, "cells": _mean(runs), "raw": _mean(raw), "scenarios": {},
        "reliability": {mode: {head: binary.reliability(
            found[head][real], shown.outcome[real] > step)
            for step, head in enumerate(HEADS)}
            for mode, found in named[first].items()}}
    expected = None
    if truth is not None:
        expected = {head: values * truth.looks for head, values in truth.shown.items()}
        result["oracle"] = cells(expected, shown)
        result["truth"] = {
            name: _mean({run: _against(
                chances(own[run].logits[FIRST], scales[run][MODES.index("alone")]),
                known, there) for run in predicted})
            for name, own, known, there in (
                ("shown", predicted, truth.shown, real),
                ("drawn", truth.predicted, truth.drawn, np.ones_like(real)))}
    for number, name in enumerate(scenarios):
        kept = shown.columns["scenario"] == number
        if kept.any():
            own = {run: {mode: cells(found, shown, kept) for mode, found in
                         modes.items()} for run, modes in named.items()}
            result["scenarios"][name] = {"shown": int(real[kept].sum()), **_mean(own)}
            if expected is not None:
                result["scenarios"][name]["oracle"] = cells(expected, shown, kept)
    return result


def _against(found: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray],
             real: np.ndarray) -> dict[str, float | None]:
    """Scores `[R, C]` of items as if first beside the truth once somebody looks."""
    both = real[:, :, None] & real[:, None]
    result: dict[str, float | None] = {}
    for head in HEADS:
        one, other = found[head][real], truth[head][real]
        result[f"{head}.correlation"] = float(np.corrcoef(
            np.log(np.maximum(one, 1e-12)), np.log(np.maximum(other, 1e-12)))[0, 1])
        gaps = [np.sign(values[head][:, :, None] - values[head][:, None])
                for values in (found, truth)]
        pairs = both & (gaps[1] > 0)
        result[f"{head}.order"] = (float(np.mean((gaps[0][pairs] + 1) / 2))
                                   if pairs.any() else None)
        result[f"{head}.ratio"] = float(one.mean() / other.mean())
    return result


def _mean(tables: Mapping[str, Any]) -> Any:
    """The mean over runs of nested figures; None where a run has none."""
    first = next(iter(tables.values()))
    if isinstance(first, Mapping):
        return {name: _mean({run: table[name] for run, table in tables.items()})
                for name in first}
    values = list(tables.values())
    return None if None in values else float(np.mean(values))
