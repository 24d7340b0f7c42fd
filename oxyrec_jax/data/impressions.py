"""What was shown in each request and what became of it: the rows of a ranking model.

A log with impressions has a table `requests.parquet` with the columns `request`,
`sequence`, `time`, `scenario`, `trigger`, `query`, and the lists `shown` (items, -1 at
an empty place) and `outcome` (0 nothing, 1 click, 2 cart, 3 order: the furthest). The
simulated shop writes one. A log without impressions has no negatives; drawing some
would make up the rates that a ranking model is to learn, so it is refused.
"""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from oxyrec_jax.base import InputError
from oxyrec_jax.data.dataset import Dataset

TABLE = "requests.parquet"
STAGES = ("click", "cart", "order")  # what an outcome of 1, 2, 3 has reached
NAMES = ("scenario", "trigger", "query")  # columns that a request has itself
_NEVER = np.iinfo(np.int64).max


@dataclasses.dataclass(frozen=True)
class Impressions:
    """R requests in the order of their table, without those before any event.

    Attributes:
      row: `[R]` int64, row of the table.
      sequence: `[R]` int64, whose request.
      time: `[R]` int64, seconds since 1970.
      position: `[R]` int64, how many events of the sequence lie strictly before it, at
        least 1: its history.
      columns: `scenario` `[R]` int8, `trigger` `[R]` int32, `query` `[R]` int32.
      shown: `[R, C]` int32 items, -1 at an empty place.
      outcome: `[R, C]` int8: 0 nothing, 1 click, 2 cart, 3 order.
    """

    row: np.ndarray
    sequence: np.ndarray
    time: np.ndarray
    position: np.ndarray
    columns: dict[str, np.ndarray]
    shown: np.ndarray
    outcome: np.ndarray

    def take(self, numbers: np.ndarray) -> "Impressions":
        """Some of the requests, by number."""
        return Impressions(
            self.row[numbers], self.sequence[numbers], self.time[numbers],
            self.position[numbers],
            {name: column[numbers] for name, column in self.columns.items()},
            self.shown[numbers], self.outcome[numbers])

    def of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What some rows of the table showed and what became of it, `[M, C]` both;
        -1 and 0 of a row that is not among the requests."""
        place = np.minimum(np.searchsorted(self.row, rows), len(self.row) - 1)
        there = (self.row[place] == rows)[:, None]
        return (np.where(there, self.shown[place], -1),
                np.where(there, self.outcome[place], 0))


def tells_impressions(dataset: Dataset) -> bool:
    """Whether the log tells what its events' requests showed."""
    path = dataset.folder / TABLE
    return (path.exists() and "shown" in pq.read_schema(path).names
            and "request" in dataset.columns)


def load_impressions(dataset: Dataset) -> Impressions:
    """Reads the requests of a prepared data set that showed something.

    Args:
      dataset: with `requests.parquet`, and times of its events.

    Raises:
      InputError: the log has no impressions, or they are not of this data set.
    """
    path = dataset.folder / TABLE
    if not path.exists():
        raise InputError(
            f"{dataset.folder} has no {TABLE}: a ranking model learns from what was "
            "shown and not chosen too, and this log holds only what was chosen; use a "
            "log with impressions, such as the simulated shop")
    known = pq.read_schema(path).names
    lost = [name for name in ("sequence", "time", *NAMES, "shown", "outcome")
            if name not in known]
    if lost:
        raise InputError(f"{path} has no column {', '.join(lost)}; make the data set "
                         "again with impressions (data.shop.keep_exposures=true)")
    table = pq.read_table(path)
    sequence, time = (table[name].to_numpy().astype(np.int64)
                      for name in ("sequence", "time"))
    shown, outcome = (_lists(table[name]) for name in ("shown", "outcome"))
    _check(dataset, sequence, shown, outcome)
    position = _events_before(dataset, sequence, time)
    kept = np.flatnonzero((position > 0) & (shown >= 0).any(axis=1))
    columns = {"scenario": _scenarios(dataset, table["scenario"]).astype(np.int8),
               "trigger": table["trigger"].to_numpy().astype(np.int32),
               "query": table["query"].to_numpy().astype(np.int32)}
    return Impressions(np.arange(len(time)), sequence, time, position, columns,
                       shown.astype(np.int32), outcome.astype(np.int8)).take(kept)


def split_impressions(dataset: Dataset, found: Impressions, split: str) -> np.ndarray:
    """Numbers of the requests of a split, in their order.

    The targets of a split have requests; the first of them is where the split begins,
    and every request from then on belongs to it, whether anything was chosen or not,
    until the next split begins. Under P2 that moment is one for everybody, under P1 one
    for each sequence, and sequences that nothing is held out of train only. So no
    request at or after the beginning of validation is one of training.

    Args:
      dataset: whose requests they are.
      found: from `load_impressions`.
      split: "train", "valid" or "test".

    Raises:
      InputError: there are none.
    """
    begin = {name: _beginnings(dataset, found, name) for name in ("valid", "test")}
    valid, test = (begin[name][found.sequence] for name in ("valid", "test"))
    valid = np.minimum(valid, test)
    inside = {"train": found.time < valid,
              "valid": (found.time >= valid) & (found.time < test),
              "test": found.time >= test}[split]
    if not inside.any():
        raise InputError(f"{dataset.folder} has no {split} requests that showed "
                         "something; prepare a longer log")
    return np.flatnonzero(inside)


def _beginnings(dataset: Dataset, found: Impressions, split: str) -> np.ndarray:
    """`[S]` int64: when a split begins for each sequence; never, where it does not."""
    begin = np.full(dataset.num_sequences, _NEVER)
    targets = dataset.targets(split)
    if not len(targets):
        return begin
    # The request of a target is the last one at or before its event.
    event = dataset.offsets()[targets[:, 0]] + targets[:, 1]
    when = dataset.column("time")[event]
    first = min(int(found.time.min()), int(when.min()))
    span = max(int(found.time.max()), int(when.max())) - first + 1
    key = found.sequence * span + (found.time - first)
    order = np.argsort(key, kind="stable")
    asked = targets[:, 0] * span + (when - first)
    place = np.searchsorted(key[order], asked, side="right") - 1
    nearest = order[np.maximum(place, 0)]
    own = (place >= 0) & (found.sequence[nearest] == targets[:, 0])
    time = np.where(own, found.time[nearest], when)
    if dataset.manifest.get("protocol") == "P2":
        begin[:] = time.min()
    else:
        np.minimum.at(begin, targets[:, 0], time)
    return begin


def _events_before(dataset: Dataset, sequence: np.ndarray, time: np.ndarray
                   ) -> np.ndarray:
    """`[R]`: events of each sequence strictly before a time."""
    offsets, events = dataset.offsets(), dataset.column("time")
    first = min(int(events.min()), int(time.min()))
    span = max(int(events.max()), int(time.max())) - first + 1
    owner = np.repeat(np.arange(dataset.num_sequences), np.diff(offsets))
    # Sequence by sequence, and rising in time within each: one sorted key.
    key = owner * span + (events - first)
    before = np.searchsorted(key, sequence * span + (time - first), side="left")
    return before - offsets[sequence]


def _lists(column: pa.ChunkedArray) -> np.ndarray:
    width = column.type.list_size
    flat = [np.asarray(chunk.flatten()).reshape(-1, width) for chunk in column.chunks]
    return np.concatenate(flat)


def _scenarios(dataset: Dataset, column: pa.ChunkedArray) -> np.ndarray:
    """Numbers of the scenarios in the data set's list."""
    known = list(dataset.manifest["scenarios"])
    words = column.unify_dictionaries().combine_chunks()
    if isinstance(words, pa.ChunkedArray):
        words = words.chunk(0)
    names = words.dictionary.to_pylist()
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"{dataset.folder / TABLE} names the scenario {unknown[0]!r}, "
                         f"the data set knows {', '.join(known)}; make it again")
    return np.array([known.index(name) for name in names])[words.indices.to_numpy()]


def _check(dataset: Dataset, sequence: np.ndarray, shown: np.ndarray,
           outcome: np.ndarray) -> None:
    for name, values, low, high in (
            ("sequence", sequence, 0, dataset.num_sequences - 1),
            ("shown", shown, -1, dataset.num_items - 1),
            ("outcome", outcome, 0, len(STAGES))):
        if len(values) and not low <= values.min() <= values.max() <= high:
            raise InputError(
                f"{dataset.folder / TABLE}: {name} reaches from {values.min()} to "
                f"{values.max()}, expected {low} to {high}; make the data set again")
