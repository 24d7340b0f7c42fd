"""The device mesh: which axes there are and how many devices each has."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np

from oxyrec_jax.base import InputError

AXES = ("data", "fsdp", "tensor", "expert", "table")
BATCH_AXES = ("data", "fsdp", "expert", "table")  # that the batch is cut over


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many devices each mesh axis has; the product is the number of devices.

    Attributes:
      data: copies of the model, each with its share of the batch; 0 takes all devices
        that the other axes leave.
      fsdp: parts into which parameters are cut, each with its share of the batch.
      tensor: parts into which heads, feed-forward layers and tables are cut.
      expert: parts into which the experts of a layer are cut, each with its share of
        the batch; every other parameter is whole on each.
      table: parts into which the rows of sparse tables are cut, each with its share of
        the batch; every other parameter is whole on each.
    """

    data: int = 0
    fsdp: int = 1
    tensor: int = 1
    expert: int = 1
    table: int = 1

    @property
    def devices(self) -> int:
        """How many devices the axes name; 0 where `data` takes those that are left."""
        return math.prod(dataclasses.asdict(self).values())


def parse_mesh(text: str) -> dict[str, int]:
    """Reads a mesh as written on a command line.

    Args:
      text: such as "data=2,fsdp=2"; axes left out are not in the result.

    Returns:
      The axes named, with their devices.

    Raises:
      InputError: an unknown axis, one given twice, or a size that is not a number.
    """
    sizes: dict[str, int] = {}
    for part in text.split(","):
        axis, equals, size = part.strip().partition("=")
        if not equals or axis not in AXES or axis in sizes or not size.isdecimal():
            raise InputError(f"mesh {text!r}: {part.strip()!r} is not one of "
                             f"{', '.join(AXES)} with a number, once each, such as "
                             "data=2,fsdp=2")
        sizes[axis] = int(size)
    return sizes


def make_mesh(cfg: MeshConfig = MeshConfig(),
              devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
    """Lays devices out as a mesh with the axes of `AXES`.

    Args:
      cfg: devices on each axis.
      devices: those to use; all by default.

    Returns:
      A mesh with automatic sharding propagation on every axis.

    Raises:
      InputError: the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = dataclasses.asdict(cfg)
    if cfg.data < 0 or min(sizes[axis] for axis in AXES[1:]) < 1:
        raise InputError(f"mesh axes must be at least 1 (data may be 0), found {cfg}")
    rest = math.prod(sizes[axis] for axis in AXES[1:])
    sizes["data"] = cfg.data or max(1, len(devices) // rest)
    shape = tuple(sizes[axis] for axis in AXES)
    if math.prod(shape) != len(devices):
        named = ", ".join(f"{axis}={size}" for axis, size in sizes.items() if size > 1)
        raise InputError(
            f"mesh {named or 'data=1'} needs {math.prod(shape)} devices, found "
            f"{len(devices)}; change the mesh")
    kinds = (jax.sharding.AxisType.Auto,) * len(AXES)
    return jax.sharding.Mesh(np.asarray(devices).reshape(shape), AXES, axis_types=kinds)


def batch_parts(mesh: jax.sharding.Mesh) -> int:
    """Parts into which a mesh cuts the batch."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)
