"""RQ-VAE: residual codebooks in the latent space of a network, trained with it.

A batch is encoded, each level takes the code nearest to what the levels before left
over, and the sum of the codes is decoded. The choice of a code has no gradient; the
network gets one through `straight_through` or `rotation_trick`. The codebooks follow by
moving averages or by gradient, and codes that nobody takes start again elsewhere.

Arrays: those of `autoencoder`, and `latent_codebook_<level>` `[V_level, E]`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from oxyrec_jax.base import Array, InputError
from oxyrec_jax.tokenizer import autoencoder, kmeans, residual, rows
from oxyrec_jax.tokenizer.autoencoder import Arrays, Autoencoder, Params

ESTIMATORS = ("straight-through", "rotation")
UPDATES = ("ema", "gradient")


@dataclasses.dataclass(frozen=True)
class RqVae:
    """How the network and its codebooks are trained.

    Attributes:
      hidden: widths of the encoder's hidden layers; the decoder mirrors them.
      latent: E, width of the latent.
      estimator: how the gradient passes the codes: "straight-through" or "rotation".
        Ours: on Amazon Beauty, 3 x 256, 2,000 steps, one seed, they leave 64 % and 70 %
        of the variance over; 4.0 % and 1.6 % of the items share an ID.
      update: how the codebooks move: "ema" or "gradient".
      decay: of the moving averages, per step.
      commitment: weight of the latents' distance to their codes. 0.25, as in VQ-VAE.
      restart: a code taken less often than this share of the mean is dead and starts
        again on a latent of the batch. Ours.
      restart_every: steps between two looks for dead codes. Ours.
      start_points: points per code of the widest level for the k-means start. Ours.
      steps: training steps.
      batch: rows of a step, over all devices.
      learning_rate: of Adam, falling to 0 along a cosine.
    """

    hidden: tuple[int, ...] = (512, 256)
    latent: int = 64
    estimator: str = "straight-through"
    update: str = "ema"
    decay: float = 0.99
    commitment: float = 0.25
    restart: float = 0.1
    restart_every: int = 20
    start_points: int = 64
    steps: int = 2000
    batch: int = 512
    learning_rate: float = 1e-3


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _State:
    params: Params
    books: tuple[Array, ...]  # level l: [V_l, E]
    usage: tuple[Array, ...]  # level l: [V_l] moving average of how often taken
    sums: tuple[Array, ...]  # level l: [V_l, E] moving average of what took it
    moments: optax.OptState
    step: Array
    rng: Array


def fit(rng: Array, x: np.ndarray, cfg: RqVae, *, widths: tuple[int, ...],
        mesh: Mesh | None = None, start: Arrays | None = None) -> Arrays:
    """Trains the network and its codebooks.

    With latent z, codes c_l and partial sums Q_l = sum_{k <= l} c_k, a point x costs

        |x - decoder(z -> Q_T)|^2 / D + commitment sum_l |z - sg(Q_l)|^2 / E

    where z -> Q_T is the chosen estimator; with update "gradient" each level adds
    |sg(z - Q_{l-1}) - c_l|^2 / E.

    Args:
      rng: key, consumed. The same key, points and config give the same bits.
      x: `[N, D]` float points, all finite; may be memory-mapped.
      cfg: how.
      widths: codes on each level.
      mesh: cuts each batch over its data axes; a batch is always the global one.
      start: arrays of an earlier fit, gone on from; the k-means start is left out.

    Raises:
      InputError: a setting is unknown, the loss is not finite, or `start` has other
        shapes.

    Source: Lee et al. 2022, https://arxiv.org/abs/2203.01941 (RQ-VAE); for items
    Rajput et al. 2023, https://arxiv.org/abs/2305.05065, section 3.1; k-means start and
    restart as Zeghidour et al. 2021, https://arxiv.org/abs/2107.03312, section III-C.
    """
    _check(cfg)
    rng_net, rng_books, rng_rows, rng_loop = jax.random.split(rng, 4)
    fixed = autoencoder.standard(x) if start is None else start
    fixed = {name: fixed[name] for name in ("mean", "scale")}
    network, params = autoencoder.make(rng_net, x.shape[1], cfg.hidden, cfg.latent)
    if start is None:
        books = _first_books(rng_books, x, fixed | autoencoder.pack(params), cfg,
                             widths)
    else:
        found, params = autoencoder.unpack(start)
        books = _books(start, len(widths))
        if found != network:
            raise InputError(f"the RQ-VAE to start from is {found}, expected {network};"
                             " fit without it")
    optimizer = autoencoder.optimizer(cfg.learning_rate, cfg.steps)
    even = [cfg.batch / width for width in widths]
    state = _State(
        params, books, tuple(jnp.full(w, e) for w, e in zip(widths, even)),
        tuple(book * e for book, e in zip(books, even)),
        optimizer.init(_learnt(params, books, cfg)), jnp.int32(0), rng_loop)
    run = functools.partial(_run, mean=fixed["mean"], scale=fixed["scale"],
                            network=network, cfg=cfg, mesh=mesh)
    state = autoencoder.train(
        autoencoder.replicate(state, mesh), run, x, rng=rng_rows, steps=cfg.steps,
        batch=cfg.batch, mesh=mesh, what="training the RQ-VAE")
    named = {f"latent_codebook_{level}": np.asarray(book)
             for level, book in enumerate(state.books)}
    return fixed | autoencoder.pack(state.params) | named


def encode(arrays: Arrays, x: np.ndarray, *, levels: int, chunk: int) -> np.ndarray:
    """Gives each point `[N, D]` its codes `[N, T]` int32, greedily from the first."""
    network, params = autoencoder.unpack(arrays)
    run = functools.partial(_encode, params, _books(arrays, levels), arrays["mean"],
                            arrays["scale"], network=network)
    return rows.stream(run, x, (levels,), np.int32, chunk=chunk)


def decode(arrays: Arrays, codes: np.ndarray) -> np.ndarray:
    """Decodes the sums of the codes' centroids, `[N, T']` int, to `[N, D]` float32."""
    return autoencoder.rebuild(arrays, partial_sums(arrays, codes))


def partial_sums(arrays: Arrays, codes: np.ndarray) -> np.ndarray:
    """Sums the latent centroids of `[N, T']` codes: `[N, E]` float32."""
    return residual.decode(_books(arrays, max(codes.shape[1], 1)), codes)


def last_rest(arrays: Arrays, x: np.ndarray, codes: np.ndarray, *, chunk: int = 512
              ) -> tuple[np.ndarray, np.ndarray]:
    """Returns what the last level quantises, `[N, E]`, and its centroids `[V, E]`.

    Args:
      arrays: from `fit`.
      x: `[N, D]` float points.
      codes: `[N, T]` int: their codes; the last is not read.
      chunk: points encoded at once.
    """
    z = autoencoder.latents(arrays, x, chunk=chunk)
    last = arrays[f"latent_codebook_{codes.shape[1] - 1}"]
    return z - partial_sums(arrays, codes[:, :-1]), last


def straight_through(z: Array, q: Array) -> Array:
    """Returns q; its gradient goes to z unchanged, none to q.

    Source: Bengio et al. 2013, https://arxiv.org/abs/1308.3432.
    """
    return z + jax.lax.stop_gradient(q - z)


def rotation_trick(z: Array, q: Array) -> Array:
    """Returns q; its gradient goes to z as if q were z turned and stretched.

    With the unit vectors a of z and b of q, and w that of a + b, the value is
    |q| / |z| R z, where R = I - 2 w w^T + 2 b a^T turns z onto q's direction and is
    constant. The gradient's angle to z is then its angle to q. Where z or q is 0 it is
    `straight_through`; where they are opposite, R is the reflection I - 2 a a^T.

    Args:
      z: `[..., E]` float32; receives the gradient.
      q: `[..., E]` float32; receives none.

    Source: Fifty et al. 2024, https://arxiv.org/abs/2410.06424, section 4.
    """
    fixed, q = jax.lax.stop_gradient((z, q))
    long, short = (jnp.linalg.norm(v, axis=-1, keepdims=True) for v in (fixed, q))
    usable = (long > 1e-12) & (short > 1e-12)
    a = fixed / jnp.where(usable, long, 1)
    b = q / jnp.where(usable, short, 1)
    between = jnp.linalg.norm(a + b, axis=-1, keepdims=True)
    w = jnp.where(between > 1e-6, (a + b) / jnp.where(between > 1e-6, between, 1), 0)

    def along(direction: Array) -> Array:
        return jnp.sum(direction * z, axis=-1, keepdims=True)

    turned = z - 2 * w * along(w) + 2 * b * along(a)
    moved = jnp.where(usable, turned * (short / jnp.where(usable, long, 1)), z)
    return q + (moved - jax.lax.stop_gradient(moved))  # exactly q, without rounding


def quantise(z: Array, books: tuple[Array, ...]) -> tuple[Array, Array]:
    """Takes the nearest centroid of what is left over, level by level.

    Args:
      z: `[B, E]` float32.
      books: T codebooks `[V_level, E]`.

    Returns:
      Codes `[B, T]` int32, and the partial sums of their centroids `[T, B, E]`.
    """
    codes, sums = [], []
    total = jnp.zeros_like(z)
    for book in books:
        codes.append(kmeans.nearest(z - total, book)[0])
        total = total + book[codes[-1]]
        sums.append(total)
    return jnp.stack(codes, axis=1), jnp.stack(sums)


def moving_average(usage: Array, sums: Array, rest: Array, codes: Array, *,
                   decay: float) -> tuple[Array, Array, Array]:
    """Moves one codebook towards the points that took its codes.

    n' = decay n + (1 - decay) count,  m' = decay m + (1 - decay) sum,  c = m' / n'

    Args:
      usage: `[V]` n.
      sums: `[V, E]` m.
      rest: `[B, E]` points.
      codes: `[B]` int32: the code of each.
      decay: unit-free, in [0, 1).

    Returns:
      n', m' and the codebook `[V, E]`.

    Source: van den Oord et al. 2017, https://arxiv.org/abs/1711.00937, appendix A.1.
    """
    width = len(usage)
    count = jax.ops.segment_sum(jnp.ones(len(codes)), codes, width)
    usage = decay * usage + (1 - decay) * count
    sums = decay * sums + (1 - decay) * jax.ops.segment_sum(rest, codes, width)
    return usage, sums, sums / jnp.maximum(usage, 1e-20)[:, None]


def revive(rng: Array, book: Array, usage: Array, sums: Array, rest: Array, *,
           share: float) -> tuple[Array, Array, Array]:
    """Starts dead codes again on points of the batch, with the mean usage.

    Args:
      rng: key, consumed.
      book, usage, sums: as in `moving_average`.
      rest: `[B, E]` points.
      share: codes used less than this share of the mean are dead.

    Returns:
      The codebook, usage and sums.
    """
    mean = len(rest) / len(usage)
    dead = usage < share * mean
    points = rest[jax.random.randint(rng, (len(usage),), 0, len(rest))]
    book = jnp.where(dead[:, None], points, book)
    return (book, jnp.where(dead, mean, usage),
            jnp.where(dead[:, None], points * mean, sums))


@functools.partial(jax.jit, static_argnames=("network", "cfg", "mesh"),
                   donate_argnames="state")
def _run(state: _State, batches: Array, count: Array, *, mean: Array, scale: Array,
         network: Autoencoder, cfg: RqVae, mesh: Mesh | None) -> tuple[_State, Array]:
    def body(step: Array, carry: tuple[_State, Array]) -> tuple[_State, Array]:
        state, total = carry
        x = (batches[step] - mean) / scale
        state, loss = _step(state, x, network, cfg)
        return autoencoder.replicate(state, mesh), total + loss

    state, total = jax.lax.fori_loop(0, count, body, (state, jnp.float32(0)))
    return state, total / count


def _step(state: _State, x: Array, network: Autoencoder, cfg: RqVae
          ) -> tuple[_State, Array]:
    (loss, (z, codes, sums)), gradient = jax.value_and_grad(_loss, has_aux=True)(
        _learnt(state.params, state.books, cfg), state.books, x, network, cfg)
    learnt = _learnt(state.params, state.books, cfg)
    optimizer = autoencoder.optimizer(cfg.learning_rate, cfg.steps)
    updates, moments = optimizer.update(gradient, state.moments, learnt)
    params, moved = optax.apply_updates(learnt, updates)
    rng, *keys = jax.random.split(state.rng, 1 + len(state.books))
    look = (state.step + 1) % cfg.restart_every == 0
    levels = []
    for level, key in enumerate(keys):
        rest = z - sums[level - 1] if level else z
        usage, total, book = moving_average(
            state.usage[level], state.sums[level], rest, codes[:, level],
            decay=cfg.decay)
        old = (moved[level] if cfg.update == "gradient" else book, usage, total)
        new = revive(key, *old, rest, share=cfg.restart)
        levels.append([jnp.where(look, b, a) for a, b in zip(old, new)])
    books, usages, totals = (tuple(part) for part in zip(*levels))
    return _State(params, books, usages, totals, moments, state.step + 1, rng), loss


def _loss(learnt: tuple[Params, tuple[Array, ...]], books: tuple[Array, ...], x: Array,
          network: Autoencoder, cfg: RqVae) -> tuple[Array, tuple]:
    params, learnt_books = learnt
    z = autoencoder.down(network, params, x)
    fixed = jax.lax.stop_gradient(z)
    codes, sums = quantise(fixed, jax.lax.stop_gradient(books))
    pass_on = rotation_trick if cfg.estimator == "rotation" else straight_through
    rebuilt = autoencoder.up(network, params, pass_on(z, sums[-1]))
    loss = jnp.mean(jnp.square(x - rebuilt))
    loss += cfg.commitment * len(books) * jnp.mean(jnp.square(z - sums))
    before = jnp.concatenate([jnp.zeros_like(sums[:1]), sums[:-1]])
    for level, book in enumerate(learnt_books):
        loss += jnp.mean(jnp.square(fixed - before[level] - book[codes[:, level]]))
    return loss, (fixed, codes, sums)


@functools.partial(jax.jit, static_argnames="network")
def _encode(params: Params, books: tuple[Array, ...], mean: Array, scale: Array,
            x: Array, *, network: Autoencoder) -> Array:
    return quantise(autoencoder.down(network, params, (x - mean) / scale), books)[0]


def _first_books(rng: Array, x: np.ndarray, arrays: Arrays, cfg: RqVae,
                 widths: tuple[int, ...]) -> tuple[Array, ...]:
    """k-means, level by level, of the untrained network's latents of a sample."""
    rng_rows, *keys = jax.random.split(rng, 1 + len(widths))
    points = rows.sample(rng_rows, x, cfg.start_points * max(widths))
    how = kmeans.KMeans(iterations=10)  # ours: training moves them on
    z = autoencoder.latents(arrays, points, chunk=how.chunk)
    rest, mask = kmeans.pad_points(z, how.chunk)
    books = []
    for width, key in zip(widths, keys):
        books.append(kmeans.fit_centroids(key, rest, mask, width=width, cfg=how))
        parts = rest.reshape(-1, how.chunk, rest.shape[1])
        codes = jax.lax.map(lambda part: kmeans.nearest(part, books[-1])[0], parts)
        rest = rest - books[-1][codes.reshape(-1)]
    return tuple(books)


def _learnt(params: Params, books: tuple[Array, ...], cfg: RqVae
            ) -> tuple[Params, tuple[Array, ...]]:
    return params, books if cfg.update == "gradient" else ()


def _books(arrays: Arrays, levels: int) -> tuple[Array, ...]:
    return tuple(jnp.asarray(arrays[f"latent_codebook_{level}"])
                 for level in range(levels))


def _check(cfg: RqVae) -> None:
    for name, value, known in (("estimator", cfg.estimator, ESTIMATORS),
                               ("update", cfg.update, UPDATES)):
        if value not in known:
            raise InputError(f"the RQ-VAE's {name} is {value!r}, expected one of "
                             f"{', '.join(known)}")
    if min(cfg.steps + 1, cfg.batch, cfg.latent, cfg.restart_every, cfg.start_points,
           *cfg.hidden) < 1:
        raise InputError(f"found {cfg}, expected numbers of at least 1")
