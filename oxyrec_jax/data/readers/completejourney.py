"""The Complete Journey: a year of baskets of households, simulated by its publisher.

    dev/transactions.tsv[.gz]  user item ts basket store quantity sales_value … , header
    items.jsonl[.gz]           one JSON object a line; line n (from 0) is item n

A row says how much of an item was in a basket. Rows inside a basket are in order of
product number and have no order of their own: a basket is a set. `ts` is seconds since
1970 in UTC; that the stores' clock is New York's shows in the hours of the baskets,
which move by one with its summer time. Stores are told by number alone, so that the
scenario of a basket is the part of the day on that clock, `DAY_PARTS`.
"""

import datetime
import os
import zoneinfo
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from oxyrec_jax.base import InputError
from oxyrec_jax.data import schema
from oxyrec_jax.data.intake import Intake, need
from oxyrec_jax.data.readers import columns as text_columns
from oxyrec_jax.data.readers import items as item_fields
from oxyrec_jax.data.readers.sequences import read_item_lines

DAY_PARTS: Mapping[str, int] = {
    "morning": 5, "midday": 11, "afternoon": 14, "evening": 17, "night": 21}
"""The first hour of each part of the day, which lasts until the next; the cuts are
ours. What is bought from 0 to 5 o'clock is of the night."""

ZONE = "America/New_York"
_COLUMNS = ("user", "item", "ts", "basket", "quantity", "sales_value")


def read_completejourney(
    folder: str | os.PathLike, intake: Intake, *,
    text_fields: Sequence[str] = item_fields.TEXT_FIELDS,
) -> schema.Log:
    """Reads the transactions and the items.

    A row is bad where a field is missing or no number, where it names an item that
    there is not, or where its quantity or sales value is negative. Rows of quantity 0
    record no purchase and are no events. What stands twice in a basket is one event.

    Args:
      folder: or zip archive, that holds `dev/` or the transactions themselves.
      intake: counts and keeps bad rows.
      text_fields: fields that make an item's text. Its title is type and size, its
        category department and category.

    Returns:
      The log, in order of household, time and basket, with the columns `time`,
      `request` (the basket), `scenario` (the part of the day) and `price`: what the
      shop took for the item in that basket, all pieces together. `clock` orders
      baskets, not what is in them; the catalogue is fixed.

    Raises:
      InputError: a file is missing, damaged or empty, an item line is not an item, or
        there is no time zone database.
    """
    items = read_item_lines(folder, intake, text_fields=text_fields, fields=_fields)
    place = need(folder, ["dev/transactions.tsv", "transactions.tsv"])
    names, baskets = text_columns.Names(), text_columns.Names()
    parts: dict[str, list[np.ndarray]] = {
        name: [] for name in ("user", "item", "ts", "basket", "sales_value")}
    for numbers, block in text_columns.blocks(place, intake, _COLUMNS, delimiter="\t"):
        values, reasons = _numbers(block, len(items))
        good = text_columns.sort_out(place, intake, numbers, reasons, block)
        keep = good & (values["quantity"] > 0)
        mask = pa.array(keep)
        values["user"] = names.codes(block["user"].filter(mask))
        values["basket"] = baskets.codes(pc.binary_join_element_wise(
            block["user"].filter(mask), block["basket"].filter(mask), "\t"))
        for name, found in parts.items():
            own = values[name]
            found.append(own if name in ("user", "basket") else own[keep])
    joined = {name: np.concatenate(found) if found else np.zeros(0, np.int64)
              for name, found in parts.items()}
    return _log(joined, list(names.index), items)


def day_part(seconds: np.ndarray) -> np.ndarray:
    """Number of the part of the day of Unix seconds, on the stores' clock.

    Args:
      seconds: `[E]` int64.

    Returns:
      `[E]` int8, index into `DAY_PARTS`.
    """
    try:
        zone = zoneinfo.ZoneInfo(ZONE)
    except zoneinfo.ZoneInfoNotFoundError as error:
        raise InputError(f"this machine has no time zone {ZONE}, which the stores' "
                         "clock is read by; run pip install tzdata") from error
    hours, index = np.unique(np.asarray(seconds) // 3_600, return_inverse=True)
    local = np.array([datetime.datetime.fromtimestamp(int(hour) * 3_600, zone).hour
                      for hour in hours], np.int64)
    starts = np.array(list(DAY_PARTS.values()))
    part = (np.searchsorted(starts, local, side="right") - 1) % len(starts)
    return part.astype(np.int8)[index.reshape(-1)]


def _numbers(block: Mapping[str, pa.Array], items: int
             ) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The numeric columns of a block, and why each row is bad, "" where it is not."""
    values: dict[str, np.ndarray] = {}
    reasons = np.full(len(block["user"]), "", object)
    for name in ("user", "basket"):
        empty = pc.equal(block[name], "").to_numpy(zero_copy_only=False)
        reasons[empty & (reasons == "")] = f"no {name}"
    for name in ("item", "ts", "quantity", "sales_value"):
        read = (text_columns.real_numbers if name == "sales_value"
                else text_columns.whole_numbers)
        values[name], good = read(block[name])
        reasons[~good & (reasons == "")] = f"bad {name}"
    unknown = (values["item"] < 0) | (values["item"] >= items)
    reasons[unknown & (reasons == "")] = f"unknown item, there are {items}"
    for name in ("quantity", "sales_value"):
        reasons[(values[name] < 0) & (reasons == "")] = f"negative {name}"
    return values, reasons


def _log(values: Mapping[str, np.ndarray], users: list[str], items: pa.Table
         ) -> schema.Log:
    """One event for each item of each basket, baskets in order of their time."""
    rows = values["basket"].astype(np.int64)
    basket = int(rows.max(initial=-1)) + 1
    began = np.full(basket, np.iinfo(np.int64).max)
    np.minimum.at(began, rows, values["ts"])
    pair, index = np.unique(rows * len(items) + values["item"], return_inverse=True)
    item = (pair % len(items)).astype(np.int32)
    owner = np.zeros(basket, np.int64)
    owner[rows] = values["user"]
    rank = np.empty(basket, np.int64)
    rank[np.lexsort([np.arange(basket), began])] = np.arange(basket)
    number = pair // len(items)
    order = np.lexsort([item, rank[number], owner[number]])
    number = number[order]
    spent = np.bincount(index.reshape(-1), weights=values["sales_value"],
                        minlength=len(pair))[order]
    time = began[number]
    return schema.Log(
        owner[number].astype(np.int32), item[order],
        {"time": time, "scenario": day_part(time), "price": spent.astype(np.float32),
         "request": number}, users, items, clock=rank[number],
        scenarios=tuple(DAY_PARTS), fixed_catalogue=True)


def _fields(row: Mapping[str, object]) -> dict[str, object]:
    """The fields of an item: its type and size are all that it has of a title."""
    def joined(*names: str) -> str:
        return ", ".join(str(row[name]) for name in names if row.get(name))
    return {"title": joined("type", "size"), "brand": row.get("brand"),
            "category": joined("department", "category")}
