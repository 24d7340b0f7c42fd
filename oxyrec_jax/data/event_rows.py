"""Lays events of a prepared data set into the rows of a batch; see `pipeline`."""

from collections.abc import Sequence

import numpy as np

from oxyrec_jax.base import InputError
from oxyrec_jax.data import schema
from oxyrec_jax.data.dataset import Dataset
from oxyrec_jax.data.target_weights import TargetWeights

# Columns that no data set stores.
MADE = ("gap", "hour", "weekday", "opens", "profile", "instruction", "weight")
# What those of the history are made of.
MADE_OF = {"gap": "time", "hour": "time", "weekday": "time", "opens": "request"}
CALENDAR = {"hour": (3_600, 24, 0), "weekday": (86_400, 7, 3)}  # day 0: a Thursday


def calendar(name: str, seconds: np.ndarray) -> np.ndarray:
    """Hour of the day 1 to 24, or weekday 1 (Monday) to 7, of Unix seconds, float32."""
    unit, kinds, first = CALENDAR[name]
    return (1 + (seconds // unit + first) % kinds).astype(np.float32)


class EventRows:
    """Reads events by number and lays them into rows."""

    def __init__(self, dataset: Dataset, columns: Sequence[str],
                 weights: TargetWeights):
        """Opens the columns.

        Args:
          dataset: whose events are laid.
          columns: stored ones and some of `MADE`, beside the items.
          weights: of the targets, for the column `weight`, and which events are any.

        Raises:
          InputError: the data set lacks a column or what it would be made of.
        """
        self._first = np.array([shard.first_event for shard in dataset.shards])
        self._shards = [shard.columns for shard in dataset.shards]
        stored = [name for name in columns if name not in MADE]
        self._names = {"items": "item", **{name: name for name in stored}}
        self._gap, self._kept = "gap" in columns, weights.kept
        self._opens = "opens" in columns
        self._calendar = [name for name in columns if name in CALENDAR]
        self._profiles, self._offsets = None, dataset.offsets()
        if "profile" in columns:
            self._profiles = dataset.profiles
            if self._profiles is None:
                raise InputError("pipeline.columns names 'profile', and the data set "
                                 "has no profiles attached; name columns in "
                                 "model.profile")
        self._weights = weights.tables if "weight" in columns else None
        self._instructions = None
        if "instruction" in columns:
            self._instructions = dataset.instructions
            if self._instructions is None:
                raise InputError(f"pipeline.columns names 'instruction', and "
                                 f"{dataset.folder} has no instructions; make them "
                                 "first, or leave model.instructions.reasoning off")
        needs = [MADE_OF[name] for name in columns if name in MADE_OF]
        if self._weights == {}:
            needs.append("behaviour")
        for name in [*stored, *needs]:
            if name not in dataset.columns:
                raise InputError(f"pipeline.columns names {name!r}, which "
                                 f"{dataset.folder} does not have; its columns are "
                                 f"{', '.join(dataset.columns)}")

    def place(
        self, rows: int, width: int, *, start: np.ndarray, length: np.ndarray,
        place: np.ndarray, segment: np.ndarray, fresh: np.ndarray | None,
        until: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """Copies windows of events into `[rows, width]` arrays.

        Args:
          rows: of the batch; those that no window lies in stay empty.
          width: of a row.
          start: `[W]` number of each window's first event.
          length: `[W]` events of each window.
          place: `[W]` where in the flattened rows the window goes.
          segment: `[W]` its number in its row, from 1.
          fresh: `[W]` the first supervised position of each window, to add the targets
            of every position; None adds no targets.
          until: `[W]` seconds since 1970 of the request that each window is the history
            of; None: of the event after it.
        """
        before = np.cumsum(length) - length
        count = np.arange(int(length.sum()))
        events = count + np.repeat(start - before, length)
        flat = count + np.repeat(place - before, length)
        batch = {"segments": np.zeros((rows, width), np.int32)}
        batch["segments"].reshape(-1)[flat] = np.repeat(
            segment.astype(np.int32), length)
        for key, name in self._names.items():
            batch[key] = self._lay(name, events, flat, rows, width)
        if self._gap or self._calendar:
            after = self._after(events, before + length - 1, until)
        if self._gap:
            batch["gap"] = np.zeros((rows, width), np.float32)
            batch["gap"].reshape(-1)[flat] = after - self._take("time", events)
        for name in self._calendar:
            batch[name] = np.zeros((rows, width), np.float32)
            batch[name].reshape(-1)[flat] = calendar(name, after)
        if self._opens:
            batch["opens"] = np.zeros((rows, width), np.float32)
            starts = np.append(before[length > 0], len(events))
            batch["opens"].reshape(-1)[flat] = schema.opens_request(
                starts, self._take("request", events))
        if self._profiles is not None:
            user = np.searchsorted(self._offsets, start, side="right") - 1
            known = self._profiles.rows[user]
            batch["profile"] = np.full((rows, width, known.shape[1]), -1, np.int32)
            batch["profile"].reshape(rows * width, -1)[flat] = np.repeat(
                known, length, axis=0)
        if fresh is not None:
            batch["target_mask"] = np.zeros((rows, width), bool)
            batch["target_mask"].reshape(-1)[flat] = (
                count >= np.repeat(before + fresh, length)) & self._are_targets(
                    events + 1)
            for key, name in self._names.items():
                batch[_target_key(key)] = self._lay(name, events + 1, flat, rows, width)
            self._put_made(batch, events + 1, flat, rows, width)
        return batch

    def _after(self, events: np.ndarray, last: np.ndarray, until: np.ndarray | None
               ) -> np.ndarray:
        """Seconds of what follows each event: the next one, or the request."""
        if until is None:
            return self._take("time", events + 1)
        inside = np.ones(len(events), bool)
        inside[last] = False
        after = np.empty(len(events), np.int64)
        after[last], after[inside] = until, self._take("time", events[inside] + 1)
        return after

    def put_targets(self, batch: dict[str, np.ndarray], events: np.ndarray,
                    rows: int) -> None:
        """Adds `[rows, 1]` targets, the events of the first rows given by number."""
        for key, name in self._names.items():
            batch[_target_key(key)] = self._lay(name, events, np.arange(len(events)),
                                                rows, 1)
        self._put_made(batch, events, np.arange(len(events)), rows, 1)

    def put_long(self, batch: dict[str, np.ndarray], start: np.ndarray,
                 length: np.ndarray, rows: int, width: int) -> None:
        """Adds `long_items` `[rows, width]`: `length` events from `start` on."""
        before = np.cumsum(length) - length
        count = np.arange(int(length.sum()))
        place = np.arange(len(start)) * width
        batch["long_items"] = np.full((rows, width), -1, np.int32)
        batch["long_items"].reshape(-1)[count + np.repeat(place - before, length)] = (
            self._take("item", count + np.repeat(start - before, length)))

    def _put_made(self, batch: dict[str, np.ndarray], events: np.ndarray,
                  flat: np.ndarray, rows: int, width: int) -> None:
        """Adds what is made here of target events, at places `flat` of the rows."""
        if self._weights is not None:
            batch["target_weight"] = np.ones((rows, width), np.float32)
            for name, table in self._weights.items():
                batch["target_weight"].reshape(-1)[flat] *= table[
                    self._take(name, events)]
        if self._instructions is not None:
            columns = self._instructions.vectors.shape[1]
            out = np.zeros((rows * width, columns), np.float32)
            out[flat] = self._instructions.take(events)
            batch["target_instruction"] = out.reshape(rows, width, columns)

    def _are_targets(self, events: np.ndarray) -> np.ndarray | bool:
        """Whether each event is of a scenario whose events are supervised."""
        return self._kept is None or self._kept[self._take("scenario", events)]

    def _lay(self, name: str, events: np.ndarray, flat: np.ndarray, rows: int,
             width: int) -> np.ndarray:
        out = np.full((rows, width), schema.PADDING[name], schema.COLUMNS[name])
        out.reshape(-1)[flat] = self._take(name, events)
        return out

    def _take(self, name: str, events: np.ndarray) -> np.ndarray:
        if len(self._shards) == 1:
            return self._shards[0][name][events]
        owner = np.searchsorted(self._first, events, side="right") - 1
        out = np.empty(len(events), schema.COLUMNS[name])
        for number in np.unique(owner):
            mine = owner == number
            out[mine] = self._shards[number][name][events[mine] - self._first[number]]
        return out


def _target_key(key: str) -> str:
    return "targets" if key == "items" else f"target_{key}"
