"""The objective of item vectors: what belongs together is near, all else is not.

Pairs are two views of one item, each seeing some of its sources, and two items that
users take close together. Each is told from all other pairs of the batch, save those
that are known to belong together too.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from oxyrec_jax import losses
from oxyrec_jax.base import Array, InputError
from oxyrec_jax.tokenizer import fusion
from oxyrec_jax.tokenizer.pairs import PairConfig


@dataclasses.dataclass(frozen=True)
class ContrastiveConfig:
    """How a fusion network is trained; every number is ours.

    The defaults take about one minute of one CPU core for two sources of any catalogue.

    Attributes:
      steps: updates.
      batch: pairs of each kind in a step, over all devices; each is a negative of all
        others.
      learning_rate: peak, after `warmup` steps, falling to 0 as a cosine.
      warmup: steps.
      weight_decay: decoupled, on matrices.
      temperature: at the start; it is learned, one for each kind of pairs.
      lowest, highest: the bounds of the temperature.
      source_dropout: the chance that a source of an item is hidden in a pair, so that
        items with less are nothing new; one source always stays.
      modality_weight: of the pairs of two views of one item.
      behaviour_weight: of the pairs of two items; only "multi-source" has them.
      pairs: which items make pairs.
    """

    steps: int = 300
    batch: int = 256
    learning_rate: float = 1e-3
    warmup: int = 50
    weight_decay: float = 0.01
    temperature: float = 0.1
    lowest: float = 0.01
    highest: float = 1.0
    source_dropout: float = 0.5
    modality_weight: float = 1.0
    behaviour_weight: float = 1.0
    pairs: PairConfig = PairConfig()


def check(cfg: ContrastiveConfig) -> None:
    """Raises `InputError` where a setting is out of range, naming it."""
    if cfg.steps < 1 or cfg.learning_rate <= 0 or cfg.warmup < 0:
        raise InputError("training of item vectors needs steps of at least 1, a "
                         "positive learning_rate and a warmup of at least 0; found "
                         f"{cfg.steps}, {cfg.learning_rate}, {cfg.warmup}")
    if not 0 < cfg.lowest <= cfg.temperature <= cfg.highest:
        raise InputError(f"the temperature {cfg.temperature} is not between "
                         f"lowest {cfg.lowest} and highest {cfg.highest}, both above 0")
    if not 0 <= cfg.source_dropout < 1:
        raise InputError(f"training.source_dropout is {cfg.source_dropout}, "
                         "expected in [0, 1)")


def objective(params: Mapping[str, Any], network: fusion.Fusion, tables: Any,
              rows: Mapping[str, Array], rng: Array, cfg: ContrastiveConfig) -> Array:
    """The loss of one batch.

    Args:
      params: `network`, flat, and `log_temperatures` `[2]`, of views and behaviour.
        Receives a gradient.
      network: the fusion.
      tables: source vectors, each `[N, D_s]`; `present` `[N, S]` bool; `partners`
        `[N, M]` int32.
      rows: `views` `[B]` int32 items and, where behaviour counts, `pairs` `[B, 2]`.
      rng: hides sources.
      cfg: weights and dropout.

    Returns:
      Scalar, nats.
    """
    vectors, present, partners = tables
    warmth = jnp.exp(params["log_temperatures"])
    split, hide_first, hide_second = jax.random.split(rng, 3)

    def embed(items: Array, seen: Array) -> Array:
        chosen = tuple(table[items] for table in vectors)
        return fusion.apply(network, params["network"], chosen, seen)

    total = jnp.zeros((), jnp.float32)
    if present.shape[1] > 1 and cfg.modality_weight:
        items = rows["views"]
        whole, single, real = split_views(split, present[items])
        same = items[:, None] == items
        loss = losses.info_nce_loss(embed(items, whole), embed(items, single),
                                    temperature=warmth[0], mask=real, excluded=same,
                                    symmetric=True)
        total = total + cfg.modality_weight * loss.mean()
    if "pairs" in rows and cfg.behaviour_weight:
        first, second = rows["pairs"].T
        loss = losses.info_nce_loss(
            embed(first, hide(hide_first, present[first], cfg.source_dropout)),
            embed(second, hide(hide_second, present[second], cfg.source_dropout)),
            temperature=warmth[1], excluded=together(first, second, partners),
            mask=present[first].any(axis=1) & present[second].any(axis=1),
            symmetric=True)
        total = total + cfg.behaviour_weight * loss.mean()
    return total


def hide(rng: Array, present: Array, rate: float) -> Array:
    """Hides each source with a chance of `rate`, but never an item's last one.

    Args:
      rng: consumed.
      present: `[B, S]` bool.
      rate: in [0, 1).

    Returns:
      `[B, S]` bool, true = seen.
    """
    noise = jnp.where(present, jax.random.uniform(rng, present.shape), -1)
    most = present & (jnp.arange(present.shape[1]) == noise.argmax(1, keepdims=True))
    return present & (noise >= rate) | most


def split_views(rng: Array, present: Array) -> tuple[Array, Array, Array]:
    """Draws two views of each item: all or all other sources, and one source.

    Args:
      rng: consumed.
      present: `[B, S]` bool.

    Returns:
      `[B, S]` bool: with even chance everything the item has or everything but the
      source of the second view; `[B, S]` bool: one source, each with the same chance;
      `[B]` bool: the item has two sources or more, so that its views make a pair.
    """
    pick, side = jax.random.split(rng)
    noise = jnp.where(present, jax.random.uniform(pick, present.shape), -1)
    single = present & (jnp.arange(present.shape[1]) == noise.argmax(1, keepdims=True))
    complete = jax.random.bernoulli(side, 0.5, (len(present), 1))
    return jnp.where(complete, present, present & ~single), single, present.sum(1) > 1


def together(first: Array, second: Array, partners: Array) -> Array:
    """Which items of a batch are known to belong to which, beside the pairs drawn.

    Args:
      first, second: `[B]` int32, the pairs.
      partners: `[N, M]` int32, -1 where there are fewer.

    Returns:
      `[B, B]` bool at [i, j]: second j is first i or one of its partners, or the
      reverse; or the two pairs share their first or their second item.
    """
    same = (first[:, None] == second) | (first[:, None] == first) | (
        second[:, None] == second)
    return same | _among(partners[first], second) | _among(partners[second], first).T


def _among(lists: Array, items: Array) -> Array:
    """`[B, B]` bool at [i, j]: is items[j] in lists[i]? -1 in a list is nothing."""
    ordered = jnp.sort(items)
    place = jnp.minimum(jnp.searchsorted(ordered, lists), len(items) - 1)
    hit = (ordered[place] == lists) & (lists >= 0)
    rows = jnp.arange(len(lists))[:, None]
    marks = jnp.zeros((len(lists), len(items)), bool).at[rows, place].max(hit)
    return marks[:, jnp.searchsorted(ordered, items)]
