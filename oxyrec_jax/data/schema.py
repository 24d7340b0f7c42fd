"""The one event schema: what an event, an item and a log are.

An event says that a user met an item. Only `user` and `item` are compulsory:

| column      | dtype   | meaning                                            | none |
|-------------|---------|----------------------------------------------------|------|
| `item`      | int32   | row of the item table                              | –    |
| `time`      | int64   | seconds since 1970 (UTC)                           | –    |
| `behaviour` | int8    | index into the data set's list of behaviours       | –    |
| `scenario`  | int8    | index into the data set's list of scenarios        | –    |
| `trigger`   | int32   | item that opened the scenario                      | -1   |
| `query`     | int32   | index into the data set's table of query strings   | -1   |
| `price`     | float32 | price paid or shown, in the log's own currency     | NaN  |
| `request`   | int64   | events of one request (page, basket) share a number| -1   |

The user is not a column of prepared data: one sequence is one user.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

COLUMNS: Mapping[str, np.dtype] = {
    "item": np.dtype(np.int32),
    "time": np.dtype(np.int64),
    "behaviour": np.dtype(np.int8),
    "scenario": np.dtype(np.int8),
    "trigger": np.dtype(np.int32),
    "query": np.dtype(np.int32),
    "price": np.dtype(np.float32),
    "request": np.dtype(np.int64),
}

# What a batch holds where there is no event.
PADDING: Mapping[str, int] = {name: -1 if name in ("trigger", "query", "request") else 0
                              for name in COLUMNS}

# From weak to strong; a log that uses other words stores its own list.
BEHAVIOURS: tuple[str, ...] = ("impression", "view", "click", "cart", "order", "rating")
SCENARIOS: tuple[str, ...] = ("home", "feed", "channel", "cart", "checkout", "search")

# The columns that every item table has, null where unknown; it may have more.
ITEM_FIELDS: Mapping[str, pa.DataType] = {
    "item_id": pa.string(),
    "title": pa.string(),
    "text": pa.string(),  # what the text encoder reads
    "category": pa.string(),
    "brand": pa.string(),
    "price": pa.float32(),
}


@dataclasses.dataclass(frozen=True)
class Log:
    """Events in the order of their file, before filters and splits.

    Attributes:
      user: `[E]` int32, index into `users`.
      item: `[E]` int32, row of `items`.
      columns: other columns of `COLUMNS` that the source has, `[E]` each.
      users: the users' names, in order of first appearance.
      items: the item table; has at least `ITEM_FIELDS`.
      clock: `[E]` int64 or None: the finest time that the source knows, in any unit.
        Orders a user's events; None where the file's order is all there is.
      splits: the source's own splits as `[R, 3]` rows `(user, first, last)`, or None.
      behaviours, scenarios, queries: the names that the columns of that name index.
      fixed_catalogue: the item table stays as it is even where an item has no event.
    """

    user: np.ndarray
    item: np.ndarray
    columns: Mapping[str, np.ndarray]
    users: Sequence[str]
    items: pa.Table
    clock: np.ndarray | None = None
    splits: Mapping[str, np.ndarray] | None = None
    behaviours: tuple[str, ...] = ()
    scenarios: tuple[str, ...] = ()
    queries: tuple[str, ...] = ()
    fixed_catalogue: bool = False


def item_table(columns: Mapping[str, Sequence | pa.Array]) -> pa.Table:
    """Makes an item table: the fields of `ITEM_FIELDS` first, null where not given.

    Args:
      columns: `item_id` and any other columns, equally long.

    Returns:
      The table; columns outside `ITEM_FIELDS` follow, as given.

    Raises:
      ValueError: `item_id` is missing.
    """
    if "item_id" not in columns:
        raise ValueError(f"item_id is missing from {sorted(columns)}")
    rows = len(columns["item_id"])
    arrays = {}
    for name, kind in ITEM_FIELDS.items():
        values = columns.get(name)
        if values is None:
            arrays[name] = pa.nulls(rows, kind)
        elif isinstance(values, (pa.Array, pa.ChunkedArray)):
            arrays[name] = values.cast(kind)
        else:
            arrays[name] = pa.array(values, kind)
    extra = {name: columns[name] for name in columns if name not in ITEM_FIELDS}
    return pa.table({**arrays, **extra})


def opens_request(offsets: np.ndarray, request: np.ndarray | None) -> np.ndarray:
    """Which events are the first of their request, `[E]` bool.

    Args:
      offsets: `[S+1]` int, where each sequence begins.
      request: `[E]` int, numbers of the requests, negative where an event has none and
        stands for itself; None: of all.
    """
    opens = np.ones(int(offsets[-1]), bool)
    if request is not None:
        opens[1:] = (request[1:] != request[:-1]) | (request[1:] < 0)
        opens[offsets[:-1]] = True
    return opens
