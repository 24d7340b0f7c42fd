"""The days after a log: calendar and weather go on, clocks are of one day."""

import datetime

import numpy as np
import pytest

from oxyrec_jax.base import InputError
from oxyrec_jax.data import shop
from oxyrec_jax.data.shop import contexts, knowledge

CONFIG = shop.ShopConfig(users=4, items=200, start="2024-02-01", days=20)


@pytest.fixture(scope="module")
def after():
    return shop.days_after(shop.build_shop(CONFIG), 9)


def test_the_calendar_goes_on(after):
    first = datetime.date(2024, 2, 21)
    weekend = knowledge.DAY_FACTS.index("weekend")
    facts = np.asarray(after.world(0).day_facts)
    assert facts.shape[1] == 29
    for day in range(9):
        there = (first + datetime.timedelta(day)).weekday() >= 5
        assert (facts[:, 20 + day, weekend] == there).all()


def test_a_clock_spreads_visits_over_its_day_by_the_hours_of_the_log(after):
    for day in (0, 8):
        clock = np.asarray(after.world(day).clock) - (20 + day) * 86_400
        assert clock.shape == (len(after.shop.known.cities), contexts.CLOCK_STEPS + 1)
        assert (clock[:, 0] < 60).all() and (clock[:, -1] > 86_340).all()
        assert (np.diff(clock, axis=1) >= 0).all()
        # Half of the visits are made by the hour at which half of the hours' weight is.
        weight = np.cumsum(contexts._HOURS) / contexts._HOURS.sum()
        middle = 3600 * np.interp(0.5, np.concatenate([[0], weight]), np.arange(25))
        assert np.abs(clock[:, contexts.CLOCK_STEPS // 2] - middle).max() < 600


def test_people_and_items_are_those_of_the_log(after):
    world, built = after.world(3), after.shop.world
    for name in ("seed", "item_leaf", "need_leaf", "by_rank"):
        np.testing.assert_array_equal(getattr(world, name), getattr(built, name))


def test_days_beyond_the_known_festivals_are_refused():
    built = shop.build_shop(shop.ShopConfig(users=2, items=200, start="2030-12-01",
                                            days=10))
    with pytest.raises(InputError, match="whose festivals are known"):
        shop.days_after(built, 60)


def test_queries_name_the_leaf_and_mostly_the_feature():
    known = shop.load_knowledge()
    texts, first = shop.query_texts(known)
    leaf = next(number for number, one in enumerate(known.leaves) if one.features)
    name = known.leaves[leaf].name.lower()
    search = np.full(4, shop.SCENARIOS.index("search"))
    found = shop.query_numbers(
        first, np.full(4, leaf), np.array([0, 0, -1, 0]),
        np.where(np.arange(4) == 3, 0, search), np.array([0.9, 0.1, 0.9, 0.9]))
    assert [texts[number] if number >= 0 else None for number in found] == [
        f"{known.leaves[leaf].features[0]} {name}", name, name, None]
