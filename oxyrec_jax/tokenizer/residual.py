"""Residual quantisation: each level quantises what the levels before left over.

`fit` reads a sample, `encode` streams any number of rows in chunks with all levels of a
chunk in one program, so neither holds a second copy of the points.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from oxyrec_jax.base import Array
from oxyrec_jax.tokenizer import kmeans

_ROWS_AT_ONCE = 1 << 16


@dataclasses.dataclass(frozen=True)
class ResidualKMeans:
    """How the codebooks are fitted.

    Attributes:
      widths: codes of each level, first level first. (256, 256, 256) is usual for
        catalogues of 10k items (TIGER), 3 x 8192 for the industrial one (OxygenREC).
      sample: training points per code of the widest level; more are sampled down. 256,
        as in faiss.
      lloyd: how each level is fitted.
    """

    widths: tuple[int, ...] = (256, 256, 256)
    sample: int = 256
    lloyd: kmeans.KMeans = kmeans.KMeans()

    def __post_init__(self):
        if not self.widths or min(self.widths) < 1 or self.sample < 1:
            raise ValueError(f"{self.widths=} {self.sample=}, expected positive")


def fit(rng: Array, x: np.ndarray, cfg: ResidualKMeans) -> tuple[Array, ...]:
    """Fits one codebook per level on the residuals of the levels before.

    Args:
      rng: key, consumed. The same key, points and config give the same bits.
      x: `[N, D]` float points, N >= 1, all finite; may be memory-mapped.
      cfg: levels, widths, steps.

    Returns:
      Codebooks, each `[V_level, D]` float32.

    Raises:
      ValueError: `x` is not a matrix with rows, or holds NaN or infinity.

    Source: residual quantisation with k-means at each level, as OxygenREC,
    https://arxiv.org/abs/2512.22386, section on semantic IDs.
    """
    if x.ndim != 2 or not x.size:
        raise ValueError(f"{x.shape=}, expected [N, D] with at least one row")
    rng_sample, rng_levels = jax.random.split(rng)
    points = _sample(rng_sample, x, cfg.sample * max(cfg.widths))
    residual, mask = kmeans.pad_points(points, cfg.lloyd.chunk)
    if not bool(jnp.all(jnp.isfinite(residual))):
        raise ValueError("x holds NaN or infinity")
    codebooks = []
    for width, key in zip(cfg.widths, jax.random.split(rng_levels, len(cfg.widths))):
        codebooks.append(kmeans.fit_centroids(key, residual, mask, width=width,
                                              cfg=cfg.lloyd))
        residual = _subtract_nearest(residual, codebooks[-1], cfg.lloyd.chunk)
    return tuple(codebooks)


def encode(codebooks: tuple[Array, ...], x: np.ndarray, *, chunk: int = 512
           ) -> np.ndarray:
    """Gives each point its code at every level, greedily from the first.

    Args:
      codebooks: T codebooks `[V_level, D]`.
      x: `[N, D]` float points; may be memory-mapped.
      chunk: points scored at once.

    Returns:
      Codes `[N, T]` int32; a tie goes to the lower code.
    """
    if x.ndim != 2 or any(x.shape[1] != book.shape[1] for book in codebooks):
        raise ValueError(f"{x.shape=}, codebooks {[b.shape for b in codebooks]}")
    codes = np.empty((len(x), len(codebooks)), np.int32)
    rows = min(_ROWS_AT_ONCE, len(x) + -len(x) % chunk)
    for start in range(0, len(x), max(rows, 1)):
        part = np.asarray(x[start : start + rows], np.float32)
        padded = np.pad(part, ((0, rows - len(part)), (0, 0)))
        codes[start : start + rows] = _encode(codebooks, padded, chunk)[: len(part)]
    return codes


def decode(codebooks: tuple[Array, ...], codes: np.ndarray) -> np.ndarray:
    """Sums the centroids of `[N, T']` codes, T' <= T levels: `[N, D]` float32."""
    if codes.ndim != 2 or codes.shape[1] > len(codebooks):
        raise ValueError(f"{codes.shape=}, {len(codebooks)} codebooks")
    total = np.zeros((len(codes), codebooks[0].shape[1]), np.float32)
    for level in range(codes.shape[1]):
        total += np.asarray(codebooks[level])[codes[:, level]]
    return total


def _sample(rng: Array, x: np.ndarray, most: int) -> np.ndarray:
    if len(x) <= most:
        return np.asarray(x, np.float32)
    host = np.random.default_rng(np.asarray(jax.random.bits(rng, (4,))))
    rows = np.sort(host.choice(len(x), most, replace=False, shuffle=False))
    return np.asarray(x[rows], np.float32)


@functools.partial(jax.jit, static_argnames="chunk")
def _encode(codebooks: tuple[Array, ...], x: Array, chunk: int) -> Array:
    def encode_part(points: Array) -> Array:
        codes = []
        for book in codebooks:
            codes.append(kmeans.nearest(points, book)[0])
            points = points - book[codes[-1]]
        return jnp.stack(codes, axis=1)
    parts = jax.lax.map(encode_part, x.reshape(-1, chunk, x.shape[1]))
    return parts.reshape(-1, len(codebooks))


@functools.partial(jax.jit, static_argnames="chunk", donate_argnums=0)
def _subtract_nearest(x: Array, book: Array, chunk: int) -> Array:
    def subtract(points: Array) -> Array:
        return points - book[kmeans.nearest(points, book)[0]]
    return jax.lax.map(subtract, x.reshape(-1, chunk, x.shape[1])).reshape(x.shape)
