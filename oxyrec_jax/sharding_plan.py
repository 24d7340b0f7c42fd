"""How a training run would lie on a mesh, before anything of it is allocated.

The step is compiled for the mesh from shapes alone, on this machine's devices or on
simulated ones, so that a run on more devices than there are can be planned too.
"""

import contextlib
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from oxyrec_jax import parallel
from oxyrec_jax.base import InputError
from oxyrec_jax.config import Experiment
from oxyrec_jax.models.generator import Generator
from oxyrec_jax.parallel.collectives import collectives
from oxyrec_jax.ready import item_rows, load
from oxyrec_jax.tokenizer.catalogue import Catalogue, make_catalogue
from oxyrec_jax.train.setup import feed, len_of, set_up
from oxyrec_jax.workspace import Workspace

_DRAWN = 1_000_000  # items whose made-up semantic IDs are drawn; more are counted only


def simulate(mesh: parallel.MeshConfig) -> None:
    """Makes as many CPU devices as a mesh needs where the machine has fewer.

    To be called before anything touches a device. A mesh whose data axis is 0 takes
    the devices that are there.

    Raises:
      InputError: the mesh needs more devices than there are or can be simulated.
    """
    needed = mesh.devices
    if needed:
        with contextlib.suppress(RuntimeError):  # the devices are there already
            jax.config.update("jax_num_cpu_devices", needed)
        if needed > jax.device_count():
            raise InputError(
                f"the mesh needs {needed} devices, this machine has "
                f"{jax.device_count()} of {jax.devices()[0].device_kind}; set "
                "JAX_PLATFORMS=cpu to plan with simulated ones")


def plan(space: Workspace, *, items: int = 0) -> dict[str, Any]:
    """Lays a training run out on the mesh of its experiment and compiles its step.

    Args:
      space: the work directory. Where it holds no semantic IDs the plan is made for
        made-up items, which only a network without side columns can be planned with.
      items: how many items to make up; 0: those of the work directory.

    Returns:
      JSON values: "mesh", "devices", "parameters" (shape, spec and bytes on a device of
      each), "bytes_per_device" ("parameters", "optimizer", "averages", "catalogue",
      "batch", "temporaries" and "total", as XLA's compiler plans them), "collectives"
      of one step (kind, devices of a group, count, bytes on one device),
      "flops_per_device" as XLA counts them, and "notes".

    Raises:
      InputError: the mesh does not fit the devices or the batch, or there is nothing
        to plan with.
    """
    cfg = space.cfg
    made_up = bool(items) or not space.semantic_ids.exists()
    model, catalogue, batch = (_made_up(cfg, items) if made_up else _of(space))
    mesh = _mesh_of(cfg)
    made = set_up(model, batch, catalogue, cfg.train, mesh, seed=0, planned=True)
    state, compiled = made.state, made.compile()
    memory = compiled.memory_analysis()
    own = {"parameters": _on_device(state.params),
           "optimizer": _on_device(state.optimizer), "averages": _on_device(state.ema),
           "catalogue": _on_device(made.catalogue),
           "batch": _on_device(made.batch),
           "temporaries": int(memory.temp_size_in_bytes)}
    moved = collectives(compiled.as_text())
    kind = mesh.devices.flat[0].device_kind
    return {
        "experiment": cfg.name, "mesh": {axis: size for axis, size in
                                         mesh.shape.items() if size > 1},
        "devices": mesh.size, "rows": len_of(batch),
        "parameters": [_parameter(path, leaf) for path, leaf in
                       jax.tree.leaves_with_path(state.params)],
        "total_parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "bytes_per_device": own | {"total": sum(own.values())},
        "collectives": [dataclasses.asdict(one) for one in moved],
        "collective_bytes": sum(one.bytes for one in moved),
        "flops_per_device": (compiled.cost_analysis() or {}).get("flops"),
        "notes": _notes(made_up, model.items, kind)}


def _mesh_of(cfg: Experiment) -> jax.sharding.Mesh:
    """The mesh, on the first devices where it needs fewer than there are."""
    needed = cfg.mesh.devices
    return parallel.make_mesh(cfg.mesh, jax.devices()[:needed] if needed else None)


def _of(space: Workspace) -> tuple[Generator, Catalogue, dict[str, Any]]:
    """Network, items and batch of a work directory, items and batch as shapes."""
    ready = load(space)
    rows = feed(ready.model, ready.dataset, space.cfg.train.pipeline, seed=0)
    return ready.model, _shapes(ready.catalogue), _shapes(rows.example)


def _made_up(cfg: Experiment, items: int
             ) -> tuple[Generator, Catalogue, dict[str, Any]]:
    """The same for random semantic IDs and rows that are full."""
    if not items:
        raise InputError("the work directory holds no semantic IDs; run oxyrec prepare "
                         "and oxyrec tokenize first, or give --items N to plan for "
                         "so many made-up items")
    model = cfg.model
    if model.beside or model.opens or model.instructions.reads or model.memory or (
            model.retrieval.events or model.item_features):
        raise InputError("the network reads more than items; run oxyrec prepare and "
                         "oxyrec tokenize first, and give no --items")
    widths = cfg.tokenizer.widths
    drawn = np.random.default_rng(0).integers(
        0, widths, (min(items, _DRAWN), len(widths)))
    catalogue, _ = make_catalogue(drawn, widths, popularity=np.zeros(len(drawn)))
    shapes = _shapes(catalogue)
    rows = item_rows(items)
    shapes = dataclasses.replace(
        shapes, tables=dataclasses.replace(shapes.tables, codes=_shape(
            (rows, len(widths)), jnp.int32)),
        paths=_shape((rows, len(widths)), jnp.int32))
    pipeline = cfg.train.pipeline
    length, targets = ((pipeline.row_length,) * 2 if pipeline.mode == "packed"
                       else (pipeline.history, 1))
    batch = {name: _shape((pipeline.batch, width), dtype) for name, width, dtype in (
        ("items", length, jnp.int32), ("segments", length, jnp.int32),
        ("targets", targets, jnp.int32), ("target_mask", targets, jnp.bool_),
        ("target_positions", targets, jnp.int32))}
    return Generator(cfg.model, tuple(widths), rows), shapes, batch


def _shape(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: _shape(leaf.shape, leaf.dtype), tree)


def _on_device(tree: Any) -> int:
    return sum(_leaf_bytes(leaf) for leaf in jax.tree.leaves(tree))


def _leaf_bytes(leaf: jax.ShapeDtypeStruct) -> int:
    if leaf.sharding is None:
        raise ValueError(f"{leaf} has no sharding, expected one laid on the mesh")
    return (math.prod(leaf.sharding.shard_shape(leaf.shape))
            * np.dtype(leaf.dtype).itemsize)


def _parameter(path: Any, leaf: Any) -> dict[str, Any]:
    spec = [axis if axis is None or isinstance(axis, str) else list(axis)
            for axis in leaf.sharding.spec]
    return {"name": "/".join(str(key.key) for key in path), "shape": list(leaf.shape),
            "spec": spec, "bytes_per_device": _leaf_bytes(leaf)}


def _notes(made_up: bool, items: int, kind: str) -> list[str]:
    notes = [f"temporaries and collectives are those of XLA's compiler for {kind}; "
             "another kind of device orders them otherwise",
             "temporaries hold gradients and activations; what the step changes in "
             "place counts once"]
    if made_up:
        notes.append(f"{items:,} made-up items with random semantic IDs and full rows"
                     + (f", their trie as of {_DRAWN:,}" if items > _DRAWN else ""))
    return notes
