"""MiniOneRec files: official rows of a history and its target, official splits kept.

Official layout (any of the files may be gzipped; NAME is free):

    train/NAME.csv or train.NAME.csv, valid…, test…   user_id, history_item_id, item_id
    NAME.item.json or index/NAME.item.json            {"0": {"title": …}, …}
    NAME.index.json or index/NAME.index.json          {"0": ["<a_60>", "<b_159>"], …}

Tab-separated layout: `train.tsv` (or `train_recovered.tsv`), `valid.tsv`, `test.tsv`
with the header `user history target`, and `items.jsonl`.

Every row becomes a sequence of its own whose last event is its only target.
"""

import json
import os
import pathlib
from array import array
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from oxyrec_jax.base import InputError
from oxyrec_jax.data import schema
from oxyrec_jax.data.intake import Intake, Place, find
from oxyrec_jax.data.readers import columns as text_columns
from oxyrec_jax.data.readers import items as item_fields
from oxyrec_jax.data.readers.sequences import parse_items, read_item_lines

_SPLITS = ("train", "valid", "test")


def read_minionerec(
    folder: str | os.PathLike, intake: Intake, *,
    text_fields: Sequence[str] = item_fields.TEXT_FIELDS,
) -> schema.Log:
    """Reads a folder of either layout.

    A split whose file is absent stays empty; at least one must be there. What needs an
    empty split (training, for one) then says so.

    Args:
      folder: that holds the files, or in the official layout their parent.
      intake: counts and keeps bad rows: no history, an unknown item.
      text_fields: fields that make an item's text.

    Returns:
      The log with `splits`, in the order train, valid, test; a "user" of it is a row,
      and `users` repeats the names. Published semantic IDs are the item column `sid`.

    Raises:
      InputError: no files of either layout, several that fit, or a damaged one.
    """
    where = pathlib.Path(folder)
    if not where.is_dir():
        raise InputError(f"{where} is not a folder; give the one with MiniOneRec files")
    item_place = _glob(where, ["*.item.json", "index/*.item.json"])
    if item_place is not None:
        codes = _glob(where, ["*.index.json", "index/*.index.json"])
        items = _official_items(item_place, codes, intake, text_fields)
        places = {name: _glob(where, [f"{name}.*.csv", f"{name}*.csv", f"{name}/*.csv"])
                  for name in _SPLITS}
        titles = ("user_id", "history_item_id", "item_id")
    else:
        items = read_item_lines(where, intake, text_fields=text_fields)
        places = {name: find(where, [f"{name}.tsv", f"{name}_recovered.tsv"])
                  for name in _SPLITS}
        titles = ("user", "history", "target")
    if not any(places.values()):
        raise InputError(f"{where} has items but no rows of train, valid or test; add "
                         "the files")
    users: list[str] = []
    flat, lengths = array("i"), array("i")
    splits = {}
    for name, place in places.items():
        begin = len(users)
        for user, events in _rows(place, titles, len(items), intake) if place else ():
            users.append(user)
            flat.extend(events)
            lengths.append(len(events))
        sequence = np.arange(begin, len(users))
        sizes = np.array(lengths[begin:], np.int64)
        splits[name] = np.stack([sequence, sizes - 1, sizes], axis=1)
    return schema.Log(
        np.repeat(np.arange(len(users), dtype=np.int32), np.array(lengths, np.int64)),
        np.array(flat, np.int32), {}, users, items, splits=splits, fixed_catalogue=True)


def _rows(place: Place, titles: Sequence[str], items: int,
          intake: Intake) -> Iterator[tuple[str, list[int]]]:
    for numbers, block in text_columns.blocks(place, intake, titles):
        columns = (block[title].to_pylist() for title in titles)
        for number, (user, history, target) in zip(numbers, zip(*columns)):
            if history[:1] == "[":  # official: a list written as text
                history = history.strip("[]").replace(",", " ")
            past = parse_items(history, items)
            last = parse_items(target, items)
            wrong = (f"history: {past}" if isinstance(past, str) else
                     f"target: {last}" if isinstance(last, str) else
                     "" if user and len(last) == 1 else "no user or not one target")
            if wrong:
                intake.reject(place, int(number), wrong, f"{user} {history} {target}")
            else:
                intake.accept()
                yield user, [*past, *last]  # type: ignore[misc]


def _official_items(place: Place, index: Place | None, intake: Intake,
                    text_fields: Sequence[str]) -> pa.Table:
    rows = _numbered(place, intake)
    codes = _numbered(index, intake) if index is not None else [[]] * len(rows)
    if len(codes) != len(rows):
        raise InputError(f"{index} has {len(codes)} items, {place} has {len(rows)}; "
                         "they are of different releases")
    fields = item_fields.ItemFields([str(n) for n in range(len(rows))], text_fields)
    for number, (row, code) in enumerate(zip(rows, codes)):
        if not isinstance(row, dict) or not isinstance(code, list):
            raise InputError(f"{place} or {index}: item {number} is not an object with "
                             "a list of codes; fetch the files again")
        fields.put(number, {**row, "category": row.get("categories"),
                            "sid": "".join(map(str, code))})
    return fields.table()


def _numbered(place: Place, intake: Intake) -> list:
    with intake.open(place) as file:
        try:
            value = json.loads(file.read())
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"{place} is not valid JSON ({error}); fetch it again"
                             ) from error
    if not isinstance(value, dict) or not value or any(
            str(number) not in value for number in range(len(value))):
        raise InputError(f"{place} is not an object with the keys \"0\", \"1\", … and "
                         "no gap; fetch it again")
    return [value[str(number)] for number in range(len(value))]


def _glob(folder: pathlib.Path, patterns: Sequence[str]) -> Place | None:
    for pattern in patterns:
        found = sorted({*folder.glob(pattern), *folder.glob(f"{pattern}.gz")})
        if len(found) > 1:
            raise InputError(f"{folder} holds {' and '.join(p.name for p in found)}, "
                             f"which both fit {pattern}; keep one")
        if found:
            return Place(found[0])
    return None
