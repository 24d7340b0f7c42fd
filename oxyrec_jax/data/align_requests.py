"""Requests to align a policy on, with what was really shown in them."""

import functools

import numpy as np

from oxyrec_jax.base import InputError
from oxyrec_jax.data import impressions
from oxyrec_jax.data.baskets import Baskets, bought_together, of_split
from oxyrec_jax.data.dataset import Dataset
from oxyrec_jax.data.instruction_table import InstructionTable
from oxyrec_jax.data.pipeline import Batch, eval_batches
from oxyrec_jax.data.target_weights import target_events, targets_in


class AlignRequests:
    """Batches of requests by step: a function of (data set, options, seed, step).

    Every target of the split is one request; an epoch asks each once. A batch is one of
    `pipeline.eval_batches` and holds also

        asked_scenario  [B] int32     of the request, 0 where the log has none
        logged          [B, R] int32  the chosen item and what was shown beside it, -1
                                      where there are fewer; the chosen one alone where
                                      the log tells nothing of what was shown; of a set
                                      `by_basket` what was bought with it, dearest first
        rows            [B] int32     numbers of the targets
        future          [B, H] int32  where asked for: the chosen item and the person's
                                      next events of the same split, -1 where there are
                                      fewer
        bought          [B, H] int32  where asked for: the items of the basket that the
                                      target is of, -1 where there are fewer
        paid            [B, H]        float32: what was paid for each
        told            [B, 1, F]     where asked for, float32: vector of the text that
                                      the request carries for a teacher

    Attributes:
      steps_per_epoch: batches in which each request appears, the last left out where
        it is not full.
    """

    def __init__(self, dataset: Dataset, *, batch: int, logged: int, history: int,
                 columns: tuple[str, ...] = (), long: int = 0, behaviour: str = "",
                 scenarios: tuple[str, ...] = (), split: str = "train", seed: int,
                 horizon: int = 0, bought: bool = False,
                 told: InstructionTable | None = None, process_index: int = 0,
                 process_count: int = 1):
        """Plans the epochs of a split.

        Args:
          dataset: with targets.
          batch: requests of a batch, over all processes.
          logged: R.
          history, columns, long, behaviour: as of `pipeline.eval_batches`.
          scenarios: names of those whose requests are asked; empty: all.
          split: whose targets.
          seed: of the order.
          horizon: H; 0: `future` is not made. Events of another split are never in it:
            what is learnt from does not know what is asked later.
          bought: whether `bought` and `paid` are made.
          told: the texts of `told`; None: it is not made.
          process_index: which slice of each batch to make.
          process_count: into how many a batch is cut.

        Raises:
          InputError: fewer requests than a batch, or one that the processes cannot
            share equally; or baskets of a data set that is not `by_basket`.
        """
        if batch % process_count:
            raise InputError(f"align.batch is {batch}, which {process_count} processes "
                             "cannot share equally; make it a multiple")
        only = targets_in(dataset, split, scenarios)
        self._maker = eval_batches(dataset, split, batch=batch, history=history,
                                   columns=columns, long=long, behaviour=behaviour)
        self._only = (np.arange(self._maker.targets) if only is None
                      else np.asarray(only))
        if len(self._only) < batch:
            raise InputError(f"align.batch is {batch}, and {dataset.folder} has "
                             f"{len(self._only)} requests to align on; lower it")
        self._events = target_events(dataset, split)
        baskets = of_split(dataset, split) if bought or dataset.by_basket else None
        if baskets is None:
            self._shown = _shown_beside(dataset, self._events, logged)
        else:
            self._bought, self._paid = bought_together(baskets)
            self._shown = _bought_beside(baskets, self._bought, self._paid, logged)
        self._scenario = (dataset.column("scenario")[self._events].astype(np.int32)
                          if "scenario" in dataset.columns
                          else np.zeros(len(self._events), np.int32))
        self._future = _taken_later(dataset, split, horizon) if horizon else None
        self._baskets = baskets if bought else None
        self._told = told
        self._batch, self._seed = batch, seed
        local = batch // process_count
        self._mine = slice(process_index * local, (process_index + 1) * local)
        self.steps_per_epoch = len(self._only) // batch
        self._order = functools.lru_cache(maxsize=1)(self._draw)

    def __getitem__(self, step: int) -> Batch:
        """Makes this process's rows of the batch of a step, counted from 0."""
        epoch, number = divmod(int(step), self.steps_per_epoch)
        order = self._order(epoch)
        return self.take(order[number * self._batch:(number + 1) * self._batch]
                         [self._mine])

    def _draw(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, epoch]).permutation(self._only)

    def take(self, numbers: np.ndarray) -> Batch:
        """Makes a batch of chosen targets of the split, `[B]` int by number."""
        batch = self._maker.take(numbers)
        batch["asked_scenario"] = self._scenario[numbers]
        batch["logged"] = self._shown[numbers]
        batch["rows"] = np.asarray(numbers, np.int32)
        if self._future is not None:
            batch["future"] = self._future[numbers]
        if self._baskets is not None:
            row = self._baskets.row[numbers]
            batch["bought"], batch["paid"] = self._bought[row], self._paid[row]
        if self._told is not None:
            batch["told"] = self._told.take(self._events[numbers])[:, None]
        return batch


def _taken_later(dataset: Dataset, split: str, most: int) -> np.ndarray:
    """`[R, most]` int32: each target's item and the next ones of its split's row."""
    rows = dataset.split(split)
    count = rows[:, 2] - rows[:, 1]
    left = np.repeat(rows[:, 2], count) - dataset.targets(split)[:, 1]
    events = target_events(dataset, split)[:, None] + np.arange(most)
    inside = np.arange(most) < left[:, None]
    items = dataset.column("item")[np.where(inside, events, 0)]
    return np.where(inside, items, -1).astype(np.int32)


def _shown_beside(dataset: Dataset, events: np.ndarray, most: int) -> np.ndarray:
    """`[E', most]` int32: each event's item, then what its request showed besides."""
    chosen = dataset.column("item")[events].astype(np.int32)
    found = np.full((len(events), most), -1, np.int32)
    if not most:
        return found
    found[:, 0] = chosen
    if not impressions.tells_impressions(dataset):
        return found
    shown, _ = impressions.load_impressions(dataset).of(
        dataset.column("request")[events])
    others = _without(shown, chosen)[:, :most - 1]
    found[:, 1:1 + others.shape[1]] = others
    return found


def _bought_beside(baskets: Baskets, items: np.ndarray, paid: np.ndarray, most: int
                   ) -> np.ndarray:
    """`[P, most]` int32: each item that was bought, then what was with it, dearest
    first; `items` and `paid` from `bought_together`."""
    chosen = baskets.item.astype(np.int32)
    found = np.full((len(chosen), most), -1, np.int32)
    if not most:
        return found
    order = np.argsort(-np.where(items >= 0, paid, -1), axis=1, kind="stable")
    dearest = np.take_along_axis(items, order, axis=1)[:, :most]
    found[:, 0] = chosen
    others = _without(dearest[baskets.row], chosen)[:, :most - 1]
    found[:, 1:1 + others.shape[1]] = others
    return found


def _without(items: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The items `[R, C]` of each row in their order but for one, then -1."""
    left = (items < 0) | (items == chosen[:, None])
    order = np.argsort(left, axis=1, kind="stable")
    return np.take_along_axis(np.where(left, -1, items), order, axis=1)
