"""Whether retrieval finds what the target is about, apart from what is generated.

A retriever keeps K of the M events before the recent history. Its *recall* of a label
is the share of targets of whose label at least one event was kept; its *share* is how
much of what it kept has the target's label. Labels are the item's category (its leaf)
and the first 1 .. T codes of its semantic ID. Beside the network stand, on the same
histories,

    recent   the latest K of the M events
    random   K of them drawn evenly
    ceiling  an ideal retriever, which knows the target: its recall is the share of
             targets whose label is in the M events at all

Only targets with at least one such event count: there is nothing to retrieve for the
others. Source: recall of a target's group within K as in retrieval papers; the labels,
the share and the controls are ours.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from oxyrec_jax import metrics, progress
from oxyrec_jax.base import Array
from oxyrec_jax.data import pipeline
from oxyrec_jax.data.dataset import Dataset
from oxyrec_jax.models.generator import Generator
from oxyrec_jax.models.retrieval import choose_events
from oxyrec_jax.models.tables import ItemTables

CONTROLS = ("recent", "random")
RULES = ("model", *CONTROLS, "ceiling")
FIGURES = ("recall", "share")


@dataclasses.dataclass(frozen=True)
class Retrieved:
    """How well one run retrieves, target by target.

    Attributes:
      labels: C names of labels.
      values: figure to rule to `[R, C]` float64 of the R targets of the split.
      older: `[R]` int64, events of each target's long history, at most M.
    """

    labels: tuple[str, ...]
    values: dict[str, dict[str, np.ndarray]]
    older: np.ndarray


def item_labels(dataset: Dataset, codes: np.ndarray) -> dict[str, np.ndarray]:
    """Labels of the items by name, `[N]` int64 each, -1 where an item has none.

    Args:
      dataset: for the categories; without any there is no label "category".
      codes: `[N, T]` int, the items' semantic IDs.
    """
    found = {}
    categories = dataset.item_table()["category"].to_pylist()
    if any(categories):
        known = sorted({name for name in categories if name})
        place = {name: number for number, name in enumerate(known)}
        found["category"] = np.array([place.get(name, -1) for name in categories])
    for length in range(1, codes.shape[1] + 1):
        _, label = np.unique(codes[:, :length], axis=0, return_inverse=True)
        found[f"sid{length}"] = label.reshape(-1).astype(np.int64)
    return found


def match(kept: np.ndarray, long: np.ndarray, targets: np.ndarray, labels: np.ndarray
          ) -> dict[str, dict[str, np.ndarray]]:
    """Compares the labels of kept events with the target's.

    Args:
      kept: `[rules, B, K]` int items, -1 = none.
      long: `[B, M]` int items of the long histories, -1 = none.
      targets: `[B]` int items.
      labels: `[N]` int of every item, -1 = none; a target without one matches nothing.

    Returns:
      Figure to rule to `[B]` float64; "ceiling" is the last rule. A history without
      events has 0 everywhere.
    """
    wanted = labels[targets][:, None]

    def agree(items: np.ndarray) -> np.ndarray:
        return (items >= 0) & (wanted >= 0) & (labels[np.maximum(items, 0)] == wanted)
    found: dict[str, dict[str, np.ndarray]] = {name: {} for name in FIGURES}
    for rule, items in zip(RULES, kept):
        same, real = agree(items).sum(axis=1), (items >= 0).sum(axis=1)
        found["recall"][rule] = (same > 0).astype(np.float64)
        found["share"][rule] = same / np.maximum(real, 1)
    same, most = agree(long).sum(axis=1), kept.shape[2]
    room = np.minimum((long >= 0).sum(axis=1), most)
    found["recall"]["ceiling"] = (same > 0).astype(np.float64)
    found["share"]["ceiling"] = np.minimum(same, room) / np.maximum(room, 1)
    return found


def retrieve_split(model: Generator, params: Any, dataset: Dataset, split: str,
                   tables: ItemTables, *, history: int, batch: int = 256,
                   behaviour: str = "", what: str = "retrieving") -> Retrieved:
    """Lets a network retrieve for every target of a split.

    Args:
      model: a network that retrieves.
      params: its parameters.
      dataset: the prepared data.
      split: "valid" or "test".
      tables: what is known of every item.
      history: the most events of the recent history.
      batch: requests in one call.
      behaviour: name of what is asked for, for a network that is told.
      what: the work in a few words, for the progress bar.
    """
    labels = item_labels(dataset, np.asarray(tables.codes)[:dataset.num_items])
    batches = pipeline.eval_batches(dataset, split, batch=batch, history=history,
                                    columns=model.columns,
                                    long=model.cfg.retrieval.events,
                                    behaviour=behaviour)
    params = jax.device_put(params)
    keys: Any = model.apply({"params": params}, tables, method="item_keys")
    tables = dataclasses.replace(tables, keys=keys)
    found: list[list[dict[str, dict[str, np.ndarray]]]] = []
    older = []
    for rows in progress.track(batches, what):
        real = rows["rows"] >= 0
        used = {name: rows[name] for name in model.reads}
        kept = np.asarray(_keep(model, params, used, tables))[:, real]
        long = rows["long_items"][real]
        found.append([match(kept, long, rows["targets"][real, 0], label)
                      for label in labels.values()])
        older.append((long >= 0).sum(axis=1))
    values = {figure: {rule: np.concatenate(
        [np.stack([label[figure][rule] for label in part], 1) for part in found])
        for rule in RULES} for figure in FIGURES}
    return Retrieved(tuple(labels), values, np.concatenate(older))


@functools.partial(jax.jit, static_argnames="model")
def _keep(model: Generator, params: Any, batch: dict[str, Array], tables: ItemTables
          ) -> Array:
    """`[1 + controls, B, K]` int32: what the network and the controls keep."""
    own: Any = model.apply({"params": params}, batch, tables, method="retrieve")
    cfg, items = model.cfg.retrieval, batch["long_items"]
    even = jnp.zeros((items.shape[0], tables.codes.shape[0]), jnp.float32)
    others = [choose_events(dataclasses.replace(cfg, choose=name, recent=0), even,
                            items) for name in CONTROLS]
    return jnp.stack([own, *others])


def judge(runs: Mapping[str, Retrieved], users: np.ndarray, *, keep: int,
          samples: int, level: float, seed: int) -> dict[str, Any]:
    """The figures of some runs beside the controls, paired over users.

    Args:
      runs: name of the run to what it retrieved for the same R targets.
      users: `[R]`, whose target each is.
      keep: K.
      samples, level, seed: of the bootstrap, see `metrics.bootstrap`.

    Returns:
      JSON values: `targets` with a long history, `with_choice` those whose long history
      has more than K events, `keep`, and `cells`: "category.recall" … to the figures of
      "model" (the mean over runs), "recent", "random" and "ceiling", `interval` of the
      model's, `minus_recent` and `minus_random` with mean, low and high; `runs`: the
      cells of each.
    """
    one = next(iter(runs.values()))
    some = one.older > 0
    found: dict[str, Any] = {"targets": int(some.sum()), "keep": keep,
                             "with_choice": int((one.older > keep).sum()),
                             "cells": {}, "runs": {}}
    if not some.any():
        return found
    for figure in FIGURES:
        own = np.mean([run.values[figure]["model"][some] for run in runs.values()], 0)
        others = [one.values[figure][rule][some] for rule in RULES[1:]]
        columns = np.concatenate([own, *others, *(own - other for other in others[:2])],
                                 axis=1)
        drawn = metrics.bootstrap(columns, users[some], samples=samples, level=level,
                                  seed=seed)
        found["cells"] |= _cells(figure, one.labels, drawn)
    for name, run in runs.items():
        found["runs"][name] = {
            f"{label}.{figure}": float(run.values[figure]["model"][some, place].mean())
            for figure in FIGURES for place, label in enumerate(one.labels)}
    return found


def _cells(figure: str, labels: Sequence[str], drawn: metrics.Interval
           ) -> dict[str, dict[str, Any]]:
    names = [*RULES, *(f"minus_{name}" for name in CONTROLS)]
    mean, low, high = (part.reshape(len(names), len(labels))
                       for part in (drawn.mean, drawn.low, drawn.high))
    found = {}
    for place, label in enumerate(labels):
        cell: dict[str, Any] = {rule: float(mean[row, place])
                                for row, rule in enumerate(RULES)}
        cell["interval"] = [float(low[0, place]), float(high[0, place])]
        for row in range(len(RULES), len(names)):
            cell[names[row]] = {"mean": float(mean[row, place]),
                                "low": float(low[row, place]),
                                "high": float(high[row, place])}
        found[f"{label}.{figure}"] = cell
    return found
