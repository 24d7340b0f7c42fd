"""How good recommendations are: figures of ranks, of lists, and their uncertainty.

A recommender gives `[R, K]` lists, one for each target, best first, -1 = no item. The
*rank* of a target is its 0-based place in its list, `MISS` where it is not there. There
is one relevant item a row, so recall@K equals the hit rate HR@K. Functions of ranks
return one float64 value a row; the mean is taken at the edge. All of it is NumPy on the
host: these arrays are small beside the search that made them.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

MISS = int(np.iinfo(np.int32).max)
"""The rank of a target that is not in its list."""

_CELL = re.compile(r"(?P<group>.*)\b(?P<name>hr|recall|ndcg|mrr)@(?P<k>\d+)$")


def ranks(lists: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Finds the place of each target in its list.

    Args:
      lists: `[R, K]` int, best first, -1 = none.
      targets: `[R]` int, `>= 0`.

    Returns:
      `[R]` int64: 0-based place of the first match, `MISS` where there is none.

    Raises:
      ValueError: the shapes disagree, or a target is negative.
    """
    lists, targets = np.asarray(lists), np.asarray(targets)
    if lists.ndim != 2 or targets.shape != lists.shape[:1]:
        raise ValueError(f"{lists.shape=} {targets.shape=}, expected [R, K] and [R]")
    if targets.size and targets.min() < 0:
        raise ValueError(f"target {targets.min()} is negative")
    if lists.shape[1] == 0:
        return np.full(len(lists), MISS, np.int64)
    match = lists == targets[:, None]
    return np.where(match.any(1), match.argmax(1), MISS).astype(np.int64)


def hit_rate(ranks: np.ndarray, k: int) -> np.ndarray:
    """HR@K: 1 where the target is among the first `k`. `[R]` → `[R]` float64."""
    return _inside(ranks, k).astype(np.float64)


def recall(ranks: np.ndarray, k: int) -> np.ndarray:
    """Recall@K; with one relevant item a row it equals `hit_rate`."""
    return hit_rate(ranks, k)


def ndcg(ranks: np.ndarray, k: int) -> np.ndarray:
    """NDCG@K with one relevant item: `1 / log2(rank + 2)` within `k`, else 0.

    Source: Järvelin and Kekäläinen 2002, binary gain; the ideal gain of one relevant
    item is 1.
    """
    inside = _inside(ranks, k)
    return np.where(inside, 1 / np.log2(np.where(inside, ranks, 0) + 2.0), 0.0)


def mrr(ranks: np.ndarray, k: int) -> np.ndarray:
    """MRR@K: `1 / (rank + 1)` within `k`, else 0. `[R]` → `[R]` float64."""
    inside = _inside(ranks, k)
    return np.where(inside, 1 / (np.where(inside, ranks, 0) + 1.0), 0.0)


RANK_METRICS = {"hr": hit_rate, "recall": recall, "ndcg": ndcg, "mrr": mrr}
"""The figures of a rank, by the name they have in a table."""


def coverage(lists: np.ndarray, k: int, num_items: int) -> float:
    """Share of the catalogue that stands in the first `k` places of some list."""
    return float(np.count_nonzero(_exposure(lists, k, num_items)) / num_items)


def gini(lists: np.ndarray, k: int, num_items: int) -> float:
    """Gini index of how often each item of the catalogue is recommended.

    0: all items equally often; near 1: a few items fill all lists; 0 where nothing is
    recommended. Items never recommended count.
    """
    return gini_index(_exposure(lists, k, num_items))


def gini_index(counts: np.ndarray) -> float:
    """How unequal N counts are: 0 (equal, or all 0) to 1 - 1/N (all on one).

    With x_1 <= ... <= x_N: `sum_i (2 i - N - 1) x_i / (N sum_i x_i)`.

    Source: Gini 1912 in its form for sorted values.
    """
    ordered = np.sort(counts).astype(np.float64)
    size, total = len(ordered), ordered.sum()
    if total == 0:
        return 0.0
    place = np.arange(1, size + 1)
    return float(((2 * place - size - 1) * ordered).sum() / (size * total))


def validity(lists: np.ndarray, k: int, num_items: int) -> float:
    """Share of the first `k` places that hold an item of the catalogue, each once.

    -1, an id outside the catalogue and a repeat within a list are invalid. Lists
    shorter than `k` count as ending in empty places.
    """
    top = lists[:, :_positive(k)]
    inside = (top >= 0) & (top < num_items)
    ordered = np.sort(np.where(inside, top, -1), axis=1)
    repeats = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    return float((inside.sum() - repeats.sum()) / max(len(lists) * k, 1))


@dataclasses.dataclass(frozen=True)
class Interval:
    """A bootstrap estimate of M figures.

    Attributes:
      mean: `[M]` float64, the figure on the rows as they are.
      low: `[M]` float64, lower end of the percentile interval.
      high: `[M]` float64, upper end.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def bootstrap(values: np.ndarray, users: np.ndarray | None = None, *,
              samples: int = 1000, level: float = 0.95, seed: int = 0) -> Interval:
    """Percentile bootstrap over users: rows of one user are drawn together.

    A sample draws as many users as there are, with replacement; its figure is the sum
    of the drawn users' values over the number of their rows. All M columns share the
    draws, so a column `a - b` gives the interval of a *paired* difference.

    Args:
      values: `[R]` or `[R, M]` float, one row for each target.
      users: `[R]`, whose row it is; None: each row is another user's.
      samples: number of bootstrap samples.
      level: coverage of the interval, in (0, 1).
      seed: of the draws; the same seed and users give the same draws.

    Returns:
      `Interval` of M figures (M = 1 for `[R]` values).

    Raises:
      ValueError: shapes disagree, no rows, no samples, or a level outside (0, 1).

    Source: Efron and Tibshirani 1993, chapter 13; clusters are users.
    """
    values = np.asarray(values, np.float64)
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or not len(values):
        raise ValueError(f"{values.shape=}, expected [R, M] with R > 0")
    if users is not None and np.shape(users) != values.shape[:1]:
        raise ValueError(f"{np.shape(users)=} {values.shape=}")
    if samples < 1 or not 0 < level < 1:
        raise ValueError(f"{samples=} {level=}, expected samples >= 1, 0 < level < 1")
    sums, sizes = _by_user(values, users)
    drawn = _resample(sums, sizes, samples, np.random.default_rng(seed))
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Interval(sums.sum(0) / sizes.sum(), low, high)


def check_bounds(table: Mapping[str, object], *, where: str = "the table",
                 tolerance: float = 1e-9) -> None:
    """Checks what every table of one-relevant-item figures must obey.

    For K values a < b, with HR@0 = NDCG@0 = MRR@0 = 0:

        (HR@b - HR@a) / log2(b + 1) <= NDCG@b - NDCG@a <= (HR@b - HR@a) / log2(a + 2)
        (HR@b - HR@a) / b           <= MRR@b  - MRR@a  <= (HR@b - HR@a) / (a + 1)

    because a hit gained between a and b stands at a rank in [a, b). Also
    `0 <= HR@a <= HR@b <= 1` and recall = HR.

    Args:
      table: cells such as "item.hr@10"; the part before the metric is the group within
        which figures are compared. Other keys are ignored.
      where: names the table in the error.
      tolerance: slack; use half of the last printed digit for a rounded table.

    Raises:
      ValueError: a cell that cannot be right, named with its neighbours.
    """
    groups: dict[str, dict[str, dict[int, float]]] = {}
    for key, value in table.items():
        cell = _CELL.match(key)
        number = _number(value)
        if cell and number is not None:
            names = groups.setdefault(cell["group"], {})
            names.setdefault(cell["name"], {})[int(cell["k"])] = number
    for group, columns in groups.items():
        _check_group(f"{where}: {group}", columns, tolerance)


def across_seeds(tables: Sequence[Mapping[str, object]]) -> dict[str, dict]:
    """Mean and standard deviation of every numeric cell over runs of other seeds.

    Args:
      tables: one table a run, with the same numeric cells.

    Returns:
      Cell to `{"mean", "sd", "runs"}`; sd is the sample standard deviation
      (`runs - 1` below the line), None for a single run.

    Raises:
      ValueError: no tables, or a cell that only some of them have.
    """
    if not tables:
        raise ValueError("no tables to aggregate")
    columns = [{key: number for key, value in table.items()
                if (number := _number(value)) is not None} for table in tables]
    for column in columns:
        odd = set(column) ^ set(columns[0])
        if odd:
            raise ValueError(f"cell {min(odd)!r} is in some of the tables only")
    result = {}
    for key in columns[0]:
        cells = np.array([column[key] for column in columns])
        sd = float(cells.std(ddof=1)) if len(cells) > 1 else None
        result[key] = {"mean": float(cells.mean()), "sd": sd, "runs": len(cells)}
    return result


def _number(value: object) -> float | None:
    """A number, also of NumPy or a scalar array of any library; None: it is none."""
    if isinstance(value, (int, float)):
        return None if isinstance(value, bool) else float(value)
    kind = getattr(value, "dtype", None)
    if kind is None or kind == bool or np.ndim(value):  # type: ignore[arg-type]
        return None
    return float(value)  # type: ignore[arg-type]


def _inside(ranks: np.ndarray, k: int) -> np.ndarray:
    ranks = np.asarray(ranks)
    if ranks.size and ranks.min() < 0:
        raise ValueError(f"rank {ranks.min()} is negative; what was not found is at "
                         "metrics.MISS")
    return ranks < _positive(k)


def _positive(k: int) -> int:
    if k < 1:
        raise ValueError(f"{k=}, expected k >= 1")
    return k


def _exposure(lists: np.ndarray, k: int, num_items: int) -> np.ndarray:
    top = lists[:, :_positive(k)].ravel()
    top = top[top >= 0]
    if top.size and top.max() >= num_items:
        raise ValueError(f"item {top.max()} is outside a catalogue of {num_items}")
    return np.bincount(top, minlength=num_items)


def _by_user(values: np.ndarray, users: np.ndarray | None
             ) -> tuple[np.ndarray, np.ndarray]:
    """Sums `[U, M]` of the rows of each user, and how many rows `[U]` each has."""
    if users is None:
        return values, np.ones(len(values))
    _, index = np.unique(users, return_inverse=True)
    sizes = np.bincount(index)
    order = np.argsort(index, kind="stable")
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    return np.add.reduceat(values[order], starts, axis=0), sizes.astype(np.float64)


def _resample(sums: np.ndarray, sizes: np.ndarray, samples: int,
              rng: np.random.Generator) -> np.ndarray:
    """Returns the figures `[samples, M]` of samples of users."""
    users = len(sums)
    chunk = max(1, min(samples, 4_000_000 // users))  # ours: 32 MB of weights at once
    figures = []
    for first in range(0, samples, chunk):
        count = min(chunk, samples - first)
        drawn = rng.integers(0, users, (count, users))
        drawn += np.arange(count)[:, None] * users
        flat = np.bincount(drawn.ravel(), minlength=count * users)
        weights = flat.reshape(count, users).astype(np.float64)
        figures.append((weights @ sums) / (weights @ sizes)[:, None])
    return np.concatenate(figures)


def _check_group(where: str, columns: dict[str, dict[int, float]],
                 tolerance: float) -> None:
    hits = columns.get("hr", columns.get("recall"))
    if hits is None:
        return
    for k, value in columns.get("recall", {}).items():
        if k in hits and not abs(value - hits[k]) <= tolerance:
            raise ValueError(f"{where}recall@{k} = {value:.6g} but hr@{k} = "
                             f"{hits[k]:.6g}; with one relevant item they are equal")
    before = 0.0
    for k in sorted(hits):
        if not before - tolerance <= hits[k] <= 1 + tolerance:
            raise ValueError(f"{where}hr@{k} = {hits[k]:.6g} cannot be: it must lie in "
                             f"[{before:.6g}, 1], between the smaller K and 1")
        before = hits[k]
    for name, first, last in (("ndcg", lambda a: 1 / np.log2(a + 2),
                               lambda b: 1 / np.log2(b + 1)),
                              ("mrr", lambda a: 1 / (a + 1), lambda b: 1 / b)):
        _check_steps(where, name, columns.get(name, {}), hits, first, last, tolerance)


def _check_steps(where: str, name: str, column: dict[int, float],
                 hits: dict[int, float], first: Callable[[int], float],
                 last: Callable[[int], float], tolerance: float) -> None:
    """Each gain lies between `last(b)` and `first(a)` times the gain in hits."""
    column, hits = {0: 0.0, **column}, {0: 0.0, **hits}
    ks = sorted(set(column) & set(hits))
    for i, a in enumerate(ks):
        for b in ks[i + 1:]:
            gain, hit_gain = column[b] - column[a], hits[b] - hits[a]
            low, high = hit_gain * last(b), hit_gain * first(a)
            if not low - tolerance <= gain <= high + tolerance:
                raise ValueError(
                    f"{where}{name}@{b} - {name}@{a} = {gain:.6g} cannot be: with "
                    f"hr@{b} - hr@{a} = {hit_gain:.6g} it must lie in "
                    f"[{low:.6g}, {high:.6g}]")
