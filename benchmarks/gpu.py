"""Numerics, MFU, latency and bandwidths on one accelerator, in one go.

    python benchmarks/gpu.py --json            # on a GPU: within nine minutes
    python benchmarks/gpu.py --toy --json      # the same parts at toy size, on a CPU

Needs jax, flax and optax; neither a network nor grain. Parts, each beside its bound:

    check      loss and gradient in float32 and bfloat16, by plain and by the device's
               own attention, beside float64 on the CPU (`float64.py`)
    peak       the best matrix product (random bfloat16), the rate of memory
    train      MFU of the published sizes over rows and lengths, with the way that
               attention takes; once more without the fused one, and layers as a loop
    input      rows that the host lays out : rows that the steps above take, by NumPy
               alone and one thread, as grain may not be there
    decode     latency of constrained beam search, encoder included
    lookup     rows of an embedding table, bytes moved : memory rate
    optimizer  AdamW on flat parameters, bytes moved : memory rate

A part that runs out of memory says so and the next one begins; what would begin after
`--minutes` is left out, and named. Times are medians over blocked calls after
warm-up. MFU counts what `models.flops` counts: padding and rematerialisation 0.

The bound of a decode is the larger of its matrix products' FLOPs : the measured
product rate and its parameters' bytes : the memory rate.
"""

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import float64
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from oxyrec_jax import parallel, profiling
from oxyrec_jax.data import packing
from oxyrec_jax.decode.recommend import recommend
from oxyrec_jax.models import attention, flops, sizes
from oxyrec_jax.models.config import ModelConfig
from oxyrec_jax.models.generator import Generator
from oxyrec_jax.models.moe import MoEConfig
from oxyrec_jax.tokenizer import catalogue as catalogues
from oxyrec_jax.train import objective
from oxyrec_jax.train import step as steps

TOY = ModelConfig(width=32, heads=2, head_width=16, mlp_width=32, encoder_layers=1,
                  decoder_layers=1, causal=False, item_embedding=False, dropout=0.0,
                  moe=MoEConfig(2, 1), dtype="bfloat16", positions="rotary")
# Name, rows, length; what a size is first run with, then longer and wider; changes.
SHAPES: tuple[tuple[str, int, int, dict[str, Any]], ...] = (
    ("0.1B", 256, 512, {}), ("0.4B", 64, 512, {}), ("0.7B", 32, 512, {}),
    ("0.7B", 64, 512, {}), ("0.7B", 64, 512, {"attention": "plain"}),
    ("0.7B", 64, 512, {"scan": True}), ("0.7B", 16, 2048, {}), ("1.5B", 16, 512, {}))
# Of loss and gradient, to float64: rounding gives 1e-6 and 0.015, TF32 products 1e-3.
LIMITS = {"float32": 1e-4, "bfloat16": 5e-2}
DECODES = (("0.7B", 1, 1000, 256), ("0.7B", 8, 1000, 256))  # rows, length, beams
Rows = list[dict[str, Any]]


def main() -> None:
    options = _options()
    begin = time.perf_counter()
    device = jax.devices()[0]
    print(f"device: {jax.device_count()} x {device.device_kind}; JAX {jax.__version__}")
    found: dict[str, Any] = {"device": device.device_kind, "jax": jax.__version__}
    found["peak"] = peak(options.toy)
    parts: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
        "check": lambda: check(options.toy),
        "train": lambda: train(options.toy, found["peak"]),
        "input": lambda: host_rows(options.toy, found["train"]),
        "decode": lambda: decode(options.toy, found["peak"]),
        "lookup": lambda: lookup(options.toy, found["peak"]),
        "optimizer": lambda: optimizer(options.toy, found["peak"])}
    left_out = []
    for name, part in parts.items():
        found[name], rows = [], part()
        while time.perf_counter() - begin < 60 * options.minutes:
            if (row := next(rows, None)) is None:
                break
            found[name].append(row)
            print(f"{name:>9}: {_told(row)}", flush=True)
        else:
            left_out.append(name)
    found["seconds"] = round(time.perf_counter() - begin, 1)
    found["left_out"] = left_out
    if left_out:
        print(f"out of time: {', '.join(left_out)} not or not wholly run")
    if options.json:
        print(json.dumps(found))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flag = {"action": "store_true"}
    parser.add_argument("--toy", "--quick", help="small shapes, for a CPU", **flag)
    parser.add_argument("--json", help="one JSON object as the last line", **flag)
    parser.add_argument("--minutes", type=float, default=8.0,
                        help="no row of a part begins after these (8)")
    return parser.parse_args()


def _told(row: dict[str, Any]) -> str:
    return "  ".join(f"{name} {value:.4g}" if isinstance(value, float) else
                     f"{name} {value}" for name, value in row.items())


def peak(toy: bool) -> dict[str, float]:
    """Datasheet and measured product rate, FLOP/s, and memory rate, bytes/s."""
    device = jax.devices()[0]
    gemm = profiling.matmul_peak("bfloat16", size=256 if toy else 8192, seconds=1.0)
    rate = profiling.memory_rate(16 if toy else 2048)
    sheet = (None if device.platform == "cpu"
             else profiling.datasheet_peak(device.device_kind, "bfloat16"))
    print(f"     peak: product {gemm / 1e12:.2f} TFLOP/s, datasheet "
          f"{'–' if sheet is None else f'{sheet / 1e12:.0f}'}, memory "
          f"{rate / 1e9:.0f} GB/s")
    return {"gemm": gemm, "memory": rate, "datasheet": sheet or gemm}


def make(cfg: ModelConfig, rows: int, length: int, items: int, widths: tuple[int, ...]
         ) -> tuple[Generator, Any, dict[str, np.ndarray]]:
    """A network, random items and full histories."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, widths, (items, len(widths)))
    catalogue, _ = catalogues.make_catalogue(codes, widths, popularity=np.zeros(items))
    batch = {"items": rng.integers(0, items, (rows, length)).astype(np.int32),
             "segments": np.ones((rows, length), np.int32),
             "targets": rng.integers(0, items, (rows, 1)).astype(np.int32),
             "target_mask": np.ones((rows, 1), bool),
             "target_positions": np.full((rows, 1), length - 1, np.int32)}
    return Generator(cfg, widths, items), catalogue, batch


def init(model: Generator, batch: Any, catalogue: Any) -> Any:
    """Random parameters, made where they are used."""
    example = {name: jnp.asarray(value[:1]) for name, value in batch.items()}
    return jax.jit(lambda: nn.meta.unbox(model.init(
        jax.random.key(0), example, catalogue.tables)["params"]))()


def check(toy: bool) -> Iterator[dict[str, Any]]:
    """Loss and gradient of a small dense network on this device, beside float64."""
    base = float64.CONFIG
    if toy:
        base = dataclasses.replace(base, width=32, mlp_width=32, encoder_layers=1,
                                   decoder_layers=1)
    widths = (64, 64, 64)
    model, catalogue, batch = make(base, 8, 63, 1000, widths)
    batch["segments"][::2, :9] = 0
    params = jax.device_get(init(model, batch, catalogue))
    true, slope = float64.loss_and_gradient(base, widths, params, batch,
                                            np.asarray(catalogue.tables.codes))
    slope = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(slope)])
    for dtype, way in (("float32", "plain"), ("bfloat16", "plain"),
                       ("bfloat16", "auto")):
        cfg = dataclasses.replace(base, dtype=dtype, attention=way)
        value, own = _slope(model.clone(cfg=cfg), params, batch, catalogue)
        error = float(np.linalg.norm(own - slope) / np.linalg.norm(slope))
        far = abs(value - true) / true
        yield {"dtype": dtype, "attention": _path(cfg).name, "loss_error": far,
               "gradient_error": error, "limit": LIMITS[dtype],
               "verdict": "as float64" if max(error, far) < LIMITS[dtype] else "WRONG"}


def _slope(model: Generator, params: Any, batch: Any, catalogue: Any
           ) -> tuple[float, np.ndarray]:
    """Loss, and the gradient as one vector, of products of the highest precision."""
    def loss(params: Any) -> Any:
        total, _ = objective.supervised_loss(
            model, params, jax.tree.map(jnp.asarray, batch), catalogue,
            jax.random.key(0), objective.ObjectiveConfig())
        return total.mean()
    with jax.default_matmul_precision("highest"):
        value, slope = jax.jit(jax.value_and_grad(loss))(params)
    return float(value), np.concatenate([
        np.asarray(leaf, np.float64).ravel()
        for leaf in jax.tree.leaves(jax.device_get(slope))])


def _path(cfg: ModelConfig) -> attention.Path:
    return attention.attention_path(cfg, jax.devices()[0].platform)


def train(toy: bool, peaks: dict[str, float]) -> Iterator[dict[str, Any]]:
    """MFU of a whole training step, AdamW included."""
    shapes = (("toy", 8, 16, {}),) if toy else SHAPES
    for name, rows, length, options in shapes:
        cfg = dataclasses.replace(TOY if toy else sizes.SIZES[name].model, **options)
        path = _path(cfg)
        print(f"           {name} {options or ''}: attention {path.name}: "
              f"{path.reason}")
        yield _or_no_memory(
            {"size": name, "rows": rows, "length": length, "attention": path.name,
             "scan": cfg.scan}, lambda: _train(cfg, rows, length, toy, peaks))


def _train(cfg: ModelConfig, rows: int, length: int, toy: bool,
           peaks: dict[str, float]) -> dict[str, Any]:
    widths = (64, 64, 64) if toy else sizes.CODES
    model, catalogue, batch = make(cfg, rows, length, 1000 if toy else 100_000, widths)
    mesh = parallel.make_mesh(devices=jax.devices()[:1])
    how = steps.OptimizerConfig()
    rule = steps.make_optimizer(how, steps=1000)
    state, shardings = steps.init_state(model, rule, batch, catalogue, mesh, seed=0,
                                        ema=False)
    run = steps.make_train_step(model, rule, how, objective.ObjectiveConfig(), mesh,
                                shardings, seed=0)
    catalogue = jax.device_put(catalogue, parallel.replicated(mesh))
    laid = parallel.global_batch(batch, mesh)
    begin = time.perf_counter()
    compiled = run.lower(state, laid, catalogue).compile()  # type: ignore
    compiling = time.perf_counter() - begin

    def once() -> Any:
        nonlocal state
        state, figures = compiled(state, laid, catalogue)
        return figures
    seconds = timed(once, 3 if toy else 10)
    needed = 3 * flops.batch_flops(cfg, widths, batch).total
    return {"ms": 1e3 * seconds, "mfu": needed / seconds / peaks["datasheet"],
            "of_product_rate": needed / seconds / peaks["gemm"],
            "tokens_per_s": rows * length / seconds,
            "compile_s": round(compiling, 1)}


def host_rows(toy: bool, trained: Rows) -> Iterator[dict[str, Any]]:
    """Rows that NumPy lays out of a log in memory, for each shape that was trained."""
    rng = np.random.default_rng(0)
    events, users = (20_000, 100) if toy else (20_000_000, 100_000)
    log = rng.integers(0, 100_000, events).astype(np.int32)
    ends = np.sort(rng.integers(1, events, users))
    for rows, length, step in dict.fromkeys(
            (one["rows"], one["length"], one["ms"]) for one in trained if "ms" in one):
        def batch(rows: int = rows, length: int = length) -> np.ndarray:
            last = ends[rng.integers(0, users, rows)]
            first = np.maximum(last - length, 0)
            counts = last - first
            items = np.zeros((rows, length), np.int32)
            segments = np.zeros((rows, length), np.int32)
            row, place = np.repeat(np.arange(rows), counts), packing.count_up(counts)
            items[row, place] = log[packing.spans(first, last)]
            segments[row, place] = 1
            return items
        made, taken = rows / timed(batch, 20), rows / (1e-3 * step)
        yield {"rows": rows, "length": length, "made_per_s": made,
               "taken_per_s": taken, "margin": made / taken}


def decode(toy: bool, peaks: dict[str, float]) -> Iterator[dict[str, Any]]:
    """Latency of the whole search of a batch of requests, encoder included."""
    shapes = (("toy", 2, 16, 4),) if toy else DECODES
    for name, rows, length, beams in shapes:
        cfg = TOY if toy else sizes.SIZES[name].model
        yield _or_no_memory(
            {"size": name, "rows": rows, "length": length, "beams": beams},
            lambda: _decode(cfg, rows, length, beams, toy, peaks))


def _decode(cfg: ModelConfig, rows: int, length: int, beams: int, toy: bool,
            peaks: dict[str, float]) -> dict[str, Any]:
    widths = (64, 64, 64) if toy else sizes.CODES
    model, catalogue, batch = make(cfg, rows, length, 1000 if toy else 100_000, widths)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16)
                          if leaf.ndim > 1 else leaf, init(model, batch, catalogue))
    asked = {name: jnp.asarray(batch[name]) for name in model.reads}
    seconds = timed(lambda: recommend(model, params, asked, catalogue, beams=beams),
                    3 if toy else 20)
    # a target for the first code, and one of a code for each beam at each level after
    first = flops.forward_flops(cfg, widths[:1], lengths=[length], targets=[1])
    later = flops.forward_flops(cfg, widths[:1], lengths=[length], targets=[beams])
    needed = rows * (first.total + (len(widths) - 1) * (later.decoder + later.head))
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    bound = max(needed / peaks["gemm"], held / peaks["memory"])
    return {"ms": 1e3 * seconds, "bound_ms": 1e3 * bound,
            "bound_share": bound / seconds}


def lookup(toy: bool, peaks: dict[str, float]) -> Iterator[dict[str, Any]]:
    """Random rows of a table, forward: each is read once and written once."""
    rows, count = (10_000, 1_000) if toy else (10_000_000, 1_000_000)
    for width in (64, 128, 256):
        def run(width: int = width) -> dict[str, Any]:
            table = jax.random.normal(jax.random.key(0), (rows, width), jnp.float32)
            ids = jax.random.randint(jax.random.key(1), (count,), 0, rows)
            take = jax.jit(lambda table, ids: table[ids])
            seconds = timed(lambda: take(table, ids), 10)
            moved = 2 * count * width * 4 + count * 4
            return {"gb_per_s": moved / seconds / 1e9,
                    "bound_share": moved / seconds / peaks["memory"]}
        yield _or_no_memory({"table_rows": rows, "ids": count, "width": width}, run)


def optimizer(toy: bool, peaks: dict[str, float]) -> Iterator[dict[str, Any]]:
    """AdamW: reads parameter, gradient and two moments, writes three of them."""
    for millions in (0.01,) if toy else (100, 400):
        def run(millions: float = millions) -> dict[str, Any]:
            rule = optax.adamw(1e-3)
            shape = (int(millions * 1e6) // 1000, 1000)
            params = jax.random.normal(jax.random.key(0), shape)
            slope = jax.random.normal(jax.random.key(1), shape)
            moments = rule.init(params)

            def update(params: Any, moments: Any, slope: Any) -> Any:
                change, moments = rule.update(slope, moments, params)
                return optax.apply_updates(params, change), moments
            step = jax.jit(update, donate_argnums=(0, 1))

            def once() -> Any:
                nonlocal params, moments
                params, moments = step(params, moments, slope)
                return params
            seconds = timed(once, 10)
            moved = 7 * params.nbytes
            return {"gb_per_s": moved / seconds / 1e9,
                    "bound_share": moved / seconds / peaks["memory"]}
        yield _or_no_memory({"million_parameters": millions}, run)


def timed(call: Callable[[], Any], repeats: int) -> float:
    """Median seconds of a call that is waited for, after two to warm up."""
    for _ in range(2):
        jax.block_until_ready(call())
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def _or_no_memory(row: dict[str, Any], run: Callable[[], dict[str, Any]]
                  ) -> dict[str, Any]:
    try:
        return row | run()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return row | {"verdict": "out of memory"}


if __name__ == "__main__":
    main()
