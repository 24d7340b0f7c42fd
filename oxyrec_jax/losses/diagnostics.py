"""The figures to watch while a policy is trained: one call, a dictionary of scalars.

Always in the result (shares are in [0, 1]; a figure of nothing is 0, a ratio's 1):
  ratio_q01, ratio_q10, ratio_q50, ratio_q90, ratio_q99: quantiles of the codes'
    ratios, unit-free.
  clip_share: codes that a clip leaves without gradient.
  gate_share: codes of which a soft gate keeps less than half: sech² < 1/2.
  kl_old: mean over codes of k3 of KL(π_old ‖ π), nats.
  entropy: -mean over codes of lp, nats for each code: estimated from the samples.
  effective_group_size: mean over groups of (Σ|A|)² / ΣA²: rollouts that carry the
    signal; a group without signal counts 0.
  zero_variance_share: groups whose rewards (advantages, if no rewards are given)
    are all equal.
With `ref_log_probs` also
  kl_ref: mean over codes of k3 of KL(π ‖ π_ref), nats.
With `rewards` and `target_rewards` also
  threshold_share: rollouts whose praise `real_feedback_threshold` takes away.
With `business` and `semantic` also
  gate_agreement: rollouts on which both streams have the same sign, neither 0.
  gate_mean: mean λ of `asymmetric_advantages`.
"""

import jax
import jax.numpy as jnp

from oxyrec_jax.base import Array
from oxyrec_jax.losses import advantages as advantage
from oxyrec_jax.losses import aggregation, checks, kl, ratios

QUANTILES = {"ratio_q01": 0.01, "ratio_q10": 0.1, "ratio_q50": 0.5, "ratio_q90": 0.9,
             "ratio_q99": 0.99}


def policy_diagnostics(log_probs: Array, old_log_probs: Array, advantages: Array,
                       mask: Array, *, clip_low: float = 0.2, clip_high: float = 0.2,
                       tau_pos: float = 1.0, tau_neg: float = 1.05,
                       ref_log_probs: Array | None = None,
                       rewards: Array | None = None,
                       target_rewards: Array | None = None,
                       business: Array | None = None,
                       semantic: Array | None = None) -> dict[str, Array]:
    """What a scientist watches: how far, how much is cut, how much signal is left.

    The figures are named and explained at the top of this file.

    Args:
      log_probs: `[B, G, T]` float, nats: the sampled codes under the policy in
        training.
      old_log_probs: `[B, G, T]` float, nats: under the sampling policy.
      advantages: `[B, G]` float, unit-free, before any threshold.
      mask: `[B, G, T]` bool, true = real code; rollouts of all false do not count.
      clip_low: of the clip whose share is shown, as in `grpo_loss`.
      clip_high: likewise.
      tau_pos: of the gate whose share is shown, as in `sapo_loss`.
      tau_neg: likewise.
      ref_log_probs: `[B, G, T]` float, nats: under the reference.
      rewards: `[B, G]` float.
      target_rewards: `[B]` float: reward of the item with real feedback.
      business: `[B, G]` float: normalised business advantages.
      semantic: `[B, G]` float: normalised semantic advantages.

    Returns:
      Scalars in float32 by name; none receives a gradient.

    Raises:
      ValueError: shapes disagree, an option is out of range, or one of `target_rewards`
        and `rewards`, or of `business` and `semantic`, is missing.
      TypeError: a dtype is wrong.

    Source: ours; k3 as in `kl_penalty`, sech² = 1 - tanh² as in `sapo_loss`.
    """
    log_probs, old, signal, mask = checks.rollouts(
        log_probs, old_log_probs, advantages, mask)
    log_probs = jax.lax.stop_gradient(log_probs)
    checks.check_clip(clip_low, clip_high)
    checks.check_temperatures(tau_pos, tau_neg)
    live = jnp.any(mask, axis=-1)
    figures = _code_figures(log_probs, old, signal, mask, (clip_low, clip_high),
                            (tau_pos, tau_neg))
    figures |= _group_figures(signal[..., 0], rewards, live)
    if ref_log_probs is not None:
        ref = checks.as_float("ref_log_probs", ref_log_probs, mask.shape)
        figures["kl_ref"] = _mean(kl.token_kl(log_probs, ref, mask, kind="k3"), mask)
    if target_rewards is not None:
        if rewards is None:
            raise ValueError("target_rewards without rewards, expected both")
        praise = signal[..., 0]
        kept = advantage.real_feedback_threshold(praise, rewards, target_rewards)
        figures["threshold_share"] = _mean(kept != praise, live)
    if (business is None) != (semantic is None):
        raise ValueError("business or semantic without the other, expected both")
    if business is not None and semantic is not None:
        figures |= _gate_figures(business, semantic, live)
    return figures


def _code_figures(log_probs: Array, old: Array, signal: Array, mask: Array,
                  clip: tuple[float, float],
                  tau: tuple[float, float]) -> dict[str, Array]:
    """How far the codes have moved, and how many a clip or a gate holds back."""
    ratio = ratios.token_ratio(log_probs, old, mask)
    cut = jnp.where(signal > 0, ratio > 1 + clip[1], ratio < 1 - clip[0])
    bend = jnp.where(signal > 0, *tau) * (jnp.minimum(ratio, 100) - 1) / 2
    return _quantiles(ratio, mask) | {
        "clip_share": _mean(cut & (signal != 0), mask),
        "gate_share": _mean(jnp.square(jnp.tanh(bend)) > 0.5, mask),
        "kl_old": _mean(kl.token_kl(old, log_probs, mask, kind="k3"), mask),
        "entropy": -_mean(log_probs, mask),
    }


def _quantiles(ratio: Array, mask: Array) -> dict[str, Array]:
    """Quantiles of the real ratios, interpolated linearly; 1 where there are none."""
    ordered = jnp.sort(jnp.where(mask, ratio, jnp.inf).ravel())
    count = aggregation.count(mask, jnp.int32)
    found = {}
    for name, share in QUANTILES.items():
        place = share * jnp.maximum(count - 1, 0).astype(ratio.dtype)
        below = jnp.floor(place).astype(jnp.int32)
        above = jnp.minimum(below + 1, jnp.maximum(count - 1, 0))
        part = place - below.astype(ratio.dtype)
        value = ordered[below] * (1 - part) + ordered[above] * part
        found[name] = jnp.where(count > 0, value, 1)
    return found


def _group_figures(signal: Array, rewards: Array | None,
                   live: Array) -> dict[str, Array]:
    """How much signal the groups hold; groups without a live rollout do not count."""
    groups = jnp.any(live, axis=-1)
    size = jnp.sum(jnp.abs(signal), axis=-1)
    power = jnp.sum(jnp.square(signal), axis=-1)
    effective = jnp.square(size) / jnp.where(power > 0, power, 1)
    judged = signal
    if rewards is not None:
        judged = checks.as_float("rewards", rewards, live.shape)
    most = jnp.max(judged, axis=-1, where=live, initial=-jnp.inf)
    least = jnp.min(judged, axis=-1, where=live, initial=jnp.inf)
    return {
        "effective_group_size": _mean(effective, groups),
        "zero_variance_share": _mean(most <= least, groups),
    }


def _gate_figures(business: Array, semantic: Array, live: Array) -> dict[str, Array]:
    """How often and how far the two streams of A2PO agree."""
    business = checks.as_float("business", business, live.shape)
    semantic = checks.as_float("semantic", semantic, live.shape)
    agree = (jnp.sign(business) == jnp.sign(semantic)) & (business != 0)
    gate = advantage.agreement(business, semantic, eps=1e-8)
    return {"gate_agreement": _mean(agree, live), "gate_mean": _mean(gate, live)}


def _mean(values: Array, mask: Array) -> Array:
    """The mean of the real values, 0 where there are none; no gradient."""
    values = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    count = aggregation.count(mask, values.dtype)
    total = jnp.sum(values, where=mask)
    return jax.lax.stop_gradient(total / jnp.maximum(count, 1))
