"""Item tables from whatever metadata a source has: cleaned fields and one text."""

import ast
import html
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from oxyrec_jax.data import schema

TEXT_FIELDS = ("title", "brand", "category", "description")
_RAW_LIMIT = 20_000  # characters that are cleaned; keeps odd pages from costing seconds
_TEXT_LIMIT = 1_000  # ours: characters of `text`; encoders read a few hundred tokens
_HIDDEN = re.compile(r"<!--.*?-->|<(script|style)\b.*?</\1\s*>", re.DOTALL | re.I)
_TAG = re.compile(r"<[^<>]*>")
_PRICE = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")


class ItemFields:
    """Collects the fields of items by row and makes the item table.

    Args:
      ids: the items' names; row = item id.
      text_fields: which fields make `text`, in this order, joined by ". ". Where an
        item has no title, its keywords stand in.
    """

    def __init__(self, ids: Sequence[str], text_fields: Sequence[str] = TEXT_FIELDS):
        self._ids, self._text_fields = list(ids), tuple(text_fields)
        self._rows: list[dict[str, Any] | None] = [None] * len(self._ids)

    def put(self, row: int, fields: Mapping[str, Any]) -> None:
        """Sets an item's fields.

        Args:
          row: of the item.
          fields: any of title, brand, category, description, keywords (text, a list of
            texts, or a list written as text), price (a number or text such as "$1.99")
            and sid (a published semantic ID). Others are not kept.
        """
        self._rows[row] = {name: value for name, value in fields.items() if value}

    def table(self) -> pa.Table:
        """Makes the table of `schema.ITEM_FIELDS`, and `sid` where any item has one."""
        columns: dict[str, list] = {
            name: [] for name in ("title", "text", "category", "brand", "price", "sid")}
        for raw in self._rows:
            raw = raw or {}
            fields = {name: clean(raw.get(name)) for name in
                      ("title", "brand", "category", "description", "keywords")}
            for name in ("title", "category", "brand"):
                columns[name].append(fields[name])
            named = {**fields, "title": fields["title"] or fields["keywords"]}
            parts = [named.get(name) for name in self._text_fields]
            text = ". ".join(part for part in parts if part)[:_TEXT_LIMIT]
            columns["text"].append(text or None)
            columns["price"].append(price(raw.get("price")))
            columns["sid"].append(raw.get("sid"))
        sids = columns.pop("sid")
        table = schema.item_table({"item_id": self._ids, **columns})
        if any(sids):
            table = table.append_column("sid", pa.array(sids, pa.string()))
        return table


def clean(value: Any) -> str | None:
    """Returns readable text: lists joined, markup and entities gone, spaces single.

    Args:
      value: text, a list of texts, a list written as text, or None.

    Returns:
      The text, None where nothing is left.
    """
    if isinstance(value, str) and value[:1] == "[" and value[-1:] == "]":
        value = _written_list(value[:_RAW_LIMIT])
    if isinstance(value, (list, tuple)):
        value = " ".join(str(part) for part in value)
    if value is None:
        return None
    text = html.unescape(_TAG.sub(" ", _HIDDEN.sub(" ", str(value)[:_RAW_LIMIT])))
    return " ".join(text.split()) or None


def price(value: Any) -> float | None:
    """Returns the first amount in `value`, None where there is none."""
    match = _PRICE.search(value) if isinstance(value, str) else None
    if isinstance(value, str):
        value = float(match[0].replace(",", "")) if match else None
    if isinstance(value, (int, float)) and math.isfinite(value) and value >= 0:
        return float(value)
    return None


def _written_list(text: str) -> Any:
    try:
        with warnings.catch_warnings():  # odd escapes in foreign text
            warnings.simplefilter("ignore")
            value = ast.literal_eval(text)  # literals only: runs nothing
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    return value if isinstance(value, list) else text
