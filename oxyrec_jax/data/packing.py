"""Cuts sequences into windows and packs windows into rows, almost without padding."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Windows:
    """Stretches of events that a causal encoder reads in one go.

    Attributes:
      start: `[W]` int64, number of the window's first event among all events.
      length: `[W]` int32, how many encoder positions it has; the target of its last
        position is the event after them.
      fresh: `[W]` int32, the first position (from the window's start) that is
        supervised; those before it are context that another window supervises.
    """

    start: np.ndarray
    length: np.ndarray
    fresh: np.ndarray


@dataclasses.dataclass(frozen=True)
class Rows:
    """Which lengths share which row; `assign` says which windows.

    Attributes:
      offsets: `[R+1]` int64, the slots of row r are `offsets[r] <= s < offsets[r+1]`.
      lengths: `[W]` uint16, the length of the window that a slot takes.
      starts: `[W]` int32, where in its row a slot begins.
    """

    offsets: np.ndarray
    lengths: np.ndarray
    starts: np.ndarray


def tile(rows: np.ndarray, offsets: np.ndarray, history: int) -> Windows:
    """Cuts the supervised stretch of each split row into windows.

    The target at position p is predicted at encoder position p - 1. A row
    `(sequence, first, last)` thus needs the positions `first - 1 <= q < last - 1`, each
    supervised once. A stretch longer than `history` takes several windows; each later
    window re-reads `history // 2` positions before its own, so that no target but the
    earliest of a sequence sees fewer than `history // 2 + 1` events. A window that is
    its row's only one reads as much context as `history` allows.

    Args:
      rows: `[R, 3]` int64, rows `(sequence, first, last)` of a split.
      offsets: `[S+1]` int64, where each sequence begins among all events.
      history: the most positions a window may have.

    Returns:
      The windows, in order of the rows.

    Source: ours.
    """
    context = history // 2
    stride = history - context
    base = offsets[rows[:, 0]]
    begin, end = rows[:, 1] - 1, rows[:, 2] - 1
    first_end = np.minimum(end, np.maximum(begin - context, 0) + history)
    counts = 1 + -(-(end - first_end) // stride)
    owner = np.repeat(np.arange(len(rows)), counts)
    number = count_up(counts)
    stop = np.minimum(first_end[owner] + number * stride, end[owner])
    fresh = np.where(number == 0, begin[owner],
                     first_end[owner] + (number - 1) * stride)
    start = np.where(number == 0, np.maximum(stop - history, 0), fresh - context)
    return Windows(base[owner] + start, (stop - start).astype(np.int32),
                   (fresh - start).astype(np.int32))


def tile_baskets(rows: np.ndarray, offsets: np.ndarray, ends: np.ndarray,
                 history: int) -> Windows:
    """As `tile`, where the targets of a request are answered together.

    The target at position p still has the place p - 1 of its window, and is told by the
    encoder's position before its request. A window supervises whole requests and reads
    at least `history // 2` events before the first of them, as far as there are; where
    one request is longer than the other half, the window is longer than `history`.

    Args:
      rows: `[R, 3]` int64, rows `(sequence, first, last)` of whole requests.
      offsets: `[S+1]` int64, where each sequence begins among all events.
      ends: `[E]` int64, the first event of each event's request.
      history: the most positions a window of several requests may have.

    Returns:
      The windows, in order of the rows.

    Source: ours.
    """
    start, length, fresh = [], [], []
    for sequence, first, last in np.asarray(rows, np.int64).tolist():
        base = int(offsets[sequence])
        own = ends[base + first:base + last]
        opens = [*np.unique(own).tolist(), base + last]
        if opens[0] != base + first:
            raise ValueError(f"row ({sequence}, {first}, {last}) cuts a request")
        place = 0
        while place + 1 < len(opens):
            begin = opens[place]
            read = max(base, begin - history // 2)
            after = place + 1
            while after + 1 < len(opens) and opens[after + 1] - 1 - read <= history:
                after += 1
            read = max(base, min(read, opens[after] - 1 - history))
            start.append(read)
            length.append(opens[after] - 1 - read)
            fresh.append(begin - 1 - read)
            place = after
    return Windows(np.array(start, np.int64), np.array(length, np.int32),
                   np.array(fresh, np.int32))


def holding(windows: Windows, targets: np.ndarray, num_events: int) -> Windows:
    """The windows that supervise at least one of some targets.

    Args:
      windows: from `tile`.
      targets: `[R]` int64, numbers of the targets' events.
      num_events: E, of the data set.
    """
    before = np.zeros(num_events + 1, np.int64)  # targets among the events before each
    before[1:] = np.cumsum(np.bincount(targets, minlength=num_events))
    first = windows.start + windows.fresh + 1  # a position's target is the event after
    keep = before[windows.start + windows.length + 1] > before[first]
    return Windows(windows.start[keep], windows.length[keep], windows.fresh[keep])


def pack(lengths: np.ndarray, row_length: int) -> Rows:
    """Packs windows into as few rows as first-fit-decreasing finds.

    Only how many windows there are of each length matters, so rows with the same
    lengths are found together and the work does not grow with the windows. Which window
    takes which slot of its length is drawn anew each epoch (`assign`); thus every epoch
    has the same number of rows.

    Args:
      lengths: `[W]` int, each `1 <= length <= row_length`.
      row_length: positions of a row, below 65536.

    Returns:
      The rows.

    Source: first-fit decreasing (Johnson 1973), at most 11/9 of the fewest rows + 1.
    """
    left = np.bincount(lengths, minlength=row_length + 1)
    if left[0] or len(left) > row_length + 1 or row_length >= 1 << 16:
        raise ValueError(f"{lengths.min()=} {lengths.max()=} {row_length=}")
    templates, repeats = [], []
    while left.any():
        row: dict[int, int] = {}
        space, length = row_length, row_length
        while length:
            fit = min(space // length, int(left[length]))
            if fit:
                row[length] = fit
                space -= fit * length
            length = min(length - 1, space)
        times = min(int(left[length]) // count for length, count in row.items())
        for length, count in row.items():
            left[length] -= times * count
        templates.append(np.repeat(list(row), list(row.values())))
        repeats.append(times)
    sizes = np.repeat([len(row) for row in templates], repeats)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    slots = np.concatenate([np.tile(row, n) for row, n in zip(templates, repeats)])
    before = np.cumsum(slots) - slots
    starts = before - np.repeat(before[offsets[:-1]], sizes)
    return Rows(offsets, slots.astype(np.uint16), starts.astype(np.int32))


def assign(rows: Rows, lengths: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws which window takes which slot, uniformly among those of the slot's length.

    Args:
      rows: what `pack` found for these lengths.
      lengths: `[W]` int, the windows' lengths.
      rng: consumed.

    Returns:
      `[W]` int64, the window of each slot; every window once.
    """
    shuffled = rng.permutation(len(lengths))
    # A stable sort of 16-bit keys is a radix sort: linear in the windows.
    by_length = np.argsort(lengths[shuffled].astype(np.uint16), kind="stable")
    windows = np.empty(len(lengths), np.int64)
    windows[np.argsort(rows.lengths, kind="stable")] = shuffled[by_length]
    return windows


def fill(rows: Rows, row_length: int) -> float:
    """Returns the share of positions that hold an event, in (0, 1]."""
    positions = (len(rows.offsets) - 1) * row_length
    return float(rows.lengths.sum(dtype=np.int64)) / positions


def count_up(counts: np.ndarray) -> np.ndarray:
    """0, 1, ... anew for each count, one after the other: [2, 3] to 0 1 0 1 2."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def spans(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """`first[0], …, last[0] - 1, first[1], …` as one array; a `last` before its `first`
    adds nothing."""
    sizes = np.maximum(last - first, 0)
    return count_up(sizes) + np.repeat(first, sizes)
