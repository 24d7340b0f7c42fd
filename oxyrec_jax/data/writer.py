"""Writes a prepared data set of any size; `dataset` describes the format."""

import contextlib
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from oxyrec_jax import artifacts
from oxyrec_jax.base import InputError
from oxyrec_jax.data import schema

KIND = "dataset"
VERSION = 1
SPLITS = ("train", "valid", "test")
SHARD_EVENTS = 1 << 26  # ours: 256 MiB for an int32 column


def shard_name(number: int) -> str:
    """Returns the name of a shard's folder inside the data set."""
    return f"sequences/{number:05d}"


def write_dataset(
    folder: str | pathlib.Path,
    fill: Callable[["DatasetWriter"], None],
    *,
    columns: Sequence[str] = ("item",),
    facts: Mapping[str, Any],
    shard_events: int = SHARD_EVENTS,
) -> dict[str, Any]:
    """Writes a data set of any size, in its place in one rename at the end.

    Args:
      folder: where it shall stand; an older data set there is replaced.
      fill: called with the open `DatasetWriter`; adds items, sequences and targets,
        and may add facts that are known only at the end to `writer.facts`.
      columns: which columns of `schema.COLUMNS` the events have, `item` among them.
      facts: for the manifest: `source`, `protocol`, `tie_policy`, `config`, `counts`,
        `quarantine`, `behaviours`, `scenarios`.
      shard_events: a shard is closed once it holds so many events.

    Returns:
      The manifest.

    Raises:
      InputError: the disk is full, or the data set has no items or no sequences.
      ValueError: what was added does not fit together (an item that is not in the
        table, a target without a history, columns of different lengths).
    """
    if "item" not in columns or set(columns) - set(schema.COLUMNS):
        raise ValueError(f"{columns=}, expected item and any of {list(schema.COLUMNS)}")
    order = [name for name in schema.COLUMNS if name in columns]
    gathered: dict[str, Any] = dict(facts)

    def write_files(beside: pathlib.Path) -> None:
        with DatasetWriter(beside, order, gathered, shard_events) as writer:
            fill(writer)
            writer.finish()
    return artifacts.write_bundle(folder, kind=KIND, version=VERSION, arrays={},
                                  facts=gathered, write_files=write_files)


class DatasetWriter(contextlib.ExitStack):
    """Takes blocks of sequences and appends them to shards; see `write_dataset`.

    Attributes:
      folder: where the data set is being written; files put here become part of it.
      facts: the manifest's facts, which the caller may add to.
      num_sequences: how many sequences were added so far.
    """

    def __init__(self, folder: pathlib.Path, columns: Sequence[str],
                 facts: dict[str, Any], shard_events: int):
        super().__init__()
        self.folder, self.facts, self.num_sequences = folder, facts, 0
        self._columns, self._shard_events = tuple(columns), shard_events
        self._shards: list[dict[str, int]] = []
        self._open: dict[str, _Appender] = {}
        self._splits: dict[str, _Appender] = {}
        self._tables: dict[str, tuple[pq.ParquetWriter, IO]] = {}
        self._rows: dict[str, int] = {}
        self._largest: dict[str, int] = {}
        self._images: _Appender | None = None

    def add_items(self, items: pa.Table) -> None:
        """Appends rows of the item table (`schema.item_table`), in order of item id."""
        self._add_rows("items", items)

    def add_images(self, vectors: np.ndarray) -> None:
        """Appends vectors of items' pictures, `[rows, D]`, in order of the item table.

        A row of zeros says that the item has none. They are kept in half precision.
        """
        if self._images is None:
            self._images = self.enter_context(_Appender(
                self.folder / "images.npy", np.float16, vectors.shape[1:]))
        with np.errstate(over="ignore"):  # what half precision cannot hold is refused
            short = np.asarray(vectors, np.float16)
        if not np.isfinite(short).all():
            raise ValueError("images hold NaN, infinity or numbers beyond 65504")
        self._images.append(short)

    def add_queries(self, queries: Sequence[str]) -> None:
        """Appends query strings, in the order that the column `query` indexes."""
        self._add_rows("queries", pa.table({"query": pa.array(queries, pa.string())}))

    def add_sequences(self, columns: Mapping[str, np.ndarray], lengths: np.ndarray,
                      users: Sequence[str]) -> None:
        """Appends a block of sequences.

        Args:
          columns: every column of the data set, `[E]`: the block's events, one
            sequence after the other, oldest first.
          lengths: `[S]` int, events of each sequence; they add up to E.
          users: the name of each sequence's user, S of them.
        """
        lengths = np.asarray(lengths, np.int64)
        events = int(lengths.sum())
        sizes = {name: len(values) for name, values in columns.items()}
        if sizes != {name: events for name in self._columns}:
            raise ValueError(f"columns have {sizes} events, expected {events} in each "
                             f"of {self._columns}")
        if len(users) != len(lengths) or (lengths < 1).any():
            raise ValueError(f"{len(users)=} {len(lengths)=}, each length at least 1")
        if not self._shards or self._shards[-1]["events"] >= self._shard_events:
            self._next_shard()
        shard = self._shards[-1]
        for name in self._columns:
            self._open[name].append(self._checked(name, columns[name]))
        self._open["offsets"].append(shard["events"] + np.cumsum(lengths))
        self._add_rows("users", pa.table({"user_id": pa.array(users, pa.string())}))
        shard["sequences"] += len(lengths)
        shard["events"] += events
        self.num_sequences += len(lengths)

    def add_targets(self, split: str, rows: np.ndarray) -> None:
        """Appends rows `(sequence, first, last)`, `[R, 3]` int, to a split."""
        rows = np.asarray(rows, np.int64)
        if split not in SPLITS:
            raise ValueError(f"{split=}, expected one of {SPLITS}")
        if rows.ndim != 2 or rows.shape[1] != 3:
            raise ValueError(f"{rows.shape=}, expected [R, 3]")
        if len(rows) and not ((rows[:, 0] >= 0) & (rows[:, 1] >= 1)
                              & (rows[:, 1] < rows[:, 2])).all():
            raise ValueError(f"{split}: expected 1 <= first < last in every row")
        if split not in self._splits:
            (self.folder / "splits").mkdir(exist_ok=True)
            self._splits[split] = self.enter_context(
                _Appender(self.folder / "splits" / f"{split}.npy", np.int64, (3,)))
        self._splits[split].append(rows)

    def finish(self) -> None:
        """Closes every file, checks that all fits together, and sets the facts."""
        for split in SPLITS:
            self.add_targets(split, np.zeros((0, 3)))
        for appender in [*self._open.values(), *self._splits.values()]:
            appender.finish()
        for table, file in self._tables.values():
            table.close()
            file.close()
        rows = self._rows
        if self._images is not None:
            self._images.finish()
            if self._images.rows != rows.get("items"):
                raise ValueError(f"{self._images.rows} images of {rows.get('items')} "
                                 "items, expected one for each")
        if not rows.get("items") or not self.num_sequences:
            raise InputError(f"the data set would have {rows.get('items', 0)} items "
                             f"and {self.num_sequences} sequences; give a longer log")
        tables = {"item": "items", "trigger": "items", "query": "queries"}
        for name, table in tables.items():
            if self._largest.get(name, -1) >= rows.get(table, 0):
                raise ValueError(f"column {name} holds {self._largest[name]}, the "
                                 f"table of {table} has {rows.get(table, 0)} rows")
        self._check_targets()
        self.facts |= {
            "columns": list(self._columns), "shards": self._shards,
            "splits": {name: a.rows for name, a in self._splits.items()},
            "shape": {"items": rows["items"], "sequences": self.num_sequences,
                      "events": sum(shard["events"] for shard in self._shards)}}

    def _checked(self, name: str, values: np.ndarray) -> np.ndarray:
        array = np.asarray(values)
        kind = schema.COLUMNS[name]
        if kind.kind == "i" and len(array):
            least, most = int(array.min()), int(array.max())
            if least < schema.PADDING[name] and name != "time":
                raise ValueError(f"column {name} holds {least}")
            if most > np.iinfo(kind).max:
                raise ValueError(f"column {name} holds {most}, too large for {kind}")
            self._largest[name] = max(self._largest.get(name, -1), most)
        return np.ascontiguousarray(array, kind)

    def _next_shard(self) -> None:
        for appender in self._open.values():
            appender.finish()
        folder = self.folder / shard_name(len(self._shards))
        folder.mkdir(parents=True)
        kinds = {name: schema.COLUMNS[name] for name in self._columns}
        self._open = {
            name: self.enter_context(_Appender(folder / f"{name}.npy", kind))
            for name, kind in {**kinds, "offsets": np.dtype(np.int64)}.items()}
        self._open["offsets"].append(np.zeros(1, np.int64))
        self._shards.append({"sequences": 0, "events": 0})

    def _add_rows(self, name: str, rows: pa.Table) -> None:
        if name not in self._tables:  # our own file, so that a full disk says ENOSPC
            file = self.enter_context(open(self.folder / f"{name}.parquet", "wb"))
            table = pq.ParquetWriter(file, rows.schema)
            self.callback(_close_quietly, table)
            self._tables[name] = (table, file)
        self._tables[name][0].write_table(rows)
        self._rows[name] = self._rows.get(name, 0) + len(rows)

    def _check_targets(self) -> None:
        lengths = np.concatenate([
            np.diff(np.load(self.folder / shard_name(number) / "offsets.npy",
                            mmap_mode="r", allow_pickle=False))
            for number in range(len(self._shards))])
        for split in self._splits:
            rows = np.load(self.folder / "splits" / f"{split}.npy", mmap_mode="r",
                           allow_pickle=False)
            if len(rows) and (rows[:, 0].max() >= len(lengths)
                              or (rows[:, 2] > lengths[rows[:, 0]]).any()):
                raise ValueError(f"{split}: a target lies outside its sequence")


def _close_quietly(table: pq.ParquetWriter) -> None:
    with contextlib.suppress(OSError):  # an error that matters is already on its way
        table.close()


class _Appender(contextlib.AbstractContextManager):
    """Writes a `.npy` file whose first dimension is known only at the end."""

    def __init__(self, path: pathlib.Path, kind: Any, tail: tuple[int, ...] = ()):
        self.rows, self._kind, self._tail = 0, np.dtype(kind), tail
        self._file = open(path, "wb")
        self._header()
        self._start = self._file.tell()

    def append(self, values: np.ndarray) -> None:
        # Through the file object: ndarray.tofile hides why a write failed.
        self._file.write(np.ascontiguousarray(values, self._kind).data)
        self.rows += len(values)

    def finish(self) -> None:
        if self._file.closed:
            return
        self._file.seek(0)
        self._header()
        if self._file.tell() != self._start:
            raise RuntimeError("the .npy header grew; NumPy no longer reserves room")
        self._file.close()

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def _header(self) -> None:
        np.lib.format.write_array_header_1_0(self._file, {
            "descr": np.lib.format.dtype_to_descr(self._kind), "fortran_order": False,
            "shape": (self.rows, *self._tail)})
