"""How good semantic IDs are: use of the codes, collisions, reconstruction, purity."""

from collections.abc import Sequence
from typing import Any

import numpy as np

_ROWS_AT_ONCE = 1 << 16


def measure(codes: np.ndarray, widths: Sequence[int], *,
            embeddings: np.ndarray | None = None,
            codebooks: Sequence[np.ndarray] = (),
            categories: Sequence[str | None] | None = None) -> dict[str, Any]:
    """Gathers every figure as JSON values; lists have one entry for each level.

    Args:
      codes: `[N, T]` int semantic IDs, N >= 1.
      widths: T numbers: codes on each level.
      embeddings: `[N, D]` float, what was quantised; None: no `reconstruction`.
      codebooks: T codebooks `[V_level, D]`.
      categories: N names, None where unknown; None or all unknown: no `purity`.

    Returns:
      `items`, `widths`, `sids`; `duplicates`: share of items whose ID is not theirs
      alone;
      `mean_items_per_sid`, `p99`, `p999`, `max_items_per_sid` over used IDs;
      `coverage`, `dead_codes`, `perplexity`, `gini` of each level's codes;
      `reconstruction`: share of the variance left over after each level;
      `purity`: for each prefix length, see `purity`.
    """
    lists = np.unique(codes, axis=0, return_counts=True)[1]
    figures: dict[str, Any] = {
        "items": len(codes),
        "widths": [int(width) for width in widths],
        "sids": len(lists),
        "duplicates": float(lists[lists > 1].sum() / len(codes)),
        "mean_items_per_sid": float(lists.mean()),
        "p99": float(np.quantile(lists, 0.99, method="higher")),
        "p999": float(np.quantile(lists, 0.999, method="higher")),
        "max_items_per_sid": int(lists.max()),
    }
    loads = [np.bincount(codes[:, level], minlength=width)
             for level, width in enumerate(widths)]
    figures["coverage"] = [float((load > 0).mean()) for load in loads]
    figures["dead_codes"] = [int((load == 0).sum()) for load in loads]
    figures["perplexity"] = [perplexity(load) for load in loads]
    figures["gini"] = [gini(load) for load in loads]
    if embeddings is not None:
        figures["reconstruction"] = reconstruction(embeddings, codes, codebooks)
    if categories is not None and any(name is not None for name in categories):
        figures["purity"] = [purity(codes[:, :depth], categories)
                             for depth in range(1, len(widths) + 1)]
    return figures


def perplexity(load: np.ndarray) -> float:
    """`exp` of the entropy (nats) of the codes' shares: 1 (one code) to V (even)."""
    share = load[load > 0] / load.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def gini(load: np.ndarray) -> float:
    """Gini index of the codes' loads: 0 (even) to 1 - 1/V (all on one code).

    With loads x_1 <= ... <= x_V: sum_i (2 i - V - 1) x_i / (V sum_i x_i).
    """
    x, size = np.sort(load).astype(np.float64), len(load)
    rank = 2 * np.arange(1, size + 1) - size - 1
    return float((rank * x).sum() / (size * x.sum()))


def reconstruction(embeddings: np.ndarray, codes: np.ndarray,
                   codebooks: Sequence[np.ndarray]) -> list[float]:
    """Share of the variance that is left over after each level, 0 to about 1.

    sum_n |x_n - sum_{k <= level} c_k|^2 / sum_n |x_n - mean|^2, in float64; 0 where the
    embeddings do not vary.
    """
    books = [np.asarray(book, np.float64) for book in codebooks]
    mean = np.mean(embeddings, axis=0, dtype=np.float64)
    errors, variance, energy = np.zeros(len(books)), 0.0, 0.0
    for start in range(0, len(codes), _ROWS_AT_ONCE):
        x = np.asarray(embeddings[start : start + _ROWS_AT_ONCE], np.float64)
        energy += float(np.square(x).sum())
        variance += float(np.square(x - mean).sum())
        for level, book in enumerate(books):
            x = x - book[codes[start : start + _ROWS_AT_ONCE, level]]
            errors[level] += np.square(x).sum()
    flat = variance <= 1e-10 * energy  # the rounding of float32, squared
    return [0.0 if flat else float(error / variance) for error in errors]


def purity(prefixes: np.ndarray, categories: Sequence[str | None]) -> float:
    """Share of items whose category is the majority's under their prefix.

    The mean over prefixes of the majority category's share, weighted by items; items
    without a category are left out.

    Args:
      prefixes: `[N, depth]` int: the leading codes.
      categories: N names or None.

    Source: the figure of OxygenREC, https://arxiv.org/abs/2512.22386 (92.8 % at level
    1); it does not define it, the weighting is ours.
    """
    known = np.array([name is not None for name in categories])
    names = np.unique([str(name) for name in categories], return_inverse=True)[1]
    _, cells = np.unique(prefixes[known], axis=0, return_inverse=True)
    pairs, counts = np.unique(np.stack([cells.ravel(), names[known]], axis=1), axis=0,
                              return_counts=True)
    majority = np.zeros(cells.max() + 1, np.int64)
    np.maximum.at(majority, pairs[:, 0], counts)
    return float(majority.sum() / known.sum())
