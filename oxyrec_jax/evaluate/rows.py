"""What the rows of a split are: targets, their histories and what training saw.

A split is `[S, 3]` rows `(sequence, first, last)`; it expands to R *targets*, one for
each position of each row, in the order of the rows. The history of a target is every
earlier event of its sequence, whatever split that event is a target of: a model has
seen the valid item when it is asked for the test item. Where requests are answered as
sets, it is every event before the target's request.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from oxyrec_jax import progress
from oxyrec_jax.data.dataset import Dataset
from oxyrec_jax.data.packing import spans

REPEATS = 0.01
"""Ours: below this share of training targets a log repeats nothing."""

_BLOCK = 1 << 22  # events held at once while repeats are counted: some 300 MB


@dataclasses.dataclass(frozen=True)
class Events:
    """The events of a data set and which of them training may read.

    Attributes:
      items: `[E]` int, item of every event, sequence after sequence, oldest first.
      offsets: `[S + 1]` int64, where each sequence starts in `items`.
      train: `[R, 3]` int64, the rows of the train split.
      num_items: N, ids are `0 <= item < N`.
      ends: `[E]` int64, the event before which the history of each event, as a target,
        ends: the first of its request; None: itself.
    """

    items: np.ndarray
    offsets: np.ndarray
    train: np.ndarray
    num_items: int
    ends: np.ndarray | None = None

    def __post_init__(self):
        if self.train.ndim != 2 or self.train.shape[1] != 3:
            raise ValueError(f"{self.train.shape=}, expected [R, 3]")
        if self.offsets[-1] != len(self.items):
            raise ValueError(f"{self.offsets[-1]=}, expected {len(self.items)}")


@dataclasses.dataclass(frozen=True)
class Targets:
    """The targets of a split.

    Attributes:
      sequence: `[R]` int64, the sequence of each target.
      place: `[R]` int64, its event's index among all events of the data set.
      item: `[R]` int64, the item.
      end: `[R]` int64, index of the event before which its history ends.
    """

    sequence: np.ndarray
    place: np.ndarray
    item: np.ndarray
    end: np.ndarray

    def __len__(self) -> int:
        return len(self.item)

    def take(self, numbers: np.ndarray) -> "Targets":
        """Some of the targets, by number."""
        return Targets(self.sequence[numbers], self.place[numbers], self.item[numbers],
                       self.end[numbers])


def of_dataset(dataset: Dataset) -> Events:
    """The events of a prepared data set; one without train rows trains on nothing."""
    train = dataset.splits.get("train", np.zeros((0, 3), np.int64))
    return Events(dataset.column("item"), dataset.offsets(), np.asarray(train),
                  dataset.num_items,
                  dataset.history_ends() if dataset.by_basket else None)


def expand(events: Events, rows: np.ndarray) -> Targets:
    """Expands the rows of a split to its targets.

    Args:
      events: the data set's events.
      rows: `[S, 3]` int64 `(sequence, first, last)`.

    Returns:
      `Targets`, row after row, position after position.
    """
    rows = np.asarray(rows, np.int64)
    sequence = np.repeat(rows[:, 0], np.maximum(rows[:, 2] - rows[:, 1], 0))
    place = events.offsets[sequence] + spans(rows[:, 1], rows[:, 2])
    return Targets(sequence, place, events.items[place].astype(np.int64),
                   place if events.ends is None else events.ends[place])


def recent(events: Events, targets: Targets, count: int) -> np.ndarray:
    """The last items before each target, latest first: `[R, count]`, -1 = none."""
    back = targets.end[:, None] - np.arange(1, count + 1)
    inside = back >= events.offsets[targets.sequence][:, None]
    return np.where(inside, events.items[np.where(inside, back, 0)], -1)


def histories(events: Events, targets: Targets) -> tuple[np.ndarray, np.ndarray]:
    """Every event before each target: number of the target, number of the event."""
    start = events.offsets[targets.sequence]
    return (np.repeat(np.arange(len(targets)), targets.end - start),
            spans(start, targets.end))


def repeats(events: Events, targets: Targets) -> np.ndarray:
    """Whether each target stands in its own history: `[R]` bool."""
    sequence = np.repeat(np.arange(len(events.offsets) - 1), np.diff(events.offsets))
    pairs = sequence * events.num_items + events.items
    _, first, index = np.unique(pairs, return_index=True, return_inverse=True)
    return first[index[targets.place]] < targets.end


def repeat_share(events: Events) -> float | None:
    """Share of the training targets that stand in their own history.

    Block after block, so that a log of any size fits in memory.

    Args:
      events: the data set's events.

    Returns:
      0 to 1; None where there are no training targets.
    """
    met, count, blocks = 0, 0, _blocks(events)
    if len(events.items) > _BLOCK:
        blocks = progress.track(blocks, "counting repeats, in blocks of events")
    for block in blocks:
        targets = expand(block, block.train)
        met += int(repeats(block, targets).sum())
        count += len(targets)
    return met / count if count else None


def popularity(events: Events) -> np.ndarray:
    """How often each item occurs in training: `[N]` int64.

    An event counts once, as a target of the train split. The event before the target
    at position 1 is no target itself and counts too: otherwise the first event of
    every user would be lost. So do all events of the request before the first target
    where requests are answered as sets.
    """
    counts = np.bincount(expand(events, events.train).item, minlength=events.num_items)
    sequence, first, last = events.train.T
    if events.ends is None:
        opened = (first == 1) & (last > 1)
        openers = events.items[events.offsets[np.unique(sequence[opened])]]
    else:  # one row for each sequence, which begins at its second request
        start = events.offsets[sequence]
        openers = events.items[spans(start, start + first)]
    return counts + np.bincount(openers, minlength=events.num_items)


def shuffle_training(events: Events, seed: int) -> Events:
    """Shuffles, within each sequence, the events that training reads.

    What a baseline still finds afterwards does not come from the order inside a
    history. The events past a sequence's last training target stay where they are.
    """
    length = np.diff(events.offsets)
    read = np.zeros(len(length), np.int64)
    np.maximum.at(read, events.train[:, 0], events.train[:, 2])
    sequence = np.repeat(np.arange(len(length)), length)
    place = np.arange(len(events.items))
    inside = place - events.offsets[sequence] < read[sequence]
    chance = np.random.default_rng(seed).random(len(place))
    order = np.lexsort((np.where(inside, chance, 1.0 + place), sequence))
    return dataclasses.replace(events, items=events.items[order])


def _blocks(events: Events) -> Iterator[Events]:
    """The log in parts of whole sequences, each of `_BLOCK` events or one sequence."""
    offsets, owner, first = events.offsets, events.train[:, 0], 0
    while first < len(offsets) - 1:
        last = int(np.searchsorted(offsets, offsets[first] + _BLOCK, side="right")) - 1
        last = max(last, first + 1)
        start, end = int(offsets[first]), int(offsets[last])
        yield Events(
            events.items[start:end], offsets[first:last + 1] - start,
            events.train[(owner >= first) & (owner < last)] - [first, 0, 0],
            events.num_items,
            None if events.ends is None else events.ends[start:end] - start)
        first = last
