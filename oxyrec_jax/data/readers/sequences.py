"""Sequence files: one line for each user, items oldest first, no times.

    sequences.tsv[.gz]   user TAB item item item …      items are 0-based numbers
    items.jsonl[.gz]     one JSON object a line; line n (from 0) is item n

An item's object may hold `oid` (its name), `title`, `brand`, `category` (or
`categories`, or `department`, `category` and `type`), `description`, `keywords`,
`price` and a published semantic ID `sid` (or `sid_letter`).
"""

import json
import os
import re
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from oxyrec_jax.base import InputError
from oxyrec_jax.data import schema
from oxyrec_jax.data.intake import Intake, need
from oxyrec_jax.data.readers import items as item_fields

_NUMBERS = re.compile(r"( *[0-9]{1,9})( +[0-9]{1,9})* *")


def read_sequences(
    folder: str | os.PathLike, intake: Intake, *,
    text_fields: Sequence[str] = item_fields.TEXT_FIELDS,
) -> schema.Log:
    """Reads a folder of `sequences.tsv` and `items.jsonl`.

    A line is bad where it has not two columns, names a user again, or holds something
    else than numbers of known items; the whole sequence is then left out, as what was
    dropped from its middle would be asked for as if it had never been.

    Args:
      folder: or zip archive, that holds both files.
      intake: counts and keeps bad rows.
      text_fields: fields that make an item's text.

    Returns:
      The log, in file order, without a clock; the catalogue is fixed.

    Raises:
      InputError: a file is missing, damaged or empty, or an item line is not an item.
    """
    table = read_item_lines(folder, intake, text_fields=text_fields)
    place = need(folder, ["sequences.tsv"])
    users: dict[str, int] = {}
    user, item = array("i"), array("i")
    for line, text in intake.lines(place):
        name, *rest = text.split("\t")
        numbers = parse_items(rest[0], len(table)) if len(rest) == 1 else None
        if numbers is None:
            intake.reject(place, line, "expected 2 columns: user TAB items", text)
        elif isinstance(numbers, str):
            intake.reject(place, line, numbers, text)
        elif not name or name in users:
            intake.reject(place, line, "the user has a line already" if name else
                          "no user", text)
        else:
            user.extend([users.setdefault(name, len(users))] * len(numbers))
            item.extend(numbers)
            intake.accept()
    return schema.Log(np.array(user, np.int32), np.array(item, np.int32), {},
                      list(users), table, fixed_catalogue=True)


def fields_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an item as `ItemFields.put` takes them, from its JSON object."""
    category = row.get("categories") or [
        row[name] for name in ("department", "category", "type") if row.get(name)]
    if isinstance(category, list):
        category = ", ".join(str(part) for part in category)
    return {**row, "category": category, "sid": row.get("sid") or row.get("sid_letter")}


def read_item_lines(folder: str | os.PathLike, intake: Intake, *,
                    text_fields: Sequence[str],
                    fields: Callable[[Mapping[str, Any]], dict[str, Any]] = fields_of
                    ) -> pa.Table:
    """Reads `items.jsonl`, in which a bad line would shift every item after it.

    Args:
      folder: or zip archive, that holds it.
      intake: opens it.
      text_fields: fields that make an item's text.
      fields: the fields of an item from its JSON object.

    Raises:
      InputError: a line is no JSON object, or its `item` is not its number.
    """
    place = need(folder, ["items.jsonl"])
    rows: list[dict[str, Any]] = []
    for line, text in intake.lines(place):
        try:
            row = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"{place} line {line} is not JSON ({error}); items cannot "
                             "be left out, as their line is their number") from error
        if not isinstance(row, dict) or row.get("item", len(rows)) != len(rows):
            raise InputError(f"{place} line {line} is {text[:60]!r}, expected an "
                             f"object with item {len(rows)}; sort the lines by item")
        rows.append(row)
    if not rows:
        raise InputError(f"{place} has no line that is an item; fetch it again")
    names = [str(row.get("oid", row.get("item", number)))
             for number, row in enumerate(rows)]
    table = item_fields.ItemFields(names, text_fields)
    for number, row in enumerate(rows):
        table.put(number, fields(row))
    return table.table()


def parse_items(text: str, items: int) -> list[int] | str:
    """Returns the item numbers of "3 1 4", or what is wrong with them."""
    if not text.strip():
        return "no items"
    if not _NUMBERS.fullmatch(text):
        return "an item is not a number"
    numbers = [int(part) for part in text.split()]
    if max(numbers) >= items:
        return f"unknown item, there are {items}"
    return numbers
