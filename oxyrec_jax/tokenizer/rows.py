"""Rows of a matrix that may be larger than memory: a sample, or all through a function.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from oxyrec_jax.base import Array


def host_rng(rng: Array) -> np.random.Generator:
    """NumPy's source of chance from a key, consumed."""
    return np.random.default_rng(np.asarray(jax.random.bits(rng, (4,))))


def choose(rng: Array, count: int, most: int) -> np.ndarray | None:
    """Chooses so many of `count` rows, ascending; None where that is all of them.

    Args:
      rng: key, consumed.
      count, most: rows.
    """
    if count <= most:
        return None
    return np.sort(host_rng(rng).choice(count, most, replace=False, shuffle=False))


def sample(rng: Array, x: np.ndarray, most: int) -> np.ndarray:
    """Returns `x` if it has at most so many rows, else that many of its rows, in order.

    Args:
      rng: key, consumed.
      x: `[N, D]` float; may be memory-mapped.
      most: rows.

    Returns:
      `[min(N, most), D]` float32.
    """
    rows = choose(rng, len(x), most)
    return np.asarray(x if rows is None else x[rows], np.float32)


def stream(run: Callable[[Array], Array], x: np.ndarray, shape: tuple[int, ...],
           dtype: type, *, chunk: int) -> np.ndarray:
    """Maps a jitted function over rows, a fixed number at a time.

    Args:
      run: `[chunk, D]` to `[chunk, *shape]`; its rows must not depend on each other.
      x: `[N, D]` float; may be memory-mapped.
      shape: of one row of the result.
      dtype: of the result.
      chunk: rows at once; the last ones are padded, so `run` compiles once.

    Returns:
      `[N, *shape]`.
    """
    result: np.ndarray = np.empty((len(x), *shape), dtype)
    for start in range(0, len(x), chunk):
        part = np.asarray(x[start : start + chunk], np.float32)
        padded = np.pad(part, ((0, chunk - len(part)), (0, 0)))
        result[start : start + chunk] = run(jnp.asarray(padded))[: len(part)]
    return result
