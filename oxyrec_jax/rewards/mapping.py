"""Unified reward mapping: raw signals → normalised components → one number.

    R = sum_c w[s, c] · n_c(x_c) / sum_c w[s, c]

for a request in scenario s. The normalisers n_c are fitted once, on logged signals, and
frozen in an artefact, so that a reward means the same in every step and every run.

    "quantile"  n(x) = share of the logged values below x, ties half, at up to `knots`
                of the values of the log that are spread evenly; linear between those,
                and the last one's outside: in [0, 1]. At a value of a log of no more
                of them it is exact, and the same whatever increasing function is
                applied to signal and log; of more, a value that is much of the log is
                smeared over its neighbours
    "zscore"    n(x) = (x - mean) / deviation, cut to ±clip: the same whatever
                increasing affine function is applied to both
    "none"      n(x) = x

Source: normalised families and a scenario-aware weighted sum, OxygenREC, arXiv
2512.22386; normalisers, weights and checks are ours.
"""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from oxyrec_jax import artifacts
from oxyrec_jax.base import Array, InputError

METHODS = ("quantile", "zscore", "none")

_KIND, _VERSION = "reward-mapping", 1


@dataclasses.dataclass(frozen=True)
class Component:
    """How one signal enters the reward.

    Attributes:
      normalise: one of `METHODS`.
      weight: in every scenario that `scenarios` does not name, at least 0.
      scenarios: weights by scenario.
      clip: (zscore) most deviations from the mean.
      reach: values further than so many times the logged range outside the log are
        taken for a fault of their source.
      may_be_constant: all candidates of a step may have one value, as a format
        reward's have under constrained decoding; otherwise that is a fault.
    """

    normalise: str = "quantile"
    weight: float = 1.0
    scenarios: dict[str, float] = dataclasses.field(default_factory=dict)
    clip: float = 3.0
    reach: float = 10.0
    may_be_constant: bool = False

    def __post_init__(self) -> None:
        if self.normalise not in METHODS:
            raise InputError(f"normalise of a reward's component is {self.normalise!r},"
                             f" expected one of {', '.join(METHODS)}")
        for name, value in (("weight", self.weight), *self.scenarios.items()):
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"weight {name!r} of a reward's component is {value}, "
                                 "expected a number of at least 0")
        if not self.clip > 0 or not self.reach >= 0:
            raise InputError(f"clip of a reward's component is {self.clip} and reach "
                             f"{self.reach}, expected above 0 and at least 0")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RewardMapping:
    """A fitted mapping of C components and S scenarios; an argument of jitted steps.

    Attributes:
      knots: `[C, Q]` float32 rising logged values (quantile).
      levels: `[C, Q]` float32, the share of the log below each knot.
      centre, scale: `[C]` float32 mean and deviation (zscore; else 0 and 1).
      low, high: `[C]` float32: what the log held, least and most.
      weights: `[S, C]` float32, each row sums to 1.
      names: of the components.
      scenarios: their names.
      components: as configured.
    """

    knots: Array
    levels: Array
    centre: Array
    scale: Array
    low: Array
    high: Array
    weights: Array
    names: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    scenarios: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    components: "Components" = dataclasses.field(metadata={"static": True})

    def bounds(self) -> dict[str, tuple[float, float]]:
        """Least and most that each normalised component can be."""
        found = {}
        for name, one in zip(self.names, self.components):
            found[name] = {"quantile": (0.0, 1.0), "zscore": (-one.clip, one.clip),
                           "none": (-math.inf, math.inf)}[one.normalise]
        return found


class Components(tuple[Component, ...]):
    """Components as a value that a compiled program can be told apart by."""

    def __hash__(self) -> int:
        return hash(repr(tuple(self)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rewards:
    """Rewards of B groups of G.

    Attributes:
      total: `[B, G]` float32, the weighted mean of `parts`.
      parts: `[B, G, C]` float32, the normalised components.
    """

    total: Array
    parts: Array


def fit_mapping(logged: Mapping[str, np.ndarray], components: Mapping[str, Component],
                scenarios: Sequence[str], *, knots: int = 1024) -> RewardMapping:
    """Fits the normalisers to logged signals.

    Args:
      logged: for each component `[E]` float raw signals of logged candidates.
      components: by name, in the order of the result.
      scenarios: names; a request's scenario is an index into them.
      knots: Q, most quantiles kept of each.

    Raises:
      InputError: a component without signals, a signal that is not finite or (unless
        `may_be_constant`) constant in the log, an unknown scenario, or one without a
        component of positive weight.
    """
    if not components or not scenarios:
        raise InputError("a reward needs at least one component and one scenario")
    unknown = {name for one in components.values() for name in one.scenarios}
    unknown -= set(scenarios)
    if unknown:
        raise InputError(f"a reward has a weight for scenario {min(unknown)!r}; the "
                         f"log has {', '.join(scenarios)}")
    weights = np.array([[one.scenarios.get(name, one.weight)
                         for one in components.values()] for name in scenarios])
    for name, row in zip(scenarios, weights):
        if not row.sum() > 0:
            raise InputError(f"no component of the reward has a weight in scenario "
                             f"{name!r}")
    rows = [_fit(name, logged, one, knots) for name, one in components.items()]
    tables = {field: jnp.asarray(np.stack([row[field] for row in rows]), jnp.float32)
              for field in rows[0]}
    return RewardMapping(
        **tables, weights=jnp.asarray(weights / weights.sum(1, keepdims=True),
                                      jnp.float32),
        names=tuple(components), scenarios=tuple(scenarios),
        components=Components(components.values()))


def unify(mapping: RewardMapping, signals: Mapping[str, Array], scenario: Array
          ) -> Rewards:
    """The rewards of B groups.

    Args:
      mapping: from `fit_mapping`.
      signals: `[B, G]` float raw signals by component.
      scenario: `[B]` int, an index into `mapping.scenarios`; beyond them the total is
        NaN.

    Raises:
      ValueError: a component has no signal, or one of another shape.
    """
    missing = set(mapping.names) ^ set(signals)
    if missing:
        raise ValueError(f"signals are {sorted(signals)}, expected {mapping.names}")
    shape = signals[mapping.names[0]].shape
    for name, signal in signals.items():
        if signal.shape != shape or len(shape) != 2 or scenario.shape != shape[:1]:
            raise ValueError(f"{name}: {signal.shape=} and {scenario.shape=}, expected "
                             "[B, G] of all and [B]")
    parts = []
    for row, (name, one) in enumerate(zip(mapping.names, mapping.components)):
        x = signals[name].astype(jnp.float32)
        if one.normalise == "quantile":
            told = jnp.interp(x, mapping.knots[row], mapping.levels[row])
            x = jnp.where(jnp.isnan(x), jnp.nan, told)  # where knots repeat: the last
        elif one.normalise == "zscore":
            x = jnp.clip((x - mapping.centre[row]) / mapping.scale[row], -one.clip,
                         one.clip)
        parts.append(x)
    stacked = jnp.stack(parts, axis=-1)
    known = jnp.where(scenario < 0, len(mapping.scenarios), scenario)  # -1: no last
    weights = mapping.weights.at[known].get(mode="fill", fill_value=jnp.nan)
    return Rewards(jnp.sum(stacked * weights[:, None], axis=-1),
                   stacked)


def constant_shares(parts: Array, real: Array) -> Array:
    """`[C]` float32: in which share of the groups a component says nothing.

    Args:
      parts: `[B, G, C]` float.
      real: `[B, G]` bool; groups with fewer than two real candidates do not count.
    """
    low = jnp.min(jnp.where(real[..., None], parts, jnp.inf), axis=1)
    high = jnp.max(jnp.where(real[..., None], parts, -jnp.inf), axis=1)
    counted = jnp.sum(real, axis=1, keepdims=True) > 1
    return (jnp.sum(counted & (low == high), axis=0)
            / jnp.maximum(jnp.sum(counted), 1)).astype(jnp.float32)


def check_signals(mapping: RewardMapping, signals: Mapping[str, np.ndarray],
                  real: np.ndarray, scenario: np.ndarray, requests: Sequence[object]
                  ) -> None:
    """Stops at a poisoned signal, before it reaches an update.

    Args:
      mapping: from `fit_mapping`.
      signals: `[B, G]` raw signals by component.
      real: `[B, G]` bool; other places may hold anything.
      scenario: `[B]` int.
      requests: B names, for the message.

    Raises:
      InputError: a value is not finite, or far outside the log (see
        `Component.reach`), or a component has the same value everywhere; component,
        scenario and request are named.
    """
    real = np.asarray(real)
    for row, (name, one) in enumerate(zip(mapping.names, mapping.components)):
        values = np.asarray(signals[name], np.float64)
        low, high = float(mapping.low[row]), float(mapping.high[row])
        room = one.reach * max(high - low, 1e-6)
        good = (values >= low - room) & (values <= high + room)  # NaN is neither
        good &= np.isfinite(values)
        bad = np.argwhere(real & ~good)
        if len(bad):
            group, place = bad[0]
            raise InputError(
                f"reward component {name!r} is {values[group, place]:g} in scenario "
                f"{mapping.scenarios[scenario[group]]!r}, request {requests[group]}, "
                f"candidate {place}; the log held {low:g} to {high:g}; mend its source")
        known = values[real]
        if len(known) > 1 and not one.may_be_constant and np.ptp(known) == 0:
            group = int(np.argmax(real.any(axis=1)))
            raise InputError(
                f"reward component {name!r} is {known[0]:g} for all {len(known)} "
                f"candidates of the step (scenario "
                f"{mapping.scenarios[scenario[group]]!r}, request {requests[group]} "
                "and all others): it teaches nothing; mend its source, take the "
                "component out, or set may_be_constant")


def save_mapping(mapping: RewardMapping, folder: str | os.PathLike) -> None:
    """Writes the mapping as a bundle."""
    arrays = {name: np.asarray(getattr(mapping, name)) for name in _ARRAYS}
    artifacts.write_bundle(
        folder, kind=_KIND, version=_VERSION, arrays=arrays,
        facts={"scenarios": list(mapping.scenarios), "components": {
            name: dataclasses.asdict(one)
            for name, one in zip(mapping.names, mapping.components)},
            "order": list(mapping.names)})


def load_mapping(folder: str | os.PathLike) -> RewardMapping:
    """Reads what `save_mapping` wrote; `InputError` where it is damaged or foreign."""
    facts = artifacts.read_manifest(folder, kind=_KIND, version=_VERSION)
    names = tuple(facts["order"])
    return RewardMapping(
        **{name: jnp.asarray(artifacts.read_array(folder, name)) for name in _ARRAYS},
        names=names, scenarios=tuple(facts["scenarios"]), components=Components(
            Component(**facts["components"][name]) for name in names))


_ARRAYS = ("knots", "levels", "centre", "scale", "low", "high", "weights")


def _fit(name: str, logged: Mapping[str, np.ndarray], one: Component, most: int
         ) -> dict[str, np.ndarray]:
    if name not in logged or not np.size(logged[name]):
        raise InputError(f"the log has no signal for the reward's component {name!r}; "
                         f"it has {', '.join(logged) or 'none'}")
    values = np.sort(np.asarray(logged[name], np.float64).ravel())
    if not np.isfinite(values).all():
        raise InputError(f"logged signals of the reward's component {name!r} are not "
                         "all finite; mend their source")
    if values[0] == values[-1] and not one.may_be_constant:
        raise InputError(f"the reward's component {name!r} is {values[0]:g} in the "
                         "whole log; take it out, or set may_be_constant")
    distinct, first, count = np.unique(values, return_index=True, return_counts=True)
    levels = (first + 0.5 * count) / len(values)
    # Of many, those nearest to an even spread; the ends stay, and pad.
    kept = np.unique(np.linspace(0, len(distinct) - 1, most).round().astype(int))
    kept = np.concatenate([kept, np.full(most - len(kept), kept[-1])])
    zscore = one.normalise == "zscore"
    deviation = float(values.std()) or 1.0
    return {"knots": distinct[kept], "levels": levels[kept],
            "centre": np.array(values.mean() if zscore else 0.0),
            "scale": np.array(deviation if zscore else 1.0),
            "low": np.array(values[0]), "high": np.array(values[-1])}
