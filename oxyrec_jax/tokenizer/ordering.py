"""Which item of a semantic ID stands first: the popular, the recent, or a given score.

    popularity  how often the item is a training target
    recency     when the item was last a training target
    learned     a score for each item, made elsewhere, in a `.npy` file
"""

import pathlib

import numpy as np

from oxyrec_jax.base import InputError
from oxyrec_jax.data.dataset import Dataset
from oxyrec_jax.data.packing import count_up
from oxyrec_jax.data.target_weights import target_events
from oxyrec_jax.tokenizer import embeddings

ORDERS = ("popularity", "recency", "learned")
NEVER = np.iinfo(np.int64).min + 1  # recency of an item that no training event holds


def training_recency(dataset: Dataset) -> np.ndarray:
    """Tells when each item was last a training target: `[N]` int64.

    Returns:
      Seconds since 1970 where the data set has times; else minus the number of
      training targets of the same sequence that came after. `NEVER` where the item is
      no training target.
    """
    events = target_events(dataset, "train")
    if "time" in dataset.columns:
        when = np.asarray(dataset.column("time"), np.int64)[events]
    else:
        rows = dataset.split("train")
        sizes = rows[:, 2] - rows[:, 1]
        when = count_up(sizes) - np.repeat(sizes - 1, sizes)
    recency = np.full(dataset.num_items, NEVER)
    np.maximum.at(recency, np.asarray(dataset.column("item"))[events], when)
    return recency


def read_scores(path: str | None, items: int) -> np.ndarray:
    """Reads a score for each item: `[N]` float64, higher first.

    Raises:
      InputError: no path, no such file, or not N finite numbers.
    """
    if not path:
        raise InputError("tokenizer.order is learned, which needs the scores of the "
                         "items; give their .npy file as tokenizer.order_scores")
    if not pathlib.Path(path).is_file():
        raise InputError(f"{path} does not exist; give the .npy file of the items' "
                         "scores")
    scores = embeddings.read_npy(pathlib.Path(path))
    if not isinstance(scores, np.ndarray) or scores.dtype.kind not in "fiu" or (
            scores.shape != (items,)):
        found = getattr(scores, "shape", "no array")
        raise InputError(f"{path} holds {found}, expected {items} numbers: the score "
                         "of each item in order")
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        raise InputError(f"{path}: the score of item {bad[0]} is not finite "
                         f"({len(bad)} such items)")
    return scores.astype(np.float64)
