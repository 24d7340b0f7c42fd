"""The gradient weight of each surrogate over the ratio, and the KL estimators."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxyrec_jax import losses

QUICK = settings(deadline=None, max_examples=100)
RATIOS = st.floats(1 / 128, 20, width=32)
ONE = np.ones((1, 1, 1), bool)


def weight(loss, advantage):
    """The gradient of one code's cost over -A, as a compiled function of its ratio."""
    def cost(log_probs, old):
        return loss(log_probs, old, jnp.full((1, 1), advantage), ONE).mean()

    def of(ratio):
        old = jnp.full((1, 1, 1), -25.0)
        return jax.grad(cost)(old + jnp.log(ratio), old)[0, 0, 0] / -advantage

    return jax.jit(of)


def options(loss, **given_options):
    return lambda *x: loss(*x, **given_options)


SAPO = {sign: weight(options(losses.sapo_loss, tau_pos=1.0, tau_neg=3.0), sign)
        for sign in (1.0, -1.0)}
GRPO = {sign: weight(losses.grpo_loss, sign) for sign in (1.0, -1.0)}
DUAL = weight(options(losses.grpo_loss, dual_clip=3.0), -1.0)
CISPO = weight(options(losses.cispo_loss, cap=2.0), 1.0)
ECPO = weight(options(losses.ecpo_loss, clip=0.2), -1.0)


@QUICK
@given(RATIOS, st.sampled_from([1.0, -1.0]))
def test_soft_gate_weight_is_r_sech_squared(ratio, sign):
    tau = 1.0 if sign > 0 else 3.0
    expected = ratio / np.cosh(np.float64(tau) * (ratio - 1) / 2) ** 2
    found = float(SAPO[sign](np.float32(ratio)))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


@QUICK
@given(RATIOS)
def test_clip_weight_is_the_ratio_or_nothing(ratio):
    if min(abs(ratio - 1.2), abs(ratio - 0.8), abs(ratio - 3)) < 1e-3:
        return  # at the very corner either is right
    number = np.float32(ratio)
    for found, expected in (
            (GRPO[1.0](number), ratio if ratio < 1.2 else 0),
            (GRPO[-1.0](number), ratio if ratio > 0.8 else 0),
            (DUAL(number), ratio if 0.8 < ratio < 3 else 0),
            (CISPO(number), min(ratio, 2)),
            (ECPO(number), min(ratio, 1.3) if ratio > 0.8 else 0)):
        np.testing.assert_allclose(float(found), expected, rtol=1e-4)


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0, 8.0])
def test_soft_gate_is_steepest_on_policy_and_symmetric_in_its_gate(tau):
    gate = weight(options(losses.sapo_loss, tau_pos=tau, tau_neg=tau), 1.0)
    np.testing.assert_allclose(gate(1.0), 1, rtol=1e-5)
    for step in (0.1, 0.5):
        np.testing.assert_allclose(gate(1 + step) / (1 + step),
                                   gate(1 - step) / (1 - step), rtol=1e-4)


@QUICK
@given(st.floats(-6, -1 / 128, width=32), st.floats(-6, -1 / 128, width=32))
def test_gbpo_push_is_bounded(now, old):
    """A good code is pushed by at most A; a bad one by at most A π / (1 - π)."""
    good, bad = (float(BOUNDED[sign](np.float32(now), np.float32(old)))
                 for sign in (1.0, -1.0))
    odds = np.exp(now) / -np.expm1(now)
    assert 0 < good <= 1 + 1e-5
    assert 0 < bad <= odds * (1 + 1e-4)
    np.testing.assert_allclose(good, min(1, np.exp(now - old)), rtol=1e-4)


def bounded(sign):
    def cost(now, old):
        return losses.gbpo_loss(jnp.full((1, 1, 1), now), jnp.full((1, 1, 1), old),
                                jnp.full((1, 1), sign), ONE).mean()
    gradient = jax.jit(jax.grad(cost))
    return lambda now, old: gradient(now, old) / -sign


BOUNDED = {sign: bounded(sign) for sign in (1.0, -1.0)}
KL = {kind: jax.jit(lambda lp, ref, kind=kind: losses.kl_penalty(
    jnp.full((1, 1, 1), lp), jnp.full((1, 1, 1), ref), ONE, kind=kind).mean())
    for kind in ("k1", "k2", "k3")}


@QUICK
@given(st.floats(-15, 0, width=32), st.floats(-15, 0, width=32))
def test_k2_and_k3_are_never_negative(log_prob, ref):
    distance = np.float64(log_prob) - ref
    k1, k2, k3 = (float(KL[kind](np.float32(log_prob), np.float32(ref)))
                  for kind in ("k1", "k2", "k3"))
    assert k2 >= 0 and k3 >= -1e-6
    np.testing.assert_allclose(k1, distance, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(k2, distance**2 / 2, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(k3, np.expm1(-distance) + distance, rtol=1e-4, atol=2e-6)


def test_expected_estimators_over_a_whole_vocabulary():
    """k1 and k3 are the divergence in expectation; k1's gradient vanishes, k2's not."""
    rng = np.random.default_rng(0)
    logits, ref = rng.normal(size=(2, 6)).astype(np.float32)
    policy = jax.nn.softmax(logits)
    ref = jax.nn.log_softmax(ref)
    exact = float(jnp.sum(policy * (jax.nn.log_softmax(logits) - ref)))

    def weighted(logits, kind):
        # The mean over samples of the policy; the draw itself is not differentiated.
        lp = jax.nn.log_softmax(logits)
        return sum(policy[i] * losses.kl_penalty(
            lp[i].reshape(1, 1, 1), ref[i].reshape(1, 1, 1), ONE, kind=kind).mean()
            for i in range(6))

    divergence = lambda x: jnp.sum(jax.nn.softmax(x) * (jax.nn.log_softmax(x) - ref))
    for kind in ("k1", "k3"):
        np.testing.assert_allclose(weighted(logits, kind), exact, rtol=1e-5)
    slope = jax.grad(weighted)
    np.testing.assert_allclose(slope(logits, "k1"), np.zeros(6), atol=1e-6)
    np.testing.assert_allclose(slope(logits, "k2"), jax.grad(divergence)(logits),
                               rtol=1e-4, atol=1e-6)


def test_without_any_room_the_first_step_is_the_policy_gradient():
    """At ratio 1 nothing is outside of [1, 1], so nothing is cut."""
    log_probs = jnp.full((1, 2, 1), -1.0)
    rest = log_probs, jnp.array([[1.0, -2.0]]), jnp.ones((1, 2, 1), bool)
    slope = jax.grad(lambda now: losses.grpo_loss(
        now, *rest, clip_low=0.0, clip_high=0.0).mean())(log_probs)
    np.testing.assert_allclose(slope[0, :, 0], [-0.5, 1], rtol=1e-6)


def test_what_was_never_sampled_has_a_large_ratio_and_no_nan():
    old = jnp.array([[[-jnp.inf, -1.0], [-1.0, -1.0]]])
    now = jnp.full((1, 2, 2), -1.0)
    for loss in (losses.grpo_loss, losses.gspo_loss, losses.rloo_loss,
                 losses.sapo_loss, losses.dapo_loss, losses.gbpo_loss):
        for good in (1.0, -1.0):
            cost, slope = jax.value_and_grad(lambda now: loss(
                now, old, jnp.array([[good, -good]]), jnp.ones((1, 2, 2), bool)
                ).mean())(now)
            assert np.isfinite(cost) and np.isfinite(slope).all(), loss
