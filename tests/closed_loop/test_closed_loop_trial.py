"""A/A tests find nothing where nothing is, and nothing is concluded where they do."""

import dataclasses

import numpy as np
import pytest

from oxyrec_jax.base import InputError
from oxyrec_jax.closed_loop import figures, trial
from oxyrec_jax.closed_loop.days import COUNTS
from oxyrec_jax.closed_loop.figures import SCOPES
from oxyrec_jax.closed_loop.splits import arms_of

DESIGN = trial.Design(name="spring", splits=200)


def visits(users, seed, *, better=1.0, days=3, rate=0.06):
    """Days of people who differ; `better` multiplies their clicks."""
    keen = np.random.default_rng(99).gamma(3.0, 1 / 3, (users, 1))
    found = []
    for day in range(days):
        rng = np.random.default_rng([seed, day])
        requests = rng.poisson(0.7, (users, len(SCOPES) - 1)).astype(float)
        clicks = rng.binomial((8 * requests).astype(int),
                              np.clip(rate * better * keen, 0, 1))
        orders = rng.binomial(clicks, 0.25)
        gmv = orders * rng.lognormal(3, 1, orders.shape)
        cells = dict(zip(COUNTS, (requests, 8 * requests, 8 * requests, clicks, orders,
                                  orders, gmv, 3 * requests)))
        found.append(np.stack([cells[name] for name in COUNTS], -1).astype(np.float32))
    return found


NUMBERS = np.arange(1_000)
SAME = visits(len(NUMBERS), 0)


@pytest.fixture(scope="module")
def passed():
    return trial.same_against_same(figures.sums_of(SAME), NUMBERS, DESIGN, 2)


def test_a_split_test_finds_nothing_in_the_control_as_often_as_its_level_says(passed):
    assert passed["passed"] and not passed["why"]
    shares = [passed["shares"][scope][name] for scope in SCOPES
              for name in figures.HEADLINE]
    assert np.mean(shares) == pytest.approx(0.05, abs=0.02)
    assert all(passed["shares"]["total"][name] <= passed["allowed"]
               for name in figures.HEADLINE)
    # 200 tests at 5 %: 999 times of 1000 at most 21 positives.
    assert passed["allowed"] == pytest.approx(21 / 200)


def test_a_paired_test_finds_nothing_in_the_control_with_other_luck():
    found = trial.same_against_same(
        figures.sums_of(SAME), NUMBERS, dataclasses.replace(DESIGN, paired=True), 2,
        figures.sums_of(visits(len(NUMBERS), 1)))
    assert found["passed"]
    assert np.mean(list(found["shares"]["total"].values())) < 0.12


def test_people_who_are_counted_twice_fail_the_same_against_same():
    # Each person stands there eight times under other numbers and always does the
    # same: what a split by request would do, whose errors are far too small where
    # copies stay together.
    twins = [np.repeat(day[:100], 10, axis=0) for day in SAME]
    together = np.repeat(np.arange(100), 10)
    found = trial.same_against_same(figures.sums_of(twins), together, DESIGN, 2)
    assert not found["passed"] and "finds a difference" in found["why"]
    judged = trial.judge({"a": twins, "b": twins}, together, DESIGN, found)
    assert judged["verdicts"]["b"].startswith("No conclusion")
    cells = judged["treatments"]["b"]["total"]
    assert all(cell["significant"] is None for cell in cells.values())
    assert cells["uctr"]["lift"] is not None


def test_too_few_people_are_refused_by_name():
    few = [day[:12] for day in SAME]
    few[0][:, :, COUNTS.index("orders"):] = 0
    found = trial.same_against_same(figures.sums_of(few[:1]), NUMBERS[:12], DESIGN, 2)
    assert not found["passed"] and "gmv is 0 in some arms" in found["why"]


def test_a_figure_of_few_events_is_told_and_never_significant():
    rare = [day.copy() for day in SAME]
    orders, search = COUNTS.index("orders"), SCOPES.index("search") - 1
    for day in rare:
        day[20:, search, orders:orders + 2] = 0  # gmv stands next
    found = trial.same_against_same(figures.sums_of(rare), NUMBERS, DESIGN, 2)
    assert found["passed"]
    assert ["search", "gmv"] in found["unsound"]
    many = [10 * day for day in SAME]
    judged = trial.judge({"now": rare, "new": many}, NUMBERS, DESIGN, found)
    cells = judged["treatments"]["new"]
    assert cells["search"]["gmv"]["lift"] > 5
    assert cells["search"]["gmv"]["significant"] is None
    assert cells["search"]["gmv"]["p_holm"] is None
    assert cells["home"]["gmv"]["significant"]


def test_a_better_treatment_wins_and_intervals_hold_its_lift(passed):
    counts = {"now": SAME, "new": visits(len(NUMBERS), 2, better=1.4)}
    found = trial.judge(counts, NUMBERS, DESIGN, passed)
    cell = found["treatments"]["new"]["total"]["ctr"]
    assert cell["significant"] and cell["low"] < 0.4 < cell["high"]
    assert "better" in found["verdicts"]["new"]
    assert "in no scenario significantly worse" in found["verdicts"]["new"]


def test_each_person_counts_in_the_own_arm_alone(passed):
    arm = arms_of(NUMBERS, DESIGN.name, 2)
    spoiled = [np.where((arm == 1)[:, None, None], 1e6, day) for day in SAME]
    found, other = (trial.judge({"now": now, "new": SAME}, NUMBERS, DESIGN, passed)
                    for now in (SAME, spoiled))
    assert found["treatments"] == other["treatments"]
    sizes = [arms["users"] for arms in found["arms"].values()]
    assert sizes == [(arm == 0).sum(), (arm == 1).sum()]


def test_scenarios_are_adjusted_for_how_many_are_looked_at(passed):
    found = trial.judge({"now": SAME, "new": visits(len(NUMBERS), 3),
                         "other": visits(len(NUMBERS), 4)}, NUMBERS, DESIGN, passed)
    cells = [part[scope]["uctr"] for part in found["treatments"].values()
             for scope in SCOPES[1:]]
    p = np.array([cell["p"] for cell in cells])
    np.testing.assert_allclose([cell["p_holm"] for cell in cells], figures.holm(p))
    assert min(cell["p_holm"] for cell in cells) == pytest.approx(
        min(12 * p.min(), 1))


def test_days_are_those_of_each_arm(passed):
    found = trial.judge({"now": SAME, "new": SAME}, NUMBERS, DESIGN, passed)
    arm = arms_of(NUMBERS, DESIGN.name, 2)
    for name, number in (("now", 0), ("new", 1)):
        days = found["daily"][name]["gmv"]
        expected = [day[arm == number][:, :, COUNTS.index("gmv")].sum()
                    / (arm == number).sum() for day in SAME]
        np.testing.assert_allclose(days["value"], expected, rtol=1e-5)
        assert all(low < value < high for low, value, high in zip(
            days["low"], days["value"], days["high"]))


@pytest.mark.parametrize("options", [{"level": 1.0}, {"level": 0.2}, {"splits": 3}])
def test_a_design_that_cannot_be_judged_is_refused(options):
    with pytest.raises(InputError):
        trial.Design(**options)
