"""Figures of a judge, worked out by hand."""

import numpy as np
import pytest

from oxyrec_jax.evaluate import judges
from oxyrec_jax.rewards.judge.aspects import Judged


def test_pairs_are_those_of_one_request_that_the_reference_tells_apart():
    reference = np.array([[3.0, 1.0, 1.0], [0.5, np.nan, 0.7]])
    known = np.array([[True, True, True], [True, True, False]])
    assert judges.ordered_pairs(reference, known).tolist() == [[0, 0, 1], [0, 0, 2]]


def test_pair_auc_counts_ties_half():
    pairs = np.array([[0, 0, 1], [0, 0, 2], [1, 1, 0], [1, 1, 2]])
    scores = np.array([[0.4, 0.4, 0.1], [0.2, 0.9, 0.95]])
    found = judges.pair_auc(scores, pairs)  # 0.5 + 1 + 1 + 0 of four
    assert found["value"] == 0.625 and found["pairs"] == 4
    assert found["low"] <= found["value"] <= found["high"]
    assert judges.pair_auc(scores, pairs[:0])["value"] is None


def test_pair_auc_knows_nothing_of_scale_or_request():
    rng = np.random.default_rng(0)
    reference, scores = rng.random((2, 50, 6))
    pairs = judges.ordered_pairs(reference, np.ones((50, 6), bool))
    value = judges.pair_auc(scores, pairs)["value"]
    moved = np.exp(3 * scores) + 10 * rng.random((50, 1))  # each request its own scale
    assert judges.pair_auc(moved, pairs)["value"] == value
    assert judges.pair_auc(reference, pairs)["value"] == 1
    assert judges.pair_auc(-reference, pairs)["value"] == 0
    assert judges.pair_auc(0 * scores, pairs)["value"] == 0.5


def test_point_accuracy_is_the_share_on_the_right_side():
    found = judges.point_accuracy(np.array([0.9, 0.5, 0.2, 0.6]),
                                  np.array([0.6, 0.4, 0.1, 0.5]))
    assert found == {"point_acc": 0.75, "base": 0.5}
    assert judges.point_accuracy(np.zeros(0), np.zeros(0))["point_acc"] is None


def test_spearman_is_of_ranks_and_silent_where_nothing_varies():
    one = np.array([0.1, 0.2, 0.3, 0.4])
    assert judges.spearman(one, one**3) == pytest.approx(1)
    assert judges.spearman(one, -one) == pytest.approx(-1)
    # ranks 1 2 3 4 and 2 1 4 3: 1 - 6 * 4 / (4 * 15)
    assert judges.spearman(one, one[[1, 0, 3, 2]]) == pytest.approx(0.6)
    assert judges.spearman(one, np.ones(4)) is None
    assert judges.within(np.stack([one, one]), np.stack([one, np.ones(4)]),
                         np.ones((2, 4), bool)) == pytest.approx(1)


def test_aspects_leave_out_what_was_not_given_or_not_known():
    scores = np.zeros((2, 2, 4), np.float32)
    scores[0, :, 3] = 0.9, 0.1
    true = np.zeros((2, 2, 4))
    true[0, :, 3] = 0.8, 0.3
    given = np.array([[True] * 4, [True, True, True, False]])
    known = np.array([[True, True], [True, False]])
    found = judges.aspect_figures(Judged(scores, given, known), true)
    assert found["context"]["points"] == 2 and found["profile"]["points"] == 3
    assert found["context"]["auc"] == pytest.approx(found["context"]["spearman"]) == 1
    assert found["profile"]["auc"] is None and found["profile"]["spearman"] is None
    assert found["context"]["reliability"] == [
        {"score": pytest.approx(0.1), "reference": 0.3, "points": 1},
        {"score": pytest.approx(0.9), "reference": 0.8, "points": 1}]
