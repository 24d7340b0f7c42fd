"""A prepared data set on disk: columnar, memory-mapped, sharded, digested.

    manifest.json                 kind "dataset", shape, columns, shards, facts, digests
    sequences/00000/offsets.npy   [S+1] int64, where each sequence of the shard begins
    sequences/00000/item.npy      [E] int32, and one file for each other column
    items.parquet  users.parquet  row = item id; row = sequence
    queries.parquet               only where events have queries
    images.npy                    [N, D] float16, only where items have pictures
    splits/train.npy …            [R, 3] int64 rows (sequence, first, last)

A sequence is one user's events, oldest first. A split row says that the events at
positions `first <= p < last` of that sequence are targets of the split; the history of
a target is every event before it, and under the protocol "next-basket" every event
before its request. No target is without a history: `first >= 1`.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from oxyrec_jax import artifacts
from oxyrec_jax.base import InputError
from oxyrec_jax.data import schema
from oxyrec_jax.data.instruction_table import InstructionTable
from oxyrec_jax.data.packing import spans
from oxyrec_jax.data.profiles import Profiles
from oxyrec_jax.data.writer import (KIND, SPLITS, VERSION, DatasetWriter, shard_name,
                                    write_dataset)

__all__ = ["Dataset", "DatasetWriter", "Shard", "load_dataset", "write_dataset"]


@dataclasses.dataclass(frozen=True)
class Shard:
    """A contiguous range of sequences.

    Attributes:
      first_sequence: number of this shard's first sequence in the data set.
      first_event: number of this shard's first event in the data set.
      offsets: `[S_shard+1]` int64, from 0.
      columns: name to `[E_shard]` array, memory-mapped, read-only.
    """

    first_sequence: int
    first_event: int
    offsets: np.ndarray
    columns: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A prepared data set, opened.

    Attributes:
      folder: where it lies.
      manifest: its facts: source, protocol, tie policy, counts, quarantine, names.
      num_items: N, rows of the item table.
      num_sequences: S.
      num_events: events of all sequences.
      shards: in order of sequence.
      splits: name to `[R, 3]` int64 rows `(sequence, first, last)`.
      instructions: of its events; None: none are attached.
      profiles: of its users; None: none are attached.
    """

    folder: pathlib.Path
    manifest: Mapping[str, Any]
    num_items: int
    num_sequences: int
    num_events: int
    shards: tuple[Shard, ...]
    splits: Mapping[str, np.ndarray]
    instructions: InstructionTable | None = None
    profiles: Profiles | None = None

    def with_instructions(self, table: InstructionTable) -> "Dataset":
        """The same data set, whose batches can have the column `instruction`.

        Raises:
          InputError: the table is of another number of events.
        """
        if len(table.index) != self.num_events:
            raise InputError(f"{self.folder} has {self.num_events} events, the "
                             f"instruction table {len(table.index)}; make it again")
        return dataclasses.replace(self, instructions=table)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the events have, `item` first."""
        return tuple(self.manifest["columns"])

    def column(self, name: str) -> np.ndarray:
        """Returns a column of all events in order of sequence, `[E]`.

        Without a copy where the data set is one shard.

        Raises:
          InputError: the data set has no such column.
        """
        if name not in self.columns:
            raise InputError(f"{self.folder} has no column {name!r}; its columns are "
                             f"{', '.join(self.columns)}")
        parts = [shard.columns[name] for shard in self.shards]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def offsets(self) -> np.ndarray:
        """Returns where each sequence begins among all events, `[S+1]` int64."""
        if len(self.shards) == 1:
            return self.shards[0].offsets
        parts = [shard.offsets[:-1] + shard.first_event for shard in self.shards]
        return np.concatenate([*parts, [self.num_events]])

    def history(self, sequence: int, before: int) -> np.ndarray:
        """Returns the items of a sequence before a position, `[before]` int32."""
        starts = [shard.first_sequence for shard in self.shards]
        shard = self.shards[int(np.searchsorted(starts, sequence, side="right")) - 1]
        row = sequence - shard.first_sequence
        first, last = shard.offsets[row], shard.offsets[row + 1]
        if not 0 <= before <= last - first:
            raise ValueError(f"{before=}, the sequence has {last - first} events")
        return shard.columns["item"][first:first + before]

    def targets(self, split: str) -> np.ndarray:
        """Returns every target of a split as `[R', 2]` int64 rows (sequence, position).

        Where each row of the split is one target, as in the validation and test splits
        of every protocol but "next-basket", row r here is row r of the split.
        """
        rows = self.split(split)
        return np.stack([np.repeat(rows[:, 0], rows[:, 2] - rows[:, 1]),
                         spans(rows[:, 1], rows[:, 2])], axis=1)

    @property
    def by_basket(self) -> bool:
        """Whether the events of a request are answered together, as a set."""
        return self.manifest.get("protocol") == "next-basket"

    def history_ends(self) -> np.ndarray:
        """Returns, for each event as a target, the event before which its history
        ends, `[E]` int64: itself, or the first of its request in a set `by_basket`."""
        events = np.arange(self.num_events)
        if not self.by_basket:
            return events
        opens = schema.opens_request(self.offsets(), self.column("request"))
        return np.maximum.accumulate(np.where(opens, events, 0))

    def split(self, name: str) -> np.ndarray:
        """Returns a split's rows; an absent or empty split raises `InputError`."""
        rows = self.splits.get(name)
        if rows is None or not len(rows):
            raise InputError(f"{self.folder} has no {name!r} targets; prepare a log "
                             "and a protocol that give some")
        return rows

    def item_table(self) -> pa.Table:
        """Reads the item table: row = item id, `schema.ITEM_FIELDS` first."""
        return _read_parquet(self.folder / "items.parquet")

    def images(self) -> np.ndarray | None:
        """Opens vectors of the items' pictures, `[N, D]` float16; None: there are none.

        Raises:
          InputError: the file is not what the data set was written with.
        """
        if "images.npy" not in self.manifest["files"]:
            return None
        found = artifacts.read_array(self.folder, "images")
        if found.dtype != np.float16 or found.ndim != 2 or len(found) != self.num_items:
            raise InputError(f"{self.folder / 'images.npy'} is {found.dtype} "
                             f"{found.shape}, expected float16 and {self.num_items} "
                             "rows; make the data set again")
        return found

    def user_ids(self) -> list[str]:
        """Reads the name of each sequence's user."""
        return _read_parquet(self.folder / "users.parquet")["user_id"].to_pylist()

    def queries(self) -> list[str]:
        """Reads the query strings that the column `query` indexes; may be empty."""
        path = self.folder / "queries.parquet"
        return _read_parquet(path)["query"].to_pylist() if path.exists() else []


def load_dataset(folder: str | pathlib.Path, *, verify: bool = True) -> Dataset:
    """Opens a prepared data set without reading its events into memory.

    Args:
      folder: what `prepare` wrote.
      verify: also check the size and digest of every file.

    Returns:
      The data set.

    Raises:
      InputError: no data set there, another schema version, or a damaged file, named.
    """
    folder = pathlib.Path(folder)
    manifest = artifacts.read_manifest(folder, kind=KIND, version=VERSION,
                                       verify=verify)
    unknown = set(manifest["columns"]) - set(schema.COLUMNS)
    if unknown or "item" not in manifest["columns"]:
        raise InputError(f"{folder / artifacts.MANIFEST} names the columns "
                         f"{manifest['columns']}, expected item and any of "
                         f"{', '.join(schema.COLUMNS)}; make the data set again")
    shards, sequence, event = [], 0, 0
    for number, entry in enumerate(manifest["shards"]):
        shard = _open_shard(folder, number, manifest["columns"], sequence, event, entry)
        shards.append(shard)
        sequence += entry["sequences"]
        event += entry["events"]
    splits = {}
    for name in manifest["splits"]:
        if name not in SPLITS:
            raise InputError(f"{folder / artifacts.MANIFEST} names the split {name!r}, "
                             f"expected {', '.join(SPLITS)}")
        splits[name] = np.asarray(artifacts.read_array(folder, f"splits/{name}"))
    shape = manifest["shape"]
    return Dataset(folder, manifest, shape["items"], sequence, event, tuple(shards),
                   splits)


def _open_shard(folder: pathlib.Path, number: int, columns: Iterable[str],
                sequence: int, event: int, entry: Mapping[str, int]) -> Shard:
    read = functools.partial(_read_shard_array, folder, shard_name(number))
    offsets = read("offsets", np.dtype(np.int64), entry["sequences"] + 1)
    ends = (int(offsets[0]), int(offsets[-1]))
    if ends != (0, entry["events"]) or (np.diff(offsets) < 1).any():
        raise InputError(f"{folder / shard_name(number) / 'offsets.npy'} does not rise "
                         f"from 0 to {entry['events']}; make the data set again")
    events = entry["events"]
    arrays = {name: read(name, schema.COLUMNS[name], events) for name in columns}
    return Shard(sequence, event, offsets, arrays)


def _read_shard_array(folder: pathlib.Path, shard: str, name: str, kind: np.dtype,
                      rows: int) -> np.ndarray:
    array = artifacts.read_array(folder, f"{shard}/{name}")
    if array.dtype != kind or array.shape != (rows,):
        raise InputError(f"{folder / shard / name}.npy is {array.dtype} {array.shape}, "
                         f"expected {kind} ({rows},); make the data set again")
    return array.view(np.ndarray)  # a memmap, without the cost of memmap's own indexing


def _read_parquet(path: pathlib.Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path} cannot be read ({error}); make the data set again"
                         ) from error
