"""Estimators from logs: by hand, against exact values, and what they refuse."""

import dataclasses
import itertools

import numpy as np
import pytest

from oxyrec_jax.base import InputError
from oxyrec_jax.evaluate import off_policy
from oxyrec_jax.evaluate.off_policy import Logged, estimate

# Two rows of two places.
HAND = Logged(rewards=np.array([[1.0, 0.0], [0.0, 2.0]]),
              propensities=np.array([[0.5, 0.25], [0.2, 0.5]]),
              target=np.array([[0.25, 0.5], [0.4, 0.25]]))


@pytest.mark.parametrize("method, assumption, expected", [
    # Weights 0.5, 2 and 2, 0.5: (0.5 * 1 + 0.5 * 2) / 2
    ("ips", "position", 0.75),
    # Products so far 0.5, 1 and 2, 1: (0.5 + 2) / 2
    ("ips", "cascade", 1.25),
    # Products of all 1 and 1: (1 + 2) / 2
    ("ips", "slate", 1.5),
    # 0.5 / 2.5 + 1 / 2.5
    ("snips", "position", 0.6),
    # 0.5 / 2.5 + 2 / 2
    ("snips", "cascade", 1.2)])
def test_two_rows_by_hand(method, assumption, expected):
    found = estimate(HAND, method, assumption=assumption, samples=10)
    assert found.value == pytest.approx(expected)


def test_clipping_and_doubly_robust_by_hand():
    # Weights 0.5, 1 and 1, 0.5 once they are cut at 1: (0.5 + 0.5 * 2) / 2
    assert estimate(HAND, "clipped", clip=1.0, samples=10).value == pytest.approx(0.75)
    model = off_policy.RewardModel(logged=np.array([[1.0, 0.5], [0.5, 1.0]]),
                                   target=np.array([[0.6, 0.1], [0.2, 0.4]]))
    # Row 0: 0.6 + 0.5 * 0 + 0.1 + 2 * -0.5 = -0.3
    # Row 1: 0.2 + 2 * -0.5 + 0.4 + 0.5 * 1 = 0.1
    assert estimate(HAND, "dr", model=model, samples=10).value == pytest.approx(-0.1)


def test_effective_size_and_mean_weight_by_hand():
    found = estimate(HAND, "ips", samples=10)
    assert found.ess == pytest.approx(2.5 ** 2 / 4.25)
    assert found.weight == pytest.approx(1.25)
    np.testing.assert_allclose(off_policy.effective_size(np.array([[1, 0], [1, 0.0]])),
                               [2, 0])


ACTIONS, PLACES = 4, 2
SLATES = list(itertools.permutations(range(ACTIONS), PLACES))
WORTH = np.array([[0.1, 0.5, 0.3, 0.7], [0.6, 0.2, 0.4, 0.1]])  # place and action


def plackett_luce(scores):
    """Exact probability of each slate, and of each place given those before."""
    whole, steps = [], []
    for slate in SLATES:
        left, parts = np.exp(scores).copy(), []
        for action in slate:
            parts.append(left[action] / left.sum())
            left[action] = 0
        whole.append(np.prod(parts))
        steps.append(parts)
    return np.array(whole), np.array(steps)


def marginals(whole):
    """`[K, A]`: probability of each action at each place."""
    found = np.zeros((PLACES, ACTIONS))
    for slate, chance in zip(SLATES, whole):
        for place, action in enumerate(slate):
            found[place, action] += chance
    return found


LOGGING, TARGET = (np.array(scores) for scores in ([0.5, 0.0, 0.3, -0.5],
                                                   [-0.5, 0.8, 0.0, 1.0]))


def draw_log(rows, seed, assumption):
    """A log of a bandit whose place earns by its own action, and the actions."""
    rng = np.random.default_rng(seed)
    (whole, steps), (other, asked) = plackett_luce(LOGGING), plackett_luce(TARGET)
    chosen = rng.choice(len(SLATES), rows, p=whole)
    actions = np.array(SLATES)[chosen]
    rewards = rng.binomial(1, WORTH[np.arange(PLACES), actions]).astype(float)
    if assumption == "position":
        place = np.arange(PLACES)
        return Logged(rewards, marginals(whole)[place, actions],
                      marginals(other)[place, actions]), actions
    return Logged(rewards, steps[chosen], asked[chosen]), actions


TRUTH = float((marginals(plackett_luce(TARGET)[0]) * WORTH).sum())


@pytest.mark.parametrize("method, assumption", [
    *itertools.product(["ips", "snips"], ["position", "cascade", "slate"]),
    ("dr", "position")])
def test_estimates_are_unbiased_and_intervals_hold_the_exact_value(method, assumption):
    values, held = [], []
    for seed in range(120):
        log, actions = draw_log(400, seed, assumption)
        model = off_policy.tabular_model(
            actions, log.rewards, marginals(plackett_luce(TARGET)[0])
        ) if method == "dr" else None
        found = estimate(log, method, assumption=assumption, model=model, samples=200,
                         seed=seed)
        values.append(found.value)
        held.append(found.low <= TRUTH <= found.high)
    error = np.std(values) / np.sqrt(len(values))
    assert np.mean(values) == pytest.approx(TRUTH, abs=3.3 * error)
    assert 0.88 <= np.mean(held) <= 1.0


def test_what_knows_more_is_surer():
    spread = {}
    for assumption, method in (("position", "ips"), ("slate", "ips"),
                               ("position", "snips"), ("position", "dr")):
        values = []
        for seed in range(120):
            log, actions = draw_log(400, seed, assumption)
            model = off_policy.tabular_model(
                actions, log.rewards, marginals(plackett_luce(TARGET)[0])
            ) if method == "dr" else None
            values.append(estimate(log, method, assumption=assumption, model=model,
                                   samples=1).value)
        spread[assumption, method] = np.std(values)
    assert spread["position", "ips"] < 0.8 * spread["slate", "ips"]
    assert spread["position", "snips"] < spread["position", "ips"]
    assert spread["position", "dr"] < spread["position", "ips"]


def test_the_position_model_is_wrong_where_places_depend_on_each_other():
    """A place that earns only after action 3 before it: the cascade sees it."""
    rng = np.random.default_rng(0)
    (whole, steps), (other, asked) = plackett_luce(LOGGING), plackett_luce(TARGET)
    chosen = rng.choice(len(SLATES), 40_000, p=whole)
    actions = np.array(SLATES)[chosen]
    earned = ((actions[:, 0] == 3) & (actions[:, 1] == 1)).astype(float)
    rewards = np.stack([np.zeros(len(earned)), earned], axis=1)
    truth = sum(chance for slate, chance in zip(SLATES, other) if slate == (3, 1))
    place = np.arange(PLACES)
    wrong = estimate(Logged(rewards, marginals(whole)[place, actions],
                            marginals(other)[place, actions]), "ips", samples=200)
    right = estimate(Logged(rewards, steps[chosen], asked[chosen]), "ips",
                     assumption="cascade", samples=200)
    assert right.low <= truth <= right.high
    assert not wrong.low <= truth <= wrong.high


def test_the_same_policy_gets_the_logged_mean_and_all_rows_count():
    log, _ = draw_log(300, 0, "position")
    same = dataclasses.replace(log, target=log.propensities)
    for method in ("ips", "snips"):
        found = estimate(same, method, samples=50)
        assert found.value == pytest.approx(log.rewards.sum(axis=1).mean())
        assert found.ess == pytest.approx(300) and found.weight == 1


def test_rows_of_one_user_are_drawn_together():
    log, _ = draw_log(200, 1, "position")
    many = Logged(*(np.repeat(part, 9, axis=0) for part in
                    (log.rewards, log.propensities, log.target)),
                  users=np.repeat(np.arange(200), 9))
    one, other = (estimate(part, "ips") for part in (log, many))
    assert other.high - other.low == pytest.approx(one.high - one.low, rel=0.1)


def test_a_model_is_made_of_other_users_rows():
    actions = np.array([[0], [0], [1], [1]])
    rewards = np.array([[1.0], [0.0], [1.0], [1.0]])
    model = off_policy.tabular_model(actions, rewards, np.array([[0.5, 0.5]]),
                                     prior=1e-9)
    # Rows 0 and 2 are told by 1 and 3, where action 0 earned 0 and action 1 earned 1.
    np.testing.assert_allclose(model.logged[:, 0], [0, 1, 1, 1], atol=1e-6)
    np.testing.assert_allclose(model.target[:, 0], [0.5, 1, 0.5, 1], atol=1e-6)


@pytest.mark.parametrize("field, value, said", [
    ("propensities", 0.0, "row 1 of the log has the propensity 0.0 at place 0"),
    ("propensities", np.nan, "row 1 of the log has the propensity nan at place 0"),
    ("propensities", 1.5, "at most 1"),
    ("target", -0.1, "the target's probability -0.1"),
    ("rewards", np.inf, "the reward inf")])
def test_a_row_that_cannot_be_weighed_is_named(field, value, said):
    values = getattr(HAND, field).copy()
    values[1, 0] = value
    with pytest.raises(InputError, match=said):
        dataclasses.replace(HAND, **{field: values})


def test_a_target_that_does_nothing_of_the_log_is_refused():
    with pytest.raises(InputError, match="tells nothing"):
        estimate(dataclasses.replace(HAND, target=np.zeros((2, 2))), "ips")
    with pytest.raises(InputError, match="no rows"):
        Logged(*[np.zeros((0, 2))] * 3)


@pytest.mark.parametrize("options", [
    {"method": "best"}, {"assumption": "none"}, {"method": "clipped"},
    {"method": "ips", "clip": 2.0}, {"method": "dr"},
    {"method": "dr", "assumption": "slate",
     "model": off_policy.RewardModel(HAND.rewards, HAND.rewards)}])
def test_options_that_do_not_go_together_are_programming_errors(options):
    with pytest.raises(ValueError):
        estimate(HAND, **options)


@pytest.mark.parametrize("wrong", [-1, 2])
def test_an_action_that_the_policy_does_not_know_is_refused(wrong):
    with pytest.raises(ValueError, match="expected 0 to 1, the policy's"):
        off_policy.tabular_model(np.array([[0, wrong]]), np.zeros((1, 2)),
                                 np.full((2, 2), 0.5))


@pytest.mark.parametrize("clip", [-1.0, 0.0, np.nan])
def test_a_clip_is_above_nothing(clip):
    with pytest.raises(ValueError, match="clip=.*expected a number above 0"):
        estimate(draw_log(5, 0, "position")[0], "clipped", clip=clip)
