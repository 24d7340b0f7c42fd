"""Axis three of a policy objective: what a ratio and an advantage cost.

Every function takes `ratio` (unit-free, with gradient) and `advantages` (unit-free,
without) of one shape or broadcastable to one, and returns the cost to minimise in that
shape. The gradient of each with respect to log π is -A times a weight w(ratio):

    linear         w = r
    clipped        w = r, and 0 where A > 0 and r > 1 + high, or A < 0 and r < 1 - low
    dual_clipped   w = clipped's, and 0 where A < 0 and r > cap
    soft_gate      w = r · sech²(τ (r - 1) / 2)
    capped_weight  w = min(r, cap)
"""

import jax
import jax.numpy as jnp

from oxyrec_jax.base import Array


def linear(ratio: Array, advantages: Array) -> Array:
    """The importance-weighted cost -r A."""
    return -ratio * advantages


def clipped(ratio: Array, advantages: Array, *, low: float, high: float) -> Array:
    """The pessimistic clipped cost -min(r A, clip(r, 1 - low, 1 + high) A)."""
    # Chosen, not the smaller one of two: equal ones would share the gradient.
    most, least = 1 + high, 1 - low
    good = advantages > 0
    far = jnp.where(good, ratio > most, ratio < least)
    return -jnp.where(far, jnp.where(good, most, least), ratio) * advantages


def dual_clipped(ratio: Array, advantages: Array, *, low: float, high: float,
                 cap: float) -> Array:
    """The clipped cost, where A < 0 at most -cap A: a far ratio cannot run away."""
    cost = clipped(ratio, advantages, low=low, high=high)
    return jnp.where(advantages < 0, jnp.minimum(cost, -cap * advantages), cost)


def soft_gate(ratio: Array, advantages: Array, *, tau_pos: float,
              tau_neg: float) -> Array:
    """The gated cost -(4/τ) σ(τ (r - 1)) A, τ = tau_pos where A > 0, else tau_neg."""
    tau = jnp.where(advantages > 0, tau_pos, tau_neg).astype(ratio.dtype)
    return -4 / tau * jax.nn.sigmoid(tau * (ratio - 1)) * advantages


def capped_weight(log_probs: Array, ratio: Array, advantages: Array, *,
                  cap: float) -> Array:
    """The weighted likelihood -sg(min(r, cap)) A log π: no code loses its gradient."""
    return -jax.lax.stop_gradient(jnp.minimum(ratio, cap)) * advantages * log_probs
