"""Meshes of devices and how named axes of arrays lie on them."""

from oxyrec_jax.parallel.mesh import MeshConfig, make_mesh
from oxyrec_jax.parallel.rules import (
    RULES,
    batch_sharding,
    global_batch,
    param_shardings,
    replicated,
)

__all__ = ["RULES", "MeshConfig", "batch_sharding", "global_batch", "make_mesh",
           "param_shardings", "replicated"]
