"""What semantic IDs look like: first codes in the plane, items under one prefix."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import sparse

from oxyrec_jax.tokenizer import quality

_ROWS_AT_ONCE = 1 << 16


@dataclasses.dataclass(frozen=True)
class CodeMap:
    """The first codes in use, M of them, in a plane.

    Attributes:
      codes: `[M]` int64, rising.
      items: `[M]` int64, how many items each has.
      points: `[M, 2]` float64, where the mean of its items' embeddings falls.
      kept: share of these means' variance, each counted as often as it has items, that
        the plane keeps, 0 to 1.
      purity: `[M]` float64, share of its items' commonest category; NaN where no item
        of it has one.
      category: its commonest category, "" where none is known.
    """

    codes: np.ndarray
    items: np.ndarray
    points: np.ndarray
    kept: float
    purity: np.ndarray
    category: tuple[str, ...]


def code_map(first: np.ndarray, embeddings: np.ndarray,
             categories: Sequence[str | None] | None = None) -> CodeMap:
    """Lays the first codes out by the main directions of their means.

    Args:
      first: `[N]` int, the first code of each item.
      embeddings: `[N, D]` float, what was quantised; may be memory-mapped.
      categories: N names, None where unknown.
    """
    codes, groups, items = np.unique(first, return_inverse=True, return_counts=True)
    sums = np.zeros((len(codes), embeddings.shape[1]))
    for start in range(0, len(first), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        x = np.asarray(embeddings[rows], np.float64)
        member = sparse.csc_array(  # column n has its 1 in the row of n's code
            (np.ones(len(x)), groups[rows], np.arange(len(x) + 1)),
            shape=(len(codes), len(x)))
        sums += member @ x
    points, kept = principal_plane(sums / items[:, None], items)
    purity, category = _majority(groups, len(codes), categories)
    return CodeMap(codes, items, points, kept, purity, category)


def principal_plane(points: np.ndarray, weights: np.ndarray | None = None
                    ) -> tuple[np.ndarray, float]:
    """Coordinates `[N, 2]` along the two main directions, and their variance share.

    Args:
      points: `[N, D]` float64. The sign of a direction is the one that makes its
        largest entry positive, so that the same points always give the same plane.
      weights: `[N]` numbers: how much each point counts; None: all the same.
    """
    centred = points - np.average(points, axis=0, weights=weights)
    weighted = centred if weights is None else centred * weights[:, None]
    values, vectors = np.linalg.eigh(weighted.T @ centred)
    axes = vectors[:, ::-1][:, :2]
    largest = axes[np.argmax(np.abs(axes), axis=0), np.arange(axes.shape[1])]
    axes = axes * np.where(largest < 0, -1, 1)
    if axes.shape[1] < 2:
        axes = np.pad(axes, ((0, 0), (0, 2 - axes.shape[1])))
    total = max(float(np.sum(values)), 1e-30)
    return centred @ axes, float(values[::-1][:2].sum() / total)


def prefix_samples(codes: np.ndarray, priority: np.ndarray, *, branches: int = 6,
                   each: int = 4) -> list[list[dict]]:
    """Follows some first codes to their end, with items at every depth.

    The first codes are evenly spaced from the one with the most items to the one with
    the fewest that still has two; at each depth the child with the most items is
    followed, of equals the lower code, while it holds two items or more.

    Args:
      codes: `[N, T]` int semantic IDs.
      priority: `[N]` numbers, such as popularity.
      branches: first codes to show.
      each: items to show at each depth, those of the highest priority.

    Returns:
      For each branch a list by depth of JSON values: `prefix`, the codes; `count`, its
      items; `items`, up to `each` item ids, the highest priority first, equals by id.
    """
    first, sizes = np.unique(codes[:, 0], return_counts=True)
    several = first[np.argsort(-sizes, kind="stable")][:(sizes > 1).sum()]
    chosen = several[np.linspace(0, max(len(several) - 1, 0), min(
        branches, len(several))).astype(int)]
    found = []
    for code in chosen.tolist():
        members = np.flatnonzero(codes[:, 0] == code)
        branch: list[dict] = []
        for depth in range(1, codes.shape[1] + 1):
            top = members[np.lexsort((members, -priority[members]))][:each]
            branch.append({"prefix": codes[members[0], :depth].tolist(),
                           "count": len(members), "items": top.tolist()})
            if depth < codes.shape[1]:
                loads = np.bincount(codes[members, depth])
                members = members[codes[members, depth] == np.argmax(loads)]
            if len(members) < 2:
                break
        found.append(branch)
    return found


def _majority(groups: np.ndarray, number: int,
              categories: Sequence[str | None] | None
              ) -> tuple[np.ndarray, tuple[str, ...]]:
    purity, category = np.full(number, np.nan), [""] * number
    if categories is None:
        return purity, tuple(category)
    names = quality.number_names(categories)
    spelled = dict(zip(names.tolist(), categories))
    group, name, counts = quality.cells(groups, names)
    known = np.bincount(group, counts, minlength=number)
    for cell in np.lexsort((name, -counts))[::-1]:  # the commonest is written last
        purity[group[cell]] = counts[cell] / known[group[cell]]
        category[group[cell]] = spelled[int(name[cell])] or ""
    return purity, tuple(category)
