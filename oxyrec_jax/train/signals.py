"""The raw signals of an alignment: every component of a reward, by name.

    format      1: the constrained search draws nothing illegal
    hit         1 where a candidate is what the user chose
    tokens      weighted share of a candidate's codes that are right
    trajectory  the same of the person's later events, the best of them counting
    spend       what was paid for a candidate in the basket that was bought (GMV)
    relevance   cosine of a candidate and what the request asks for: its instruction,
                where the network reads one, else the chosen item
    diversity   1 - mean cosine to the others of the group
    click       what the ranking model expects, in [0, 1]
    conversion  its click, cart and order, weighted, in [0, 1]
    value       its probability of an order times the price (GMV)
    semantic    a judge's; not computed here, see `align_loop`

`AVAILABLE` names them. What a signal needs is an argument of the compiled programs.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from oxyrec_jax.base import Array, InputError
from oxyrec_jax.rewards import components
from oxyrec_jax.train.step import Batch

TRAJECTORY = "trajectory"  # reads `future` of the batch
SPEND = "spend"  # reads `bought` and `paid` of the batch
OF_LOG = ("format", "hit", "tokens", TRAJECTORY, SPEND)
OF_VECTORS = ("relevance", "diversity")
OF_RANKER = ("click", "conversion", "value")
AVAILABLE = (*OF_LOG, *OF_VECTORS, *OF_RANKER)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SignalSources:
    """What signals are computed from; called, it computes them.

    Attributes:
      codes: `[N, T]` int32, the semantic IDs.
      vectors: `[N, D]` float, of the items; None: no signal needs them.
      ranker: a `models.scorer.Scorer`, or any pytree that is called like it and has
        its `columns`; None: no signal needs one.
      names: which signals are wanted.
      instructed: the batch holds instructions in the space of `vectors`.
    """

    codes: Array
    vectors: Array | None
    ranker: Any
    names: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    instructed: bool = dataclasses.field(default=False, metadata={"static": True})

    def __call__(self, batch: Batch, items: Array) -> dict[str, Array]:
        """`[B, G]` float32 by name, for items `[B, G]`; 0 where there is no item.

        Args:
          batch: with `targets` `[B, 1]`, what the ranker reads, and for the signal
            trajectory `future` `[B, H]` int32, -1 where there is no later event, for
            spend `bought` and `paid` `[B, H]`.
          items: candidates, -1 where there is none; they are compared within their
            row.
        """
        found: dict[str, Array] = {}
        target, there = batch["targets"], items >= 0
        known = jnp.maximum(items, 0)
        if "format" in self.names:
            found["format"] = components.format_reward(there)
        if "hit" in self.names:
            found["hit"] = components.hit_reward(items, target[:, 0])
        if "tokens" in self.names:
            found["tokens"] = components.token_hit_reward(
                self.codes[known], self.codes[target[:, 0]])
        if TRAJECTORY in self.names:
            later = batch["future"]
            found[TRAJECTORY] = components.trajectory_reward(
                self.codes[known], self.codes[jnp.maximum(later, 0)], later >= 0)
        if SPEND in self.names:
            found[SPEND] = components.spend_reward(items, batch["bought"],
                                                   batch["paid"])
        if self.vectors is not None:
            drawn = self.vectors[known]
            if "relevance" in self.names:
                asked = (batch["target_instruction"][:, 0] if self.instructed
                         else self.vectors[target[:, 0]])
                found["relevance"] = components.relevance_reward(drawn, asked)
            if "diversity" in self.names:
                found["diversity"] = components.diversity_reward(drawn, there)
        if self.ranker is not None:
            found |= self._ranked(batch, items)
        return {name: jnp.where(there, found[name], 0).astype(jnp.float32)
                for name in self.names}

    def _ranked(self, batch: Batch, items: Array) -> dict[str, Array]:
        expected = self.ranker(batch, items)
        return {"click": expected["click"], "value": expected["value"],
                "conversion": components.conversion_reward(
                    expected["click"], expected["cart"], expected["order"])}


def check_names(names: Sequence[str], *, vectors: bool, ranker: bool) -> None:
    """Refuses components of which there is no signal.

    Args:
      names: of the reward's components.
      vectors: whether items have vectors.
      ranker: whether there is a ranking model.

    Raises:
      InputError: an unknown name, or one whose source is missing.
    """
    for name in names:
        if name not in AVAILABLE:
            raise InputError(f"align.reward has a component {name!r}, expected any of "
                             f"{', '.join(AVAILABLE)}")
        if name in OF_VECTORS and not vectors:
            raise InputError(f"align.reward.{name} needs vectors of the items, which "
                             "the semantic IDs do not hold; make them with oxyrec "
                             "tokenize, or take the component out")
        if name in OF_RANKER and not ranker:
            raise InputError(f"align.reward.{name} needs a ranking model; give "
                             "--ranker and its work directory")
