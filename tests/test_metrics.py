"""Metrics against hand-computed values, plain-Python oracles and properties."""

import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from oxyrec_jax import metrics

MISS = metrics.MISS
PROPERTY = hypothesis.settings(deadline=None, max_examples=60)
RANKS = strategies.lists(
    strategies.one_of(strategies.integers(0, 30), strategies.just(MISS)),
    min_size=1, max_size=40).map(np.array)


def test_rank_is_the_first_place_of_the_target():
    lists = np.array([[7, 3, 5], [1, 2, -1], [4, 4, 4], [-1, -1, -1]])
    found = metrics.ranks(lists, np.array([5, 9, 4, 0]))
    np.testing.assert_array_equal(found, [2, MISS, 0, MISS])


def test_rank_refuses_a_negative_target_that_would_match_an_empty_place():
    with pytest.raises(ValueError, match="negative"):
        metrics.ranks(np.array([[3, -1]]), np.array([-1]))
    with pytest.raises(ValueError, match="shape"):
        metrics.ranks(np.array([[3, -1]]), np.array([1, 2]))


def test_lists_without_places_miss():
    np.testing.assert_array_equal(
        metrics.ranks(np.zeros((2, 0), np.int32), np.array([0, 1])), [MISS, MISS])


@pytest.mark.parametrize("name, expected", [
    ("hr", [1, 1, 0, 0]), ("recall", [1, 1, 0, 0]),
    ("ndcg", [1, 1 / math.log2(4), 0, 0]),  # ranks 0 and 2: 1 / log2(2), 1 / log2(4)
    ("mrr", [1, 1 / 3, 0, 0]),
])
def test_values_by_hand_at_three(name, expected):
    values = metrics.RANK_METRICS[name](np.array([0, 2, 3, MISS]), 3)
    assert values.dtype == np.float64
    np.testing.assert_allclose(values, expected, rtol=1e-15)


@PROPERTY
@hypothesis.given(ranks=RANKS, k=strategies.integers(1, 35))
def test_values_equal_a_plain_python_oracle(ranks, k):
    hits = [1.0 if r < k else 0.0 for r in ranks.tolist()]
    gains = [1 / math.log2(r + 2) if r < k else 0.0 for r in ranks.tolist()]
    inverse = [1 / (r + 1) if r < k else 0.0 for r in ranks.tolist()]
    np.testing.assert_array_equal(metrics.hit_rate(ranks, k), hits)
    np.testing.assert_array_equal(metrics.recall(ranks, k), hits)
    np.testing.assert_allclose(metrics.ndcg(ranks, k), gains, rtol=1e-12)
    np.testing.assert_allclose(metrics.mrr(ranks, k), inverse, rtol=1e-12)


def test_k_of_zero_is_refused():
    with pytest.raises(ValueError, match="k=0"):
        metrics.hit_rate(np.array([0]), 0)


def test_coverage_gini_and_validity_by_hand():
    lists = np.array([[0, 1], [0, 2], [0, -1], [0, 1]])
    # Counts over 4 items: 4, 2, 1, 0. Sorted 0 1 2 4 with weights -3 -1 1 3:
    # -1 + 2 + 12 = 13; 13 / (4 * 7).
    assert metrics.coverage(lists, 2, 4) == 3 / 4
    assert metrics.gini(lists, 2, 4) == pytest.approx(13 / 28)
    assert metrics.validity(lists, 2, 4) == 7 / 8
    assert metrics.coverage(lists, 1, 4) == 1 / 4
    # One of four items takes all: weight 3 of the largest, 3 * 4 / (4 * 4).
    assert metrics.gini(lists, 1, 4) == pytest.approx(3 / 4)
    assert metrics.gini(np.array([[0, 1, 2, 3]]), 4, 4) == pytest.approx(0, abs=1e-15)
    assert metrics.gini(np.full((2, 2), -1), 2, 4) == 0


def test_validity_counts_repeats_unknown_items_and_missing_places():
    assert metrics.validity(np.array([[1, 1, 2]]), 3, 5) == pytest.approx(2 / 3)
    assert metrics.validity(np.array([[1, 9, 2]]), 3, 5) == pytest.approx(2 / 3)
    assert metrics.validity(np.array([[1, 2]]), 4, 5) == pytest.approx(2 / 4)
    with pytest.raises(ValueError, match="outside a catalogue of 5"):
        metrics.coverage(np.array([[1, 9]]), 2, 5)


@PROPERTY
@hypothesis.given(lists=strategies.lists(
    strategies.lists(strategies.integers(0, 7), min_size=3, max_size=3),
    min_size=1, max_size=9).map(np.array))
def test_gini_equals_mean_absolute_difference_over_twice_the_mean(lists):
    counts = [int((lists == item).sum()) for item in range(8)]
    spread = sum(abs(x - y) for x in counts for y in counts) / 64
    assert metrics.gini(lists, 3, 8) == pytest.approx(spread / (2 * sum(counts) / 8))


def test_bootstrap_interval_of_a_mean_is_the_normal_one():
    values = np.random.default_rng(0).normal(3.0, 2.0, 4000)
    found = metrics.bootstrap(values, samples=2000, seed=1)
    half = 1.959964 * values.std() / math.sqrt(len(values))
    np.testing.assert_allclose(found.mean, [values.mean()], rtol=1e-12)
    np.testing.assert_allclose(found.low, [values.mean() - half], atol=0.1 * half)
    np.testing.assert_allclose(found.high, [values.mean() + half], atol=0.1 * half)


def test_bootstrap_equals_a_loop_over_samples():
    rng = np.random.default_rng(3)
    users, values = rng.integers(0, 9, 40), rng.random((40, 2))
    found = metrics.bootstrap(values, users, samples=50, level=0.8, seed=11)
    ids, again, drawn = np.unique(users), np.random.default_rng(11), []
    for _ in range(50):
        picked = ids[again.integers(0, len(ids), (1, len(ids)))[0]]
        rows = np.concatenate([np.flatnonzero(users == user) for user in picked])
        drawn.append(values[rows].mean(0))
    np.testing.assert_allclose(found.low, np.quantile(drawn, 0.1, axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.high, np.quantile(drawn, 0.9, axis=0), rtol=1e-12)


def test_bootstrap_is_wider_when_rows_share_a_user():
    # 100 users with 10 equal rows each: the rows carry no more than 100 values do.
    values = np.repeat(np.random.default_rng(0).random(100), 10)
    users = np.repeat(np.arange(100), 10)
    rows = metrics.bootstrap(values, samples=500)
    clustered = metrics.bootstrap(values, users, samples=500)
    ratio = (clustered.high - clustered.low) / (rows.high - rows.low)
    np.testing.assert_allclose(ratio, math.sqrt(10), rtol=0.15)


def test_paired_difference_is_tighter_than_two_separate_intervals():
    rng = np.random.default_rng(0)
    base = rng.random(2000)
    better = base + 0.01 + 0.01 * rng.random(2000)
    found = metrics.bootstrap(np.stack([base, better, better - base], 1), samples=300)
    assert found.low[1] < found.high[0]          # separate intervals overlap
    assert found.low[2] > 0.014                  # the paired one is sure
    np.testing.assert_allclose(found.mean[2], found.mean[1] - found.mean[0], rtol=1e-9)


def test_bootstrap_is_seeded():
    values = np.arange(30.0)
    one, same, other = [metrics.bootstrap(values, samples=40, seed=seed)
                        for seed in (1, 1, 2)]
    assert one.low == same.low and one.high == same.high
    assert (one.low, one.high) != (other.low, other.high)


@pytest.mark.parametrize("arguments", [
    {"values": np.zeros((0, 2))}, {"values": np.zeros(3), "users": np.zeros(2)},
    {"values": np.zeros(3), "samples": 0}, {"values": np.zeros(3), "level": 1.0}])
def test_bootstrap_refuses_what_has_no_answer(arguments):
    with pytest.raises(ValueError):
        metrics.bootstrap(**arguments)


def _table(ranks, ks):
    return {f"item.{name}@{k}": float(function(ranks, k).mean())
            for name, function in metrics.RANK_METRICS.items() for k in ks}


@PROPERTY
@hypothesis.given(ranks=RANKS, ks=strategies.sets(strategies.integers(1, 40),
                                                  min_size=1, max_size=5))
def test_bound_holds_for_any_ranks(ranks, ks):
    metrics.check_bounds(_table(ranks, ks))


@pytest.mark.parametrize("key, value, named", [
    ("item.ndcg@10", 0.9, r"results: item\.ndcg@10 - ndcg@0 = 0\.9"),
    ("item.ndcg@5", 0.05, r"item\.ndcg@5 - ndcg@0"),
    ("item.mrr@10", 0.01, r"item\.mrr@10 - mrr@0"),
    ("item.hr@10", 0.1, r"item\.hr@10 = 0\.1|item\.recall@10"),
    ("item.recall@5", 0.9, r"item\.recall@5 = 0\.9"),
    ("item.ndcg@10", math.nan, r"item\.ndcg@10"),
    ("item.hr@10", 1.5, r"item\.(hr|recall)@10 = "),
])
def test_bound_names_the_impossible_cell(key, value, named):
    table = _table(np.array([0, 3, 7, MISS]), (5, 10))
    metrics.check_bounds(table)
    with pytest.raises(ValueError, match=named):
        metrics.check_bounds({**table, key: value}, where="results")


def test_rounded_table_passes_with_the_slack_of_its_last_digit():
    # From HR@5 .1037 to HR@10 .1163 NDCG gains at most .0126 / log2(7) = .00449.
    table = {"hr@5": 0.1037, "hr@10": 0.1163, "ndcg@5": 0.0918, "ndcg@10": 0.0958}
    metrics.check_bounds(table, tolerance=5e-5)
    with pytest.raises(ValueError, match="ndcg@10 - ndcg@5"):
        metrics.check_bounds({**table, "ndcg@10": 0.0970}, tolerance=5e-5)


def test_groups_are_checked_apart():
    item = _table(np.array([0, MISS]), (1, 5))
    sid = {key.replace("item", "sid"): value
           for key, value in _table(np.array([0, 0]), (1, 5)).items()}
    metrics.check_bounds({**item, **sid, "coverage@5": 0.1, "protocol": "P1"})
    with pytest.raises(ValueError, match=r"sid\."):
        metrics.check_bounds({**item, **sid, "sid.ndcg@5": 0.1})


def test_mean_and_sd_over_seeds_by_hand():
    found = metrics.across_seeds([{"hr@1": 0.1, "name": "a"},
                                  {"hr@1": 0.2, "name": "b"},
                                  {"hr@1": 0.6, "name": "c"}])
    # mean .3; squared deviations .04 + .01 + .09 = .14 over 2.
    assert list(found) == ["hr@1"]
    assert found["hr@1"]["mean"] == pytest.approx(0.3)
    assert found["hr@1"]["sd"] == pytest.approx(math.sqrt(0.07))
    assert found["hr@1"]["runs"] == 3
    assert metrics.across_seeds([{"hr@1": 0.1}])["hr@1"]["sd"] is None
    with pytest.raises(ValueError, match="ndcg@1"):
        metrics.across_seeds([{"hr@1": 0.1}, {"hr@1": 0.1, "ndcg@1": 0.1}])


def test_numbers_of_any_library_are_cells():
    jnp = pytest.importorskip("jax.numpy")
    for kind in (np.float32, np.float64, jnp.float32, jnp.bfloat16, np.array):
        with pytest.raises(ValueError, match="ndcg@10"):
            metrics.check_bounds({"hr@10": kind(0.1), "ndcg@10": kind(0.9)})
        found = metrics.across_seeds([{"hr@10": kind(0.5)}, {"hr@10": kind(0.25)}])
        assert found["hr@10"]["mean"] == 0.375
    found = metrics.across_seeds([{"a": np.int64(3), "b": True, "c": np.bool_(True),
                                   "d": "x", "e": None, "f": np.ones(2), "g": {}}])
    assert list(found) == ["a"]


@pytest.mark.parametrize("name", metrics.RANK_METRICS)
def test_a_negative_rank_is_refused(name):
    with pytest.raises(ValueError, match="rank -1 is negative"):
        metrics.RANK_METRICS[name](np.array([0, -1]), 10)
