"""Requests for the judge, and logged candidates, from events of any data set."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from oxyrec_jax.base import InputError
from oxyrec_jax.data import impressions
from oxyrec_jax.data.dataset import Dataset
from oxyrec_jax.data.target_weights import target_events
from oxyrec_jax.rewards.judge.aspects import ItemTexts, JudgeRequest
from oxyrec_jax.rewards.judge.sampling import order_of
from oxyrec_jax.thinking.states import UserState
from oxyrec_jax.user_states import LogStates, request_begins


class LogRequests:
    """Makes the judge's requests of a data set's events.

    `begins` holds the first event of each event's request, `[E]`.

    A row of a split is an event: `requests.of_targets("train", rows)` gives what the
    judge needs for rows `rows` of `dataset.targets("train")`, which is how an aligner
    asks for the requests of its batch.

    Args:
      dataset: any prepared log. Of a simulated shop also profile, place and weather
        are known, never the needs.
      history: events of a person that a request holds, the latest.
      searches: likewise.
    """

    def __init__(self, dataset: Dataset, *, history: int = 20, searches: int = 5):
        self.dataset, self._most = dataset, history
        self._states = LogStates(dataset, history=history, searches=searches)
        self._offsets = np.asarray(dataset.offsets())
        self.begins = request_begins(dataset)
        self._columns: dict[str, np.ndarray] = {
            name: np.asarray(dataset.column(name)) for name in
            ("item", "scenario", "trigger", "query", "request", "time")
            if name in dataset.columns}
        self._scenarios = list(dataset.manifest.get("scenarios", ()))
        self._queries = dataset.queries()

    def of_targets(self, split: str, rows: np.ndarray | None = None
                   ) -> list[JudgeRequest]:
        """The requests of a split's targets, all or those of some rows."""
        events = target_events(self.dataset, split)
        return self.of_events(events if rows is None else events[rows])

    def of_events(self, events: np.ndarray) -> list[JudgeRequest]:
        """The request of each of `[M]` events, as of the moment it was made."""
        firsts = self.begins[events].tolist()
        owners = np.searchsorted(self._offsets, firsts, side="right") - 1
        found = []
        for first, owner, state in zip(firsts, owners.tolist(),
                                       self._states.at_requests(np.asarray(events))):
            begin = max(int(self._offsets[owner]), first - self._most)
            history = self._columns["item"][begin:first]
            found.append(self._request(first, state, tuple(history.tolist())))
        return found

    def name(self, first: int) -> str:
        """The id of the request whose first event it is."""
        number = self._value("request", first)
        return f"request-{number}" if number >= 0 else f"event-{first}"

    def _request(self, first: int, state: UserState, history: tuple[int, ...]
                 ) -> JudgeRequest:
        scenario, query = self._value("scenario", first), self._value("query", first)
        known = 0 <= scenario < len(self._scenarios)
        return JudgeRequest(
            id=self.name(first), state=state, history=history,
            scenario=self._scenarios[scenario] if known else "",
            trigger=self._value("trigger", first),
            query=self._queries[query] if query >= 0 else "",
            number=self._value("request", first),
            second=max(self._value("time", first), 0))

    def _value(self, name: str, event: int) -> int:
        column = self._columns.get(name)
        return -1 if column is None else int(column[event])


@dataclasses.dataclass(frozen=True)
class Logged:
    """R requests of a log with G candidates each.

    Attributes:
      requests: the requests.
      users: `[R]`, whose they are.
      items: `[R, G]` int32 candidates, -1 where there are fewer.
      chosen: `[R, G]` bool: the person clicked it, or did more.
      shown: the candidates were shown; otherwise those not chosen are drawn.
    """

    requests: list[JudgeRequest]
    users: np.ndarray
    items: np.ndarray
    chosen: np.ndarray
    shown: bool


def logged_candidates(log: LogRequests, split: str, *, most: int, candidates: int,
                      seed: int) -> Logged:
    """Takes requests of a split with what was shown in them.

    Where the log does not tell what was shown, the chosen items stand beside others,
    drawn evenly from the catalogue.

    Args:
      log: of the data set.
      split: whose targets' requests.
      most: requests taken, those with the lowest hash of their id: fewer are among
        more, and a run that is repeated takes the same.
      candidates: G, most candidates of one request.
      seed: of hash and draws.

    Raises:
      InputError: the data set has no such targets.
    """
    dataset = log.dataset
    events = target_events(dataset, split)
    firsts = np.unique(log.begins[events])
    firsts = firsts[order_of([log.name(first) for first in firsts.tolist()], seed)
                    [:most]]
    requests = log.of_events(firsts)
    users = np.array([request.state.user for request in requests])
    exposed = _exposures(dataset, requests)
    if exposed is not None:
        items, outcome = (values[:, :candidates] for values in exposed)
        return Logged(requests, users, items, outcome > 0, True)
    items, chosen = _with_others(log, events, firsts, candidates, seed)
    return Logged(requests, users, items, chosen, False)


def item_texts(dataset: Dataset) -> ItemTexts:
    """Reads what is known of the items in words."""
    table = dataset.item_table()
    columns = {name: [value or "" for value in table[name].to_pylist()]
               if name in table.column_names else [""] * dataset.num_items
               for name in ("title", "text", "category", "brand")}
    prices = np.array(table["price"].to_pylist(), object)
    return ItemTexts(
        [str(name) for name in table["item_id"].to_pylist()],
        [title or text for title, text in zip(columns["title"], columns["text"])],
        columns["category"], columns["brand"],
        np.array([np.nan if price is None else price for price in prices], np.float32))


def _exposures(dataset: Dataset, requests: Sequence[JudgeRequest]
               ) -> tuple[np.ndarray, np.ndarray] | None:
    """What was shown, `[R, C]` items and outcomes; None where the log does not tell."""
    if not impressions.tells_impressions(dataset):
        return None
    return impressions.load_impressions(dataset).of(
        np.array([request.number for request in requests], np.int64))


def _with_others(log: LogRequests, events: np.ndarray, firsts: np.ndarray,
                 candidates: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The chosen items of each request beside drawn ones, without repeats."""
    dataset = log.dataset
    if dataset.num_items < 2 or candidates < 2:
        raise InputError(f"{dataset.folder} has {dataset.num_items} items and "
                         f"judge.candidates is {candidates}, expected at least 2 of "
                         "both")
    taken: dict[int, list[int]] = {first: [] for first in firsts.tolist()}
    item = np.asarray(dataset.column("item"))
    for event, first in zip(events.tolist(), log.begins[events].tolist()):
        if first in taken:
            taken[first].append(int(item[event]))
    items = np.full((len(firsts), candidates), -1, np.int32)
    chosen = np.zeros(items.shape, bool)
    for row, (first, own) in enumerate(taken.items()):
        own = list(dict.fromkeys(own))[:candidates - 1]
        rng = np.random.default_rng([seed, first])
        few = dataset.num_items <= 4 * candidates
        drawn = (rng.permutation(dataset.num_items) if few else
                 rng.integers(dataset.num_items, size=4 * candidates))
        others = [other for other in dict.fromkeys(drawn.tolist()) if other not in own]
        shown = [*own, *others][:candidates]
        items[row, :len(shown)] = shown
        chosen[row, :len(own)] = True
    return items, chosen
