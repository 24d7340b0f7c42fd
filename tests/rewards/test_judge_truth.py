"""A shop's truth as a judge, and judges that are wrong on purpose."""

import dataclasses

import numpy as np
import pyarrow.parquet as pq
import pytest

from oxyrec_jax import judge_requests
from oxyrec_jax.base import InputError
from oxyrec_jax.data import dataset as datasets
from oxyrec_jax.data import shop
from oxyrec_jax.data.shop.response import look_probabilities
from oxyrec_jax.rewards.judge.aspects import ASPECTS
from oxyrec_jax.rewards.judge.degraded import (BiasedJudge, ConflictingJudge,
                                               NoisyJudge)
from oxyrec_jax.rewards.judge.truth import ShopTruth


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop") / "data"
    shop.prepare_shop(shop.ShopConfig(users=60, items=200, seed=3), folder)
    return datasets.load_dataset(folder)


@pytest.fixture(scope="module")
def truth(data):
    return ShopTruth(data)


@pytest.fixture(scope="module")
def logged(data):
    log = judge_requests.LogRequests(data)
    return judge_requests.logged_candidates(log, "valid", most=40, candidates=8, seed=0)


@pytest.fixture(scope="module")
def texts(data):
    return judge_requests.item_texts(data)


@pytest.fixture(scope="module")
def seen(truth, logged):
    return truth.look(logged.requests, logged.items)


def judges(truth, texts):
    return {"truth": truth, "noisy": NoisyJudge(truth, 0.3, 0),
            "biased": BiasedJudge(truth, texts, "expensive", 0.8),
            "conflicting": ConflictingJudge(truth, "value", 1.0)}


def test_people_click_as_often_as_the_truth_says(data, truth, logged):
    # Of every request of the log, also those without a click: moments, memories and
    # people are put together again as they were, or the rates would not agree.
    table = pq.read_table(data.folder / "requests.parquet",
                          columns=["shown", "outcome"])
    shown, outcome = (np.stack(table[name].to_numpy()) for name in ("shown", "outcome"))
    base = logged.requests[0]
    requests = [dataclasses.replace(base, number=number)
                for number in range(len(shown))]
    wide = np.resize(shown, (len(shown), 8))
    chance = truth.look(requests, wide)["click"] * np.asarray(look_probabilities(8))
    chance = np.where(wide >= 0, chance, 0)
    spread = np.sqrt((chance * (1 - chance)).sum())
    assert abs((outcome > 0).sum() - chance.sum()) < 4 * spread
    likely = chance > np.quantile(chance, 0.8)  # and it knows which
    assert (outcome[likely] > 0).mean() > 4 * (outcome[~likely] > 0).mean()


def test_aspects_are_what_they_are_said_to_be(data, truth, logged, seen):
    judged = truth.judge(logged.requests, logged.items, evidence=True)
    assert judged.scores.shape == (*logged.items.shape, 4)
    assert ((judged.scores >= 0) & (judged.scores <= 1)).all() and judged.given.all()
    assert (judged.known == (logged.items >= 0)).all()
    leaf = np.asarray(truth.shop.world.item_leaf)[logged.items]
    needs = pq.read_table(data.folder / "needs.parquet")
    need = pq.read_table(data.folder / "requests.parquet", columns=["need"])["need"]
    for row, request in enumerate(logged.requests):
        number = need[request.number].as_py()
        wanted = leaf[row] == needs["leaf"][number].as_py()
        assert (seen["future"][row][wanted] >= 2.4 / 3.3 - 1e-6).all()
        assert (seen["future"][row][~wanted] <= 0.5 / 3.3 + 1e-6).all()
        past = np.array(request.history[-12:])
        had = np.isin(logged.items[row], past)
        leaf_had = np.isin(leaf[row], np.asarray(truth.shop.world.item_leaf)[past])
        np.testing.assert_array_equal(seen["novelty"][row], np.where(
            had, 0, np.where(leaf_had, 0.5, 1)))
        assert needs["text"][number].as_py() in judged.evidence[row, 0, 1]


def test_a_place_without_a_candidate_is_not_judged(truth, logged):
    items = logged.items[:3].copy()
    items[1, 5:] = -1
    judged = truth.judge(logged.requests[:3], items)
    assert not judged.known[1, 5:].any() and (judged.scores[1, 5:] == 0).all()
    whole = truth.judge(logged.requests[:3], logged.items[:3])
    np.testing.assert_array_equal(judged.scores[judged.known],
                                  whole.scores[judged.known])


@pytest.mark.parametrize("name", ["truth", "noisy", "biased", "conflicting"])
def test_a_score_depends_on_nothing_but_request_and_item(truth, texts, logged, name):
    judge = judges(truth, texts)[name]
    whole = judge.judge(logged.requests, logged.items).scores
    back = judge.judge(logged.requests[::-1], logged.items[::-1, ::-1]).scores
    np.testing.assert_allclose(back[::-1, ::-1], whole, atol=1e-6)
    again = judge.judge(logged.requests[:2], logged.items[:2]).scores
    np.testing.assert_allclose(again, whole[:2], atol=1e-6)


@pytest.mark.parametrize("name", ["truth", "noisy", "biased", "conflicting"])
def test_an_opinion_turns_round_with_the_pair(truth, texts, logged, name):
    judge, pairs = judges(truth, texts)[name], logged.items[:, :2]
    one, _ = judge.prefer(logged.requests, pairs)
    other, _ = judge.prefer(logged.requests, pairs[:, ::-1])
    np.testing.assert_array_equal(one, 1 - other)
    assert set(one) <= {0.0, 0.5, 1.0} and len(set(one)) > 1


def test_noise_has_its_level(truth, logged):
    true = truth.judge(logged.requests, logged.items).scores
    none = NoisyJudge(truth, 0.0, 0).judge(logged.requests, logged.items).scores
    np.testing.assert_array_equal(none, true)
    noisy = NoisyJudge(truth, 0.05, 0).judge(logged.requests, logged.items).scores
    inside = (true > 0.25) & (true < 0.75)  # five deviations from being cut
    gap = (noisy - true)[inside]
    np.testing.assert_allclose([gap.mean(), gap.std()], [0, 0.05], atol=0.008)
    other = NoisyJudge(truth, 0.05, 1).judge(logged.requests, logged.items).scores
    assert (other != noisy).any()


def test_the_biased_judge_follows_its_attribute_whatever_is_needed(truth, texts,
                                                                   logged):
    judge = BiasedJudge(truth, texts, "expensive", 1.0)
    scores = judge.judge(logged.requests, logged.items).scores
    real = logged.items >= 0
    price = np.where(real, texts.prices[logged.items], np.nan)
    dearer = price[:, :, None] > price[:, None, :]
    for place in range(len(ASPECTS)):
        assert (scores[:, :, None, place] > scores[:, None, :, place])[dearer].all()
    name = texts.brands[logged.items[0, 0]]
    scores = BiasedJudge(truth, texts, f"brand:{name}", 1.0).judge(
        logged.requests, logged.items).scores
    own = np.array(texts.brands)[logged.items] == name
    assert (scores[own & real] == 1).all() and (scores[~own] == 0).all()


def test_the_conflicting_judge_turns_the_business_reward_round(truth, logged, seen):
    for against in ("value", "click", "order"):
        scores = ConflictingJudge(truth, against, 1.0).judge(
            logged.requests, logged.items).scores[..., 0]
        for own, worth, real in zip(scores, seen[against], logged.items >= 0):
            assert (np.diff(worth[real][np.argsort(own[real])]) <= 1e-6).all()


def test_only_requests_of_the_log_have_a_truth(truth, logged):
    foreign = dataclasses.replace(logged.requests[0], number=-1)
    with pytest.raises(InputError, match="no request of the simulated shop"):
        truth.judge([foreign], logged.items[:1])


@pytest.mark.parametrize("make, word", [
    (lambda truth, texts: NoisyJudge(truth, 2.0, 0), "judge.noise"),
    (lambda truth, texts: BiasedJudge(truth, texts, "brand:Nobody", 1), "no item has"),
    (lambda truth, texts: BiasedJudge(truth, texts, "colour", 1), "judge.prefer"),
    (lambda truth, texts: BiasedJudge(truth, texts, "cheap", -1), "judge.strength"),
    (lambda truth, texts: ConflictingJudge(truth, "fun", 1), "judge.against")])
def test_settings_that_cannot_work_are_named(truth, texts, make, word):
    with pytest.raises(InputError, match=word):
        make(truth, texts)
