"""Residual quantisation: each level quantises what the levels before left over.

`fit` keeps one copy of the points that it trains on, the residuals, cut over the
devices of a mesh; where that is more than the memory allowed, it goes through them in
batches instead (`minibatch`). `encode` streams any number of rows in chunks with all
levels of a chunk in one program, so it holds no copy.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from oxyrec_jax import progress
from oxyrec_jax.base import Array
from oxyrec_jax.tokenizer import kmeans, minibatch
from oxyrec_jax.tokenizer.rows import choose

_ROWS_AT_ONCE = 1 << 16
_ROWS_PLACED_AT_ONCE = 1 << 14
_LONG_FIT = 1e12  # FLOPs, some ten seconds of two CPU cores: worth a progress bar


@dataclasses.dataclass(frozen=True)
class ResidualKMeans:
    """How the codebooks are fitted.

    Attributes:
      widths: codes of each level, first level first. (256, 256, 256) is usual for
        catalogues of 10k items (TIGER), 3 x 8192 for the industrial one (OxygenREC).
      sample: training points per code of the widest level; more are sampled down. 256,
        as in faiss.
      lloyd: how each level is fitted.
      memory: most bytes for the fit's copy of the training points; where they need
        more they are read in batches of half of it, once for the host and once for
        the device. None: no limit.
    """

    widths: tuple[int, ...] = (256, 256, 256)
    sample: int = 256
    lloyd: kmeans.KMeans = kmeans.KMeans()
    memory: int | None = None

    def __post_init__(self):
        if not self.widths or min(self.widths) < 1 or self.sample < 1:
            raise ValueError(f"{self.widths=} {self.sample=}, expected positive")


def fit(rng: Array, x: np.ndarray, cfg: ResidualKMeans, *,
        start: Sequence[np.ndarray | Array] | None = None, mesh: Mesh | None = None
        ) -> tuple[Array, ...]:
    """Fits one codebook per level on the residuals of the levels before.

    Args:
      rng: key, consumed. The same key, points, config and mesh give the same bits.
      x: `[N, D]` float points, N >= 1, all finite; may be memory-mapped.
      cfg: levels, widths, steps.
      start: codebooks `[V_level, D]` of an earlier fit to move on from; no code is
        then restarted, so that codes keep their meaning. None: seeded anew.
      mesh: devices that share the points; None: one device.

    Returns:
      Codebooks, each `[V_level, D]` float32.

    Raises:
      ValueError: `x` is not a matrix with rows, or holds NaN or infinity, with the
        row; `start` has other shapes; `cfg.memory` holds fewer points than a level
        has codes, or fewer than all where a mesh is given.

    Source: residual quantisation with k-means at each level, as OxygenREC,
    https://arxiv.org/abs/2512.22386, section on semantic IDs.
    """
    if x.ndim != 2 or not x.size:
        raise ValueError(f"{x.shape=}, expected [N, D] with at least one row")
    shapes = [(width, x.shape[1]) for width in cfg.widths]
    if start is not None and [book.shape for book in start] != shapes:
        raise ValueError(f"start has {[book.shape for book in start]}, expected "
                         f"{shapes}")
    rng_sample, rng_levels = jax.random.split(rng)
    rows = choose(rng_sample, len(x), cfg.sample * max(cfg.widths))
    count = len(x) if rows is None else len(rows)
    work = 2.0 * count * x.shape[1] * sum(cfg.widths) * cfg.lloyd.iterations
    keys = jax.random.split(rng_levels, len(cfg.widths))
    shown = (progress.bar("fitting codebooks", len(keys) * cfg.lloyd.iterations)
             if work > _LONG_FIT else contextlib.nullcontext(lambda steps: None))
    with shown as advance:
        if cfg.memory is not None and count * x.shape[1] * 4 > cfg.memory:
            if mesh is not None:
                raise ValueError("memory has to hold all points where a mesh is given")
            return minibatch.fit(keys, x, rows, cfg.widths, cfg.lloyd, start=start,
                                 batch=cfg.memory // (8 * x.shape[1]), advance=advance)
        return _fit_in_memory(keys, x, rows, cfg, start, mesh, advance)


def _fit_in_memory(keys: Array, x: np.ndarray, rows: np.ndarray | None,
                   cfg: ResidualKMeans, start: Sequence | None, mesh: Mesh | None,
                   advance: Callable[[int], None]) -> tuple[Array, ...]:
    residual, mask = place(x, rows, cfg.lloyd.chunk, mesh)
    codebooks: list[Array] = []
    for level, (width, key) in enumerate(zip(cfg.widths, keys)):
        codebooks.append(kmeans.fit_centroids(
            key, residual, mask, width=width, cfg=cfg.lloyd, mesh=mesh,
            start=None if start is None else jnp.asarray(start[level]),
            advance=advance))
        if level + 1 < len(cfg.widths):
            residual = kmeans.subtract_nearest(residual, codebooks[-1], mesh=mesh,
                                               chunk=cfg.lloyd.chunk)
    return tuple(codebooks)


def place(x: np.ndarray, rows: np.ndarray | None, chunk: int, mesh: Mesh | None
          ) -> tuple[Array, Array]:
    """Copies points to the devices, padded with zero rows; one copy, block by block.

    Args:
      x: `[N, D]` float points; may be memory-mapped.
      rows: which rows, ascending; None: all.
      chunk: each device gets a multiple of this many rows.
      mesh: devices that share the points; None: the default device.

    Returns:
      `[M, D]` float32 points, cut over all axes of the mesh, and `[M]` bool, true on
      real points.

    Raises:
      ValueError: a row is not finite.
    """
    count = len(x) if rows is None else len(rows)
    devices = [None] if mesh is None else list(mesh.devices.flat)
    share = -(-count // (len(devices) * chunk)) * chunk
    parts = [_place_share(x, rows, index * share, share, device)
             for index, device in enumerate(devices)]
    if mesh is None:
        return parts[0], jnp.arange(share) < count
    shape = (share * len(devices), x.shape[1])
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    return (jax.make_array_from_single_device_arrays(shape, sharding, parts),
            jax.device_put(np.arange(len(devices) * share) < count, sharding))


def _place_share(x: np.ndarray, rows: np.ndarray | None, first: int, share: int,
                 device: jax.Device | None) -> Array:
    count = len(x) if rows is None else len(rows)
    buffer = jnp.zeros((share, x.shape[1]), jnp.float32, device=device)
    size = min(_ROWS_PLACED_AT_ONCE, share)
    for at in range(0, share, size):
        at = min(at, share - size)  # the last block reaches back: one shape for all
        chosen = slice(first + at, min(first + at + size, count))
        if chosen.start >= count:
            break
        block = np.zeros((size, x.shape[1]), np.float32)
        part = x[chosen if rows is None else rows[chosen]]
        block[: len(part)] = part
        kmeans.check_finite(part, chosen.start if rows is None else rows[chosen])
        buffer = _write(buffer, block, at)
    return buffer


@functools.partial(jax.jit, donate_argnums=0)
def _write(buffer: Array, block: Array, at: int) -> Array:
    return jax.lax.dynamic_update_slice(buffer, block, (at, 0))


def encode(codebooks: tuple[Array, ...], x: np.ndarray, *, chunk: int = 512
           ) -> np.ndarray:
    """Gives each point its code at every level, greedily from the first.

    Args:
      codebooks: T codebooks `[V_level, D]`.
      x: `[N, D]` float points; may be memory-mapped.
      chunk: points scored at once.

    Returns:
      Codes `[N, T]` int32; a tie goes to the lower code.

    Raises:
      ValueError: the columns are others than the codebooks', or a row is not finite.
    """
    if x.ndim != 2 or any(x.shape[1] != book.shape[1] for book in codebooks):
        raise ValueError(f"{x.shape=}, codebooks {[b.shape for b in codebooks]}")
    codes = np.empty((len(x), len(codebooks)), np.int32)
    rows = min(_ROWS_AT_ONCE, len(x) + -len(x) % chunk)
    for start in range(0, len(x), max(rows, 1)):
        part = np.asarray(x[start : start + rows], np.float32)
        kmeans.check_finite(part, start)
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
