"""Advantages: by hand, against float64 loops, and their bounds for any numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import losses_oracle as oracle
from oxyrec_jax import losses

FIGURES = st.floats(-100, 100, width=32, allow_subnormal=False)
GROUPS = arrays(np.float32, (2, 5), elements=FIGURES)
QUICK = settings(deadline=None, max_examples=60)
GROUP = jax.jit(losses.group_advantages)
ALONE = jax.jit(losses.leave_one_out_advantages)
ASYMMETRIC = jax.jit(losses.asymmetric_advantages)
THRESHOLD = jax.jit(losses.real_feedback_threshold)
BOTH = pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])


def random_rewards(seed=0, shape=(3, 4)):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@BOTH
def test_group_advantages_by_hand(wrap):
    rewards = np.array([[1, 0, 0, 0], [2, 4, 6, 8]], np.float32)
    # Means 1/4 and 5, deviations 1/2 and sqrt(20/3); all eight: squares sum to 121,
    # rewards to 21, so the deviation is sqrt((121 - 21² / 8) / 7) = sqrt(65.875 / 7).
    std = wrap(losses.group_advantages)(rewards)
    np.testing.assert_allclose(std, [
        [0.75 / 0.5001, -0.25 / 0.5001, -0.25 / 0.5001, -0.25 / 0.5001],
        np.array([-3, -1, 1, 3]) / (np.sqrt(20 / 3) + 1e-4)], rtol=1e-5)
    none = wrap(lambda x: losses.group_advantages(x, scale="none"))(rewards)
    np.testing.assert_allclose(none, [[.75, -.25, -.25, -.25], [-3, -1, 1, 3]])
    batch = wrap(lambda x: losses.group_advantages(x, scale="batch"))(rewards)
    spread = np.sqrt(65.875 / 7) + 1e-4
    np.testing.assert_allclose(batch, none / spread, rtol=1e-5)
    population = wrap(lambda x: losses.group_advantages(x, ddof=0, eps=0.0))(rewards)
    np.testing.assert_allclose(population[1], np.array([-3, -1, 1, 3]) / np.sqrt(5),
                               rtol=1e-6)


def test_group_advantages_equal_the_loops():
    rewards = random_rewards(1)
    np.testing.assert_allclose(losses.group_advantages(rewards),
                               oracle.z_scores(rewards.astype(np.float64)), rtol=1e-5)


@pytest.mark.parametrize("eps", [1e-4, 0.0])
@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e6 + 0.1])
def test_equal_rewards_have_no_advantage_at_all(value, eps):
    """The rounded mean of equal numbers must not be blown up by 1 / eps."""
    rewards = np.full((2, 7), value, np.float32)
    for scale in ("std", "none", "batch"):
        found = losses.group_advantages(rewards, scale=scale, eps=eps or 1e-30)
        assert not np.any(found)
    assert not np.any(losses.group_advantages(rewards, eps=eps))
    assert not np.any(losses.leave_one_out_advantages(rewards))


def test_leave_one_out_equals_the_loops():
    rewards = random_rewards(2)
    expected = [[row[i] - np.delete(row, i).mean() for i in range(4)]
                for row in rewards.astype(np.float64)]
    np.testing.assert_allclose(losses.leave_one_out_advantages(rewards), expected,
                               rtol=1e-5, atol=1e-6)


@BOTH
def test_reinforce_pp_equals_the_loops(wrap):
    rng = np.random.default_rng(3)
    rewards, mask = random_rewards(3), rng.random((3, 4, 5)) < 0.7
    lp, ref = -rng.random((2, 3, 4, 5))
    expected = oracle.reinforce_pp(rewards, lp, ref, mask, 0.3)
    lp, ref = np.where(mask, [lp, ref], np.nan).astype(np.float32)
    found = wrap(lambda *x: losses.reinforce_pp_advantages(*x, kl_coef=0.3))(
        rewards, lp, ref, mask)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert not np.any(found[~mask])


def test_reinforce_pp_by_hand():
    # Returns to go with KL 1 nat a code at 0.5: 3-1, 3-.5 and 1-1, 1-.5; mean 1.25,
    # deviations .75, 1.25, -1.25, -.75, variance (2 * .5625 + 2 * 1.5625) / 4 = 1.0625.
    rewards = np.array([[3, 1]], np.float32)
    lp, ref = np.full((1, 2, 2), -1.0), np.full((1, 2, 2), -2.0)
    found = losses.reinforce_pp_advantages(rewards, lp, ref, np.ones((1, 2, 2), bool),
                                           kl_coef=0.5)
    expected = np.array([[[.75, 1.25], [-1.25, -.75]]]) / np.sqrt(1.0625)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_gdpo_keeps_apart_what_a_sum_of_rewards_merges():
    # The rewards of the first two rollouts sum to 2: a z-score of sums sees no odds.
    rewards = np.array([[[0, 2], [2, 0], [0, 0]], [[1, 1], [0, 2], [3, 0]]], np.float32)
    weights = np.array([1.0, 0.5], np.float32)
    each = [oracle.z_scores(rewards[..., r].astype(np.float64)) for r in range(2)]
    joint = each[0] + 0.5 * each[1]
    expected = (joint - joint.mean()) / np.sqrt(joint.var() + 1e-8)
    found = losses.gdpo_advantages(rewards, weights)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert found[0, 0] != found[0, 1]


def test_threshold_takes_praise_below_real_feedback_and_nothing_else():
    advantages = np.array([[2.0, 1, -1, 0], [2, 1, -1, 0]], np.float32)
    rewards = np.array([[3.0, 1, 0, 0], [3, 1, 0, 0]], np.float32)
    found = losses.real_feedback_threshold(advantages, rewards, np.array([2.0, 3.0]))
    # R* = 2: 1 < 2 loses its praise; R* = 3: 3 is not below 3 and keeps it.
    np.testing.assert_array_equal(found, [[2, 0, -1, 0], [2, 0, -1, 0]])


@QUICK
@given(GROUPS, GROUPS, arrays(np.float32, 2, elements=FIGURES))
def test_threshold_equals_the_loops(advantages, rewards, target_rewards):
    found = THRESHOLD(advantages, rewards, target_rewards)
    expected = oracle.threshold(advantages, rewards, target_rewards)
    np.testing.assert_array_equal(found, expected)
    negative = advantages <= 0
    np.testing.assert_array_equal(found[negative], advantages[negative])


@QUICK
@given(GROUPS, GROUPS)
def test_a2po_keeps_within_its_bounds(business, semantic):
    found = np.asarray(ASYMMETRIC(business, semantic))
    np.testing.assert_allclose(
        found, oracle.a2po(business.astype(np.float64), semantic.astype(np.float64)),
        rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(np.sign(found), np.sign(business))
    assert np.all(np.abs(found) <= 2 * np.abs(business) * (1 + 1e-6))
    assert np.all(np.abs(found) >= np.abs(business))
    against = np.sign(business) != np.sign(semantic)
    np.testing.assert_array_equal(found[against], business[against])


def test_a2po_contribution_saturates_at_the_business_advantage():
    business = np.array([[0.5, 0.5, 0.5, 0.0]], np.float32)
    semantic = np.array([[0.1, 0.5, 1e6, 1.0]], np.float32)
    # min/max · A_sem: 0.2 · 0.1, 1 · 0.5, (0.5 / 1e6) · 1e6 = 0.5, none.
    found = losses.asymmetric_advantages(business, semantic)
    np.testing.assert_allclose(found, [[0.52, 1.0, 1.0, 0.0]], rtol=1e-6)


@QUICK
@given(GROUPS, st.permutations(range(5)))
def test_group_order_does_not_matter(rewards, order):
    order = np.array(order)
    for advantage in (GROUP, ALONE):
        np.testing.assert_allclose(advantage(rewards)[:, order],
                                   advantage(rewards[:, order]), rtol=1e-3, atol=1e-3)


def test_nothing_receives_a_gradient():
    rewards = random_rewards(4)

    def total(x):
        several = jnp.stack([x, -x], axis=-1)
        lp = jnp.broadcast_to(x[..., None], (*x.shape, 2))
        return sum(jnp.sum(a) for a in (
            losses.group_advantages(x), losses.group_advantages(x, scale="none"),
            losses.group_advantages(x, scale="batch"),
            losses.leave_one_out_advantages(x), losses.asymmetric_advantages(x, x),
            losses.real_feedback_threshold(x, x, x[:, 0]),
            losses.gdpo_advantages(several, x[0, :2]),
            losses.reinforce_pp_advantages(x, lp, -lp, jnp.ones(lp.shape, bool),
                                           kl_coef=0.1)))

    assert not np.any(jax.jit(jax.grad(total))(rewards))


@pytest.mark.parametrize("call, error, words", [
    (lambda: losses.group_advantages(jnp.ones((2, 1))), ValueError,
     r"rewards.shape=\(2, 1\) with ddof=1, expected more than 1 rollouts"),
    (lambda: losses.group_advantages(jnp.ones(4)), ValueError,
     r"rewards.shape=\(4,\), expected \[B, G\]"),
    (lambda: losses.group_advantages(jnp.ones((2, 3), int)), TypeError,
     "rewards has dtype int32, expected floating point"),
    (lambda: losses.group_advantages(jnp.ones((2, 3)), scale="mean"), ValueError,
     "scale='mean', expected 'std', 'none' or 'batch'"),
    (lambda: losses.group_advantages(jnp.ones((2, 3)), eps=-1.0), ValueError, "eps=-1"),
    (lambda: losses.leave_one_out_advantages(jnp.ones((2, 1))), ValueError, "G >= 2"),
    (lambda: losses.asymmetric_advantages(jnp.ones((2, 3)), jnp.ones((3, 2))),
     ValueError, r"semantic.shape=\(3, 2\), expected \(2, 3\)"),
    (lambda: losses.real_feedback_threshold(jnp.ones((2, 3)), jnp.ones((2, 3)),
                                            jnp.ones((2, 3))), ValueError,
     r"target_rewards.shape=\(2, 3\), expected \(2,\)"),
    (lambda: losses.gdpo_advantages(jnp.ones((2, 3, 2)), jnp.ones(3)), ValueError,
     r"weights.shape=\(3,\), expected \(2,\)"),
    (lambda: losses.gdpo_advantages(jnp.ones((2, 1, 2)), jnp.ones(2)), ValueError,
     "with ddof=1"),
    (lambda: losses.reinforce_pp_advantages(
        jnp.ones((2, 3)), jnp.ones((2, 3, 0)), jnp.ones((2, 3, 0)),
        jnp.ones((2, 3, 0), bool), kl_coef=0.1), ValueError,
     r"log_probs.shape=\(2, 3, 0\), expected \[B, G, T\], none of them 0"),
])
def test_bad_arguments_raise(call, error, words):
    with pytest.raises(error, match=words):
        jax.eval_shape(call)


def test_gdpo_gives_a_flat_group_exactly_nothing():
    rewards = np.random.default_rng(0).random((5, 7, 2)).astype(np.float32)
    rewards[2] = 0.3
    found = np.asarray(losses.gdpo_advantages(jnp.asarray(rewards),
                                              jnp.array([1, 0.5])))
    assert not found[2].any() and found[[0, 1, 3, 4]].all()
    masks = jnp.ones((5, 7, 3), bool)
    log_probs = jnp.full((5, 7, 3), -1.0)
    assert losses.dapo_loss(log_probs, log_probs, jnp.asarray(found), masks).weight == (
        4 * 7 * 3)
