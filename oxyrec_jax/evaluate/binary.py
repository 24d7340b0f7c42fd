"""How good predicted chances are: do they order well, and do they mean what they say.

R predictions with labels, NumPy arrays on the host. A figure that is not defined, such
as the AUC where nothing was clicked, is NaN.
"""

import numpy as np

BINS = 15  # of the calibration error; Guo et al. 2017 take 15 as well
_TINY = 1e-7  # chances are cut at it before their logarithm


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Chance that a random yes has a higher score than a random no; ties count half.

    With r_i the rank of score i from 1, ties sharing their mean, over P yes and N no:
    `(sum_{yes} r_i - P (P + 1) / 2) / (P N)`.

    Args:
      scores: `[R]` float.
      labels: `[R]` bool.

    Source: Mann and Whitney 1947.
    """
    values, _ = group_aucs(scores, labels, np.zeros(len(scores), np.int64))
    return float(values[0]) if len(values) else float("nan")


def group_aucs(scores: np.ndarray, labels: np.ndarray, groups: np.ndarray
               ) -> tuple[np.ndarray, np.ndarray]:
    """The AUC within each group, and how many rows the group has.

    Args:
      scores: `[R]` float.
      labels: `[R]` bool.
      groups: `[R]` int.

    Returns:
      `[G]` float64 and `[G]` int64 in the order of the groups' numbers; NaN where all
      rows of a group have one label, or one of them has a NaN for a score.
    """
    _check(scores, labels)
    order = np.lexsort((scores, groups))
    score, label, group = scores[order], labels[order].astype(bool), groups[order]
    if not len(order):
        return np.zeros(0), np.zeros(0, np.int64)
    other = np.concatenate([[True], group[1:] != group[:-1]])
    first = np.flatnonzero(other)
    size = np.diff(np.append(first, len(order)))
    other[1:] |= score[1:] != score[:-1]
    begin = np.flatnonzero(other)
    many = np.diff(np.append(begin, len(order)))
    # Places in the sorted rows, from 1; those of one score share their mean.
    place = np.repeat(begin + (many + 1) / 2, many) - np.repeat(first, size)
    yes = np.add.reduceat(label.astype(np.float64), first)
    ranks = np.add.reduceat(np.where(label, place, 0.0), first)
    pairs = yes * (size - yes)
    values = (ranks - yes * (yes + 1) / 2) / np.where(pairs > 0, pairs, 1)
    known = ~np.logical_or.reduceat(np.isnan(score), first)
    return np.where(known & (pairs > 0), values, np.nan), size


def gauc(scores: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> float:
    """The mean AUC of the groups that have both labels, weighted by their rows.

    Source: Zhou et al. 2018 (DIN), https://arxiv.org/abs/1706.06978, its section on
      metrics: groups are users, weights their impressions.
    """
    values, size = group_aucs(scores, labels, groups)
    known = ~np.isnan(values)
    if not known.any():
        return float("nan")
    return float(np.average(values[known], weights=size[known]))


def log_loss(chances: np.ndarray, labels: np.ndarray) -> float:
    """Mean of -log of the chance that the label was given, nats."""
    _check(chances, labels)
    if not len(chances):
        return float("nan")
    kept = np.clip(np.asarray(chances, np.float64), _TINY, 1 - _TINY)
    return float(-np.mean(np.where(labels, np.log(kept), np.log1p(-kept))))


def reliability(chances: np.ndarray, labels: np.ndarray, bins: int = BINS
                ) -> list[dict[str, float]]:
    """What was predicted and what came, in bins of equally many rows.

    Args:
      chances: `[R]` float; rows are cut in their order. Of equal ones each counts with
        the mean of their labels, so that it does not matter which falls into which bin.
      labels: `[R]` bool.
      bins: how many; at most R.

    Returns:
      For each bin "predicted" and "observed", means, and "count".
    """
    _check(chances, labels)
    order = np.argsort(chances, kind="stable")
    _, tied, many = np.unique(chances, return_inverse=True, return_counts=True)
    came = (np.bincount(tied, np.asarray(labels, np.float64)) / many)[tied]
    return [{"predicted": float(np.mean(chances[part], dtype=np.float64)),
             "observed": float(np.mean(came[part])), "count": len(part)}
            for part in np.array_split(order, max(1, min(bins, len(order))))
            if len(part)]


def calibration_error(chances: np.ndarray, labels: np.ndarray, bins: int = BINS
                      ) -> float:
    """ECE: mean |predicted - observed| over bins of equally many rows.

    Bins of equal width would put nearly all of rare events into the first.

    Source: Naeini et al. 2015 (ECE); bins of equal mass, Nguyen and O'Connor 2015,
      https://arxiv.org/abs/1508.05154.
    """
    table = reliability(chances, labels, bins)
    if not table:
        return float("nan")
    gaps = [abs(row["predicted"] - row["observed"]) for row in table]
    return float(np.average(gaps, weights=[row["count"] for row in table]))


def _check(values: np.ndarray, labels: np.ndarray) -> None:
    if values.ndim != 1 or labels.shape != values.shape:
        raise ValueError(f"{values.shape=} {labels.shape=}, expected [R] both")
