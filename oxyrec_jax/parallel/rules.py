"""From the logical axes of an array to the mesh axes it is cut over.

One table holds for every model. A parameter with an axis that the table does not name,
or whose axes claim one mesh axis twice, raises: nothing is replicated by accident.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from oxyrec_jax.base import Array
from oxyrec_jax.parallel.mesh import BATCH_AXES

RULES: dict[str, str | None] = {
    "embed": "fsdp",      # the residual stream's width
    "mlp": "tensor",      # inner width of feed-forward layers
    "heads": "tensor",    # attention heads times their width
    "items": "tensor",    # rows of an item table
    "experts": "expert",  # of a layer
    "rows": "table",      # of a sparse table
    "codes": None,        # rows of the code table: a few hundred, read whole
    "features": None,     # width of side features
    "buckets": None,      # relative-position buckets
    "one": None,          # a single learned vector
}


def param_shardings(abstract: Any, mesh: Mesh,
                    rules: Mapping[str, str | None] = RULES) -> Any:
    """The sharding of every parameter.

    Args:
      abstract: the variables of a Linen module as `jax.eval_shape(model.init, ...)`
        gives them, still boxed with their logical axis names.
      mesh: the devices.
      rules: logical axis to mesh axis, None for not cut.

    Returns:
      The same tree, unboxed, with a `NamedSharding` in each leaf's place.

    Raises:
      ValueError: a parameter without names, with an unknown name, with two axes on
        one mesh axis, or with an axis that the mesh does not divide.
    """
    def one(path: tuple, leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path)
        if not isinstance(leaf, nn.LogicallyPartitioned):
            raise ValueError(f"parameter {name} names no logical axes")
        return _sharding(name, leaf.names, leaf.value.shape, mesh, rules)
    return jax.tree_util.tree_map_with_path(
        one, abstract, is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of arrays whose first axis is the batch."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def lay_rows(x: Array) -> Array:
    """Keeps an activation where its rows are, instead of where a parameter is cut.

    Left alone, XLA may cut the width of activations over the axis that the parameters
    are cut over and pass them around at every layer.

    Args:
      x: `[B, ...]`.

    Returns:
      `x`, cut over the axes of the batch alone where a program is traced for a mesh
      (`jax.sharding.use_abstract_mesh`); anywhere else as it is.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not set(BATCH_AXES) <= set(mesh.axis_names):
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH_AXES))


def global_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Puts this process's rows of a batch on its devices.

    Args:
      batch: arrays `[B / processes, ...]`, this process's share of the rows.
      mesh: the devices of all processes.

    Returns:
      Arrays `[B, ...]`, cut over the axes of the batch.
    """
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, np.asarray(rows))
            for name, rows in batch.items()}


def _sharding(name: str, names: tuple, shape: tuple[int, ...], mesh: Mesh,
              rules: Mapping[str, str | None]) -> NamedSharding:
    cut: list[str | None] = []
    for axis, size in zip(names, shape, strict=True):
        if axis not in rules:
            raise ValueError(f"parameter {name}: no rule for logical axis {axis!r}")
        mesh_axis = rules[axis]
        if mesh_axis is not None and mesh_axis in cut:
            raise ValueError(f"parameter {name}: axes {names} use mesh axis "
                             f"{mesh_axis!r} twice")
        if mesh_axis is not None and size % mesh.shape[mesh_axis]:
            raise ValueError(f"parameter {name}: axis {axis!r} of {size} is not a "
                             f"multiple of mesh axis {mesh_axis!r} of "
                             f"{mesh.shape[mesh_axis]}")
        cut.append(mesh_axis)
    return NamedSharding(mesh, PartitionSpec(*cut))
