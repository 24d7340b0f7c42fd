"""Axis one of a policy objective: how much better a rollout was than the others.

Nothing here receives a gradient: advantages are data of the objective.
"""

import jax
import jax.numpy as jnp

from oxyrec_jax.base import Array
from oxyrec_jax.losses import aggregation, checks

WHITENING = 1e-8  # ours: keeps the square root of a batch's variance above zero


def group_advantages(rewards: Array, *, scale: str = "std", ddof: int = 1,
                     eps: float = 1e-4) -> Array:
    """Rewards less their group's mean, over a standard deviation.

    A_i = (R_i - mean_j R_j) / (s + eps), where s is by `scale`:
    `"std"` the group's, `"batch"` that of all rewards of the batch, `"none"`: A is the
    numerator alone. A group whose rewards are all equal has advantages of exactly 0.

    Args:
      rewards: `[B, G]` float, in the unit of the reward.
      scale: see above.
      ddof: delta degrees of freedom of the deviation; 1 needs two rollouts.
      eps: added to the deviation, in the unit of the reward, `>= 0`.

    Returns:
      `[B, G]` float, unit-free (in the unit of the reward for `"none"`).

    Raises:
      ValueError: a shape, `scale`, `ddof` or `eps` is wrong, or the group too small.
      TypeError: rewards are not floating point.

    Source: `"std"`: DeepSeekMath 2024, https://arxiv.org/abs/2402.03300, §4.1.2;
    `"none"`: Dr. GRPO 2025, https://arxiv.org/abs/2503.20783; `"batch"`: Liu et al.
    2025, https://arxiv.org/abs/2508.08221. ddof, eps: as common implementations have.
    """
    rewards = _rewards("rewards", rewards)
    checks.check_option("eps", eps, 0)
    if scale == "none":
        return _centred(rewards, jnp.ones_like(rewards, bool))
    if scale == "std":
        return standardised(rewards, jnp.ones_like(rewards, bool), ddof=ddof, eps=eps)
    if scale != "batch":
        raise ValueError(f"scale={scale!r}, expected 'std', 'none' or 'batch'")
    check_ddof("rewards", rewards.shape, rewards.size, ddof)
    spread = jnp.std(rewards, ddof=ddof)
    return _centred(rewards, jnp.ones_like(rewards, bool)) / (spread + eps)


def leave_one_out_advantages(rewards: Array) -> Array:
    """Each reward less the mean of the others of its group.

    A_i = R_i - mean_{j≠i} R_j = (R_i - mean_j R_j) · G / (G - 1)

    Args:
      rewards: `[B, G]` float, G >= 2; subtract a KL penalty before the call.

    Returns:
      `[B, G]` float, in the unit of the reward.

    Raises:
      ValueError: not `[B, G]`, or G = 1.
      TypeError: rewards are not floating point.

    Source: Ahmadian et al. 2024 (RLOO), https://arxiv.org/abs/2402.14740, §3.3.
    """
    rewards = _rewards("rewards", rewards)
    group = rewards.shape[1]
    if group < 2:
        raise ValueError(f"rewards.shape={rewards.shape}, expected [B, G] with G >= 2")
    return _centred(rewards, jnp.ones_like(rewards, bool)) * (group / (group - 1))


def reinforce_pp_advantages(rewards: Array, log_probs: Array, ref_log_probs: Array,
                            mask: Array, *, kl_coef: float) -> Array:
    """Return-to-go of each code with KL in the reward, whitened over the whole batch.

    A_t = R - kl_coef · Σ_{u>=t} (lp_u - ref_u), then less its mean and over its
    standard deviation, both over all real codes of the batch (population variance).

    Args:
      rewards: `[B, G]` float.
      log_probs: `[B, G, T]` float, nats: the sampled codes under the sampling policy.
      ref_log_probs: `[B, G, T]` float, nats: under the reference policy.
      mask: `[B, G, T]` bool, true = real code.
      kl_coef: reward for each nat of KL, `>= 0`.

    Returns:
      `[B, G, T]` float, unit-free, 0 where masked.

    Raises:
      ValueError: shapes disagree or `kl_coef` is negative.
      TypeError: a dtype is wrong.

    Source: Hu et al. 2025, https://arxiv.org/abs/2501.03262, token-level KL penalty and
    global advantage normalisation.
    """
    checks.check_rank("log_probs", log_probs, "B G T")
    checks.check_option("kl_coef", kl_coef, 0)
    log_probs = checks.as_float("log_probs", log_probs)
    ref_log_probs = checks.as_float("ref_log_probs", ref_log_probs, log_probs.shape)
    mask = checks.as_mask("mask", mask, log_probs.shape)
    rewards = checks.as_float("rewards", rewards, log_probs.shape[:2])
    penalty = kl_coef * jnp.where(mask, log_probs - ref_log_probs, 0)
    to_go = jnp.flip(jnp.cumsum(jnp.flip(penalty, -1), axis=-1), -1)
    advantages = jnp.where(mask, rewards[..., None] - to_go, 0)
    count = jnp.maximum(aggregation.count(mask, advantages.dtype), 1)
    centred = jnp.where(mask, advantages - jnp.sum(advantages) / count, 0)
    variance = jnp.sum(jnp.square(centred)) / count
    return jax.lax.stop_gradient(centred * jax.lax.rsqrt(variance + WHITENING))


def asymmetric_advantages(business: Array, semantic: Array, *,
                          eps: float = 1e-8) -> Array:
    """The business advantage, joined by the semantic one where both agree in sign.

    A = A_biz + λ A_sem,
    λ = 1[sign A_biz = sign A_sem] · min(|A_biz|, |A_sem|) / (max(same two) + eps)

    So A has the sign of A_biz, |A| <= 2 |A_biz|, and A = 0 where A_biz = 0.

    Args:
      business: `[B, G]` float, unit-free, already normalised within the group.
      semantic: `[B, G]` float, unit-free, normalised on its own.
      eps: keeps the quotient defined, unit-free, `> 0`.

    Returns:
      `[B, G]` float, unit-free.

    Raises:
      ValueError: shapes disagree or eps is not positive.
      TypeError: a dtype is wrong.

    Source: S-GRec (A2PO) 2026, https://arxiv.org/abs/2602.10606, eq. 6 and 7.
    """
    business = _rewards("business", business)
    semantic = checks.as_float("semantic", semantic, business.shape)
    gate = agreement(business, semantic, eps=eps)
    return business + gate * jax.lax.stop_gradient(semantic)


def agreement(business: Array, semantic: Array, *, eps: float) -> Array:
    """The gate λ of `asymmetric_advantages`: `[B, G]` float, unit-free, in [0, 1]."""
    checks.check_option("eps", eps, 0, open_low=True)
    ours, theirs = jnp.abs(business), jnp.abs(semantic)
    gate = jnp.minimum(ours, theirs) / (jnp.maximum(ours, theirs) + eps)
    agree = jnp.sign(business) == jnp.sign(semantic)
    return jax.lax.stop_gradient(jnp.where(agree, gate, 0))


def real_feedback_threshold(advantages: Array, rewards: Array,
                            target_rewards: Array) -> Array:
    """No praise for a rollout that the item with real feedback beats.

    Γ_i = 0 if A_i > 0 and R_i < R*, else A_i

    Args:
      advantages: `[B, G]` float, unit-free.
      rewards: `[B, G]` float.
      target_rewards: `[B]` float, R*: the reward of the item that the user really
        chose, in the unit of `rewards`.

    Returns:
      `[B, G]` float, unit-free.

    Raises:
      ValueError: shapes disagree.
      TypeError: a dtype is wrong.

    Source: OxygenREC (SA-GCPO) 2025, https://arxiv.org/abs/2512.22386, eq. 4 to 9.
    """
    advantages = _rewards("advantages", advantages)
    rewards = checks.as_float("rewards", rewards, advantages.shape)
    target_rewards = checks.as_float("target_rewards", target_rewards,
                                     advantages.shape[:1])
    hollow = (advantages > 0) & (rewards < target_rewards[:, None])
    return jax.lax.stop_gradient(jnp.where(hollow, 0, advantages))


def gdpo_advantages(rewards: Array, weights: Array) -> Array:
    """Several rewards, standardised one by one, weighted, whitened over the batch.

    S_i = Σ_r w_r (R_ir - mean_j R_jr) / (std_j R_jr + 1e-4); A = (S - mean S) / std S,
    the last two over the batch (population variance), the group deviation with ddof 1.

    Args:
      rewards: `[B, G, R]` float, G >= 2; each reward in its own unit.
      weights: `[R]` float, unit-free.

    Returns:
      `[B, G]` float, unit-free; 0 for a group in which every reward is all equal.

    Raises:
      ValueError: shapes disagree or G = 1.
      TypeError: a dtype is wrong.

    Source: Liu et al. 2026, https://arxiv.org/abs/2601.05242, decoupled normalisation
    and batch-wise normalisation.
    """
    checks.check_rank("rewards", rewards, "B G R")
    rewards = jax.lax.stop_gradient(checks.as_float("rewards", rewards))
    weights = checks.as_float("weights", weights, rewards.shape[2:])
    each = jnp.moveaxis(rewards, -1, 0)
    each = standardised(each, jnp.ones_like(each, bool), ddof=1, eps=1e-4)
    joint = jnp.sum(jax.lax.stop_gradient(weights)[:, None, None] * each, axis=0)
    # A group's own mean is 0, so the batch's is but rounding: none for a flat group.
    flat = jnp.all(joint == 0, axis=-1, keepdims=True)
    centred = jnp.where(flat, 0, joint - jnp.mean(joint))
    return centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred)) + WHITENING)


def standardised(rewards: Array, present: Array, *, ddof: int, eps: float) -> Array:
    """Group advantages by standard deviation among the rollouts that are present.

    Args:
      rewards: `[..., G]` float.
      present: `[..., G]` bool, or its last axes; a rollout that is not is not read,
        and gets 0.
      ddof: delta degrees of freedom.
      eps: added to the deviation.

    Returns:
      `[..., G]` float, unit-free.
    """
    check_ddof("rewards", rewards.shape, rewards.shape[-1], ddof)
    checks.check_option("eps", eps, 0)
    centred = _centred(rewards, present)
    count = aggregation.count(present, centred.dtype, axis=-1)[..., None]
    variance = jnp.sum(jnp.square(centred), axis=-1, keepdims=True)
    deviation = jnp.sqrt(variance / jnp.maximum(count - ddof, 1)) + eps
    # With eps = 0 a group of equal rewards would divide 0 by 0.
    return centred / jnp.where(deviation > 0, deviation, 1)


def _centred(rewards: Array, present: Array) -> Array:
    """Rewards less the mean of their group, exactly 0 where all are equal."""
    rewards = jax.lax.stop_gradient(rewards)
    count = aggregation.count(present, rewards.dtype, axis=-1)[..., None]
    # The rounded mean of equal rewards may leave a residue, which dividing by a tiny
    # deviation + eps would blow up to a signal. Less their maximum they are exactly 0.
    most = jnp.max(rewards, axis=-1, keepdims=True, where=present, initial=-jnp.inf)
    below = jnp.where(present, rewards - most, 0)
    total = jnp.sum(below, axis=-1, keepdims=True)
    return jnp.where(present, below - total / jnp.maximum(count, 1), 0)


def _rewards(name: str, rewards: Array) -> Array:
    checks.check_rank(name, rewards, "B G")
    return jax.lax.stop_gradient(checks.as_float(name, rewards))


def check_ddof(name: str, shape: tuple[int, ...], count: int, ddof: int) -> None:
    """Raises `ValueError` unless `count` rollouts leave a deviation to take."""
    if not 0 <= ddof < count:
        raise ValueError(f"{name}.shape={shape} with ddof={ddof}, expected more than "
                         f"{ddof} rollouts to take a deviation of, and ddof >= 0")
