"""How people respond to an item that they look at: the shop's truth.

A person who looks at an item clicks it, then may put it into the cart, then may order
it. The three logits are sums of what the person, the moment and the item bring along;
every coefficient stands in `_COEFFICIENTS` or in `ShopConfig`. The old recommender that
wrote the log, and any policy in the closed loop, meet the same people.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from oxyrec_jax.base import Array
from oxyrec_jax.data.shop.intents import Intents, intent_fit
from oxyrec_jax.data.shop.people import People
from oxyrec_jax.data.shop.world import SCENARIOS, World, day_of

MEMORY = 12  # how many of the latest events a person has in mind; ours
CLICK, CART, ORDER = 1, 2, 3  # as kept in memory; 0 is nothing
_RECENT = 3 * 86_400  # seconds for which a look or a filled cart is remembered


class _Coefficients(NamedTuple):
    """Logits, ours; click rates and funnel follow (docs/shop.md shows them)."""

    need_leaf: float = 2.4        # the leaf that is needed now
    need_feature: float = 0.9     # with the feature that is needed
    need_beside: float = 0.5      # a leaf that goes with the needed one
    trigger_leaf: float = 0.5     # the same leaf as the trigger item
    trigger_with: float = 0.8     # a leaf that goes with the trigger item's
    taste: float = 0.45           # of log interest against the average leaf
    season: float = 0.5           # of the season's logits
    quality: float = 0.7
    seen_today: float = -2.0      # clicked within the hour already
    seen_before: float = 0.2      # clicked in the last days
    in_cart: float = 0.7          # put into the cart in the last days
    used_up: float = 2.0          # ordered once, and due again
    well_stocked: float = -1.5    # ordered, not yet used up
    owned: float = -2.5           # ordered, and durable
    cart: float = -2.2            # from click to cart
    order: float = -1.0           # from cart to order
    cart_need: float = 0.9
    order_need: float = 0.5
    order_price: float = -0.25    # for each unit of log price above 40 dollars
    order_again: float = 1.2      # already in the cart or used up


# Logits of looking at, and of ordering in, each scenario.
_CLICK_BIAS = {"home": -4.2, "feed": -4.0, "channel": -4.0, "cart": -3.9,
               "checkout": -4.1, "search": -3.6}
_ORDER_BIAS = {"home": 0.0, "feed": -0.3, "channel": 0.1, "cart": 0.7, "checkout": 0.7,
               "search": 0.3}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Moment:
    """The context of B requests. A policy sees all of it but `need` and `intents`.

    Attributes:
      second: `[B]` int32, seconds since the first midnight of the log.
      scenario: `[B]` int32, of `SCENARIOS`.
      trigger: `[B]` int32, the item that opened the scenario, -1 where none did.
      need: `[B]` int32, what the person is after: number in `Knowledge.needs`.
      items: `[B, MEMORY]` int32, the person's latest events, newest first, -1 none.
      kinds: `[B, MEMORY]` int32, `CLICK`, `CART` or `ORDER`, the furthest of each.
      seconds: `[B, MEMORY]` int32, when.
      intents: their standing intents; None in a shop without.
    """

    second: Array
    scenario: Array
    trigger: Array
    need: Array
    items: Array
    kinds: Array
    seconds: Array
    intents: Intents | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Responses:
    """Probabilities given that the person looks at the item, `[B, K]` float32 each.

    Attributes:
      click: of a click.
      cart: of a click and the cart; at most `click`.
      order: of click, cart and order; at most `cart`.
      value: US dollars: price times `order`, the expected gross merchandise value.
    """

    click: Array
    cart: Array
    order: Array
    value: Array


def response_probabilities(world: World, people: People, moment: Moment,
                           items: Array) -> Responses:
    """Returns p(click, cart, order | person, context, scenario, item).

    `click = σ(a)`, `cart = click σ(b)`, `order = cart σ(c)`, with a, b and c sums over
    need, trigger, taste, style, brand, price tier, season, audience, quality and what
    the person remembers. Pure and jittable; differentiable nowhere that matters.

    Args:
      world: the shop.
      people: B people.
      moment: their B requests.
      items: `[B, K]` int32, the items looked at; each must exist.

    Returns:
      The probabilities and the expected value.

    Raises:
      ValueError: the shapes disagree (seen while tracing).

    Source: ours; the order of decisions is that of the click, cart, order funnel.
    """
    if items.ndim != 2 or items.shape[0] != people.city.shape[0]:
        raise ValueError(f"{items.shape=}, expected [{people.city.shape[0]}, K]")
    if moment.need.shape != items.shape[:1] or moment.items.shape[1:] != (MEMORY,):
        raise ValueError(f"{moment.need.shape=} {moment.items.shape=}")
    w = _Coefficients()
    leaf = world.item_leaf[items]
    memory = _remembered(world, moment, items, leaf)
    wanted, feature, beside = _need_fit(world, moment, items, leaf)
    click = (world.tuning.click_bias
             + _by_scenario(_CLICK_BIAS)[moment.scenario][:, None]
             + w.need_leaf * wanted + w.need_feature * feature + w.need_beside * beside
             + _trigger_fit(world, moment, leaf)
             + _personal_fit(world, people, moment, items, leaf)
             + w.seen_today * memory["today"] + w.seen_before * memory["before"]
             + w.in_cart * memory["cart"] + w.used_up * memory["due"]
             + w.well_stocked * memory["stocked"] + w.owned * memory["owned"])
    if moment.intents is not None:
        click += intent_fit(world, people, moment.intents, items)
    gap = world.item_tier[items] - people.tier[:, None]
    dear = world.tuning.price_sensitivity * jnp.square(jnp.maximum(gap, 0))
    cart = (w.cart + w.cart_need * wanted + 0.5 * world.item_quality[items]
            - 0.5 * dear + w.order_again * (memory["due"] | memory["cart"]))
    order = (w.order + _by_scenario(_ORDER_BIAS)[moment.scenario][:, None]
             + w.order_need * wanted - 0.5 * dear
             + w.order_price * jnp.log(world.item_price[items] / 40)
             + w.order_again * (memory["due"] | memory["cart"]))
    p_click = jax.nn.sigmoid(click)
    p_cart = p_click * jax.nn.sigmoid(cart)
    p_order = p_cart * jax.nn.sigmoid(order)
    return Responses(p_click, p_cart, p_order, p_order * world.item_price[items])


def click_parts(world: World, people: People, moment: Moment,
                items: Array) -> dict[str, Array]:
    """Returns what the click logits of `response_probabilities` are made of.

    Args:
      world, people, moment, items: as there.

    Returns:
      `[B, K]` float32 logits by name: "need", the leaf and feature that are needed now
      or a leaf that goes with it; "trigger"; "season"; "personal", taste, style, brand,
      price tier and audience; "quality"; "memory", what was seen, owned or used up; and
      "bias" of scenario and shop. They sum to the click logit, but for what a standing
      intent adds.
    """
    w = _Coefficients()
    leaf = world.item_leaf[items]
    wanted, feature, beside = _need_fit(world, moment, items, leaf)
    memory = _remembered(world, moment, items, leaf)
    season = _season_fit(world, people, moment, leaf)
    quality = w.quality * world.item_quality[items]
    bias = _by_scenario(_CLICK_BIAS)[moment.scenario][:, None]
    return {
        "need": (w.need_leaf * wanted + w.need_feature * feature
                 + w.need_beside * beside),
        "trigger": _trigger_fit(world, moment, leaf), "season": season,
        "personal": (_personal_fit(world, people, moment, items, leaf) - season
                     - quality),
        "quality": quality,
        "memory": (w.seen_today * memory["today"] + w.seen_before * memory["before"]
                   + w.in_cart * memory["cart"] + w.used_up * memory["due"]
                   + w.well_stocked * memory["stocked"] + w.owned * memory["owned"]),
        "bias": jnp.broadcast_to(world.tuning.click_bias + bias, items.shape)}


def look_probabilities(slots: int) -> Array:
    """Returns how likely a person looks at each place of a list, `[slots]` float32.

    `(place + 1) ** -0.35`: the first is always looked at, the eighth half as often.

    Source: the position bias model of Joachims et al. 2017,
    https://arxiv.org/abs/1608.04468, section 6.2; the exponent is ours.
    """
    return jnp.arange(1, slots + 1, dtype=jnp.float32) ** -0.35


def _by_scenario(table: dict[str, float]) -> Array:
    return jnp.array([table[name] for name in SCENARIOS], jnp.float32)


def _need_fit(world: World, moment: Moment, items: Array,
              leaf: Array) -> tuple[Array, Array, Array]:
    need_leaf = world.need_leaf[moment.need][:, None]
    need_feature = world.need_feature[moment.need][:, None]
    wanted = leaf == need_leaf
    feature = wanted & (need_feature >= 0) & (world.item_feature[items] == need_feature)
    return wanted, feature, world.goes_with[need_leaf, leaf]


def _trigger_fit(world: World, moment: Moment, leaf: Array) -> Array:
    w = _Coefficients()
    given = (moment.trigger >= 0)[:, None]
    trigger_leaf = world.item_leaf[jnp.maximum(moment.trigger, 0)][:, None]
    return given * (w.trigger_leaf * (leaf == trigger_leaf)
                    + w.trigger_with * world.goes_with[trigger_leaf, leaf])


def _personal_fit(world: World, people: People, moment: Moment, items: Array,
                  leaf: Array) -> Array:
    w = _Coefficients()
    rows = jnp.arange(items.shape[0])[:, None]
    # Against the person's average leaf, cut where interest is beyond doubt.
    own = people.taste - people.taste.mean(axis=1, keepdims=True)
    taste = w.taste * jnp.clip(own[rows, leaf], -3, 3)
    style = jnp.sum(world.item_style[items] * people.style[:, None, :], axis=-1)
    favourite = people.favourites[rows, world.leaf_department[leaf]]
    gap = world.item_tier[items] - people.tier[:, None]
    return (taste + _season_fit(world, people, moment, leaf)
            + world.tuning.style_weight * style
            + world.tuning.brand_loyalty * (world.item_brand[items] == favourite)
            - world.tuning.price_sensitivity * jnp.square(jnp.clip(gap, -2, 2))
            + people.audience[rows, world.item_audience[items]]
            + w.quality * world.item_quality[items])


def _season_fit(world: World, people: People, moment: Moment, leaf: Array) -> Array:
    rows, day = jnp.arange(leaf.shape[0])[:, None], day_of(world, moment.second)
    season = world.day_season[people.city, day][rows, world.leaf_season[leaf]]
    return _Coefficients().season * season


def _remembered(world: World, moment: Moment, items: Array,
                leaf: Array) -> dict[str, Array]:
    """Returns what memory says of each item, `[B, K]` bool each."""
    age = (moment.second[:, None] - moment.seconds)[:, None, :]  # [B, 1, MEMORY]
    known = moment.items[:, None, :] == items[:, :, None]        # [B, K, MEMORY]
    kinds = moment.kinds[:, None, :]
    ordered = known & (kinds == ORDER)
    life = world.leaf_restock[leaf][:, :, None]
    early = age < (life // 10) * 7
    bought = ordered.any(axis=-1)
    due = bought & ~(ordered & early).any(axis=-1) & (life[..., 0] > 0)
    recent = known & (age < _RECENT)
    return {
        "today": (known & (age < 3_600)).any(axis=-1) & ~bought,
        "before": (recent & (kinds == CLICK) & (age >= 3_600)).any(axis=-1) & ~bought,
        "cart": (recent & (kinds == CART)).any(axis=-1) & ~bought,
        "due": due, "stocked": bought & ~due & (life[..., 0] > 0),
        "owned": bought & (life[..., 0] == 0)}
