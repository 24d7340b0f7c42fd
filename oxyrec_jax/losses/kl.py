"""Estimators of the Kullback-Leibler divergence from the reference policy."""

import jax
import jax.numpy as jnp

from oxyrec_jax.base import Array, Weighted
from oxyrec_jax.losses import aggregation, checks, ratios


def kl_penalty(log_probs: Array, ref_log_probs: Array, mask: Array, *,
               kind: str = "k3") -> Weighted:
    """Estimated KL(π ‖ π_ref) of the sampled codes: mean of each sequence's mean.

    With d = lp - ref: `"k1"` is d, `"k2"` is d²/2, `"k3"` is e^{-d} - 1 + d. On policy
    k1 and k3 are the divergence in expectation; the expected gradient of k2 is the
    divergence's, that of k3 is KL(π_ref ‖ π)'s (nearly the same near the reference),
    that of k1 is 0: k1 belongs in the reward.

    Args:
      log_probs: `[B, G, T]` float, nats: the sampled codes under the policy in
        training. The only argument that receives a gradient.
      ref_log_probs: `[B, G, T]` float, nats: under the frozen reference.
      mask: `[B, G, T]` bool, true = real code.
      kind: the estimator.

    Returns:
      Scalar `Weighted` in nats: the sum over sequences, and how many there are. Its
      mean times a coefficient adds to the mean of a policy loss.

    Raises:
      ValueError: shapes disagree or `kind` is unknown.
      TypeError: a dtype is wrong.

    Source: Schulman 2020, http://joschu.net/blog/kl-approx.html; k3 in a loss and the
    default: DeepSeekMath 2024, https://arxiv.org/abs/2402.03300, eq. 4.
    """
    checks.check_rank("log_probs", log_probs, "B G T")
    log_probs = checks.as_float("log_probs", log_probs)
    ref_log_probs = checks.as_float("ref_log_probs", ref_log_probs, log_probs.shape)
    mask = checks.as_mask("mask", mask, log_probs.shape)
    cost = token_kl(log_probs, ref_log_probs, mask, kind=kind)
    return aggregation.mean_of_token_means(cost, mask)


def token_kl(log_probs: Array, ref_log_probs: Array, mask: Array, *,
             kind: str) -> Array:
    """The estimator of each code, `[B, G, T]` in nats, 0 where masked."""
    distance = jnp.where(mask, log_probs - jax.lax.stop_gradient(ref_log_probs), 0)
    if kind == "k1":
        return distance
    if kind == "k2":
        return jnp.square(distance) / 2
    if kind == "k3":
        return jnp.expm1(ratios.held(-distance, ratios.MOST_NATS)) + distance
    raise ValueError(f"kind={kind!r}, expected 'k1', 'k2' or 'k3'")
