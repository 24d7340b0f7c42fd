"""A student learns the distribution of a teacher that was told more."""

import jax
import jax.numpy as jnp

from oxyrec_jax.base import Array, Weighted
from oxyrec_jax.losses import aggregation, checks


def distillation_loss(log_probs: Array, teacher_log_probs: Array, mask: Array, *,
                      certain: float = 0.0) -> Weighted:
    """Forward divergence of the student from the teacher, or the teacher's one choice.

    With p the teacher's distribution of a code, H its entropy and q the student's, a
    code costs

        KL(p ‖ q) = Σ_v p_v (log p_v - log q_v)    where H > certain
        -log q_v of the most likely v of p         where H <= certain and certain > 0

    Args:
      log_probs: `[..., V]` float, nats: the student's, -inf where a code is impossible.
        The only argument that receives a gradient.
      teacher_log_probs: `[..., V]` float, nats: the teacher's over the same codes. A
        code that the student alone forbids makes the loss infinite.
      mask: `[...]` bool, true = a code that is distilled.
      certain: entropy, nats, `>= 0`, up to which the teacher's one choice is learnt;
        0: nowhere.

    Returns:
      Scalar `Weighted` in nats: the sum over codes, and how many there are.

    Raises:
      ValueError: shapes disagree or `certain` is negative.
      TypeError: a dtype is wrong.

    Source: privileged self-distillation, the one choice at low entropy and forward KL
    at high entropy: OxygenREC-v2, arXiv 2607.24255, of which no formula is at hand: the
    formulas here are inferred, the threshold is ours.
    """
    log_probs = checks.as_float("log_probs", log_probs)
    teacher = checks.as_float("teacher_log_probs", teacher_log_probs, log_probs.shape)
    mask = checks.as_mask("mask", mask, log_probs.shape[:-1])
    checks.check_option("certain", certain, 0)
    teacher = jax.lax.stop_gradient(teacher)
    taught = mask[..., None] & (teacher > -jnp.inf)
    possible = taught & (log_probs > -jnp.inf)
    out_of_reach = jnp.any(taught & (log_probs == -jnp.inf), axis=-1)
    own, told = (jnp.where(possible, each, 0) for each in (log_probs, teacher))
    chances = jnp.where(possible, jnp.exp(told), 0)
    entropy = -jnp.sum(chances * told, axis=-1)
    spread = jnp.sum(chances * (told - own), axis=-1)
    best = jnp.argmax(jnp.where(possible, told, -jnp.inf), axis=-1)
    choice = -jnp.take_along_axis(own, best[..., None], axis=-1)[..., 0]
    cost = jnp.where((entropy <= certain) & (certain > 0), choice, spread)
    return aggregation.token_mean(jnp.where(out_of_reach, jnp.inf, cost), mask)
