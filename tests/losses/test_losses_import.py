"""What `from oxyrec_jax import losses` offers, and how little it brings along."""

import inspect
import json
import os
import subprocess
import sys

from oxyrec_jax import losses

LIST_MODULES = """
import json, sys
import jax, jax.numpy, numpy, typing, dataclasses, functools
before = set(sys.modules)
from oxyrec_jax import losses
print(json.dumps(sorted(set(sys.modules) - before)))
"""
NAMES = """
next_code_loss(logits, targets, mask, *, sample_weights, label_smoothing, z_loss)
q2i_loss(queries, targets, *, variance_weight, decorrelation_weight, mask)
info_nce_loss(anchors, positives, *, temperature, mask, excluded, symmetric)
group_advantages(rewards, *, scale, ddof, eps)
leave_one_out_advantages(rewards)
reinforce_pp_advantages(rewards, log_probs, ref_log_probs, mask, *, kl_coef)
asymmetric_advantages(business, semantic, *, eps)
real_feedback_threshold(advantages, rewards, target_rewards)
gdpo_advantages(rewards, weights)
grpo_loss(log_probs, old_log_probs, advantages, mask, *, clip_low, clip_high, dual_clip)
dapo_loss(log_probs, old_log_probs, advantages, mask, *, clip_low, clip_high)
gspo_loss(log_probs, old_log_probs, advantages, mask, *, clip_low, clip_high)
sapo_loss(log_probs, old_log_probs, advantages, mask, *, tau_pos, tau_neg)
cispo_loss(log_probs, old_log_probs, advantages, mask, *, cap)
rloo_loss(log_probs, old_log_probs, advantages, mask, *, clip_low, clip_high)
reinforce_pp_loss(log_probs, old_log_probs, advantages, mask, *, clip_low, clip_high)
ecpo_loss(log_probs, old_log_probs, advantages, mask, *, clip, delta)
gbpo_loss(log_probs, old_log_probs, advantages, mask)
kl_penalty(log_probs, ref_log_probs, mask, *, kind)
dpo_loss(chosen, rejected, ref_chosen, ref_rejected, *, beta, label_smoothing, mask)
softmax_dpo_loss(positive, negatives, ref_positive, ref_negatives, *, beta, mask)
simpo_loss(chosen_mean, rejected_mean, *, beta, margin, mask)
"""


def signature(name):
    out, starred = [], False
    for parameter in inspect.signature(getattr(losses, name)).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            out.append("*")
            starred = True
        out.append(parameter.name)
    return f"{name}({', '.join(out)})"


def test_names_and_options_are_those_of_the_documentation():
    for line in NAMES.split("\n")[1:-1]:
        assert signature(line.split("(")[0]) == line
    assert signature("sa_gcpo_loss") == (
        "sa_gcpo_loss(log_probs, old_log_probs, rewards, target_rewards, mask, *, "
        "tau_pos, tau_neg, ddof, eps)")
    assert signature("dr_grpo_loss") == (
        "dr_grpo_loss(log_probs, old_log_probs, advantages, mask, *, max_length, "
        "clip_low, clip_high)")
    assert signature("a2po_loss") == (
        "a2po_loss(log_probs, old_log_probs, business_rewards, semantic_rewards, "
        "mask, *, clip_low, clip_high, eps)")
    assert signature("chunked_next_code_loss") == (
        "chunked_next_code_loss(hidden, table, targets, mask, *, chunk, "
        "sample_weights, label_smoothing, z_loss)")


def test_everything_public_is_documented():
    for name in set(losses.__all__) - {"Weighted"}:
        text = inspect.getdoc(getattr(losses, name))
        for part in ("Args:", "Returns:", "Raises:", "Source:"):
            assert part in text, (name, part)


def test_import_brings_in_nothing_but_jax_numpy_and_typing():
    run = subprocess.run([sys.executable, "-c", LIST_MODULES], check=True, text=True,
                         capture_output=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    brought = json.loads(run.stdout)
    assert "oxyrec_jax.losses" in brought
    assert [m for m in brought if not m.startswith(("oxyrec_jax.losses", "jax"))
            and m not in ("oxyrec_jax", "oxyrec_jax.base", "oxyrec_jax.errors")] == []
