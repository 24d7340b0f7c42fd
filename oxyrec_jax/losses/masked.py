"""The likelihood of codes that are hidden among others: masked diffusion."""

import jax.numpy as jnp

from oxyrec_jax.base import Array, Weighted
from oxyrec_jax.losses import checks
from oxyrec_jax.losses.likelihood import next_code_loss


def masked_code_loss(logits: Array, targets: Array, hidden: Array, mask: Array, *,
                     level: int, sample_weights: Array | None = None,
                     z_loss: float = 0.0) -> Weighted:
    """One level's part of the masked-diffusion loss of semantic IDs.

    Of a target of weight w with n of its T codes hidden, a hidden code y costs

        w · T / n · [z - logits_y + z_loss · z²],    z = log Σ_v exp(logits_v)

    and one that is shown nothing. The levels' sum bounds -log p of the semantic ID in
    expectation, where n is uniform on 1 .. T and every set of n codes as likely: it is
    the mean over all orders of the codes of the chain rule's negative log-likelihood.
    Masking each code with a probability t uniform in (0, 1) and weighing by 1 / t has
    the same expectation, at a higher variance.

    Args:
      logits: `[..., V]` float, nats up to a constant; -inf forbids a code. Receives the
        gradient.
      targets: `[...]` int, the codes of this level, in `[0, V)` where they count.
      hidden: `[..., T]` bool, which of each target's codes the network did not see. A
        target of which none is hidden costs nothing.
      mask: `[...]` bool, true = supervised.
      level: whose codes these are, in `[0, T)`.
      sample_weights: `[...]` float, unit-free, `>= 0`. None weighs every target 1.
      z_loss: weight of z², `>= 0`.

    Returns:
      Scalar `Weighted`: the costs in nats, and the weights of all supervised targets,
      hidden or not, so that the levels' means add up to the mean of a target.

    Raises:
      ValueError: shapes disagree or an option is out of range.
      TypeError: a dtype is wrong.

    Source: Nie et al. 2025 (LLaDA), https://arxiv.org/abs/2502.09992, eq. 3, by count
    as in its eq. 6; as a bound on the likelihood, Sahoo et al. 2024 (MDLM),
    https://arxiv.org/abs/2406.07524, section 3; as the mean over all orders, Hoogeboom
    et al. 2021, https://arxiv.org/abs/2110.02037, section 2.
    """
    logits = checks.as_float("logits", logits)
    mask = checks.as_mask("mask", mask, logits.shape[:-1])
    hidden = checks.as_mask("hidden", hidden)
    if hidden.shape[:-1] != mask.shape or not 0 <= level < hidden.shape[-1]:
        raise ValueError(f"hidden.shape={hidden.shape} and level={level}, expected "
                         f"[*{mask.shape}, T] and a level below T")
    weights = checks.as_weights(sample_weights, mask, logits.dtype)
    count = jnp.maximum(jnp.sum(hidden, axis=-1), 1)
    found = next_code_loss(logits, targets, mask & hidden[..., level],
                           sample_weights=weights * (hidden.shape[-1] / count),
                           z_loss=z_loss)
    return Weighted(found.total, jnp.sum(weights))
