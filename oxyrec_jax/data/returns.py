"""How far back in its history the kind of a test request was last seen.

Where it is beyond the recent window, a model that reads only the latest events cannot
know what was looked at then: the log has work for retrieval.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from oxyrec_jax.data import schema
from oxyrec_jax.data.dataset import Dataset, Shard

BEYOND = (20, 100, 500)  # events
PAUSE = 3_600  # seconds without an event before a visit counts as a new one; ours


def last_seen(log: Dataset, category: np.ndarray | None,
              blocks: Iterable[tuple[Shard, int, int]]) -> dict[str, Any] | None:
    """Tells how far back the kinds of the test split's targets were last seen.

    A target's gap is the number of events from the last one of its kind to its request:
    1 is the event just before it. Earlier events of the same request do not count.

    Args:
      log: the data set.
      category: `[N]` int, each item's category, -1 unknown; None if all are.
      blocks: ranges of whole sequences, each sequence once: shard, first, last in it.

    Returns:
      None without test targets, or where neither categories nor needs are known; else
      for `category`, and for `need` where a table of requests tells them (a simulated
      shop's), JSON values: `targets`, `never` (share whose kind was never seen
      before) and `beyond` (for each of `BEYOND` the share last seen more events ago,
      never among them not counted); and under `after_pause` the same for requests
      before which there was no event for an hour, None where times are not known.
    """
    kinds = {"category": category, "need": _needs(log)}
    if "test" not in log.splits or not len(log.splits["test"]) or not any(
            known is not None for known in kinds.values()):
        return None
    targets = log.targets("test")
    targets = targets[np.argsort(targets[:, 0], kind="stable")]
    gaps: dict[str, list[np.ndarray]] = {name: [] for name in kinds}
    paused: list[np.ndarray] = []
    for shard, first, last in blocks:
        rows = {name: values[shard.offsets[first]:shard.offsets[last]]
                for name, values in shard.columns.items()}
        offsets = shard.offsets[first:last + 1] - shard.offsets[first]
        begin = shard.first_sequence + first
        ends = np.searchsorted(targets[:, 0], [begin, begin + last - first])
        own = targets[slice(*ends)]
        target = offsets[own[:, 0] - begin] + own[:, 1]
        opening = _openings(rows, offsets)[target]
        for name, known in kinds.items():
            if known is not None:
                key = known[rows["item" if name == "category" else "request"]]
                gaps[name].append(_gaps(key, offsets, target, opening))
        if "time" in rows:
            before = np.maximum(opening - 1, 0)
            paused.append(rows["time"][opening] - rows["time"][before] >= PAUSE)
    after = np.concatenate(paused) if paused else None
    return {name: _shares(np.concatenate(gaps[name]), after)
            for name, known in kinds.items() if known is not None}


def _openings(rows: dict[str, np.ndarray], offsets: np.ndarray) -> np.ndarray:
    """Returns the first event of each event's request, `[E]` int64."""
    opens = schema.opens_request(offsets, rows.get("request"))
    return np.maximum.accumulate(np.where(opens, np.arange(len(opens)), 0))


def _gaps(key: np.ndarray, offsets: np.ndarray, target: np.ndarray,
          opening: np.ndarray) -> np.ndarray:
    """Returns each target's gap, 0 where its kind was never seen, -1 unknown kind."""
    sequence = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    whole = sequence * (int(key.max()) + 2) + key
    order = np.argsort(whole, kind="stable")
    same = whole[order[1:]] == whole[order[:-1]]
    before = np.full(len(key), -1, np.int64)
    before[order[1:][same]] = order[:-1][same]
    latest = before[target]
    while (late := latest >= opening).any():  # as often as a request has events
        latest[late] = before[latest[late]]
    gap = np.where(latest >= 0, opening - latest, 0)
    return np.where(key[target] >= 0, gap, -1)


def _shares(gaps: np.ndarray, after: np.ndarray | None) -> dict[str, Any]:
    known = gaps >= 0

    def shares(chosen: np.ndarray) -> dict[str, Any] | None:
        found = gaps[known & chosen]
        if not len(found):
            return None
        return {"targets": len(found), "never": float((found == 0).mean()),
                "beyond": {str(k): float((found > k).mean()) for k in BEYOND}}
    whole = shares(known) or {"targets": 0, "never": None, "beyond": {}}
    return {**whole, "after_pause": None if after is None else shares(after)}


def _needs(log: Dataset) -> np.ndarray | None:
    """Returns the need of each request, `[R]`, where a file beside the log tells it."""
    path = log.folder / "requests.parquet"
    if not path.exists() or "request" not in log.columns:
        return None
    if "need" not in pq.read_schema(path).names:
        return None
    return pq.read_table(path, columns=["need"])["need"].to_numpy()
