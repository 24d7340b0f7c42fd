"""Which policy loss the aligner minimises: rewards and log-probabilities in, one loss.

A method is a name; its options are the keywords of the function of that name in
`losses`, so that what stands in the library can be trained with.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from oxyrec_jax import losses
from oxyrec_jax.base import Array, InputError, Weighted


@dataclasses.dataclass(frozen=True)
class PolicyConfig:
    """The objective of a policy.

    Attributes:
      method: one of `METHODS`. "reward-sum" and "advantage-sum" are GRPO on the sum of
        the business and the semantic stream, before and after each is normalised: the
        baselines of "a2po".
      options: keywords of the method's loss, such as {"clip_high": 0.28}.
      kl: weight of the divergence from the reference policy.
      kl_kind: its estimator, "k2" or "k3"; see `losses.kl_penalty`.
      filter_groups: groups whose rewards are all equal weigh nothing, as in DAPO.
        Their advantages are 0 in any case; filtered they do not dilute the mean.
    """

    method: str = "sa-gcpo"
    options: dict[str, float] = dataclasses.field(default_factory=dict)
    kl: float = 0.0
    kl_kind: str = "k3"
    filter_groups: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"policy.method is {self.method!r}, expected one of "
                             f"{', '.join(METHODS)}")
        function, _ = METHODS[self.method]
        known = [name for name, one in inspect.signature(function).parameters.items()
                 if one.kind is one.KEYWORD_ONLY]
        for name in self.options:
            if name not in known:
                raise InputError(f"policy.options of {self.method} has no {name!r}; "
                                 f"there are {', '.join(known)}")
        if self.kl < 0 or self.kl_kind not in ("k2", "k3"):
            raise InputError(f"policy.kl is {self.kl} and kl_kind {self.kl_kind!r}, "
                             "expected at least 0 and k2 or k3 (the gradient of k1 is "
                             "nothing but noise)")


@dataclasses.dataclass(frozen=True)
class Group:
    """What a policy loss reads, apart from the policy in training.

    Attributes:
      old: `[B, G, T]` float32, nats: the codes under the sampling policy.
      reference: `[B, G, T]` float32, nats: under the reference policy.
      rewards: `[B, G]` float32, business or unified rewards.
      target_rewards: `[B]` float32: the reward of the item with real feedback.
      semantic: `[B, G]` float32, the judge's rewards, or None.
      judged: `[B]` bool, groups that the judge has seen; None: all.
    """

    old: Array
    reference: Array
    rewards: Array
    target_rewards: Array
    semantic: Array | None = None
    judged: Array | None = None


def policy_loss(cfg: PolicyConfig, log_probs: Array, group: Group) -> Weighted:
    """The loss of B groups.

    Args:
      cfg: the objective.
      log_probs: `[B, G, T]` float32, nats, under the policy in training.
      group: the rest; `semantic` for the methods of two streams.

    Returns:
      `Weighted` of the method plus `kl` times the divergence.
    """
    mask = jnp.ones(log_probs.shape, bool)
    rewards = group.rewards
    if cfg.filter_groups:
        signal = jnp.ptp(rewards, axis=1) > 0
        mask = mask & signal[:, None, None]
    function, given = METHODS[cfg.method]
    options = {**given, **cfg.options}
    if cfg.method == "dr-grpo":
        options.setdefault("max_length", log_probs.shape[-1])
    if cfg.method == "sa-gcpo":
        found = function(log_probs, group.old, rewards, group.target_rewards, mask,
                         **options)
    elif cfg.method in TWO_STREAMS:
        found = _two_streams(cfg.method, function, options, log_probs, group, mask)
    else:
        found = function(log_probs, group.old, _advantages(cfg, group), mask, **options)
    if not cfg.kl:
        return found
    distance = losses.kl_penalty(log_probs, group.reference, mask, kind=cfg.kl_kind)
    # One weight for both: the divergence is a mean over sequences of its own.
    return Weighted(found.total + cfg.kl * distance.mean() * found.weight, found.weight)


def _advantages(cfg: PolicyConfig, group: Group) -> Array:
    rewards = group.rewards
    if cfg.method == "dr-grpo":
        return losses.group_advantages(rewards, scale="none")
    if cfg.method == "rloo":
        return losses.leave_one_out_advantages(rewards)
    if cfg.method == "reinforce-pp":
        return losses.reinforce_pp_advantages(
            rewards, group.old, group.reference, jnp.ones(group.old.shape, bool),
            kl_coef=0.0)
    if cfg.method == "gbpo":  # ours: praise for what equals the real choice
        above = rewards >= group.target_rewards[:, None]
        signs = jnp.sign(losses.group_advantages(rewards))
        return jnp.where(above, signs, jnp.minimum(signs, 0))
    return losses.group_advantages(rewards)


def _two_streams(method: str, function: Callable, options: dict[str, Any],
                 log_probs: Array, group: Group, mask: Array) -> Weighted:
    if group.semantic is None:
        raise ValueError(f"{method} needs semantic rewards")
    semantic = group.semantic
    if group.judged is not None:  # equal rewards: no semantic signal
        semantic = jnp.where(group.judged[:, None], semantic, 0)
    if method == "a2po":
        return function(log_probs, group.old, group.rewards, semantic, mask, **options)
    if method == "reward-sum":
        advantages = losses.group_advantages(group.rewards + semantic)
    else:
        advantages = (losses.group_advantages(group.rewards)
                      + losses.group_advantages(semantic))
    return function(log_probs, group.old, advantages, mask, **options)


# Name: the loss, and its options where the paper prints none or means long texts.
METHODS: dict[str, tuple[Callable[..., Weighted], dict[str, Any]]] = {
    "grpo": (losses.grpo_loss, {}),
    "dr-grpo": (losses.dr_grpo_loss, {}),  # max_length: T
    "dapo": (losses.dapo_loss, {}),
    "gspo": (losses.gspo_loss, {"clip_low": 0.2, "clip_high": 0.2}),
    "sapo": (losses.sapo_loss, {}),
    "sa-gcpo": (losses.sa_gcpo_loss, {"tau_pos": 1.0, "tau_neg": 1.05}),
    "cispo": (losses.cispo_loss, {"cap": 5.0}),
    "rloo": (losses.rloo_loss, {}),
    "reinforce-pp": (losses.reinforce_pp_loss, {}),
    "ecpo": (losses.ecpo_loss, {"clip": 0.2}),
    "gbpo": (losses.gbpo_loss, {}),
    "a2po": (losses.a2po_loss, {}),
    "reward-sum": (losses.grpo_loss, {}),
    "advantage-sum": (losses.grpo_loss, {}),
}
TWO_STREAMS = ("a2po", "reward-sum", "advantage-sum")
