"""The figures to watch, each against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import losses_oracle as oracle
from losses_table import rollouts
from oxyrec_jax import losses

BASE = {"ratio_q01", "ratio_q10", "ratio_q50", "ratio_q90", "ratio_q99", "clip_share",
        "gate_share", "kl_old", "entropy", "effective_group_size",
        "zero_variance_share"}


def run(data, **options):
    return jax.jit(lambda d: losses.policy_diagnostics(
        d["log_probs"], d["old"], d["advantages"], d["mask"], **options))(data)


def test_codes_equal_numpy():
    data = rollouts(1, (3, 4, 5), spread=0.8)
    found = run(data, ref_log_probs=data["ref"], tau_pos=2.0, tau_neg=3.0)
    assert set(found) == BASE | {"kl_ref"}
    mask = data["mask"]
    wide = {k: v.astype(np.float64) for k, v in data.items()}
    log_ratio = (wide["log_probs"] - wide["old"])[mask]
    ratio = np.exp(log_ratio)
    advantages = np.broadcast_to(wide["advantages"][..., None], mask.shape)[mask]
    for name, share in (("q01", .01), ("q10", .1), ("q50", .5), ("q90", .9),
                        ("q99", .99)):
        np.testing.assert_allclose(found[f"ratio_{name}"], np.quantile(ratio, share),
                                   rtol=1e-5)
    cut = ((advantages > 0) & (ratio > 1.2)) | ((advantages < 0) & (ratio < 0.8))
    np.testing.assert_allclose(found["clip_share"], cut.mean(), rtol=1e-6)
    tau = np.where(advantages > 0, 2.0, 3.0)
    faded = np.cosh(tau * (ratio - 1) / 2) ** -2 < 0.5
    assert 0 < faded.mean() < 1
    np.testing.assert_allclose(found["gate_share"], faded.mean(), rtol=1e-6)
    np.testing.assert_allclose(found["kl_old"], np.mean(ratio - 1 - log_ratio),
                               rtol=1e-4)
    np.testing.assert_allclose(found["entropy"], -wide["log_probs"][mask].mean(),
                               rtol=1e-5)
    d = (wide["log_probs"] - wide["ref"])[mask]
    np.testing.assert_allclose(found["kl_ref"], np.mean(np.exp(-d) - 1 + d), rtol=1e-4)


def test_clip_share_counts_the_codes_without_gradient():
    data = rollouts(2, (3, 4, 5), spread=0.8)
    gradient = jax.grad(lambda x: losses.grpo_loss(
        x, data["old"], data["advantages"], data["mask"]).total)(data["log_probs"])
    without = np.mean(np.asarray(gradient)[data["mask"]] == 0)
    np.testing.assert_allclose(run(data)["clip_share"], without, rtol=1e-6)


def test_groups_by_hand():
    data = rollouts(3, (3, 4, 2))
    data["mask"] = np.ones((3, 4, 2), bool)
    data["mask"][1, 3] = False  # its advantage of 9 does not count
    data["advantages"] = np.array([[1, -1, 0, 0], [2, -1, -1, 9], [0, 0, 0, 0]],
                                  np.float32)
    # (1 + 1)² / 2 = 2, (2 + 1 + 1)² / 6 = 8/3, none: mean 14/9; one of three is flat.
    found = run(data)
    np.testing.assert_allclose(found["effective_group_size"], 14 / 9, rtol=1e-6)
    np.testing.assert_allclose(found["zero_variance_share"], 1 / 3, rtol=1e-6)
    rewards = np.array([[1, 1, 1, 1], [2, 2, 2, 5], [0, 1, 0, 0]], np.float32)
    # By rewards the first two are flat: the 5 of row 1 belongs to no rollout.
    np.testing.assert_allclose(run(data, rewards=rewards)["zero_variance_share"], 2 / 3,
                               rtol=1e-6)


def test_threshold_and_gate_by_hand():
    data = rollouts(4, (1, 4, 2))
    data["mask"] = np.array([[[1, 1], [1, 0], [1, 1], [0, 0]]], bool)
    data["advantages"] = np.array([[1, 1, -1, 1]], np.float32)
    rewards = np.array([[1, 3, 0, 0]], np.float32)
    business = np.array([[1, -1, 0, 1]], np.float32)
    semantic = np.array([[.5, 1, 0, 1]], np.float32)
    found = run(data, rewards=rewards, target_rewards=np.array([2.0], np.float32),
                business=business, semantic=semantic)
    assert set(found) == BASE | {"threshold_share", "gate_agreement", "gate_mean"}
    # Of three rollouts one is praised below 2; one agrees, with λ = 1/2.
    np.testing.assert_allclose(found["threshold_share"], 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(found["gate_agreement"], 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(found["gate_mean"], 0.5 / 3, rtol=1e-5)


def test_gate_figures_equal_the_loops():
    data = rollouts(5)
    data["mask"] = np.ones_like(data["mask"])
    found = run(data, business=data["rewards"], semantic=data["semantic"])
    joint = oracle.a2po(data["rewards"].astype(float), data["semantic"].astype(float))
    gates = (joint - data["rewards"]) / data["semantic"]
    np.testing.assert_allclose(found["gate_mean"], gates.mean(), rtol=1e-4)
    np.testing.assert_allclose(found["gate_agreement"], np.mean(gates > 0), rtol=1e-6)


def test_padding_is_not_read_and_nothing_has_no_figures():
    data = rollouts(6)
    padded = dict(data)
    for key in ("log_probs", "old", "ref"):
        padded[key] = np.where(data["mask"], data[key], np.nan)
    live = data["mask"].any(axis=-1)
    padded["advantages"] = np.where(live, data["advantages"], np.nan)
    clean, dirty = (run(d, ref_log_probs=d["ref"]) for d in (data, padded))
    for name in clean:
        np.testing.assert_array_equal(clean[name], dirty[name], err_msg=name)
    empty = run(dict(padded, mask=np.zeros_like(data["mask"])))
    for name in BASE:
        assert empty[name] == (1 if name.startswith("ratio") else 0), name


def test_far_ratios_stay_finite_and_nothing_receives_a_gradient():
    data = rollouts(7)
    data["log_probs"] = data["old"] + 500
    assert all(np.isfinite(v) for v in run(data).values())
    gradient = jax.grad(lambda x: sum(losses.policy_diagnostics(
        x, data["old"], data["advantages"], data["mask"]).values()))(data["log_probs"])
    assert not np.any(gradient)


def test_half_of_a_pair_raises():
    data = {k: jnp.asarray(v) for k, v in rollouts(8).items()}
    with pytest.raises(ValueError, match="target_rewards without rewards"):
        run(data, target_rewards=data["target_rewards"])
    with pytest.raises(ValueError, match="business or semantic without the other"):
        run(data, business=data["rewards"])
