"""Rows for ids of an open vocabulary: hashes that are the same in every process.

New ids come every day and no list of them is ever complete. A stable 64-bit hash sends
any id to a row of a table of fixed size. With n ids in R rows an id shares its row with
another with probability 1 - (1 - 1/R)^(n-1): 1 % where the table has a hundred rows for
each id, 63 % where it has one. Two remedies, of which a network then sums the rows:

    several functions     an id has k rows and is told apart unless another id has the
                          same k: there are R^k combinations
    quotient, remainder   a row of one table for the hash modulo R and of another for
                          its quotient: two tables of R rows tell R^2 ids apart

`collision_rate` gives the expected share, `shared_rate` what a set of ids really has.

Source: several functions as in Svenstrup et al. 2017,
https://arxiv.org/abs/1709.03933; quotient and remainder, Shi et al. 2020,
https://arxiv.org/abs/1909.02107; the mixing function is splitmix64, Steele et al. 2014,
https://doi.org/10.1145/2714064.2660195.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from oxyrec_jax.base import InputError

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def hash_ids(ids: np.ndarray | Sequence[str], *, seed: int = 0) -> np.ndarray:
    """A 64-bit hash of each id, the same on every machine and in every version.

    Args:
      ids: `[n]` integers, or strings, which are hashed as UTF-8 by BLAKE2b.
      seed: another one gives independent hashes; at least 0.

    Returns:
      `[n]` uint64.

    Raises:
      InputError: ids that are neither, named by their type.
    """
    numbers = np.asarray(ids)
    if numbers.dtype.kind in "UO":
        for place, name in enumerate(ids):
            if not isinstance(name, str):
                raise InputError(f"id {place} is {name!r} of type "
                                 f"{type(name).__name__}, expected text; give all ids "
                                 "as text or all as integers")
        words = [hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8)
                 .digest() for name in ids]
        numbers = np.frombuffer(b"".join(words), "<u8")
    elif numbers.dtype.kind not in "iu":
        raise InputError(f"ids are of type {numbers.dtype}, expected integers or text")
    return _mixed(numbers.astype(np.uint64) + _mixed(np.array([seed], np.uint64)))


def hashed_rows(ids: np.ndarray | Sequence[str], rows: int, *, functions: int = 2,
                seed: int = 0) -> np.ndarray:
    """The rows of each id under several hash functions.

    Args:
      ids: as `hash_ids` takes them.
      rows: R, of the table, at most 2^30.
      functions: k.
      seed: of the first function.

    Returns:
      `[n, k]` int32 in `[0, R)`; the k functions share one table.
    """
    _check(rows, functions)
    found = [hash_ids(ids, seed=seed + number) % np.uint64(rows)
             for number in range(functions)]
    return np.stack(found, axis=1).astype(np.int32)


def quotient_rows(ids: np.ndarray | Sequence[str], rows: int, *, seed: int = 0
                  ) -> np.ndarray:
    """The rows of each id by remainder and quotient of its hash.

    Args:
      ids: as `hash_ids` takes them.
      rows: R, of each of the two tables that lie one after the other.
      seed: of the hash.

    Returns:
      `[n, 2]` int32: remainder in `[0, R)` and R + quotient in `[R, 2 R)`; ids share
      both only if their hashes agree modulo R^2.
    """
    _check(rows, 1)
    whole = hash_ids(ids, seed=seed)
    return np.stack([whole % np.uint64(rows),
                     np.uint64(rows) + whole // np.uint64(rows) % np.uint64(rows)],
                    axis=1).astype(np.int32)


def collision_rate(ids: int, rows: int, *, functions: int = 1) -> float:
    """Expected share of ids that share all of their rows with some other id.

    Args:
      ids: n, how many there are.
      rows: R, of the table, or R^2 for quotient and remainder.
      functions: k; each is taken as a function into rows of its own, R^k combinations.
    """
    _check(rows, functions)
    return float(-np.expm1((ids - 1) * np.log1p(-float(rows)**-functions)))


def shared_rate(rows: np.ndarray) -> float:
    """Share of ids `[n, k]` whose k rows are those of another id."""
    _, counts = np.unique(rows, axis=0, return_counts=True)
    return float(np.sum(counts, where=counts > 1) / max(len(rows), 1))


def _mixed(numbers: np.ndarray) -> np.ndarray:
    found = numbers + _STEP
    found = (found ^ (found >> np.uint64(30))) * _FIRST
    found = (found ^ (found >> np.uint64(27))) * _SECOND
    return found ^ (found >> np.uint64(31))


def _check(rows: int, functions: int) -> None:
    if not 1 < rows <= 2**30 or functions < 1:
        raise ValueError(f"{rows=} {functions=}, expected 2 to 2^30 rows and at least "
                         "one function")
