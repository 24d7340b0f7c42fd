"""Which events make up which row of which batch; see `pipeline`."""

import functools
from typing import TYPE_CHECKING, Protocol

import numpy as np

from oxyrec_jax.base import InputError
from oxyrec_jax.data import event_rows, packing
from oxyrec_jax.data.dataset import Dataset
from oxyrec_jax.data.target_weights import (TargetWeights, target_events,
                                            target_weights)

if TYPE_CHECKING:
    from oxyrec_jax.data.pipeline import Pipeline

Batch = dict[str, np.ndarray]


def weights_of(dataset: Dataset, cfg: "Pipeline") -> TargetWeights:
    """What the configuration makes of the targets of a data set."""
    return target_weights(dataset, behaviours=cfg.behaviour_weights,
                          scenarios=cfg.scenario_weights,
                          temperature=cfg.scenario_temperature, only=cfg.scenarios)


def _events(dataset: Dataset, cfg: "Pipeline") -> event_rows.EventRows:
    return event_rows.EventRows(dataset, cfg.columns, weights_of(dataset, cfg))


def chosen_targets(dataset: Dataset, cfg: "Pipeline") -> np.ndarray | None:
    """`[R]` bool: which training targets the configuration asks for; None: all."""
    kept = weights_of(dataset, cfg).kept
    if kept is None:
        return None
    chosen = kept[dataset.column("scenario")[target_events(dataset, "train")]]
    if not chosen.any():
        raise InputError(f"{dataset.folder} has no training targets in the scenarios "
                         f"{', '.join(cfg.scenarios)} that pipeline.scenarios names")
    return chosen


class Plan(Protocol):
    rows: int
    targets: int
    fill: float
    longest: int  # of an epoch's batches, one whose rows are the longest

    def make(self, epoch: int, first: int, count: int) -> Batch:
        """Makes rows `first <= r < first + count` of an epoch; empty past the last."""


class Packed:
    longest = 0

    def __init__(self, dataset: Dataset, rows: np.ndarray, cfg: "Pipeline", seed: int):
        self._events, self._seed = _events(dataset, cfg), seed
        self._width = cfg.row_length
        self._ends = dataset.history_ends() if dataset.by_basket else None
        self._windows = (
            packing.tile(rows, dataset.offsets(), cfg.history) if self._ends is None
            else _basket_windows(dataset, rows, self._ends, cfg))
        self.targets = int((rows[:, 2] - rows[:, 1]).sum())
        chosen = chosen_targets(dataset, cfg)
        if chosen is not None:
            self.targets = int(chosen.sum())
            self._windows = packing.holding(
                self._windows, target_events(dataset, "train")[chosen],
                dataset.num_events)
        self._rows = packing.pack(self._windows.length, cfg.row_length)
        self.rows = len(self._rows.offsets) - 1
        self.fill = packing.fill(self._rows, cfg.row_length)
        # Two epochs, as threads that read ahead may stand on either side of the turn.
        self._order = functools.lru_cache(maxsize=2)(self._draw)

    def _draw(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([self._seed, epoch])
        windows = packing.assign(self._rows, self._windows.length, rng)
        return windows, rng.permutation(self.rows)

    def make(self, epoch: int, first: int, count: int) -> Batch:
        windows, order = self._order(epoch)
        chosen = order[first:first + count]
        begin, end = self._rows.offsets[chosen], self._rows.offsets[chosen + 1]
        sizes = end - begin
        ordinal = packing.count_up(sizes)
        slots = np.repeat(begin, sizes) + ordinal
        row = np.repeat(np.arange(len(chosen)), sizes)
        window = windows[slots]
        batch = self._events.place(
            count, self._width, start=self._windows.start[window],
            length=self._windows.length[window],
            place=row * self._width + self._rows.starts[slots], segment=ordinal + 1,
            fresh=self._windows.fresh[window])
        batch["target_positions"] = np.broadcast_to(
            np.arange(self._width, dtype=np.int32), (count, self._width))
        if self._ends is not None:
            self._hide_baskets(batch, window, row * self._width
                               + self._rows.starts[slots])
        return batch

    def _hide_baskets(self, batch: Batch, window: np.ndarray, place: np.ndarray
                      ) -> None:
        """Lets targets see what was before their request, and takes the events of each
        window's last request, which no target may see, out of its history."""
        length = self._windows.length[window]
        count = packing.count_up(length)
        events = count + np.repeat(self._windows.start[window], length) + 1
        flat = count + np.repeat(place, length)
        opened = self._ends[events]  # type: ignore[index]
        shape = batch["segments"].shape
        back = np.zeros(shape, np.int64)
        back.reshape(-1)[flat] = np.where(
            batch["target_mask"].reshape(-1)[flat], events - opened, 0)
        batch["target_positions"] = (np.arange(shape[1]) - back).astype(np.int32)
        last = np.repeat(opened[np.cumsum(length) - 1], length)
        unseen = flat[events - 1 >= last]
        for name in ("segments", "items"):
            batch[name].reshape(-1)[unseen] = 0


def _basket_windows(dataset: Dataset, rows: np.ndarray, ends: np.ndarray,
                    cfg: "Pipeline") -> packing.Windows:
    found = packing.tile_baskets(rows, dataset.offsets(), ends, cfg.history)
    longest = int(found.length.max(initial=0))
    if longest > cfg.row_length:
        raise InputError(f"pipeline.row_length is {cfg.row_length}, and the longest "
                         f"request of {dataset.folder} takes {longest} positions with "
                         f"half of pipeline.history {cfg.history} before it; make it "
                         "as large")
    return found


class Last:
    longest = 0

    def __init__(self, dataset: Dataset, rows: np.ndarray, cfg: "Pipeline", seed: int):
        self._maker = OneTarget(dataset, rows, cfg)
        chosen = chosen_targets(dataset, cfg)
        self._numbers = None if chosen is None else np.flatnonzero(chosen)
        self._seed = seed
        self.rows = self.targets = (self._maker.targets if self._numbers is None
                                    else len(self._numbers))
        self.fill = self._maker.fill(self._numbers)
        self._order = functools.lru_cache(maxsize=2)(self._draw)

    def _draw(self, epoch: int) -> np.ndarray:
        order = np.random.default_rng([self._seed, epoch]).permutation(self.rows)
        return order if self._numbers is None else self._numbers[order]

    def make(self, epoch: int, first: int, count: int) -> Batch:
        return self._maker.make(self._order(epoch)[first:first + count], count)


class Buckets:
    """Mode "last" with rows of like lengths in a batch, padded to those of a bucket.

    An epoch is laid out bucket by bucket, the targets of each in random order, and cut
    into batches; one that holds targets of two buckets has the longer rows. Then the
    batches change places. How many there are of each length is the same in every epoch.
    """

    def __init__(self, dataset: Dataset, rows: np.ndarray, cfg: "Pipeline", seed: int):
        self._maker, self._seed, self._batch = OneTarget(dataset, rows, cfg), seed, (
            cfg.batch)
        chosen = chosen_targets(dataset, cfg)
        numbers = (np.arange(self._maker.targets) if chosen is None
                   else np.flatnonzero(chosen))
        lengths = self._maker.lengths(numbers)
        edges = np.array([*cfg.buckets, cfg.history])
        bucket = np.searchsorted(edges, lengths)  # the shortest that holds them
        self._members = [numbers[bucket == place] for place in range(len(edges))]
        self.targets = len(numbers)
        steps = -(-self.targets // cfg.batch)
        ends = np.cumsum([len(members) for members in self._members])
        last = np.minimum((np.arange(steps) + 1) * cfg.batch, self.targets) - 1
        self._widths = edges[np.searchsorted(ends, last, side="right")]
        self.rows = steps * cfg.batch
        self.fill = float(lengths.sum()) / (cfg.batch * int(self._widths.sum()))
        self._order = functools.lru_cache(maxsize=2)(self._draw)
        self.longest = int(np.argmax(self._widths[self._order(0)[1]]))

    def _draw(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([self._seed, epoch])
        targets = np.concatenate([rng.permutation(one) for one in self._members])
        return targets, rng.permutation(len(self._widths))

    def make(self, epoch: int, first: int, count: int) -> Batch:
        targets, order = self._order(epoch)
        number, skip = divmod(first, self._batch)
        begin = int(order[number]) * self._batch
        chosen = targets[begin:begin + self._batch][skip:skip + count]
        return self._maker.make(chosen, count, int(self._widths[order[number]]))


class OneTarget:
    """Makes batches of one target for each row from targets by number."""

    def __init__(self, dataset: Dataset, rows: np.ndarray, cfg: "Pipeline"):
        self._events, self._history = _events(dataset, cfg), cfg.history
        self._long = cfg.long
        self._ends = dataset.history_ends() if dataset.by_basket else None
        self._split, self._base = rows, dataset.offsets()[rows[:, 0]]
        self._last = np.cumsum(rows[:, 2] - rows[:, 1])
        self.targets = int(self._last[-1])

    def fill(self, numbers: np.ndarray | None = None) -> float:
        """Share of filled positions over all targets, or over some by number."""
        if numbers is None and self._ends is not None:
            numbers = np.arange(self.targets)
        if numbers is not None:
            return float(self.lengths(numbers).sum()) / (
                len(numbers) * self._history)
        low, high = self._split[:, 1], self._split[:, 2] - 1
        # Sum over p of min(p, history), in closed form for each row.
        bend = np.clip(self._history, low - 1, high)
        short = (bend + low) * (bend - low + 1) // 2
        events = short + (high - bend) * self._history
        return float(events.sum()) / (self.targets * self._history)

    def lengths(self, numbers: np.ndarray) -> np.ndarray:
        """Events of the histories of targets by number."""
        return np.minimum(self._places(numbers)[1], self._history)

    def _places(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Number of the events that targets by number are, and events before them."""
        row = np.searchsorted(self._last, numbers, side="right")
        position = self._split[row, 2] - (self._last[row] - numbers)
        target = self._base[row] + position
        if self._ends is not None:
            position = self._ends[target] - self._base[row]
        return target, position

    def make(self, numbers: np.ndarray, count: int, width: int = 0) -> Batch:
        """Rows of `width` positions, which hold the histories; 0: of the longest."""
        width = width or self._history
        target, position = self._places(numbers)
        length = np.minimum(position, self._history)
        used = len(numbers)
        end = target if self._ends is None else self._ends[target]
        batch = self._events.place(
            count, width, start=end - length, length=length,
            place=np.arange(used) * width,
            segment=np.ones(used, np.int32), fresh=None)
        batch["target_mask"] = np.arange(count)[:, None] < used
        batch["target_positions"] = np.zeros((count, 1), np.int32)
        batch["target_positions"][:used, 0] = length - 1
        self._events.put_targets(batch, target, count)
        if self._long:
            older = np.minimum(position - length, self._long)
            self._events.put_long(batch, end - length - older, older, count,
                                  self._long)
        return batch
