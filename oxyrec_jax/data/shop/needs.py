"""What people are after: needs from the knowledge base, from the past, from taste."""

import jax.numpy as jnp
import numpy as np

from oxyrec_jax.base import Array
from oxyrec_jax.data.shop import chance, intents
from oxyrec_jax.data.shop.people import People, liked_leaf
from oxyrec_jax.data.shop.response import CART, ORDER, Moment
from oxyrec_jax.data.shop.world import World, day_of

_TRIES = 4  # leaves that come to mind before the season chooses one; ours
DRAWS = 6 + 2 * _TRIES  # uniform draws that `choose_need` takes for each request
_DUE = 0.7  # share of its life after which a consumable is bought again; ours


def facts_of(world: World, people: People, second: Array) -> Array:
    """Returns which facts hold for each person at that second, `[B, FACTS]` bool."""
    days = world.day_facts[people.city, day_of(world, second)]
    return jnp.concatenate([people.facts, days], axis=1)


def active_rules(world: World, facts: Array) -> Array:
    """Returns which rules of the knowledge base fire, `[B, R]` bool.

    Args:
      world: the shop.
      facts: `[B, FACTS]` bool.
    """
    holds = facts.astype(jnp.float32) @ world.rule_facts.T
    return holds >= world.rule_facts.sum(axis=1)  # small whole numbers, so exact


def context_need(world: World, facts: Array, uniform: Array) -> Array:
    """Draws a need that follows from the facts.

    Args:
      world: the shop.
      facts: `[B, FACTS]` bool.
      uniform: `[B, 2]` draws in [0, 1): which rule, by weight; which of its needs.

    Returns:
      `[B]` int32 number of the need; -1 where no rule fires.
    """
    weight = jnp.where(active_rules(world, facts), world.rule_weight, 0)
    below = np.triu(np.ones((weight.shape[1],) * 2, np.float32))
    edges = weight @ below  # cumulated; the weights are whole numbers, so exact
    rule = jnp.sum(uniform[:, :1] * edges[:, -1:] >= edges, axis=1)
    rule = jnp.minimum(rule, weight.shape[1] - 1)
    first, last = world.rule_start[rule], world.rule_start[rule + 1]
    need = first + (uniform[:, 1] * (last - first)).astype(jnp.int32)
    return jnp.where(edges[:, -1] > 0, need, -1)


def choose_need(world: World, people: People, moment: Moment, fresh: Array,
                uniform: Array, intent_uniform: Array) -> Array:
    """Draws what each person is after in the next request, `[B]` int32.

    A session keeps its need but for `need_change`. A new one takes up the last with
    `resume_needs`; else buys a consumable again with `restock_needs` where one is due;
    else follows the context with `context_needs`, complements what was chosen of late
    with `complement_needs`, or follows taste. Where a standing intent is pursued, a new
    need is one of its leaves instead.

    Args:
      world: the shop.
      people: B people.
      moment: their memory and time; `need` is the one so far, -1 before the first, and
        `intents` those of the session that goes on or begins.
      fresh: `[B]` bool, a session begins.
      uniform: `[B, DRAWS]` draws in (0, 1).
      intent_uniform: `[B]` draws in (0, 1): which leaf of the intent; in a shop without
        standing intents it is not read.
    """
    tuning, leaves = world.tuning, world.leaf_logits.shape[0]
    kinds = {"taste": 0, "complement": 1, "restock": 2}  # after the rules' needs
    if moment.intents is not None:
        kinds["project"] = 3
    base = world.need_leaf.shape[0] - leaves * len(kinds)
    liked = _in_season(world, people, moment, uniform[:, 6:])
    beside, due = _beside(world, moment, uniform[:, 0]), _due(world, moment)
    facts = facts_of(world, people, moment.second)
    context = context_need(world, facts, uniform[:, 1:3])
    follows = (context >= 0) & (uniform[:, 3] < tuning.context_needs)
    goes_with = (beside >= 0) & (uniform[:, 3] >= 1 - tuning.complement_needs)
    again = (due >= 0) & (uniform[:, 4] < tuning.restock_needs)
    new = jnp.where(
        again, base + kinds["restock"] * leaves + due,
        jnp.where(follows, context,
                  jnp.where(goes_with, base + kinds["complement"] * leaves + beside,
                            base + liked)))
    if moment.intents is not None:
        pursued = moment.intents.pursued
        leaf = intents.intent_leaf(world, people, pursued, intent_uniform)
        new = jnp.where(pursued >= 0, base + kinds["project"] * leaves + leaf, new)
    change = jnp.where(fresh, ~resumes(world, uniform),
                       uniform[:, 5] < tuning.need_change)
    return jnp.where(change | (moment.need < 0), new, moment.need).astype(jnp.int32)


def resumes(world: World, uniform: Array) -> Array:
    """Returns whether a new session would take up the last one's need, `[B]` bool.

    Args:
      world: the shop.
      uniform: `[B, DRAWS]`, those of `choose_need`.
    """
    return uniform[:, 5] < world.tuning.resume_needs


def _in_season(world: World, people: People, moment: Moment, uniform: Array) -> Array:
    """Returns a leaf that taste and season agree on, `[B]` int32."""
    leaves = liked_leaf(people.edges, uniform[:, :_TRIES])
    season = world.day_season[people.city, day_of(world, moment.second)]
    logits = jnp.take_along_axis(season, world.leaf_season[leaves], axis=1)
    best = jnp.argmax(logits + chance.gumbel(uniform[:, _TRIES:]), axis=1)
    return jnp.take_along_axis(leaves, best[:, None], axis=1)[:, 0]


def _beside(world: World, moment: Moment, uniform: Array) -> Array:
    """Returns a leaf that goes with what was put into the cart or ordered last."""
    chosen = moment.kinds >= CART
    slot = jnp.argmax(chosen, axis=1)[:, None]
    item = jnp.take_along_axis(moment.items, slot, axis=1)[:, 0]
    places = world.complements.shape[1]
    leaf = world.complements[world.item_leaf[jnp.maximum(item, 0)],
                             (uniform * places).astype(jnp.int32)]
    return jnp.where(chosen.any(axis=1), leaf, -1)


def _due(world: World, moment: Moment) -> Array:
    """Returns the leaf of the consumable that is most overdue in memory, -1 none."""
    leaf = world.item_leaf[jnp.maximum(moment.items, 0)]
    life = world.leaf_restock[leaf]
    age = moment.second[:, None] - moment.seconds
    held = (moment.kinds == ORDER) & (life > 0)
    same = held[:, None, :] & (leaf[:, :, None] == leaf[:, None, :])
    newer = (same & (moment.seconds[:, None, :] > moment.seconds[:, :, None])).any(-1)
    used = jnp.where(held & ~newer, age / jnp.maximum(life, 1), 0)
    slot = jnp.argmax(used, axis=1)[:, None]
    due = jnp.take_along_axis(used, slot, axis=1)[:, 0] >= _DUE
    return jnp.where(due, jnp.take_along_axis(leaf, slot, axis=1)[:, 0], -1)
