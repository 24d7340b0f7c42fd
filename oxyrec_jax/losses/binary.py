"""The likelihood of yes or no: did a person click, fill the cart, order."""

import jax
import jax.numpy as jnp

from oxyrec_jax.base import Array, Weighted
from oxyrec_jax.losses import checks


def binary_loss(logits: Array, labels: Array, mask: Array, *,
                sample_weights: Array | None = None) -> Weighted:
    """Weighted cross-entropy of a yes or no under a sigmoid.

    A label y of weight w costs w · [log(1 + exp(x)) - y x], x the logit. Steps that
    follow each other, such as click, cart and order, have the likelihood of how far
    somebody went as the sum of their losses, each masked to where the step before was
    taken.

    Args:
      logits: `[...]` float, nats; log p / (1 - p). Receives the gradient.
      labels: `[...]` bool, or float in [0, 1] for a share.
      mask: `[...]` bool, true = supervised. Elsewhere nothing is read.
      sample_weights: `[...]` float, unit-free, `>= 0`. None weighs every label 1.

    Returns:
      Scalar `Weighted`: the weighted sum of the costs in nats, and the sum of weights.

    Raises:
      ValueError: shapes disagree.
      TypeError: a dtype is wrong.

    Source: the log-likelihood of a Bernoulli variable; steps of a funnel as products of
      conditional chances, Ma et al. 2018, https://arxiv.org/abs/1804.07931, eq. 2.
    """
    logits = checks.as_float("logits", logits)
    mask = checks.as_mask("mask", mask, logits.shape)
    labels = jnp.asarray(labels)
    if labels.dtype == jnp.bool_:
        labels = labels.astype(logits.dtype)
    labels = checks.as_float("labels", labels, logits.shape)
    logits, labels = (jnp.where(mask, values, 0) for values in (logits, labels))
    costs = jax.nn.softplus(logits) - labels * logits
    weights = checks.as_weights(sample_weights, mask, logits.dtype)
    return Weighted(jnp.sum(weights * costs), jnp.sum(weights))
