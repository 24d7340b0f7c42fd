"""What a test measures: figures of people, their lift, and what it is worth.

A figure is a ratio of two sums over people, so that its error is known by the delta
method whatever a person's visits have in common. In total and in each scenario:

    uctr       days on which a person clicked, of those on which the person was shown
               something (user-level click-through rate)
    uctcvr     the same of days with an order
    orders     ordered items for each person of the arm
    gmv        US dollars for each person of the arm
    ctr        clicked items of those shown
    diversity  different categories of a slate
    legality   items of a slate that exist, are in stock and stand in it once

orders and gmv count everybody in the arm, also who never came to a scenario: whom a
policy sends into the cart or to the checkout is part of its effect. uctr and uctcvr of
a scenario are of those who came to it, as published figures are, so in cart and
checkout two policies may be judged on different people.

Source: delta method for ratios and relative lifts, Deng et al. 2018,
https://arxiv.org/abs/1803.06336; Holm 1979 for several comparisons.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from oxyrec_jax.closed_loop.days import COUNTS
from oxyrec_jax.data import shop

HEADLINE = ("uctr", "uctcvr", "orders", "gmv")
FIGURES = (*HEADLINE, "ctr", "diversity", "legality")
SCOPES = ("total", *shop.SCENARIOS)
POWER = 0.8


@dataclasses.dataclass(frozen=True)
class Sums:
    """What the figures of U people are ratios of.

    Attributes:
      above, below: `[U, SCOPES, FIGURES]` float64.
    """

    above: np.ndarray
    below: np.ndarray

    def of(self, rows: np.ndarray) -> "Sums":
        """The same of some people, by mask or number."""
        return Sums(self.above[rows], self.below[rows])

    def __len__(self) -> int:
        return len(self.above)


@dataclasses.dataclass(frozen=True)
class Lifts:
    """Treatment against control in every scope and figure; NaN where unknown.

    Attributes:
      control, treatment: `[SCOPES, FIGURES]` the figures.
      lift: treatment / control - 1.
      error: standard error of the logarithm of treatment / control.
    """

    control: np.ndarray
    treatment: np.ndarray
    lift: np.ndarray
    error: np.ndarray

    @property
    def z(self) -> np.ndarray:
        """Standard normal where nothing differs; 0 where the two are the same."""
        same = self.lift == 0
        with np.errstate(divide="ignore"):  # sure of itself: every person the same
            return np.where(same, 0.0,
                            np.log1p(self.lift) / np.where(same, 1, self.error))

    def interval(self, level: float) -> tuple[np.ndarray, np.ndarray]:
        """Ends of the lift's interval."""
        wide = stats.norm.ppf((1 + level) / 2) * self.error
        return tuple(np.expm1(np.log1p(self.lift) + sign * wide)
                     for sign in (-1, 1))  # type: ignore


def sums_of(counts: Sequence[np.ndarray]) -> Sums:
    """Sums what was counted on some days.

    Args:
      counts: of each day `[U, scenarios, COUNTS]`.

    Returns:
      Of U people.

    Raises:
      ValueError: no days, or a shape that is not as above.
    """
    shape = (len(shop.SCENARIOS), len(COUNTS))
    if not counts or any(day.shape[1:] != shape for day in counts):
        raise ValueError(f"{[day.shape for day in counts]}, expected [U, {shape}]")
    above = np.zeros((len(counts[0]), len(SCOPES), len(FIGURES)))
    below = np.zeros_like(above)
    for day in counts:
        wide = day.astype(np.float64)
        wide = np.concatenate([wide.sum(axis=1, keepdims=True), wide], axis=1)
        found = dict(zip(COUNTS, np.moveaxis(wide, 2, 0)))
        there = found["requests"] > 0
        for place, (part, whole) in enumerate((
                (found["clicks"] > 0, there), (found["orders"] > 0, there),
                (found["orders"], 0), (found["gmv"], 0),
                (found["clicks"], found["shown"]),
                (found["categories"], found["requests"]),
                (found["legal"], found["shown"]))):
            above[..., place] += part
            below[..., place] += whole
    for name in ("orders", "gmv"):
        below[..., FIGURES.index(name)] = 1
    return Sums(above, below)


def values_of(sums: Sums) -> np.ndarray:
    """The figures, `[SCOPES, FIGURES]`; NaN where nothing stands below."""
    return _ratio(sums)[0]


def relative_errors(sums: Sums) -> np.ndarray:
    """Standard errors of the figures as shares of themselves, `[SCOPES, FIGURES]`."""
    return _spread(_deviations(sums))


def lifts(control: Sums, treatment: Sums, *, paired: bool) -> Lifts:
    """Compares two arms.

    Args:
      control, treatment: of the people of each arm; row by row the same people where
        `paired`.
      paired: every person met both, so that what they have in common cancels out.
    """
    if paired and len(control) != len(treatment):
        raise ValueError(f"{len(control)} people in one arm, {len(treatment)} in the "
                         "other; pairs have as many in both")
    first, second = _deviations(control), _deviations(treatment)
    if paired:
        error = _spread(second - first)
    else:
        error = np.hypot(_spread(first), _spread(second))
    before, after = values_of(control), values_of(treatment)
    with np.errstate(invalid="ignore", divide="ignore"):
        lift = np.where((before > 0) & (after > 0), after / before - 1, np.nan)
    return Lifts(before, after, lift, np.where(np.isnan(lift), np.nan, error))


def detectable(error: Any, level: float) -> Any:
    """The least true lift that is found with a chance of `POWER`, two-sided."""
    return (stats.norm.ppf((1 + level) / 2) + stats.norm.ppf(POWER)) * error


def users_for(error: float, users: int, lift: float, level: float) -> int | None:
    """How many people would find a lift with a chance of `POWER` in as many days; None
    where everybody was the same, or nothing is known."""
    if not math.isfinite(error) or not error:
        return None
    return math.ceil(users * float(detectable(error, level) / lift) ** 2)


def holm(p: np.ndarray) -> np.ndarray:
    """Adjusts p-values for how many there are; NaN stays out of the count.

    Source: Holm 1979, in the form of adjusted p-values.
    """
    adjusted = np.full(len(p), np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1) if len(order) else []
    return adjusted


def _ratio(sums: Sums) -> tuple[np.ndarray, np.ndarray]:
    above, below = sums.above.sum(axis=0), sums.below.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(below > 0, above / below, np.nan), below


def _deviations(sums: Sums) -> np.ndarray:
    """What each person moves the logarithm of each figure by, times U."""
    ratio, below = _ratio(sums)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (sums.above - ratio * sums.below) / (ratio * below / len(sums))


def _spread(deviations: np.ndarray) -> np.ndarray:
    users = len(deviations)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sqrt((deviations ** 2).sum(axis=0) / max(users - 1, 1) / users)
