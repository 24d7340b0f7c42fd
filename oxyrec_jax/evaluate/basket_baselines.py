"""Recommenders of next baskets that learn nothing: own items, and baskets in a row.

As those of baselines.py: they read the events of the train split and the history of
each tested user, and rank the full catalogue.
"""

import numpy as np
import scipy.sparse

from oxyrec_jax.data.packing import spans
from oxyrec_jax.evaluate import rows as split_rows
from oxyrec_jax.evaluate.best_lists import best_sparse, by_popularity, places
from oxyrec_jax.evaluate.rows import Events, Targets

FADE = 0.98
"""What a request counts beside the one after it in the fading frequency; ours, the
best by recall@10 of .8, .9, .95, .97, .98 and .99 on the Complete Journey's validation
baskets."""

_CHUNK = 1024  # rows scored at once


def own_frequency(events: Events, targets: Targets, k: int, *, fade: float = 1.0
                  ) -> np.ndarray:
    """Recommends what the user took most often before.

    With q the requests of the user's history in order and b back from its end (0 the
    last), item j scores `sum over its events of fade^b`: at 1 how often it was taken.
    Equal scores go to what was taken last; the popular rest follows.

    Args:
      events: the data set's events, with `ends` where requests are sets; otherwise
        every event is a request of its own.
      targets: R targets of the split that is tested.
      k: length of the lists.
      fade: in (0, 1].

    Returns:
      `[R, k]` int32, best first, -1 where the catalogue ends.

    Source: the personal frequency of next-basket recommendation, as in Li et al. 2023,
    https://doi.org/10.1145/3587153; fading is ours.
    """
    if not 0 < fade <= 1:
        raise ValueError(f"{fade=}, expected above 0, at most 1")
    order = by_popularity(events)
    place = places(order)
    request = _requests(events)
    row, event = split_rows.histories(events, targets)
    newest = request[np.maximum(targets.end - 1, 0)]
    weight = fade ** (newest[row] - request[event]).astype(np.float64)
    pair, index = np.unique(row * events.num_items + place[events.items[event]],
                            return_inverse=True)
    index = index.reshape(-1)
    score = np.bincount(index, weights=weight, minlength=len(pair))
    last = np.zeros(len(pair), np.int64)
    np.maximum.at(last, index, request[event])
    row, column = pair // events.num_items, pair % events.num_items
    rank = np.empty(len(pair))  # from 1 up: what scores more, then what was later
    rank[np.lexsort([-column, last, np.round(score, 9), row])] = np.arange(
        1, len(pair) + 1)
    scores = scipy.sparse.coo_array((rank, (row, column)),
                                    (len(targets), events.num_items))
    return best_sparse(scores, order, k)


def basket_markov(events: Events, targets: Targets, k: int) -> np.ndarray:
    """Recommends what stood in the baskets after those that held the last one's items.

    With n(i, j) the number of training baskets that hold j and come right after one
    that holds i, and n(i) that of the latter, item j scores `sum_i n(i, j) / n(i)` over
    the items i of the user's last basket. The popular rest follows.

    Args:
      events: the data set's events, with `ends`; training targets alone are counted.
      targets: R targets of the split that is tested.
      k: length of the lists.

    Returns:
      `[R, k]` int32, best first, -1 where the catalogue ends.

    Source: the transition cube of Rendle et al. 2010,
    https://doi.org/10.1145/1772690.1772773, section 4.2, without factors or persons.
    """
    order = by_popularity(events)
    place = places(order)
    train = split_rows.expand(events, events.train)
    opened, index = np.unique(train.end, return_inverse=True)
    later = scipy.sparse.coo_array(
        (np.ones(len(train), np.float32), (index.reshape(-1), place[train.item])),
        (len(opened), len(order))).tocsr()
    before = _last_baskets(events, opened, place)
    count = np.maximum(before.sum(axis=0), 1)
    follows = (before.T.tocsr() @ later).tocsr()
    lists = np.full((len(targets), k), -1, np.int32)
    for first in range(0, len(targets), _CHUNK):
        asked = _last_baskets(events, targets.end[first:first + _CHUNK], place)
        scores = (asked * (1 / count)[None]).tocsr() @ follows
        lists[first:first + _CHUNK] = best_sparse(scores, order, k)
    return lists


def _requests(events: Events) -> np.ndarray:
    """`[E]` int64: a number of each event's request, rising."""
    if events.ends is None:
        return np.arange(len(events.items))
    return np.cumsum(events.ends == np.arange(len(events.ends)))


def _last_baskets(events: Events, ends: np.ndarray, place: np.ndarray
                  ) -> scipy.sparse.csr_array:
    """`[R, N]` ones where the basket right before event `ends` holds an item."""
    if events.ends is None:
        raise ValueError("events without requests have no baskets")
    start = events.ends[ends - 1]
    row = np.repeat(np.arange(len(ends)), ends - start)
    column = place[events.items[spans(start, ends)]]
    return scipy.sparse.coo_array((np.ones(len(row), np.float32), (row, column)),
                                  (len(ends), len(place))).tocsr()
