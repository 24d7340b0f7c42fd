"""Axis four of a policy objective: which codes and sequences weigh how much.

Every function takes `cost` and `mask` (`[B, G, T]` bool, true = real code) and returns
the `Weighted` sum; a sequence without a real code weighs nothing anywhere. Sums over
micro-batches and shards add.
"""

import jax.numpy as jnp
from jax.typing import DTypeLike

from oxyrec_jax.base import Array, Weighted


def token_mean(cost: Array, mask: Array) -> Weighted:
    """Every code weighs the same; `cost` is `[B, G, T]`."""
    return Weighted(jnp.sum(cost, where=mask), count(mask, cost.dtype))


def mean_of_token_means(cost: Array, mask: Array) -> Weighted:
    """Every sequence weighs the same, by its mean code; `cost` is `[B, G, T]`."""
    length = count(mask, cost.dtype, axis=-1)
    means = jnp.sum(cost, axis=-1, where=mask) / jnp.maximum(length, 1)
    return Weighted(jnp.sum(means), count(length > 0, cost.dtype))


def sequence_mean(cost: Array, mask: Array) -> Weighted:
    """Every sequence weighs the same; `cost` is `[B, G]`."""
    live = jnp.any(mask, axis=-1)
    return Weighted(jnp.sum(cost, where=live), count(live, cost.dtype))


def constant_length(cost: Array, mask: Array, *, length: float) -> Weighted:
    """A sequence is the sum of its codes over a constant; `cost` is `[B, G, T]`."""
    live = jnp.any(mask, axis=-1)
    total = jnp.sum(cost, where=mask) / length
    return Weighted(total, count(live, cost.dtype))


def count(mask: Array, dtype: DTypeLike, *, axis: int | None = None) -> Array:
    """How many are true, as `dtype`; over the last axis or all of them.

    Counted as integers: XLA then fuses the sum with what surrounds it, which for a sum
    of floats it does not do on CPU (a third of GSPO's time, measured).
    """
    return jnp.sum(mask, axis=axis, dtype=jnp.int32).astype(dtype)
