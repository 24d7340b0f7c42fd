"""Which events are training targets, and how much each counts.

A target weighs the product of the weights of its behaviour and of its scenario. An
event that is no target stays in every history.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from oxyrec_jax.base import InputError
from oxyrec_jax.data.dataset import Dataset


@dataclasses.dataclass(frozen=True)
class TargetWeights:
    """Weights of a data set's targets.

    Attributes:
      tables: "behaviour" and "scenario", where the data set has them, to the weight of
        each of their numbers, float32.
      kept: `[scenarios]` bool, the scenarios whose events are targets; None: all.
    """

    tables: Mapping[str, np.ndarray]
    kept: np.ndarray | None = None

    @property
    def even(self) -> bool:
        """Whether every target counts 1."""
        return all(bool((table == 1).all()) for table in self.tables.values())


def target_weights(dataset: Dataset, *, behaviours: Mapping[str, float],
                   scenarios: Mapping[str, float], temperature: float = 1.0,
                   only: Sequence[str] = ()) -> TargetWeights:
    """Looks up the weights of a data set's behaviours and scenarios.

    With n_s training targets in scenario s and n of them in all, s weighs

        w_s · n_s^(1/T) / n_s · n / sum_r n_r^(1/T),

    w_s its given weight and T the temperature: 1 leaves every target at w_s, a large
    one lets every scenario count the same in sum. Without w the mean weight is 1.

    Args:
      dataset: a prepared data set.
      behaviours: weights by name; those that are not named weigh 1.
      scenarios: w by name; those that are not named weigh 1.
      temperature: T, above 0.
      only: the scenarios whose events are targets; empty: all.

    Raises:
      InputError: a scenario that the data set does not know, or it has none at all.

    Source: tempered sampling of data sets of unequal size, Arivazhagan et al. 2019,
    https://arxiv.org/abs/1907.05019, section 4.2, as weights.
    """
    tables, names = {}, tuple(dataset.manifest.get("scenarios") or ())
    if "behaviour" in dataset.columns:
        tables["behaviour"] = np.array(
            [behaviours.get(name, 1.0) for name in
             dataset.manifest.get("behaviours") or ()], np.float32)
    for field, asked in (("scenario_weights", scenarios), ("scenarios", only),
                         ("scenario_temperature", [] if temperature == 1 else [""])):
        if asked and "scenario" not in dataset.columns:
            raise InputError(f"pipeline.{field} is set, and the events of "
                             f"{dataset.folder} have no scenario")
        unknown = [name for name in asked if name and name not in names]
        if unknown:
            raise InputError(f"pipeline.{field} names {unknown[0]!r}, and the "
                             f"scenarios of {dataset.folder} are {', '.join(names)}")
    if "scenario" not in dataset.columns:
        return TargetWeights(tables)
    kept = np.array([name in only for name in names]) if only else None
    shares = np.ones(len(names))
    if temperature != 1:
        counts = scenario_counts(dataset, "train").astype(float)
        if kept is not None:
            counts = np.where(kept, counts, 0)
        some = counts > 0
        tempered = np.where(some, counts, 1) ** (1 / temperature)
        shares = np.where(some, tempered / np.where(some, counts, 1) * counts.sum()
                          / max(tempered[some].sum(), 1e-9), 1)
    tables["scenario"] = (shares * [scenarios.get(name, 1.0) for name in names]
                          ).astype(np.float32)
    return TargetWeights(tables, kept)


def target_events(dataset: Dataset, split: str) -> np.ndarray:
    """Number of each target's event among all events, in the order of the split."""
    sequence, position = dataset.targets(split).T
    return dataset.offsets()[sequence] + position


def targets_in(dataset: Dataset, split: str, scenarios: Sequence[str]
               ) -> np.ndarray | None:
    """Numbers of a split's targets in some scenarios, `[R']` int64; None: in all.

    Args:
      dataset: a prepared data set.
      split: "train", "valid" or "test".
      scenarios: names; empty means all.

    Raises:
      InputError: there are none.
    """
    if not scenarios:
        return None
    wanted = [number for number, name in enumerate(dataset.manifest["scenarios"])
              if name in scenarios]
    found = np.flatnonzero(np.isin(
        dataset.column("scenario")[target_events(dataset, split)], wanted))
    if not len(found):
        raise InputError(f"{dataset.folder} has no {split!r} targets in the scenarios "
                         f"{', '.join(scenarios)}")
    return found


def scenario_counts(dataset: Dataset, split: str) -> np.ndarray:
    """How many targets of a split each scenario has, `[scenarios]` int64.

    Raises:
      InputError: the data set has no scenarios, or no such split.
    """
    numbers = dataset.column("scenario")[target_events(dataset, split)]
    return np.bincount(numbers, minlength=len(dataset.manifest["scenarios"]))
