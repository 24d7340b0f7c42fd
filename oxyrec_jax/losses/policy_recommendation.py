"""Policy objectives made for generative recommendation, from the same four axes."""

import jax.numpy as jnp

from oxyrec_jax.base import Array, Weighted
from oxyrec_jax.losses import advantages as advantage
from oxyrec_jax.losses import aggregation, checks, ratios, surrogates


def sa_gcpo_loss(log_probs: Array, old_log_probs: Array, rewards: Array,
                 target_rewards: Array, mask: Array, *, tau_pos: float, tau_neg: float,
                 ddof: int = 1, eps: float = 1e-4) -> Weighted:
    """Soft Adaptive Group Clip Policy Optimization: no praise below real feedback.

    cost = -f(r_t) Γ, the mean over sequences of the mean over their codes, where
    A = (R - mean R) / (std R + eps) in the group, f(r) = (4/τ) σ(τ (r - 1)) with
    τ = tau_pos where A > 0, else tau_neg, and Γ = 0 if A > 0 and R < R*, else A.

    Args:
      log_probs: `[B, G, T]` float, nats: the sampled codes under the policy in
        training. The only argument that receives a gradient.
      old_log_probs: `[B, G, T]` float, nats: the same codes under the sampling policy.
      rewards: `[B, G]` float, R.
      target_rewards: `[B]` float, R*: the reward of the item with real user feedback.
      mask: `[B, G, T]` bool, true = real code. A rollout of all false is absent: its
        reward is not read, and it weighs nothing.
      tau_pos: temperature of good rollouts, unit-free, `> 0`. The paper gives none;
        `sapo_loss` has 1.0 and 1.05.
      tau_neg: temperature of the others.
      ddof: delta degrees of freedom of the group's deviation.
      eps: added to that deviation, in the unit of the reward, `>= 0`.

    Returns:
      Scalar `Weighted`: the sum over sequences, and how many there are.

    Raises:
      ValueError: shapes disagree, an option is out of range, or G <= ddof.
      TypeError: a dtype is wrong.

    Source: OxygenREC 2025, https://arxiv.org/abs/2512.22386, eq. 4 to 9; ddof and eps:
    as in `group_advantages`.
    """
    log_probs, old, rewards, mask = checks.rollouts(
        log_probs, old_log_probs, rewards, mask, name="rewards")
    checks.check_temperatures(tau_pos, tau_neg)
    rewards, live = rewards[..., 0], jnp.any(mask, axis=-1)
    score = advantage.standardised(rewards, live, ddof=ddof, eps=eps)
    score = advantage.real_feedback_threshold(score, rewards, target_rewards)[..., None]
    ratio = ratios.token_ratio(log_probs, old, mask)
    cost = surrogates.soft_gate(ratio, score, tau_pos=tau_pos, tau_neg=tau_neg)
    return aggregation.mean_of_token_means(cost, mask)


def a2po_loss(log_probs: Array, old_log_probs: Array, business_rewards: Array,
              semantic_rewards: Array, mask: Array, *, clip_low: float = 0.2,
              clip_high: float = 0.2, eps: float = 1e-8) -> Weighted:
    """Asymmetric Advantage Policy Optimization: meaning may confirm, never overrule.

    GRPO's clipped cost with A = A_biz + λ A_sem (`asymmetric_advantages`), each stream
    normalised within the group on its own (`group_advantages` at its defaults).

    Args:
      log_probs: as in `sa_gcpo_loss`.
      old_log_probs: as in `sa_gcpo_loss`.
      business_rewards: `[B, G]` float: what the business counts (hits, orders).
      semantic_rewards: `[B, G]` float: what a judge of meaning says, in its own unit.
      mask: as in `sa_gcpo_loss`; the rewards of an absent rollout are not read.
      clip_low: how far below 1 the ratio may fall, unit-free, in `[0, 1]`.
      clip_high: how far above 1 it may rise, unit-free, `>= 0`.
      eps: that of the gate λ, unit-free, `> 0`.

    Returns:
      Scalar `Weighted`: the sum over sequences, and how many there are.

    Raises:
      ValueError: shapes disagree, an option is out of range, or G = 1.
      TypeError: a dtype is wrong.

    Source: S-GRec 2026, https://arxiv.org/abs/2602.10606, eq. 6 and 7; clip: GRPO's.
    """
    log_probs, old, business, mask = checks.rollouts(
        log_probs, old_log_probs, business_rewards, mask, name="business_rewards")
    checks.check_clip(clip_low, clip_high)
    live = jnp.any(mask, axis=-1)
    semantic = checks.as_float("semantic_rewards", semantic_rewards, live.shape)
    advantage.check_ddof("business_rewards", live.shape, live.shape[1], 1)
    both = advantage.standardised(jnp.stack([business[..., 0], semantic]), live, ddof=1,
                                  eps=1e-4)
    joint = advantage.asymmetric_advantages(both[0], both[1], eps=eps)
    ratio = ratios.token_ratio(log_probs, old, mask)
    cost = surrogates.clipped(ratio, joint[..., None], low=clip_low, high=clip_high)
    return aggregation.mean_of_token_means(cost, mask)


def ecpo_loss(log_probs: Array, old_log_probs: Array, advantages: Array, mask: Array, *,
              clip: float, delta: float = 0.1) -> Weighted:
    """Early-Clipped GRPO: a bad item's ratio cannot run away, and keeps its gradient.

    cost = -min(R A, clip(R, 1 - clip, 1 + clip) A), the mean over items, where
    R = π / π' of the whole item and π' = max(π_old, sg(π) / (1 + clip + delta)).

    Args:
      log_probs: as in `sa_gcpo_loss`.
      old_log_probs: as in `sa_gcpo_loss`.
      advantages: `[B, G]` float, unit-free, such as `group_advantages` gives.
      mask: as in `sa_gcpo_loss`.
      clip: how far from 1 the ratio may go, unit-free, in `[0, 1]`. The paper gives
        none; 0.2 is GRPO's.
      delta: how much further a bad item's may, unit-free, `> 0`.

    Returns:
      Scalar `Weighted`: the sum over sequences, and how many there are. The paper adds
      supervised loss on real feedback beside it.

    Raises:
      ValueError: shapes disagree or an option is out of range.
      TypeError: a dtype is wrong.

    Source: OneRec 2025, https://arxiv.org/abs/2506.13695, §2.4 (delta included).
    """
    log_probs, old, advantages, mask = checks.rollouts(
        log_probs, old_log_probs, advantages, mask)
    checks.check_option("clip", clip, 0, 1)
    checks.check_option("delta", delta, 0, open_low=True)
    ratio = ratios.early_clipped_ratio(log_probs, old, mask, limit=1 + clip + delta)
    cost = surrogates.clipped(ratio, advantages[..., 0], low=clip, high=clip)
    return aggregation.sequence_mean(cost, mask)


def gbpo_loss(log_probs: Array, old_log_probs: Array, advantages: Array,
              mask: Array) -> Weighted:
    """Gradient-Bounded Policy Optimization: every code's gradient is bounded, none cut.

    cost = -A π / D, D = max(μ, sg π) if A >= 0, max(μ, 1 - sg π) if A < 0, the mean
    over sequences of the mean over their codes.

    Args:
      log_probs: as in `sa_gcpo_loss`.
      old_log_probs: as in `sa_gcpo_loss`: log μ.
      advantages: `[B, G]` float, unit-free; the paper takes +1, 0 and -1.
      mask: as in `sa_gcpo_loss`.

    Returns:
      Scalar `Weighted`: the sum over sequences, and how many there are. The paper adds
      supervised loss on real feedback beside it.

    Raises:
      ValueError: shapes disagree.
      TypeError: a dtype is wrong.

    Source: OneRec-V2 2025, https://arxiv.org/abs/2508.20900, gradient-bounded policy
    optimization.
    """
    log_probs, old, advantages, mask = checks.rollouts(
        log_probs, old_log_probs, advantages, mask)
    ratio = ratios.bounded_ratio(log_probs, old, advantages, mask)
    cost = surrogates.linear(ratio, advantages)
    return aggregation.mean_of_token_means(cost, mask)
