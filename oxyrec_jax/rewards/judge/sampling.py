"""Which prompts are judged: a share of them, by a hash that every run shares.

A hash of the request's id decides, so a run that is killed and started again judges the
same requests, and a larger share holds every request of a smaller one.
"""

import hashlib
from collections.abc import Sequence

import numpy as np


def hashed(ids: Sequence[str], seed: int) -> np.ndarray:
    """`[B]` float64 in [0, 1), even over ids; the same in every process."""
    salt = f"{seed}:".encode()
    words = [hashlib.blake2b(salt + name.encode(errors="replace"), digest_size=8)
             .digest() for name in ids]
    return np.frombuffer(b"".join(words), "<u8").astype(np.float64) / 2.0**64


def chosen(ids: Sequence[str], share: float, seed: int) -> np.ndarray:
    """`[B]` bool: which of the requests are judged.

    Args:
      ids: of the requests.
      share: of all requests, 0 to 1. 0.05 keeps 99.1 % of the judge's effect at a
        twentieth of its cost (S-GRec, arXiv 2602.10606).
      seed: another one takes others.
    """
    return hashed(ids, seed) < share


def order_of(ids: Sequence[str], seed: int) -> np.ndarray:
    """`[B]` int64: the requests by their hash; the first n are a share of any kind."""
    return np.argsort(hashed(ids, seed), kind="stable")


def without_signal(scores: np.ndarray, real: np.ndarray, *, least: float = 1e-6
                   ) -> np.ndarray:
    """`[B]` bool: groups whose scores do not differ, from which nothing is learnt.

    Args:
      scores: `[B, G]` float.
      real: `[B, G]` bool; a group with fewer than two real ones says nothing either.
      least: differences up to this are none.

    Source: zero-variance groups get no semantic signal, S-GRec, arXiv 2602.10606.
    """
    low = np.min(np.where(real, scores, np.inf), axis=1, initial=np.inf)
    high = np.max(np.where(real, scores, -np.inf), axis=1, initial=-np.inf)
    return (real.sum(axis=1) < 2) | ~(high - low > least)
