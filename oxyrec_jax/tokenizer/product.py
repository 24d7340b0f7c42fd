"""Product quantisation: one code for each slice of the vector, turned first if wished.

Unlike the residual kinds no level refines another: each sees its own columns only. The
rotation of OPQ spreads what is correlated over the slices so that they lose least.

Arrays: `mean` `[D]`, `rotation` `[D, D]` (orthonormal; the identity without OPQ) and
`subspace_<level>` `[V_level, D_level]`, the centroids of the rotated columns.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from oxyrec_jax.base import Array, InputError
from oxyrec_jax.tokenizer import kmeans, residual, rows

Arrays = dict[str, np.ndarray]
Books = tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class Product:
    """How the rotation is found.

    Attributes:
      rotations: how often codes and rotation are fitted in turn; 0: no rotation at all
        (PQ). 20, ours: the error then moves by less than 0.1 % a turn.
    """

    rotations: int = 20


def fit(rng: Array, x: np.ndarray, cfg: Product, *, widths: tuple[int, ...],
        sample: int, lloyd: kmeans.KMeans, mesh: Mesh | None = None,
        start: Arrays | None = None) -> Arrays:
    """Fits the rotation and the centroids of each slice of the columns.

    The rotation R minimises |X R - Y|^2, where Y are the centroids that the points
    took: R = U W^T for the singular vectors U, W of X^T Y. It starts from the columns
    as they are or from the principal axes, dealt out so that the slices' variances have
    equal products: from what loses less. (Text beside co-engagement, cut where one
    ends, is better left as it is: the axes would mix them.)

    Args:
      rng: key, consumed. The same key, points and config give the same bits.
      x: `[N, D]` float points, all finite; may be memory-mapped.
      cfg: how.
      widths: codes of each slice; D is cut into T slices, the first ones longer by one
        where T does not divide D.
      sample: training points per code of the widest slice; more are sampled down.
      lloyd: how the centroids are fitted.
      mesh: devices that share the points; None: one device.
      start: arrays of an earlier fit: its rotation and centroids are gone on from.

    Raises:
      InputError: there are fewer columns than slices.

    Source: Jegou et al. 2011 (PQ); Ge et al. 2013, "Optimized product quantization",
    algorithm 1 and section 3.2.
    """
    dimension, levels = x.shape[1], len(widths)
    if dimension < levels:
        raise InputError(f"product quantisation cuts vectors into {levels} slices, "
                         f"found {dimension} columns; take fewer levels")
    if cfg.rotations < 0:
        raise InputError(f"product rotations is {cfg.rotations}, expected at least 0")
    rng_sample, rng_first, rng_last = jax.random.split(rng, 3)
    points = rows.sample(rng_sample, x, sample * max(widths))
    if start is None:
        mean = np.asarray(np.mean(points, axis=0, dtype=np.float64), np.float32)
    else:
        mean = start["mean"]
    padded, mask = residual.place(points, None, lloyd.chunk, mesh)
    padded = _centre(padded, mask, mean)
    rotation = np.eye(dimension, dtype=np.float32)
    books = None
    if start is not None:
        rotation, books = start["rotation"], _books(start, levels)
    elif cfg.rotations:
        rotation, books = _first(rng_first, padded, mask, widths, lloyd, mesh)
    if cfg.rotations and books is not None:
        rotation, books = _alternate(padded, mask, rotation, books, cfg.rotations,
                                     lloyd.chunk, mesh)
    # Seeded anew once the rotation stands: its codes are better spread than those
    # that the turns left.
    books = _centroids(rng_last, padded, mask, rotation, widths, lloyd, mesh,
                       None if start is None else books)
    named = {f"subspace_{level}": book for level, book in enumerate(books)}
    return {"mean": mean, "rotation": rotation, **named}


def encode(arrays: Arrays, x: np.ndarray, *, levels: int, chunk: int) -> np.ndarray:
    """Gives each slice of `[N, D]` its nearest centroid: `[N, T]` int32, streamed."""
    run = functools.partial(_encode, arrays["mean"], arrays["rotation"],
                            _books(arrays, levels))
    return rows.stream(run, x, (levels,), np.int32, chunk=chunk)


def decode(arrays: Arrays, codes: np.ndarray) -> np.ndarray:
    """Puts centroids together and turns them back: `[N, D]` float32.

    Args:
      arrays: from `fit`.
      codes: `[N, T']` int; the columns of slices without a code are 0 before turning
        back, which is the mean of the points.
    """
    rotation = arrays["rotation"]
    total = np.broadcast_to(arrays["mean"], (len(codes), len(rotation))).copy()
    first = 0
    for level in range(codes.shape[1]):
        book = arrays[f"subspace_{level}"]
        turned_back = book @ rotation[:, first : first + book.shape[1]].T
        total += turned_back[codes[:, level]]
        first += book.shape[1]
    return total


def last_slice(arrays: Arrays, x: np.ndarray, *, levels: int
               ) -> tuple[np.ndarray, np.ndarray]:
    """Returns the last slice of the rotated points `[N, E]` and its centroids."""
    book = arrays[f"subspace_{levels - 1}"]
    columns = arrays["rotation"][:, -book.shape[1]:]
    return (np.asarray(x, np.float32) - arrays["mean"]) @ columns, book


def slices(dimension: int, levels: int) -> tuple[int, ...]:
    """Returns how many columns each slice has; the first take what is left over."""
    return tuple(dimension // levels + (level < dimension % levels)
                 for level in range(levels))


def allocate(variances: np.ndarray, sizes: tuple[int, ...]) -> list[list[int]]:
    """Deals principal axes out to slices so that the products of variances are even.

    Args:
      variances: `[D]` float, of the axes in descending order.
      sizes: columns of each slice; they sum to D.

    Returns:
      For each slice its axes: each next axis went to the slice with the least product
      of variances so far among those with room.

    Source: Ge et al. 2013, "Optimized product quantization", section 3.2.3.
    """
    logs = np.log(np.maximum(variances, 1e-12 * max(variances.max(), 1e-30)))
    logs = logs - logs.min()  # so that every axis adds to its slice
    dealt: list[list[int]] = [[] for _ in sizes]
    for axis, log in enumerate(logs):
        room = [slot for slot, size in enumerate(sizes) if len(dealt[slot]) < size]
        dealt[min(room, key=lambda slot: logs[dealt[slot]].sum())].append(axis)
    return dealt


def _first(rng: Array, x: Array, mask: Array, widths: tuple[int, ...],
           lloyd: kmeans.KMeans, mesh: Mesh | None) -> tuple[np.ndarray, Books]:
    """The better of two rotations to start from, and centroids for it."""
    short = dataclasses.replace(lloyd, iterations=min(5, lloyd.iterations))
    found = []
    for rotation in (np.eye(x.shape[1], dtype=np.float32), _principal(x, len(widths))):
        books = _centroids(rng, x, mask, rotation, widths, short, mesh)
        sums = _gather(x, mask, rotation, books, chunk=lloyd.chunk, mesh=mesh)
        found.append((explained(sums, rotation, books), rotation, books))
    return max(found, key=lambda one: one[0])[1:]


def explained(sums: Sequence[tuple[Array, Array]], rotation: np.ndarray, books: Books
              ) -> float:
    """By how much centroids lower the squared error from sum |x|^2, in float64.

    2 sum_v (s_v R) . c_v - sum_v n_v |c_v|^2, over all slices.

    Args:
      sums: for each slice the sums s `[V, D]` and counts n `[V]` of its codes' points.
      rotation: `[D, D]`.
      books: for each slice its centroids c `[V, D_level]`.
    """
    gain, first = 0.0, 0
    for (total, count), book in zip(sums, books):
        columns = rotation[:, first : first + book.shape[1]]
        turned, wide = np.asarray(total, np.float64) @ columns, np.float64(book)
        gain += float((turned * wide).sum()) * 2
        gain -= float((np.asarray(count)[:, None] * np.square(wide)).sum())
        first += book.shape[1]
    return gain


def _principal(x: Array, levels: int) -> np.ndarray:
    covariance = np.asarray(_second_moment(x), np.float64)
    variances, axes = np.linalg.eigh(covariance)
    dealt = allocate(variances[::-1], slices(x.shape[1], levels))
    return np.asarray(axes[:, ::-1][:, np.concatenate(dealt)], np.float32)


def _centroids(rng: Array, x: Array, mask: Array, rotation: np.ndarray,
               widths: tuple[int, ...], lloyd: kmeans.KMeans, mesh: Mesh | None,
               start: Books | None = None) -> Books:
    books = []
    ends = np.cumsum((0, *slices(x.shape[1], len(widths))))
    for level, key in enumerate(jax.random.split(rng, len(widths))):
        columns = _turn(x, rotation[:, ends[level] : ends[level + 1]])
        books.append(np.asarray(kmeans.fit_centroids(
            key, columns, mask, width=widths[level], cfg=lloyd, mesh=mesh,
            start=None if start is None else jnp.asarray(start[level]))))
    return tuple(books)


def _alternate(x: Array, mask: Array, rotation: np.ndarray, books: Books, turns: int,
               chunk: int, mesh: Mesh | None = None) -> tuple[np.ndarray, Books]:
    """Fits rotation and centroids in turn; each turn reads the points once.

    Both need no more than the sums of the unturned points of each code: X^T Y of a
    slice is sums^T centroids, and the new centroids are the turned sums over counts.
    """
    for _ in range(turns):
        found = _gather(x, mask, rotation, books, chunk=chunk, mesh=mesh)
        sums = [np.asarray(total, np.float64) for total, _ in found]
        cross = [total.T @ book for total, book in zip(sums, books)]
        left, _, right = np.linalg.svd(np.concatenate(cross, axis=1))
        turn, first, moved = left @ right, 0, []
        for total, (_, count), book in zip(sums, found, books):
            load = np.asarray(count)[:, None]
            columns = turn[:, first : first + book.shape[1]]
            means = total / np.maximum(load, 1) @ columns
            moved.append(np.where(load > 0, means, book).astype(np.float32))
            first += book.shape[1]
        rotation, books = turn.astype(np.float32), tuple(moved)
    return rotation, books


@functools.partial(jax.jit, static_argnames=("chunk", "mesh"))
def _gather(x: Array, mask: Array, rotation: Array, books: tuple[Array, ...], *,
            chunk: int, mesh: Mesh | None) -> tuple[tuple[Array, Array], ...]:
    """For each slice `[V, D]` sums of each code's unturned points, and `[V]` counts."""
    share = functools.partial(_gather_share, chunk=chunk)
    if mesh is None:
        return share(x, mask, rotation, books)
    points, whole = PartitionSpec(mesh.axis_names), PartitionSpec()

    def summed(*arrays: Any) -> Any:
        return jax.lax.psum(share(*arrays), mesh.axis_names)
    return jax.shard_map(summed, mesh=mesh, in_specs=(points, points, whole, whole),
                         out_specs=whole, check_vma=False)(x, mask, rotation, books)


def _gather_share(x: Array, mask: Array, rotation: Array, books: tuple[Array, ...],
                  chunk: int) -> tuple[tuple[Array, Array], ...]:
    def add(totals: tuple, part: tuple[Array, Array]) -> tuple[tuple, None]:
        points, real = part
        codes = _nearest(points @ rotation, books)
        new = []
        for (total, count), code in zip(totals, codes.T):
            code = jnp.where(real, code, len(count))  # out of range, so dropped
            new.append((total.at[code].add(points, mode="drop"),
                        count.at[code].add(1, mode="drop")))
        return tuple(new), None

    zero = tuple((jnp.zeros((len(book), x.shape[1])), jnp.zeros(len(book)))
                 for book in books)
    return jax.lax.scan(add, zero, (x.reshape(-1, chunk, x.shape[1]),
                                    mask.reshape(-1, chunk)))[0]


@functools.partial(jax.jit, donate_argnums=0)
def _centre(x: Array, mask: Array, mean: Array) -> Array:
    return jnp.where(mask[:, None], x - mean, 0)


@jax.jit
def _turn(x: Array, columns: Array) -> Array:
    return x @ columns


@jax.jit
def _second_moment(x: Array) -> Array:
    return x.T @ x  # padding is 0 and adds nothing


@jax.jit
def _encode(mean: Array, rotation: Array, books: tuple[Array, ...], x: Array) -> Array:
    return _nearest((x - mean) @ rotation, books)


def _nearest(turned: Array, books: tuple[Array, ...]) -> Array:
    codes, first = [], 0
    for book in books:
        part = turned[:, first : first + book.shape[1]]
        codes.append(kmeans.nearest(part, book)[0])
        first += book.shape[1]
    return jnp.stack(codes, axis=1)


def _books(arrays: Arrays, levels: int) -> Books:
    return tuple(arrays[f"subspace_{level}"] for level in range(levels))
