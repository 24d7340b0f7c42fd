"""Any event table in CSV or Parquet, by a map from the schema to its columns."""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from oxyrec_jax.base import InputError
from oxyrec_jax.data import schema
from oxyrec_jax.data.intake import Intake, Place
from oxyrec_jax.data.readers import columns as text_columns
from oxyrec_jax.data.readers import items as item_fields
from oxyrec_jax.data.readers import times

_NUMBERS = ("price", "rating")
_NO_ITEM, _AGAIN = "no item", "the item has a row already"


@dataclasses.dataclass(frozen=True)
class TableColumns:
    """The column of the event table for each field of the schema; "" means none.

    `rating` is no field of an event: it only serves `min_rating`.
    """

    user: str = "user"
    item: str = "item"
    time: str = ""
    behaviour: str = ""
    scenario: str = ""
    trigger: str = ""
    query: str = ""
    price: str = ""
    request: str = ""
    rating: str = ""


@dataclasses.dataclass(frozen=True)
class ItemColumns:
    """The column of the item table for each field of an item; "" means none."""

    item: str = "item_id"
    title: str = "title"
    brand: str = ""
    category: str = ""
    description: str = ""
    price: str = ""


def read_table(
    events: Place, items: Place | None, intake: Intake, *,
    columns: TableColumns = TableColumns(), item_columns: ItemColumns = ItemColumns(),
    time_unit: str = "s", delimiter: str = "", min_rating: float = 0.0,
    text_fields: Sequence[str] = item_fields.TEXT_FIELDS,
) -> schema.Log:
    """Reads an event table and, if there is one, an item table.

    Args:
      events: CSV with a header, or Parquet. gzip is read.
      items: CSV, Parquet, or JSON lines (".jsonl"); None for items without text.
      intake: counts and keeps bad rows: no user or item, a time, price or rating that
        is none, a wrong number of fields.
      columns: which column is what.
      item_columns: which column (or key) of the item table is what.
      time_unit: "s", "ms", "us", "ns" since 1970, or "iso" for dates as text (UTC where
        they name no zone). A Parquet date or timestamp is "iso".
      delimiter: of CSV; "" means by the file's name.
      min_rating: rows with a lower rating are no events.
      text_fields: fields that make an item's text.

    Returns:
      The log, in file order, with the columns that the map names.

    Raises:
      InputError: a column or file is missing, damaged or empty, an unknown unit, or
        times that are likely of another.
    """
    if time_unit not in times.PER_SECOND:
        raise InputError(f"data.time_unit is {time_unit!r}, expected one of "
                         f"{', '.join(times.PER_SECOND)}")
    if not columns.user or not columns.item:
        raise InputError("data.columns must name the columns of user and item")
    table = _Table(columns, time_unit, min_rating)
    wanted = [name for name in dataclasses.asdict(columns).values() if name]
    for numbers, block in text_columns.blocks(events, intake, wanted,
                                              delimiter=delimiter):
        table.add(events, intake, numbers, block)
    if columns.time:
        times.check(table.clock(), time_unit, columns.time, events)
    fields = item_fields.ItemFields(list(table.names["item"].index), text_fields)
    if items is not None:
        _read_items(items, intake, item_columns, delimiter,
                    table.names["item"].index, fields)
    return table.log(fields.table())


class _Table:
    def __init__(self, columns: TableColumns, time_unit: str, min_rating: float):
        self._unit, self._min_rating = time_unit, min_rating
        self._map = {field: name for field, name in dataclasses.asdict(columns).items()
                     if name}
        self.names = {field: text_columns.Names() for field in
                      ("user", "item", "behaviour", "scenario", "query", "request")}
        self._parts: dict[str, list[np.ndarray]] = {
            field: [] for field in self._map if field not in ("trigger", "rating")}
        self._triggers: list[str | None] = []

    def add(self, place: Place, intake: Intake, numbers: np.ndarray,
            block: Mapping[str, pa.Array]) -> None:
        values = {field: block[name] for field, name in self._map.items()}
        reasons = np.full(len(numbers), "", object)
        known: dict[str, np.ndarray] = {}
        for field in ("user", "item", "behaviour", "scenario"):
            if field in values:
                filled = pc.fill_null(pc.not_equal(values[field], ""), False)
                reasons[~filled.to_numpy(zero_copy_only=False)] = f"no {field}"
        for field, read in (("time", self._times), ("price", _prices),
                            ("rating", text_columns.real_numbers)):
            if field in values:
                known[field], good = read(values[field])
                reasons[~good & (reasons == "")] = f"bad {field}"
        keep = text_columns.sort_out(place, intake, numbers, reasons, values)
        for reason in set(reasons[~keep]):
            field = reason.partition(" ")[2]
            first = values[field][int(np.argmax(reasons == reason))].as_py()
            intake.explain(place, reason, self._advice(field, first))
        if "rating" in known:
            keep &= known.pop("rating") >= self._min_rating
        for field, numeric in known.items():
            self._parts[field].append(numeric[keep])
        kept = pa.array(keep)
        for field in self._parts:
            if field not in known:
                texts = pc.fill_null(values[field].filter(kept), "")
                codes = self.names[field].codes(texts)
                if field in ("query", "request"):
                    none = pc.equal(texts, "").to_numpy(zero_copy_only=False)
                    codes = np.where(none, -1, codes)
                self._parts[field].append(codes)
        if "trigger" in values:
            self._triggers += values["trigger"].filter(kept).to_pylist()

    def clock(self) -> np.ndarray:
        """Times so far, `[E]` int64 in their unit."""
        return np.concatenate([np.zeros(0, np.int64), *self._parts["time"]])

    def log(self, items: pa.Table) -> schema.Log:
        parts = {field: np.concatenate(part) if part else np.zeros(0, np.int32)
                 for field, part in self._parts.items()}
        user, item = parts.pop("user"), parts.pop("item")
        clock = parts.get("time")
        if clock is not None:
            parts["time"] = clock // times.PER_SECOND[self._unit]
        if "trigger" in self._map:
            index = self.names["item"].index
            parts["trigger"] = np.array([index.get(name or "", -1)
                                         for name in self._triggers], np.int32)
        for field in ("behaviour", "scenario"):
            if len(self.names[field].index) > 127:
                raise InputError(f"column {self._map[field]!r} has "
                                 f"{len(self.names[field].index)} different values, "
                                 f"too many to be a {field}; the most is 127")
        return schema.Log(
            user, item, parts, list(self.names["user"].index), items, clock=clock,
            behaviours=tuple(self.names["behaviour"].index),
            scenarios=tuple(self.names["scenario"].index),
            queries=tuple(self.names["query"].index))

    def _times(self, values: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        return times.read(values, self._unit)

    def _advice(self, field: str, text: str | None) -> str:
        """What mends rows that are bad in a field, where the first of them holds this.
        """
        name = self._map[field]
        if field == "time":
            return times.advice(text, self._unit, name)
        if field in _NUMBERS:
            return (f"column {name!r} holds {str(text)[:40]!r}, expected numbers such "
                    f"as 9.50; mend it, or give no data.columns.{field}")
        return (f"column {name!r} is empty there; name another with --set "
                f"data.columns.{field}=NAME")


def _prices(values: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    empty = pc.fill_null(pc.equal(values, ""), True).to_numpy(zero_copy_only=False)
    amounts, good = text_columns.real_numbers(values)
    return np.where(empty, np.nan, amounts), good | empty


def _read_items(place: Place, intake: Intake, columns: ItemColumns, delimiter: str,
                index: Mapping[str, int], fields: item_fields.ItemFields) -> None:
    seen: set[str] = set()
    names = {field: name for field, name in dataclasses.asdict(columns).items() if name}
    intake.explain(place, _NO_ITEM, f"column {columns.item!r} is empty there; name "
                   "another with --set data.item_columns.item=NAME")
    intake.explain(place, _AGAIN, f"column {columns.item!r} names items more than once;"
                   " keep one row of each, or name another column with --set "
                   "data.item_columns.item=NAME")
    for line, row in _item_rows(place, intake, names, delimiter):
        item = row.pop("item", None)
        if item is None or item == "":
            intake.reject(place, line, _NO_ITEM, row)
        elif str(item) in seen:
            intake.reject(place, line, _AGAIN, row)
        else:
            seen.add(str(item))
            intake.accept()
            if str(item) in index:
                fields.put(index[str(item)], row)


def _item_rows(place: Place, intake: Intake, names: Mapping[str, str],
               delimiter: str) -> Iterator[tuple[int, dict[str, Any]]]:
    if pathlib.PurePath(place.name).suffix == ".jsonl":
        for line, row, _ in intake.objects(place):
            yield line, {field: row.get(name) for field, name in names.items()}
        return
    for numbers, block in text_columns.blocks(place, intake, list(names.values()),
                                              delimiter=delimiter):
        columns = [block[name].to_pylist() for name in names.values()]
        for number, values in zip(numbers, zip(*columns)):
            yield int(number), dict(zip(names, values))
