"""Balanced residual k-means: no code of a level gets more than its share of the items.

    none  nearest centroids: what `residual` gives
    last  the last level: within each prefix no code is held twice before all are held
    all   that, and on every level before no code holds more than `slack` times N / V

`fit` makes the codebooks and `assign_balanced` places a whole catalogue. Items that
come later are encoded one by one to their nearest centroids (`residual.encode`).

Two methods for who has to move. "capacity": every point asks for its nearest code that
is not full, a code takes the nearest of those who ask, the others ask again.
"sinkhorn": entropic optimal transport finds one price for each code such that the
cheapest codes balance; only what is then still over a capacity goes by "capacity".
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from oxyrec_jax.base import Array
from oxyrec_jax.tokenizer import collisions, kmeans, residual

LEVELS = ("none", "last", "all")
METHODS = ("capacity", "sinkhorn")


@dataclasses.dataclass(frozen=True)
class Balance:
    """Which levels are balanced, and how.

    Attributes:
      levels: "none", "last" or "all".
      method: "capacity" or "sinkhorn".
      slack: on the levels before the last a code takes up to `ceil(slack N / V)`
        items, `slack >= 1`. 2: ours; at 1 every cluster is cut to the same size, which
        costs reconstruction.
      rounds: with "all", how often balanced assignment and means alternate after the
        fit of a level, so that centroids suit the items that they got. Ours.
      temperature: of the Sinkhorn plan, as a share of the mean squared distance to the
        nearest centroid; lower is nearer to the optimal plan and needs more sweeps.
      sweeps: of Sinkhorn. Ours, like the temperature.
    """

    levels: str = "last"
    method: str = "capacity"
    slack: float = 2.0
    rounds: int = 4
    temperature: float = 0.05
    sweeps: int = 30

    def __post_init__(self):
        if self.levels not in LEVELS or self.method not in METHODS:
            raise ValueError(f"{self.levels=} {self.method=}, expected one of "
                             f"{', '.join(LEVELS)} and one of {', '.join(METHODS)}")
        if self.slack < 1 or self.temperature <= 0 or self.rounds < 0 or (
                self.sweeps < 1):
            raise ValueError(f"{self.slack=} {self.temperature=} {self.rounds=} "
                             f"{self.sweeps=}: out of range")


def fit(rng: Array, x: np.ndarray, cfg: residual.ResidualKMeans, balance: Balance, *,
        start: Sequence[np.ndarray | Array] | None = None, mesh: Mesh | None = None
        ) -> tuple[Array, ...]:
    """Fits the codebooks; with "all", to the points that balanced codes will get.

    Args:
      rng: key, consumed. The same key, points and config give the same bits.
      x: `[N, D]` float points, N >= 1, all finite.
      cfg: levels, widths, steps.
      balance: which levels.
      start, mesh: as for `residual.fit`.

    Returns:
      Codebooks, each `[V_level, D]` float32.

    Raises:
      ValueError: as `residual.fit`.

    Source: ours; after balanced k-means as in OneRec, https://arxiv.org/abs/2502.18965,
    section 3.1, with a capacity in place of equal sizes.
    """
    if balance.levels != "all":
        return residual.fit(rng, x, cfg, start=start, mesh=mesh)
    books: list[Array] = []
    rest = np.array(x, np.float32)
    for level, (width, key) in enumerate(zip(cfg.widths,
                                             jax.random.split(rng, len(cfg.widths)))):
        one = dataclasses.replace(cfg, widths=(width,))
        book = np.asarray(residual.fit(
            key, rest, one, start=None if start is None else start[level : level + 1],
            mesh=mesh)[0])
        if level + 1 < len(cfg.widths):
            codes = assign_level(rest, book, balance)
            for _ in range(balance.rounds):
                book = _means(rest, codes, book)
                codes = assign_level(rest, book, balance)
            rest -= book[codes]
        books.append(jnp.asarray(book))
    return tuple(books)


def assign_balanced(codebooks: Sequence[np.ndarray | Array], x: np.ndarray,
                    balance: Balance) -> np.ndarray:
    """Places a whole catalogue.

    Args:
      codebooks: T codebooks `[V_level, D]`.
      x: `[N, D]` float points, all finite.
      balance: which levels, and how.

    Returns:
      Codes `[N, T]` int32. "last" and "all": items that share a prefix share a last
      code only where they are more than the level has codes, and then no code of the
      prefix holds two items more than another.
    """
    books = [np.asarray(book, np.float32) for book in codebooks]
    if balance.levels == "none":
        return residual.encode(tuple(jnp.asarray(book) for book in books), x)
    before = tuple(jnp.asarray(book) for book in books[:-1])
    codes = np.empty((len(x), len(books)), np.int32)
    if balance.levels == "last":
        rest = np.asarray(x, np.float32)
        if before:
            codes[:, :-1] = residual.encode(before, x)
            rest = rest - residual.decode(before, codes[:, :-1])
    else:
        rest = np.array(x, np.float32)
        for level, book in enumerate(books[:-1]):
            codes[:, level] = assign_level(rest, book, balance)
            rest -= book[codes[:, level]]
    codes[:, -1] = _assign_within_prefixes(codes[:, :-1], rest, books[-1], balance)
    return codes


def assign_level(x: np.ndarray, book: np.ndarray, balance: Balance) -> np.ndarray:
    """Gives each point a code such that none holds more than `ceil(slack N / V)`.

    Args:
      x: `[N, D]` float32.
      book: `[V, D]` float32 centroids.
      balance: method and slack.

    Returns:
      Codes `[N]` int32.
    """
    most = -int(-balance.slack * len(x) // len(book))
    points, mask = kmeans.pad_points(x, kmeans.KMeans.chunk)
    prices = jnp.zeros(len(book))
    if balance.method == "sinkhorn":
        prices = _prices(points, mask, jnp.asarray(book), most, balance)
    return _fill(points, mask, jnp.asarray(book), prices, most)


def _fill(points: Array, mask: Array, book: Array, prices: Array, most: int
          ) -> np.ndarray:
    """Rounds of asking: each fills a code at least, or is the last."""
    room = np.full(len(book), most, np.int64)
    count = int(mask.sum())
    codes = np.full(count, -1, np.int32)
    waiting = np.arange(count)
    while len(waiting):
        asked, cost = (np.asarray(part) for part in _cheapest(
            points[waiting] if len(waiting) < count else points, book,
            jnp.where(jnp.asarray(room > 0), prices, jnp.inf)))
        asked, cost = asked[: len(waiting)], cost[: len(waiting)]
        order = np.lexsort((waiting, cost, asked))  # by code, the nearest first
        starts = np.r_[0, np.cumsum(np.bincount(asked, minlength=len(book)))[:-1]]
        place = np.arange(len(waiting)) - starts[asked[order]]
        taken = order[place < room[asked[order]]]
        codes[waiting[taken]] = asked[taken]
        room -= np.bincount(asked[taken], minlength=len(book))
        waiting = np.delete(waiting, taken)
    return codes


def _cheapest(points: Array, book: Array, prices: Array) -> tuple[Array, Array]:
    chunk = kmeans.KMeans.chunk
    size = max(chunk, 1 << (len(points) - 1).bit_length())  # few shapes to compile
    if size > len(points) and len(points) % chunk:
        points = jnp.pad(points, ((0, size - len(points)), (0, 0)))
    return _cheapest_of(points, book, prices, chunk)


@functools.partial(jax.jit, static_argnames="chunk")
def _cheapest_of(points: Array, book: Array, prices: Array, chunk: int
                 ) -> tuple[Array, Array]:
    def part(x: Array) -> tuple[Array, Array]:
        costs = _distances(x, book) + prices
        codes = jnp.argmin(costs, axis=1).astype(jnp.int32)
        return codes, jnp.min(costs, axis=1)
    codes, cost = jax.lax.map(part, points.reshape(-1, chunk, points.shape[1]))
    return codes.reshape(-1), cost.reshape(-1)


def _distances(x: Array, book: Array) -> Array:
    product = jnp.dot(x, book.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.maximum(jnp.sum(x * x, axis=1)[:, None] + jnp.sum(book * book, axis=1)
                       - 2 * product, 0)


def _prices(points: Array, mask: Array, book: Array, most: int, balance: Balance
            ) -> Array:
    nearest = _cheapest_of(points, book, jnp.zeros(len(book)), kmeans.KMeans.chunk)[1]
    heat = balance.temperature * float(jnp.mean(nearest, where=mask))
    if heat == 0:  # every point sits on a centroid: any plan costs as much
        return jnp.zeros(len(book))
    return _sinkhorn(points, mask, book, most, heat, sweeps=balance.sweeps,
                     chunk=kmeans.KMeans.chunk)


@functools.partial(jax.jit, static_argnames=("sweeps", "chunk"))
def _sinkhorn(points: Array, mask: Array, book: Array, most: float, heat: float, *,
              sweeps: int, chunk: int) -> Array:
    """Finds the price `[V]` of each code, 0 or more, in the log domain.

    The plan has rows that sum to 1 and columns that sum to at most `most`:
    log P_nv = (f_n - |x_n - c_v|^2 - price_v) / heat. A sweep is one pass over chunks.

    Source: Cuturi 2013, https://arxiv.org/abs/1306.0895; capacities as the projection
    of Benamou et al. 2015, https://arxiv.org/abs/1412.5154, section 5.2.
    """
    parts = (points.reshape(-1, chunk, points.shape[1]), mask.reshape(-1, chunk))

    def sweep(prices: Array, _: None) -> tuple[Array, None]:
        def add(total: Array, part: tuple[Array, Array]) -> tuple[Array, None]:
            x, real = part
            scores = -(_distances(x, book) + prices) / heat
            rows = scores - jax.nn.logsumexp(scores, axis=1, keepdims=True)
            rows = jnp.where(real[:, None], rows, -jnp.inf)
            return jnp.logaddexp(total, jax.nn.logsumexp(rows, axis=0)), None
        mass = jax.lax.scan(add, jnp.full(len(book), -jnp.inf), parts)[0]
        return jnp.maximum(prices + heat * (mass - jnp.log(most)), 0), None

    return jax.lax.scan(sweep, jnp.zeros(len(book)), None, length=sweeps)[0]


def _assign_within_prefixes(prefixes: np.ndarray, rest: np.ndarray, book: np.ndarray,
                            balance: Balance) -> np.ndarray:
    result = np.empty(len(rest), np.int32)
    square = np.einsum("vd,vd->v", book, book)
    for items in collisions.items_of_prefixes(prefixes):
        costs = collisions.distances(rest[items], book, square)
        nearest = costs.argmin(axis=1)
        if np.max(np.bincount(nearest)) > 1:
            if balance.method == "sinkhorn":
                most = -(-len(items) // len(book))
                costs = costs + _host_prices(costs, most, balance)
            nearest = _place(costs)
        result[items] = nearest
    return result


def _host_prices(costs: np.ndarray, most: int, balance: Balance) -> np.ndarray:
    """As `_sinkhorn`, for the few items of a prefix: `[M, V]` costs to `[V]`."""
    heat = balance.temperature * max(float(costs.min(axis=1).mean()), 0.0)
    prices = np.zeros(costs.shape[1])
    for _ in range(balance.sweeps if heat else 0):
        scores = -(costs + prices) / heat
        scores -= scores.max(axis=1, keepdims=True)
        plan = np.exp(scores)
        mass = (plan / plan.sum(axis=1, keepdims=True)).sum(axis=0)
        prices = np.maximum(prices + heat * np.log(np.maximum(mass, 1e-30) / most), 0)
    return prices


def _place(costs: np.ndarray) -> np.ndarray:
    """Places the items of a prefix, those that fit best first: `[M, V]` to `[M]`."""
    codes, room = np.empty(len(costs), np.int32), np.ones(costs.shape[1], bool)
    for item in np.argsort(costs.min(axis=1), kind="stable"):
        if not room.any():
            room[:] = True
        code = int(np.argmin(np.where(room, costs[item], np.inf)))
        codes[item], room[code] = code, False
    return codes


def _means(x: np.ndarray, codes: np.ndarray, book: np.ndarray) -> np.ndarray:
    """Moves each centroid to the mean of its points; one without points stays."""
    sums = np.asarray(jax.ops.segment_sum(jnp.asarray(x), jnp.asarray(codes),
                                          len(book)))
    counts = np.bincount(codes, minlength=len(book))[:, None]
    return np.where(counts > 0, sums / np.maximum(counts, 1), book).astype(np.float32)
