"""Axis two of a policy objective: how far the policy is from the one that sampled.

Every function takes `log_probs` and `old_log_probs` (`[B, G, T]` float32, nats) and
`mask` (`[B, G, T]` bool, true = real code), and returns probability ratios (unit-free)
of tokens `[B, G, T]` or of sequences `[B, G]`. Only `log_probs` receives a gradient;
masked places have ratio 1 and none.
"""

import jax
import jax.numpy as jnp

from oxyrec_jax.base import Array
from oxyrec_jax.losses import aggregation

# Ours: past 20 nats (a ratio of 5e8) a ratio grows no further but keeps its gradient,
# so that neither it nor a sum over a batch of them overflows float32.
MOST_NATS = 20.0
_IMPOSSIBLE = -1e4  # ours: log-probability, nats, of what the old policy never sampled


def token_ratio(log_probs: Array, old_log_probs: Array, mask: Array) -> Array:
    """One ratio for each code, exp(lp - old): `[B, G, T]`."""
    return jnp.exp(held(_log_ratio(log_probs, old_log_probs, mask), MOST_NATS))


def sequence_mean_ratio(log_probs: Array, old_log_probs: Array, mask: Array) -> Array:
    """The geometric mean of a sequence's ratios, exp(mean_t(lp - old)): `[B, G]`."""
    log_ratio = _log_ratio(log_probs, old_log_probs, mask)
    length = aggregation.count(mask, log_ratio.dtype, axis=-1)
    mean = jnp.sum(log_ratio, axis=-1) / jnp.maximum(length, 1)
    return jnp.exp(held(mean, MOST_NATS))


def sequence_sum_ratio(log_probs: Array, old_log_probs: Array, mask: Array) -> Array:
    """The ratio of a whole item, exp(Σ_t(lp - old)): `[B, G]`."""
    log_ratio = jnp.sum(_log_ratio(log_probs, old_log_probs, mask), axis=-1)
    return jnp.exp(held(log_ratio, MOST_NATS))


def early_clipped_ratio(log_probs: Array, old_log_probs: Array, mask: Array, *,
                        limit: float) -> Array:
    """The ratio of a whole item to an old policy lifted until it is at most `limit`.

    With π' = max(π_old, sg(π) / limit) the ratio is π / π': `[B, G]`. Where the lift
    acts its value is `limit` and its gradient is that of `limit · log π`.

    Args:
      log_probs: see above.
      old_log_probs: see above.
      mask: see above.
      limit: the largest ratio, unit-free, `> 0`.
    """
    log_ratio = jnp.sum(_log_ratio(log_probs, old_log_probs, mask), axis=-1)
    return jnp.exp(held(log_ratio, jnp.log(limit).astype(log_ratio.dtype)))


def bounded_ratio(log_probs: Array, old_log_probs: Array, advantages: Array,
                  mask: Array) -> Array:
    """π / D for each code, D = max(μ, sg π) if A >= 0, max(μ, 1 - sg π) if A < 0.

    A good code's ratio never exceeds 1, and the push away from a bad one is at most
    that of a binary cross-entropy: `[B, G, T]`.

    Args:
      log_probs: see above.
      old_log_probs: see above; log μ.
      advantages: `[B, G, 1]` float, only its sign counts.
      mask: see above.
    """
    now = jax.lax.stop_gradient(jnp.where(mask, log_probs, -1))
    tiny = jnp.finfo(now.dtype).tiny
    otherwise = jnp.log(jnp.maximum(-jnp.expm1(now), tiny))
    bound = jnp.maximum(old_log_probs, jnp.where(advantages >= 0, now, otherwise))
    return jnp.exp(held(_log_ratio(log_probs, bound, mask), MOST_NATS))


def _log_ratio(log_probs: Array, old_log_probs: Array, mask: Array) -> Array:
    """lp - old in nats, 0 where masked: a padded NaN reaches neither side."""
    old = jax.lax.stop_gradient(old_log_probs)
    old = jnp.where(old == -jnp.inf, _IMPOSSIBLE, old)  # a difference stays a number
    return jnp.where(mask, log_probs - old, 0)


def held(log_ratio: Array, most: float | Array) -> Array:
    """`log_ratio`, at most `most`, with the gradient of `log_ratio` everywhere."""
    return log_ratio - jax.lax.stop_gradient(jnp.maximum(log_ratio - most, 0))
