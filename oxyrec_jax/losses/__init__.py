"""Objectives as pure functions on arrays; none knows a model or a config.

    from oxyrec_jax import losses
    loss = losses.grpo_loss(log_probs, old_log_probs,
                            losses.group_advantages(rewards), mask).mean()

Every loss returns `Weighted`, a sum and the weight it stands for; `.mean()` is taken
once, at the edge, so that masks, micro-batches and shards add up. docs/losses.md shows
the whole family in one table.
"""

from oxyrec_jax.base import Weighted
from oxyrec_jax.losses.advantages import (
    asymmetric_advantages,
    gdpo_advantages,
    group_advantages,
    leave_one_out_advantages,
    real_feedback_threshold,
    reinforce_pp_advantages,
)
from oxyrec_jax.losses.alignment import info_nce_loss, q2i_loss
from oxyrec_jax.losses.binary import binary_loss
from oxyrec_jax.losses.diagnostics import policy_diagnostics
from oxyrec_jax.losses.distillation import distillation_loss
from oxyrec_jax.losses.kl import kl_penalty
from oxyrec_jax.losses.likelihood import chunked_next_code_loss, next_code_loss
from oxyrec_jax.losses.masked import masked_code_loss
from oxyrec_jax.losses.policy import (
    cispo_loss,
    dapo_loss,
    dr_grpo_loss,
    grpo_loss,
    gspo_loss,
    reinforce_pp_loss,
    rloo_loss,
    sapo_loss,
)
from oxyrec_jax.losses.policy_recommendation import (
    a2po_loss,
    ecpo_loss,
    gbpo_loss,
    sa_gcpo_loss,
)
from oxyrec_jax.losses.preference import dpo_loss, simpo_loss, softmax_dpo_loss

__all__ = [
    "Weighted",
    "a2po_loss",
    "asymmetric_advantages",
    "binary_loss",
    "chunked_next_code_loss",
    "cispo_loss",
    "dapo_loss",
    "distillation_loss",
    "dpo_loss",
    "dr_grpo_loss",
    "ecpo_loss",
    "gbpo_loss",
    "gdpo_advantages",
    "group_advantages",
    "grpo_loss",
    "gspo_loss",
    "info_nce_loss",
    "kl_penalty",
    "leave_one_out_advantages",
    "masked_code_loss",
    "next_code_loss",
    "policy_diagnostics",
    "q2i_loss",
    "real_feedback_threshold",
    "reinforce_pp_advantages",
    "reinforce_pp_loss",
    "rloo_loss",
    "sa_gcpo_loss",
    "sapo_loss",
    "simpo_loss",
    "softmax_dpo_loss",
]
