"""How good a judge is: its scores beside a reference.

    PairAUC    of all pairs of candidates of one request of which the reference prefers
               one, the share that the judge puts in the same order; equal scores count
               half. 0.5 knows nothing, 1 orders every request as the reference does.
               Pairs across requests are not compared: r_sem is used within a group.
    PointAcc   of all (request, candidate, aspect), the share where judge and reference
               are on the same side of 0.5. `base` is what the commoner side alone
               would reach.
    Spearman   rank correlation of an aspect's scores with the reference's, over all
               candidates of all requests together
    AUC        of an aspect's scores for whether the reference's is at least 0.5

The reference is the simulated shop's truth; elsewhere what was chosen, which tells
nothing of single aspects, so that only PairAUC is left.

Source: the names PairAUC and PointAcc are those of S-GRec, arXiv 2602.10606, which
reports 0.8116 and 0.8687 and does not define them; these definitions are ours.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.stats

from oxyrec_jax import metrics
from oxyrec_jax.evaluate import binary
from oxyrec_jax.rewards.judge.aspects import ASPECTS, Judged

_SIDE = 0.5


@dataclasses.dataclass(frozen=True)
class Reference:
    """What a judge is compared with.

    Attributes:
      holistic: `[B, G]` float, higher is better; only the order within a row matters.
      aspects: `[B, G, 4]` float in [0, 1]; None: single aspects are not known.
      business: `[B, G]` float rewards by name, to tell whether a judge pulls with them
        or against them.
      kind: "truth" or "log".
    """

    holistic: np.ndarray
    aspects: np.ndarray | None
    business: Mapping[str, np.ndarray]
    kind: str


def ordered_pairs(reference: np.ndarray, known: np.ndarray) -> np.ndarray:
    """`[P, 3]` int64 (row, better, worse): all pairs of a row that differ.

    Args:
      reference: `[B, G]` float; NaN takes part in no pair.
      known: `[B, G]` bool.
    """
    real = known & ~np.isnan(reference)
    above = reference[:, :, None] > reference[:, None, :]
    return np.argwhere(above & real[:, :, None] & real[:, None, :])


def pair_auc(scores: np.ndarray, pairs: np.ndarray, users: np.ndarray | None = None
             ) -> dict[str, Any]:
    """PairAUC with a 95 % bootstrap interval over users.

    Args:
      scores: `[B, G]` float.
      pairs: `[P, 3]`, see `ordered_pairs`.
      users: `[B]`, whose request it is; None: each another's.

    Returns:
      "value", "low" and "high", None where there are no pairs, and "pairs".
    """
    if not len(pairs):
        return {"value": None, "low": None, "high": None, "pairs": 0}
    row, better, worse = pairs.T
    gap = scores[row, better] - scores[row, worse]
    right = np.where(gap > 0, 1.0, np.where(gap < 0, 0.0, 0.5))
    drawn = metrics.bootstrap(right, row if users is None else users[row])
    return {"value": float(drawn.mean[0]), "low": float(drawn.low[0]),
            "high": float(drawn.high[0]), "pairs": len(pairs)}


def aspect_figures(judged: Judged, aspects: np.ndarray) -> dict[str, dict[str, Any]]:
    """Agreement with the reference, aspect by aspect.

    Args:
      judged: stage A.
      aspects: `[B, G, 4]` of the reference.

    Returns:
      By aspect "spearman" and "auc" (None where one side is constant), "point_acc",
      "base", "points", and "reliability", see `reliability`.
    """
    found = {}
    for place, name in enumerate(ASPECTS):
        rows = judged.known & judged.given[:, place][:, None]
        scores, true = judged.scores[rows, place], aspects[rows, place]
        found[name] = {
            "spearman": spearman(scores, true), "auc": _auc(scores, true >= _SIDE),
            **point_accuracy(scores, true), "points": int(rows.sum()),
            "reliability": reliability(scores, true)}
    return found


def point_accuracy(scores: np.ndarray, reference: np.ndarray) -> dict[str, Any]:
    """PointAcc of `[P]` scores: "point_acc" and "base", None without points."""
    if not len(scores):
        return {"point_acc": None, "base": None}
    side = reference >= _SIDE
    return {"point_acc": float(np.mean((scores >= _SIDE) == side)),
            "base": float(max(side.mean(), 1 - side.mean()))}


def spearman(one: np.ndarray, other: np.ndarray) -> float | None:
    """Rank correlation of two `[P]` arrays; None where one of them is constant."""
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    ranks = [scipy.stats.rankdata(values) for values in (one, other)]
    return float(np.corrcoef(*ranks)[0, 1])


def within(scores: np.ndarray, other: np.ndarray, known: np.ndarray) -> float | None:
    """The mean of the rows' rank correlations, over rows where neither is constant."""
    rows = [spearman(one[real], two[real])
            for one, two, real in zip(scores, other, known)]
    some = [value for value in rows if value is not None]
    return float(np.mean(some)) if some else None


def reliability(scores: np.ndarray, reference: np.ndarray, *, bins: int = 10
                ) -> list[dict[str, float]]:
    """Mean of the reference by score: what a score means.

    Args:
      scores: `[P]` float in [0, 1].
      reference: `[P]` float.
      bins: equally wide ones; empty ones are left out.

    Returns:
      For each bin "score" and "reference", the means, and "points".
    """
    place = np.minimum((scores * bins).astype(int), bins - 1)
    return [{"score": float(scores[place == one].mean()),
             "reference": float(reference[place == one].mean()),
             "points": int((place == one).sum())} for one in np.unique(place)]


def _auc(scores: np.ndarray, labels: np.ndarray) -> float | None:
    found = binary.auc(scores, labels) if len(scores) else math.nan
    return None if math.isnan(found) else float(found)
