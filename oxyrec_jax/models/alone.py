"""Attention of candidates that see a context and themselves, and no other candidate."""

import jax
import jax.numpy as jnp

from oxyrec_jax.base import Array
from oxyrec_jax.models import layers


def attend_alone(query: Array, key: Array, value: Array, bias: Array, allowed: Array,
                 *, own: Array) -> Array:
    """Attention of a context to itself, and of each item to the context and itself.

    Args:
      query, key, value: `[B, H, K + G, D]`, the context first.
      bias: `[B, H, K + 1, K]`; the last row is of all items.
      allowed: `[B, 1, K, K]` bool; the last row is of all items too.
      own: `[1, H, 1]`: the bias of an item to itself.

    Returns:
      `[B, H, K + G, D]`.
    """
    size = allowed.shape[-1]
    context = layers.attend(query[:, :, :size], key[:, :, :size], value[:, :, :size],
                            bias[:, :, :-1], allowed)
    asked, ours, mine = (part[:, :, size:] for part in (query, key, value))
    scale = query.shape[-1] ** -0.5
    others = jnp.matmul(asked, key[:, :, :size].swapaxes(-1, -2)).astype(jnp.float32)
    others = jnp.where(allowed[:, :, -1:], others * scale + bias[:, :, -1:],
                       layers.FORBIDDEN)
    self_score = jnp.sum(asked * ours, axis=-1, dtype=jnp.float32) * scale + own
    weights = jax.nn.softmax(
        jnp.concatenate([others, self_score[..., None]], axis=-1), axis=-1)
    weights = weights.astype(value.dtype)
    mixed = (jnp.matmul(weights[..., :size], value[:, :, :size])
             + weights[..., size:] * mine)
    return jnp.concatenate([context, mixed], axis=2)
