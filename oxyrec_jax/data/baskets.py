"""The baskets of a split: what was bought together, and for how much."""

import dataclasses

import numpy as np

from oxyrec_jax.base import InputError
from oxyrec_jax.data.dataset import Dataset
from oxyrec_jax.data.packing import count_up
from oxyrec_jax.data.target_weights import target_events


@dataclasses.dataclass(frozen=True)
class Baskets:
    """R baskets of a split, in its order.

    Attributes:
      asked: `[R]` int64, number of a target of each: its first.
      row: `[P]` int64, the basket of each bought item, rising.
      item: `[P]` int64, the items; each once in a basket.
      spent: `[P]` float64, what was paid for it.
    """

    asked: np.ndarray
    row: np.ndarray
    item: np.ndarray
    spent: np.ndarray

    def __len__(self) -> int:
        return len(self.asked)


def of_split(dataset: Dataset, split: str) -> Baskets:
    """The baskets of a split.

    Args:
      dataset: `by_basket`; without the column `price` every item costs 1.
      split: "train", "valid" or "test".

    Raises:
      InputError: the data set is of another protocol, or the split is empty.
    """
    if not dataset.by_basket:
        raise InputError(f"{dataset.folder} asks for one item after the other; prepare "
                         "it with data.protocol=next-basket")
    place = target_events(dataset, split)
    ends = dataset.history_ends()[place]
    _, first, row = np.unique(ends, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    spent = (np.nan_to_num(dataset.column("price")[place].astype(np.float64))
             if "price" in dataset.columns else np.ones(len(place)))
    return Baskets(first[order], rank[row.reshape(-1)],
                   dataset.column("item")[place].astype(np.int64), spent)


def one_for_each(dataset: Dataset, split: str, only: np.ndarray | None = None
                 ) -> np.ndarray:
    """For each target the first of its basket among those that are wanted.

    Args:
      dataset: a prepared data set, `by_basket`.
      split: "train", "valid" or "test".
      only: `[R']` int, numbers of the targets that are wanted; None: all.

    Returns:
      `[R']` int64 numbers of targets, the same for targets of one basket.
    """
    ends = dataset.history_ends()[target_events(dataset, split)]
    wanted = np.arange(len(ends)) if only is None else np.asarray(only)
    _, first, index = np.unique(ends[wanted], return_index=True, return_inverse=True)
    return wanted[first[index.reshape(-1)]]


def bought_together(baskets: Baskets) -> tuple[np.ndarray, np.ndarray]:
    """The baskets as rows of one length.

    Args:
      baskets: R, the largest of H items.

    Returns:
      `[R, H]` int32 items, -1 where there are fewer, and `[R, H]` float32 what was paid
      for each, there 0.
    """
    slot = count_up(np.bincount(baskets.row, minlength=len(baskets)))
    order = np.argsort(baskets.row, kind="stable")
    shape = (len(baskets), int(slot.max(initial=0)) + 1)
    items, spent = np.full(shape, -1, np.int32), np.zeros(shape, np.float32)
    items[baskets.row[order], slot] = baskets.item[order]
    spent[baskets.row[order], slot] = baskets.spent[order]
    return items, spent
