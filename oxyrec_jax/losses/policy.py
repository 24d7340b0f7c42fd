"""Policy objectives from language models: each composes four axes and nothing else.

    advantages   how much better a rollout was       `advantages.py`, by the caller
    ratio        how far the policy has moved        `ratios.py`
    surrogate    what ratio and advantage cost       `surrogates.py`
    aggregation  what weighs how much                `aggregation.py`

A new method is one more function here, one row in the table of tests/losses and one in
docs/losses.md. Objectives made for recommendation stand in `policy_recommendation.py`.
A KL term, where a method has one, is `kl_penalty`, added by the caller.
"""

import jax
import jax.numpy as jnp

from oxyrec_jax.base import Array, Weighted
from oxyrec_jax.losses import aggregation, checks, ratios, surrogates


def grpo_loss(log_probs: Array, old_log_probs: Array, advantages: Array, mask: Array, *,
              clip_low: float = 0.2, clip_high: float = 0.2,
              dual_clip: float | None = None) -> Weighted:
    """Group Relative Policy Optimization: a clipped ratio for each code.

    cost = -min(r_t A, clip(r_t, 1 - clip_low, 1 + clip_high) A) with
    r_t = exp(lp_t - old_t), the mean over sequences of the mean over their codes.

    Args:
      log_probs: `[B, G, T]` float, nats: the sampled codes under the policy in
        training. The only argument that receives a gradient.
      old_log_probs: `[B, G, T]` float, nats: the same codes under the sampling policy.
      advantages: `[B, G]` float, unit-free, such as `group_advantages` gives.
      mask: `[B, G, T]` bool, true = real code; a rollout of all false weighs nothing.
      clip_low: how far below 1 the ratio may fall, unit-free, in `[0, 1]`.
      clip_high: how far above 1 it may rise, unit-free, `>= 0`.
      dual_clip: where A < 0 a code costs at most `-dual_clip · A`; unit-free, `> 1`.
        None: no such bound. 3 is the value of its paper.

    Returns:
      Scalar `Weighted`, unit-free: the sum over sequences, and how many there are.

    Raises:
      ValueError: shapes disagree or an option is out of range (while tracing).
      TypeError: a dtype is wrong.

    Source: DeepSeekMath 2024, https://arxiv.org/abs/2402.03300, eq. 3 (its KL term is
    `kl_penalty`, k3, 0.04); dual clip (3 there): Ye et al. 2020,
    https://arxiv.org/abs/1912.09729.
    """
    log_probs, old, advantages, mask = checks.rollouts(
        log_probs, old_log_probs, advantages, mask)
    checks.check_clip(clip_low, clip_high)
    ratio = ratios.token_ratio(log_probs, old, mask)
    if dual_clip is None:
        cost = surrogates.clipped(ratio, advantages, low=clip_low, high=clip_high)
    else:
        checks.check_option("dual_clip", dual_clip, 1, open_low=True)
        cost = surrogates.dual_clipped(ratio, advantages, low=clip_low, high=clip_high,
                                       cap=dual_clip)
    return aggregation.mean_of_token_means(cost, mask)


def dr_grpo_loss(log_probs: Array, old_log_probs: Array, advantages: Array, mask: Array,
                 *, max_length: int, clip_low: float = 0.2,
                 clip_high: float = 0.2) -> Weighted:
    """GRPO done right: a constant instead of each sequence's length, no deviation.

    cost of a sequence = -Σ_t min(r_t A, clip(r_t, 1 - clip_low, 1 + clip_high) A)
    / max_length, the mean over sequences. A = R - mean R: `group_advantages` with
    `scale="none"`.

    Args:
      log_probs: as in `grpo_loss`.
      old_log_probs: as in `grpo_loss`.
      advantages: `[B, G]` float, in the unit of the reward.
      mask: as in `grpo_loss`.
      max_length: the constant, codes, `>= 1`: the most that may be sampled.
      clip_low: as in `grpo_loss`.
      clip_high: as in `grpo_loss`.

    Returns:
      Scalar `Weighted`: the sum over sequences, and how many there are.

    Raises:
      ValueError, TypeError: as `grpo_loss`.

    Source: Liu et al. 2025, https://arxiv.org/abs/2503.20783, §3.2.
    """
    log_probs, old, advantages, mask = checks.rollouts(
        log_probs, old_log_probs, advantages, mask)
    checks.check_clip(clip_low, clip_high)
    checks.check_option("max_length", max_length, 1)
    ratio = ratios.token_ratio(log_probs, old, mask)
    cost = surrogates.clipped(ratio, advantages, low=clip_low, high=clip_high)
    return aggregation.constant_length(cost, mask, length=max_length)


def dapo_loss(log_probs: Array, old_log_probs: Array, advantages: Array, mask: Array, *,
              clip_low: float = 0.2, clip_high: float = 0.28) -> Weighted:
    """DAPO: clipped higher above than below, every code the same weight.

    cost = -min(r_t A, clip(r_t, 1 - clip_low, 1 + clip_high) A), the mean over codes of
    the groups that carry a signal: a group whose advantages are all 0 weighs nothing.
    (Its dynamic sampling; `group_advantages` gives exact zeros to equal rewards.)

    Args:
      log_probs: as in `grpo_loss`.
      old_log_probs: as in `grpo_loss`.
      advantages: as in `grpo_loss`.
      mask: as in `grpo_loss`.
      clip_low: as in `grpo_loss`.
      clip_high: as in `grpo_loss`.

    Returns:
      Scalar `Weighted`: the sum over codes, and how many there are.

    Raises:
      ValueError, TypeError: as `grpo_loss`.

    Source: Yu et al. 2025, https://arxiv.org/abs/2503.14476, eq. 8 to 12.
    """
    log_probs, old, advantages, mask = checks.rollouts(
        log_probs, old_log_probs, advantages, mask)
    checks.check_clip(clip_low, clip_high)
    ratio = ratios.token_ratio(log_probs, old, mask)
    cost = surrogates.clipped(ratio, advantages, low=clip_low, high=clip_high)
    signal = jnp.any(advantages != 0, axis=(1, 2), keepdims=True)
    return aggregation.token_mean(cost, mask & signal)


def gspo_loss(log_probs: Array, old_log_probs: Array, advantages: Array, mask: Array, *,
              clip_low: float = 3e-4, clip_high: float = 4e-4) -> Weighted:
    """Group Sequence Policy Optimization: one clipped ratio for each sequence.

    cost = -min(s A, clip(s, 1 - clip_low, 1 + clip_high) A), s = exp(mean_t(lp - old)),
    the mean over sequences.

    Args:
      log_probs: as in `grpo_loss`.
      old_log_probs: as in `grpo_loss`.
      advantages: as in `grpo_loss`.
      mask: as in `grpo_loss`.
      clip_low: as in `grpo_loss`. The default was tuned for long texts: an item of
        three codes needs a wider one, such as 0.2.
      clip_high: likewise.

    Returns:
      Scalar `Weighted`: the sum over sequences, and how many there are.

    Raises:
      ValueError, TypeError: as `grpo_loss`.

    Source: Zheng et al. 2025, https://arxiv.org/abs/2507.18071, eq. 5 and 7, §5.1.
    """
    log_probs, old, advantages, mask = checks.rollouts(
        log_probs, old_log_probs, advantages, mask)
    checks.check_clip(clip_low, clip_high)
    ratio = ratios.sequence_mean_ratio(log_probs, old, mask)
    cost = surrogates.clipped(ratio, advantages[..., 0], low=clip_low, high=clip_high)
    return aggregation.sequence_mean(cost, mask)


def sapo_loss(log_probs: Array, old_log_probs: Array, advantages: Array, mask: Array, *,
              tau_pos: float = 1.0, tau_neg: float = 1.05) -> Weighted:
    """Soft Adaptive Policy Optimization: a smooth gate instead of a clip.

    cost = -f(r_t) A, f(r) = (4/τ) σ(τ (r - 1)), τ = tau_pos where A > 0, else tau_neg;
    the mean over sequences of the mean over their codes. Its gradient with respect to
    log π is -A r sech²(τ (r - 1) / 2): that of GRPO at r = 1, fading on both sides.

    Args:
      log_probs: as in `grpo_loss`.
      old_log_probs: as in `grpo_loss`.
      advantages: as in `grpo_loss`.
      mask: as in `grpo_loss`.
      tau_pos: temperature of good rollouts, unit-free, `> 0`; larger fades sooner.
      tau_neg: temperature of the others.

    Returns:
      Scalar `Weighted`: the sum over sequences, and how many there are. Its value on
      policy is -(2/τ) A, not -A.

    Raises:
      ValueError, TypeError: as `grpo_loss`.

    Source: Gao et al. 2025, https://arxiv.org/abs/2511.20347, soft gate and defaults.
    """
    log_probs, old, advantages, mask = checks.rollouts(
        log_probs, old_log_probs, advantages, mask)
    checks.check_temperatures(tau_pos, tau_neg)
    ratio = ratios.token_ratio(log_probs, old, mask)
    cost = surrogates.soft_gate(ratio, advantages, tau_pos=tau_pos, tau_neg=tau_neg)
    return aggregation.mean_of_token_means(cost, mask)


def cispo_loss(log_probs: Array, old_log_probs: Array, advantages: Array, mask: Array,
               *, cap: float) -> Weighted:
    """CISPO: the importance weight is capped, and no code loses its gradient.

    cost = -sg(min(r_t, cap)) A lp_t, the mean over codes.

    Args:
      log_probs: as in `grpo_loss`.
      old_log_probs: as in `grpo_loss`.
      advantages: as in `grpo_loss`.
      mask: as in `grpo_loss`.
      cap: the largest weight, unit-free, `> 0`. The paper prints no number, so there is
        no default; far above 1 it acts on strays alone.

    Returns:
      Scalar `Weighted`, nats: the sum over codes, and how many there are.

    Raises:
      ValueError, TypeError: as `grpo_loss`.

    Source: MiniMax-M1 2025, https://arxiv.org/abs/2506.13585, eq. 4 and 5, without the
    lower bound, as the paper trains it.
    """
    log_probs, old, advantages, mask = checks.rollouts(
        log_probs, old_log_probs, advantages, mask)
    checks.check_option("cap", cap, 0, open_low=True)
    ratio = ratios.token_ratio(log_probs, old, mask)
    cost = surrogates.capped_weight(log_probs, ratio, advantages, cap=cap)
    return aggregation.token_mean(cost, mask)


def rloo_loss(log_probs: Array, old_log_probs: Array, advantages: Array, mask: Array, *,
              clip_low: float = 0.2, clip_high: float = 0.2) -> Weighted:
    """REINFORCE Leave-One-Out: the whole item is one action.

    cost = -min(R A, clip(R, 1 - clip_low, 1 + clip_high) A), R = exp(Σ_t(lp - old)),
    the mean over sequences. A: `leave_one_out_advantages` of the rewards, from which
    coef · Σ_t(lp - ref) has been taken.

    Args:
      log_probs: as in `grpo_loss`.
      old_log_probs: as in `grpo_loss`.
      advantages: `[B, G]` float, in the unit of the reward.
      mask: as in `grpo_loss`.
      clip_low: as in `grpo_loss`.
      clip_high: as in `grpo_loss`.

    Returns:
      Scalar `Weighted`: the sum over sequences, and how many there are.

    Raises:
      ValueError, TypeError: as `grpo_loss`.

    Source: Ahmadian et al. 2024, https://arxiv.org/abs/2402.14740, §3.3; the clip for
    several updates on one batch is that of PPO.
    """
    log_probs, old, advantages, mask = checks.rollouts(
        log_probs, old_log_probs, advantages, mask)
    checks.check_clip(clip_low, clip_high)
    ratio = ratios.sequence_sum_ratio(log_probs, old, mask)
    cost = surrogates.clipped(ratio, advantages[..., 0], low=clip_low, high=clip_high)
    return aggregation.sequence_mean(cost, mask)


def reinforce_pp_loss(log_probs: Array, old_log_probs: Array, advantages: Array,
                      mask: Array, *, clip_low: float = 0.2,
                      clip_high: float = 0.2) -> Weighted:
    """REINFORCE++: an advantage for each code, a clipped ratio, every code one weight.

    cost = -min(r_t A_t, clip(r_t, 1 - clip_low, 1 + clip_high) A_t), the mean over
    codes.

    Args:
      log_probs: as in `grpo_loss`.
      old_log_probs: as in `grpo_loss`.
      advantages: `[B, G, T]` float, unit-free, as `reinforce_pp_advantages` gives, or
        `[B, G]`, one for all codes of a rollout.
      mask: as in `grpo_loss`.
      clip_low: as in `grpo_loss`.
      clip_high: as in `grpo_loss`.

    Returns:
      Scalar `Weighted`: the sum over codes, and how many there are.

    Raises:
      ValueError, TypeError: as `grpo_loss`.

    Source: Hu et al. 2025, https://arxiv.org/abs/2501.03262.
    """
    checks.check_rank("log_probs", log_probs, "B G T")
    shape = jnp.shape(log_probs)
    if jnp.ndim(advantages) < 3:
        whole = checks.as_float("advantages", advantages, shape[:2])
        advantages = jnp.broadcast_to(whole[..., None], shape)
    per_code = checks.as_float("advantages", advantages, shape)
    log_probs, old, _, mask = checks.rollouts(
        log_probs, old_log_probs, per_code[..., 0], mask)
    checks.check_clip(clip_low, clip_high)
    per_code = jax.lax.stop_gradient(jnp.where(mask, per_code, 0))
    ratio = ratios.token_ratio(log_probs, old, mask)
    cost = surrogates.clipped(ratio, per_code, low=clip_low, high=clip_high)
    return aggregation.token_mean(cost, mask)
