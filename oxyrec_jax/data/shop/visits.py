"""What happens in the shop, request by request, for many people at once.

    begin ──► next_moment ──► (a policy shows a list) ──► respond ──► remember ──┐
                   ▲                                                             │
                   └─────────────────────────────────────────────────────────────┘

All are pure functions of arrays. The log is this loop with `old_recommender` as the
policy; a closed loop is the same with another one. What a person does follows from the
seed, the person's number and the number of the request alone, so it depends neither on
who else is in the shop nor on how many are simulated together.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from oxyrec_jax.base import Array
from oxyrec_jax.data.shop import chance, intents, needs
from oxyrec_jax.data.shop.contexts import CLOCK_STEPS
from oxyrec_jax.data.shop.people import People, liked_leaf
from oxyrec_jax.data.shop.response import (CART, MEMORY, ORDER, Moment, Responses,
                                           look_probabilities,
                                           response_probabilities)
from oxyrec_jax.data.shop.world import SCENARIOS, World

_VISITS = 3  # stream of chance
SHORTEST_PAUSE = 20  # seconds between requests: room for a time for each event; ours
# Expected events of a session, with which visits are spread over the log; ours.
_EVENTS_A_SESSION = 5.0
_CART_AFTER_CART, _CHECKOUT_AFTER_ORDER, _CART_AT_START = 0.5, 0.6, 0.15
_END_AFTER_ORDER = 0.25
# Where a session begins, and where it goes on (ours): home, feed, channel, cart,
# checkout, search. Carts and checkouts follow from what is done, not from here.
_START = (0.46, 0.18, 0.14, 0.0, 0.0, 0.22)
_NEXT = ((0.25, 0.30, 0.15, 0.0, 0.0, 0.30),
         (0.10, 0.55, 0.10, 0.0, 0.0, 0.25),
         (0.15, 0.20, 0.45, 0.0, 0.0, 0.20),
         (0.40, 0.20, 0.10, 0.0, 0.0, 0.30),
         (0.50, 0.20, 0.10, 0.0, 0.0, 0.20),
         (0.12, 0.23, 0.10, 0.0, 0.0, 0.55))
# Where the old recommender's candidates come from in each scenario (ours): the needed
# leaf, the trigger's leaf, what goes with the trigger, taste, the department, memory.
_SOURCES = ((0.15, 0.00, 0.00, 0.65, 0.12, 0.08),
            (0.10, 0.30, 0.15, 0.36, 0.06, 0.03),
            (0.25, 0.00, 0.00, 0.25, 0.50, 0.00),
            (0.15, 0.10, 0.35, 0.15, 0.05, 0.20),
            (0.05, 0.05, 0.50, 0.25, 0.08, 0.07),
            (0.80, 0.00, 0.00, 0.05, 0.15, 0.00))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Visitors:
    """B people in the midst of their visits.

    Attributes:
      people: who they are.
      step: `[B]` int32, requests made so far.
      left: `[B]` int32, events until the person leaves for good.
      inside: `[B]` bool, a session is going on.
      place: `[B]` float32, share of the log's visits that lie behind, 0 to 1.
      moment: the latest request; its memory is up to date.
      clicked, carted, ordered: `[B]` int32, the session's latest such item, -1 none.
    """

    people: People
    step: Array
    left: Array
    inside: Array
    place: Array
    moment: Moment
    clicked: Array
    carted: Array
    ordered: Array

    @property
    def done(self) -> Array:
        """Who has left for good, `[B]` bool: all events made, or 20 times as many
        requests (ours) without."""
        return (self.left <= 0) | (self.step >= 40 + 20 * self.people.events)


class Draws(NamedTuple):
    """Uniform draws of one request in [0, 1): `[B]`, or `[B, n]` where n are read."""

    gap: Array
    scenario: Array
    stay: Array
    end: Array
    exact: Array
    need: Array
    source: Array
    leaf: Array
    rank: Array
    noise: Array
    look: Array
    click: Array
    cart: Array
    order: Array
    intent: Array


def draw(world: World, visitors: Visitors, candidates: int, slate: int) -> Draws:
    """Draws all the chance of one request of each visitor."""
    standing = intents.DRAWS if world.intent_awake.shape[0] else 0
    sizes = (1, 1, 1, 1, 1, needs.DRAWS, *[candidates] * 4, *[slate] * 4, standing)

    flat = chance.uniform(world.seed, _VISITS, visitors.people.number, visitors.step,
                          sum(sizes))
    parts = jnp.split(flat, np.cumsum(sizes)[:-1], axis=1)
    return Draws(*(part[:, 0] if size == 1 else part
                   for part, size in zip(parts, sizes)))


def begin(people: People) -> Visitors:
    """Returns the people before their first request."""
    number = people.city.shape[0]
    zero, none = jnp.zeros(number, jnp.int32), jnp.full(number, -1, jnp.int32)
    empty = jnp.zeros((number, MEMORY), jnp.int32)
    moment = Moment(second=zero, scenario=zero, trigger=none, need=none,
                    items=empty - 1, kinds=empty, seconds=empty,
                    intents=intents.begin_intents(people))
    return Visitors(people, zero, people.events, jnp.zeros(number, bool),
                    jnp.zeros(number), moment, none, none, none)


def next_moment(world: World, visitors: Visitors, draws: Draws) -> Visitors:
    """Moves every visitor on to the next request: its time, need, scenario, trigger."""
    v, fresh = visitors, ~visitors.inside
    sessions = jnp.maximum(v.left / _EVENTS_A_SESSION, 1)
    # The first of n uniform points in what is left of the log.
    ahead = (1 - v.place) * (1 - (1 - draws.gap) ** (1 / sessions))
    place = jnp.where(fresh, v.place + ahead, v.place)
    pause = SHORTEST_PAUSE + (-60 * jnp.log1p(-draws.gap)).astype(jnp.int32)
    second = jnp.where(fresh, _second(world, v.people.city, place), 0)
    second = jnp.maximum(second, v.moment.second + pause)
    clicked, carted, ordered = (jnp.where(fresh, -1, item)
                                for item in (v.clicked, v.carted, v.ordered))
    moment = dataclasses.replace(v.moment, second=second)
    leaf = draws.stay
    if moment.intents is not None:
        chosen = _choose_intent(world, v, moment.intents, second, draws)
        moment = dataclasses.replace(moment, intents=chosen)
        leaf = draws.intent[:, 1]
    need = needs.choose_need(world, v.people, moment, fresh, draws.need, leaf)
    scenario = _scenario(v, fresh, draws)
    trigger = _trigger(moment, scenario, clicked, carted, ordered)
    moment = dataclasses.replace(moment, need=need, scenario=scenario, trigger=trigger)
    return dataclasses.replace(v, place=place, moment=moment, clicked=clicked,
                               carted=carted, ordered=ordered,
                               inside=jnp.ones_like(v.inside))


def old_recommender(world: World, visitors: Visitors, draws: Draws,
                    slate: int) -> tuple[Array, Responses]:
    """The policy that wrote the log: retrieves by leaf and popularity, then ranks.

    Candidates come from the sources of the scenario and are ranked by the true click
    probability with Gumbel noise of `ranker_noise` on its logarithm. No item is shown
    twice in a list.

    Returns:
      What it shows, `[B, slate]` int32, -1 where candidates ran out; and the responses
      to that (what `response_probabilities` gives for it).
    """
    items = _candidates(world, visitors, draws)
    all_of = response_probabilities(world, visitors.people, visitors.moment, items)
    score = jnp.log(all_of.click)
    score += world.tuning.ranker_noise * chance.gumbel(draws.noise)
    earlier = jnp.tril(jnp.ones((items.shape[1],) * 2, bool), -1)
    twice = ((items[:, :, None] == items[:, None, :]) & earlier).any(axis=-1)
    score, best = jax.lax.top_k(jnp.where(twice, -jnp.inf, score), slate)
    shown = jnp.where(jnp.isfinite(score), jnp.take_along_axis(items, best, 1), -1)
    return shown, jax.tree.map(lambda p: jnp.take_along_axis(p, best, 1), all_of)


def respond(visitors: Visitors, shown: Array, responses: Responses,
            draws: Draws) -> Array:
    """Returns what each visitor does with a list, `[B, K]` int32.

    0 nothing, 1 click, 2 cart, 3 order: the furthest that was reached. Who has left
    for good does nothing, and nobody makes more events than are left.

    Args:
      visitors: B visitors.
      shown: `[B, K]` int32 items, -1 for an empty place.
      responses: `response_probabilities` of `shown`.
      draws: the chance of this request.
    """
    looks = draws.look < look_probabilities(shown.shape[1])
    clicks = looks & (shown >= 0) & (draws.click < responses.click)
    carts = clicks & (draws.cart * responses.click < responses.cart)
    orders = carts & (draws.order * responses.cart < responses.order)
    room = jnp.where(visitors.done, 0, visitors.left)[:, None]
    clicks &= jnp.cumsum(clicks, axis=1) <= room
    return clicks * (1 + carts + orders).astype(jnp.int32)


def remember(world: World, visitors: Visitors, shown: Array, outcome: Array,
             draws: Draws) -> Visitors:
    """Moves every visitor past the request: memory, events left, end of the session."""
    v, moment = visitors, visitors.moment
    second = jnp.broadcast_to(moment.second[:, None], shown.shape)
    memory = [_shift(outcome > 0, new, old) for new, old in (
        (shown, moment.items), (outcome, moment.kinds), (second, moment.seconds))]
    bought = (outcome == ORDER).any(axis=1)
    standing = moment.intents
    if standing is not None:
        standing = intents.note(world, v.people, standing, shown,
                                (outcome > 0) & (outcome < ORDER), outcome == ORDER)
    end = world.tuning.session_end + _END_AFTER_ORDER * bought
    return dataclasses.replace(
        v, step=v.step + 1, left=v.left - jnp.sum(outcome > 0, axis=1, dtype=jnp.int32),
        inside=draws.end >= end,
        moment=dataclasses.replace(moment, items=memory[0], kinds=memory[1],
                                   seconds=memory[2], intents=standing),
        clicked=_last(outcome > 0, shown, v.clicked),
        carted=_last(outcome == CART, shown, v.carted),
        ordered=_last(outcome == ORDER, shown, v.ordered))


def _choose_intent(world: World, visitors: Visitors, standing: intents.Intents,
                   second: Array, draws: Draws) -> intents.Intents:
    """Chooses which intent the session pursues that begins or goes on."""
    v = visitors
    new = intents.choose_intent(world, v.people, second, draws.intent[:, 0])
    change = (v.moment.need < 0) | (~v.inside & ~needs.resumes(world, draws.need))
    pursued = jnp.where(change, new, standing.pursued)
    return dataclasses.replace(standing, pursued=pursued)


def _second(world: World, city: Array, place: Array) -> Array:
    step = place * CLOCK_STEPS
    low = jnp.minimum(step.astype(jnp.int32), CLOCK_STEPS - 1)
    first, last = world.clock[city, low], world.clock[city, low + 1]
    return first + ((last - first) * (step - low)).astype(jnp.int32)


def _scenario(visitors: Visitors, fresh: Array, draws: Draws) -> Array:
    v, number = visitors, {name: index for index, name in enumerate(SCENARIOS)}
    edges = jnp.cumsum(jnp.array([*_NEXT, _START], jnp.float32), axis=1)
    row = jnp.where(fresh, len(_NEXT), v.moment.scenario)
    usual = jnp.sum(draws.scenario[:, None] >= edges[row][:, :-1], axis=1)
    latest = v.moment.kinds[:, 0]  # what the last event was
    now = v.moment.seconds[:, 0] == v.moment.second  # made in the last request
    to_cart = jnp.where(fresh, draws.stay < _CART_AT_START,
                        now & (draws.stay < _CART_AFTER_CART)) & (latest == CART)
    to_checkout = (~fresh & now & (latest == ORDER)
                   & (draws.stay < _CHECKOUT_AFTER_ORDER))
    return jnp.where(to_checkout, number["checkout"],
                     jnp.where(to_cart, number["cart"], usual)).astype(jnp.int32)


def _trigger(moment: Moment, scenario: Array, clicked: Array, carted: Array,
             ordered: Array) -> Array:
    latest = moment.items[:, 0]
    in_cart = jnp.where(carted >= 0, carted,
                        jnp.where(moment.kinds[:, 0] == CART, latest, -1))
    seen = jnp.where(clicked >= 0, clicked, latest)
    none = jnp.full_like(latest, -1)
    by_scenario = jnp.stack([none, seen, none, in_cart, ordered, none], axis=1)
    return jnp.take_along_axis(by_scenario, scenario[:, None], axis=1)[:, 0]


def _candidates(world: World, visitors: Visitors, draws: Draws) -> Array:
    """Returns what the old recommender retrieves, `[B, candidates]` int32."""
    intent, share = visitors.moment.intents, world.tuning.intent_again
    if intent is None:
        return _by_source(world, visitors, draws, draws.source)
    # What was looked at for the intent before, as "go on where you left off"; of the
    # others the sources keep their shares.
    slot = (draws.rank * intents.SHORT_LIST).astype(jnp.int32)
    listed = jnp.take_along_axis(intents.short_list(intent), slot, axis=1)
    rest = jnp.where(draws.source < share, draws.source / share,
                     (draws.source - share) / (1 - share))
    return jnp.where((draws.source < share) & (listed >= 0), listed,
                     _by_source(world, visitors, draws, rest))


def _by_source(world: World, visitors: Visitors, draws: Draws,
               uniform: Array) -> Array:
    """Returns an item from one of the scenario's sources for each of the draws."""
    people, moment = visitors.people, visitors.moment
    mix = jnp.array(_SOURCES, jnp.float32) * (1 - world.tuning.relevance)
    edges = jnp.cumsum(mix.at[:, 0].add(world.tuning.relevance), axis=1)
    source = jnp.sum(uniform[..., None] >= edges[moment.scenario][:, None, :-1],
                     axis=-1)
    liked = liked_leaf(people.edges, draws.leaf)
    needed = world.need_leaf[moment.need][:, None]
    near = jnp.where(moment.trigger >= 0,
                     world.item_leaf[jnp.maximum(moment.trigger, 0)], -1)[:, None]
    with_trigger = world.complements[jnp.maximum(near, 0),
                                     (draws.leaf * 3).astype(jnp.int32)]
    home = world.leaf_department[needed]
    first, last = world.aisle_start[home], world.aisle_start[home + 1]
    aisle = first + (draws.leaf * (last - first)).astype(jnp.int32)
    leaf = jnp.select(
        [source == 0, (source == 1) & (near >= 0), (source == 2) & (near >= 0),
         source == 4],
        [jnp.broadcast_to(needed, liked.shape), jnp.broadcast_to(near, liked.shape),
         with_trigger, aisle], liked).astype(jnp.int32)
    items = _by_popularity(world, leaf, draws.rank)
    slot = (draws.rank * MEMORY).astype(jnp.int32)
    again = jnp.take_along_axis(moment.items, slot, axis=1)
    return jnp.where((source == 5) & (again >= 0), again, items)


def _by_popularity(world: World, leaf: Array, uniform: Array) -> Array:
    """Draws an item of each leaf by the Zipf-Mandelbrot law, inverted in closed form.

    Ranks are taken as continuous; the law's density is `(rank + offset) ** -exponent`.
    """
    start = world.leaf_start[leaf]
    size = world.leaf_start[leaf + 1] - start
    low = world.tuning.popularity_offset
    power = 1 - world.tuning.popularity_exponent
    power = jnp.where(jnp.abs(power) < 1e-3, 1e-3, power)  # near 1 the law is a log
    first, last = low ** power, (size + low) ** power
    rank = (first + uniform * (last - first)) ** (1 / power) - low
    rank = jnp.clip(rank.astype(jnp.int32), 0, size - 1)
    return world.by_rank[start + rank]


def _shift(made: Array, new: Array, old: Array) -> Array:
    """Puts the new entries that were made before the old ones, the latest first."""
    count = jnp.sum(made, axis=1, keepdims=True)
    # The j-th latest new entry stands where as many from the right were made.
    order = jnp.cumsum(made[:, ::-1], axis=1)[:, ::-1]
    slot = jnp.arange(old.shape[1])
    match = made[:, None, :] & (order[:, None, :] == slot[None, :, None] + 1)
    latest = jnp.sum(jnp.where(match, new[:, None, :], 0), axis=-1)
    back = jnp.take_along_axis(old, jnp.maximum(slot[None, :] - count, 0), axis=1)
    return jnp.where(slot[None, :] < count, latest, back)


def _last(made: Array, shown: Array, before: Array) -> Array:
    slots = jnp.arange(shown.shape[1])
    last = jnp.max(jnp.where(made, slots, -1), axis=1)
    item = jnp.take_along_axis(shown, jnp.maximum(last, 0)[:, None], axis=1)[:, 0]
    return jnp.where(last >= 0, item, before)
