"""The device mesh: which axes there are and how many devices each has."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np

from oxyrec_jax.base import InputError

AXES = ("data", "fsdp", "tensor")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many devices each mesh axis has; the product is the number of devices.

    Attributes:
      data: copies of the model, each with its share of the batch; 0 takes all devices
        that the other axes leave.
      fsdp: parts into which parameters are cut, each with its share of the batch.
      tensor: parts into which heads, feed-forward layers and tables are cut.
    """

    data: int = 0
    fsdp: int = 1
    tensor: int = 1


def make_mesh(cfg: MeshConfig = MeshConfig(),
              devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
    """Lays devices out as a mesh with the axes `data`, `fsdp`, `tensor`.

    Args:
      cfg: devices on each axis.
      devices: those to use; all by default.

    Returns:
      A mesh with automatic sharding propagation on every axis.

    Raises:
      InputError: the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    rest = cfg.fsdp * cfg.tensor
    if cfg.fsdp < 1 or cfg.tensor < 1 or cfg.data < 0:
        raise InputError(f"mesh axes must be at least 1 (data may be 0), found {cfg}")
    data = cfg.data or max(1, len(devices) // rest)
    shape = (data, cfg.fsdp, cfg.tensor)
    if math.prod(shape) != len(devices):
        raise InputError(
            f"mesh data={data}, fsdp={cfg.fsdp}, tensor={cfg.tensor} needs "
            f"{math.prod(shape)} devices, found {len(devices)}; change the mesh")
    kinds = (jax.sharding.AxisType.Auto,) * len(AXES)
    return jax.sharding.Mesh(np.asarray(devices).reshape(shape), AXES, axis_types=kinds)
