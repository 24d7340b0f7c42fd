"""MovieLens ratings in the layouts of 100k, 1M and 20M/25M/32M, folder or zip archive.

| layout  | ratings                         | films                                    |
|---------|---------------------------------|------------------------------------------|
| 100k    | `u.data`: tab, no header        | `u.item`: `|`, latin-1, 19 genre flags   |
| 1M      | `ratings.dat`: `::`, no header  | `movies.dat`: `::`, latin-1, genres `A|B`|
| 20M on  | `ratings.csv` with header       | `movies.csv` with header, genres `A|B`   |
"""

import os
from array import array
from collections.abc import Iterator, Sequence

import numpy as np

from oxyrec_jax.base import InputError
from oxyrec_jax.data import schema
from oxyrec_jax.data.intake import Intake, Place, find, need
from oxyrec_jax.data.readers import columns as text_columns
from oxyrec_jax.data.readers import items as item_fields
from oxyrec_jax.data.readers.tables import TableColumns, read_table

_GENRES = ("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy",
           "Crime", "Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical",
           "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western")


def read_movielens(
    where: str | os.PathLike, intake: Intake, *, min_rating: float = 0.0,
    text_fields: Sequence[str] = item_fields.TEXT_FIELDS,
) -> schema.Log:
    """Reads the ratings and films of any of the three layouts.

    Args:
      where: the unpacked folder, or the zip archive as published.
      intake: counts and keeps bad rows.
      min_rating: the fewest stars of a rating that counts as an event.
      text_fields: fields that make a film's text; `category` is its genres.

    Returns:
      The log, in file order, with `time`.

    Raises:
      InputError: none of the layouts is there, or a file is damaged or empty.
    """
    place = find(where, ["ratings.csv", "ratings.dat", "u.data"])
    if place is None:
        raise InputError(f"{where} holds none of ratings.csv, ratings.dat, u.data; "
                         "give a MovieLens folder or zip archive")
    if place.name == "ratings.csv":
        log = read_table(
            place, None, intake, min_rating=min_rating, text_fields=text_fields,
            columns=TableColumns("userId", "movieId", "timestamp", rating="rating"))
        films = _csv_films(need(where, ["movies.csv"]), intake)
    elif place.name == "ratings.dat":
        log = _lines_log(place, "::", intake, min_rating)
        films = _dat_films(need(where, ["movies.dat"]), intake)
    else:
        log = _lines_log(place, "\t", intake, min_rating)
        films = _item_films(need(where, ["u.item"]), intake)
    names = log.items["item_id"].to_pylist()
    index = {name: number for number, name in enumerate(names)}
    fields = item_fields.ItemFields(names, text_fields)
    for film, title, genres in films:
        intake.accept()
        if film in index:
            fields.put(index[film], {"title": title, "category": genres})
    return schema.Log(log.user, log.item, log.columns, log.users, fields.table(),
                      clock=log.clock)


def _lines_log(place: Place, separator: str, intake: Intake,
               min_rating: float) -> schema.Log:
    users: dict[str, int] = {}
    films: dict[str, int] = {}
    user, item, time = array("i"), array("i"), array("q")
    for line, text in intake.lines(place):
        parts = text.split(separator)
        if len(parts) != 4 or not (parts[0] and parts[1]):
            intake.reject(place, line, "expected user, film, rating, time", text)
            continue
        try:
            stars, when = float(parts[2]), int(parts[3])
        except ValueError:
            intake.reject(place, line, "rating or time is not a number", text)
            continue
        intake.accept()
        if stars >= min_rating:
            user.append(users.setdefault(parts[0], len(users)))
            item.append(films.setdefault(parts[1], len(films)))
            time.append(when)
    clock = np.array(time, np.int64)
    return schema.Log(np.array(user, np.int32), np.array(item, np.int32),
                      {"time": clock}, list(users),
                      schema.item_table({"item_id": list(films)}), clock=clock)


Films = Iterator[tuple[str, str, str]]  # id, title, genres


def _csv_films(place: Place, intake: Intake) -> Films:
    names = ("movieId", "title", "genres")
    for _, block in text_columns.blocks(place, intake, names):
        for film, title, genres in zip(*(block[name].to_pylist() for name in names)):
            yield film, title, _listed(genres)


def _dat_films(place: Place, intake: Intake) -> Films:
    for line, text in intake.lines(place, "latin-1"):
        parts = text.split("::")
        if len(parts) == 3:
            yield parts[0], parts[1], _listed(parts[2])
        else:
            intake.reject(place, line, "expected film, title, genres", text)


def _item_films(place: Place, intake: Intake) -> Films:
    for line, text in intake.lines(place, "latin-1"):
        parts = text.split("|")
        if len(parts) == 5 + len(_GENRES):
            yield parts[0], parts[1], ", ".join(
                genre for genre, flag in zip(_GENRES, parts[5:]) if flag == "1")
        else:
            intake.reject(place, line, f"expected {5 + len(_GENRES)} columns", text)


def _listed(genres: str) -> str:
    return "" if genres.startswith("(no genres") else genres.replace("|", ", ")
