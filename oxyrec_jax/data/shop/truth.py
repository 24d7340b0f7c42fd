"""The true chances of what a simulated shop's log shows: the ceiling of any model.

Moments are put together again from the log: what a person remembers are the latest
events before the request. Short lists of standing intents leave no trace in a log, so
shops with intents have no truth here.
"""

import calendar
import datetime
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq

from oxyrec_jax.base import InputError
from oxyrec_jax.data.dataset import Dataset
from oxyrec_jax.data.impressions import TABLE, Impressions
from oxyrec_jax.data.shop.prepare import SOURCE, load_shop
from oxyrec_jax.data.shop.response import (MEMORY, Moment, look_probabilities,
                                           response_probabilities)
from oxyrec_jax.data.shop.simulate import cpu_device, simulate_people

_TOGETHER = 2_048  # requests in one call; ours


def knows_truth(dataset: Dataset) -> bool:
    """Whether the true chances of a data set's impressions can be told."""
    return (dataset.manifest.get("source") == SOURCE
            and not dataset.manifest["config"]["intents"])


def true_chances(dataset: Dataset, shown: Impressions, items: np.ndarray | None = None
                 ) -> dict[str, np.ndarray]:
    """Chances of each item of a request, once the person looks at it.

    Args:
      dataset: made by the shop, without standing intents.
      shown: R of its requests.
      items: `[R, C]` int, -1 at empty places; None: what was shown.

    Returns:
      "click", "cart", "order" `[R, C]` float32, each at most the one before; 0 at empty
      places.

    Raises:
      InputError: the data set is no shop's, or its people have standing intents.
    """
    if not knows_truth(dataset):
        raise InputError(f"{dataset.folder}: the truth is known of a simulated shop "
                         "without standing intents alone")
    with jax.default_device(cpu_device()):
        return _true_chances(dataset, shown, shown.shown if items is None else items)


def true_looks(places: int) -> np.ndarray:
    """`[places]` float32: how likely a person looks at each place of a list."""
    return np.asarray(look_probabilities(places))


def _true_chances(dataset: Dataset, shown: Impressions, items: np.ndarray
                  ) -> dict[str, np.ndarray]:
    world = load_shop(dataset.folder).world
    numbers = np.array([int(name.removeprefix("user-")) for name in dataset.user_ids()])
    everybody = simulate_people(world, numbers)
    moments = _moments(dataset, shown)
    respond = jax.jit(functools.partial(response_probabilities, world))
    parts = []
    for first in range(0, len(shown.row), _TOGETHER):
        # The last call is filled up, so that one program serves all.
        rows = np.minimum(np.arange(first, first + _TOGETHER), len(shown.row) - 1)
        own = jax.tree.map(lambda leaf: jnp.asarray(leaf[shown.sequence[rows]]),
                           everybody)
        moment = jax.tree.map(lambda leaf: jnp.asarray(leaf[rows]), moments)
        found = respond(own, moment, jnp.maximum(items[rows], 0))
        parts.append([np.asarray(values) for values in
                      (found.click, found.cart, found.order)])
    joined = [np.concatenate(values)[:len(shown.row)] for values in zip(*parts)]
    there = items >= 0
    return {name: np.where(there, values, 0) for name, values in
            zip(("click", "cart", "order"), joined)}


def _moments(dataset: Dataset, shown: Impressions) -> Moment:
    """The moment of each request."""
    table = pq.read_table(dataset.folder / TABLE, columns=["time", "need"])
    need, times = (table[name].to_numpy() for name in ("need", "time"))
    start = _start(dataset)
    # The newest first: events before the request, as many as there are.
    back = np.arange(1, MEMORY + 1)
    place = shown.position[:, None] - back
    known = place >= 0
    event = dataset.offsets()[shown.sequence][:, None] + np.maximum(place, 0)
    when = times[dataset.column("request")[event]]
    found = {
        "second": shown.time - start, "scenario": shown.columns["scenario"],
        "trigger": shown.columns["trigger"], "need": need[shown.row],
        "items": np.where(known, dataset.column("item")[event], -1),
        "kinds": np.where(known, dataset.column("behaviour")[event] + 1, 0),
        "seconds": np.where(known, when - start, 0)}
    fields: dict[str, Any] = {name: jnp.asarray(values, jnp.int32)
                              for name, values in found.items()}
    return Moment(**fields)


def _start(dataset: Dataset) -> int:
    first = datetime.date.fromisoformat(dataset.manifest["config"]["start"])
    return calendar.timegm(first.timetuple())
