"""Writes a trained recommender as a folder that JAX alone can run.

The search, encoder included, is lowered to StableHLO for several platforms at once, one
program for each size of a batch. Parameters and catalogue are its arguments and lie
beside it as arrays. `run.py` in the folder (`export.run`) is all that is needed to
answer requests.
"""

import json
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from oxyrec_jax import __version__, artifacts
from oxyrec_jax.base import InputError
from oxyrec_jax.data import pipeline
from oxyrec_jax.decode.recommend import recommend, with_item_keys
from oxyrec_jax.export import run
from oxyrec_jax.instruction_store import Encoder
from oxyrec_jax.ready import Ready, load, parameters
from oxyrec_jax.serve.rows import Row, lay
from oxyrec_jax.tokenizer import sid_table
from oxyrec_jax.workspace import Workspace

PLATFORMS = ("cpu", "cuda", "tpu")
LIMIT_PER_SID = 50  # as `decode.beam.expand_items`
TOLERANCE = 1e-3  # nats, of a log-probability on another platform or release; ours
_CALLING = ("calling_convention_version", "module_kept_var_idx",
            "uses_global_constants", "nr_devices")


def export(space: Workspace, folder: pathlib.Path, *,
           platforms: Sequence[str] = PLATFORMS, batches: Sequence[int] = (1, 8),
           examples: int = 8) -> dict[str, Any]:
    """Exports the first seed's best parameters with the catalogue as it is now.

    Args:
      space: with a trained run; its `beams` is the width of the search.
      folder: where the artefact shall stand; an older one there is replaced.
      platforms: of "cpu", "cuda", "rocm", "tpu".
      batches: sizes of a batch, one program for each.
      examples: requests of the test split that are stored with their answers.

    Returns:
      `folder`, `bytes`, `programs` and `largest_difference`, nats, of the examples
      between the written folder and this package's search.

    Raises:
      InputError: no trained run, an unknown platform, a size below 1, or the written
        folder does not give the answers of this package.
    """
    _check_options(platforms, batches, examples)
    ready = load(space, live=True)
    params = jax.device_put(parameters(space, ready, space.cfg.seeds[0]))
    catalogue = with_item_keys(ready.model, params, ready.catalogue)
    asked = _examples(space, ready, examples)
    beams = recommend(ready.model, params, asked, catalogue, beams=space.cfg.beams)
    answers = {"codes": beams.codes, "leaves": beams.leaves,
               "log_probs": beams.log_probs, "bound": beams.bound}
    arguments, tree = jax.tree.flatten((params, catalogue))
    programs = {size: _lower(ready, tree, arguments, asked, size, space.cfg.beams,
                             platforms) for size in sorted(set(batches))}
    manifest = artifacts.write_bundle(
        folder, kind=run.KIND, version=run.VERSION,
        arrays=_arrays(space, ready, arguments, asked, answers),
        facts=_facts(space, ready, arguments, asked, answers, programs, platforms),
        write_files=lambda place: _write_files(place, ready, programs))
    found: dict[str, Any] = {
        "folder": str(folder), "programs": sorted(programs),
        "platforms": list(platforms),
        "bytes": sum(entry["bytes"] for entry in manifest["files"].values())}
    if jax.default_backend() in run.backends_of(platforms):
        try:
            found["largest_difference"] = run.load(folder).check()
        except run.ArtefactError as error:
            raise InputError(str(error)) from None
    return found


def _check_options(platforms: Sequence[str], batches: Sequence[int], examples: int
                   ) -> None:
    unknown = sorted(set(platforms) - {*PLATFORMS, "rocm"})
    if unknown or not platforms:
        raise InputError(f"--platforms {' '.join(platforms)}: expected some of cpu, "
                         "cuda, rocm, tpu")
    if not batches or min(batches) < 1 or examples < 1:
        raise InputError(f"--batches {list(batches)} and {examples} examples: expected "
                         "numbers of at least 1")


def _arrays(space: Workspace, ready: Ready, arguments: Sequence[Any],
            asked: Mapping[str, np.ndarray], answers: Mapping[str, Any]
            ) -> dict[str, np.ndarray]:
    """What lies in the folder as arrays, by name."""
    return {
        **{f"arguments/{place:04d}": np.asarray(leaf)
           for place, leaf in enumerate(arguments)},
        **{f"examples/{name}": np.asarray(rows)
           for name, rows in {**asked, **answers}.items()},
        **{f"default/{name}": rows for name, rows in _default(space, ready).items()},
        "leaves/offsets": ready.leaves.offsets, "leaves/items": ready.leaves.items}


def _facts(space: Workspace, ready: Ready, arguments: Sequence[Any],
           asked: Mapping[str, np.ndarray], answers: Mapping[str, Any],
           programs: Mapping[int, jax.export.Exported], platforms: Sequence[str]
           ) -> dict[str, Any]:
    """The manifest: how the programs are called, with what, and what they give."""
    return {
        "made_by": f"oxyrec_jax {__version__}", "jax": jax.__version__,
        "name": space.cfg.name, "beams": space.cfg.beams, "platforms": list(platforms),
        "limit_per_sid": LIMIT_PER_SID, "tolerance": TOLERANCE,
        "semantic_ids": ready.ids.manifest["root"],
        "arguments": [_entry(f"arguments/{place:04d}", leaf.shape, leaf.dtype)
                      for place, leaf in enumerate(arguments)],
        "inputs": [_entry(name, rows.shape[1:], rows.dtype)
                   for name, rows in asked.items()],
        "outputs": [_entry(name, rows.shape[1:], rows.dtype)
                    for name, rows in answers.items()],
        "programs": {str(size): {"file": _file(size), "calling": {
            name: getattr(program, name) for name in _CALLING}}
            for size, program in programs.items()}}


def _write_files(place: pathlib.Path, ready: Ready,
                 programs: Mapping[int, jax.export.Exported]) -> None:
    """What lies in the folder beside arrays and manifest."""
    for size, program in programs.items():
        (place / _file(size)).write_bytes(program.mlir_module_serialized)
    table = sid_table.catalogue_table(ready.dataset, ready.ids)
    (place / "items.json").write_text(json.dumps(
        {name: table[name].to_pylist() for name in ("item_id", "title")}), "utf-8")
    shutil.copyfile(run.__file__, place / "run.py")


def _file(size: int) -> str:
    return f"search_{size}.mlirbc"


def _lower(ready: Ready, tree: Any, arguments: Sequence[Any],
           asked: dict[str, np.ndarray], size: int, beams: int,
           platforms: Sequence[str]) -> jax.export.Exported:
    """The whole search for batches of one size."""
    names = list(asked)

    def search(arguments: Sequence[Any], rows: Sequence[Any]) -> list[Any]:
        params, catalogue = jax.tree.unflatten(tree, arguments)
        found = recommend(ready.model, params, dict(zip(names, rows, strict=True)),
                          catalogue, beams=beams)
        return [found.codes, found.leaves, found.log_probs, found.bound]
    shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in arguments]
    rows = [jax.ShapeDtypeStruct((size, *row.shape[1:]), row.dtype)
            for row in asked.values()]
    return jax.export.export(jax.jit(search), platforms=list(platforms))(shapes, rows)


def _examples(space: Workspace, ready: Ready, count: int) -> dict[str, np.ndarray]:
    """Evenly spread requests of the test split, as the network reads them."""
    batches = pipeline.eval_batches(
        ready.dataset, "test", batch=count,
        history=space.cfg.train.pipeline.history, columns=ready.model.columns,
        long=ready.model.cfg.retrieval.events,
        behaviour=space.cfg.instructions.behaviour)
    count = min(count, batches.targets)
    batch = batches.take(np.linspace(0, batches.targets - 1, count).astype(int))
    return {name: np.asarray(batch[name]) for name in ready.model.reads}


def _default(space: Workspace, ready: Ready) -> dict[str, np.ndarray]:
    """A row of everything that the network reads, of which nothing is known."""
    vectors = None
    if "target_instruction" in ready.model.reads:
        vectors = np.zeros((1, Encoder(space).dimension), np.float32)
    profiles = ready.dataset.profiles
    made = lay([Row(np.zeros(1, np.int32))], vectors, ready.model, batch=1,
               length=space.cfg.train.pipeline.history,
               profile=0 if profiles is None else profiles.rows.shape[1])
    return {name: made[name] for name in ready.model.reads}


def _entry(name: str, shape: Sequence[int], dtype: Any) -> dict[str, Any]:
    return {"name": name, "shape": list(shape), "dtype": np.dtype(dtype).name}
