"""What every part shares: array aliases, the shape letters, `Weighted`, `InputError`.

Shape letters used in every docstring:

    B batch        G group of rollouts    T codes of one item   L history length
    K beams        V vocabulary (codes of one level)            D width
    C codebooks    N items                J supervised targets of one row
"""

import dataclasses
from typing import TypeAlias

import jax
import jax.numpy as jnp

from oxyrec_jax.errors import InputError

__all__ = ["Array", "InputError", "Weighted"]

Array: TypeAlias = jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Weighted:
    """A sum and the weight it stands for, kept apart until the edge.

    Masks, micro-batches and shards then add exactly: `a + b` is the figure of both.

    Attributes:
      total: scalar float32, the weighted sum.
      weight: scalar float32, the sum of the weights.
    """

    total: Array
    weight: Array

    def __add__(self, other: "Weighted") -> "Weighted":
        return Weighted(self.total + other.total, self.weight + other.weight)

    def mean(self) -> Array:
        """Returns `total / weight`, and 0 (with zero gradient) where weight is 0."""
        some = self.weight != 0
        return jnp.where(some, self.total / jnp.where(some, self.weight, 1), 0)
