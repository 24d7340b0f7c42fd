"""What a training step minimises: the likelihood of each target's semantic ID."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from oxyrec_jax import losses
from oxyrec_jax.base import Array, InputError, Weighted
from oxyrec_jax.models import moe
from oxyrec_jax.models.generator import Generator, Mixture
from oxyrec_jax.models.masked import draw_hidden
from oxyrec_jax.models.memory import recent_items
from oxyrec_jax.tokenizer.catalogue import Catalogue
from oxyrec_jax.train.code_loss import (NEVER, chunked_code_terms, code_terms,
                                        levelled)


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    """The terms of the loss.

    Attributes:
      item_loss: weight of a softmax over all items on the encoder's state (ours), a
        training signal for the encoder; 0 leaves it out.
      negatives: items drawn uniformly for each batch to estimate that softmax's
        normaliser (its sum over N items is unbiased); 0 takes all items.
      gate_share: where the model mixes experts, the share of the histories' last
        targets from which only the mixture's weights learn. The experts never see
        these, as targets or as inputs, so the weights are fitted to how well each
        expert does on the future; fitted to targets that the experts learnt by heart,
        they trust the network far too much.
      gate_power: q of the loss (1 - P^q) / q of those weights: 0 is the likelihood,
        which spends the weights on targets that no expert would rank high anyway;
        above 0 the targets within reach count more. 0.5 is ours.
      z_loss: weight of the squared log-normaliser of each code.
      chunk: targets of each row whose code scores are in memory at a time, 0 for all:
        with large codebooks and long packed rows they are the step's largest arrays.
        Costs one more product of the head. (`losses.chunked_next_code_loss`, for loops
        of one's own, cuts the codebook instead, and knows no legal codes.)
      q2i: weight of the query-to-item loss where the model retrieves (the paper names
        none; 0.02 to 0.2 are in use).
      q2i_variance, q2i_decorrelation: its two other weights.
    """

    item_loss: float = 0.0
    negatives: int = 1024
    gate_share: float = 0.5
    gate_power: float = 0.5
    z_loss: float = 0.0
    chunk: int = 0
    q2i: float = 0.1
    q2i_variance: float = 0.01
    q2i_decorrelation: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.gate_share < 1 or self.negatives < 0:
            raise InputError(f"train.objective.gate_share is {self.gate_share} and "
                             f"negatives {self.negatives}, expected a share between 0 "
                             "and 1 and a count of at least 0")
        if self.chunk < 0:
            raise InputError(f"train.objective.chunk is {self.chunk}, expected at "
                             "least 0")


def supervised_loss(model: Generator, params: Any, batch: dict[str, Array],
                    catalogue: Catalogue, rng: Array, cfg: ObjectiveConfig,
                    ) -> tuple[Weighted, dict[str, Weighted]]:
    """The loss of a batch, dropout on.

    With s_1 .. s_T the target's codes:

        L = b · [- sum_l log p(s_l | s_<l, history)
                 - item_loss · log softmax(item scores)[target]]

    (of a masked decoder `losses.masked_code_loss` in the place of the sum), with b the
    weight of the target's behaviour, `target_weight` where the batch has it,
    over most targets, and over those kept for the gate, for the weights w alone,

        L = (1 - P^q) / q,    P = sum_e w_e P_e(s),    q = gate_power.

    Source: next-code likelihood, OxygenREC, arXiv 2512.22386, eq. 3; the loss of the
    weights is the generalised cross-entropy of Zhang and Sabuncu 2018,
    https://arxiv.org/abs/1805.07836, eq. 6; what it is used for is ours.

    Args:
      model: the network.
      params: its parameters, the only argument that receives a gradient.
      batch: as `data.pipeline` makes it.
      catalogue: the items.
      rng: key of the dropout, consumed.
      cfg: the terms.

    Returns:
      The loss in nats, summed over supervised targets with their weight, and the terms
      by name for the log: "level_<l>", "item", "mixture", "gate" and
      "weight_<expert>", and of a decoder with experts `moe.router_terms`.
    """
    def ask(*args: Any, **options: Any) -> Any:
        return model.apply({"params": params}, *args, **options)

    rng, draw = jax.random.split(rng)
    targets, every = batch["targets"], batch["target_mask"]
    mask = every
    if model.cfg.experts > 1:
        kept_for_gate = _kept_for_gate(batch, recent_items(batch), cfg.gate_share)
        mask = every & ~kept_for_gate
    if model.cfg.decoding == "masked":
        rng, hide = jax.random.split(rng)
        hidden = draw_hidden(hide, targets.shape, len(model.widths))
        batch = {**batch, "hidden": hidden | ~mask[..., None]}
    weights = batch.get("target_weight")
    given = {"targets": targets, "mask": mask,
             **({"hidden": batch["hidden"]} if "hidden" in batch else {}),
             **({} if weights is None else {"weights": weights})}
    terms, scores, state, sown = _codes(ask, model, batch, catalogue, given, rng, cfg)
    count = terms["level_0"].weight
    total = sum((term.total for term in terms.values()), jnp.float32(0))
    if model.cfg.moe.experts:
        routed = moe.router_terms(sown)
        terms |= routed
        total = total + moe.router_loss(model.cfg.moe, routed) * count
    items = None
    if cfg.item_loss or model.cfg.item_head:
        items = _item_scores(ask, state, targets, catalogue, draw, cfg.negatives)
        costs = -_item_log_probs(*items)
        terms["item"] = _averaged(costs if weights is None else weights * costs, mask,
                                  count)
        total = total + cfg.item_loss * terms["item"].total
    if model.cfg.retrieval.events and cfg.q2i:
        terms["q2i"] = _query_term(ask, batch, catalogue, mask, cfg)
        total = total + cfg.q2i * terms["q2i"].total
    if model.cfg.experts > 1:
        first = jax.nn.log_softmax(scores[0][0], axis=-1)
        mixed = ask(batch, jax.lax.stop_gradient(state), catalogue.tables, first,
                    own=True, method="mixture")
        log_probs = _expert_log_probs(model, catalogue, targets, scores, mixed, items)
        terms |= _gate_terms(model, mixed, log_probs, every & kept_for_gate,
                             cfg.gate_power)
        total = total + terms["gate"].total
    return Weighted(total, count), terms


def expert_names(model: Generator) -> tuple[str, ...]:
    """The experts that the model mixes, in the order of `Mixture.log_weights`."""
    return ("codes", *(("memory",) if model.cfg.memory else ()),
            *(("own",) if model.cfg.own != "none" else ()),
            *(("items",) if model.cfg.item_head else ()))


def _codes(ask: Callable[..., Any], model: Generator, batch: dict[str, Array],
           catalogue: Catalogue, given: dict[str, Array], rng: Array,
           cfg: ObjectiveConfig) -> tuple[dict[str, Weighted], list[tuple[
               Array, Array]], Array, Any]:
    """Runs the network: the terms "level_<l>", every level's scores (none where they
    are never held at once), the state that items are scored by and what is sown."""
    ways: dict[str, Any] = {"train": True, "rngs": {"dropout": rng},
                            "mutable": [moe.COLLECTION]}
    if not cfg.chunk:
        (logits, state), sown = ask(batch, catalogue.tables, **ways)
        scores = levelled(model, catalogue, batch["targets"], logits)
        return code_terms(scores, given, z_loss=cfg.z_loss), scores, state, sown
    if model.cfg.experts > 1:
        raise InputError("train.objective.chunk is set, and the mixture of experts "
                         "(model.memory, own, item_head) needs all scores at once")
    (states, state), sown = ask(batch, catalogue.tables, method="code_states", **ways)
    terms = chunked_code_terms(ask, model, catalogue, states, given,
                               z_loss=cfg.z_loss, chunk=cfg.chunk)
    return terms, [], state, sown


def _query_term(ask: Callable[..., Any], batch: dict[str, Array], catalogue: Catalogue,
                mask: Array, cfg: ObjectiveConfig) -> Weighted:
    """How near the queries of retrieval come to their targets."""
    query, key = ask(batch, catalogue.tables, method="query_and_target")
    return losses.q2i_loss(
        query.reshape(-1, query.shape[-1]), key.reshape(-1, key.shape[-1]),
        variance_weight=cfg.q2i_variance,
        decorrelation_weight=cfg.q2i_decorrelation, mask=mask.reshape(-1))


def _gate_terms(model: Generator, mixed: Mixture, log_probs: Array, kept: Array,
                power: float) -> dict[str, Weighted]:
    """The mixture's likelihood, the loss of its weights, and the weights themselves.

    Args:
      model: the network.
      mixed: of its experts.
      log_probs: `[B, J, E]`, nats: each target's under each expert.
      kept: `[B, J]` bool, the targets that weights learn from.
      power: q.
    """
    found = jax.nn.logsumexp(mixed.log_weights + log_probs, axis=-1)
    cost = -jnp.expm1(power * found) / power if power else -found
    seen = jnp.sum(kept, dtype=jnp.float32)
    shares = {f"weight_{name}": jnp.exp(mixed.log_weights[..., place])
              for place, name in enumerate(expert_names(model))}
    return {name: _averaged(values, kept, seen) for name, values in
            {"mixture": -found, "gate": cost, **shares}.items()}


def _expert_log_probs(model: Generator, catalogue: Catalogue, targets: Array,
                      scores: list[tuple[Array, Array]], mixed: Mixture,
                      items: tuple[Array, ...] | None) -> Array:
    """`[B, J, E]`: log-probability of each target's semantic ID under each expert.

    Decoder and item head receive no gradient; how sharp they are does.
    """
    decoder, head = mixed.sharpness
    levels = [_chosen(decoder * jax.lax.stop_gradient(row), code)
              for row, code in scores]
    each = [jnp.sum(jnp.stack(levels), axis=0)]
    leaf = catalogue.paths[:, -1]
    for pointer in mixed.pointers:
        same = leaf[jnp.maximum(pointer.items, 0)] == leaf[targets][..., None]
        hit = jnp.sum(jnp.where(same, pointer.weights, 0), axis=-1)
        each.append(jnp.log(jnp.maximum(hit, 1e-20)))
    if items is not None and model.cfg.item_head:
        own, others, share = jax.lax.stop_gradient(items)
        each.append(_item_log_probs(head * own, head * others, share))
    return jnp.stack(each, axis=-1)


def _kept_for_gate(batch: dict[str, Array], recent: Array, share: float) -> Array:
    """`[B, J]` bool: some histories' last targets, the same in every epoch.

    Which ones is told by a hash of the target and the items before it.

    Args:
      batch: with `segments`, `targets` and `target_positions`.
      recent: `[B, J, C]` int32, the last items before each target.
      share: of last targets that are kept.
    """
    targets, positions = batch["targets"], batch["target_positions"]
    padded = jnp.pad(batch["segments"], ((0, 0), (0, 1)))
    own, after = (jnp.take_along_axis(padded, positions + step, axis=1)
                  for step in (0, 1))
    bits = targets.astype(jnp.uint32) * jnp.uint32(0x9E3779B1)
    for place in range(recent.shape[-1]):
        bits = (bits ^ recent[..., place].astype(jnp.uint32)) * jnp.uint32(0x85EBCA6B)
        bits = bits ^ (bits >> 15)
    return (own != after) & (bits < jnp.uint32(round(share * 2**32)))


def _item_scores(ask: Any, state: Array, targets: Array, catalogue: Catalogue,
                 rng: Array, negatives: int) -> tuple[Array, Array, Array]:
    """Scores of each target `[B, J]`, of other items `[B, J, M]` (the target itself
    among them at -1e30), and log((N - 1) / M') `[B, J]`, M' how many others there are.
    """
    own = ask(state, targets, catalogue.tables, method="own_scores")
    total = catalogue.tables.codes.shape[0]
    drawn = _drawn(rng, negatives, total)
    scores = ask(state, catalogue.tables, drawn, method="item_scores")
    other = drawn != targets[..., None]
    share = jnp.log((total - 1) / jnp.maximum(jnp.sum(other, axis=-1), 1))
    return own, jnp.where(other, scores, NEVER), share


def _drawn(rng: Array, negatives: int, total: int) -> Array:
    if 0 < negatives < total:
        return jax.random.randint(rng, (negatives,), 0, total)
    return jnp.arange(total)


def items_to_score(model: Generator, rng: Array, cfg: ObjectiveConfig, total: int
                   ) -> Array:
    """`[M]` int32: the items beside the targets that `supervised_loss` scores.

    Args:
      model, rng, cfg: as given to it.
      total: N.
    """
    if not (cfg.item_loss or model.cfg.item_head):
        return jnp.zeros(0, jnp.int32)
    return _drawn(jax.random.split(rng)[1], cfg.negatives, total)


def _item_log_probs(own: Array, others: Array, share: Array) -> Array:
    """`[B, J]`: log-softmax of each target among all items.

    With M' items drawn uniformly, the normaliser is estimated as exp(s_y) plus
    (N - 1) / M' times the sum of exp(s) over them; with all items it is exact.
    """
    return own - jnp.logaddexp(own, jax.nn.logsumexp(others, axis=-1) + share)


def _chosen(scores: Array, target: Array) -> Array:
    """`[...]`: log-softmax of the target's score."""
    own = jnp.arange(scores.shape[-1]) == target[..., None]
    return (jnp.sum(jnp.where(own, scores, 0), axis=-1)
            - jax.nn.logsumexp(scores, axis=-1))


def _averaged(values: Array, mask: Array, count: Array) -> Weighted:
    return Weighted(jnp.sum(jnp.where(mask, values, 0)), count)
