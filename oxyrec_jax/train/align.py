"""The aligner's compiled programs: draw candidates, appraise them, learn from them.

    draw       candidates of every request, by the serving search; nothing leaves the
               device in between
    appraise   their log-probabilities under the sampling policy and the reference, raw
               signals and rewards
    update     one step of the policy on that; several may follow one experience, so
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
from oxyrec_jax.base import Array, Weighted
from oxyrec_jax.decode.rollout import (Rollouts, code_distributions, code_log_probs,
                                       roll_out)
from oxyrec_jax.decode.sampling import Sampling, request_keys
from oxyrec_jax.models.generator import Generator
from oxyrec_jax.rewards import mapping as rewards_lib
from oxyrec_jax.tokenizer.catalogue import Catalogue
from oxyrec_jax.train.align_settings import AlignConfig
from oxyrec_jax.train.policy import Group, policy_loss
from oxyrec_jax.train.step import Batch

# Signals `[B, G]` by component, of items `[B, G]` for the requests of a batch; a pytree
# that can be called, so that its tables are arguments of the compiled programs.
Signals = Callable[[Batch, Array], dict[str, Array]]
SEMANTIC = "semantic"  # the judge's component, a stream of its own for some losses


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Experience:
    """What one experience gives, arrays of B requests.

    Attributes:
      rollouts: the candidates.
      old, reference: `[B, G, T]` float32, nats, under sampling policy and reference.
      signals: `[B, G + 1]` float32 by component; the last place is the logged choice.
      rewards: `[B, G]` float32, unified, or of business alone.
      target_rewards: `[B]` float32, of the logged choice.
      semantic: `[B, G]` float32, the judge's stream, or None.
      judged: `[B]` bool, groups that a judge has seen; None: all.
      parts: `[C]` float32, mean of each normalised component over the candidates.
      silent: `[C]` float32, share of groups in which a component says nothing.
      legality: scalar float32: mean share of a candidate's probability over the full
        codebooks in that over the legal codes: what the policy alone knows of the trie.
    """

    rollouts: Rollouts
    old: Array
    reference: Array
    signals: dict[str, Array]
    rewards: Array
    target_rewards: Array
    semantic: Array | None
    judged: Array | None
    parts: Array
    silent: Array
    legality: Array


def draw(model: Generator, cfg: AlignConfig, params: Any, batch: Batch,
         catalogue: Catalogue, preferred: Array, rng: Array) -> Rollouts:
    """Candidates of every request; a pure function to be compiled once.

    Args:
      model, cfg: static.
      params: of the policy that samples.
      batch: requests as `recommend` reads them, and `logged` `[B, R]` int32, items that
        were shown, -1 where there are fewer; R = cfg.logged.
      catalogue: the items.
      preferred: from `rollout.first_items`.
      rng: key, consumed.
    """
    sampling = None
    if cfg.draw == "sample":
        sampling = Sampling(request_keys(rng, batch["logged"].shape[0]),
                            cfg.temperature)
    return roll_out(model, params, batch, catalogue, preferred, batch["logged"],
                    group=cfg.group, sampling=sampling)


def appraise(model: Generator, cfg: AlignConfig, params: Any, reference: Any,
             batch: Batch, catalogue: Catalogue, found: Rollouts, signals_of: Signals,
             mapping: rewards_lib.RewardMapping) -> Experience:
    """What candidates are worth; a pure function to be compiled once.

    Args:
      model, cfg: static.
      params: of the policy that drew.
      reference: of the reference policy.
      batch: the requests, with `targets` `[B, 1]` int32, the logged choice, and
        `asked_scenario` `[B]` int32.
      catalogue: the items.
      found: the candidates.
      signals_of: a pytree.
      mapping: of the reward; a component "semantic" is kept apart where the policy
        loss has two streams.
    """
    def ask(params: Any, normalise: Any) -> Array:
        return code_log_probs(model, params, batch, catalogue, found.items,
                              temperature=cfg.temperature, normalise=normalise)

    full, legal = ask(params, "full"), ask(params, "legal")
    legality = jnp.mean(jnp.exp(jnp.sum(full - legal, axis=-1)))
    signals = signals_of(batch, jnp.concatenate([found.items, batch["targets"]], 1))
    total, semantic, parts = _rewards(cfg, mapping, signals, batch["asked_scenario"])
    silent = rewards_lib.constant_shares(parts[:, :-1],
                                         jnp.ones(found.items.shape, bool))
    return Experience(
        found, full if cfg.normalise == "full" else legal,
        ask(reference, cfg.normalise), signals, total[:, :-1], total[:, -1],
        None if semantic is None else semantic[:, :-1], None,
        jnp.mean(parts[:, :-1], axis=(0, 1)), silent, legality)


def _rewards(cfg: AlignConfig, mapping: rewards_lib.RewardMapping,
             signals: dict[str, Array], scenario: Array
             ) -> tuple[Array, Array | None, Array]:
    """Unified rewards, or those of business and the semantic stream; and all parts."""
    found = rewards_lib.unify(mapping, signals, scenario)
    if not cfg.two_streams or SEMANTIC not in mapping.names:
        return found.total, None, found.parts
    place = mapping.names.index(SEMANTIC)
    weights = mapping.weights[scenario].at[:, place].set(0)  # the rest among itself
    weights = weights / jnp.maximum(jnp.sum(weights, axis=1, keepdims=True), 1e-6)
    business = jnp.sum(found.parts * weights[:, None], axis=-1)
    return business, found.parts[..., place], found.parts


def update(model: Generator, cfg: AlignConfig,
           optimizer: optax.GradientTransformation, params: Any, moments: Any,
           batch: Batch, catalogue: Catalogue, seen: Experience
           ) -> tuple[Any, Any, dict[str, Array]]:
    """One step of the policy on an experience; a pure function to be compiled once.

    Args:
      model, cfg, optimizer: static.
      params, moments: of the policy and its optimiser.
      batch, catalogue: as in `appraise`; with `told` `[B, 1, F]` where the policy
        learns from itself (`cfg.distil`).
      seen: what it gave.

    Returns:
      The new parameters and moments, and scalar figures: "loss", "policy", "anchor",
      "gradient_norm", "reward" (of what was drawn; of all where nothing was),
      "reward_all", "target_reward", "synthetic", "legality", those of
      `policy_diagnostics` and, where the policy learns from itself, "distil".
    """
    group = Group(seen.old, seen.reference, seen.rewards, seen.target_rewards,
                  seen.semantic, seen.judged)
    items = jnp.concatenate([seen.rollouts.items, batch["targets"]], axis=1)
    count = seen.rollouts.items.shape[1]

    def loss_of(params: Any) -> tuple[Array, tuple[dict[str, Array], Array]]:
        every = code_log_probs(model, params, batch, catalogue, items,
                               temperature=cfg.temperature,
                               normalise=cfg.normalise)  # type: ignore[arg-type]
        own = every[:, :count]
        policy = policy_loss(cfg.policy, own, group)
        anchor = -jnp.mean(jnp.sum(every[:, count], axis=-1))
        terms = {"policy": policy.mean(), "anchor": anchor}
        total = terms["policy"] + cfg.anchor * anchor
        if cfg.distil.weight:
            terms["distil"] = _distilled(model, cfg, params, batch, catalogue,
                                         seen).mean()
            total = total + cfg.distil.weight * terms["distil"]
        return total, (terms, own)

    (loss, (terms, own)), slope = jax.value_and_grad(
        loss_of, has_aux=True)(params)
    changes, moments = optimizer.update(slope, moments, params)
    figures = _figures(own, seen) | {
        "loss": loss, **terms, "gradient_norm": optax.tree.norm(slope)}
    return optax.apply_updates(params, changes), moments, figures


def _distilled(model: Generator, cfg: AlignConfig, params: Any, batch: Batch,
               catalogue: Catalogue, seen: Experience) -> Weighted:
    """How far the policy is from itself when its requests carry better texts.

    Source: OxygenREC-v2, arXiv 2607.24255: shared weights, the best of a group. That a
    better text is what the teacher is told is ours; the paper's sees the future.
    """
    items = seen.rollouts.items
    if cfg.distil.of == "best":
        best = jnp.argmax(seen.rewards, axis=1, keepdims=True)
        items = jnp.take_along_axis(items, best, axis=1)
    both = [code_distributions(model, given, asked, catalogue, items,
                               temperature=cfg.temperature) for given, asked in (
        (params, batch),
        (jax.lax.stop_gradient(params), batch | {"target_instruction": batch["told"]}))]
    parts = [losses.distillation_loss(own, told, jnp.ones(own.shape[:-1], bool),
                                      certain=cfg.distil.certain)
             for own, told in zip(*both, strict=True)]
    # Each level by its mean: the first one has one row for all candidates.
    return Weighted(sum((part.mean() for part in parts), jnp.float32(0)),
                    jnp.float32(1))


def _figures(log_probs: Array, seen: Experience) -> dict[str, Array]:
    """What there is to watch of an experience and of the policy on it."""
    business = losses.group_advantages(seen.rewards)
    streams: dict[str, Any] = {}
    if seen.semantic is not None:
        semantic = seen.semantic
        if seen.judged is not None:
            semantic = jnp.where(seen.judged[:, None], semantic, 0)
        streams = {"business": business, "semantic": losses.group_advantages(semantic)}
    drawn, all_of_them = seen.rollouts.synthetic, jnp.mean(seen.rewards)
    share = jnp.mean(drawn)
    reward = jnp.where(share > 0, jnp.mean(seen.rewards * drawn)
                       / jnp.where(share > 0, share, 1), all_of_them)
    return losses.policy_diagnostics(
        log_probs, seen.old, business, jnp.ones(log_probs.shape, bool),
        ref_log_probs=seen.reference, rewards=seen.rewards,
        target_rewards=seen.target_rewards, **streams) | {
            "reward": reward, "reward_all": all_of_them,
            "target_reward": jnp.mean(seen.target_rewards),
            "synthetic": share, "legality": seen.legality}
