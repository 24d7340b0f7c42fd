"""k-means in JAX: block D-squared seeding, Lloyd steps, starved codes split others.

One pass over the points is a scan over chunks, so that the scores of a chunk
(`chunk x V`) stay in cache and a million points never need an `[N, V]` array. A pass
costs 2 N V D FLOPs, nearly all of them in one matrix product. With a mesh every device
passes over its share of the points and the sums of all are added up.

A sum over codes is a scatter-add, not a product with one-hot rows: on two CPU cores
0.2 microseconds a point of 256 numbers against 2.6.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from oxyrec_jax.base import Array

SCORES = ("float32", "bfloat16")

_SPLIT = 0.1  # ours: how far the halves of a split code start apart, in its radii


@dataclasses.dataclass(frozen=True)
class KMeans:
    """How one codebook is fitted.

    Attributes:
      iterations: most Lloyd steps. 25, the default of faiss.
      tolerance: stop when a step lowers the error by less than this share. Ours.
      seeding_rounds: rounds of seeding, each drawing `V / rounds` codes; together they
        cost one Lloyd step. Ours: with restarts, 8 end where V rounds (k-means++) end.
      restart: a code with less than this share of the mean load gives up its place and
        splits the code with the most error, during the first half of the steps. Ours:
        on 12k product titles, 3 x 256, it raised the third level's perplexity from 57
        (0) to 146 (0.1) and 224 (0.3) and lowered the error at every level; on 80k
        clustered points, 3 x 1024, 25 steps, the last error is 0.975 (0.1), 0.988
        (0.2) and 1.016 (0.3) of faiss's.
      chunk: points scored at once. Ours: fastest of 512 to 4096 on CPU.
      scores: how the steps score points: "float32", or "bfloat16", about three times
        as fast where the processor multiplies matrices of bfloat16 (Intel AMX, any
        recent accelerator) and slower elsewhere. Points are centred before they are
        rounded; sums, centroids, errors and later encoding stay float32. Ours.
    """

    iterations: int = 25
    tolerance: float = 1e-4
    seeding_rounds: int = 8
    restart: float = 0.2
    chunk: int = 512
    scores: str = "float32"

    def __post_init__(self):
        if self.scores not in SCORES:
            raise ValueError(f"{self.scores=}, expected one of {', '.join(SCORES)}")


class Pass(NamedTuple):
    """What one pass over the points gives; all per code, float32.

    Attributes:
      sums: `[V, D]` sum of the points of each code.
      counts: `[V]` how many points.
      errors: `[V]` sum of squared distances to the centroid.
    """

    sums: Array
    counts: Array
    errors: Array


class _State(NamedTuple):
    centroids: Array  # [V, D]
    error: Array  # [] of the pass before
    gain: Array  # [] share by which the last step lowered the error
    rng: Array


def fit_centroids(rng: Array, x: Array, mask: Array, *, width: int, cfg: KMeans,
                  start: Array | None = None, mesh: Mesh | None = None,
                  advance: Callable[[int], None] = lambda steps: None) -> Array:
    """Fits the centroids of one codebook.

    Minimises sum_n min_v |x_n - c_v|^2 by Lloyd steps from a D-squared seeding.

    Args:
      rng: key, consumed. The same key, points and mesh give the same bits on one
        machine; another mesh adds in another order, so the last bits differ.
      x: `[N, D]` float32 points, N a multiple of `cfg.chunk` (see `pad_points`); with
        a mesh, of `cfg.chunk` times its devices (see `place`).
      mask: `[N]` bool, true on real points.
      width: V, number of codes. With fewer distinct points than codes the surplus
        codes are copies and no point is nearest to them first.
      cfg: how.
      start: `[V, D]` centroids to start from instead of a seeding. No code is then
        restarted, so that codes keep their meaning and no step raises the error.
      mesh: devices that hold a share of the points each; None: one.
      advance: called with the number of steps done, `cfg.iterations` in all.

    Returns:
      `[V, D]` float32 centroids.

    Source: Lloyd 1982; seeding after Bahmani et al. 2012 (k-means||),
    https://arxiv.org/abs/1203.6402, with V / rounds draws a round and no reduction
    step (ours); restart by splitting is ours.
    """
    rng_seed, rng_loop = jax.random.split(rng)
    static: dict[str, Any] = {"chunk": cfg.chunk, "mesh": mesh}
    last_restart = cfg.iterations // 2 if start is None else 0
    if start is None:
        start = seed(rng_seed, x, mask, width=width, rounds=cfg.seeding_rounds,
                     **static)
    elif start.shape != (width, x.shape[1]):
        raise ValueError(f"{start.shape=}, expected {(width, x.shape[1])}")
    shift = _mean(x, mask) if cfg.scores == "bfloat16" else None
    state = _State(jnp.array(start, jnp.float32), jnp.float32(jnp.inf),
                   jnp.float32(jnp.inf), rng_loop)
    for step in range(cfg.iterations):
        state = _lloyd(state, x, mask, shift, step < last_restart, cfg.restart,
                       **static)
        if step >= last_restart and float(state.gain) <= cfg.tolerance:
            advance(cfg.iterations - step)
            break
        advance(1)
    return state.centroids


@functools.partial(jax.jit, static_argnames=("width", "rounds", "chunk", "mesh"))
def seed(rng: Array, x: Array, mask: Array, *, width: int, rounds: int, chunk: int,
         mesh: Mesh | None = None) -> Array:
    """Draws `[V, D]` codes in rounds, each point in proportion to squared distance.

    Arguments as of `fit_centroids`; `rounds` and `chunk` as in `KMeans`.
    """
    draws = -(-width // rounds)  # the last round's surplus is cut off

    def distances(x: Array, chosen: Array) -> Array:
        parts = x.reshape(-1, chunk, x.shape[1])
        return jax.lax.map(lambda part: nearest(part, chosen)[1], parts).reshape(-1)

    if mesh is not None:
        points = PartitionSpec(mesh.axis_names)
        distances = jax.shard_map(distances, mesh=mesh, check_vma=False,
                                  in_specs=(points, PartitionSpec()), out_specs=points)

    def draw(distance: Array, key: Array) -> tuple[Array, Array]:
        # Gumbel keys: the top `draws` are a draw without replacement. Points at
        # distance 0 come after all others, padding never.
        keys = jax.random.gumbel(key, mask.shape) + jnp.log(distance + 1e-30)
        picks = jax.lax.top_k(jnp.where(mask, keys, -jnp.inf), min(draws, len(x)))[1]
        # Fewer points than draws: the surplus codes are copies of the first point.
        chosen = x[jnp.where(mask[picks], picks, 0)]
        chosen = jnp.pad(chosen, ((0, draws - len(picks)), (0, 0)), mode="edge")
        return jnp.minimum(distance, distances(x, chosen)), chosen

    start = jnp.full(mask.shape, jnp.finfo(x.dtype).max)  # the first draw is even
    chosen = jax.lax.scan(draw, start, jax.random.split(rng, rounds))[1]
    return chosen.reshape(-1, x.shape[1])[:width]


def nearest(x: Array, centroids: Array) -> tuple[Array, Array]:
    """Finds the nearest centroid of each point; a tie goes to the lower code.

    Args:
      x: `[N, D]` float32.
      centroids: `[V, D]` float32.

    Returns:
      Codes `[N]` int32 and squared distances `[N]` float32, never negative.
    """
    scores = jnp.dot(x, centroids.T, precision=jax.lax.Precision.HIGHEST)
    scores = scores - 0.5 * jnp.sum(centroids * centroids, axis=1)
    best = jnp.max(scores, axis=1)
    # Not argmax: on CPU the equality runs at the speed of the product, argmax at half.
    ids = jnp.arange(centroids.shape[0], dtype=jnp.int32)
    codes = jnp.min(jnp.where(scores == best[:, None], ids, ids.size - 1), axis=1)
    return codes, jnp.maximum(jnp.sum(x * x, axis=1) - 2 * best, 0)


def pad_points(x: np.ndarray | Array, chunk: int) -> tuple[Array, Array]:
    """Pads `[N, D]` with zero rows to a multiple of `chunk`; returns it and a mask."""
    padding = -len(x) % chunk
    return (jnp.pad(jnp.asarray(x, jnp.float32), ((0, padding), (0, 0))),
            jnp.arange(len(x) + padding) < len(x))


def one_pass(x: Array, mask: Array, centroids: Array, *, chunk: int,
             shift: Array | None = None, mesh: Mesh | None = None) -> Pass:
    """Assigns every point to its nearest centroid and sums up what each code got.

    Args:
      x: `[N, D]` float32, N a multiple of `chunk` (times the devices of the mesh).
      mask: `[N]` bool, true on real points.
      centroids: `[V, D]` float32.
      chunk: points scored at once.
      shift: `[D]`: score in bfloat16, after this was taken from points and centroids;
        None: in float32.
      mesh: devices that hold a share of the points each; None: one.
    """
    def share(x: Array, mask: Array, centroids: Array, shift: Array | None) -> Pass:
        if shift is None:
            return _share(x, mask, centroids, chunk)
        return _fast_share(x, mask, centroids, shift, chunk)
    if mesh is None:
        return share(x, mask, centroids, shift)
    points = PartitionSpec(mesh.axis_names)

    def summed(x: Array, mask: Array, centroids: Array, shift: Array | None) -> Pass:
        return jax.lax.psum(share(x, mask, centroids, shift), mesh.axis_names)
    return jax.shard_map(
        summed, mesh=mesh, in_specs=(points, points, PartitionSpec(), PartitionSpec()),
        out_specs=PartitionSpec(), check_vma=False)(x, mask, centroids, shift)


@functools.partial(jax.jit, static_argnames=("chunk", "mesh"), donate_argnums=0)
def subtract_nearest(x: Array, centroids: Array, *, chunk: int,
                     mesh: Mesh | None = None) -> Array:
    """Takes its nearest centroid off every point, in the points' own memory.

    Args:
      x: `[N, D]` float32, N a multiple of `chunk` (times the devices of the mesh);
        given up.
      centroids: `[V, D]` float32.
      chunk: points scored at once.
      mesh: devices that hold a share of the points each; None: one.
    """
    def share(x: Array, centroids: Array) -> Array:
        def subtract(part: Array, x: Array) -> Array:  # in place; a map would copy x
            points = jax.lax.dynamic_slice_in_dim(x, part * chunk, chunk)
            points = points - centroids[nearest(points, centroids)[0]]
            return jax.lax.dynamic_update_slice_in_dim(x, points, part * chunk, 0)
        return jax.lax.fori_loop(0, len(x) // chunk, subtract, x)
    if mesh is None:
        return share(x, centroids)
    points = PartitionSpec(mesh.axis_names)
    return jax.shard_map(share, mesh=mesh, in_specs=(points, PartitionSpec()),
                         out_specs=points, check_vma=False)(x, centroids)


def check_finite(part: np.ndarray, rows: np.ndarray | int) -> None:
    """Raises ValueError where a row is not finite.

    Args:
      part: `[M, D]` float: some rows of the points.
      rows: which: `[M]` int, or the first of rows in a row.
    """
    bad = ~np.isfinite(part).all(axis=1)
    if bad.any():
        row = int(np.argmax(bad))
        row = row + rows if isinstance(rows, int) else rows[row]
        raise ValueError(f"row {row} of x holds NaN or infinity, expected numbers")


@functools.partial(jax.jit, static_argnames=("chunk", "mesh"), donate_argnums=0)
def _lloyd(state: _State, x: Array, mask: Array, shift: Array | None, restarts: bool,
           restart: float, *, chunk: int, mesh: Mesh | None) -> _State:
    found = one_pass(x, mask, state.centroids, chunk=chunk, shift=shift, mesh=mesh)
    live = found.counts > 0
    means = found.sums / jnp.where(live, found.counts, 1)[:, None]
    means = jnp.where(live[:, None], means, state.centroids)
    rng, rng_split = jax.random.split(state.rng)
    moved = split_starved(rng_split, means, found, restart)
    means = jnp.where(restarts, moved, means)
    error = jnp.sum(found.errors)
    gain = (state.error - error) / jnp.where(error > 0, error, 1)
    return _State(means, error, gain, rng)


def _share(x: Array, mask: Array, centroids: Array, chunk: int) -> Pass:
    width = len(centroids)

    def add(total: Pass, part: tuple[Array, Array]) -> tuple[Pass, None]:
        points, real = part
        codes, distance = nearest(points, centroids)
        codes = jnp.where(real, codes, width)  # out of range, so dropped
        sums = functools.partial(jax.ops.segment_sum, segment_ids=codes,
                                 num_segments=width)
        return Pass(total.sums + sums(points),
                    total.counts + sums(jnp.ones_like(distance)),
                    total.errors + sums(distance)), None

    zero = Pass(jnp.zeros_like(centroids), jnp.zeros(width), jnp.zeros(width))
    return jax.lax.scan(add, zero, (x.reshape(-1, chunk, x.shape[1]),
                                    mask.reshape(-1, chunk)))[0]


def _fast_share(x: Array, mask: Array, centroids: Array, shift: Array, chunk: int
                ) -> Pass:
    """As `_share`, with scores of bfloat16 products and of 23 - log2 V bits.

    A score's low bits give way to its code's number, so that one maximum over int32
    finds both: at V = 1024 scores keep 13 bits, more than the products have.
    """
    width = len(centroids)
    books = centroids - shift
    square = jnp.sum(books * books, axis=1)
    rounded, low = books.astype(jnp.bfloat16), (1 << (width - 1).bit_length()) - 1
    ids = jnp.arange(width, dtype=jnp.int32)[::-1, None]  # a tie: the lower code

    def add(total: Pass, part: tuple[Array, Array]) -> tuple[Pass, None]:
        points, real = part
        points = points - shift
        # [V, chunk], so that the maximum runs over rows and needs no shuffles.
        scores = jax.lax.dot_general(
            rounded, points.astype(jnp.bfloat16), (((1,), (1,)), ((), ())),
            preferred_element_type=jnp.float32) - 0.5 * square[:, None]
        bits = jax.lax.bitcast_convert_type(scores, jnp.int32)
        bits ^= (bits >> 31) & 0x7FFFFFFF  # as integers in the order of the floats
        best = jnp.max((bits & ~low) | ids, axis=0)
        codes = jnp.where(real, width - 1 - (best & low), width)
        sums = functools.partial(jax.ops.segment_sum, segment_ids=codes,
                                 num_segments=width)
        return Pass(total.sums + sums(points),
                    total.counts + sums(jnp.ones_like(real, jnp.float32)),
                    total.errors + sums(jnp.sum(points * points, axis=1))), None

    zero = Pass(jnp.zeros_like(books), jnp.zeros(width), jnp.zeros(width))
    found = jax.lax.scan(add, zero, (x.reshape(-1, chunk, x.shape[1]),
                                     mask.reshape(-1, chunk)))[0]
    # sum |x - c|^2 of a code's points, without a second look at them
    errors = (found.errors - 2 * jnp.sum(books * found.sums, axis=1)
              + found.counts * square)
    return Pass(found.sums + found.counts[:, None] * shift, found.counts,
                jnp.maximum(errors, 0))


@jax.jit
def _mean(x: Array, mask: Array) -> Array:
    return jnp.sum(x, axis=0, where=mask[:, None]) / jnp.maximum(jnp.sum(mask), 1)


def split_starved(rng: Array, means: Array, found: Pass, restart: float | Array
                  ) -> Array:
    """Moves each starved code beside the code with the most error, half and half.

    Args:
      rng: key, consumed.
      means: `[V, D]` float32 centroids.
      found: what the last pass found of them.
      restart: share of the mean load below which a code is starved.
    """
    width = len(means)
    mean_load = jnp.sum(found.counts) / width
    starved = (found.counts < restart * mean_load) | (found.counts == 0)
    donors = ~starved & (found.errors > 0) & (found.counts > 1)
    takers = jax.lax.top_k(starved.astype(jnp.float32), width)[1]
    givers = jax.lax.top_k(jnp.where(donors, found.errors, -1), width)[1]
    pairs = jnp.arange(width) < jnp.minimum(jnp.sum(starved), jnp.sum(donors))
    radius = jnp.sqrt(found.errors / jnp.maximum(found.counts, 1))[givers]
    noise = jax.random.normal(rng, means.shape) * (
        _SPLIT * radius[:, None] / jnp.sqrt(means.shape[1]))
    centre = means[givers]
    taker, giver = (jnp.where(pairs, ids, width) for ids in (takers, givers))
    means = means.at[taker].set(centre + noise, mode="drop")
    return means.at[giver].set(centre - noise, mode="drop")
