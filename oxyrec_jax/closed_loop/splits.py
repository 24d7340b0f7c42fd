"""Who meets which policy: a hash of the person and the test's name."""

import hashlib

import numpy as np


def arms_of(numbers: np.ndarray, salt: str, arms: int) -> np.ndarray:
    """Splits people into arms of about equal size, independently for each salt.

    Args:
      numbers: `[U]` int, the people's numbers.
      salt: the test's name; another one splits the people anew.
      arms: how many.

    Returns:
      `[U]` int64, from 0. A person's arm depends on nobody else.

    Source: ours; the mixer is that of SplitMix64, Steele et al. 2014,
    https://doi.org/10.1145/2660193.2660195.
    """
    if arms < 1:
        raise ValueError(f"{arms=}, expected at least 1")
    key = np.frombuffer(hashlib.blake2b(salt.encode(), digest_size=8).digest(), "<u8")
    word = np.asarray(numbers).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + key
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        word = (word ^ (word >> np.uint64(shift))) * np.uint64(factor)
    word ^= word >> np.uint64(31)
    share = (word >> np.uint64(11)).astype(np.float64) * 2.0 ** -53
    return (share * arms).astype(np.int64)
