"""Optimisers of sparse tables: rows that a step touched move, the others stand still.

Each is the dense rule applied to the rows at hand, so that on these it gives what the
dense optimiser gives. For Adagrad that is all there is: a row without gradient would
not move anyway. Dense Adam also lets the moments of untouched rows decay and moves them
on; leaving that out is the algorithm known as lazy or sparse Adam, which costs a batch
and not a table for each step.
"""

import dataclasses
import functools
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from oxyrec_jax.base import Array
from oxyrec_jax.parallel import lookup


class RowRule(Protocol):
    """How touched rows move."""

    def init(self, table: Array) -> Any:
        """State of a table, arrays `[N, ...]`."""

    def change(self, rows: Array, state: Any, gradients: Array, *, rate: Array,
               step: Array) -> tuple[Array, Any]:
        """New rows `[M, D]` and state of them.

        Args:
          rows: `[M, D]`.
          state: of these rows.
          gradients: `[M, D]` float32.
          rate: learning rate, scalar.
          step: int32 scalar, steps done before this one.
        """


@dataclasses.dataclass(frozen=True)
class RowAdagrad:
    """Adagrad with one number for each row: a += mean(g^2), x -= rate g / (sqrt a + e).

    Attributes:
      epsilon: e.

    Source: Duchi et al. 2011 with the squares of a row averaged, as sparse tables are
    trained in Mudigere et al. 2022, https://arxiv.org/abs/2104.05158, section 4.1.
    """

    epsilon: float = 1e-8

    def init(self, table: Array) -> Array:
        """`[N]` float32, the sum of mean squares."""
        return jnp.zeros(table.shape[0], jnp.float32)

    def change(self, rows: Array, state: Array, gradients: Array, *, rate: Array,
               step: Array) -> tuple[Array, Array]:
        """See `RowRule`."""
        del step
        total = state + jnp.mean(gradients * gradients, axis=-1)
        slope = gradients / (jnp.sqrt(total) + self.epsilon)[:, None]
        return rows - rate * slope, total


@dataclasses.dataclass(frozen=True)
class RowAdam:
    """Lazy Adam: moments of touched rows alone; bias is corrected by the run's step.

    Attributes:
      b1: decay of the mean gradient.
      b2: decay of the mean square.
      epsilon: added to the root of the mean square.
      by_row: keep one mean square for each row, of the row's mean, in place of one for
        each element: two thirds of the memory.

    Source: Kingma & Ba 2015, https://arxiv.org/abs/1412.6980, algorithm 1, on the rows
    of a batch.
    """

    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-8
    by_row: bool = False

    def init(self, table: Array) -> tuple[Array, Array]:
        """Means `[N, D]` and mean squares `[N, D]`, or `[N]` by row; float32."""
        second = table.shape[:1] if self.by_row else table.shape
        return jnp.zeros(table.shape, jnp.float32), jnp.zeros(second, jnp.float32)

    def change(self, rows: Array, state: tuple[Array, Array], gradients: Array, *,
               rate: Array, step: Array) -> tuple[Array, tuple[Array, Array]]:
        """See `RowRule`."""
        mean, square = state
        count = (step + 1).astype(jnp.float32)
        squares = gradients * gradients
        if self.by_row:
            squares = jnp.mean(squares, axis=-1)
        mean = self.b1 * mean + (1 - self.b1) * gradients
        square = self.b2 * square + (1 - self.b2) * squares
        root = jnp.sqrt(square / (1 - self.b2**count)) + self.epsilon
        if self.by_row:
            root = root[:, None]
        return rows - rate * (mean / (1 - self.b1**count)) / root, (mean, square)


def update_table(rule: RowRule, table: Array, state: Any, ids: Array, gradients: Array,
                 layout: lookup.Layout, *, rate: Array | float, step: Array | int
                 ) -> tuple[Array, Any, lookup.Traffic]:
    """One step of a table on devices; see `lookup.update_rows` for the arguments.

    Args:
      rule: how rows move.
      table, state, ids, gradients, layout: as there.
      rate: learning rate.
      step: steps done before this one.
    """
    change = functools.partial(rule.change, rate=jnp.float32(rate),
                               step=jnp.int32(step))
    return lookup.update_rows(table, state, ids, gradients, layout, change)


def state_shardings(rule: RowRule, table: jax.ShapeDtypeStruct, layout: lookup.Layout
                    ) -> Any:
    """The sharding of each array of a table's state: its rows lie with the table's."""
    return jax.tree.map(lambda _: layout.table_sharding,
                        jax.eval_shape(rule.init, table))
