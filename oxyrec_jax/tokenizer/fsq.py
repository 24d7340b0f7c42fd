"""Finite scalar quantisation: no codebook, the latent's dimensions are rounded.

A level of V codes is a group of dimensions whose numbers of values multiply to V, such
as 8 x 8 x 4 = 256; its code is the place of the rounded group in that grid. Rounding
passes the gradient straight through, so the network learns to use the grid and nothing
can die. A learnt network rather than principal axes: 3 x 3 of them hold 11 % of the
variance of Amazon Beauty's vectors (text and co-engagement, 384 columns) and leave 90 %
of it over once rounded, where the network leaves 71 %.

The groups are no refinements of each other by nature. Rows that are trained on their
first groups only (`prefix`) make the first codes carry what matters most.

Arrays: those of `autoencoder`, and `grid_<level>` `[d]` int32, the values of each
dimension of the level's group.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from oxyrec_jax.base import Array, InputError
from oxyrec_jax.tokenizer import autoencoder, rows
from oxyrec_jax.tokenizer.autoencoder import Arrays, Autoencoder, Params

_LEAST, _MOST = 3, 8  # values of a dimension; Mentzer et al. use 5 to 8


@dataclasses.dataclass(frozen=True)
class Fsq:
    """How the network is trained.

    Attributes:
      grids: for each level the values of its dimensions, such as ((8, 8, 4),) * 3;
        None: chosen from the width, see `grid_of`.
      hidden: widths of the encoder's hidden layers; the decoder mirrors them.
      prefix: share of rows whose last groups are hidden from the decoder, a random
        number of them. Ours.
      steps: training steps.
      batch: rows of a step, over all devices.
      learning_rate: of Adam, falling to 0 along a cosine.
    """

    grids: tuple[tuple[int, ...], ...] | None = None
    hidden: tuple[int, ...] = (512, 256)
    prefix: float = 0.5
    steps: int = 2000
    batch: int = 512
    learning_rate: float = 1e-3


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _State:
    params: Params
    moments: optax.OptState
    rng: Array


def fit(rng: Array, x: np.ndarray, cfg: Fsq, *, widths: tuple[int, ...],
        mesh: Mesh | None = None, start: Arrays | None = None) -> Arrays:
    """Trains the network: a point x costs |x - decoder(round(encoder(x)))|^2 / D.

    Args:
      rng: key, consumed. The same key, points and config give the same bits.
      x: `[N, D]` float points, all finite; may be memory-mapped.
      cfg: how.
      widths: codes on each level. A width that is no product of small numbers, such as
        257, gets the grid with the most values below it; the codes above stay unused.
      mesh: cuts each batch over its data axes; a batch is always the global one.
      start: arrays of an earlier fit, gone on from.

    Raises:
      InputError: a setting is out of range, the loss is not finite, or `start` has
        other shapes.

    Source: Mentzer et al. 2023, https://arxiv.org/abs/2309.15505, section 3 and
    appendix A.1.
    """
    grids = _check(cfg, widths)
    rng_net, rng_rows, rng_loop = jax.random.split(rng, 3)
    fixed = autoencoder.standard(x) if start is None else start
    fixed = {name: fixed[name] for name in ("mean", "scale")}
    network, params = autoencoder.make(rng_net, x.shape[1], cfg.hidden,
                                       sum(map(len, grids)))
    if start is not None:
        found, params = autoencoder.unpack(start)
        if found != network or _grids(start, len(widths)) != grids:
            raise InputError(f"the FSQ to start from is {found} with the grids "
                             f"{_grids(start, len(widths))}, expected {network} with "
                             f"{grids}; fit without it")
    optimizer = autoencoder.optimizer(cfg.learning_rate, cfg.steps)
    state = _State(params, optimizer.init(params), rng_loop)
    run = functools.partial(_run, mean=fixed["mean"], scale=fixed["scale"],
                            network=network, cfg=cfg, grids=grids, mesh=mesh)
    state = autoencoder.train(
        autoencoder.replicate(state, mesh), run, x, rng=rng_rows, steps=cfg.steps,
        batch=cfg.batch, mesh=mesh, what="training the FSQ")
    named = {f"grid_{level}": np.array(grid, np.int32)
             for level, grid in enumerate(grids)}
    return fixed | autoencoder.pack(state.params) | named


def encode(arrays: Arrays, x: np.ndarray, *, levels: int, chunk: int) -> np.ndarray:
    """Rounds each group of latents of `[N, D]` points: codes `[N, T]` int32."""
    network, params = autoencoder.unpack(arrays)
    run = functools.partial(_encode, params, arrays["mean"], arrays["scale"],
                            network=network, grids=_grids(arrays, levels))
    return rows.stream(run, x, (levels,), np.int32, chunk=chunk)


def decode(arrays: Arrays, codes: np.ndarray, *, levels: int) -> np.ndarray:
    """Decodes `[N, T']` codes to `[N, D]` float32; groups without a code are 0."""
    grids = _grids(arrays, levels)
    parts = [np.zeros((len(codes), len(grid)), np.float32) for grid in grids]
    for level in range(codes.shape[1]):
        parts[level] = points_of(grids[level])[codes[:, level]] / _half(grids[level])
    return autoencoder.rebuild(arrays, np.concatenate(parts, axis=1))


def last_group(arrays: Arrays, x: np.ndarray, *, levels: int, chunk: int = 512
               ) -> tuple[np.ndarray, np.ndarray]:
    """Returns the last group before rounding, `[N, d]`, and its grid `[V, d]`."""
    grid = _grids(arrays, levels)[-1]
    z = autoencoder.latents(arrays, x, chunk=chunk)[:, -len(grid):]
    return np.asarray(bound(jnp.asarray(z), grid)), points_of(grid)


def grid_of(width: int) -> tuple[int, ...]:
    """Chooses how many values each dimension of a level has.

    Factors from 3 to 8 whose product is the largest one not above the width; of those
    the fewest, of those the most even. 256: (8, 8, 4), 1024: (8, 8, 4, 4), 8192:
    (8, 8, 8, 4, 4). Below 3 the width itself.
    """
    if width < _LEAST:
        return (width,)
    best: tuple[int, ...] = ()

    def extend(factors: tuple[int, ...], product: int, most: int) -> None:
        nonlocal best
        key = (product, -len(factors), min(factors, default=0))
        if key > (int(np.prod(best)), -len(best), min(best, default=0)):
            best = factors
        for factor in range(_LEAST, min(most, width // product) + 1):
            extend((*factors, factor), product * factor, factor)

    extend((), 1, _MOST)
    return best


def bound(z: Array, grid: tuple[int, ...]) -> Array:
    """Squeezes latents `[..., d]` so that each rounds to one of its L values.

    tanh(z + s) h - o with h = (L - 1) 1.001 / 2, o = 1/2 for even L and else 0, and s
    such that 0 stays 0. Even L: the values -L/2 to L/2 - 1.
    """
    values = np.asarray(grid)
    half = (values - 1) * 1.001 / 2
    offset = np.where(values % 2 == 0, 0.5, 0.0)
    shift = np.arctanh(offset / np.where(half > 0, half, 1))
    squeezed = jnp.tanh(z + shift.astype(np.float32))
    return squeezed * half.astype(np.float32) - offset


def round_through(z: Array) -> Array:
    """Rounds; the gradient passes unchanged."""
    return z + jax.lax.stop_gradient(jnp.round(z) - z)


def code_of(rounded: Array, grid: tuple[int, ...]) -> Array:
    """Returns the places `[...]` int32 of values `[..., d]`; the first runs fastest."""
    basis = np.cumprod((1, *grid[:-1]))
    places = rounded.astype(jnp.int32) + np.asarray(grid) // 2
    places = jnp.clip(places, 0, np.asarray(grid) - 1)  # of a long grid one beyond
    return jnp.sum(places * basis, axis=-1, dtype=jnp.int32)


def points_of(grid: tuple[int, ...]) -> np.ndarray:
    """Returns the values `[V, d]` float32 behind each code of a grid."""
    basis = np.cumprod((1, *grid[:-1]))
    places = np.arange(np.prod(grid))[:, None] // basis % np.asarray(grid)
    return (places - np.asarray(grid) // 2).astype(np.float32)


@functools.partial(jax.jit, static_argnames=("network", "cfg", "grids", "mesh"),
                   donate_argnames="state")
def _run(state: _State, batches: Array, count: Array, *, mean: Array, scale: Array,
         network: Autoencoder, cfg: Fsq, grids: tuple[tuple[int, ...], ...],
         mesh: Mesh | None) -> tuple[_State, Array]:
    optimizer = autoencoder.optimizer(cfg.learning_rate, cfg.steps)

    def body(step: Array, carry: tuple[_State, Array]) -> tuple[_State, Array]:
        state, total = carry
        rng, rng_hide = jax.random.split(state.rng)
        x = (batches[step] - mean) / scale
        loss, gradient = jax.value_and_grad(_loss)(
            state.params, rng_hide, x, network, cfg.prefix, grids)
        moves, moments = optimizer.update(gradient, state.moments, state.params)
        params = optax.apply_updates(state.params, moves)
        state = _State(params, moments, rng)
        return autoencoder.replicate(state, mesh), total + loss

    state, total = jax.lax.fori_loop(0, count, body, (state, jnp.float32(0)))
    return state, total / count


def _loss(params: Params, rng: Array, x: Array, network: Autoencoder, prefix: float,
          grids: tuple[tuple[int, ...], ...]) -> Array:
    z = autoencoder.down(network, params, x)
    parts = [round_through(part) / _half(grid) for part, grid in _bounded(z, grids)]
    rng_whether, rng_depth = jax.random.split(rng)
    depth = jax.random.randint(rng_depth, (len(x),), 1, len(grids) + 1)
    some = jax.random.bernoulli(rng_whether, prefix, (len(x),))
    depth = jnp.where(some, depth, len(grids))
    parts = [jnp.where((level < depth)[:, None], part, 0)
             for level, part in enumerate(parts)]
    rebuilt = autoencoder.up(network, params, jnp.concatenate(parts, axis=1))
    return jnp.mean(jnp.square(x - rebuilt))


@functools.partial(jax.jit, static_argnames=("network", "grids"))
def _encode(params: Params, mean: Array, scale: Array, x: Array, *,
            network: Autoencoder, grids: tuple[tuple[int, ...], ...]) -> Array:
    z = autoencoder.down(network, params, (x - mean) / scale)
    return jnp.stack([code_of(jnp.round(part), grid)
                      for part, grid in _bounded(z, grids)], axis=1)


def _bounded(z: Array, grids: tuple[tuple[int, ...], ...]
             ) -> list[tuple[Array, tuple[int, ...]]]:
    ends = np.cumsum([0, *map(len, grids)])
    return [(bound(z[:, first:last], grid), grid)
            for first, last, grid in zip(ends, ends[1:], grids)]


def _half(grid: tuple[int, ...]) -> np.ndarray:
    """What values are divided by before the decoder, so that they end at about 1."""
    return np.maximum(np.asarray(grid, np.float32) // 2, 1)


def _grids(arrays: Arrays, levels: int) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(arrays[f"grid_{level}"].tolist()) for level in range(levels))


def _check(cfg: Fsq, widths: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    if min(cfg.steps + 1, cfg.batch, *cfg.hidden) < 1 or not 0 <= cfg.prefix <= 1:
        raise InputError(f"found {cfg}, expected numbers of at least 1 and a prefix "
                         "from 0 to 1")
    if cfg.grids is None:
        return tuple(map(grid_of, widths))
    if len(cfg.grids) != len(widths) or any(
            not grid or min(grid) < 1 or np.prod(grid) > width
            for grid, width in zip(cfg.grids, widths)):
        raise InputError(f"the FSQ's grids are {cfg.grids}, expected one for each of "
                         f"the widths {widths}, whose values multiply to at most it")
    return cfg.grids
