"""Standing intents: projects that people take up again and again, for months.

A person has `ShopConfig.intents` of them: a nursery to furnish, a camera bag to fill.
Each is a leaf that suits the person's taste, the leaves that go with it, and a look of
its own that differs from what the person likes otherwise. Time is cut into spells of
`intent_days`; in each spell every intent is awake with chance `intent_awake`, and those
awake take turns session by session. An intent that falls asleep comes back after weeks,
with hundreds of events of other intents in between, and what was looked at for it by
then is what tells its look and its short list: the latest events do not.

Which spells follows from the seed, the person's number and the day alone, so nothing
but the short lists is carried from request to request.

Source: ours.
"""

import dataclasses

import jax
import jax.numpy as jnp

from oxyrec_jax.base import Array
from oxyrec_jax.data.shop import chance
from oxyrec_jax.data.shop.contexts import SECONDS_A_DAY
from oxyrec_jax.data.shop.people import People
from oxyrec_jax.data.shop.world import World

DRAWS = 2        # uniform draws that a request takes for its intent
SHORT_LIST = 8   # items that a person keeps in mind for each intent; ours
_SPELLS = 4              # stream of chance
_SHORT_LISTED = 1.5      # logits of an item on the short list of the intent; ours


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Intents:
    """What B people are about, of I standing intents each.

    Attributes:
      pursued: `[B]` int32, the intent of the present session, -1 none.
      short_lists: `[B, I, SHORT_LIST]` int32 items that were looked at for each intent
        and not ordered, the latest first, each once, -1 none.
    """

    pursued: Array
    short_lists: Array


def begin_intents(people: People) -> Intents | None:
    """Returns the intents of B people before their first request.

    None in a shop whose people have no standing intents.
    """
    number, count = people.projects.shape
    if not count:
        return None
    return Intents(jnp.full(number, -1, jnp.int32),
                   jnp.full((number, count, SHORT_LIST), -1, jnp.int32))


def choose_intent(world: World, people: People, second: Array,
                  uniform: Array) -> Array:
    """Draws which intent a new session pursues, `[B]` int32, -1 none.

    With `intent_share` one of those that are awake, evenly; none if all sleep.

    Args:
      world: the shop.
      people: B people.
      second: `[B]` int32, when the session begins.
      uniform: `[B]` draws in (0, 1).
    """
    share = world.tuning.intent_share
    awake = awake_intents(world, people, second)
    count = jnp.sum(awake, axis=1)
    turn = jnp.minimum((uniform / share * count).astype(jnp.int32), count - 1)
    chosen = awake & (jnp.cumsum(awake, axis=1) == turn[:, None] + 1)
    some = (uniform < share) & (count > 0)
    return jnp.where(some, jnp.argmax(chosen, axis=1), -1).astype(jnp.int32)


def awake_intents(world: World, people: People, second: Array) -> Array:
    """Returns which intents are awake at that second, `[B, I]` bool."""
    length = world.tuning.intent_days * SECONDS_A_DAY
    # Everybody's spells begin at another time.
    phase = chance.uniform(world.seed, _SPELLS, people.number, -1, 1)[:, 0]
    spell = (second / length + phase).astype(jnp.int32)
    draws = chance.uniform(world.seed, _SPELLS, people.number, spell,
                           world.intent_awake.shape[0])
    return draws < world.intent_awake


def intent_leaf(world: World, people: People, pursued: Array,
                uniform: Array) -> Array:
    """Draws a leaf of each person's intent, `[B]` int32; any where none is pursued.

    Args:
      world: the shop.
      people: B people.
      pursued: `[B]` int32, the intent's number.
      uniform: `[B]` draws in (0, 1): the intent's own leaf, or one that goes with it.
    """
    leaves = _leaves(world, people, pursued)
    place = (uniform * leaves.shape[1]).astype(jnp.int32)
    return jnp.take_along_axis(leaves, place[:, None], axis=1)[:, 0]


def intent_fit(world: World, people: People, intents: Intents,
               items: Array) -> Array:
    """Returns the logits that items gain by the intent that is pursued, `[B, K]`.

    On the intent's leaves `intent_style` for one unit of agreement with its look, and
    more for what is on its short list; 0 where none is pursued.

    Args:
      world: the shop.
      people: B people.
      intents: what they are about.
      items: `[B, K]` int32.
    """
    leaves = _leaves(world, people, intents.pursued)
    ours = (world.item_leaf[items][:, :, None] == leaves[:, None, :]).any(axis=-1)
    look = people.looks[jnp.arange(items.shape[0]), jnp.maximum(intents.pursued, 0)]
    agreement = jnp.sum(world.item_style[items] * look[:, None, :], axis=-1)
    listed = (items[:, :, None] == short_list(intents)[:, None, :]).any(axis=-1)
    fit = ours * (world.tuning.intent_style * agreement + _SHORT_LISTED * listed)
    return jnp.where(intents.pursued[:, None] >= 0, fit, 0)


def short_list(intents: Intents) -> Array:
    """Returns the pursued intent's short list, `[B, SHORT_LIST]`, -1 where none."""
    row = jnp.maximum(intents.pursued, 0)[:, None, None]
    found = jnp.take_along_axis(intents.short_lists, row, axis=1)[:, 0]
    return jnp.where(intents.pursued[:, None] >= 0, found, -1)


def note(world: World, people: People, intents: Intents, items: Array,
         looked: Array, ordered: Array) -> Intents:
    """Puts what was looked at for the pursued intent on its short list.

    Args:
      world: the shop.
      people: B people.
      intents: what they are about.
      items: `[B, K]` int32, no item twice in a row.
      looked: `[B, K]` bool: clicked or put into the cart, not ordered.
      ordered: `[B, K]` bool; what is ordered leaves the list.
    """
    leaves = _leaves(world, people, intents.pursued)
    ours = (world.item_leaf[items][:, :, None] == leaves[:, None, :]).any(axis=-1)
    looked &= ours & (intents.pursued[:, None] >= 0)
    old = short_list(intents)
    gone = ((old[:, :, None] == items[:, None, :])
            & (looked | ordered)[:, None, :]).any(axis=-1)
    # The latest of a request first, then the old ones that stay, in their order.
    row = jnp.concatenate([jnp.where(looked, items, -1)[:, ::-1],
                           jnp.where(gone, -1, old)], axis=1)
    order = jnp.argsort(row < 0, axis=1, stable=True)[:, :SHORT_LIST]
    row = jnp.take_along_axis(row, order, axis=1)
    here = (jnp.arange(intents.short_lists.shape[1])
            == intents.pursued[:, None])[:, :, None]
    return dataclasses.replace(
        intents, short_lists=jnp.where(here, row[:, None, :], intents.short_lists))


def _leaves(world: World, people: People, pursued: Array) -> Array:
    """Returns the leaves of each person's intent, `[B, 4]`, its own first."""
    own = jnp.take_along_axis(people.projects, jnp.maximum(pursued, 0)[:, None], axis=1)
    return jnp.concatenate([own, world.complements[own[:, 0]]], axis=1)
