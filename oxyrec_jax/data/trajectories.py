"""A person's events as one trajectory across scenarios, or as one history for each.

Every other part reads a history as the events before a target in one sequence, so the
two are two data sets with the same targets in the same order.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from oxyrec_jax.base import InputError
from oxyrec_jax.data.dataset import Dataset, Shard
from oxyrec_jax.data.packing import count_up
from oxyrec_jax.data.target_weights import target_events


@dataclasses.dataclass(frozen=True)
class Trajectories:
    """A data set twice, with the same targets: row r of a split is one event in both.

    Attributes:
      joined: sequences are people: a target's history is of all scenarios.
      apart: sequences are (person, scenario): it is of the target's scenario alone.
        Names of users are those of `joined`; ask that one for them.
      shares: split to the share of its targets that are left. The others are the first
        event of their person in their scenario, and have no history apart.
    """

    joined: Dataset
    apart: Dataset
    shares: Mapping[str, float]


def trajectories(dataset: Dataset) -> Trajectories:
    """Holds one sequence for each person beside one for each person and scenario.

    Args:
      dataset: a prepared data set whose events have scenarios; held in memory.

    Raises:
      InputError: they have none, or a split has no target with a history apart.
    """
    scenario = np.asarray(dataset.column("scenario")).astype(np.int64)
    offsets = dataset.offsets()
    sequence = np.repeat(np.arange(dataset.num_sequences), np.diff(offsets))
    order = np.lexsort((scenario, sequence))  # stable: oldest first in each
    owner = np.stack([sequence[order], scenario[order]], axis=1)
    first = np.flatnonzero(np.r_[True, (np.diff(owner, axis=0) != 0).any(axis=1)])
    lengths = np.diff(np.r_[first, len(order)])
    place, position = np.empty_like(order), np.empty_like(order)
    place[order] = np.repeat(np.arange(len(first)), lengths)
    position[order] = count_up(lengths)
    joined, apart, shares = {}, {}, {}
    for name, rows in dataset.splits.items():
        if not len(rows):
            continue
        events = target_events(dataset, name)
        kept = position[events] > 0
        if not kept.any():
            raise InputError(f"{dataset.folder} has no {name!r} targets whose person "
                             "was in the same scenario before")
        own, shares[name] = events[kept], float(kept.mean())
        joined[name] = _rows(sequence[own], own - offsets[sequence[own]])
        apart[name] = _rows(place[own], position[own])
    shard = Shard(0, 0, np.r_[first, len(order)].astype(np.int64),
                  {name: dataset.column(name)[order] for name in dataset.columns})
    return Trajectories(
        dataclasses.replace(dataset, splits=joined),
        dataclasses.replace(dataset, num_sequences=len(first), shards=(shard,),
                            splits=apart), shares)


def _rows(sequence: np.ndarray, position: np.ndarray) -> np.ndarray:
    return np.stack([sequence, position, position + 1], axis=1).astype(np.int64)
