"""Figures of predicted chances, beside the definitions counted out."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from oxyrec_jax.evaluate import binary

ROWS = st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 2)),
                min_size=1, max_size=30)


def counted_auc(scores, labels):
    """Share of pairs (yes, no) in the right order, ties a half."""
    pairs = [(1.0 if one > other else 0.5 if one == other else 0.0)
             for one, yes in zip(scores, labels) if yes
             for other, also in zip(scores, labels) if not also]
    return np.mean(pairs) if pairs else np.nan


def columns(rows):
    score, label, group = (np.array(column) for column in zip(*rows))
    return score / 5, label, group


@hypothesis.given(ROWS)
@hypothesis.settings(deadline=None, max_examples=60)
def test_auc_is_the_share_of_pairs_in_the_right_order(rows):
    score, label, _ = columns(rows)
    np.testing.assert_allclose(binary.auc(score, label), counted_auc(score, label))


@hypothesis.given(ROWS)
@hypothesis.settings(deadline=None, max_examples=60)
def test_gauc_is_the_mean_auc_of_mixed_groups_by_their_size(rows):
    score, label, group = columns(rows)
    total = weight = 0.0
    for number in set(group.tolist()):
        own = group == number
        value = counted_auc(score[own], label[own])
        if not np.isnan(value):
            total, weight = total + own.sum() * value, weight + own.sum()
    expected = total / weight if weight else np.nan
    np.testing.assert_allclose(binary.gauc(score, label, group), expected)


def test_the_aucs_of_groups_stand_in_the_order_of_their_numbers():
    score = np.array([0.9, 0.2, 0.4, 0.5, 0.6])
    label = np.array([True, False, True, False, True])
    values, sizes = binary.group_aucs(score, label, np.array([7, 2, 2, 7, 9]))
    np.testing.assert_array_equal(values, [1.0, 1.0, np.nan])
    assert sizes.tolist() == [2, 2, 1]
    assert binary.group_aucs(score[:0], label[:0], np.zeros(0, int))[0].shape == (0,)


def test_log_loss_by_hand():
    chances, labels = np.array([0.8, 0.25, 0.5]), np.array([True, False, True])
    expected = -np.log([0.8, 0.75, 0.5]).mean()
    np.testing.assert_allclose(binary.log_loss(chances, labels), expected)
    assert np.isfinite(binary.log_loss(np.array([0.0, 1.0]), np.array([True, False])))


def test_bins_hold_equally_many_rows():
    # In order: .1 no, .2 no | .3 yes, .4 no | .9 yes (array_split: 2, 2, 1).
    chances = np.array([0.4, 0.1, 0.9, 0.3, 0.2])
    labels = np.array([False, False, True, True, False])
    table = binary.reliability(chances, labels, bins=3)
    np.testing.assert_allclose([row["predicted"] for row in table], [0.15, 0.35, 0.9])
    assert [row["observed"] for row in table] == [0, 0.5, 1]
    assert [row["count"] for row in table] == [2, 2, 1]
    expected = (2 * 0.15 + 2 * 0.15 + 1 * 0.1) / 5
    np.testing.assert_allclose(binary.calibration_error(chances, labels, 3), expected)


def test_chances_that_come_true_have_almost_no_error():
    rng = np.random.default_rng(0)
    chances = rng.random(50_000)
    labels = rng.random(50_000) < chances
    assert binary.calibration_error(chances, labels) < 0.01
    assert binary.calibration_error(chances**2, labels) > 0.1


def test_nothing_gives_nothing():
    none, no = np.zeros(0), np.zeros(0, bool)
    assert np.isnan([binary.auc(none, no), binary.log_loss(none, no),
                     binary.calibration_error(none, no),
                     binary.gauc(np.ones(2), np.ones(2, bool), np.arange(2))]).all()
    assert binary.reliability(none, no) == []


def test_shapes_that_disagree_are_named():
    with pytest.raises(ValueError, match=r"values.shape=\(2,\) labels.shape=\(3,\)"):
        binary.auc(np.zeros(2), np.zeros(3, bool))


def test_a_nan_among_the_scores_is_not_a_ranking():
    labels = np.arange(6) >= 3
    assert np.isnan(binary.auc(np.full(6, np.nan), labels))
    values, _ = binary.group_aucs(np.array([0, 1, 2, np.nan, 4, 5]), labels[[0, 3] * 3],
                                  np.array([0, 0, 1, 1, 2, 2]))
    np.testing.assert_array_equal(values, [1, np.nan, 1])


def test_equal_chances_are_calibrated_in_any_order():
    labels = np.arange(100) >= 50
    chances = np.full(100, 0.5)
    for order in (slice(None), slice(None, None, -1), np.arange(100) * 37 % 100):
        assert binary.calibration_error(chances, labels[order]) == pytest.approx(0)
