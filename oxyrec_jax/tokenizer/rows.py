"""Rows of a matrix that may be larger than memory: a sample, or all through a function.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from oxyrec_jax.base import Array


def sample(rng: Array, x: np.ndarray, most: int) -> np.ndarray:
    """Returns `x` if it has at most so many rows, else that many of its rows, in order.

    Args:
      rng: key, consumed.
      x: `[N, D]` float; may be memory-mapped.
      most: rows.

    Returns:
      `[min(N, most), D]` float32.
    """
    if len(x) <= most:
        return np.asarray(x, np.float32)
    host = np.random.default_rng(np.asarray(jax.random.bits(rng, (4,))))
    rows = np.sort(host.choice(len(x), most, replace=False, shuffle=False))
    return np.asarray(x[rows], np.float32)


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
