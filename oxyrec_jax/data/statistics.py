"""What a log is like: figures by which a simulated log stands beside a real one."""

import math
from typing import Any

import numpy as np

from oxyrec_jax import metrics
from oxyrec_jax.data import returns
from oxyrec_jax.data.dataset import Dataset, Shard

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
_BLOCK_EVENTS = 1 << 22  # ours: some 150 MiB while repeats are counted
_CURVE_POINTS = 60


def log_statistics(log: Dataset) -> dict[str, Any]:
    """Describes the log of any prepared data set.

    Memory does not grow with the log but for 4 bytes a basket.

    Args:
      log: the data set.

    Returns:
      JSON values; None where the log cannot tell:

      * `source`, `users`, `items`, `events`;
      * `popularity`: `gini` (0 even, 1 all on one item) over all items of the table,
        `top_1_percent` (share of the events on the most popular hundredth of the items,
        at least one), `zipf_slope` (of log events on log rank, least squares over ranks
        spaced evenly in log, among items with events), `never` (share of items without
        an event), `curve` (`rank`, `share` pairs);
      * `lengths`: `mean` and `quantiles` of events of a sequence, `curve`;
      * `repeat_rate`: share of the events with an item that the sequence had before;
      * `same_category`: share of neighbouring events in one category, and by chance if
        the log were shuffled: `neighbours`, `shuffled`;
      * `scenarios`, `behaviours`: share of the events of each, by name;
      * `funnel`: for each behaviour, the share of events that reach it or a later one
        of the data set's list;
      * `requests`: events of a request: `mean`, `quantiles`;
      * `last_seen`: how far back a test request's category and need were last seen;
        see `returns.last_seen`;
      * `baskets`: price of what is ordered in one request (in a log without behaviours:
        of all events of a request): `mean`, `quantiles`, `count`.
    """
    counts = np.zeros(log.num_items, np.int64)
    totals = _Totals(log)
    lengths = np.diff(log.offsets())
    blocks = [(shard, first, last) for shard in log.shards
              for first, last in _blocks(shard)]
    for shard, first, last in blocks:
        totals.add(shard, first, last)
        items = shard.columns["item"][shard.offsets[first]:shard.offsets[last]]
        counts += np.bincount(items, minlength=log.num_items)
    return {
        "source": log.manifest.get("source"), "users": log.num_sequences,
        "items": log.num_items, "events": log.num_events,
        "popularity": popularity(counts),
        "lengths": {**_spread(lengths), "curve": _survival(lengths)},
        "repeat_rate": totals.repeats / log.num_events,
        "same_category": totals.same_category(counts),
        "last_seen": returns.last_seen(log, totals.category, blocks),
        "scenarios": totals.shares("scenario"),
        "behaviours": totals.shares("behaviour"),
        "funnel": totals.funnel(), "requests": _spread(_joined(totals.request_events)),
        "baskets": _spread(_joined(totals.baskets), count=True)}


def popularity(counts: np.ndarray) -> dict[str, Any]:
    """Describes how unevenly events fall on items.

    Args:
      counts: `[N]` int, events of each item; at least one event.

    Returns:
      `gini`, `top_1_percent`, `zipf_slope`, `never` and `curve`; see `log_statistics`.

    Source: `metrics.gini_index`; the slope is Zipf's law's exponent as a line through
      evenly spaced points of log rank (ours), so that the many items of the tail do not
      outvote the head.
    """
    falling = np.sort(counts)[::-1].astype(np.float64)
    number, total = len(falling), falling.sum()
    some = int((falling > 0).sum())
    places = np.unique(np.geomspace(1, some, _CURVE_POINTS).round().astype(np.int64))
    share = falling[places - 1] / total
    slope = None
    if len(places) > 1:
        x = np.log(places) - np.log(places).mean()
        slope = float((x * np.log(share)).sum() / (x * x).sum())
    return {"gini": metrics.gini_index(counts), "zipf_slope": slope,
            "never": 1 - some / number,
            "top_1_percent": float(falling[:max(1, number // 100)].sum() / total),
            "curve": {"rank": places.tolist(), "share": share.tolist()}}


class _Totals:
    """What is summed over blocks of whole sequences."""

    def __init__(self, log: Dataset):
        self._items = log.num_items
        self._names = {name: log.manifest.get(f"{name}s") or []
                       for name in ("scenario", "behaviour")}
        self._counts = {name: np.zeros(len(names), np.int64)
                        for name, names in self._names.items()
                        if name in log.columns and names}
        self.category = _categories(log)
        self._same = self._neighbours = self.repeats = 0
        self.request_events: list[np.ndarray] = []
        self.baskets: list[np.ndarray] = []

    def add(self, shard: Shard, first: int, last: int) -> None:
        begin, end = int(shard.offsets[first]), int(shard.offsets[last])
        rows = {name: values[begin:end] for name, values in shard.columns.items()}
        lengths = np.diff(shard.offsets[first:last + 1])
        sequence = np.repeat(np.arange(last - first, dtype=np.int64), lengths)
        pairs = np.unique(sequence * self._items + rows["item"])
        self.repeats += (end - begin) - len(pairs)
        for name, counts in self._counts.items():
            counts += np.bincount(rows[name], minlength=len(counts))
        if self.category is not None:
            kind = self.category[rows["item"]]
            both = (sequence[1:] == sequence[:-1]) & (kind[1:] >= 0) & (kind[:-1] >= 0)
            self._neighbours += int(both.sum())
            self._same += int((both & (kind[1:] == kind[:-1])).sum())
        if "request" in rows:
            self._add_requests(rows)

    def _add_requests(self, rows: dict[str, np.ndarray]) -> None:
        known = rows["request"] >= 0
        if not known.any():
            return
        request, sizes = np.unique(rows["request"][known], return_counts=True)
        self.request_events.append(sizes.astype(np.int32))
        if "price" not in rows:
            return
        names = self._names["behaviour"]
        if "order" in names and "behaviour" in self._counts:
            known = known & (rows["behaviour"] == names.index("order"))
        elif names:
            return
        known = known & np.isfinite(rows["price"])
        place = np.searchsorted(request, rows["request"][known])
        spent = np.bincount(place, rows["price"][known], len(request))
        held = np.bincount(place, minlength=len(request)) > 0
        self.baskets.append(spent[held].astype(np.float32))

    def shares(self, name: str) -> dict[str, float] | None:
        counts = self._counts.get(name)
        if counts is None or not counts.sum():
            return None
        return {label: int(count) / int(counts.sum())
                for label, count in zip(self._names[name], counts)}

    def funnel(self) -> dict[str, float] | None:
        shares = self.shares("behaviour")
        if shares is None:
            return None
        reached = np.cumsum(list(shares.values())[::-1])[::-1]
        return dict(zip(shares, reached.tolist()))

    def same_category(self, counts: np.ndarray) -> dict[str, float] | None:
        if self.category is None or not self._neighbours:
            return None
        known = self.category >= 0
        share = np.bincount(self.category[known], counts[known]) / counts[known].sum()
        return {"neighbours": self._same / self._neighbours,
                "shuffled": float((share ** 2).sum())}


def _blocks(shard: Shard) -> list[tuple[int, int]]:
    """Cuts a shard into ranges of whole sequences of bounded events."""
    count, blocks, first = len(shard.offsets) - 1, [], 0
    while first < count:
        limit = shard.offsets[first] + _BLOCK_EVENTS
        last = int(np.searchsorted(shard.offsets, limit, side="right")) - 1
        last = min(max(last, first + 1), count)
        blocks.append((first, last))
        first = last
    return blocks


def _categories(log: Dataset) -> np.ndarray | None:
    """Returns the number of each item's category, -1 unknown; None if all are."""
    column = log.item_table()["category"].combine_chunks()
    if column.null_count == len(column):
        return None
    codes = column.dictionary_encode().indices
    return codes.fill_null(-1).to_numpy(zero_copy_only=False)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0)


def _spread(values: np.ndarray, count: bool = False) -> Any:
    if not len(values):
        return None
    quantiles = np.quantile(values, QUANTILES)
    spread: dict[str, Any] = {
        "mean": float(np.mean(values, dtype=np.float64)),
        "quantiles": {f"{level:g}": float(value)
                      for level, value in zip(QUANTILES, quantiles)}}
    return spread | {"count": len(values)} if count else spread


def _survival(lengths: np.ndarray) -> dict[str, list[float]]:
    """Returns the share of sequences that are at least so long."""
    longest = int(lengths.max())
    points = 1 + int(min(_CURVE_POINTS, math.log2(longest + 1) * 8))
    places = np.unique(np.geomspace(1, longest, points).round().astype(np.int64))
    ordered = np.sort(lengths)
    reached = 1 - np.searchsorted(ordered, places) / len(ordered)
    return {"length": places.tolist(), "share": reached.tolist()}
