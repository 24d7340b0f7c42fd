"""The parameters that a run keeps: a bundle of named arrays."""

import pathlib
from typing import Any

import jax
import numpy as np

from oxyrec_jax import artifacts

_KIND, _VERSION = "parameters", 1


def read_params(folder: pathlib.Path) -> tuple[Any, int]:
    """Reads parameters that a run kept: a nested dict of arrays, and their step."""
    manifest = artifacts.read_manifest(folder, kind=_KIND, version=_VERSION)
    params: dict[str, Any] = {}
    for name in manifest["names"]:
        *parents, leaf = name.split("/")
        place = params
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = np.array(artifacts.read_array(folder, name))
    return params, manifest["step"]


def write_params(folder: pathlib.Path, params: Any, step: int) -> None:
    """Writes parameters, NumPy arrays, as they stood after a step."""
    if jax.process_index():
        return
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    arrays = {"/".join(str(key.key) for key in path): leaf for path, leaf in flat}
    artifacts.write_bundle(folder, kind=_KIND, version=_VERSION, arrays=arrays,
                           facts={"step": step, "names": sorted(arrays)})


def to_host(params: Any) -> Any:
    """The same tree of NumPy arrays, gathered from all processes."""
    return jax.tree.map(_to_host, params)


def _to_host(leaf: jax.Array) -> np.ndarray:
    if leaf.is_fully_addressable:
        return np.asarray(leaf)
    from jax.experimental import multihost_utils  # only where there are several hosts
    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
