"""A trained ranking model as one value that a compiled program takes and calls."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from oxyrec_jax.base import Array
from oxyrec_jax.models.ranker import HEADS, Ranker
from oxyrec_jax.models.tables import ItemTables


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scorer:
    """What scores items; a pytree, so that it is an argument of a compiled program.

    Attributes:
      params: of the network.
      tables: what is known of every item, with `price`.
      scales: `[3, 2]` float32: the calibration, scale and shift of each logit.
      model: the network (static).
      catalogue: digest of the item table that it learnt (static); items of another one
        have other numbers.
    """

    params: Any
    tables: ItemTables
    scales: Array
    model: Ranker = dataclasses.field(metadata={"static": True})
    catalogue: str = dataclasses.field(metadata={"static": True})

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that the data pipeline must put into a batch."""
        return self.model.columns

    @property
    def reads(self) -> tuple[str, ...]:
        """Keys of a batch that are read."""
        return self.model.reads

    def __call__(self, batch: dict[str, Array], items: Array) -> dict[str, Array]:
        """Scores `items` `[B, G]` of the requests `batch`; see `score`."""
        return score(self.model, self.params, self.tables, self.scales, batch, items)


def score(model: Ranker, params: Any, tables: ItemTables, scales: Array,
          batch: dict[str, Array], items: Array) -> dict[str, Array]:
    """Calibrated probabilities of items, each as the first of its list; pure.

    Args:
      model: the network (static).
      params: its parameters.
      tables: what is known of every item, with `price`.
      scales: `[3, 2]` float32: the calibration, scale and shift of each logit.
      batch: what `model.reads` names, of B requests.
      items: `[B, G]` int32, -1 where there is none.

    Returns:
      "click", "cart", "order" (probabilities, each at most the one before) and "value"
      (price times p(order), in the log's currency), `[B, G]` float32, 0 where there is
      no item and where a price is not known. Reordering a group reorders its figures.
    """
    there = items >= 0
    known = jnp.maximum(items, 0)
    used = {name: batch[name] for name in model.reads}
    logits: Any = model.apply({"params": params}, used, tables, known, method="alone")
    found = probabilities(logits, scales)
    found = {name: jnp.where(there, values, 0) for name, values in found.items()}
    if tables.price is None:
        raise ValueError("the ranking model's tables have no prices")
    price = tables.price[known]
    return {**found, "value": jnp.where(price > 0, price, 0) * found["order"]}


def probabilities(logits: Array, scales: Array) -> dict[str, Array]:
    """Chances of each step of the funnel.

    Args:
      logits: `[..., 3]` float32.
      scales: `[3, 2]` float32, scale and shift of each.

    Returns:
      "click", "cart", "order" `[...]` float32.
    """
    steps = jax.nn.log_sigmoid(logits * scales[:, 0] + scales[:, 1])
    return dict(zip(HEADS, jnp.moveaxis(jnp.exp(jnp.cumsum(steps, axis=-1)), -1, 0)))
