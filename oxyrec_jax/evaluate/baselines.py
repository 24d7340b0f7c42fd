"""Recommenders that learn nothing: popularity, Markov, nearest titles, both, own items.

A trained model's figures mean something only beside these. They read the events of the
train split, and of each tested user the history that a model reads. Every one ranks the
full catalogue. Ties in score go to the item more popular in training, then to the lower
item id. Defaults are ours; on Amazon-14 Beauty (leave-one-out, file order) HR@10 and
NDCG@10 are .0114 and .0053 for popularity, .0780 and .0475 for Markov.
"""

import numpy as np
import scipy.sparse

from oxyrec_jax.data.packing import spans
from oxyrec_jax.evaluate import rows as split_rows
from oxyrec_jax.evaluate.rows import Events, Targets

BACK = 3
"""How many of the last items Markov and nearest titles look at."""

NAMES = ("popularity", "markov", "title_knn", "markov_title", "popularity_shuffled",
         "markov_shuffled", "title_knn_shuffled")
"""Every name that `recommend` may give."""

FADE = 0.98
"""What a request counts beside the one after it in the fading frequency; ours, the
best by recall@10 of .8, .9, .95, .97, .98 and .99 on the Complete Journey's validation
baskets."""

_WEIGHTS = np.array([6, 3, 2])  # 6/d: whole numbers, so that equal scores are equal
_SHARP = 1 / 0.06  # ours, of nearest titles beside Markov, chosen on Beauty's valid
_CHUNK = 1024  # rows scored at once: 1024 x 12k float32 are 50 MB
_REPEATS = 0.01  # ours: below this share of training targets a log repeats nothing


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
    best = _by_popularity(events)[:k]
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
    return _markov_lists(before, followed.item, history, _by_popularity(events), k)


def markov_shuffled(events: Events, targets: Targets, k: int, *, seed: int = 0
                    ) -> np.ndarray:
    """`markov` with counts from shuffled training histories, asked true histories.

    What it loses against `markov` is what the order inside a history told.
    """
    shuffled = split_rows.shuffle_training(events, seed)
    followed = split_rows.expand(shuffled, events.train)
    before = split_rows.recent(shuffled, followed, BACK)
    history = split_rows.recent(events, targets, BACK)
    return _markov_lists(before, followed.item, history, _by_popularity(events), k)


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
    order = _by_popularity(events)
    place = _places(order)
    request = _requests(events)
    start = events.offsets[targets.sequence]
    row = np.repeat(np.arange(len(targets)), targets.end - start)
    event = spans(start, targets.end)
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
    return _best_sparse(scores, order, k)


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
    order = _by_popularity(events)
    place = _places(order)
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
        lists[first:first + _CHUNK] = _best_sparse(scores, order, k)
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
    order = _by_popularity(events)
    vectors = _unit(embeddings, order)
    place = _places(order)
    exclude = not _repeating(events)
    history = split_rows.recent(events, targets, BACK)
    lists = np.full((len(targets), k), -1, np.int32)
    for first in range(0, len(targets), _CHUNK):
        asked = _query(history[first:first + _CHUNK], place)
        scores = (asked.astype(np.float32) @ vectors) @ vectors.T
        if exclude:
            scores[asked.nonzero()] = -np.inf
        lists[first:first + _CHUNK] = _best_dense(scores, order, k)
    return lists


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
    order = _by_popularity(events)
    vectors = _unit(embeddings, order)
    place = _places(order)
    followed = split_rows.expand(events, events.train)
    transitions = _transitions(split_rows.recent(events, followed, BACK), followed.item,
                               place)
    exclude = not _repeating(events)
    history = split_rows.recent(events, targets, BACK)
    lists = np.full((len(targets), k), -1, np.int32)
    for first in range(0, len(targets), _CHUNK):
        part = targets.take(np.arange(first, min(first + _CHUNK, len(targets))))
        asked = _query(history[first:first + _CHUNK], place).astype(np.float32)
        counted = (asked @ transitions).toarray() / _WEIGHTS[0] ** 2
        total = counted.sum(axis=1, keepdims=True)
        query = asked @ vectors
        query /= np.maximum(np.linalg.norm(query, axis=1, keepdims=True), 1e-12)
        near = np.exp(_SHARP * (query @ vectors.T - 1))
        if exclude:
            row, item = _histories(events, part)
            near[row, place[item]] = 0
            counted[row, place[item]] = 0
        share = 1 / (1 + np.log1p(total))
        scores = (counted * ((1 - share) / np.maximum(total, 1e-12))
                  + near * (share / np.maximum(near.sum(axis=1, keepdims=True), 1e-30)))
        if exclude:
            scores[row, place[item]] = -np.inf
        lists[first:first + _CHUNK] = _best_dense(scores, order, k)
    return lists


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
        lists["title_knn"] = title_knn(events, targets, k, embeddings)
        lists["title_knn_shuffled"] = lists["title_knn"]
        lists["markov_title"] = markov_title(events, targets, k, embeddings)
    lists["popularity_shuffled"] = lists["popularity"]
    lists["markov_shuffled"] = markov_shuffled(events, targets, k, seed=seed)
    return {name: lists[name] for name in NAMES if name in lists}


def _by_popularity(events: Events) -> np.ndarray:
    """Items by training popularity, most popular first, ties by id: `[N]`."""
    return np.argsort(-split_rows.popularity(events), kind="stable")


def _places(order: np.ndarray) -> np.ndarray:
    """The inverse of a permutation."""
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return place


def _markov_lists(before: np.ndarray, followed: np.ndarray, history: np.ndarray,
                  order: np.ndarray, k: int) -> np.ndarray:
    """Lists from the training targets `[P]` and the items before them `[P, 3]`."""
    place = _places(order)
    transitions = _transitions(before, followed, place)
    lists = np.full((len(history), k), -1, np.int32)
    for first in range(0, len(history), _CHUNK):
        asked = _query(history[first:first + _CHUNK], place)
        lists[first:first + _CHUNK] = _best_sparse(asked @ transitions, order, k)
    return lists


def _transitions(before: np.ndarray, followed: np.ndarray, place: np.ndarray
                 ) -> scipy.sparse.csr_array:
    """`[N, N]`: 6/e summed over the targets that stand e events after each item."""
    row, back = np.nonzero(before >= 0)
    pairs = (place[before[row, back]], place[followed[row]])
    return scipy.sparse.coo_array(
        (_WEIGHTS[back], pairs), (len(place), len(place))).tocsr()


def _unit(embeddings: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Text vectors scaled to length 1, float32, in this order."""
    if embeddings.ndim != 2 or len(embeddings) != len(order):
        raise ValueError(f"{embeddings.shape=}, expected [{len(order)}, D]")
    vectors = embeddings[order].astype(np.float32)
    if not np.isfinite(vectors).all():
        raise ValueError("the item embeddings hold numbers that are not finite")
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _repeating(events: Events) -> bool:
    """Whether people take an item again."""
    train = split_rows.expand(events, events.train)
    return len(train) > 0 and split_rows.repeats(events, train).mean() >= _REPEATS


def _histories(events: Events, targets: Targets) -> tuple[np.ndarray, np.ndarray]:
    """Number of the target and item of every event before each target."""
    start = events.offsets[targets.sequence]
    row = np.repeat(np.arange(len(targets)), targets.end - start)
    return row, events.items[spans(start, targets.end)]


def _query(history: np.ndarray, place: np.ndarray) -> scipy.sparse.csr_array:
    """`[R, N]` weights 6/d of the items asked for, numbered by popularity."""
    row, back = np.nonzero(history >= 0)
    asked = (_WEIGHTS[back], (row, place[history[row, back]]))
    return scipy.sparse.coo_array(asked, (len(history), len(place))).tocsr()


def _best_sparse(scores: scipy.sparse.csr_array, order: np.ndarray, k: int
                 ) -> np.ndarray:
    """First k of each row: stored scores (> 0), then the popular rest."""
    found = scores.tocoo()
    row, column = found.row.astype(np.int64), found.col.astype(np.int64)
    lists, sizes = _first(row, column, found.data, scores.shape[0], k)
    popular = np.ones((scores.shape[0], min(k, len(order))), bool)
    head = column < popular.shape[1]
    popular[row[head], column[head]] = False  # already among the scored
    # The first k popular items always hold the k - size that are still wanted.
    slot = sizes[:, None] + np.cumsum(popular, axis=1) - 1
    row, column = np.nonzero(popular & (slot < k))
    lists[row, slot[row, column]] = column
    return np.where(lists >= 0, order[lists], -1)


def _best_dense(scores: np.ndarray, order: np.ndarray, k: int) -> np.ndarray:
    """First k of each row of `[R, N]`, columns numbered by popularity; not -inf."""
    kept = min(k, scores.shape[1])
    threshold = np.partition(scores, scores.shape[1] - kept, axis=1)[:, -kept]
    row, column = np.nonzero((scores >= threshold[:, None]) & (scores > -np.inf))
    lists, _ = _first(row, column, scores[row, column], len(scores), k)
    return np.where(lists >= 0, order[lists], -1)


def _first(row: np.ndarray, column: np.ndarray, score: np.ndarray, num_rows: int,
           k: int) -> tuple[np.ndarray, np.ndarray]:
    """First k columns of each row by score, then column: `[num_rows, k]`, `[num_rows]`.
    """
    sorting = np.lexsort((column, -score, row))
    row, column = row[sorting], column[sorting]
    sizes = np.bincount(row, minlength=num_rows)
    slot = np.arange(len(row)) - (np.cumsum(sizes) - sizes)[row]
    lists = np.full((num_rows, k), -1, np.int64)
    kept = slot < k
    lists[row[kept], slot[kept]] = column[kept]
    return lists, np.minimum(sizes, k)
