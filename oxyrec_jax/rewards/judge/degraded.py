"""Judges that are wrong on purpose, so that what a wrong judge does can be measured.

    noisy        the truth with seeded noise of a stated level on every score
    biased       prefers an attribute (dear, cheap, a brand, a department), whatever the
                 need
    conflicting  the higher the business reward, the lower every score

All know the truth of a simulated shop and none but that of its log. Source: ours, for
the question of methods that gate a judge (S-GRec's A2PO, arXiv 2602.10606): what does
an unreliable judge cost?
"""

import dataclasses
import zlib
from collections.abc import Sequence

import jax
import numpy as np
import scipy.special

from oxyrec_jax.base import InputError
from oxyrec_jax.data.shop import chance
from oxyrec_jax.rewards.judge.aspects import (ASPECTS, ItemTexts, Judged, JudgeRequest,
                                              Spent)
from oxyrec_jax.rewards.judge.truth import ShopTruth, preferred

AGAINST = ("click", "order", "value")
_TYPICAL = {"click": 0.1, "order": 4e-3, "value": 0.15}  # mid-scale, probability, USD
_SCORES, _PAIRS = 71, 72  # streams of chance


class NoisyJudge:
    """The truth, blurred.

    Args:
      truth: of the shop.
      level: standard deviation of the noise on each score, which is then cut to
        [0, 1]; also the share of pairs about which a coin decides.
      seed: of the noise, which belongs to the request, the item and the aspect: it is
        the same whenever they are judged.
    """

    def __init__(self, truth: ShopTruth, level: float, seed: int):
        if not 0 <= level <= 1:
            raise InputError(f"judge.noise is {level}, expected a level from 0 to 1")
        self._truth, self._level, self._seed = truth, level, seed
        self.name = f"truth with noise of {level:g}, seed {seed}"

    def judge(self, requests: Sequence[JudgeRequest], items: np.ndarray, *,
              evidence: bool = False) -> Judged:
        """As `AspectJudge.judge`."""
        true, items = self._truth.judge(requests, items, evidence=evidence), np.asarray(
            items)
        drawn = _draws(self._seed, _SCORES, requests, items, len(ASPECTS))
        noise = scipy.special.ndtri(drawn).reshape(true.scores.shape)
        scores = np.clip(true.scores + self._level * noise, 0, 1)
        scores *= true.known[..., None] & true.given[:, None, :]
        return dataclasses.replace(true, scores=scores.astype(np.float32))

    def prefer(self, requests: Sequence[JudgeRequest], pairs: np.ndarray
               ) -> tuple[np.ndarray, Spent]:
        """As `AspectJudge.prefer`: the truth, or a coin."""
        right, spent = self._truth.prefer(requests, pairs)
        low = np.argmin(pairs, axis=1)  # the same coin whichever item comes first
        rows = np.arange(len(low))
        drawn = _draws(self._seed, _PAIRS, requests, pairs, 2)
        coin, side = drawn.reshape(len(pairs), 2, 2)[rows, low].T
        other = np.where((side < 0.5) == (low == 0), 1.0, 0.0)
        return np.where(coin < self._level, other, right).astype(np.float32), spent


class TiltedJudge:
    """Scores that lean to something else than the request's sense; see below.

    Args:
      truth: of the shop.
      strength: share of every score that the tilt makes up.
      name: of the judge.
      why: its evidence.
    """

    def __init__(self, truth: ShopTruth, strength: float, name: str, why: str):
        if not 0 <= strength <= 1:
            raise InputError(f"judge.strength is {strength}, expected a share from 0 "
                             "to 1")
        self._truth, self._strength, self._why = truth, strength, why
        self.name = f"{name}, strength {strength:g}"

    def tilt(self, requests: Sequence[JudgeRequest], items: np.ndarray) -> np.ndarray:
        """`[B, G]` float in [0, 1]: what the judge leans to."""
        raise TypeError(f"{type(self).__name__} leans to nothing")

    def judge(self, requests: Sequence[JudgeRequest], items: np.ndarray, *,
              evidence: bool = False) -> Judged:
        """As `AspectJudge.judge`."""
        true, items = self._truth.judge(requests, items), np.asarray(items)
        leaning = self.tilt(requests, np.maximum(items, 0))[..., None]
        scores = self._strength * leaning + (1 - self._strength) * true.scores
        scores = scores * (true.known[..., None] & true.given[:, None, :])
        why = np.where(true.known[..., None] & np.ones(len(ASPECTS), bool),
                       np.array(self._why, object), "") if evidence else None
        return dataclasses.replace(true, scores=scores.astype(np.float32), evidence=why)

    def prefer(self, requests: Sequence[JudgeRequest], pairs: np.ndarray
               ) -> tuple[np.ndarray, Spent]:
        """As `AspectJudge.prefer`: the item with the higher scores on average."""
        judged = self.judge(requests, pairs)
        mean = judged.scores.sum(-1)
        return preferred(mean[:, 0] - mean[:, 1]), Spent()


class BiasedJudge(TiltedJudge):
    """Prefers an attribute of the item, whatever is needed.

    Args:
      truth: of the shop.
      items: of the catalogue.
      prefer: "expensive" or "cheap", by rank of price in the catalogue; "brand:NAME" or
        "department:NAME", the first level of the category.
      strength: see `TiltedJudge`.
    """

    def __init__(self, truth: ShopTruth, items: ItemTexts, prefer: str,
                 strength: float):
        self._leaning = _attribute(items, prefer)
        super().__init__(truth, strength, f"biased to {prefer}", f"is {prefer}")

    def tilt(self, requests: Sequence[JudgeRequest], items: np.ndarray) -> np.ndarray:
        """1 for what is preferred most, 0 for what is least."""
        return self._leaning[items]


class ConflictingJudge(TiltedJudge):
    """Falls as the business reward rises: 1 - v / (v + typical v).

    Args:
      truth: of the shop.
      against: the business reward: "click" or "order", probabilities, or "value",
        expected turnover.
      strength: see `TiltedJudge`; at 1 its order is the business reward's, reversed.
    """

    def __init__(self, truth: ShopTruth, against: str, strength: float):
        if against not in AGAINST:
            raise InputError(f"judge.against is {against!r}, expected one of "
                             f"{', '.join(AGAINST)}")
        self._against = against
        super().__init__(truth, strength, f"conflicting with {against}",
                         f"brings little {against}")

    def tilt(self, requests: Sequence[JudgeRequest], items: np.ndarray) -> np.ndarray:
        """1 for what brings nothing, towards 0 for what brings most."""
        worth = self._truth.look(requests, items)[self._against]
        return 1 - worth / (worth + _TYPICAL[self._against])


def _attribute(items: ItemTexts, prefer: str) -> np.ndarray:
    """`[N]` float64 in [0, 1]: how much each item is preferred."""
    if prefer in ("expensive", "cheap"):
        prices = np.nan_to_num(items.prices, nan=float(np.nanmedian(items.prices)))
        below = np.searchsorted(np.sort(prices), prices) / max(len(prices) - 1, 1)
        return below if prefer == "expensive" else 1 - below
    kind, _, name = prefer.partition(":")
    of = {"brand": list(items.brands),
          "department": [path.split(" > ")[0] for path in items.categories]}
    if kind not in of or not name:
        raise InputError(f"judge.prefer is {prefer!r}, expected expensive, cheap, "
                         "brand:NAME or department:NAME")
    if name not in of[kind]:
        raise InputError(f"judge.prefer is {prefer!r}, but no item has that {kind}; "
                         f"one that has items is {max(of[kind], key=of[kind].count)!r}")
    return np.array([one == name for one in of[kind]], np.float64)


def _draws(seed: int, stream: int, requests: Sequence[JudgeRequest], items: np.ndarray,
           count: int) -> np.ndarray:
    """`[B * G, count]` float32 in (0, 1) by request, item and seed alone."""
    number = np.array([zlib.crc32(request.id.encode(errors="replace"))
                       for request in requests], np.uint32).astype(np.int32)
    number = np.repeat(number, items.shape[1])
    step, size = items.reshape(-1).astype(np.int32), 1024
    while size < len(step):
        size *= 2
    drawn = _UNIFORM(np.uint32(seed), stream, np.resize(number, size),
                     np.resize(step, size), count)
    return np.asarray(drawn)[:len(step)]


_UNIFORM = jax.jit(chance.uniform, static_argnums=(1, 4))
