"""Batches of NumPy arrays from a prepared data set: deterministic, resumable, sharded.

A batch is a dict (shape letters of `base`; B is the rows of this process):

    items             [B, L] int32  history item at each encoder position, 0 at padding
    segments          [B, L] int32  0 = padding; 1, 2, … = which window of the row
    targets           [B, J] int32  the items to predict
    target_mask       [B, J] bool   true where supervised
    target_positions  [B, J] int32  target j may see positions <= this of its segment
    <column>          [B, L]        the history events' side columns that were asked for
    target_<column>   [B, J]        the same of the target events
    long_items        [B, M] int32  mode "last" where asked for: the events before
                                    `items`, oldest first, then -1

Some columns are made here. `gap` `[B, L]` float32: seconds from each event to the next,
which for the last event is the time of the request that is to be answered; it needs
times. `hour` and `weekday` `[B, L]` float32 are of that next event or request, from 1.
`opens` `[B, L]` float32 is 1 on the first event of each request in the batch, else 0.
`profile` `[B, L, C]` int32 are the rows of the history's person, -1 for none (see
`data.profiles`). `instruction` is of the targets alone, `target_instruction`
`[B, J, F]` float32: the vector of the text that goes with the request, zero where there
is none. `weight` is of the targets alone too, `target_weight` `[B, J]` float32: how
much the target's behaviour and scenario count in training.

Mode "packed" (causal encoder): windows share rows, J = L, the target of position j is
the event after it. Mode "last" (bidirectional encoder): one target for each row, J = 1,
with its most recent events; with buckets of lengths L differs from batch to batch,
and only then. Either way each training target is supervised exactly once
in an epoch. Mode "requests" (ranking model): one request for each row with all items
that it showed, see `request_rows`.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grain
import numpy as np

from oxyrec_jax.base import InputError
from oxyrec_jax.data import event_rows, request_rows, row_plans, schema
from oxyrec_jax.data.dataset import Dataset

Batch = dict[str, np.ndarray]
_ENDLESS = 1 << 62


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """How training batches are made.

    Attributes:
      batch: rows of a global batch, over all processes.
      history: the most events that a target's history may have in the batch.
      row_length: L of mode "packed", at least `history`; longer rows pack tighter.
      mode: "packed", "last" or "requests"; in the last every item shown counts 1,
        whatever the weights of behaviours.
      buckets: in mode "last", lengths below `history`, rising. A batch then holds
        histories of like lengths, its rows as long as the shortest of these, or
        `history`, that takes them: less padding, one compiled step for each length.
        Empty: all rows have `history` positions.
      long: in mode "last", how many events before the recent history are put into
        the batch too, as `long_items`.
      columns: side columns to put into the batch.
      behaviour_weights: how much a target of each behaviour counts in training, for
        the column `weight`; behaviours that are not named count 1.
      scenario_weights: the same of each scenario, multiplied with that of the
        behaviour. An expected resampling: the loss of a target that counts 2 is that of
        one drawn twice, with no target left out and an epoch as long as before.
      scenario_temperature: T, counts scenarios of n training targets as n^(1/T); 1 as
        they are, 100 about equally.
      scenarios: names of the scenarios whose events are training targets; the events of
        all stay in every history. Empty: all.
    """

    batch: int = 128
    history: int = 20  # as in the P1 literature (benchmarks: history <= 20)
    row_length: int = 64  # ours: Beauty packs to 99 % fill
    mode: str = "packed"
    buckets: tuple[int, ...] = ()
    long: int = 0
    columns: tuple[str, ...] = ()
    behaviour_weights: Mapping[str, float] = dataclasses.field(  # OxygenREC-v2
        default_factory=lambda: {"click": 1.2, "cart": 1.5, "order": 2.0})
    scenario_weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    scenario_temperature: float = 1.0
    scenarios: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("batch", "history", "row_length"):
            if not 1 <= getattr(self, name) < 1 << 16:
                raise InputError(f"pipeline.{name} is {getattr(self, name)}, expected "
                                 "1 to 65535")
        if self.mode not in ("packed", "last", "requests"):
            raise InputError(f"pipeline.mode is {self.mode!r}, expected 'packed', "
                             "'last' or 'requests'")
        if self.mode == "requests" and (self.scenarios or self.scenario_weights
                                        or self.scenario_temperature != 1):
            raise InputError("pipeline.mode 'requests' counts every request once; leave"
                             " scenarios, scenario_weights and scenario_temperature "
                             "out")
        if not 0 <= self.long < 1 << 20 or (self.long and self.mode != "last"):
            raise InputError(f"pipeline.long is {self.long} and mode {self.mode!r}; "
                             "expected 0 to 1048575, and above 0 only in mode 'last'")
        if self.mode == "packed" and self.row_length < self.history:
            raise InputError(f"pipeline.row_length is {self.row_length}, less than "
                             f"pipeline.history {self.history}; make it as large")
        rising = (0, *self.buckets, self.history)
        if self.buckets and (self.mode != "last" or any(
                low >= high for low, high in zip(rising, rising[1:]))):
            raise InputError(f"pipeline.buckets is {list(self.buckets)} and mode "
                             f"{self.mode!r}; expected rising lengths from 1 to below "
                             f"pipeline.history {self.history}, in mode 'last'")
        known = [*(name for name in schema.COLUMNS if name != "item"), *event_rows.MADE]
        for field in ("behaviour_weights", "scenario_weights"):
            for name, weight in getattr(self, field).items():
                if not 0 < weight < np.inf:
                    raise InputError(f"pipeline.{field} gives {name!r} {weight}, "
                                     "expected above 0")
        if not 0 < self.scenario_temperature < np.inf:
            raise InputError("pipeline.scenario_temperature is "
                             f"{self.scenario_temperature}, expected above 0")
        unknown = [name for name in self.columns if name not in known]
        if unknown:
            raise InputError(f"pipeline.columns names {', '.join(unknown)}, expected "
                             f"any of {', '.join(known)}")


class TrainSource:
    """Training batches by step: a function of (data set, configuration, seed, step).

    Attributes:
      steps_per_epoch: batches in which each training target appears exactly once.
      targets_per_epoch: how many targets that is.
      fill: share of the epoch's positions that hold an event.
      longest: a step whose batch has the longest rows.
    """

    def __init__(self, dataset: Dataset, cfg: Pipeline, *, seed: int,
                 process_index: int = 0, process_count: int = 1):
        """Plans the epochs of a data set's training split.

        Args:
          dataset: with training targets.
          cfg: what the batches look like.
          seed: of the order; together with the step it determines a batch.
          process_index: which contiguous slice of each global batch to make.
          process_count: into how many slices a global batch is cut.

        Raises:
          InputError: no training targets, a column that the data set lacks, or a batch
            that the processes cannot share equally.
        """
        if cfg.batch % process_count or not 0 <= process_index < process_count:
            raise InputError(f"pipeline.batch is {cfg.batch}, which {process_count} "
                             f"processes (this is number {process_index}) cannot share "
                             "equally; make it a multiple")
        rows = np.asarray(dataset.split("train"))
        plans: dict[str, Callable[..., row_plans.Plan]] = {
            "packed": row_plans.Packed,
            "last": row_plans.Buckets if cfg.buckets else row_plans.Last,
            "requests": request_rows.Requests}
        self._plan = plans[cfg.mode](dataset, rows, cfg, seed)
        self._local = cfg.batch // process_count
        self._skip, self._batch = process_index * self._local, cfg.batch
        self.steps_per_epoch = -(-self._plan.rows // cfg.batch)
        self.targets_per_epoch = self._plan.targets
        self.longest = self._plan.longest
        rows_made = self.steps_per_epoch * cfg.batch
        self.fill = self._plan.fill * self._plan.rows / rows_made

    def __len__(self) -> int:
        """As good as endless: epoch follows epoch."""
        return _ENDLESS

    def __getitem__(self, step: int) -> Batch:
        """Makes the batch of a step, counted from 0 over all epochs."""
        epoch, number = divmod(int(step), self.steps_per_epoch)
        first = number * self._batch + self._skip
        return self._plan.make(epoch, first, self._local)


def train_batches(
    dataset: Dataset, cfg: Pipeline, *, seed: int, process_index: int = 0,
    process_count: int = 1, start: int = 0, threads: int = 0,
) -> grain.DatasetIterator:
    """Iterates over training batches without end, epoch after epoch.

    Args:
      dataset, cfg, seed, process_index, process_count: as of `TrainSource`.
      start: the step to begin at; the batches from there on are the same as in a run
        that began at 0.
      threads: threads that make batches ahead. 0 makes each when it is asked for: best
        on a CPU, where a batch costs microseconds and the step wants every core.

    Returns:
      A grain iterator; `get_state()` is a JSON value that `set_state` takes back.

    Raises:
      InputError: as of `TrainSource`.
    """
    source = TrainSource(dataset, cfg, seed=seed, process_index=process_index,
                         process_count=process_count)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    iterator = iter(grain.MapDataset.source(source).to_iter_dataset(options))
    if start:
        grain.experimental.set_next_index(iterator, start)
    return iterator


@dataclasses.dataclass(frozen=True)
class EvalBatches:
    """The batches of a split, in its order; can be iterated any number of times.

    Attributes:
      maker: of rows by number.
      targets: of the split.
      batch: rows of a batch.
      behaviour: number of the behaviour that every row asks for; None: the log has no
        behaviours.
      only: `[R']` int, numbers of the split's targets that are batched; None: all.
    """

    maker: Any
    targets: int
    batch: int
    behaviour: int | None = None
    only: np.ndarray | None = None

    def __len__(self) -> int:
        asked = self.targets if self.only is None else len(self.only)
        return -(-asked // self.batch)

    def take(self, numbers: np.ndarray) -> Batch:
        """Makes a batch of chosen targets of the split, `[B]` int by number."""
        return self._asking(self.maker.make(np.asarray(numbers), len(numbers)))

    def _asking(self, batch: Batch) -> Batch:
        """The batch without what its users went on to do."""
        if "target_behaviour" in batch and self.behaviour is not None:
            batch["target_behaviour"] = np.full_like(batch["target_behaviour"],
                                                     self.behaviour)
        return batch

    def __iter__(self) -> Iterator[Batch]:
        asked = np.arange(self.targets) if self.only is None else self.only
        for first in range(0, len(asked), self.batch):
            numbers = asked[first:first + self.batch]
            batch = self._asking(self.maker.make(numbers, self.batch))
            batch["rows"] = np.full(self.batch, -1, np.int64)
            batch["rows"][:len(numbers)] = numbers
            yield batch


def eval_batches(dataset: Dataset, split: str, *, batch: int, history: int,
                 columns: tuple[str, ...] = (), long: int = 0, behaviour: str = "",
                 only: np.ndarray | None = None) -> EvalBatches:
    """Makes the batches of a split: one target for each row, each with its history.

    What the user did with the target is the answer's, not the request's: the column
    `target_behaviour` holds the behaviour that is asked for, whatever the log says.

    Args:
      dataset: a prepared data set.
      split: "train", "valid" or "test".
      batch: rows of every batch; the last is filled up with empty rows, whose
        `target_mask` is false.
      history: the most events of a target's history, the most recent ones.
      columns: side columns to add.
      long: how many events before those to add as `long_items`.
      behaviour: name of the behaviour that is asked for; "": the log's last.
      only: `[R']` int, numbers of the targets that are wanted; None: all.

    Returns:
      A sized iterable of batches of mode "last" with also `rows` `[B]` int64: which row
      of `dataset.targets(split)` (in validation and test splits: of the split) each is,
      -1 for the empty rows.

    Raises:
      InputError: the split is empty, the data set lacks a column, or no behaviour of
        that name.
    """
    cfg = Pipeline(batch=batch, history=history, mode="last", columns=columns,
                   long=long)
    maker = row_plans.OneTarget(dataset, np.asarray(dataset.split(split)), cfg)
    return EvalBatches(maker, maker.targets, batch, asked_behaviour(dataset, behaviour),
                       only)


def asked_behaviour(dataset: Dataset, name: str) -> int | None:
    """Number of the behaviour that requests ask for; "": the last; None: there is none.

    Raises:
      InputError: the log has no behaviour of that name.
    """
    known = list(dataset.manifest.get("behaviours") or ())
    if not name:
        return len(known) - 1 if known else None
    if name not in known:
        raise InputError(f"the behaviour that is asked for (instructions.behaviour) is "
                         f"{name!r}; {dataset.folder} has "
                         f"{', '.join(known) or 'none'}")
    return known.index(name)
