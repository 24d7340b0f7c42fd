"""What a policy is, and those that learn nothing.

A policy maps what a shop sees of B requests to B slates:

    class Mine:                       # hashable: it is a static argument of a program
        history, slate = 20, 8

        def show(self, arrays, context):      # -> items [B, slate] int32
            ...

`arrays` is any pytree that it needs, parameters above all, so that another set of
parameters, such as those of a training that goes on, serves through the same compiled
program: `Arm("mine", Mine(), params)` now, `Arm("mine", Mine(), others)` later.

Two rules are no policies, because they know the truth. They are `Insider`s and show
what lies below and above: the shop's old recommender, which wrote the log, and
`truth`, which ranks all items by the click probability itself.
"""

import dataclasses
from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp

from oxyrec_jax.base import Array, InputError
from oxyrec_jax.closed_loop.context import Context
from oxyrec_jax.data import shop

INSIDERS = ("old", "truth")
_ALL_AT_ONCE = 20_000  # items that `truth` ranks for each request; ours


class Policy(Protocol):
    """Shows a slate in each request; hashable, so that it can be a static argument.

    Attributes:
      history: the most events of a history that it reads, at least 1.
      slate: K, how many items it shows.
    """

    @property
    def history(self) -> int: ...

    @property
    def slate(self) -> int: ...

    def show(self, arrays: Any, context: Context) -> Array:
        """Chooses what is shown; pure, traced once.

        Args:
          arrays: what it was given in its `Arm`.
          context: B requests.

        Returns:
          `[B, K]` int32 items from the first place to the last, -1 for an empty place.
        """


@dataclasses.dataclass(frozen=True)
class Insider:
    """A rule that knows the shop's truth, and so is no policy.

    Attributes:
      kind: "old", the recommender that wrote the log: it retrieves for the need, then
        ranks by click probability with noise; or "truth": the items of the highest
        click probability.
      slate: K.
      candidates: how many items the old recommender retrieves.
      history: it reads none; a length that arrays must have.
    """

    kind: str
    slate: int
    candidates: int
    history: int = 1

    def show(self, world: shop.World, visitors: shop.Visitors, draws: shop.Draws
             ) -> Array:
        """Chooses what is shown to visitors, `[B, K]` int32."""
        if self.kind == "old":
            return shop.old_recommender(world, visitors, draws, self.slate)[0]
        items = jnp.arange(world.item_leaf.shape[0])
        chances = shop.response_probabilities(
            world, visitors.people, visitors.moment,
            jnp.broadcast_to(items, (visitors.step.shape[0], len(items))))
        return jax.lax.top_k(chances.click, self.slate)[1].astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Popular:
    """Shows everybody the items that training saw most often; `arrays` is that list,
    `[K]` int32."""

    slate: int
    history: int = 1

    def show(self, arrays: Array, context: Context) -> Array:
        return jnp.broadcast_to(arrays, (context.second.shape[0], self.slate))


AnyPolicy: TypeAlias = Policy | Insider


@dataclasses.dataclass(frozen=True)
class Arm:
    """What one arm of a test is served by.

    Attributes:
      name: as it is reported.
      policy: chooses slates.
      arrays: what it reads: parameters, tables.
    """

    name: str
    policy: AnyPolicy
    arrays: Any = ()


def insider(kind: str, cfg: shop.ShopConfig, slate: int) -> Arm:
    """The old recommender or the truth as an arm.

    Raises:
      InputError: the catalogue is too large to be ranked whole.
    """
    if kind == "truth" and cfg.items > _ALL_AT_ONCE:
        raise InputError(f"the policy truth ranks every item in every request; the "
                         f"shop has {cfg.items}, expected at most {_ALL_AT_ONCE}")
    return Arm(kind, Insider(kind, slate, cfg.candidates))
