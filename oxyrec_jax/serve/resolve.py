"""From names to numbers: what a request means for one snapshot."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from oxyrec_jax.serve.people import People
from oxyrec_jax.serve.refusal import Refusal
from oxyrec_jax.serve.rows import Row, sides_of
from oxyrec_jax.serve.schema import Event, Filters, RecommendRequest
from oxyrec_jax.serve.snapshot import Snapshot

_TOLD = 20  # names in one message


@dataclasses.dataclass(frozen=True)
class Resolved:
    """A request in numbers.

    Attributes:
      row: what the network reads.
      words: `[W]` uint32 bits of what is allowed; None: all.
      allowed: how many items that is.
      history: `[n]` int32 rows of the whole history.
      skipped: names that the catalogue does not know and that were left out.
      note: what was left out of the history, or "".
    """

    row: Row
    words: np.ndarray | None
    allowed: int
    history: np.ndarray
    skipped: list[str]
    note: str


def resolve(request: RecommendRequest, snapshot: Snapshot, people: People, *,
            most: int) -> Resolved:
    """Turns names into numbers.

    Args:
      request: what was asked.
      snapshot: whose numbers.
      people: users of the log.
      most: events that the network reads of a history.

    Raises:
      Refusal: 422, a name that there is not, or something that the network of this
        experiment does not read.
    """
    model = snapshot.model
    _check_read(request, snapshot)
    user = None if request.user is None else people.rows.get(request.user)
    times: np.ndarray | None
    if request.history is not None:
        items, columns, times, skipped = _given(request, snapshot, people)
        if not len(items):
            raise _wrong("history", "unknown_item", "no item of the history is in the "
                         f"catalogue: {_list(skipped)}")
    else:
        if request.user is None:
            raise _wrong("user", "missing", "give a user or a history")
        if user is None:
            raise _wrong("user", "unknown_user", f"{request.user!r} is no user of the "
                         "log; give a history instead")
        items, columns = people.events(user, most + model.cfg.retrieval.events)
        skipped, times = [], columns.pop("time", None)
    length = (len(items) if user is None or request.history is not None else
              int(people.offsets[user + 1] - people.offsets[user]))
    note = (f"The history has {length} events, the network reads the newest {most}."
            if length > most else "")
    row = Row(
        items.astype(np.int32), sides_of(times, request.time, columns, model.cfg.told),
        people.profile(user),
        _number(request.scenario, people.scenarios, "scenario", 0),
        _number(request.behaviour, people.behaviours, "behaviour", people.asked),
        -1 if request.trigger is None else _row(request.trigger, snapshot, "trigger"))
    words, unknown = allowed_words(request.filters, snapshot, items)
    return Resolved(row, words, count(words, snapshot), items, skipped + unknown, note)


def allowed_words(filters: Filters, snapshot: Snapshot, history: Sequence[int] | (
        np.ndarray) = ()) -> tuple[np.ndarray | None, list[str]]:
    """Bits `[W]` of what filters allow, None for all; and item ids that are unknown,
    which nothing could recommend anyway.

    Raises:
      Refusal: 422, a set, column or value that there is not.
    """
    parts: list[np.ndarray] = []
    unknown: list[str] = []

    def bits(names: Sequence[str]) -> np.ndarray:
        unknown.extend(name for name in names if name not in snapshot.rows)
        return snapshot.bits([snapshot.rows[name] for name in names
                              if name in snapshot.rows])
    for column, values in filters.where.items():
        kinds = snapshot.kinds.get(column)
        if kinds is None:
            raise _wrong("filters.where", "unknown_column", f"{column!r} is no column "
                         f"to filter by; there are {_list(list(snapshot.kinds))}")
        odd = next((value for value in values if value not in kinds.number), None)
        if odd is not None:
            raise _wrong(f"filters.where.{column}", "unknown_value",
                         f"no item has the {column} {odd!r}; there are "
                         f"{_list(list(kinds.number))}")
        parts.append(snapshot.pack(np.isin(
            kinds.at, [kinds.number[value] for value in values])))
    for name in filters.sets:
        if name not in snapshot.sets:
            raise _wrong("filters.sets", "unknown_set", f"{name!r} is no set of items; "
                         f"there are {_list(list(snapshot.sets)) or 'none'}")
        parts.append(snapshot.sets[name])
    if filters.allow_items is not None:
        parts.append(bits(filters.allow_items))
    if filters.deny_items:
        parts.append(~bits(filters.deny_items))
    if filters.exclude_history and len(history):
        parts.append(~snapshot.bits(history))
    if not parts:
        return None, unknown
    return np.bitwise_and.reduce(parts), unknown


def count(words: np.ndarray | None, snapshot: Snapshot) -> int:
    """How many items bits allow."""
    return (snapshot.items if words is None else
            int(snapshot.admits(words).sum()))


def _given(request: RecommendRequest, snapshot: Snapshot, people: People
           ) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray | None, list[str]]:
    """Items, columns and times of a history in the request, and what is unknown."""
    given = request.history or ()
    names = [event.item if isinstance(event, Event) else event for event in given]
    unknown = [name for name in names if name not in snapshot.rows]
    if unknown and request.unknown_items == "error":
        raise _wrong("history", "unknown_item", "the catalogue has no "
                     f"{_list(unknown)}; leave it out, or set unknown_items to "
                     "\"skip\"")
    rows = np.array([snapshot.rows[name] for name in names if name in snapshot.rows],
                    np.int32)
    if not any(isinstance(event, Event) for event in given):
        return rows, {}, None, unknown
    events = [event if isinstance(event, Event) else Event(item=event)
              for event, name in zip(given, names) if name in snapshot.rows]
    columns = {}
    if any(event.behaviour is not None for event in events):
        columns["behaviour"] = np.array([_number(
            event.behaviour, people.behaviours, "history.behaviour", 0)
            for event in events])
    if any(event.scenario is not None for event in events):
        columns["scenario"] = np.array([_number(
            event.scenario, people.scenarios, "history.scenario", 0)
            for event in events])
    if any(event.price is not None for event in events):
        columns["price"] = np.array([event.price or 0.0 for event in events],
                                    np.float32)
    times: np.ndarray | None = None
    seconds = [event.time for event in events if event.time is not None]
    if seconds:
        if len(seconds) < len(events) or seconds != sorted(seconds):
            raise _wrong("history.time", "times", "events of a history have all a time "
                         "or none, oldest first")
        times = np.array(seconds, np.int64)
    return rows, columns, times, unknown


def _check_read(request: RecommendRequest, snapshot: Snapshot) -> None:
    reads = snapshot.model.cfg.instructions.reads
    for name in ("scenario", "trigger", "behaviour", "instruction"):
        if getattr(request, name) is not None and f"target_{name}" not in reads:
            raise _wrong(name, "not_read", "the network of this server reads no "
                         f"{name}; leave it out")


def _number(name: str | None, names: Sequence[str], field: str, default: int) -> int:
    if name is None:
        return default
    if name not in names:
        raise _wrong(field, "unknown_name", f"{name!r} is none of "
                     f"{_list(list(names)) or 'the names of the log, which has none'}")
    return names.index(name)


def _row(item: str, snapshot: Snapshot, field: str) -> int:
    if item not in snapshot.rows:
        raise _wrong(field, "unknown_item", f"the catalogue has no {item!r}")
    return snapshot.rows[item]


def _wrong(field: str, reason: str, message: str) -> Refusal:
    return Refusal(422, reason, message, field)


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    return ", ".join(map(str, names[:_TOLD])) + more
