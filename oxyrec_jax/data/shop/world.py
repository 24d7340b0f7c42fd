"""The world as arrays on a device: what every pure function of the shop reads."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from oxyrec_jax.base import Array
from oxyrec_jax.data import schema
from oxyrec_jax.data.shop import catalogue, contexts, knowledge
from oxyrec_jax.data.shop.config import ShopConfig

SCENARIOS = schema.SCENARIOS  # home, feed, channel, cart, checkout, search


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tuning:
    """The knobs of `ShopConfig` that the dynamics read, each a float32 scalar."""

    popularity_exponent: Array
    popularity_offset: Array
    ranker_noise: Array
    relevance: Array
    context_needs: Array
    complement_needs: Array
    restock_needs: Array
    resume_needs: Array
    need_change: Array
    session_end: Array
    brand_loyalty: Array
    price_sensitivity: Array
    style_weight: Array
    click_bias: Array
    intent_share: Array
    intent_days: Array
    intent_style: Array
    intent_again: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class World:
    """N items, C leaves, M brands, Q needs, R rules, F facts, I standing intents.

    Attributes:
      seed: scalar uint32.
      lengths: `[4]` float32: least, mean and most events of a person, and spread.
      tuning: the knobs.
      item_leaf, item_brand, item_audience, item_feature: `[N]` int32.
      item_tier, item_price, item_quality: `[N]` float32; the price in US dollars.
      item_style: `[N, STYLES]` float32.
      leaf_start: `[C+1]` int32 into `by_rank`; `by_rank`: `[N]` int32, the items in
        order of leaf, then of popularity.
      leaf_logits: `[C]` float32, log share of undirected visits.
      leaf_department, leaf_season: `[C]` int32.
      aisle_start: `[departments+1]` int32; leaves of a department are contiguous.
      leaf_restock: `[C]` int32 seconds until it is used up; 0 for durables.
      leaf_tags: `[C, PERSON_FACTS]` bool, who wants it.
      complements: `[C, 3]` int32 leaves that go with it, the list repeated to fill.
      goes_with: `[C, C]` bool, the same as a table.
      brand_start: `[departments+1]` int32; brands of a department are contiguous.
      brand_tier: `[M]`, brand_style: `[M, STYLES]` float32.
      need_leaf, need_feature, need_kind: `[Q]` int32; feature -1 if any will do.
      rule_facts: `[R, F]` float32, 1 where the rule requires the fact.
      rule_weight: `[R]` float32; rule_start: `[R+1]` int32 into the needs.
      city_edges: `[cities-1]` float32, inner edges of the cities' cumulated shares.
      day_facts: `[cities, days, DAY_FACTS]` bool.
      day_season: `[cities, days, SEASONS]` float32 logits.
      clock: `[cities, CLOCK_STEPS+1]` int32 seconds.
      intent_awake: `[I]` float32, chance that each standing intent is awake in a spell.
    """

    seed: Array
    lengths: Array
    tuning: Tuning
    item_leaf: Array
    item_brand: Array
    item_audience: Array
    item_feature: Array
    item_tier: Array
    item_price: Array
    item_quality: Array
    item_style: Array
    leaf_start: Array
    by_rank: Array
    leaf_logits: Array
    leaf_department: Array
    leaf_season: Array
    aisle_start: Array
    leaf_restock: Array
    leaf_tags: Array
    complements: Array
    goes_with: Array
    brand_start: Array
    brand_tier: Array
    brand_style: Array
    need_leaf: Array
    need_feature: Array
    need_kind: Array
    rule_facts: Array
    rule_weight: Array
    rule_start: Array
    city_edges: Array
    day_facts: Array
    day_season: Array
    clock: Array
    intent_awake: Array


@dataclasses.dataclass(frozen=True)
class Shop:
    """A built shop: the world that the dynamics read, and what puts it into words.

    Attributes:
      cfg: what it was built from.
      known: category tree, rules, cities and needs.
      items: the catalogue.
      days: calendar and weather.
      world: the same as arrays on a device.
    """

    cfg: ShopConfig
    known: knowledge.Knowledge
    items: catalogue.Catalogue
    days: contexts.Contexts
    world: World


def build_shop(cfg: ShopConfig) -> Shop:
    """Builds the shop of a configuration; its people are drawn as they are needed.

    Raises:
      InputError: the catalogue is smaller than the category tree.
    """
    known = knowledge.load_knowledge(projects=cfg.intents > 0)
    items = catalogue.build_catalogue(cfg, known)
    days = contexts.build_contexts(cfg, known.cities)
    arrays = _item_arrays(items) | _leaf_arrays(known) | _need_arrays(known) | {
        "seed": np.uint32(cfg.seed),
        "lengths": np.array([cfg.min_events, cfg.events_per_user, cfg.max_events,
                             cfg.length_spread], np.float32),
        "city_edges": _edges([city.weight for city in known.cities]),
        "day_facts": days.facts, "day_season": days.season, "clock": days.clock,
        "intent_awake": np.full(cfg.intents, cfg.intent_awake, np.float32)}
    tuning = {field.name: jnp.asarray(np.float32(getattr(cfg, field.name)))
              for field in dataclasses.fields(Tuning)}
    world = World(tuning=Tuning(**tuning),
                  **{name: jnp.asarray(array) for name, array in arrays.items()})
    return Shop(cfg, known, items, days, world)


def day_of(world: World, second: Array) -> Array:
    """Returns the day's number; visits that outlast the log stay on its last day."""
    return jnp.minimum(second // contexts.SECONDS_A_DAY, world.day_facts.shape[1] - 1)


def _edges(weights: list[float]) -> np.ndarray:
    """Returns the inner edges of the cumulated shares."""
    total = np.cumsum(weights)
    return (total[:-1] / total[-1]).astype(np.float32)


def _item_arrays(items: catalogue.Catalogue) -> dict[str, np.ndarray]:
    brands = items.brands
    departments = np.arange(brands.department[-1] + 2)
    return {
        "item_leaf": items.leaf, "item_brand": items.brand,
        "item_audience": items.audience, "item_feature": items.feature,
        "item_tier": items.tier, "item_price": items.price,
        "item_quality": items.quality, "item_style": items.style,
        "leaf_start": items.leaf_start.astype(np.int32), "by_rank": items.by_rank,
        "leaf_logits": np.log(items.leaf_share).astype(np.float32),
        "brand_start": np.searchsorted(brands.department, departments).astype(np.int32),
        "brand_tier": brands.tier, "brand_style": brands.style}


def _leaf_arrays(known: knowledge.Knowledge) -> dict[str, np.ndarray]:
    leaves = known.leaves
    number = {leaf.name: index for index, leaf in enumerate(leaves)}
    complements = np.array([[number[leaf.complements[slot % len(leaf.complements)]]
                             for slot in range(3)] for leaf in leaves], np.int32)
    goes_with = np.zeros((len(leaves), len(leaves)), bool)
    goes_with[np.arange(len(leaves))[:, None], complements] = True
    tags = np.array([[fact in leaf.tags for fact in knowledge.PERSON_FACTS]
                     for leaf in leaves])
    departments = [known.departments.index(leaf.department) for leaf in leaves]
    return {
        "leaf_department": np.array(departments, np.int32),
        "aisle_start": np.searchsorted(
            departments, np.arange(len(known.departments) + 1)).astype(np.int32),
        "leaf_season": np.array([knowledge.SEASONS.index(leaf.season)
                                 for leaf in leaves], np.int32),
        "leaf_restock": np.array([leaf.restock_days * contexts.SECONDS_A_DAY
                                  for leaf in leaves], np.int32),
        "leaf_tags": tags, "complements": complements, "goes_with": goes_with}


def _need_arrays(known: knowledge.Knowledge) -> dict[str, np.ndarray]:
    needs, rules = known.needs, known.rules
    facts = [[fact in rule.when for fact in knowledge.FACTS] for rule in rules]
    sizes = [len(rule.needs) for rule in rules]
    return {
        "need_leaf": np.array([need.leaf for need in needs], np.int32),
        "need_feature": np.array([need.feature for need in needs], np.int32),
        "need_kind": np.array([knowledge.NEED_KINDS.index(need.kind)
                               for need in needs], np.int32),
        "rule_facts": np.array(facts, np.float32),
        "rule_weight": np.array([rule.weight for rule in rules], np.float32),
        "rule_start": np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)}
