"""Recommenders that learn nothing: popularity, Markov, nearest titles, and both.

A trained model's figures mean something only beside these. They read the events of the
train split, and of each tested user the history that a model reads. Every one ranks the
full catalogue. Ties in score go to the item more popular in training, then to the lower
item id. Defaults are ours; on Amazon-14 Beauty (leave-one-out, file order) HR@10 and
NDCG@10 are .0114 and .0053 for popularity, .0780 and .0475 for Markov. Those of
baskets are in basket_baselines.py.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import scipy.sparse

from oxyrec_jax.evaluate import rows as split_rows
from oxyrec_jax.evaluate.best_lists import (best_dense, best_sparse, by_popularity,
                                            places)
from oxyrec_jax.evaluate.rows import Events, Targets

BACK = 3
"""How many of the last items Markov and nearest titles look at."""

NAMES = ("popularity", "markov", "title_knn", "markov_title", "popularity_shuffled",
         "markov_shuffled", "title_knn_shuffled")
"""Every name that `recommend` may give."""

_WEIGHTS = np.array([6, 3, 2])  # 6/d: whole numbers, so that equal scores are equal
_SHARP = 1 / 0.06  # ours, of nearest titles beside Markov, chosen on Beauty's valid
_CHUNK = 1024  # rows scored at once: 1024 x 12k float32 are 50 MB


def popularity(events: Events, targets: Targets, k: int) -> np.ndarray:
    """Recommends the `k` items with the most training events to everyone.

    Args:
      events: the data set's events and train split.
      targets: R targets of the split that is tested.
      k: length of the lists.

    Returns:
      `[R, k]` int32, best first, -1 where the catalogue ends.
    """
    lists = np.full((len(targets), k), -1, np.int32)
    best = by_popularity(events)[:k]
    lists[:, :len(best)] = best
    return lists


def markov(events: Events, targets: Targets, k: int) -> np.ndarray:
    """Recommends what followed the last three items in training.

    With `n_d(i, j)` the number of training targets j that stand d events after i, and
    `h_d` the item d events before the target, item j scores

        sum_{d=1..3} 1/d  sum_{e=1..3} 1/e  n_e(h_d, j).

    Counts are not normalised: normalising by row lowers Beauty's HR@10 from .0780 to
    .0755. Items that never followed are ordered by training popularity.

    Args:
      events: the data set's events; only training targets and what precedes them are
        counted.
      targets: R targets of the split that is tested; their histories are read from
        `targets` and so are not shuffled where the counted ones are.
      k: length of the lists.

    Returns:
      `[R, k]` int32, best first, -1 where the catalogue ends.
    """
    followed = split_rows.expand(events, events.train)
    before = split_rows.recent(events, followed, BACK)
    history = split_rows.recent(events, targets, BACK)
    return _markov_lists(before, followed.item, history, by_popularity(events), k)


def markov_shuffled(events: Events, targets: Targets, k: int, *, seed: int = 0
                    ) -> np.ndarray:
    """`markov` with counts from shuffled training histories, asked true histories.

    What it loses against `markov` is what the order inside a history told.
    """
    shuffled = split_rows.shuffle_training(events, seed)
    followed = split_rows.expand(shuffled, events.train)
    before = split_rows.recent(shuffled, followed, BACK)
    history = split_rows.recent(events, targets, BACK)
    return _markov_lists(before, followed.item, history, by_popularity(events), k)


def title_knn(events: Events, targets: Targets, k: int, embeddings: np.ndarray
              ) -> np.ndarray:
    """Recommends the items whose text is nearest to that of the last three.

    Item j scores `cos(q, x_j)` with `q = sum_{d=1..3} x(h_d) / d`, x the item's text
    embedding scaled to length 1. Where less than 1 % of the training targets repeat an
    item of their history, the items asked for are left out: they would head every list
    and never be right.

    Args:
      events: the data set's events and train split.
      targets: R targets of the split that is tested.
      k: length of the lists.
      embeddings: `[N, D]` float, one row an item; a row of zeros is near to nothing.

    Returns:
      `[R, k]` int32, best first, -1 where the catalogue ends.

    Raises:
      ValueError: not one row an item, or a number that is not finite.
    """
    return _title_lists(_read_titles(events, embeddings), events, targets, k)


def markov_title(events: Events, targets: Targets, k: int, embeddings: np.ndarray
                 ) -> np.ndarray:
    """Recommends by Markov and nearest titles together.

    With m_j Markov's score of item j, n their sum, q and x as for nearest titles and q
    scaled to length 1, item j scores

        (1 - a) m_j / n + a softmax_j(cos(q, x_j) / 0.06),    a = 1 / (1 + log(1 + n)).

    Where less than 1 % of the training targets repeat an item of their history, all
    items of the history are left out.

    Args, Returns, Raises: as of `title_knn`.

    Source: ours; it asks what a network that mixes both adds to the two.
    """
    return _mixed_lists(_read_titles(events, embeddings), events, targets, k)


def recommend(events: Events, targets: Targets, k: int, *,
              embeddings: np.ndarray | None = None, seed: int = 0
              ) -> dict[str, np.ndarray]:
    """All baselines, each also with shuffled training histories.

    Popularity and nearest titles do not read the order of a history in training, so
    their shuffled lists are the same arrays.

    Args:
      events: the data set's events and train split.
      targets: R targets of the split that is tested.
      k: length of the lists.
      embeddings: `[N, D]` float item text embeddings; None: no nearest titles.
      seed: of the shuffle.

    Returns:
      "popularity", "markov" and, with embeddings, "title_knn", and each with
      "_shuffled" behind; with embeddings "markov_title": `[R, k]` int32 lists.
    """
    lists = {"popularity": popularity(events, targets, k),
             "markov": markov(events, targets, k)}
    if embeddings is not None:
        titles = _read_titles(events, embeddings)
        lists["title_knn"] = _title_lists(titles, events, targets, k)
        lists["title_knn_shuffled"] = lists["title_knn"]
        lists["markov_title"] = _mixed_lists(titles, events, targets, k)
    lists["popularity_shuffled"] = lists["popularity"]
    lists["markov_shuffled"] = markov_shuffled(events, targets, k, seed=seed)
    return {name: lists[name] for name in NAMES if name in lists}


def _markov_lists(before: np.ndarray, followed: np.ndarray, history: np.ndarray,
                  order: np.ndarray, k: int) -> np.ndarray:
    """Lists from the training targets `[P]` and the items before them `[P, 3]`."""
    place = places(order)
    transitions = _transitions(before, followed, place)
    lists = np.full((len(history), k), -1, np.int32)
    for first in range(0, len(history), _CHUNK):
        asked = _query(history[first:first + _CHUNK], place)
        lists[first:first + _CHUNK] = best_sparse(asked @ transitions, order, k)
    return lists


def _transitions(before: np.ndarray, followed: np.ndarray, place: np.ndarray
                 ) -> scipy.sparse.csr_array:
    """`[N, N]`: 6/e summed over the targets that stand e events after each item."""
    row, back = np.nonzero(before >= 0)
    pairs = (place[before[row, back]], place[followed[row]])
    return scipy.sparse.coo_array(
        (_WEIGHTS[back], pairs), (len(place), len(place))).tocsr()


@dataclasses.dataclass(frozen=True)
class _Titles:
    """What the recommenders by title begin with; items are numbered by popularity.

    Attributes:
      order, place: `[N]` ids by number, and numbers by id.
      vectors: `[N, D]` float32 text vectors of length 1.
      repeating: people take an item again; else no list holds what was asked for.
    """

    order: np.ndarray
    place: np.ndarray
    vectors: np.ndarray
    repeating: bool


def _read_titles(events: Events, embeddings: np.ndarray) -> _Titles:
    order = by_popularity(events)
    if embeddings.ndim != 2 or len(embeddings) != len(order):
        raise ValueError(f"{embeddings.shape=}, expected [{len(order)}, D]")
    vectors = embeddings[order].astype(np.float32)
    if not np.isfinite(vectors).all():
        raise ValueError("the item embeddings hold numbers that are not finite")
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    repeating = (split_rows.repeat_share(events) or 0) >= split_rows.REPEATS
    return _Titles(order, places(order), vectors, repeating)


def _title_lists(titles: _Titles, events: Events, targets: Targets, k: int
                 ) -> np.ndarray:
    """As `title_knn`."""
    def score(part: Targets, asked: scipy.sparse.csr_array) -> np.ndarray:
        scores = (asked @ titles.vectors) @ titles.vectors.T
        if not titles.repeating:
            scores[asked.nonzero()] = -np.inf
        return scores
    return _dense_lists(titles, events, targets, k, score)


def _mixed_lists(titles: _Titles, events: Events, targets: Targets, k: int
                 ) -> np.ndarray:
    """As `markov_title`."""
    followed = split_rows.expand(events, events.train)
    transitions = _transitions(split_rows.recent(events, followed, BACK), followed.item,
                               titles.place)

    def score(part: Targets, asked: scipy.sparse.csr_array) -> np.ndarray:
        counted = (asked @ transitions).toarray() / _WEIGHTS[0] ** 2
        total = counted.sum(axis=1, keepdims=True)
        query = asked @ titles.vectors
        query /= np.maximum(np.linalg.norm(query, axis=1, keepdims=True), 1e-12)
        near = np.exp(_SHARP * (query @ titles.vectors.T - 1))
        if not titles.repeating:
            row, event = split_rows.histories(events, part)
            known = row, titles.place[events.items[event]]
            near[known] = counted[known] = 0
        share = 1 / (1 + np.log1p(total))
        scores = (counted * ((1 - share) / np.maximum(total, 1e-12))
                  + near * (share / np.maximum(near.sum(axis=1, keepdims=True), 1e-30)))
        if not titles.repeating:
            scores[known] = -np.inf
        return scores
    return _dense_lists(titles, events, targets, k, score)


def _dense_lists(titles: _Titles, events: Events, targets: Targets, k: int,
                 score: Callable[[Targets, scipy.sparse.csr_array], np.ndarray]
                 ) -> np.ndarray:
    """Lists by the scores `[R', N]` of some targets and what they ask for `[R', N]`."""
    history = split_rows.recent(events, targets, BACK)
    lists = np.full((len(targets), k), -1, np.int32)
    for first in range(0, len(targets), _CHUNK):
        part = targets.take(np.arange(first, min(first + _CHUNK, len(targets))))
        asked = _query(history[first:first + _CHUNK], titles.place).astype(np.float32)
        lists[first:first + _CHUNK] = best_dense(score(part, asked), titles.order, k)
    return lists


def _query(history: np.ndarray, place: np.ndarray) -> scipy.sparse.csr_array:
    """`[R, N]` weights 6/d of the items asked for, numbered by popularity."""
    row, back = np.nonzero(history >= 0)
    asked = (_WEIGHTS[back], (row, place[history[row, back]]))
    return scipy.sparse.coo_array(asked, (len(history), len(place))).tocsr()
