"""States of a data set's users at any moment of its log, for slow thinking.

A state as of a moment holds what was done before it and nothing of what came after.
"""

import datetime
from collections.abc import Iterator

import numpy as np

from oxyrec_jax import progress
from oxyrec_jax.base import InputError
from oxyrec_jax.data import schema
from oxyrec_jax.data.dataset import Dataset
from oxyrec_jax.data.shop import observed
from oxyrec_jax.data.shop.prepare import SOURCE
from oxyrec_jax.data.target_weights import target_events
from oxyrec_jax.thinking.changes import ChangedUsers
from oxyrec_jax.thinking.states import Deed, UserState

_AT_ONCE = 4_096  # states whose places are looked up together
_PARTS = ("night", "morning", "afternoon", "evening")  # six hours each


class LogStates:
    """Gives the states of users at moments.

    Args:
      dataset: the log. A simulated shop's also tells place, weather, holidays, profile
        and the facts that hold; of others it is history and searches.
      history: most recent events of a state.
      searches: most recent searches.
    """

    def __init__(self, dataset: Dataset, *, history: int = 20, searches: int = 5):
        self.dataset, self.users = dataset, dataset.user_ids()
        self._deeds, self._words = history, searches
        self._offsets = np.asarray(dataset.offsets())
        self._seen = (observed.Observed(dataset) if dataset.manifest["source"] == SOURCE
                      else None)
        table = dataset.item_table()
        self._titles = [title or text or name for name, title, text in zip(*(
            table[name].to_pylist() for name in ("item_id", "title", "text")))]
        self.times = (np.asarray(dataset.column("time")) if "time" in dataset.columns
                      else None)
        self._columns = {name: dataset.column(name) for name in ("item", "behaviour")
                         if name in dataset.columns}
        self._behaviours = list(dataset.manifest.get("behaviours", ()))
        self._queries = dataset.queries()
        self._typed = self._searches()
        self._first = 0 if self.times is None else int(self.times.min())
        self._keys = self._keys_of(self._owner(), self.times)
        self._typed_keys = self._keys_of(self._typed[0], self._typed[1])

    def states(self, sequences: np.ndarray, moments: np.ndarray | None
               ) -> Iterator[UserState]:
        """Yields the states of M users.

        Args:
          sequences: `[M]` numbers of sequences; may repeat.
          moments: `[M]` int64 seconds since 1970: a state has seen what was done before
            and stands for the window that ended then. None, for logs without times: it
            has seen everything, and its window is the run's.
        """
        for start in range(0, len(sequences), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            yield from self._some(sequences[part],
                                  None if moments is None else moments[part])

    def everyone(self, now: int) -> np.ndarray:
        """Returns the sequences that had begun before a moment."""
        if self.times is None:
            return np.arange(len(self.users))
        return np.flatnonzero(self.times[self._offsets[:-1]] < now)

    def changed(self, since: int, now: int, window: int
                ) -> tuple[np.ndarray, np.ndarray]:
        """Returns who did something from `since` on, once for each window that had
        ended by `now`: `[M]` sequences and `[M]` windows, in order of window."""
        times = self._timed()
        events = np.flatnonzero((times >= since) & (times < now))
        events = events[np.argsort(times[events], kind="stable")]
        names = [self.users[number] for number in self._owner()[events].tolist()]
        changes, found = ChangedUsers(window), []
        for name, time in progress.track(zip(names, times[events].tolist()),
                                         "finding changed users", len(events)):
            changes.add(name, time)
            found += changes.ended()
        found += changes.due(now)
        counts = [len(due.users) for due in found]
        number = {name: sequence for sequence, name in enumerate(self.users)}
        sequences = [number[user] for due in found for user in due.users]
        return (np.array(sequences, np.int64),
                np.repeat([due.window for due in found], counts).astype(np.int64))

    def before(self, split: str, window: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns for the targets of a split the latest window that had ended when they
        were asked for, each user and window once: `[M]` sequences and `[M]` windows."""
        self._timed()
        sequences = self.dataset.targets(split)[:, 0]
        moments = request_times(self.dataset)[
            target_events(self.dataset, split)] // window * window
        found = np.unique(np.stack([moments, sequences], axis=1), axis=0)
        return found[:, 1], found[:, 0]

    def at_requests(self, events: np.ndarray) -> Iterator[UserState]:
        """Yields a state for each event's request: what was known when it was made.

        Unlike `states` it needs no times: of a log without, the events that stand
        before the request's are what was known, and no searches.

        Args:
          events: `[M]` numbers among all events.
        """
        firsts = request_begins(self.dataset)[events]
        owners = np.searchsorted(self._offsets, firsts, side="right") - 1
        moments = typed = np.zeros(len(events), np.int64)
        if self.times is not None:
            moments = self.times[firsts]
            typed = np.searchsorted(self._typed_keys, self._keys_of(owners, moments))
        begins = np.maximum(self._offsets[owners], firsts - self._deeds)
        left = np.maximum(np.searchsorted(self._typed[0], owners),
                          typed - self._words)
        for owner, moment, begin, end, one, other in zip(
                owners.tolist(), moments.tolist(), begins.tolist(), firsts.tolist(),
                left.tolist(), typed.tolist()):
            words = tuple(self._queries[row] for row in
                          self._typed[2][one:other].tolist())
            yield self._state(owner, moment, self._history(begin, end), words)

    def last(self) -> int:
        """The time of the last event."""
        return int(self._timed().max())

    def _some(self, sequences: np.ndarray, moments: np.ndarray | None
              ) -> Iterator[UserState]:
        if moments is None:
            ends = self._offsets[sequences + 1]
            typed = np.searchsorted(self._typed[0], sequences, side="right")
        else:
            ends, typed = (np.searchsorted(keys, self._keys_of(sequences, moments))
                           for keys in (self._keys, self._typed_keys))
        begins = np.maximum(self._offsets[sequences], ends - self._deeds)
        first = np.maximum(np.searchsorted(self._typed[0], sequences),
                           typed - self._words)
        windows = [0] * len(ends) if moments is None else moments.tolist()
        for sequence, window, begin, end, left, right in zip(
                sequences.tolist(), windows, begins.tolist(), ends.tolist(),
                first.tolist(), typed.tolist()):
            words = [self._queries[row] for row in self._typed[2][left:right].tolist()]
            yield self._state(sequence, window, self._history(begin, end), tuple(words))

    def _state(self, sequence: int, window: int, history: tuple[Deed, ...],
               words: tuple[str, ...]) -> UserState:
        user = self.users[sequence]
        if self._seen is None:
            return UserState(user, history, words, time=_day(window) if window else "",
                             window=window)
        seen = self._seen.at(sequence, window)
        part = _PARTS[window % 86_400 // 21_600]
        return UserState(user, history, words, f"{_day(window)}, {part}", seen.place,
                         seen.weather, seen.holiday, seen.profile, seen.facts, window)

    def _history(self, begin: int, end: int) -> tuple[Deed, ...]:
        columns = self._columns
        titles = [self._titles[item] for item in columns["item"][begin:end].tolist()]
        did = (["click"] * len(titles) if "behaviour" not in columns else
               [self._behaviours[kind] for kind in
                columns["behaviour"][begin:end].tolist()])
        times = ([0] * len(titles) if self.times is None else
                 self.times[begin:end].tolist())
        return tuple(map(Deed, titles, did, times))

    def _searches(self) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """Sequence, time and query of what was typed, in order."""
        if self._seen is not None:
            return observed.searches(self.dataset)
        if "query" not in self.dataset.columns:
            none = np.zeros(0, np.int64)
            return none, none, none
        query, owner = np.asarray(self.dataset.column("query")), self._owner()
        # The events of one request repeat its words.
        fresh = (query >= 0) & _opens(self.dataset)
        return (owner[fresh], None if self.times is None else self.times[fresh],
                query[fresh])

    def _owner(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.users)), np.diff(self._offsets))

    def _keys_of(self, sequence: np.ndarray, time: np.ndarray | None) -> np.ndarray:
        """One number that orders by sequence, then by time."""
        if time is None:
            return sequence.astype(np.int64)
        keys = (sequence.astype(np.int64) << 33) + np.clip(
            time - self._first + 1, 0, (1 << 33) - 1)
        return keys

    def _timed(self) -> np.ndarray:
        if self.times is None:
            raise InputError(f"{self.dataset.folder} has no times, so that nothing can "
                             "be replayed; leave --since, --before and --now out, or "
                             "prepare a log with a column of times")
        return self.times


def request_times(dataset: Dataset) -> np.ndarray:
    """Returns when each event's request was made, `[E]` int64 seconds since 1970.

    Raises:
      InputError: the log has no times.
    """
    return np.asarray(dataset.column("time"))[request_begins(dataset)]


def request_begins(dataset: Dataset) -> np.ndarray:
    """Returns the first event of each event's request, `[E]` int64."""
    opens = _opens(dataset)
    return np.flatnonzero(opens)[np.cumsum(opens) - 1]


def _opens(dataset: Dataset) -> np.ndarray:
    request = dataset.column("request") if "request" in dataset.columns else None
    return schema.opens_request(dataset.offsets(), request)


def _day(time: int) -> str:
    day = datetime.datetime.fromtimestamp(time, datetime.timezone.utc)
    return f"{day:%A} {day.day} {day:%B %Y}"
