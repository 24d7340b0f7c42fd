"""What is known of each user, as rows of one table of vectors: city, hobbies, tier.

Any column of `people.parquet` or `users.parquet` will do that says little enough to be
learnt: words, lists of words, truth values, whole numbers of few kinds; other numbers
are cut into eighths of the users.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from oxyrec_jax.base import InputError
from oxyrec_jax.data.packing import count_up

TABLES = ("people.parquet", "users.parquet")  # beside the log; the first one counts
_MOST = 1_000  # kinds of one column; more are names and not kinds; ours
_PARTS = 8     # of the users, into which numbers are cut; ours


@dataclasses.dataclass(frozen=True)
class Profiles:
    """The profiles of S users.

    Attributes:
      names: the columns.
      rows: `[S, C]` int32 rows of a table of vectors, -1 for no vector. A column has as
        many places as its longest list; its first row in the table stands for a value
        that is not known.
      size: rows of the table.
    """

    names: tuple[str, ...]
    rows: np.ndarray
    size: int


def load_profiles(dataset: Any, names: Sequence[str]) -> Profiles:
    """Reads columns of the users' tables.

    The rows follow from the data set alone: values are numbered in their order.

    Args:
      dataset: a prepared data set.
      names: columns, at least one.

    Raises:
      InputError: there is no such column, it is all unknown, it has too many kinds, or
        the table's users are not the data set's.
    """
    users = dataset.user_ids()
    tables = {path: pq.read_table(dataset.folder / path)
              for path in TABLES if (dataset.folder / path).exists()}
    found = {name: path for path, table in reversed(tables.items())
             for name in table.column_names if name != "user_id"}
    parts, first = [], 0
    for name in names:
        if name not in found:
            raise InputError(
                f"model.profile names {name!r}, and the users of {dataset.folder} have "
                f"{', '.join(sorted(found)) or 'no columns'}; name some of these, or "
                "set model.profile=[]")
        path = found[name]
        if tables[path]["user_id"].to_pylist() != users:
            raise InputError(f"{dataset.folder / path} has other users than the data "
                             "set, or another order; make the data set again")
        rows, kinds = _rows(tables[path][name], f"{name!r} of {dataset.folder / path}")
        parts.append(np.where(rows >= 0, rows + first, -1))
        first += kinds
    return Profiles(tuple(names), np.concatenate(parts, axis=1).astype(np.int32),
                    first)


def _rows(column: pa.ChunkedArray, what: str) -> tuple[np.ndarray, int]:
    """Rows `[S, places]` of a column's own table, and how many rows that has."""
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
        values = pc.list_flatten(column)
    else:
        lengths, values = np.ones(len(column), np.int64), column
    values = values.combine_chunks()
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks)
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_floating(values.type):
        codes, kinds = eighths(values.to_numpy(zero_copy_only=False))
    else:
        codes, kinds = _kinds(values, what)
    if kinds == 1:
        raise InputError(f"{what} is known of no user; leave it out of model.profile")
    rows = np.full((len(lengths), max(1, int(lengths.max(initial=1)))), -1, np.int64)
    rows[np.repeat(np.arange(len(lengths)), lengths), count_up(lengths)] = codes
    rows[:, 0] = np.maximum(rows[:, 0], 0)  # nothing at all: not known
    return rows, kinds


def _kinds(values: pa.Array, what: str) -> tuple[np.ndarray, int]:
    """Numbers values from 1 in their order, 0 where there is none."""
    try:
        kinds = pc.unique(values).drop_null()
        kinds = kinds.take(pc.sort_indices(kinds))
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        raise InputError(f"{what} holds {values.type}, expected words, numbers, truth "
                         "values or lists of them") from None
    if len(kinds) > _MOST:
        raise InputError(f"{what} has {len(kinds)} different values, expected at most "
                         f"{_MOST}: a kind of user and not a name")
    codes = pc.fill_null(pc.add(pc.index_in(values, value_set=kinds), 1), 0)
    return codes.to_numpy(zero_copy_only=False).astype(np.int64), len(kinds) + 1


def eighths(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Cuts numbers at their eighths.

    Args:
      values: `[S]` float, not finite where there is none.

    Returns:
      `[S]` int, from 1, 0 where there is none; how many there are, with 0.
    """
    known = np.isfinite(values)
    if not known.any():
        return np.zeros(len(values), np.int64), 1
    edges = np.unique(np.quantile(values[known], np.arange(1, _PARTS) / _PARTS,
                                  method="inverted_cdf"))
    codes = 1 + np.searchsorted(edges, np.where(known, values, 0), side="left")
    return np.where(known, codes, 0), len(edges) + 2
