"""Objectives on pairs and sets of ranked items: neither rollouts nor an old policy."""

import jax
import jax.numpy as jnp

from oxyrec_jax.base import Array, Weighted
from oxyrec_jax.losses import aggregation, checks


def dpo_loss(chosen: Array, rejected: Array, ref_chosen: Array, ref_rejected: Array, *,
             beta: float, label_smoothing: float = 0, mask: Array | None = None
             ) -> Weighted:
    """Direct Preference Optimization: the chosen item above the rejected one.

    cost = -(1 - s) log σ(β Δ) - s log σ(-β Δ),
    Δ = (chosen - ref_chosen) - (rejected - ref_rejected), s = label_smoothing.

    Args:
      chosen: `[B]` float, nats: log-probability of the whole chosen item. It and
        `rejected` receive a gradient.
      rejected: `[B]` float, nats: of the rejected item.
      ref_chosen: `[B]` float, nats: of the chosen item under the frozen reference.
      ref_rejected: `[B]` float, nats: of the rejected item under it.
      beta: strength of the tie to the reference, unit-free, `> 0`.
      label_smoothing: share of pairs believed to be mislabelled, in `[0, 0.5)`.
      mask: `[B]` bool, true = real pair. None: all are.

    Returns:
      Scalar `Weighted`, nats: the sum over real pairs, and how many there are.

    Raises:
      ValueError: shapes disagree or an option is out of range.
      TypeError: a dtype is wrong.

    Source: Rafailov et al. 2023, https://arxiv.org/abs/2305.18290, eq. 7; smoothing:
    Mitchell 2023, https://ericmitchell.ai/cdpo.pdf; default: none.
    """
    checks.check_rank("chosen", chosen, "B")
    chosen = checks.as_float("chosen", chosen)
    rejected = checks.as_float("rejected", rejected, chosen.shape)
    ref_chosen = checks.as_float("ref_chosen", ref_chosen, chosen.shape)
    ref_rejected = checks.as_float("ref_rejected", ref_rejected, chosen.shape)
    checks.check_option("beta", beta, 0, open_low=True)
    checks.check_option("label_smoothing", label_smoothing, 0, 0.5, open_high=True)
    ref_margin = jax.lax.stop_gradient(ref_chosen - ref_rejected)
    margin = beta * (chosen - rejected - ref_margin)
    mask = checks.optional_mask(mask, margin.shape)
    margin = jnp.where(mask, margin, 0)
    cost = jax.nn.softplus(-margin)
    if not checks.is_off(label_smoothing):
        # softplus(m) = softplus(-m) + m: one logarithm serves both directions.
        cost = cost + label_smoothing * margin
    return Weighted(jnp.sum(cost, where=mask), aggregation.count(mask, cost.dtype))


def softmax_dpo_loss(positive: Array, negatives: Array, ref_positive: Array,
                     ref_negatives: Array, *, beta: float,
                     mask: Array | None = None) -> Weighted:
    """Softmax DPO: the positive item above each of several negatives at once.

    cost = -log softmax(β u)_positive over the positive and its negatives, where
    u = log π - log π_ref of the whole item. With one negative it is DPO.

    Args:
      positive: `[B]` float, nats: log-probability of the whole positive item. It and
        `negatives` receive a gradient.
      negatives: `[B, N]` float, nats.
      ref_positive: `[B]` float, nats: under the frozen reference.
      ref_negatives: `[B, N]` float, nats: under it.
      beta: strength of the tie to the reference, unit-free, `> 0`.
      mask: `[B, N]` bool, true = real negative. A row without one weighs nothing.

    Returns:
      Scalar `Weighted`, nats: the sum over rows, and how many there are.

    Raises:
      ValueError: shapes disagree or beta is not positive.
      TypeError: a dtype is wrong.

    Source: Chen et al. 2024 (S-DPO), https://arxiv.org/abs/2406.09215, §3.
    """
    checks.check_rank("negatives", negatives, "B N")
    negatives = checks.as_float("negatives", negatives)
    ref_negatives = checks.as_float("ref_negatives", ref_negatives, negatives.shape)
    rows = negatives.shape[:1]
    positive = checks.as_float("positive", positive, rows)
    ref_positive = checks.as_float("ref_positive", ref_positive, rows)
    checks.check_option("beta", beta, 0, open_low=True)
    mask = checks.optional_mask(mask, negatives.shape)
    live = jnp.any(mask, axis=-1)
    best = jnp.where(live, positive - jax.lax.stop_gradient(ref_positive), 0)
    others = jnp.where(mask, negatives - jax.lax.stop_gradient(ref_negatives), 0)
    behind = beta * jnp.where(mask, others - best[:, None], -jnp.inf)
    behind = jnp.concatenate([jnp.zeros_like(best)[:, None], behind], axis=-1)
    cost = jax.nn.logsumexp(behind, axis=-1)  # log(1 + Σ_j exp(β (u_j - u_positive)))
    return Weighted(jnp.sum(cost, where=live), aggregation.count(live, cost.dtype))


def simpo_loss(chosen_mean: Array, rejected_mean: Array, *, beta: float,
               margin: float, mask: Array | None = None) -> Weighted:
    """SimPO: the chosen item above the rejected one by a margin, without a reference.

    cost = -log σ(β (chosen_mean - rejected_mean) - margin)

    Args:
      chosen_mean: `[B]` float, nats per code: mean log-probability of the chosen item's
        codes. It and `rejected_mean` receive a gradient.
      rejected_mean: `[B]` float, nats per code.
      beta: scale of the difference, unit-free, `> 0`.
      margin: γ, unit-free, `>= 0` (so γ/β is the margin in nats per code).
      mask: `[B]` bool, true = real pair. None: all are.

    Returns:
      Scalar `Weighted`, nats: the sum over real pairs, and how many there are.

    Raises:
      ValueError: shapes disagree or an option is out of range.
      TypeError: a dtype is wrong.

    Source: Meng et al. 2024, https://arxiv.org/abs/2405.14734, eq. 6.
    """
    checks.check_rank("chosen_mean", chosen_mean, "B")
    chosen_mean = checks.as_float("chosen_mean", chosen_mean)
    rejected_mean = checks.as_float("rejected_mean", rejected_mean, chosen_mean.shape)
    checks.check_option("beta", beta, 0, open_low=True)
    checks.check_option("margin", margin, 0)
    mask = checks.optional_mask(mask, chosen_mean.shape)
    ahead = jnp.where(mask, chosen_mean - rejected_mean, 0)
    cost = jax.nn.softplus(margin - beta * ahead)
    return Weighted(jnp.sum(cost, where=mask), aggregation.count(mask, cost.dtype))
