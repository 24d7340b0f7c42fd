"""The response model: the shop's truth."""

import dataclasses

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oxyrec_jax.data import shop
from oxyrec_jax.data.shop import response, visits

MEMORY = response.MEMORY
WEIGHTS = response._Coefficients()
SHIFT = jax.jit(visits._shift)
RESPOND = jax.jit(shop.response_probabilities)


@pytest.fixture(scope="module")
def built():
    return shop.build_shop(shop.ShopConfig(items=400))


@pytest.fixture(scope="module")
def people(built):
    return jax.jit(shop.draw_people)(built.world, jnp.arange(8))


def moment(need, *, scenario="home", trigger=-1, second=86_400 * 100, memory=()):
    """A moment of eight people; memory is (item, kind, seconds ago), newest first."""
    items, kinds, seconds = np.full((3, 8, MEMORY), -1)
    kinds[:] = 0
    for slot, (item, kind, ago) in enumerate(memory):
        items[:, slot], kinds[:, slot], seconds[:, slot] = item, kind, second - ago
    full = {"second": second, "scenario": shop.SCENARIOS.index(scenario),
            "trigger": trigger, "need": need}
    return shop.Moment(**{name: jnp.full(8, value) for name, value in full.items()},
                       items=jnp.asarray(items), kinds=jnp.asarray(kinds),
                       seconds=jnp.asarray(seconds))


def leaf_number(built, name):
    return [leaf.name for leaf in built.known.leaves].index(name)


def taste_need(built, name):
    leaf = leaf_number(built, name)
    return next(number for number, need in enumerate(built.known.needs)
                if need.kind == "taste" and need.leaf == leaf)


def item_of(built, name, place=0):
    return int(built.items.by_rank[built.items.leaf_start[leaf_number(built, name)]
                                   + place])


def click_logits(built, people, when, items):
    """One width for every call, so that one program is compiled."""
    chosen = np.resize(np.asarray(items, np.int32), 140)
    found = RESPOND(built.world, people, when, jnp.tile(jnp.asarray(chosen), (8, 1)))
    click = np.asarray(found.click, np.float64)[:, :len(items)]
    return np.log(click / (1 - click))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_probabilities_are_nested_and_value_is_price_times_order(built, people, wrap):
    items = jnp.asarray(np.random.default_rng(0).integers(0, 400, (8, 50)), jnp.int32)
    found = wrap(shop.response_probabilities)(
        built.world, people, moment(taste_need(built, "Tent")), items)
    assert (found.order > 0).all() and (found.order <= found.cart).all()
    assert (found.cart <= found.click).all() and (found.click < 1).all()
    np.testing.assert_allclose(found.value, found.order * built.items.price[items],
                               rtol=1e-6)


@pytest.mark.parametrize("item, need, gain", [
    ("Tent", "Tent", WEIGHTS.need_leaf),
    ("Sleeping Bag", "Tent", WEIGHTS.need_beside),  # goes with a tent
    ("Lipstick", "Tent", 0.0),
])
def test_a_need_moves_the_logit_by_its_coefficient(built, people, item, need, gain):
    shown = [item_of(built, item)]
    other = click_logits(built, people, moment(taste_need(built, "Board Game")), shown)
    needed = click_logits(built, people, moment(taste_need(built, need)), shown)
    np.testing.assert_allclose(needed - other, gain, atol=1e-4)


def test_the_wanted_feature_counts_on_top(built, people):
    number, need = next((number, need) for number, need in enumerate(built.known.needs)
                        if need.feature >= 0
                        and ((built.items.leaf == need.leaf)
                             & (built.items.feature == need.feature)).any())
    shown = [int(np.flatnonzero((built.items.leaf == need.leaf)
                                & (built.items.feature == need.feature))[0])]
    plain = taste_need(built, built.known.leaves[need.leaf].name)
    gain = (click_logits(built, people, moment(number), shown)
            - click_logits(built, people, moment(plain), shown))
    np.testing.assert_allclose(gain, WEIGHTS.need_feature, atol=1e-4)


def test_triggers_pull_their_own_leaf_and_what_goes_with_it(built, people):
    need = taste_need(built, "Board Game")
    tent, bag = item_of(built, "Tent"), item_of(built, "Sleeping Bag")
    shown = [tent, bag, item_of(built, "Lipstick")]
    gain = (click_logits(built, people, moment(need, trigger=tent), shown)
            - click_logits(built, people, moment(need), shown))
    expected = [WEIGHTS.trigger_leaf, WEIGHTS.trigger_with, 0]
    np.testing.assert_allclose(gain, np.tile(expected, (8, 1)), atol=1e-4)


@pytest.mark.parametrize("leaf, kind, days, gain", [
    ("Tent", response.CLICK, 0.01, WEIGHTS.seen_today),
    ("Tent", response.CLICK, 1, WEIGHTS.seen_before),
    ("Tent", response.CLICK, 10, 0.0),               # forgotten
    ("Tent", response.CART, 1, WEIGHTS.in_cart),
    ("Tent", response.ORDER, 60, WEIGHTS.owned),
    ("Diapers", response.ORDER, 5, WEIGHTS.well_stocked),
    ("Diapers", response.ORDER, 20, WEIGHTS.used_up),  # they last 24 days; 70 % of it
])
def test_memory_moves_the_logit_by_its_coefficient(built, people, leaf, kind, days,
                                                   gain):
    need, item = taste_need(built, "Board Game"), item_of(built, leaf)
    memory = [(item, kind, int(days * 86_400))]
    found = (click_logits(built, people, moment(need, memory=memory), [item])
             - click_logits(built, people, moment(need), [item]))
    np.testing.assert_allclose(found, gain, atol=1e-4)


def test_person_and_item_enter_as_in_the_formula(built, people):
    """A float64 second implementation of the personal part, one person at a time."""
    items = np.arange(0, 400, 3)
    found = click_logits(built, people, moment(taste_need(built, "Tent")), items)
    catalogue, cfg = built.items, built.cfg
    world = jax.tree.map(np.asarray, built.world)
    for person in range(8):
        own = jax.tree.map(lambda rows: np.asarray(rows, np.float64)[person], people)
        for place, item in enumerate(items):
            leaf = catalogue.leaf[item]
            season = world.day_season[int(own.city), 100, world.leaf_season[leaf]]
            gap = np.clip(catalogue.tier[item] - own.tier, -2, 2)
            department = int(world.leaf_department[leaf])
            expected = (
                response._CLICK_BIAS["home"]
                + WEIGHTS.need_leaf * (built.known.leaves[leaf].name == "Tent")
                + WEIGHTS.need_beside * bool(
                    world.goes_with[leaf_number(built, "Tent"), leaf])
                + WEIGHTS.taste * np.clip(own.taste[leaf] - own.taste.mean(), -3, 3)
                + WEIGHTS.season * float(season)
                + cfg.style_weight * (catalogue.style[item] @ own.style)
                + cfg.brand_loyalty * (catalogue.brand[item]
                                       == own.favourites[department])
                - cfg.price_sensitivity * gap ** 2
                + own.audience[catalogue.audience[item]]
                + WEIGHTS.quality * catalogue.quality[item])
            np.testing.assert_allclose(found[person, place], expected, atol=2e-4)


def test_the_parts_of_a_click_sum_to_its_logit(built, people):
    when = moment(taste_need(built, "Tent"), scenario="cart",
                  trigger=item_of(built, "Tent"),
                  memory=[(item_of(built, "Tent"), 1, 4_000),
                          (item_of(built, "Lipstick"), 3, 86_400)])
    items = [item_of(built, name) for name in ("Tent", "Sleeping Bag", "Lipstick")]
    chosen = jnp.tile(jnp.asarray(np.resize(items, 140), jnp.int32), (8, 1))
    parts = jax.jit(response.click_parts)(built.world, people, when, chosen)
    np.testing.assert_allclose(
        np.sum([np.asarray(part)[:, :3] for part in parts.values()], axis=0),
        click_logits(built, people, when, items), atol=1e-4)
    np.testing.assert_allclose(parts["need"][0, :3], [
        WEIGHTS.need_leaf, WEIGHTS.need_beside, 0])
    np.testing.assert_allclose(parts["trigger"][0, :3], [
        WEIGHTS.trigger_leaf, WEIGHTS.trigger_with, 0])
    assert (np.asarray(parts["memory"][0, :3]) != 0).tolist() == [True, False, True]


def test_wrong_shapes_are_told_while_tracing(built, people):
    with pytest.raises(ValueError, match="items.shape"):
        shop.response_probabilities(built.world, people, moment(0), jnp.zeros(8, int))
    short = dataclasses.replace(moment(0), items=jnp.zeros((8, 3), jnp.int32))
    with pytest.raises(ValueError, match="moment.items.shape"):
        shop.response_probabilities(built.world, people, short,
                                    jnp.zeros((8, 2), jnp.int32))


def test_looking_falls_with_the_place():
    looks = np.asarray(shop.look_probabilities(8))
    assert looks[0] == 1 and (np.diff(looks) < 0).all()
    np.testing.assert_allclose(looks[7], 8 ** -0.35, rtol=1e-6)  # .483


@hypothesis.given(st.lists(st.integers(0, 3), min_size=8, max_size=8),
                  st.integers(0, MEMORY))
@hypothesis.settings(deadline=None, max_examples=30)
def test_memory_keeps_the_latest_events_newest_first(outcome, held):
    old = np.full((1, MEMORY), -1)
    old[0, :held] = 1_000 + np.arange(held)
    new = np.arange(8)[None]
    made = np.array([outcome]) > 0
    found = np.asarray(SHIFT(made, new, old))[0]
    clicked = [place for place in range(8) if outcome[place]]
    expected = (clicked[::-1] + list(old[0]))[:MEMORY]
    np.testing.assert_array_equal(found, expected)
