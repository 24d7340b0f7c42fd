"""From what was counted to what may be said: A/A first, then A/B, then a verdict."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from scipy import stats

from oxyrec_jax import progress
from oxyrec_jax.base import InputError
from oxyrec_jax.closed_loop.figures import (FIGURES, HEADLINE, POWER, SCOPES, Lifts,
                                            Sums, detectable, holm, lifts,
                                            relative_errors, sums_of, users_for,
                                            values_of)
from oxyrec_jax.closed_loop.splits import arms_of

_SURE = 0.999  # of a sound test so few A/A tests fail one figure by chance; ours
_KNOWN = 0.9    # share of A/A tests in which a figure must be more than 0; ours
_SIZES = 0.001  # p below which the arms' sizes are no accident; ours
_Cells: TypeAlias = dict[str, dict[str, dict[str, Any]]]  # scope, figure, name


@dataclasses.dataclass(frozen=True)
class Design:
    """How a test is judged.

    Attributes:
      name: salt of the split.
      paired: every person meets every policy, with the same luck.
      level: of intervals and significance.
      splits: how often A/A is repeated with other salts.
    """

    name: str = "test"
    paired: bool = False
    level: float = 0.95
    splits: int = 200

    def __post_init__(self) -> None:
        if not 0.5 <= self.level < 1:
            raise InputError(f"the level of the intervals is {self.level}, expected "
                             "0.5 or more and below 1")
        if self.splits < 20:
            raise InputError(f"--splits {self.splits}: expected at least 20, or an A/A "
                             "test says nothing")


def same_against_same(sums: Sums, numbers: np.ndarray, design: Design, arms: int,
                      other: Sums | None = None) -> dict[str, Any]:
    """A/A: the control against itself, many times.

    Split anew by other salts; or, in a paired test, with other luck as its own
    treatment, each pair turned about or not by the salt.

    Args:
      sums: of the control, of all people.
      numbers: `[U]` the people's numbers.
      design: of the test.
      arms: of the test, so that these arms are as large.
      other: of the control with other luck, where the test is paired.

    Returns:
      "splits", "expected" (share of false positives), "allowed" (the most of a sound
      test), "shares" (scope to figure to share), "unsound" (pairs of scope and figure
      that find more, or nothing at all in a tenth of the splits: too few events for
      their errors to be known), "passed" (no headline figure in total is unsound), and
      "why" not.
    """
    edge = stats.norm.ppf((1 + design.level) / 2)
    found = []
    for turn in progress.track(range(design.splits), "A/A tests"):
        salt = f"{design.name}/A-A/{turn}"
        if other is None:
            arm = arms_of(numbers, salt, arms)
            lift = lifts(sums.of(arm == 0), sums.of(arm == 1), paired=False)
        else:
            turned = (arms_of(numbers, salt, 2) == 1)[:, None, None]
            lift = lifts(_choose(turned, other, sums), _choose(turned, sums, other),
                         paired=True)
        found.append(lift.z)
    z = np.stack(found)
    known = np.isfinite(z)
    share = ((np.abs(z) > edge) & known).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    most = float(stats.binom.ppf(_SURE, design.splits, 1 - design.level))
    why = []
    for place, name in enumerate(HEADLINE):
        if known[:, 0, place].mean() < _KNOWN:
            why.append(f"{name} is 0 in some arms: too few people or days")
        elif share[0, place] * design.splits > most:
            why.append(f"{name} finds a difference where there is none in "
                       f"{share[0, place]:.1%} of splits")
    unsound = (share * design.splits > most) | (known.mean(axis=0) < _KNOWN)
    return {"splits": design.splits, "expected": 1 - design.level,
            "allowed": most / design.splits, "passed": not why, "why": "; ".join(why),
            "unsound": [[SCOPES[row], FIGURES[place]]
                        for row, place in np.argwhere(unsound).tolist()],
            "shares": {scope: {name: float(share[row, place])
                               for place, name in enumerate(FIGURES)}
                       for row, scope in enumerate(SCOPES)}}


def judge(counts: Mapping[str, Sequence[np.ndarray]], numbers: np.ndarray,
          design: Design, same: Mapping[str, Any]) -> dict[str, Any]:
    """A/B: every treatment against the control.

    Args:
      counts: of each arm by name, the control first, what was counted day by day,
        `[U, scenarios, COUNTS]` each; of all people, whichever arm they are in.
      numbers: `[U]` the people's numbers.
      design: of the test.
      same: what `same_against_same` returned.

    Returns:
      JSON values: "arms" (name to users and figures), "treatments" (name to scope to
      figure to cell), "daily" and "verdicts". Cells have control, treatment, lift,
      low, high, p, p_holm, significant, detectable and users_for_one_percent; None
      where nothing can be said.
    """
    names = list(counts)
    mine = _rows(numbers, design, len(names))
    sums = {name: sums_of(counts[name]).of(rows) for name, rows in zip(names, mine)}
    sizes = [len(part) for part in sums.values()]
    split_p = (1.0 if design.paired else
               float(stats.chisquare(sizes).pvalue) if len(sizes) > 1 else 1.0)
    why = same["why"]
    if split_p < _SIZES:
        why = "; ".join([*([why] if why else []), f"the arms have {sizes} people"])
    found = {name: lifts(sums[names[0]], sums[name], paired=design.paired)
             for name in names[1:]}
    tested = len(numbers) if design.paired else 2 * min(sizes)
    cells = _cells(found, design, tested, same["unsound"], refused=bool(why))
    return {
        "arms": {name: {"users": len(part), **_plain(values_of(part))}
                 for name, part in sums.items()},
        "treatments": cells, "split_p": split_p,
        "daily": {name: _daily(counts[name], rows, design.level)
                  for name, rows in zip(names, mine)},
        "refused": why,
        "verdicts": {name: _verdict(part, why) for name, part in cells.items()}}


def _rows(numbers: np.ndarray, design: Design, arms: int) -> list[np.ndarray]:
    """Which people are in each arm."""
    if design.paired:
        return [np.ones(len(numbers), bool)] * arms
    arm = arms_of(numbers, design.name, arms)
    return [arm == number for number in range(arms)]


def _choose(turned: np.ndarray, one: Sums, other: Sums) -> Sums:
    return Sums(np.where(turned, one.above, other.above),
                np.where(turned, one.below, other.below))


def _cells(found: Mapping[str, Lifts], design: Design, users: int,
           unsound: Sequence[Sequence[str]], *, refused: bool) -> dict[str, _Cells]:
    """Every treatment's cells by scope and figure."""
    if not found:
        return {}
    p = np.stack([2 * stats.norm.sf(np.abs(lift.z)) for lift in found.values()])
    for scope, figure in unsound:
        p[:, SCOPES.index(scope), FIGURES.index(figure)] = np.nan
    adjusted = np.full(p.shape, np.nan)
    for place in range(len(FIGURES)):
        adjusted[:, 0, place] = holm(p[:, 0, place])
        # All scenarios of all treatments are looked at, so all of them count.
        part = p[:, 1:, place]
        adjusted[:, 1:, place] = holm(part.ravel()).reshape(part.shape)
    made: dict[str, _Cells] = {}
    for number, (name, lift) in enumerate(found.items()):
        low, high = lift.interval(design.level)
        least = detectable(lift.error, design.level)
        made[name] = {}
        for row, scope in enumerate(SCOPES):
            made[name][scope] = {}
            for place, figure in enumerate(FIGURES):
                at = row, place
                after = adjusted[number][at]
                made[name][scope][figure] = {
                    "control": _known(lift.control[at]),
                    "treatment": _known(lift.treatment[at]),
                    "lift": _known(lift.lift[at]), "low": _known(low[at]),
                    "high": _known(high[at]), "p": _known(p[number][at]),
                    "p_holm": _known(after),
                    "significant": (None if refused or np.isnan(after)
                                    else bool(after < 1 - design.level)),
                    "detectable": _known(least[at]),
                    "users_for_one_percent": users_for(
                        float(lift.error[at]), users, 0.01, design.level)}
    return made


def _daily(counts: Sequence[np.ndarray], rows: np.ndarray, level: float
           ) -> dict[str, dict[str, list[float | None]]]:
    """The headline figures of each day with their intervals, in total."""
    edge = stats.norm.ppf((1 + level) / 2)
    found: dict[str, dict[str, list[float | None]]] = {
        name: {"value": [], "low": [], "high": []} for name in HEADLINE}
    for day in counts:
        sums = sums_of([day]).of(rows)
        value, error = values_of(sums)[0], relative_errors(sums)[0]
        for place, name in enumerate(HEADLINE):
            wide = edge * error[place] * value[place]
            for key, end in (("value", 0), ("low", -wide), ("high", wide)):
                found[name][key].append(_known(value[place] + end))
    return found


def _verdict(cells: Mapping[str, Mapping[str, Mapping[str, Any]]], why: str) -> str:
    """One sentence on one treatment."""
    if why:
        return f"No conclusion: the A/A test failed ({why})."
    total = cells["total"]
    told = [f"{name} {_spoken(total[name])}" for name in HEADLINE]
    lost = {scope: [name for name in HEADLINE if cells[scope][name]["significant"]
                    and cells[scope][name]["lift"] < 0] for scope in SCOPES[1:]}
    worse = [f"{scope} ({', '.join(names)})" for scope, names in lost.items() if names]
    return (f"In total {', '.join(told)}; "
            + (f"significantly worse in {', '.join(worse)}." if worse else
               "in no scenario significantly worse."))


def _spoken(cell: Mapping[str, Any]) -> str:
    if cell["lift"] is None:
        return "unknown"
    mark = ("better" if cell["lift"] > 0 else "worse") if cell["significant"] else (
        f"not told apart, and below {cell['detectable']:.1%} hardly would be")
    return f"{cell['lift']:+.1%} ({cell['low']:+.1%} to {cell['high']:+.1%}, {mark})"


def _plain(values: np.ndarray) -> dict[str, dict[str, float | None]]:
    return {scope: {name: _known(values[row, place])
                    for place, name in enumerate(FIGURES)}
            for row, scope in enumerate(SCOPES)}


def _known(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


__all__ = ["POWER", "Design", "judge", "same_against_same"]
