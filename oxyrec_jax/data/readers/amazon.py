"""Amazon reviews as JSON lines, with product metadata: releases of 2018 and 2023.

| field    | 2018                        | 2023                                |
|----------|-----------------------------|-------------------------------------|
| user     | `reviewerID`                | `user_id`                           |
| item     | `asin`                      | `parent_asin` (variants together)   |
| time     | `unixReviewTime`, s, whole days | `timestamp`, ms                 |
| stars    | `overall`                   | `rating`                            |
| metadata | `asin title brand category description price` | `parent_asin title store categories description price` |

Files may be gzipped. Metadata is read only for items that have a review.
"""  # noqa: E501

import dataclasses
import os
import pathlib
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from oxyrec_jax.base import InputError
from oxyrec_jax.data import schema
from oxyrec_jax.data.intake import Intake, Place
from oxyrec_jax.data.readers import items as item_fields


@dataclasses.dataclass(frozen=True)
class _Names:
    user: str
    item: str
    time: str
    per_second: int
    stars: str
    brand: str
    category: str


_RELEASES: Mapping[int, _Names] = {
    2018: _Names("reviewerID", "asin", "unixReviewTime", 1, "overall", "brand",
                 "category"),
    2023: _Names("user_id", "parent_asin", "timestamp", 1000, "rating", "store",
                 "categories"),
}


def read_amazon(
    reviews: str | os.PathLike, metadata: str | os.PathLike | None, intake: Intake, *,
    release: int, min_rating: float = 0.0,
    text_fields: Sequence[str] = item_fields.TEXT_FIELDS,
) -> schema.Log:
    """Reads a review file and its metadata file.

    Args:
      reviews: JSON lines.
      metadata: JSON lines, None for items without text.
      intake: counts and keeps bad rows of both files.
      release: 2018 or 2023.
      min_rating: the fewest stars of a review that counts as an event.
      text_fields: fields that make an item's text.

    Returns:
      The log in file order, with `time` (s) and the release's own clock.

    Raises:
      InputError: an unknown release, or a file that is missing, damaged or empty.
    """
    names = _RELEASES.get(release)
    if names is None:
        raise InputError(f"the Amazon release {release} is not known, expected one of "
                         f"{', '.join(map(str, _RELEASES))}")
    users: dict[str, int] = {}
    ids: dict[str, int] = {}
    user, item, clock = array("i"), array("i"), array("q")
    place = Place(pathlib.Path(reviews))
    for line, row, text in intake.objects(place):
        wrong = _wrong(row, names)
        if wrong:
            intake.reject(place, line, wrong, text)
            continue
        intake.accept()
        if row[names.stars] >= min_rating:
            user.append(users.setdefault(row[names.user], len(users)))
            item.append(ids.setdefault(row[names.item], len(ids)))
            clock.append(row[names.time])
    fields = item_fields.ItemFields(list(ids), text_fields)
    if metadata is not None:
        _read_metadata(Place(pathlib.Path(metadata)), intake, names, ids, fields)
    ticks = np.array(clock, np.int64)
    return schema.Log(np.array(user, np.int32), np.array(item, np.int32),
                      {"time": ticks // names.per_second}, list(users), fields.table(),
                      clock=ticks)


def _wrong(row: dict[str, Any], names: _Names) -> str:
    for name in (names.user, names.item):
        if not isinstance(row.get(name), str) or not row[name]:
            return f"no {name}"
    time = row.get(names.time)
    if type(time) is not int or abs(time) >= 1 << 62:
        return f"{names.time} is not a whole number"
    if not isinstance(row.get(names.stars), (int, float)):
        return f"{names.stars} is not a number"
    return ""


def _read_metadata(place: Place, intake: Intake, names: _Names, ids: Mapping[str, int],
                   fields: item_fields.ItemFields) -> None:
    for line, row, text in intake.objects(place):
        if not isinstance(row.get(names.item), str):
            intake.reject(place, line, f"no {names.item}", text)
            continue
        intake.accept()
        number = ids.get(row[names.item])
        if number is not None:
            category = row.get(names.category)
            if isinstance(category, list):
                category = ", ".join(str(part) for part in category)
            fields.put(number, {
                "title": row.get("title"), "brand": row.get(names.brand),
                "category": category, "description": row.get("description"),
                "price": row.get("price")})
