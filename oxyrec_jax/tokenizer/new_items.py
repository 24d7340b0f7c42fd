"""Files of new items, and of the ids of items that leave.

A file of new items is read whole and must be right in every row: an item that was
skipped without a word would be one that nobody is ever recommended.
"""

import csv
import io
import json
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa

from oxyrec_jax.base import InputError
from oxyrec_jax.data.readers.items import TEXT_FIELDS, ItemFields, price
from oxyrec_jax.tokenizer import embeddings

_FIELDS = ("title", "text", "category", "brand", "description", "price")
FORMATS = (".parquet", ".csv", ".tsv", ".jsonl")


def read_new_items(path: pathlib.Path, known: Collection[str], *,
                   columns: Mapping[str, str] | None = None,
                   text_fields: Sequence[str] = TEXT_FIELDS) -> pa.Table:
    """Reads the items that join a catalogue.

    Args:
      path: Parquet, CSV or TSV with a header, or JSON lines. `item_id` must be there;
        `title`, `text`, `category`, `brand`, `description` and `price` are read where
        they are. Without `text` it is made of the others, as `prepare` does.
      known: ids of the items that are in the catalogue.
      columns: other names of these fields in the file.
      text_fields: fields that make the text, in this order.

    Returns:
      An item table of M >= 1 rows, in the order of the file.

    Raises:
      InputError: the file is missing, empty, damaged or of another format; a row has no
        id, an id that stands twice or is known, or a price that is no number; the first
        such row is named.
    """
    rows = _rows(path)
    if not rows:
        raise InputError(f"{path} holds no items; give at least one")
    names = {field: name for field, name in (columns or {}).items() if name}
    found = {name for row in rows for name in row}
    names = {field: names[field] if names.get(field) in found else field
             for field in ("item_id", *_FIELDS)}
    if names["item_id"] not in found:
        raise InputError(f"{path} has no column {names['item_id']}; it has "
                         f"{', '.join(sorted(found))[:200]}")
    seen: dict[str, int] = {}
    for place, row in enumerate(rows, 1):
        item = row.get(names["item_id"])
        if item is None or str(item).strip() == "":
            raise InputError(f"{path}: item {place} has no id; give it one")
        if str(item) in seen:
            raise InputError(f"{path}: item {place} has the id {item} of item "
                             f"{seen[str(item)]}; keep one of them")
        seen[str(item)] = place
    again = [item for item in seen if item in known]
    if again:
        raise InputError(f"{path}: {len(again)} of {len(seen)} items are in the "
                         f"catalogue already, the first is {again[0]}; leave them out")
    return _table(path, rows, names, list(seen), text_fields)


def read_ids(path: pathlib.Path, known: Collection[str]) -> list[str]:
    """Reads item ids, one a line.

    Args:
      path: a text file; blank lines are skipped.
      known: ids that may stand there.

    Raises:
      InputError: the file is missing, empty or no text, or an id is unknown or stands
        twice, with its line.
    """
    ids: dict[str, int] = {}
    for line, text in enumerate(_text(path).splitlines(), 1):
        name = text.strip()
        if not name:
            continue
        if name in ids:
            raise InputError(f"{path} line {line}: {name} stands in line {ids[name]} "
                             "too; keep one")
        if name not in known:
            raise InputError(f"{path} line {line}: no item {name} in the catalogue of "
                             f"{len(known)}; correct the id")
        ids[name] = line
    if not ids:
        raise InputError(f"{path} holds no item ids; give one a line")
    return list(ids)


def _table(path: pathlib.Path, rows: Sequence[Mapping[str, Any]],
           names: Mapping[str, str], ids: list[str], text_fields: Sequence[str]
           ) -> pa.Table:
    fields = ItemFields(ids, text_fields)
    for place, row in enumerate(rows):
        values = {field: row.get(name) for field, name in names.items()}
        if values["price"] not in (None, "") and price(values["price"]) is None:
            raise InputError(f"{path}: item {place + 1} ({ids[place]}) has the price "
                             f"{values['price']}; give a number or leave it out")
        fields.put(place, values)
    table = fields.table()
    given = [row.get(names["text"]) for row in rows]
    if any(given):
        texts = [str(own) if own else made for own, made in
                 zip(given, table["text"].to_pylist(), strict=True)]
        place = table.column_names.index("text")
        table = table.set_column(place, "text", pa.array(texts, pa.string()))
    return table


def _rows(path: pathlib.Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise InputError(f"{path} does not exist; give the file of new items")
    if path.suffix not in FORMATS:
        raise InputError(f"{path} ends in {path.suffix!r}, expected one of "
                         f"{', '.join(FORMATS)}")
    if not path.stat().st_size:
        raise InputError(f"{path} is empty; give at least one item")
    if path.suffix == ".parquet":
        return _scalars(embeddings.read_table(path)).to_pylist()
    text = _text(path)
    if path.suffix == ".jsonl":
        return _json_rows(path, text)
    lines = csv.reader(io.StringIO(text, newline=""),
                       delimiter="\t" if path.suffix == ".tsv" else ",")
    try:
        header, *rows = [line for line in lines if line]
    except (csv.Error, ValueError) as error:
        raise InputError(f"{path} is not a table with a header ({error})") from error
    for place, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise InputError(f"{path}: item {place} has {len(row)} fields, the header "
                             f"{len(header)}; mend the file")
    return [dict(zip(header, row, strict=True)) for row in rows]


def _scalars(table: pa.Table) -> pa.Table:
    """The table without its columns of vectors."""
    lists = [field.name for field in table.schema
             if not pa.types.is_string(getattr(field.type, "value_type", pa.string()))]
    return table.drop_columns(lists)


def _json_rows(path: pathlib.Path, text: str) -> list[dict[str, Any]]:
    rows = []
    for line, part in enumerate(text.splitlines(), 1):
        if not part.strip():
            continue
        try:
            row = json.loads(part)
        except (json.JSONDecodeError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise InputError(f"{path} line {line} is not a JSON object; mend the file")
        rows.append(row)
    return rows


def _text(path: pathlib.Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error})") from error
    except OSError as error:
        raise InputError(f"{path} could not be read: {error.strerror}") from error
