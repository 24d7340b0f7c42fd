"""The shop's people: each one follows from the seed and the person's number alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa

from oxyrec_jax.base import Array
from oxyrec_jax.data.shop import chance, knowledge
from oxyrec_jax.data.shop.catalogue import STYLES
from oxyrec_jax.data.shop.world import World

_PEOPLE, _LENGTHS, _INTENTS = 1, 2, 6  # streams of chance
# Shares of the population, ours.
_LIVES = {"student": 0.12, "single": 0.22, "couple": 0.2, "baby": 0.13, "kids": 0.2,
          "senior": 0.13}
_PETS = {"none": 0.64, "cat": 0.19, "dog": 0.17}
# Mean price tier of a stage of life.
_TIERS = {"student": -0.6, "single": 0.1, "couple": 0.3, "baby": 0.0, "kids": -0.1,
          "senior": 0.1}
_HOBBIES_EACH = 2
_BRAND_TRIES = 8  # brands of a department that a person comes across before liking one
# What only certain people buy, in logits: for whom the tag holds, and for others.
_TAG_HOLDS, _TAG_MISSING = 1.5, -0.6
_EXCLUSIVE = ("baby", "kids", "cat", "dog")
_EXCLUSIVE_HOLDS, _EXCLUSIVE_MISSING = 2.0, -4.5
# Logits of (life, gender) for items made for an audience other than "all".
_OWN, _OTHER, _NO_CHILD = 0.3, -1.2, -3.0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class People:
    """B people; `taste` and below are what moves them, the rest is their profile.

    Attributes:
      number: `[B]` int32, the person's number.
      city, life, gender, pet: `[B]` int32, positions in `knowledge`'s tuples.
      hobbies: `[B, 2]` int32.
      facts: `[B, PERSON_FACTS]` bool, the same as the knowledge base sees it.
      tier: `[B]` float32, price tier sought; around -2 thrifty, 2 luxurious.
      events: `[B]` int32, after how many events the person leaves.
      audience: `[B, AUDIENCES]` float32, logits for items made for an audience.
      taste: `[B, leaves]` float32, logits: long-term interest in each leaf.
      edges: `[B, leaves]` float32, the leaves' shares by taste, cumulated.
      style: `[B, STYLES]` float32, what the person likes about items of any leaf.
      favourites: `[B, departments]` int32, the favourite brand in each.
      projects: `[B, I]` int32, the leaf of each standing intent.
      looks: `[B, I, STYLES]` float32, the look that each of them is after.
    """

    number: Array
    city: Array
    life: Array
    gender: Array
    pet: Array
    hobbies: Array
    facts: Array
    tier: Array
    events: Array
    audience: Array
    taste: Array
    edges: Array
    style: Array
    favourites: Array
    projects: Array
    looks: Array


def draw_people(world: World, numbers: Array) -> People:
    """Draws the people of these numbers, `[B]` int32; pure, jit it."""
    departments = world.brand_start.shape[0] - 1
    sizes = {"city": 1, "life": 1, "pet": 1, "gender": 1, "tier": 1,
             "hobbies": len(knowledge.HOBBIES), "style": STYLES, "whole": departments,
             "own": world.leaf_logits.shape[0], "met": departments * _BRAND_TRIES}
    flat = chance.uniform(world.seed, _PEOPLE, numbers, 0, sum(sizes.values()))
    parts = jnp.split(flat, np.cumsum(list(sizes.values()))[:-1], axis=1)
    draws = dict(zip(sizes, parts))
    city = jnp.sum(draws["city"] >= world.city_edges, axis=1, dtype=jnp.int32)
    life, pet = _pick(draws["life"], _LIVES), _pick(draws["pet"], _PETS)
    gender = (draws["gender"][:, 0] < 0.5).astype(jnp.int32)
    hobbies = jax.lax.top_k(draws["hobbies"], _HOBBIES_EACH)[1].astype(jnp.int32)
    means = jnp.array([_TIERS[name] for name in knowledge.LIVES], jnp.float32)
    tier = means[life] + 0.7 * chance.normal(draws["tier"][:, 0])
    facts = jnp.concatenate([
        jnp.arange(len(knowledge.LIVES)) == life[:, None],
        (np.arange(len(knowledge.HOBBIES))[:, None] == hobbies[:, None, :]).any(2),
        jnp.arange(1, len(knowledge.PETS)) == pet[:, None],
        jnp.arange(len(knowledge.GENDERS)) == gender[:, None],
        jnp.stack([tier < -0.6, tier > 0.8], axis=1)], axis=1)
    style = chance.normal(draws["style"])
    taste = _taste(world, draws["whole"], draws["own"], facts)
    edges = _edges(taste)
    projects, looks = _intents(world, numbers, edges)
    return People(
        number=numbers.astype(jnp.int32), city=city, life=life, gender=gender, pet=pet,
        hobbies=hobbies, facts=facts, tier=tier, events=target_events(world, numbers),
        audience=_audience(life, gender), taste=taste, edges=edges, style=style,
        favourites=_favourites(world, draws["met"], style, tier), projects=projects,
        looks=looks)


def target_events(world: World, numbers: Array) -> Array:
    """Returns `People.events` of these numbers alone, `[B]` int32; pure, jit it."""
    low, mean, high, spread = world.lengths
    normal = chance.normal(chance.uniform(world.seed, _LENGTHS, numbers, 0, 1)[:, 0])
    more = (mean - low) * jnp.exp(spread * normal - spread ** 2 / 2)
    return jnp.clip(jnp.round(low + more), low, high).astype(jnp.int32)


def liked_leaf(edges: Array, uniform: Array) -> Array:
    """Draws leaves by long-term taste.

    Args:
      edges: `[B, leaves]` float32, `People.edges`.
      uniform: `[B, K]` draws in (0, 1).

    Returns:
      `[B, K]` int32.
    """
    leaves = edges.shape[1]
    steps = (leaves - 1).bit_length()

    def halve(turn: Array, low: Array) -> Array:
        # The answer is the number of edges that are no larger than the draw.
        probe = jnp.minimum(low + (1 << (steps - 1 - turn)), leaves) - 1
        edge = jnp.take_along_axis(edges, probe, axis=1)
        return jnp.where(edge <= uniform, probe + 1, low)
    low = jax.lax.fori_loop(0, steps, halve, jnp.zeros(uniform.shape, jnp.int32))
    return jnp.minimum(low, leaves - 1)


def people_table(people: People, known: knowledge.Knowledge, brands: list[str],
                 ids: list[str]) -> pa.Table:
    """Puts people into words: the profile that instructions and reports read.

    Args:
      people: as drawn, on the host or a device.
      known: the world's knowledge.
      brands: the brands' names.
      ids: `[B]` the users' names.

    Returns:
      A table with `user_id`, `city`, `life`, `gender`, `pet`, `hobbies`, `price_tier`,
      `favourite_brands` (one for each department) and `profile`, a sentence.
    """
    host = jax.tree.map(np.asarray, people)
    cities = [known.cities[number].name for number in host.city]
    lives = [knowledge.LIVES[number] for number in host.life]
    genders = [knowledge.GENDERS[number] for number in host.gender]
    pets = [knowledge.PETS[number] for number in host.pet]
    hobbies = [[knowledge.HOBBIES[number] for number in pair] for pair in host.hobbies]
    profiles = [_profile(*row) for row in zip(cities, lives, genders, pets, hobbies,
                                              host.tier)]
    return pa.table({
        "user_id": pa.array(ids), "city": pa.array(cities), "life": pa.array(lives),
        "gender": pa.array(genders), "pet": pa.array(pets),
        "hobbies": pa.array(hobbies, pa.list_(pa.string())),
        "price_tier": pa.array(host.tier),
        "favourite_brands": pa.array([[brands[number] for number in row]
                                      for row in host.favourites],
                                     pa.list_(pa.string())),
        "profile": pa.array(profiles)})


def _profile(city: str, life: str, gender: str, pet: str, hobbies: list[str],
             tier: float) -> str:
    stage = {"student": "student", "single": "living alone", "couple": "in a couple",
             "baby": "parent of a baby", "kids": "parent of school children",
             "senior": "retired"}[life]
    likes = " and ".join(hobbies)
    owns = "" if pet == "none" else f", has a {pet}"
    spends = "thrifty" if tier < -0.6 else "buys premium" if tier > 0.8 else "mid-range"
    return f"{gender.capitalize()} in {city}, {stage}{owns}; likes {likes}; {spends}."


def _pick(draws: Array, shares: dict[str, float]) -> Array:
    edges = np.cumsum(list(shares.values()))[:-1].astype(np.float32)
    return jnp.sum(draws >= edges, axis=1, dtype=jnp.int32)


def _taste(world: World, whole: Array, own: Array, facts: Array) -> Array:
    exclusive = np.isin(knowledge.PERSON_FACTS, _EXCLUSIVE)
    holds = np.where(exclusive, _EXCLUSIVE_HOLDS, _TAG_HOLDS).astype(np.float32)
    missing = np.where(exclusive, _EXCLUSIVE_MISSING, _TAG_MISSING).astype(np.float32)
    # A leaf with several tags is for those for whom any holds: the best one counts.
    logits = jnp.where(facts, holds, missing)[:, None, :]
    fit = jnp.where(world.leaf_tags, logits, -jnp.inf).max(axis=2)
    fit = jnp.where(world.leaf_tags.any(axis=1), fit, 0)
    department = 0.8 * chance.normal(whole)[:, world.leaf_department]
    return world.leaf_logits + fit + department + 0.9 * chance.normal(own)


def _edges(taste: Array) -> Array:
    def add(total: Array, share: Array) -> tuple[Array, Array]:
        return total + share, total + share
    # One leaf after the other: XLA's own cumulative sum is quadratic on a CPU.
    shares = jax.nn.softmax(taste, axis=1).T
    return jax.lax.scan(add, jnp.zeros_like(shares[0]), shares)[1].T


def _intents(world: World, numbers: Array, edges: Array) -> tuple[Array, Array]:
    """Draws the standing intents: their leaves by taste, and their looks."""
    people, count = numbers.shape[0], world.intent_awake.shape[0]
    if not count:
        return (jnp.zeros((people, 0), jnp.int32), jnp.zeros((people, 0, STYLES)))
    flat = chance.uniform(world.seed, _INTENTS, jnp.repeat(numbers, count),
                          jnp.tile(jnp.arange(count), people), 1 + STYLES)
    draws = flat.reshape(people, count, -1)
    return liked_leaf(edges, draws[..., 0]), chance.normal(draws[..., 1:])


def _audience(life: Array, gender: Array) -> Array:
    own = jnp.where(jnp.arange(2) == gender[:, None], _OWN, _OTHER)
    parents = jnp.array([knowledge.LIVES.index("baby"), knowledge.LIVES.index("kids")])
    children = jnp.where(parents == life[:, None], _OWN, _NO_CHILD)
    return jnp.concatenate([jnp.zeros((len(life), 1)), own, children], axis=1)


def _favourites(world: World, met: Array, style: Array, tier: Array) -> Array:
    """Of a few brands met in each department, by their shares, the best fit."""
    start = world.brand_start
    sizes = (start[1:] - start[:-1])[:, None]
    met = met.reshape(len(tier), -1, _BRAND_TRIES)
    # Shares within a department fall as 1 / (1 + place), so places are log-uniform.
    place = jnp.floor(jnp.exp(met * jnp.log(sizes + 1.0)) - 1).astype(jnp.int32)
    brands = start[:-1, None] + jnp.minimum(place, sizes - 1)
    likes = jnp.sum(world.brand_style[brands] * style[:, None, None, :], axis=-1)
    fit = likes / STYLES ** 0.5 - jnp.abs(world.brand_tier[brands]
                                          - tier[:, None, None])
    best = jnp.argmax(fit, axis=2)[..., None]
    return jnp.take_along_axis(brands, best, axis=2)[..., 0]
