"""The table of policy objectives that the tests walk: one row for each."""

import functools
from typing import Callable, NamedTuple

import jax
import numpy as np

import losses_oracle as oracle
from oxyrec_jax import losses


class Row(NamedTuple):
    """One objective: its call on a batch of data, its oracle, and what it is not."""

    loss: Callable
    oracle: Callable
    advantages: Callable  # what stands for A in its on-policy gradient, [B, G]
    weigh: str = "sequence"  # of one code on policy: "code", "sequence", "whole", "7"


def given(data):
    return data["advantages"]


def call(loss, **options):
    return lambda d: loss(d["log_probs"], d["old"], d["advantages"], d["mask"],
                          **options)


def by_kind(kind):
    return lambda d: losses.kl_penalty(d["log_probs"], d["ref"], d["mask"], kind=kind)


POLICIES = {
    "grpo": Row(call(losses.grpo_loss), oracle.grpo, given),
    "grpo_dual": Row(call(losses.grpo_loss, dual_clip=1.5), oracle.grpo_dual, given),
    "dr_grpo": Row(call(losses.dr_grpo_loss, max_length=7), oracle.dr_grpo, given, "7"),
    "dapo": Row(call(losses.dapo_loss), oracle.dapo, given, "code"),
    "gspo": Row(call(losses.gspo_loss, clip_low=0.1, clip_high=0.15), oracle.gspo,
                given),
    "sapo": Row(call(losses.sapo_loss), oracle.sapo, given),
    "sa_gcpo": Row(
        lambda d: losses.sa_gcpo_loss(d["log_probs"], d["old"], d["rewards"],
                                      d["target_rewards"], d["mask"], tau_pos=1.3,
                                      tau_neg=0.8),
        oracle.sa_gcpo,
        lambda d: oracle.threshold(
            oracle.z_scores(d["rewards"], d["mask"].any(axis=-1)), d["rewards"],
            d["target_rewards"])),
    "a2po": Row(
        lambda d: losses.a2po_loss(d["log_probs"], d["old"], d["rewards"],
                                   d["semantic"], d["mask"], clip_low=0.2,
                                   clip_high=0.2, eps=1e-8),
        oracle.a2po_loss,
        lambda d: oracle.a2po(oracle.z_scores(d["rewards"], d["mask"].any(axis=-1)),
                              oracle.z_scores(d["semantic"], d["mask"].any(axis=-1)))),
    "cispo": Row(call(losses.cispo_loss, cap=1.2), oracle.cispo, given, "code"),
    "rloo": Row(call(losses.rloo_loss), oracle.rloo, given, "whole"),
    "reinforce_pp": Row(
        lambda d: losses.reinforce_pp_loss(d["log_probs"], d["old"], d["per_code"],
                                           d["mask"]),
        oracle.reinforce_pp_loss, lambda d: d["per_code"], "code"),
    "ecpo": Row(call(losses.ecpo_loss, clip=0.2, delta=0.1), oracle.ecpo, given,
                "whole"),
    "gbpo": Row(call(losses.gbpo_loss), oracle.gbpo, given),
}
PENALTIES = {kind: Row(by_kind(kind), oracle.kl(kind), given)
             for kind in ("k1", "k2", "k3")}
ALL = POLICIES | PENALTIES
FLOATS = ("log_probs", "old", "ref", "advantages", "per_code", "rewards", "semantic",
          "target_rewards")


def rollouts(seed=0, shape=(3, 4, 3), dtype=np.float32, spread=0.4):
    """A random batch: ragged masks, one rollout without codes where there is room."""
    rng = np.random.default_rng(seed)
    batch, group, codes = shape
    lengths = rng.integers(1, codes + 1, (batch, group))
    if group > 2:
        lengths[-1, -1] = 0
    mask = np.arange(codes) < lengths[..., None]
    old = -rng.uniform(0.1, 3, shape)
    rewards = rng.normal(size=(batch, group))
    data = dict(
        old=old,
        log_probs=np.minimum(old + spread * rng.normal(size=shape), -0.01),
        ref=old + 0.3 * rng.normal(size=shape),
        advantages=rng.normal(size=(batch, group)),
        per_code=rng.normal(size=shape),
        rewards=rewards,
        semantic=rng.normal(size=(batch, group)),
        target_rewards=rewards.mean(axis=1) + 0.3,
    )
    return {k: v.astype(dtype) for k, v in data.items()} | {"mask": mask}


@functools.cache
def compiled(name):
    """Jitted sum, weight and gradient of one row's total; shared by all tests."""
    def total(log_probs, rest):
        loss = ALL[name].loss(dict(rest, log_probs=log_probs))
        return loss.total, loss
    return jax.jit(jax.value_and_grad(total, has_aux=True))


def evaluate(name, data):
    """(loss, gradient of its total) of one row, compiled."""
    rest = {k: v for k, v in data.items() if k != "log_probs"}
    (_, loss), gradient = compiled(name)(data["log_probs"], rest)
    return loss, gradient
