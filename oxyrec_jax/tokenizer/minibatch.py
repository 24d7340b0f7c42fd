"""Residual k-means over points that do not fit in memory, batch by batch.

A batch is read, the levels fitted before are taken off, and the centroids move to the
means of a window that forgets: each new batch adds its sums and fades all older ones,
so that about the last N points count. One batch that holds all points is a Lloyd step.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from oxyrec_jax.base import Array
from oxyrec_jax.tokenizer import kmeans
from oxyrec_jax.tokenizer.rows import host_rng

_BLOCK = 1024  # rows in a row that are read together: disks want more than one


def fit(keys: Array, x: np.ndarray, rows: np.ndarray | None, widths: Sequence[int],
        cfg: kmeans.KMeans, *, batch: int, start: Sequence | None = None,
        advance: Callable[[int], None] = lambda steps: None) -> tuple[Array, ...]:
    """Fits one codebook per level; every level goes `cfg.iterations` times over x.

    Args:
      keys: one key for each level, consumed.
      x: `[N, D]` float points, finite; usually memory-mapped.
      rows: which rows, ascending; None: all.
      widths: codes of each level.
      cfg: as for Lloyd steps; codes are restarted between the passes of the first half.
      batch: points held at once, at least as many as the widest level has codes.
      start: codebooks to move on from instead of a seeding on the first batch.
      advance: called after each pass over the points.

    Returns:
      Codebooks, each `[V_level, D]` float32.

    Raises:
      ValueError: the batch is too small, or a row is not finite, with the row.

    Source: mini-batch k-means, Sculley 2010, https://doi.org/10.1145/1772690.1772862;
    the fading window in place of one rate for each code is ours, after Cappé and
    Moulines 2009, https://arxiv.org/abs/0712.4273.
    """
    batch -= batch % cfg.chunk
    if batch < max(widths):
        raise ValueError(f"{batch=} points in {cfg.chunk=}, expected at least "
                         f"{max(widths)}, the codes of the widest level")
    rows = np.arange(len(x)) if rows is None else rows
    books: list[Array] = []
    for level, (width, key) in enumerate(zip(widths, keys)):
        rng_seed, rng_order, rng_split = jax.random.split(key, 3)
        first = None if start is None else jnp.asarray(start[level])
        books.append(_fit_level(
            rng_seed, rng_split, host_rng(rng_order), x, rows, tuple(books), first,
            width, cfg, batch, advance))
    return tuple(books)


def _fit_level(rng_seed: Array, rng_split: Array, host: np.random.Generator,
               x: np.ndarray, rows: np.ndarray, before: tuple[Array, ...],
               start: Array | None, width: int, cfg: kmeans.KMeans, batch: int,
               advance: Callable[[int], None]) -> Array:
    restarts = start is None
    if start is None:
        points, mask = _read(x, next(_batches(host, rows, batch)), before, cfg, batch)
        start = kmeans.seed(rng_seed, points, mask, width=width,
                            rounds=cfg.seeding_rounds, chunk=cfg.chunk)
    centroids = jnp.array(start, jnp.float32)
    window = kmeans.Pass(jnp.zeros_like(centroids), jnp.zeros(width), jnp.zeros(width))
    errors = [np.inf]
    for step in range(cfg.iterations):
        total = 0.0
        for chosen in _batches(host, rows, batch):
            points, mask = _read(x, chosen, before, cfg, batch)
            window, centroids, error = _move(
                window, centroids, points, mask, 1 - len(chosen) / len(rows),
                chunk=cfg.chunk, fast=cfg.scores == "bfloat16")
            total += float(error)
        advance(1)
        if restarts and step < cfg.iterations // 2:
            window, centroids = _restart(jax.random.fold_in(rng_split, step), window,
                                         centroids, cfg.restart)
        elif errors[-1] - total <= cfg.tolerance * total:
            advance(cfg.iterations - step - 1)
            break
        errors.append(total)
    return centroids


def _batches(host: np.random.Generator, rows: np.ndarray, batch: int):
    """Yields every row once: shuffled blocks of neighbours, sorted within a batch."""
    blocks = -(-len(rows) // _BLOCK)
    order = host.permutation(blocks)
    shuffled = (order[:, None] * _BLOCK + np.arange(_BLOCK)).reshape(-1)
    shuffled = shuffled[shuffled < len(rows)]
    for first in range(0, len(rows), batch):
        yield np.sort(rows[shuffled[first : first + batch]])


def _read(x: np.ndarray, rows: np.ndarray, before: tuple[Array, ...],
          cfg: kmeans.KMeans, batch: int) -> tuple[Array, Array]:
    """Reads rows and takes the levels before off; padded to `[batch, D]`, and a mask.
    """
    part = np.zeros((batch, x.shape[1]), np.float32)
    part[: len(rows)] = x[rows]
    kmeans.check_finite(part[: len(rows)], rows)
    points = jnp.asarray(part)
    for book in before:
        points = kmeans.subtract_nearest(points, book, chunk=cfg.chunk)
    return points, jnp.arange(batch) < len(rows)


@functools.partial(jax.jit, static_argnames=("chunk", "fast"), donate_argnums=(0, 1))
def _move(window: kmeans.Pass, centroids: Array, points: Array, mask: Array,
          keep: float, *, chunk: int, fast: bool) -> tuple[kmeans.Pass, Array, Array]:
    """Adds a batch to the faded window and moves the centroids to its means."""
    shift = None
    if fast:
        shift = (jnp.sum(points, axis=0, where=mask[:, None])
                 / jnp.maximum(jnp.sum(mask), 1))
    found = kmeans.one_pass(points, mask, centroids, chunk=chunk, shift=shift)
    window = jax.tree.map(lambda old, new: keep * old + new, window, found)
    live = window.counts > 0
    means = window.sums / jnp.where(live, window.counts, 1)[:, None]
    return (window, jnp.where(live[:, None], means, centroids), jnp.sum(found.errors))


@jax.jit
def _restart(rng: Array, window: kmeans.Pass, centroids: Array, restart: float
             ) -> tuple[kmeans.Pass, Array]:
    """Splits codes for the starved ones; the halves count for little until filled."""
    moved = kmeans.split_starved(rng, centroids, window, restart)
    changed = (moved != centroids).any(axis=1)
    counts = jnp.where(changed, jnp.minimum(window.counts, 1), window.counts)
    sums = jnp.where(changed[:, None], moved * counts[:, None], window.sums)
    return kmeans.Pass(sums, counts, jnp.where(changed, 0, window.errors)), moved
