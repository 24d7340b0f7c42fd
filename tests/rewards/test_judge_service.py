"""The judge as an aligner calls it: sampled, batch-wise, silent where it must be."""

import numpy as np
import pytest
from judge_world import Told, request

from oxyrec_jax.rewards.judge import sampling
from oxyrec_jax.rewards.judge.service import Judge
from oxyrec_jax.rewards.judge.weighting import (FeatureSpec, Weighting,
                                                WeightingConfig)

EQUAL = Weighting(FeatureSpec(), WeightingConfig())  # a quarter of each aspect
SCORES = {0: [1, 0, 0, 0], 1: [1, 1, 0, 0], 2: [0, 0, 0, 1]}


def service(share=1.0, scores=SCORES):
    return Judge(Told(scores), EQUAL, share=share)


def test_scores_are_weighted_and_places_without_a_candidate_are_zero():
    semantic, judged = service().score([request()], np.array([[0, 1, -1]]))
    np.testing.assert_allclose(semantic, [[0.25, 0.5, 0]])
    assert semantic.dtype == np.float32 and judged.tolist() == [True]


def test_without_a_situation_the_other_aspects_share_its_weight():
    semantic, _ = service().score([request(scenario="", query="")], np.array([[0, 1]]))
    np.testing.assert_allclose(semantic, [[1 / 3, 2 / 3]], rtol=1e-6)


def test_a_group_whose_candidates_are_alike_gets_no_signal():
    made = service()
    semantic, judged = made.score([request(0), request(1), request(2)], np.array(
        [[0, 2], [0, -1], [1, 2]]))  # 0.25 both; one alone; 0.5 and 0.25
    assert judged.tolist() == [False, False, True] and (semantic[:2] == 0).all()
    assert made.figures()["silent"] == 2


def test_a_group_with_a_candidate_that_could_not_be_judged_is_left_out():
    made = service()
    semantic, judged = made.score([request(0), request(1)], np.array(
        [[0, 9], [0, 1]]))
    assert judged.tolist() == [False, True] and (semantic[0] == 0).all()
    figures = made.figures()
    assert (figures["lost"], figures["judged"], figures["sampled"]) == (1, 1, 2)
    assert figures["spent"]["points"] == 3


def test_the_same_share_of_requests_is_judged_in_every_run():
    requests = [request(number) for number in range(2_000)]
    items = np.tile([0, 1], (2_000, 1))
    small, large = (service(share).score(requests, items)[1] for share in (0.05, 0.2))
    assert 60 <= small.sum() <= 140 and not (small & ~large).any()
    back = service(0.05).score(requests[::-1], items)[1][::-1]
    one = np.array([service(0.05).score([own], items[:1])[1][0]
                    for own in requests[:100]])
    assert (back == small).all() and (one == small[:100]).all()
    assert not service(0.0).score(requests, items)[1].any()


def test_requests_outside_the_sample_cost_nothing():
    made = service(0.05)
    requests = [request(number) for number in range(200)]
    judged = made.score(requests, np.tile([0, 1], (200, 1)))[1]
    asked = [name for call in made.aspects.calls for name in call]
    assert asked == [own.id for own, yes in zip(requests, judged) if yes]


def test_another_seed_samples_others():
    names = [f"request-{number}" for number in range(2_000)]
    one, other = (sampling.chosen(names, 0.5, seed) for seed in (0, 1))
    assert 0.4 < (one == other).mean() < 0.6
    values = sampling.hashed(names, 0)
    assert ((values >= 0) & (values < 1)).all()
    np.testing.assert_allclose(np.quantile(values, [0.25, 0.5, 0.75]),
                               [0.25, 0.5, 0.75], atol=0.04)


def test_wrong_shapes_are_told():
    with pytest.raises(ValueError, match="items.shape"):
        service().score([request()], np.zeros((2, 3), int))
