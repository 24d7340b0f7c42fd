"""Cells of a results table from ranks and lists: figures, intervals, differences.

Ranks come as level ("item", "sid") to `[R]`, or `[runs, R]` for several runs of one
model, whose figures are then the mean over runs. A cell is `level.name@K`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from oxyrec_jax import metrics

Ranks: TypeAlias = Mapping[str, np.ndarray]
Draw: TypeAlias = Callable[[np.ndarray], metrics.Interval]

NAMES = ("hr", "ndcg", "mrr")
"""What is computed; recall is added as hr by another name."""


def ranks(items: np.ndarray, sids: np.ndarray | None, item_sids: np.ndarray | None,
          targets: np.ndarray) -> dict[str, np.ndarray]:
    """Ranks of the targets at item level and, with `item_sids`, at SID level.

    Args:
      items: `[R, K]` int, ranked items, -1 = none.
      sids: `[R, K]` int, ranked semantic IDs, -1 = none; None: those of `items`. A
        repeat in a list takes no place.
      item_sids: `[N]` int, each item's semantic ID, or None.
      targets: `[R]` int items.

    Returns:
      "item" and perhaps "sid" to `[R]` int64.
    """
    found = {"item": metrics.ranks(items, targets)}
    if item_sids is not None:
        if sids is None:
            sids = np.where(items >= 0, item_sids[items], -1)
        found["sid"] = _distinct_ranks(sids, item_sids[targets])
    return found


def figures(ranks: Ranks, ks: Sequence[int]) -> dict[str, float]:
    """Mean over targets of every cell."""
    names, values = _cells(ranks, ks)
    return _with_recall(dict(zip(names, values.mean(0).tolist())))


def list_figures(lists: np.ndarray, ks: Sequence[int], num_items: int
                 ) -> dict[str, float]:
    """`coverage@K`, `gini@K` and `validity@K` of `[R, K]` lists."""
    table = {}
    for k in ks:
        table[f"coverage@{k}"] = metrics.coverage(lists, k, num_items)
        table[f"gini@{k}"] = metrics.gini(lists, k, num_items)
        table[f"validity@{k}"] = metrics.validity(lists, k, num_items)
    return table


def intervals(ranks: Ranks, ks: Sequence[int], draw: Draw) -> dict[str, list[float]]:
    """Cell to [low, high]."""
    names, values = _cells(ranks, ks)
    found = draw(values)
    pairs = np.stack([found.low, found.high], 1).tolist()
    return _with_recall(dict(zip(names, pairs)))


def differences(ranks: Ranks, others: Ranks, ks: Sequence[int], draw: Draw
                ) -> dict[str, dict[str, float]]:
    """Cell to mean, low and high of `ranks - others` on the same targets.

    Levels that only one of them has are left out.
    """
    shared = [level for level in ranks if level in others]
    names, values = _cells({level: ranks[level] for level in shared}, ks)
    _, other_values = _cells({level: others[level] for level in shared}, ks)
    found = draw(values - other_values)
    return _with_recall({name: {"mean": float(mean), "low": float(low),
                                "high": float(high)} for name, mean, low, high
                         in zip(names, found.mean, found.low, found.high)})


def _distinct_ranks(lists: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """`metrics.ranks` with repeats of an entry taken out of each list first."""
    rank = metrics.ranks(lists, wanted)
    earlier = np.zeros(lists.shape, bool)  # the same entry stands further left
    for column in range(1, lists.shape[1]):
        earlier[:, column] = (lists[:, :column] == lists[:, column, None]).any(1)
    before = np.arange(lists.shape[1]) < rank[:, None]
    return np.where(rank == metrics.MISS, rank, rank - (earlier & before).sum(1))


def _cells(ranks: Ranks, ks: Sequence[int]) -> tuple[list[str], np.ndarray]:
    """Names of M cells, and `[R, M]` float64 values, the mean over runs."""
    names, columns = [], []
    for level, found in ranks.items():
        for name in NAMES:
            for k in ks:
                values = metrics.RANK_METRICS[name](found, k)
                names.append(f"{level}.{name}@{k}")
                columns.append(values.mean(0) if found.ndim == 2 else values)
    return names, np.stack(columns, 1)


def _with_recall(cells: Mapping[str, Any]) -> dict[str, Any]:
    """Adds recall beside each hr: with one relevant item they are equal."""
    full = {}
    for cell, value in cells.items():
        full[cell] = value
        if ".hr@" in cell:
            full[cell.replace(".hr@", ".recall@")] = value
    return full
