"""Every policy objective against the loops: value, gradient, and REINFORCE."""

import jax
import numpy as np
import pytest

import losses_oracle as oracle
from losses_table import ALL, POLICIES, evaluate, rollouts

EVERY = pytest.mark.parametrize("name", ALL)


@EVERY
@pytest.mark.parametrize("shape", [(3, 4, 3), (1, 2, 1), (2, 5, 4)], ids=str)
def test_value_and_gradient_equal_the_loops(name, shape):
    for seed in range(2):
        data = rollouts(seed, shape, np.float64)
        total, weight = ALL[name].oracle(data, data["log_probs"])
        expected = oracle.gradient(ALL[name].oracle, data)
        loss, gradient = evaluate(name, rollouts(seed, shape))
        np.testing.assert_allclose(loss.total, total, rtol=2e-5, atol=1e-5)
        assert loss.weight == weight
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)


@EVERY
def test_in_float64_the_loops_agree_to_the_step_of_the_differences(name):
    data = rollouts(7, dtype=np.float64)
    with jax.enable_x64(True):
        loss, gradient = evaluate(name, data)
        assert loss.total.dtype == gradient.dtype == np.float64
        found, count = float(loss.total), float(loss.weight)
    total, weight = ALL[name].oracle(data, data["log_probs"])
    np.testing.assert_allclose(found, total, rtol=1e-12, atol=1e-12)
    assert count == weight
    np.testing.assert_allclose(gradient, oracle.gradient(ALL[name].oracle, data),
                               rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", POLICIES)
def test_on_policy_gradient_is_reinforce(name):
    """At lp = old every gradient is -A, shared out as the aggregation says."""
    data = rollouts(6)
    # GBPO weighs a bad code by π / max(π, 1 - π), which is 1 from π = 1/2 on.
    data["old"] = np.maximum(data["old"], np.float32(np.log(0.5)))
    data["log_probs"] = data["old"]
    _, gradient = evaluate(name, data)
    row = POLICIES[name]
    advantages = np.asarray(row.advantages(data))
    advantages = np.broadcast_to(advantages.reshape(*advantages.shape[:2], -1),
                                 data["mask"].shape)
    length = np.maximum(data["mask"].sum(axis=-1, keepdims=True), 1)
    share = {"code": 1, "whole": 1, "sequence": 1 / length, "7": 1 / 7}[row.weigh]
    np.testing.assert_allclose(gradient, np.where(data["mask"], -advantages * share, 0),
                               rtol=1e-5, atol=1e-6)
