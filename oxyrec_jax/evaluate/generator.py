"""What the trained generator recommends for every target of a split."""

from typing import Any

import jax
import numpy as np

from oxyrec_jax import progress
from oxyrec_jax.base import InputError
from oxyrec_jax.data import pipeline
from oxyrec_jax.data.baskets import one_for_each
from oxyrec_jax.data.dataset import Dataset
from oxyrec_jax.decode.beam import expand_items
from oxyrec_jax.decode.recommend import recommend, with_item_keys
from oxyrec_jax.evaluate.evaluation import Recommendations
from oxyrec_jax.models.generator import Generator
from oxyrec_jax.tokenizer.catalogue import Catalogue
from oxyrec_jax.tokenizer.trie import Leaves


def recommend_split(model: Generator, params: Any, dataset: Dataset, split: str,
                    catalogue: Catalogue, leaves: Leaves, *, history: int, beams: int,
                    batch: int = 256, experts: bool = True, every: int = 1,
                    behaviour: str = "", only: np.ndarray | None = None,
                    what: str = "recommending"
                    ) -> tuple[Recommendations, np.ndarray]:
    """Runs the constrained beam search for the targets of a split.

    Targets of one basket in a set `by_basket` have one history and share a list.

    Args:
      model: the network.
      params: its parameters.
      dataset: the prepared data.
      split: "valid" or "test".
      catalogue: the items.
      leaves: the items behind each leaf of the catalogue's trie.
      history: the most events of a history.
      beams: K, which is also the length of the lists.
      batch: requests in one call of the search.
      experts: without it a model that mixes experts answers with its decoder alone.
      every: answer only each so-many-th batch, for a quick look that is spread over
        the whole split (users at its start may be unlike the others).
      behaviour: name of what is asked for, for a network that is told; "": the log's
        last.
      only: `[R']` int, numbers of the targets that are wanted; None: all.
      what: the work in a few words, for the progress bar.

    Returns:
      `Recommendations` of R rows, and `[R]` int64 which targets of the split they are.

    Raises:
      InputError: K above the number of items.
    """
    if beams > dataset.num_items:
        raise InputError(f"{beams} beams for a catalogue of {dataset.num_items} items; "
                         "ask for at most as many as there are items")
    items, sids, numbers = [], [], []
    asked = one_for_each(dataset, split, only) if dataset.by_basket else only
    batches = pipeline.eval_batches(dataset, split, batch=batch, history=history,
                                    columns=model.columns,
                                    long=model.cfg.retrieval.events,
                                    behaviour=behaviour,
                                    only=None if asked is None else np.unique(asked))
    params = jax.device_put(params)
    catalogue = with_item_keys(model, params, catalogue)
    for number, rows in enumerate(progress.track(batches, what)):
        if number % every:
            continue
        real = rows["rows"] >= 0
        found = recommend(model, params, rows, catalogue, beams=beams, experts=experts)
        sids.append(np.asarray(found.leaves)[real])
        items.append(expand_items(found, leaves, limit=beams)[real])
        numbers.append(rows["rows"][real])
    lists, trees, rows_of = (np.concatenate(part) for part in (items, sids, numbers))
    if dataset.by_basket and asked is not None:
        wanted = np.flatnonzero(np.isin(asked, rows_of))
        place = np.searchsorted(rows_of, asked[wanted])  # answered in rising order
        lists, trees = lists[place], trees[place]
        rows_of = wanted if only is None else np.asarray(only)[wanted]
    return Recommendations(lists, trees, leaves.of_items()), rows_of
