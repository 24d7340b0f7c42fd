"""The aligner's two compiled programs: gain experience, and learn from it.

    experience   candidates, their log-probabilities under the sampling policy and the
                 reference, raw signals and rewards: one program, nothing leaves the
                 device in between
    update       one step of the policy on it; several may follow one experience, so
                 that ratios, clips and gates act

Source: OxygenREC, arXiv 2512.22386, policy optimisation with constrained rollouts and
real items; the anchor (a next-code loss on the logged choice beside the policy loss)
is in use elsewhere, its weight is ours.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from oxyrec_jax import losses
from oxyrec_jax.base import Array, InputError, Weighted
from oxyrec_jax.decode.rollout import Rollouts, code_log_probs, roll_out
from oxyrec_jax.decode.sampling import Sampling, request_keys
from oxyrec_jax.models.generator import Generator
from oxyrec_jax.rewards import mapping as rewards_lib
from oxyrec_jax.tokenizer.catalogue import Catalogue
from oxyrec_jax.train.policy import TWO_STREAMS, Group, PolicyConfig, policy_loss
from oxyrec_jax.train.step import Batch, OptimizerConfig

# Signals `[B, G]` by component, of items `[B, G]` for the requests of a batch.
Signals = Callable[[Batch, Array], dict[str, Array]]
SEMANTIC = "semantic"  # the judge's component, a stream of its own for some losses


@dataclasses.dataclass(frozen=True)
class AlignConfig:
    """How a pre-trained generator is aligned. Values are ours where none is named.

    Attributes:
      steps: experiences of the whole run.
      batch: B, requests of one.
      group: G, candidates of one request.
      synthetic: share of a group that the policy draws; the others are logged items,
        as far as the log has them. 0.33 is the published mix.
      draw: "sample" without replacement, or "beam", the best.
      temperature: of drawing, and of the policy that is trained.
      normalise: log-probabilities over the "legal" set, as the search has them, or
        over the "full" codebook; the same for sampler and policy.
      updates: steps of the policy on one experience.
      policy: the objective.
      anchor: weight of the next-code loss on the logged choice.
      optimizer: how parameters move.
    """

    steps: int = 200
    batch: int = 32
    group: int = 16
    synthetic: float = 0.33
    draw: str = "sample"
    temperature: float = 1.0
    normalise: str = "legal"
    updates: int = 2
    policy: PolicyConfig = PolicyConfig()
    anchor: float = 0.1
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-4, warmup=10,
                                                 schedule="constant", weight_decay=0.0)

    def __post_init__(self) -> None:
        for name, good, expected in (
                *((name, getattr(self, name) >= 1, "at least 1")
                  for name in ("steps", "batch", "updates")),
                ("group", 2 <= self.group <= 512, "2 to 512"),
                ("synthetic", 0 <= self.synthetic <= 1, "a share from 0 to 1"),
                ("draw", self.draw in ("sample", "beam"), "sample or beam"),
                ("temperature", self.temperature > 0, "above 0"),
                ("normalise", self.normalise in ("legal", "full"), "legal or full"),
                ("anchor", self.anchor >= 0, "at least 0")):
            if not good:
                raise InputError(f"align.{name} is {getattr(self, name)!r}, expected "
                                 f"{expected}")

    @property
    def logged(self) -> int:
        """R, most logged items of a group."""
        return self.group - round(self.synthetic * self.group)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Experience:
    """What one experience gives, arrays of B requests.

    Attributes:
      rollouts: the candidates.
      old, reference: `[B, G, T]` float32, nats, under sampling policy and reference.
      signals: `[B, G + 1]` float32 by component; the last place is the logged choice.
      rewards: `[B, G]` float32, unified.
      target_rewards: `[B]` float32, of the logged choice.
      semantic: `[B, G]` float32, the normalised judge's stream, or None.
      silent: `[C]` float32, share of groups in which a component says nothing.
    """

    rollouts: Rollouts
    old: Array
    reference: Array
    signals: dict[str, Array]
    rewards: Array
    target_rewards: Array
    semantic: Array | None
    silent: Array


def gain_experience(model: Generator, cfg: AlignConfig, signals_of: Signals,
                    params: Any, reference: Any, batch: Batch, catalogue: Catalogue,
                    preferred: Array, mapping: rewards_lib.RewardMapping, rng: Array
                    ) -> Experience:
    """Draws candidates and judges them; a pure function to be compiled once.

    Args:
      model, cfg, signals_of: static.
      params: of the policy, which samples here.
      reference: of the reference policy.
      batch: requests as `recommend` reads them, with `targets` `[B, 1]` int32, the
        logged choice, `scenario` `[B]` int32, and `logged` `[B, R]` int32, items that
        were shown, -1 where there are fewer; R = cfg.logged.
      catalogue: the items.
      preferred: from `rollout.first_items`.
      mapping: of the reward; a component "semantic" is kept apart where the policy
        loss has two streams.
      rng: key, consumed.
    """
    size = batch["targets"].shape[0]
    sampling = None
    if cfg.draw == "sample":
        sampling = Sampling(request_keys(rng, size), cfg.temperature)
    found = roll_out(model, params, batch, catalogue, preferred, batch["logged"],
                     group=cfg.group, sampling=sampling)
    options: dict[str, Any] = {"temperature": cfg.temperature,
                               "normalise": cfg.normalise}
    old, before = (code_log_probs(model, one, batch, catalogue, found.items, **options)
                   for one in (params, reference))
    judged = jnp.concatenate([found.items, batch["targets"]], axis=1)
    signals = signals_of(batch, judged)
    total, semantic, parts = _unified(cfg, mapping, signals, batch["scenario"])
    silent = rewards_lib.constant_shares(parts[:, :-1],
                                         jnp.ones(found.items.shape, bool))
    return Experience(found, old, before, signals, total[:, :-1], total[:, -1],
                      None if semantic is None else semantic[:, :-1], silent)


def _unified(cfg: AlignConfig, mapping: rewards_lib.RewardMapping,
             signals: dict[str, Array], scenario: Array
             ) -> tuple[Array, Array | None, Array]:
    """Business (or unified) rewards, the semantic stream, and all parts."""
    found = rewards_lib.unify(mapping, signals, scenario)
    if cfg.policy.method not in TWO_STREAMS:
        return found.total, None, found.parts
    if SEMANTIC not in mapping.names:
        raise ValueError(f"{cfg.policy.method} needs a reward component {SEMANTIC!r}")
    place = mapping.names.index(SEMANTIC)
    semantic = found.parts[..., place]
    weight = mapping.weights[scenario][:, None, place]
    # The rest, weighed among itself.
    business = (found.total - weight * semantic) / jnp.maximum(1 - weight, 1e-6)
    return business, semantic, found.parts


def update(model: Generator, cfg: AlignConfig,
           optimizer: optax.GradientTransformation, params: Any, moments: Any,
           batch: Batch, catalogue: Catalogue, seen: Experience
           ) -> tuple[Any, Any, dict[str, Array]]:
    """One step of the policy on an experience; a pure function to be compiled once.

    Args:
      model, cfg, optimizer: static.
      params, moments: of the policy and its optimiser.
      batch, catalogue: as in `gain_experience`.
      seen: what it gave.

    Returns:
      The new parameters and moments, and scalar figures: "loss", "policy", "anchor",
      "reward", "synthetic", "gradient_norm", and those of `policy_diagnostics`.
    """
    group = Group(seen.old, seen.reference, seen.rewards, seen.target_rewards,
                  seen.semantic)
    items = jnp.concatenate([seen.rollouts.items, batch["targets"]], axis=1)
    count = seen.rollouts.items.shape[1]

    def loss_of(params: Any) -> tuple[Array, tuple[Weighted, Array, Array]]:
        every = code_log_probs(model, params, batch, catalogue, items,
                               temperature=cfg.temperature,
                               normalise=cfg.normalise)  # type: ignore[arg-type]
        own = every[:, :count]
        policy = policy_loss(cfg.policy, own, group)
        anchor = -jnp.mean(jnp.sum(every[:, count], axis=-1))
        return policy.mean() + cfg.anchor * anchor, (policy, anchor, own)

    (loss, (policy, anchor, own)), slope = jax.value_and_grad(
        loss_of, has_aux=True)(params)
    changes, moments = optimizer.update(slope, moments, params)
    mask = jnp.ones(own.shape, bool)
    figures = losses.policy_diagnostics(
        own, seen.old, losses.group_advantages(seen.rewards), mask,
        ref_log_probs=seen.reference, rewards=seen.rewards,
        target_rewards=seen.target_rewards)
    figures |= {"loss": loss, "policy": policy.mean(), "anchor": anchor,
                "reward": jnp.mean(seen.rewards, where=seen.rollouts.synthetic),
                "reward_all": jnp.mean(seen.rewards),
                "target_reward": jnp.mean(seen.target_rewards),
                "synthetic": jnp.mean(seen.rollouts.synthetic),
                "gradient_norm": optax.tree.norm(slope)}
    return optax.apply_updates(params, changes), moments, figures
