"""Meshes of devices and how named axes of arrays lie on them."""

from oxyrec_jax.parallel.mesh import (
    BATCH_AXES,
    MeshConfig,
    batch_parts,
    make_mesh,
    parse_mesh,
)
from oxyrec_jax.parallel.rules import (
    RULES,
    batch_sharding,
    global_batch,
    lay_rows,
    param_shardings,
    replicated,
)

__all__ = ["BATCH_AXES", "RULES", "MeshConfig", "batch_parts", "batch_sharding",
           "global_batch", "lay_rows", "make_mesh", "param_shardings", "parse_mesh",
           "replicated"]
