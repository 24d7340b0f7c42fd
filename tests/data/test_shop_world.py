"""The shop's world: tables, chance, calendar, catalogue, people, needs."""

import dataclasses
import datetime

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oxyrec_jax.base import InputError
from oxyrec_jax.data import shop
from oxyrec_jax.data.shop import catalogue, chance, contexts, knowledge
from oxyrec_jax.data.shop.people import liked_leaf

SMALL = shop.ShopConfig(users=100, items=400, days=365)


@pytest.fixture(scope="module")
def built():
    return shop.build_shop(SMALL)


@pytest.fixture(scope="module")
def crowd(built):
    return jax.jit(shop.draw_people)(built.world, jnp.arange(4_096))


# --- configuration ---------------------------------------------------------------

@pytest.mark.parametrize("change, words", [
    ({"users": 0}, "users of the shop is 0, expected at least 1"),
    ({"need_change": 1.5}, "need_change"),
    ({"context_needs": 0.8, "complement_needs": 0.3}, "at most 1 - context_needs, 0.2"),
    ({"events_per_user": 3.0}, "at least min_events, 5"),
    ({"candidates": 4}, "at least slate, 8"),
    ({"start": "yesterday"}, "YYYY-MM-DD"),
    ({"start": "2019-01-01"}, "2023 to 2030"),
    ({"seed": -1}, "seed"),
])
def test_a_wrong_knob_is_named_with_what_was_expected(change, words):
    with pytest.raises(InputError, match=words):
        shop.ShopConfig(**change)


def test_fewer_items_than_leaves_is_one_sentence():
    with pytest.raises(InputError, match="items of the shop is 50, expected at least"):
        shop.build_shop(shop.ShopConfig(items=50))


# --- chance ----------------------------------------------------------------------

def test_draws_do_not_depend_on_who_is_drawn_together():
    people = jnp.arange(100)
    together = chance.uniform(jnp.uint32(7), 3, people, people % 5, 20)
    alone = chance.uniform(jnp.uint32(7), 3, people[42:43], people[42:43] % 5, 20)
    np.testing.assert_array_equal(alone[0], together[42])
    fewer = chance.uniform(jnp.uint32(7), 3, people, people % 5, 4)
    np.testing.assert_array_equal(fewer, together[:, :4])


def test_draws_are_uniform_and_independent_over_slots_steps_and_people():
    draws = np.asarray(chance.uniform(jnp.uint32(1), 3, jnp.arange(40_000), 0, 8))
    assert draws.min() > 0 and draws.max() < 1
    # Mean 1/2 and variance 1/12 of 320,000 draws: 5 standard errors are .0026, .0007.
    assert abs(draws.mean() - 0.5) < 0.0026 and abs(draws.var() - 1 / 12) < 0.0007
    others = [chance.uniform(jnp.uint32(1), 3, jnp.arange(40_000), 1, 8),
              chance.uniform(jnp.uint32(2), 3, jnp.arange(40_000), 0, 8),
              chance.uniform(jnp.uint32(1), 4, jnp.arange(40_000), 0, 8),
              np.roll(draws, 1, axis=0), np.roll(draws, 1, axis=1)]
    for other in others:  # 5 standard errors of a correlation of 320,000 pairs: .0088
        assert abs(np.corrcoef(draws.ravel(), np.ravel(other))[0, 1]) < 0.0088


def test_normal_and_gumbel_draws_have_their_moments():
    draws = chance.uniform(jnp.uint32(5), 3, jnp.arange(100_000), 0, 1)
    normal, gumbel = chance.normal(draws), chance.gumbel(draws)
    np.testing.assert_allclose([normal.mean(), normal.std()], [0, 1], atol=0.015)
    # Euler's constant; π / √6.
    np.testing.assert_allclose([gumbel.mean(), gumbel.std()], [0.5772, 1.2825],
                               atol=0.02)


# --- calendar and weather --------------------------------------------------------

@pytest.mark.parametrize("name, year, day", [
    ("easter", 2024, (3, 31)), ("easter", 2025, (4, 20)), ("easter", 2027, (3, 28)),
    ("black-friday", 2024, (11, 29)), ("black-friday", 2025, (11, 28)),
    ("spring-festival", 2024, (2, 10)), ("mid-autumn", 2025, (10, 6)),
    ("christmas", 2026, (12, 25)),
])
def test_festivals_fall_on_their_days(name, year, day):
    assert contexts.festival_days(name, year) == datetime.date(year, *day)


def test_weather_follows_the_climate_and_the_hemisphere(built):
    names = [city.name for city in built.known.cities]
    january, july = slice(0, 31), slice(182, 213)
    warmth = built.days.temperature
    for city in built.known.cities:  # spells average out over a month to some degrees
        place = names.index(city.name)
        assert abs(warmth[place, january].mean() - city.temperature[0]) < 6
    facts = built.days.facts
    winter = knowledge.DAY_FACTS.index("winter")
    assert facts[names.index("Harbin"), january, winter].all()
    assert facts[names.index("Sydney"), july, winter].all()
    freezing = knowledge.DAY_FACTS.index("freezing")
    assert facts[names.index("Harbin"), january, freezing].mean() > 0.9
    assert not facts[names.index("Singapore"), :, freezing].any()


def test_a_festival_is_kept_only_in_its_regions_and_before_its_day(built):
    names = [city.name for city in built.known.cities]
    column = knowledge.DAY_FACTS.index("spring-festival")
    days = np.flatnonzero(built.days.facts[names.index("Chengdu"), :, column])
    # The 10th of February 2024 is day 40; people shop for it for 14 days and that day.
    np.testing.assert_array_equal(days, np.arange(26, 41))
    assert not built.days.facts[names.index("London"), :, column].any()


def test_the_clock_rises_and_ends_with_the_log(built):
    clock = built.days.clock
    assert (np.diff(clock, axis=1) >= 0).all()
    assert (clock[:, 0] == 0).all() and (clock[:, -1] == 365 * 86_400 - 1).all()


# --- catalogue -------------------------------------------------------------------

def test_catalogue_keeps_its_tables_in_step(built):
    items, known = built.items, built.known
    assert np.bincount(items.leaf, minlength=len(known.leaves)).min() >= 1
    np.testing.assert_array_equal(np.sort(items.by_rank), np.arange(400))
    for leaf in range(len(known.leaves)):  # by_rank lists a leaf's items by rank
        own = items.by_rank[items.leaf_start[leaf]:items.leaf_start[leaf + 1]]
        assert (items.leaf[own] == leaf).all()
        np.testing.assert_array_equal(items.rank[own], np.arange(len(own)))
    department = np.array([known.departments.index(leaf.department)
                           for leaf in known.leaves])
    np.testing.assert_array_equal(items.brands.department[items.brand],
                                  department[items.leaf])
    for item in range(400):
        leaf = known.leaves[items.leaf[item]]
        assert knowledge.AUDIENCES[items.audience[item]] in leaf.audience
        assert items.feature[item] < len(leaf.features)
        assert leaf.price * np.exp(-1.2) < items.price[item] < leaf.price * np.exp(1.2)


def test_titles_say_what_the_item_is(built):
    table = pytest.importorskip("pyarrow").concat_tables(
        catalogue.item_rows(built.items, built.known, rows=150))
    assert len(table) == 400
    assert len(set(built.items.brands.names)) == len(built.items.brands.names)
    for row in table.to_pylist():
        leaf = row["category"].split(" > ")[-1]
        assert leaf in row["title"] and row["title"].startswith(row["brand"])
        assert row["feature"].replace("-", " ").lower() in \
            row["title"].replace("-", " ").lower()
        assert row["title"] in row["text"] and row["price"] > 0


@hypothesis.given(st.integers(0, 500), st.lists(st.floats(0.01, 5), min_size=1,
                                                max_size=20))
@hypothesis.settings(deadline=None, max_examples=50)
def test_apportioning_gives_everything_away_and_nobody_a_whole_too_many(total, weight):
    weight = np.array(weight)
    parts = catalogue._apportion(total, weight)
    assert parts.sum() == total
    assert (np.abs(parts - total * weight / weight.sum()) < 1).all()


# --- people ----------------------------------------------------------------------

def test_people_follow_from_their_number_alone(built):
    draw = jax.jit(shop.draw_people)
    some = draw(built.world, jnp.array([5, 900, 17]))
    other = draw(built.world, jnp.array([17, 3, 5]))
    for ours, theirs in zip(jax.tree.leaves(some), jax.tree.leaves(other)):
        np.testing.assert_array_equal(ours[0], theirs[2])
        np.testing.assert_array_equal(ours[2], theirs[0])


def test_population_has_the_stated_shares(built, crowd):
    weights = np.array([city.weight for city in built.known.cities])
    # Five standard errors of a share of 4,096 people are at most .04.
    np.testing.assert_allclose(np.bincount(crowd.city) / 4_096, weights / weights.sum(),
                               atol=0.04)
    lives = dict(zip(knowledge.LIVES, np.bincount(crowd.life) / 4_096))
    np.testing.assert_allclose([lives["baby"], lives["student"]], [0.13, 0.12],
                               atol=0.03)
    assert abs(np.asarray(crowd.gender).mean() - 0.5) < 0.04
    events = np.asarray(crowd.events)
    assert events.min() >= SMALL.min_events and events.max() <= SMALL.max_events
    assert abs(events.mean() - SMALL.events_per_user) < 2
    assert (np.asarray(crowd.facts)[:, :6].sum(axis=1) == 1).all()  # one stage of life


def test_taste_knows_stages_of_life_and_hobbies(built, crowd):
    names = [leaf.name for leaf in built.known.leaves]
    taste, facts = np.asarray(crowd.taste), np.asarray(crowd.facts)

    def gap(leaf, fact):
        column = taste[:, names.index(leaf)]
        holds = facts[:, knowledge.PERSON_FACTS.index(fact)]
        return column[holds].mean() - column[~holds].mean()
    assert abs(gap("Diapers", "baby") - (2.0 + 4.5)) < 0.3  # exclusive: holds, missing
    assert abs(gap("Tripod", "photography") - (1.5 + 0.6)) < 0.3
    assert abs(gap("Frying Pan", "dog")) < 0.3


def test_favourite_brands_sell_in_their_department(built, crowd):
    departments = np.arange(len(built.known.departments))
    home = built.items.brands.department[np.asarray(crowd.favourites)]
    np.testing.assert_array_equal(home, np.broadcast_to(departments, home.shape))


def test_liked_leaf_is_the_inverse_of_the_cumulated_shares(built, crowd):
    draws = np.random.default_rng(0).random((4_096, 7), np.float32)
    found = np.asarray(liked_leaf(crowd.edges, jnp.asarray(draws)))
    edges = np.asarray(crowd.edges)
    for person in range(0, 4_096, 64):
        expected = np.searchsorted(edges[person], draws[person], side="right")
        np.testing.assert_array_equal(found[person],
                                      np.minimum(expected, edges.shape[1] - 1))


# --- knowledge base --------------------------------------------------------------

def facts_with(*names):
    return jnp.array([[fact in names for fact in knowledge.FACTS]])


def test_rules_fire_exactly_when_all_their_facts_hold(built):
    rng = np.random.default_rng(1)
    facts = rng.random((50, len(knowledge.FACTS))) < 0.4
    found = np.asarray(shop.active_rules(built.world, jnp.asarray(facts)))
    for person, holds in enumerate(facts):
        known = {fact for fact, true in zip(knowledge.FACTS, holds) if true}
        expected = [set(rule.when) <= known for rule in built.known.rules]
        np.testing.assert_array_equal(found[person], expected)


def test_damp_cold_and_a_baby_call_for_moisture_wicking_sleepwear(built):
    facts = facts_with("cold", "damp", "baby", "woman", "couple")
    draws = jnp.stack([jnp.linspace(0.001, 0.999, 500), jnp.full(500, 0.1)], axis=1)
    found = np.asarray(shop.context_need(built.world, jnp.repeat(facts, 500, axis=0),
                                         draws))
    rules, share = np.unique(
        [built.known.rules[built.known.needs[need].rule].name for need in found],
        return_counts=True)
    # cold-damp-baby weighs 6 of cold-home 2 + cold-damp-home 3 + baby-supplies 4 + 6.
    weights = dict(zip(rules, share / 500))
    assert set(weights) == {"cold-damp-baby", "cold-home", "cold-damp-home",
                            "baby-supplies"}
    assert abs(weights["cold-damp-baby"] - 6 / 15) < 0.01
    texts = {built.known.needs[need].text for need in found}
    assert any("moisture-wicking baby sleepwear" in text for text in texts)


def test_without_a_rule_there_is_no_context_need(built):
    found = shop.context_need(built.world, facts_with("music"), jnp.full((1, 2), 0.5))
    assert int(found[0]) == -1


def test_every_need_names_its_leaf_and_feature(built):
    for need in built.known.needs:
        leaf = built.known.leaves[need.leaf]
        assert leaf.name.lower() in need.text
        if need.feature >= 0:
            assert leaf.features[need.feature] in need.text


def test_configuration_is_frozen_and_knows_its_fields():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SMALL.users = 3  # type: ignore
    described = shop.ShopConfig.__doc__
    for field in dataclasses.fields(shop.ShopConfig):
        assert f"      {field.name}:" in described, field.name
