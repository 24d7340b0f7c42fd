"""Axis four of a policy objective: which codes and sequences weigh how much.

Every function takes `cost` and `mask` (`[B, G, T]` bool, true = real code) and returns
the `Weighted` sum; a sequence without a real code weighs nothing anywhere. Sums over
micro-batches and shards add.
"""

import jax.numpy as jnp

from oxyrec_jax.base import Array, Weighted


def token_mean(cost: Array, mask: Array) -> Weighted:
    """Every code weighs the same; `cost` is `[B, G, T]`."""
    return Weighted(jnp.sum(cost, where=mask), jnp.sum(mask, dtype=cost.dtype))


def mean_of_token_means(cost: Array, mask: Array) -> Weighted:
    """Every sequence weighs the same, by its mean code; `cost` is `[B, G, T]`."""
    length = jnp.sum(mask, axis=-1, dtype=cost.dtype)
    means = jnp.sum(cost, axis=-1, where=mask) / jnp.maximum(length, 1)
    return Weighted(jnp.sum(means), jnp.sum(length > 0, dtype=cost.dtype))


def sequence_mean(cost: Array, mask: Array) -> Weighted:
    """Every sequence weighs the same; `cost` is `[B, G]`."""
    live = jnp.any(mask, axis=-1)
    return Weighted(jnp.sum(cost, where=live), jnp.sum(live, dtype=cost.dtype))


def constant_length(cost: Array, mask: Array, *, length: float) -> Weighted:
    """A sequence is the sum of its codes over a constant; `cost` is `[B, G, T]`."""
    live = jnp.any(mask, axis=-1)
    total = jnp.sum(cost, where=mask) / length
    return Weighted(total, jnp.sum(live, dtype=cost.dtype))
