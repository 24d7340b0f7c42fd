"""Figures of a test by hand, and their errors against the bootstrap and simulation."""

import numpy as np
import pytest

from oxyrec_jax import metrics
from oxyrec_jax.closed_loop import figures
from oxyrec_jax.closed_loop.days import COUNTS
from oxyrec_jax.closed_loop.figures import FIGURES, SCOPES
from oxyrec_jax.closed_loop.splits import arms_of

HOME, SEARCH = SCOPES.index("home") - 1, SCOPES.index("search") - 1


def count(users, **cells):
    """A day's counts; `cells` such as `home=[(requests, shown, …), …]` by user."""
    day = np.zeros((users, len(SCOPES) - 1, len(COUNTS)), np.float32)
    for scope, rows in cells.items():
        for user, row in enumerate(rows):
            day[user, SCOPES.index(scope) - 1, :len(row)] = row
    return day


def cell(values, scope, figure):
    return values[SCOPES.index(scope), FIGURES.index(figure)]


# requests, shown, legal, clicks, carts, orders, gmv, categories
MONDAY = count(3, home=[(2, 16, 15, 3, 1, 1, 20.0, 6), (1, 8, 8, 0, 0, 0, 0, 5)],
               search=[(1, 8, 8, 1, 0, 0, 0, 2)])
TUESDAY = count(3, home=[(1, 8, 8, 0, 0, 0, 0, 4)],
                search=[(0,), (1, 4, 4, 2, 2, 2, 50.0, 1)])


def test_figures_of_three_people_on_two_days_by_hand():
    values = figures.values_of(figures.sums_of([MONDAY, TUESDAY]))
    # Person 0 came twice and clicked on Monday, person 1 twice and clicked on Tuesday;
    # person 2 never came.
    assert cell(values, "total", "uctr") == pytest.approx(2 / 4)
    assert cell(values, "total", "uctcvr") == pytest.approx(2 / 4)
    assert cell(values, "home", "uctr") == pytest.approx(1 / 3)
    assert cell(values, "search", "uctr") == pytest.approx(2 / 2)
    assert cell(values, "search", "uctcvr") == pytest.approx(1 / 2)
    assert cell(values, "total", "orders") == pytest.approx(3 / 3)
    assert cell(values, "search", "orders") == pytest.approx(2 / 3)
    assert cell(values, "total", "gmv") == pytest.approx(70 / 3)
    assert cell(values, "home", "ctr") == pytest.approx(3 / 32)
    assert cell(values, "home", "diversity") == pytest.approx(15 / 4)
    assert cell(values, "home", "legality") == pytest.approx(31 / 32)
    assert np.isnan(cell(values, "feed", "uctr"))  # nobody came there


def random_sums(users, seed, rate=0.3):
    """People who differ: how often they come goes with how much they click."""
    rng = np.random.default_rng(seed)
    shape = (users, len(SCOPES), len(FIGURES))
    keen = rng.gamma(2.0, 0.5, (users, 1, 1))
    below = rng.poisson(2 * keen, shape).astype(float)
    above = rng.binomial(below.astype(int), np.clip(rate * keen, 0, 1)).astype(float)
    return figures.Sums(above, below)


def test_the_delta_method_agrees_with_the_bootstrap_over_people():
    sums = random_sums(400, 0)
    rows = np.repeat(np.arange(400), sums.below[:, 0, 0].astype(int))
    hits = np.zeros(len(rows))
    starts = np.concatenate([[0], np.cumsum(sums.below[:, 0, 0])]).astype(int)
    for user in range(400):
        hits[starts[user]:starts[user] + int(sums.above[user, 0, 0])] = 1
    found = metrics.bootstrap(hits, rows, samples=4000)
    value = figures.values_of(sums)[0, 0]
    half = 1.96 * value * figures.relative_errors(sums)[0, 0]
    assert value == pytest.approx(found.mean[0])
    assert half == pytest.approx((found.high[0] - found.low[0]) / 2, rel=0.06)


def test_intervals_of_lifts_hold_the_truth_as_often_as_they_say():
    held = []
    for seed in range(60):
        control, treatment = (random_sums(500, 2 * seed + arm, rate)
                              for arm, rate in ((0, 0.3), (1, 0.33)))
        low, high = figures.lifts(control, treatment, paired=False).interval(0.9)
        truth = figures.lifts(*_large(), paired=False).lift
        held.append((low <= truth) & (truth <= high))
    share = np.mean(held)  # of 60 tests in 49 independent cells each
    assert 0.87 <= share <= 0.93


_LARGE = []


def _large():
    if not _LARGE:
        _LARGE.extend(random_sums(60_000, 1000 + arm, rate)
                      for arm, rate in ((0, 0.3), (1, 0.33)))
    return _LARGE


def test_lift_is_relative_and_a_pair_of_the_same_has_none():
    one = random_sums(50, 3)
    twice = figures.Sums(2 * one.above, one.below)
    found = figures.lifts(one, twice, paired=True)
    np.testing.assert_allclose(found.lift, 1.0)
    np.testing.assert_allclose(found.error, 0, atol=1e-12)
    same = figures.lifts(one, one, paired=True)
    assert (same.lift == 0).all() and (same.z == 0).all()


def test_pairs_are_surer_than_arms_of_the_same_size():
    one = random_sums(300, 4)
    rng = np.random.default_rng(0)
    more = figures.Sums(one.above + rng.binomial(1, 0.1, one.above.shape), one.below)
    paired, split = (figures.lifts(one, more, paired=paired).error
                     for paired in (True, False))
    assert (paired < 0.7 * split).all()


def test_a_figure_without_anything_below_or_above_has_no_lift():
    one = random_sums(30, 5)
    none = figures.Sums(0 * one.above, one.below)
    found = figures.lifts(none, one, paired=False)
    assert np.isnan(found.lift).all() and np.isnan(found.z).all()


def test_detectable_lift_and_people_by_hand():
    # 1.95996 + 0.84162 = 2.80158 standard errors
    least = figures.detectable(np.array([0.01]), 0.95)
    np.testing.assert_allclose(least, 0.0280158, rtol=1e-5)
    # Four times the people halve the error; 2.80158 % to 1 % are 7.8489 times as many.
    assert figures.users_for(0.01, 1_000, 0.01, 0.95) == 7_849
    assert figures.users_for(float("nan"), 1_000, 0.01, 0.95) is None


def test_a_detectable_lift_is_found_four_times_out_of_five():
    rng = np.random.default_rng(6)
    least = figures.detectable(np.array(0.02), 0.95)
    z = rng.normal(np.full(20_000, least / 0.02), 1)
    assert np.mean(z > 1.96) == pytest.approx(0.8, abs=0.01)


def test_holm_by_hand_leaves_out_what_is_unknown():
    # Of three known: the smallest times 3, the next times 2, never falling.
    found = figures.holm(np.array([0.04, np.nan, 0.01, 0.03]))
    np.testing.assert_allclose(found, [0.06, np.nan, 0.03, 0.06])
    assert np.isnan(figures.holm(np.array([np.nan]))).all()


def test_splits_are_even_independent_of_each_other_and_of_who_else_takes_part():
    people = np.arange(20_000)
    first, other = arms_of(people, "one", 2), arms_of(people, "two", 2)
    assert abs(first.mean() - 0.5) < 0.011  # three standard errors
    assert abs(np.mean(first == other) - 0.5) < 0.011
    np.testing.assert_array_equal(arms_of(people[::-7], "one", 2), first[::-7])
    sizes = np.bincount(arms_of(people, "three", 3))
    np.testing.assert_allclose(sizes / 20_000, 1 / 3, atol=0.011)
