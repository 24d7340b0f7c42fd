"""What a policy may see of a request, and nothing of what the person is after.

The shop's own state (`data.shop.Visitors`) holds the need behind each request and the
person's standing intents. A policy never gets it: it gets a `Context`, which is built
here from what a shop would know.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from oxyrec_jax.base import Array
from oxyrec_jax.data import shop
from oxyrec_jax.data.dataset import Dataset


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class History:
    """The latest H events of B people, the newest first.

    Attributes:
      items: `[B, H]` int32, -1 where there were fewer.
      behaviours: `[B, H]` int32, of `shop.BEHAVIOURS`.
      scenarios: `[B, H]` int32, of `shop.SCENARIOS`.
      seconds: `[B, H]` int32 since the first midnight of the log.
    """

    items: Array
    behaviours: Array
    scenarios: Array
    seconds: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Context:
    """B requests as a shop sees them.

    Attributes:
      person: `[B]` int32, the person's sequence in the log.
      second: `[B]` int32, when, since the first midnight of the log.
      scenario: `[B]` int32, of `shop.SCENARIOS`.
      trigger: `[B]` int32, the item that opened the scenario, -1 none.
      query: `[B]` int32, what was typed, a row of the log's queries, -1 nothing.
      history: what the people did before.
    """

    person: Array
    second: Array
    scenario: Array
    trigger: Array
    query: Array
    history: History


def observe(world: shop.World, first_query: Array, person: Array,
            visitors: shop.Visitors, draws: shop.Draws, history: History) -> Context:
    """Builds what a policy sees of the visitors' requests.

    Args:
      world: the shop.
      first_query: `[C]` int32, from `shop.query_texts`.
      person: `[B]` int32, their sequences in the log.
      visitors: at their requests.
      draws: the chance of these requests, which tells how exactly queries are put.
      history: what they did before.
    """
    moment = visitors.moment
    query = shop.query_numbers(
        first_query, world.need_leaf[moment.need], world.need_feature[moment.need],
        moment.scenario, draws.exact)
    return Context(person, moment.second, moment.scenario, moment.trigger, query,
                   history)


def grow(history: History, moment: shop.Moment, shown: Array, outcome: Array
         ) -> History:
    """Puts what was done in a request before the earlier events.

    Args:
      history: so far.
      moment: of the request.
      shown: `[B, K]` int32.
      outcome: `[B, K]` int32, as `shop.respond` gives it. Events stand in order of
        their place in the list, a second apart, as in the log.
    """
    made, places = outcome > 0, jnp.arange(shown.shape[1])
    scenario = jnp.broadcast_to(moment.scenario[:, None], shown.shape)
    new = History(shown, outcome - 1, scenario, moment.second[:, None] + places)
    # The last place with an event is the newest; places without come last.
    order = jnp.argsort(jnp.where(made, -places, shown.shape[1]), axis=1)
    count = jnp.sum(made, axis=1, keepdims=True)
    slots = jnp.arange(history.items.shape[1])
    old = jnp.maximum(slots - count, 0)

    def push(fresh: Array, before: Array) -> Array:
        fresh = jnp.take_along_axis(fresh, order, axis=1)[:, :len(slots)]
        fresh = jnp.pad(fresh, ((0, 0), (0, len(slots) - fresh.shape[1])))
        return jnp.where(slots < count, fresh, jnp.take_along_axis(before, old, axis=1)
                         ).astype(before.dtype)
    return jax.tree.map(push, new, history)


def history_of(dataset: Dataset, sequences: np.ndarray, length: int, start: int
               ) -> History:
    """Reads the latest events of people from the log.

    Args:
      dataset: a prepared shop.
      sequences: `[P]` int.
      length: H.
      start: the log's first midnight, seconds since 1970.

    Returns:
      Of P people, NumPy arrays.
    """
    offsets = np.asarray(dataset.offsets())
    place = offsets[sequences + 1][:, None] - 1 - np.arange(length)
    real = place >= offsets[sequences][:, None]
    place = np.where(real, place, 0)

    def column(name: str, none: int, less: int = 0) -> Any:
        values = np.asarray(dataset.column(name))[place].astype(np.int64) - less
        return np.where(real, values, none).astype(np.int32)
    return History(column("item", -1), column("behaviour", 0), column("scenario", 0),
                   column("time", 0, start))
