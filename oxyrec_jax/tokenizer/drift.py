"""Whether new items still look like those that the codebooks were made for."""

import dataclasses
from typing import Any

import numpy as np
from scipy import stats

from oxyrec_jax.base import InputError


@dataclasses.dataclass(frozen=True)
class DriftConfig:
    """When the alarm sounds: both conditions must hold. All numbers are ours.

    12k titles of beauty articles, 3 x 256 codes: a thousand of them that the fit had
    not seen have 1.20 times the error, a thousand titles of office products 1.96 times.

    Attributes:
      ratio: mean squared error of the new items over that of the old from which on.
        Codes fit items that they were fitted on a little better than others of the
        same kind, so it must lie above 1.
      quantile: of the old items' errors: so many new items should lie above it as old
        ones do.
      level: the alarm asks that the chance of as many new items above the quantile is
        below this.
    """

    ratio: float = 1.5
    quantile: float = 0.95
    level: float = 1e-3

    def __post_init__(self) -> None:
        if self.ratio < 1 or not 0 < self.quantile < 1 or not 0 < self.level < 1:
            raise InputError(f"tokenizer.drift is {self}, expected a ratio of at least "
                             "1, and a quantile and a level between 0 and 1")


def compare(old: np.ndarray, new: np.ndarray, cfg: DriftConfig) -> dict[str, Any]:
    """Compares reconstruction errors.

    The number of the M new errors above the old ones' quantile q is binomial with M
    and the old ones' share above q where nothing has changed; `p` is the chance of at
    least as many.

    Args:
      old: `[N]` squared errors of the items that the codebooks were fitted on.
      new: `[M]` squared errors of the new items, M >= 1.
      cfg: when the alarm sounds.

    Returns:
      JSON values: `old` and `new`, mean errors; their `ratio`, None where the old
      items had no error; `above`, the share of new items above the `bound`, which is
      the old ones' quantile; `p`; `alarm`.

    Raises:
      ValueError: an error is not finite.

    Source: ours.
    """
    old, new = np.asarray(old, np.float64), np.asarray(new, np.float64)
    if not (np.isfinite(old).all() and np.isfinite(new).all()):
        raise ValueError("an error of an item is not finite")
    bound = float(np.quantile(old, cfg.quantile))
    expected, count = float((old > bound).mean()), int((new > bound).sum())
    # With no old item above the bound one new item is already a surprise.
    chance = max(expected, 1 / (len(old) + 1))
    p = float(stats.binom.sf(count - 1, len(new), chance))
    before, after = float(old.mean()), float(new.mean())
    worse = after >= cfg.ratio * before and after > 0
    return {"old": before, "new": after,
            "ratio": after / before if before > 0 else None,
            "bound": bound, "above": count / len(new), "p": p,
            "alarm": bool(worse and p < cfg.level)}


def describe(found: dict[str, Any]) -> str:
    """One sentence on what `compare` found."""
    times = "more" if found["ratio"] is None else f"{found['ratio']:.2f} times as"
    verdict = ("the codebooks no longer fit: run oxyrec tokenize --refit"
               if found["alarm"] else "no alarm")
    return (f"the new items are off by {times} much as the old ones, "
            f"{found['above']:.0%} of them by more than {found['bound']:.3g} (chance "
            f"{found['p']:.2g}); {verdict}")
