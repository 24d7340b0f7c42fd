"""How fast an experiment trains on these devices, and how far that is from their peak.

    MFU = 3 · sum over histories of the FLOPs of a forward pass
          / (seconds · peak FLOP/s of all devices)

The FLOPs are those that the network needs (`models.flops`): real positions only, causal
attention at or before the query, look-ups and rematerialisation 0. Seconds are those of
steps with the input pipeline on; compiling and warm-up do not count.
"""

import dataclasses
import math
import statistics
import time
from typing import Any

import jax
import numpy as np

from oxyrec_jax import parallel, profiling, progress
from oxyrec_jax.base import InputError
from oxyrec_jax.models.attention import attention_path
from oxyrec_jax.models.config import ModelConfig
from oxyrec_jax.models.flops import ForwardFlops, batch_flops
from oxyrec_jax.ready import load
from oxyrec_jax.train.setup import Feed, Setup, feed, set_up
from oxyrec_jax.workspace import Workspace

WARM_UP = 2  # steps after the one that compiles


def _empty() -> Any:
    return dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Steps:
    """What was timed, step by step.

    Attributes:
      seconds: of a step, its batch included.
      waiting: of these, until the batch lay on the devices.
      flops: of each step's forward passes, by part.
      counted: FLOPs of each step on all devices as XLA counts them.
      places: positions of each batch, with padding.
      positions: real positions of each batch.
      targets: supervised targets of each batch.
    """

    seconds: list[float] = _empty()
    waiting: list[float] = _empty()
    flops: list[ForwardFlops] = _empty()
    counted: list[float] = _empty()
    places: list[int] = _empty()
    positions: list[int] = _empty()
    targets: list[int] = _empty()


def measure(space: Workspace, steps: int = 20) -> dict[str, Any]:
    """Trains for some steps, keeps nothing, and tells how fast that was.

    Args:
      space: with data set and semantic IDs, of a generator.
      steps: how many to time, after the compiling one and two more.

    Returns:
      JSON values; what each means stands under "meaning". Rates are medians over steps,
      with the quartiles of the seconds beside them.

    Raises:
      InputError: too few steps, or the batch does not fit the mesh.
      LookupError: an accelerator whose peak is not known.
    """
    if steps < 1:
        raise InputError(f"--steps is {steps}, expected at least 1")
    cfg, ready = space.cfg, load(space)
    mesh = parallel.make_mesh(cfg.mesh)
    rows_of = feed(ready.model, ready.dataset, cfg.train.pipeline, seed=cfg.seeds[0])
    made = set_up(ready.model, rows_of.example, ready.catalogue, cfg.train, mesh,
                  seed=cfg.seeds[0])
    gemm = profiling.matmul_peak(cfg.model.dtype)
    found, compiling = _time(made, rows_of, cfg.model, ready.ids.widths, steps)
    gemm = max(gemm, profiling.matmul_peak(cfg.model.dtype)) * _products(mesh)
    on_cpu = mesh.devices.flat[0].platform == "cpu"  # whose peak is what was measured
    peak, origin = ((gemm, "measured") if on_cpu
                    else profiling.peak_of_all(cfg.model.dtype))
    sizes = sum(leaf.size for leaf in jax.tree.leaves(made.state.params))
    return {
        "experiment": cfg.name, "parameters": sizes, "dtype": cfg.model.dtype,
        "devices": f"{mesh.size} x {mesh.devices.flat[0].device_kind}",
        "mesh": {axis: size for axis, size in mesh.shape.items() if size > 1},
        "rows": rows_of.pipeline.batch,
        "row_length": int(made.batch["items"].shape[1]),
        "steps": steps, "compile_seconds": compiling,
        "attention": dataclasses.asdict(attention_path(
            cfg.model, mesh.devices.flat[0].platform)),
        **summary(found, peak=peak, gemm=gemm, cfg=cfg.model,
                  levels=len(ready.ids.widths)),
        "peak_origin": origin, "meaning": MEANING}


def _time(made: Setup, rows_of: Feed, cfg: ModelConfig, widths: tuple[int, ...],
          steps: int) -> tuple[Steps, float]:
    """Times steps; also the seconds in which their programs were compiled."""
    features = made.catalogue.tables.features
    # Programs and their FLOPs on all devices by shape: rows may differ in length.
    programs: dict[tuple[int, ...], tuple[Any, float]] = {}
    state, found, compiling = made.state, Steps(), 0.0
    with progress.bar("timing steps", WARM_UP + steps) as advance:
        for number in range(WARM_UP + steps):
            begin = time.perf_counter()
            rows = next(rows_of.batches)
            batch = jax.block_until_ready(parallel.global_batch(rows, made.mesh))
            waiting = time.perf_counter() - begin
            shape = batch["segments"].shape
            if shape not in programs:
                begin = time.perf_counter()
                compiled = made.compile(batch)
                compiling += time.perf_counter() - begin
                counted = (compiled.cost_analysis() or {}).get("flops", 0.0)
                programs[shape] = compiled, made.mesh.size * float(counted)
            (compiled, counted), begin = programs[shape], time.perf_counter()
            state, figures = compiled(state, batch, made.catalogue)
            jax.block_until_ready(figures)
            if number >= WARM_UP:
                found.seconds.append(waiting + time.perf_counter() - begin)
                found.waiting.append(waiting)
                found.flops.append(batch_flops(
                    cfg, widths, rows,
                    features=0 if features is None else features.shape[1]))
                found.counted.append(counted)
                found.places.append(math.prod(shape))
                found.positions.append(int(figures["positions"]))
                found.targets.append(int(figures["targets"]))
            advance(1)
    return found, compiling


def _products(mesh: jax.sharding.Mesh) -> int:
    """How many matrix products run at once: simulated devices share the machine's
    cores, of which one product takes all."""
    return 1 if mesh.devices.flat[0].platform == "cpu" else mesh.size


def summary(found: Steps, *, peak: float, gemm: float, cfg: ModelConfig, levels: int
            ) -> dict[str, Any]:
    """Figures of timed steps.

    Args:
      found: what was timed.
      peak: FLOP/s of all devices together.
      gemm: the same, the best rate of a matrix product seen in this run.
      cfg: the network.
      levels: T, codes of an item.

    Returns:
      "step_seconds" (median and quartiles), "mfu", "hardware_flops_share",
      "gemm_share", "padding_share", "waiting_share" and rates each second.
    """
    alike = len(set(found.places)) == 1
    seconds = (statistics.median if alike else statistics.mean)(found.seconds)
    low, high = np.quantile(found.seconds, (0.25, 0.75)).tolist()
    needed = 3 * statistics.mean(one.total for one in found.flops)
    positions = statistics.mean(found.positions)
    targets = statistics.mean(found.targets)
    wide = 2 if cfg.dtype == "bfloat16" else 4
    rows_read = positions * (levels + cfg.item_embedding) + targets * (levels - 1)
    return {
        "step_seconds": {"median": statistics.median(found.seconds), "low": low,
                         "high": high},
        "mfu": profiling.mfu(needed, seconds, devices=1, peak=peak),
        "gemm_share": profiling.mfu(needed, seconds, devices=1, peak=gemm),
        "hardware_flops_share": statistics.mean(found.counted) / (seconds * peak),
        "padding_share": 1 - sum(found.positions) / sum(found.places),
        "waiting_share": statistics.median(found.waiting) / seconds,
        "model_flops": {name: 3 * statistics.mean(getattr(one, name)
                                                  for one in found.flops)
                        for name in ("encoder", "decoder", "head", "total")},
        "tokens_per_second": positions / seconds,
        "targets_per_second": targets / seconds,
        "embedding_bytes_per_second": rows_read * cfg.width * wide / seconds,
        "peak_flops": peak, "gemm_flops": gemm}


MEANING = {
    "mfu": "model_flops.total / (step_seconds.median x peak_flops); where rows differ "
           "in length, their mean stands for the median",
    "model_flops": "of one step, three forward passes: products on real positions, "
                   "causal attention at or before the query; look-ups, norms, "
                   "padding, optimiser and rematerialisation 0",
    "peak_flops": "of all devices: their datasheet's dense peak, on CPU gemm_flops",
    "gemm_flops": "the best square matrix product of this run, random values",
    "gemm_share": "as mfu, against gemm_flops",
    "hardware_flops_share": "as mfu, with the FLOPs that XLA counts in the compiled "
                            "step: padding and rematerialisation too; fused kernels "
                            "that XLA does not look into count 0, the layers of a "
                            "loop (model.scan) once",
    "attention": "how attention is computed, and why (model.attention)",
    "padding_share": "positions of a batch that hold no event",
    "waiting_share": "of a step's time until its batch lay on the devices",
    "tokens_per_second": "real positions of the encoder",
    "embedding_bytes_per_second": "rows looked up in the forward pass"}
