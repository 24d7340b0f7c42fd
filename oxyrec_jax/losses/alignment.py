"""Objectives that bring two sets of vectors together: Q2I and contrastive."""

import jax
import jax.numpy as jnp

from oxyrec_jax.base import Array, Weighted
from oxyrec_jax.losses import aggregation, checks


def q2i_loss(queries: Array, targets: Array, *, variance_weight: float,
             decorrelation_weight: float, mask: Array | None = None) -> Weighted:
    """Pulls each query to its item, keeping the batch spread out and decorrelated.

    L = -mean_i(q_i · t_i) - variance_weight · log[Var(Q) Var(T)]
        + decorrelation_weight / (B² - B) · Σ_{i≠j} (q_i · q_j)²

    Var is the population variance over the batch, averaged over dimensions.

    Args:
      queries: `[B, D]` float, B >= 2, L2-normalised by the caller. Receives a gradient.
      targets: `[B, D]` float, likewise, row i being the item of query i. Receives a
        gradient: stop it where a shared table must stay unharmed.
      variance_weight: λ_r, unit-free, `>= 0`. The paper gives none; 0.01 is in use.
      decorrelation_weight: λ_d, unit-free, `>= 0`. Likewise.
      mask: `[B]` bool, true = real pair; the others count nowhere, as if the batch had
        only the real ones.

    Returns:
      Scalar `Weighted`: B times L, and B (of the real pairs). Under data sharding the
      whole global batch counts; micro-batches are batches of their own, for Var is not
      a mean over rows.

    Raises:
      ValueError: shapes disagree, B = 1, or a weight is negative.
      TypeError: a dtype is wrong.

    Source: OxygenREC 2025, https://arxiv.org/abs/2512.22386, eq. 2.
    """
    checks.check_rank("queries", queries, "B D")
    queries = checks.as_float("queries", queries)
    targets = checks.as_float("targets", targets, queries.shape)
    checks.check_option("variance_weight", variance_weight, 0)
    checks.check_option("decorrelation_weight", decorrelation_weight, 0)
    rows, width = queries.shape
    if rows < 2:
        raise ValueError(f"queries.shape={queries.shape}, expected [B, D] with B >= 2")
    size: Array | int = rows
    if mask is not None:
        mask = checks.as_mask("mask", mask, queries.shape[:1])
        queries = jnp.where(mask[:, None], queries, 0)
        targets = jnp.where(mask[:, None], targets, 0)
        size = jnp.maximum(aggregation.count(mask, queries.dtype), 2)
    near = jnp.sum(queries * targets) / size
    spread = _log_variance(queries, mask) + _log_variance(targets, mask)
    own = jnp.sum(jnp.square(jnp.sum(jnp.square(queries), axis=-1)))
    # Σ_ij (q_i·q_j)² is the squared norm of either Gram matrix: take the smaller one,
    # which on a sharded batch also is the one that travels.
    gram = queries.T @ queries if width < rows else queries @ queries.T
    crossed = (jnp.sum(jnp.square(gram)) - own) / (size * size - size)
    loss = -near - variance_weight * spread + decorrelation_weight * crossed
    if mask is None:
        return Weighted(loss * rows, jnp.full((), rows, loss.dtype))
    count = aggregation.count(mask, loss.dtype)
    return Weighted(jnp.where(count > 1, loss * count, 0), count)


def info_nce_loss(anchors: Array, positives: Array, *, temperature: float | Array,
                  mask: Array | None = None, excluded: Array | None = None,
                  symmetric: bool = False) -> Weighted:
    """Each anchor must find its positive among those of the whole batch.

    cost_i = -s_ii + log Σ_j exp(s_ij), s_ij = a_i · p_j / temperature

    Args:
      anchors: `[B, D]` float, L2-normalised by the caller. Receives a gradient.
      positives: `[B, D]` float, likewise; row i belongs to anchor i. Receives a
        gradient.
      temperature: unit-free, `> 0`; an array receives a gradient too (learned
        temperature).
      mask: `[B]` bool, true = real pair; the others are neither anchors nor
        negatives.
      excluded: `[B, B]` bool, true at [i, j] = anchor i and positive j are no negatives
        of each other, because they are known to belong together; i = j is ignored.
      symmetric: the mean of both directions, each positive also finding its anchor.

    Returns:
      Scalar `Weighted`, nats: the sum over anchors, and how many there are. Under data
      sharding the negatives are those of the whole global batch.

    Raises:
      ValueError: shapes disagree or the temperature is not positive.
      TypeError: a dtype is wrong.

    Source: van den Oord et al. 2018, https://arxiv.org/abs/1807.03748, eq. 4;
    symmetric: Radford et al. 2021, https://arxiv.org/abs/2103.00020, figure 3.
    """
    checks.check_rank("anchors", anchors, "B D")
    anchors = checks.as_float("anchors", anchors)
    positives = checks.as_float("positives", positives, anchors.shape)
    checks.check_option("temperature", temperature, 0, open_low=True)
    mask = checks.optional_mask(mask, anchors.shape[:1])
    anchors = jnp.where(mask[:, None], anchors, 0)
    positives = jnp.where(mask[:, None], positives, 0)
    # Scaling the anchors first costs B D instead of B² divisions.
    anchors = anchors / jnp.asarray(temperature, anchors.dtype)
    scores = anchors @ positives.T
    own = jnp.sum(anchors * positives, axis=-1)
    counted = mask
    if excluded is not None:
        excluded = checks.as_mask("excluded", excluded, scores.shape)
        counted = mask & (~excluded | jnp.eye(len(mask), dtype=bool))
    total = jnp.sum(_log_normaliser(scores, counted) - own, where=mask)
    if symmetric:
        counted = mask if excluded is None else counted.T & mask
        back = jnp.sum(_log_normaliser(scores.T, counted) - own, where=mask)
        total = (total + back) / 2
    return Weighted(total, aggregation.count(mask, total.dtype))


def _log_variance(vectors: Array, mask: Array | None) -> Array:
    """log of the mean over dimensions of the population variance over the batch."""
    # Seen from one of them, equal vectors are exactly 0: the mean would leave rounding.
    one = 0 if mask is None else jnp.argmax(mask)
    vectors = vectors - jax.lax.stop_gradient(vectors[one])
    if mask is None:
        variance = jnp.mean(jnp.var(vectors, axis=0))
    else:
        vectors = jnp.where(mask[:, None], vectors, 0)
        size = jnp.maximum(aggregation.count(mask, vectors.dtype), 1)
        apart = jnp.where(mask[:, None], vectors - jnp.sum(vectors, axis=0) / size, 0)
        variance = jnp.mean(jnp.sum(jnp.square(apart), axis=0)) / size
    # A collapsed batch has variance 0: the cost stays finite and its gradient 0.
    return jnp.log(jnp.maximum(variance, jnp.finfo(variance.dtype).tiny))


def _log_normaliser(scores: Array, mask: Array) -> Array:
    """log Σ_j exp(scores_ij) over the real columns j; 0 where there are none."""
    most = jnp.max(scores, axis=-1, where=mask, initial=-jnp.inf)
    most = jax.lax.stop_gradient(jnp.where(jnp.isfinite(most), most, 0))
    total = jnp.sum(jnp.exp(jnp.where(mask, scores - most[:, None], 0)), axis=-1,
                    where=mask)
    return jnp.log(jnp.where(total > 0, total, 1)) + most
