"""Rows of a sharded table that every device reads in a step, held whole by each.

Where each device needs what all of them read, as the parameters of a network, rows are
summed to every device, used like any other parameter, and changed where they lie.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from oxyrec_jax.base import Array
from oxyrec_jax.parallel.lookup import Change, Layout, change_own, own_rows


def hold_rows(table: Array, rows: Array, layout: Layout) -> Array:
    """Rows of a sharded table, whole on every device.

    Args:
      table: `[N, D]`, cut as `layout.table_sharding`.
      rows: `[M]` int32, whole on every device; one from N on gives zeros.
      layout: the devices.

    Returns:
      `[M, D]`.
    """
    def local(table: Array, rows: Array) -> Array:
        own = own_rows(rows, len(table), layout)
        return jax.lax.psum(table.at[own].get(mode="fill", fill_value=0), layout.rows)

    return jax.shard_map(local, mesh=layout.mesh, out_specs=PartitionSpec(),
                         in_specs=(PartitionSpec(layout.rows), PartitionSpec()))(
                             table, rows)


def update_held(table: Array, state: Any, rows: Array, gradients: Array,
                layout: Layout, change: Change) -> tuple[Array, Any]:
    """Changes rows that every device knows.

    Args:
      table: `[N, D]`, cut as `layout.table_sharding`.
      state: arrays `[N, ...]` of an optimiser, cut likewise.
      rows: `[M]` int32, ascending, each once; those from N on are left out.
      gradients: `[M, D]` float32, whole on every device like `rows`.
      layout: the devices.
      change: see `Change`.

    Returns:
      Table and state, the same buffers where both are donated.
    """
    def local(table: Array, state: Any, rows: Array, gradients: Array) -> Any:
        own = own_rows(rows, len(table), layout)
        # This device's rows to the front, in their order.
        first = jnp.searchsorted(rows, jax.lax.axis_index(layout.rows) * len(table))
        order = (jnp.arange(len(rows)) + first) % len(rows)
        return change_own(table, state, own[order], gradients[order], change)

    cut, whole = PartitionSpec(layout.rows), PartitionSpec()
    return jax.shard_map(local, mesh=layout.mesh, in_specs=(cut, cut, whole, whole),
                         out_specs=(cut, cut))(table, state, rows, gradients)
