"""What the training step of a ranking model minimises."""

from typing import Any

import jax
import jax.numpy as jnp

from oxyrec_jax import losses
from oxyrec_jax.base import Array, Weighted
from oxyrec_jax.models.ranker import HEADS, Ranker
from oxyrec_jax.tokenizer.catalogue import Catalogue
from oxyrec_jax.train.objective import ObjectiveConfig


def ranking_loss(model: Ranker, params: Any, batch: dict[str, Array],
                 catalogue: Catalogue, rng: Array, cfg: ObjectiveConfig
                 ) -> tuple[Weighted, dict[str, Weighted]]:
    """The likelihood of how far each item that was shown got, dropout on.

    With a, b, c the logits of the funnel (see `models.ranker`), an item costs the sum
    of the binary losses of the steps that were open to it: the click always, the cart
    where it was clicked, the order where it lay in the cart. Items drawn from the
    catalogue (`RankerConfig.drawn`) are taken as not clicked.

    Args:
      model: the network.
      params: its parameters, the only argument that receives a gradient.
      batch: as `data.request_rows` makes it.
      catalogue: the items.
      rng: key of the dropout, of which requests' items see themselves only, and of
        the items drawn.
      cfg: not read; every item counts 1.

    Returns:
      The loss in nats, summed over the items shown with their number, and by head the
      loss over the items that were open to it, and "drawn" over those drawn.
    """
    shown, outcome = batch["target_mask"], batch["outcome"]
    rows, count = shown.shape
    others, drawn = None, min(model.ranking.drawn, count)
    if drawn:
        rng, draw = jax.random.split(rng)
        others = jax.random.randint(draw, (rows, drawn), 0,
                                    catalogue.tables.codes.shape[0])
    logits: Any = model.apply({"params": params}, batch, catalogue.tables, train=True,
                              others=others, rngs={"dropout": rng})
    logits, unseen = logits[:, :count], logits[:, count:, 0]
    terms = {name: losses.binary_loss(logits[..., step], outcome > step,
                                      shown & (outcome >= step))
             for step, name in enumerate(HEADS)}
    total = sum((term.total for term in terms.values()), jnp.float32(0))
    if drawn:
        # As many as were shown, so that a short list has few.
        there = jnp.arange(drawn) < jnp.sum(shown, axis=1, keepdims=True)
        terms["drawn"] = losses.binary_loss(unseen, jnp.zeros(unseen.shape, bool),
                                            there)
        total = total + model.ranking.drawn_weight * terms["drawn"].total
    return Weighted(total, terms[HEADS[0]].weight), terms
