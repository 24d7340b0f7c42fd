"""Rows of requests with all that they showed: the batches of a ranking model.

A row is one request: `items`, `segments` `[B, L]` and the columns of its history, as in
`pipeline`, and

    target_positions  [B, 1] int32  place of the newest event of the history
    target_scenario   [B, 1] int8   also target_trigger, target_query: where asked for
    candidates        [B, C] int32  the items shown, in their order, 0 at empty places
    outcome           [B, C] int8   0 nothing, 1 click, 2 cart, 3 order
    target_mask       [B, C] bool   true where an item was shown

The history is the person's events strictly before the request: what was chosen in the
request itself is not in it. `gap`, `hour` and `weekday` of the newest event are told
until the request is made, whether anything was chosen then or not.
"""

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from oxyrec_jax.data import event_rows, schema
from oxyrec_jax.data.dataset import Dataset
from oxyrec_jax.data.impressions import (NAMES, Impressions, load_impressions,
                                         split_impressions)
from oxyrec_jax.data.target_weights import TargetWeights

if TYPE_CHECKING:
    from oxyrec_jax.data.pipeline import Pipeline

Batch = dict[str, np.ndarray]


class RequestRows:
    """Makes batches of requests by number."""

    def __init__(self, dataset: Dataset, cfg: "Pipeline", found: Impressions):
        """Opens the columns.

        Args:
          dataset: whose requests they are.
          cfg: the length of a history and the columns that a batch has.
          found: the requests; a number is a place among them.

        Raises:
          InputError: the data set lacks a column.
        """
        self._events = event_rows.EventRows(dataset, cfg.columns, TargetWeights({}))
        self._asked = [name for name in NAMES if name in cfg.columns]
        self._found, self._history = found, cfg.history
        self._start = dataset.offsets()[found.sequence] + found.position

    def make(self, numbers: np.ndarray, count: int) -> Batch:
        """A batch of `count` rows, of which those beyond the numbers are empty."""
        found, used = self._found.take(numbers), len(numbers)
        length = np.minimum(found.position, self._history)
        batch = self._events.place(
            count, self._history, start=self._start[numbers] - length, length=length,
            place=np.arange(used) * self._history,
            segment=np.ones(used, np.int32), fresh=None, until=found.time)
        batch["target_positions"] = np.zeros((count, 1), np.int32)
        batch["target_positions"][:used, 0] = length - 1
        for name in self._asked:
            target = np.full((count, 1), schema.PADDING[name], schema.COLUMNS[name])
            target[:used, 0] = found.columns[name]
            batch[f"target_{name}"] = target
        for name, values in (("candidates", np.maximum(found.shown, 0)),
                             ("outcome", found.outcome),
                             ("target_mask", found.shown >= 0)):
            batch[name] = np.zeros((count, values.shape[1]), values.dtype)
            batch[name][:used] = values
        return batch


class Requests:
    """The epochs of the training requests; a `row_plans.Plan`."""

    longest = 0

    def __init__(self, dataset: Dataset, rows: np.ndarray, cfg: "Pipeline", seed: int):
        found = load_impressions(dataset)
        found = found.take(split_impressions(dataset, found, "train"))
        self._maker, self._seed = RequestRows(dataset, cfg, found), seed
        self.rows, self.targets = len(found.row), int((found.shown >= 0).sum())
        self.fill = float(np.minimum(found.position, cfg.history).mean()) / cfg.history
        self._order = functools.lru_cache(maxsize=2)(self._draw)

    def _draw(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, epoch]).permutation(self.rows)

    def make(self, epoch: int, first: int, count: int) -> Batch:
        """Makes rows of an epoch; empty past the last."""
        return self._maker.make(self._order(epoch)[first:first + count], count)


class SplitRequests:
    """The batches of a split's requests, in their order, any number of times.

    Attributes:
      impressions: the split's R requests.
    """

    def __init__(self, dataset: Dataset, split: str, cfg: "Pipeline", batch: int):
        """Reads the requests.

        Args:
          dataset: with impressions.
          split: "train", "valid" or "test".
          cfg: the length of a history and the columns that a batch has.
          batch: rows of every batch; the last is filled up with empty rows.

        Raises:
          InputError: no impressions, an empty split, or a column that lacks.
        """
        found = load_impressions(dataset)
        self.impressions = found.take(split_impressions(dataset, found, split))
        self._maker = RequestRows(dataset, cfg, self.impressions)
        self._batch = batch

    def __len__(self) -> int:
        return -(-len(self.impressions.row) // self._batch)

    def __iter__(self) -> Iterator[Batch]:
        """Batches with `rows` `[B]` int64, the number of each request, -1 if empty."""
        for first in range(0, len(self.impressions.row), self._batch):
            numbers = np.arange(first, min(first + self._batch,
                                           len(self.impressions.row)))
            batch = self._maker.make(numbers, self._batch)
            batch["rows"] = np.full(self._batch, -1, np.int64)
            batch["rows"][:len(numbers)] = numbers
            yield batch
