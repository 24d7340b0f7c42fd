"""How good semantic IDs are: use of the codes, collisions, reconstruction, meaning.

Every figure is made from one sort of the codes and streams over items and pairs, so a
million items take seconds. docs/tokenizer.md shows each with a picture.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from oxyrec_jax import metrics

_ROWS_AT_ONCE = 1 << 16
Decode = Callable[[np.ndarray], np.ndarray]


def measure(codes: np.ndarray, widths: Sequence[int], *,
            embeddings: np.ndarray | None = None,
            codebooks: Sequence[np.ndarray] = (), decode: Decode | None = None,
            categories: Sequence[str | None] | None = None,
            pairs: Iterable[tuple[np.ndarray, np.ndarray]] | None = None
            ) -> dict[str, Any]:
    """Gathers every figure as JSON values; lists have one entry for each level.

    Args:
      codes: `[N, T]` int semantic IDs, N >= 1.
      widths: T numbers: codes on each level.
      embeddings: `[N, D]` float, what was quantised; None: no `reconstruction`.
      codebooks: T codebooks `[V_level, D]` whose sum restores an embedding.
      decode: instead, for quantisers of other kinds: gives `[M, D]` vectors for
        `[M, T']` leading codes, T' from 1 to T.
      categories: N names, None where unknown; None or all unknown: no `purity`, `nmi`
        and `largest_category`.
      pairs: items used together, such as `engagement.co_engaged` gives; None: no
        `agreement`.

    Returns:
      `items`, `widths`, `sids`; `duplicates`: share of items whose ID is not theirs
      alone;
      `mean_items_per_sid`, `p99`, `p999`, `max_items_per_sid` over used IDs;
      `coverage`, `dead_codes`, `perplexity`, `gini` of each level's codes;
      `reconstruction`: share of the variance left over after each level;
      `purity`, `nmi` for each prefix length, `largest_category`: share of the items
      with a category that are in the commonest one, the purity of no codes at all;
      `agreement`, see there.
    """
    groups = prefix_groups(codes)
    lists = np.bincount(groups[-1])
    figures: dict[str, Any] = {
        "items": len(codes),
        "widths": [int(width) for width in widths],
        "sids": len(lists),
        "duplicates": float(lists[lists > 1].sum() / len(codes)),
        "mean_items_per_sid": float(lists.mean()),
        "p99": float(np.quantile(lists, 0.99, method="higher")),
        "p999": float(np.quantile(lists, 0.999, method="higher")),
        "max_items_per_sid": int(np.max(lists)),
    }
    loads = [np.bincount(codes[:, level], minlength=width)
             for level, width in enumerate(widths)]
    figures["coverage"] = [float((load > 0).mean()) for load in loads]
    figures["dead_codes"] = [int((load == 0).sum()) for load in loads]
    figures["perplexity"] = [perplexity(load) for load in loads]
    figures["gini"] = [metrics.gini_index(load) for load in loads]
    if embeddings is not None:
        figures["reconstruction"] = reconstruction(
            embeddings, codes, decode or _sum_of(codebooks))
    names = None if categories is None else number_names(categories)
    if names is not None and (names >= 0).any():
        figures["purity"] = [purity(group, names) for group in groups]
        figures["nmi"] = [mutual_information(group, names) for group in groups]
        figures["largest_category"] = purity(np.zeros_like(names), names)
    found = None if pairs is None else agreement(groups, pairs)
    if found is not None:
        figures["agreement"] = found
    return figures


def prefix_groups(codes: np.ndarray) -> np.ndarray:
    """Numbers the prefixes of every depth in lexicographic order.

    Args:
      codes: `[N, T]` int.

    Returns:
      `[T, N]` int64: row d holds for each item the number, from 0, of its first d + 1
      codes among those in use.
    """
    order = np.lexsort(codes.T[::-1])
    ordered = codes[order]
    fresh = np.logical_or.accumulate(ordered[1:] != ordered[:-1], axis=1)
    groups = np.zeros(codes.T.shape, np.int64)
    groups[:, order[1:]] = np.cumsum(fresh, axis=0).T
    return groups


def perplexity(load: np.ndarray) -> float:
    """`exp` of the entropy (nats) of the codes' shares: 1 (one code) to V (even)."""
    return float(np.exp(_entropy(load)))


def reconstruction(embeddings: np.ndarray, codes: np.ndarray, decode: Decode
                   ) -> list[float]:
    """Share of the variance that is left over after each level, 0 to about 1.

    sum_n |x_n - decode(first codes of n)|^2 / sum_n |x_n - mean|^2, in float64; 0 where
    the embeddings do not vary.

    Args:
      embeddings: `[N, D]` float, may be memory-mapped.
      codes: `[N, T]` int.
      decode: see `measure`.
    """
    mean = np.mean(embeddings, axis=0, dtype=np.float64)
    levels = codes.shape[1]
    errors, variance, energy = np.zeros(levels), 0.0, 0.0
    for start in range(0, len(codes), _ROWS_AT_ONCE):
        x = np.asarray(embeddings[start : start + _ROWS_AT_ONCE], np.float64)
        energy += float(np.square(x).sum())
        variance += float(np.square(x - mean).sum())
        for level in range(levels):
            known = codes[start : start + _ROWS_AT_ONCE, :level + 1]
            errors[level] += np.square(x - decode(known)).sum()
    flat = variance <= 1e-14 * energy  # the rounding of float32, squared
    return [0.0 if flat else float(error / variance) for error in errors]


def number_names(names: Iterable[str | None]) -> np.ndarray:
    """Numbers names by first appearance: `[N]` int64, -1 for None."""
    coded = pa.array(names, pa.string()).dictionary_encode()
    return coded.indices.fill_null(-1).to_numpy().astype(np.int64)


def purity(groups: np.ndarray, names: np.ndarray) -> float:
    """Share of items whose category is the majority's under their prefix.

    The mean over prefixes of the majority category's share, weighted by items; items
    without a category are left out.

    Args:
      groups: `[N]` int >= 0: which prefix each item has, see `prefix_groups`.
      names: `[N]` int: its category, -1 where unknown; see `number_names`.

    Source: the figure of OxygenREC, https://arxiv.org/abs/2512.22386 (92.8 % at level
    1); it does not define it, the weighting is ours.
    """
    group, _, counts = cells(groups, names)
    starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
    return float(np.maximum.reduceat(counts, starts).sum() / counts.sum())


def mutual_information(groups: np.ndarray, names: np.ndarray) -> float:
    """Normalised mutual information of prefix and category: 0 (unrelated) to 1 (same).

    `2 I(G; K) / (H(G) + H(K))`. Purity can only rise with more codes; this falls again
    when codes split categories further than they tell them apart. 1 where there is one
    prefix and one category.

    Args:
      groups, names: as in `purity`.

    Source: Strehl and Ghosh 2002, with the arithmetic mean below the line.
    """
    group, name, counts = cells(groups, names)
    own, other = (_entropy(np.bincount(label, counts)) for label in (group, name))
    if own + other == 0:
        return 1.0
    return float(max(0.0, 2 * (own + other - _entropy(counts)) / (own + other)))


def cells(groups: np.ndarray, names: np.ndarray
          ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts the items of each prefix and category that meet, M of them, sorted.

    Args:
      groups, names: as in `purity`.

    Returns:
      `[M]` int64 prefix, category and number of items.
    """
    known = names >= 0
    most = int(names.max(initial=0)) + 1
    found, counts = np.unique(groups[known] * most + names[known], return_counts=True)
    return found // most, found % most, counts


def agreement(groups: np.ndarray, pairs: Iterable[tuple[np.ndarray, np.ndarray]]
              ) -> dict[str, Any] | None:
    """How often items used together share a prefix, beside what chance would give.

    For each depth, `share` is the share of pairs whose two items have one prefix.
    `chance` is that share if partners were drawn anew, with m_i the number of pairs of
    item i, M their sum and M_p their sum under prefix p:

        sum_p (M_p^2 - sum_{i in p} m_i^2) / (M^2 - sum_i m_i^2),

    two draws in proportion to m that are not the same item. `lift = share / chance`.

    Args:
      groups: `[T, N]` int, see `prefix_groups`.
      pairs: chunks of two `[P]` int arrays of item ids; an item with itself is left
        out. They are read once and never held together.

    Returns:
      `pairs`, their number, and lists `share`, `chance`, `lift` by depth; a lift is
      None where chance is 0. None where there is no pair.

    Source: ours; the chance is that of the configuration model, so popular items, which
    meet everything often, do not pass for agreement.
    """
    levels, items = groups.shape
    together, degree, total = np.zeros(levels), np.zeros(items), 0
    for one, other in pairs:
        differ = one != other
        one, other = one[differ], other[differ]
        together += [np.count_nonzero(group[one] == group[other]) for group in groups]
        degree += np.bincount(one, minlength=items)
        degree += np.bincount(other, minlength=items)
        total += len(one)
    if not total:
        return None
    same = np.square(degree).sum()
    met = [np.square(np.bincount(group, degree)).sum() - same for group in groups]
    chance = np.maximum(met, 0) / (4.0 * total * total - same)
    share = together / total
    return {"pairs": total, "share": share.tolist(), "chance": chance.tolist(),
            "lift": [float(a / b) if b > 0 else None for a, b in zip(share, chance)]}


def _entropy(load: np.ndarray) -> float:
    share = load[load > 0] / load.sum()
    return float(-(share * np.log(share)).sum())


def _sum_of(codebooks: Sequence[np.ndarray]) -> Decode:
    books = [np.asarray(book, np.float64) for book in codebooks]

    def decode(codes: np.ndarray) -> np.ndarray:
        total = books[0][codes[:, 0]]
        for level in range(1, codes.shape[1]):
            total += books[level][codes[:, level]]
        return total
    return decode
