"""What retrieval from long histories costs, for benchmarks/instructions.py.

Training: the whole step of `oxyrec train` (loss with the query-to-item term, gradient,
clipping, AdamW), batches already made, three networks in turns in one process:

    with       100 recent events, and 16 retrieved of the 10,000 before them
    without    116 recent events: as many positions of the encoder
    shorter    100 recent events

`igr.step_overhead` is with : without - 1 and tells what finding events costs;
`igr.step_overhead_longer` is with : shorter - 1, which also holds what reading 16 more
positions costs. Each is the median over turns, as other work comes and goes.

Serving: encoding a batch of requests and projecting it for the search, with the items'
keys made once ("cached") and made in each call, against the same without retrieval.

The bound is printed before anything is timed: FLOPs of the step and of retrieval, and
the bytes that retrieval moves at least.
"""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from oxyrec_jax import parallel
from oxyrec_jax.models import flops, generator
from oxyrec_jax.models.instructions import InstructionConfig
from oxyrec_jax.models.retrieval import RetrievalConfig
from oxyrec_jax.tokenizer import catalogue as catalogues
from oxyrec_jax.train import objective
from oxyrec_jax.train import step as steps

WIDTHS = (256, 256, 256)
TEXT = 384  # numbers of an instruction's vector
KEEP = 16
TARGET = 0.10


@dataclasses.dataclass(frozen=True)
class Size:
    """What is measured; the defaults are the whole benchmark's."""

    width: int = 256
    layers: int = 4
    history: int = 100
    batch: int = 64
    events: int = 10_000
    items: int = 20_000
    turns: int = 7


# Compiling is most of it: a smaller network, on which retrieval weighs more.
QUICK = Size(width=128, layers=1, history=64, batch=16, items=5_000, turns=5)


def measure_retrieval(quick: bool) -> dict[str, Any]:
    """Returns `igr.<figure>`."""
    size = QUICK if quick else Size()
    figures = _bound(size)
    catalogue = _catalogue(size)
    takers = {"with": _Step(size, catalogue, size.history, KEEP),
              "without": _Step(size, catalogue, size.history + KEEP, 0)}
    against = {"": "without"}
    if not quick:
        takers["shorter"] = _Step(size, catalogue, size.history, 0)
        against["_longer"] = "shorter"
    calls: dict[str, Callable[[], Any]] = {name: taker.step
                                           for name, taker in takers.items()}
    wall, cpu = _in_turns(calls, size.turns)
    for key, other in against.items():
        for kind, times in (("", wall), ("_cpu", cpu)):
            figures[f"igr.step_overhead{key}{kind}"] = _overhead(times, "with", other)
    figures["igr.step_ms"] = round(1e3 * statistics.median(wall["without"]), 1)
    serve = _serving(size, takers)
    wall, cpu = _in_turns(serve, 2 * size.turns)
    for kind in ("cached", "uncached"):
        figures[f"igr.serve_overhead_{kind}"] = _overhead(cpu, kind, "without")
    figures["igr.serve_ms"] = round(1e3 * statistics.median(wall["without"]), 1)
    alone = statistics.median(cpu["choose"])
    figures["igr.choose_cpu_ms"] = round(1e3 * alone, 2)
    _show(size, figures)
    return figures


def _bound(size: Size) -> dict[str, Any]:
    """Prints what must be computed and moved at least, before anything is timed."""
    cfg = _config(size, 0)
    whole = 3 * flops.forward_flops(
        cfg, WIDTHS, lengths=[size.history + KEEP] * size.batch,
        targets=[1] * size.batch).total
    igr = _config(size, KEEP).retrieval
    keys = 2 * size.items * igr.hidden * (size.width + igr.width)
    scores = 2 * size.batch * size.items * igr.width
    moved = 4 * size.batch * (3 * size.events + 2 * size.items)
    print(f"retrieval: {KEEP} of {size.events:,} events for {size.batch} rows, "
          f"{size.items:,} items; network width {size.width}, {size.layers} + "
          f"{size.layers} layers, {size.history} recent events; warm-up: one step of "
          "each")
    print(f"bound: a step without it needs {whole / 1e9:.1f} GFLOP; retrieval "
          f"{(keys + scores) / 1e9:.2f} GFLOP (keys of all items {keys / 1e9:.2f}, "
          f"scores {scores / 1e9:.2f}), {(keys + scores) / whole:.2%} of them, and "
          f"{moved / 1e6:.0f} MB of scores and ids read and written; with cached keys "
          f"{scores / 1e9:.2f} GFLOP")
    return {"igr.flop_share": round((keys + scores) / whole, 4),
            "igr.batch": size.batch, "igr.events": size.events,
            "igr.items": size.items, "igr.width": size.width,
            "igr.layers": size.layers, "igr.history": size.history}


def _config(size: Size, keep: int) -> generator.ModelConfig:
    return generator.ModelConfig(
        width=size.width, heads=size.width // 32, head_width=32,
        mlp_width=4 * size.width, encoder_layers=size.layers,
        decoder_layers=size.layers, causal=False, dropout=0.1,
        instructions=InstructionConfig("right", scenarios=6, reasoning=True),
        retrieval=RetrievalConfig(events=size.events if keep else 0, keep=KEEP))


def _catalogue(size: Size) -> catalogues.Catalogue:
    rng = np.random.default_rng(0)
    paths = rng.choice(WIDTHS[0] ** 3, size.items, replace=False)
    codes = np.stack([paths >> 16, paths >> 8 & 255, paths & 255], 1).astype(np.int32)
    return catalogues.make_catalogue(codes, WIDTHS,
                                     popularity=np.zeros(size.items, np.int64))[0]


class _Step:
    """A training step on one made-up batch."""

    def __init__(self, size: Size, catalogue: catalogues.Catalogue, history: int,
                 keep: int):
        mesh = parallel.make_mesh(devices=jax.devices()[:1])
        self.model = generator.Generator(_config(size, keep), WIDTHS, size.items)
        self.catalogue = jax.device_put(catalogue, parallel.replicated(mesh))
        self.batch = _batch(size, history, keep)
        how = steps.OptimizerConfig()
        optimizer = steps.make_optimizer(how, steps=1_000)
        self._mesh = mesh
        self._state = _state(self.model, optimizer, self.batch, self.catalogue, mesh)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self._state)
        self._step = steps.make_train_step(
            self.model, optimizer, how, objective.ObjectiveConfig(), mesh, shardings,
            seed=0)

    def step(self) -> Any:
        """Moves the batch to the device and trains on it."""
        self._state, figures = self._step(
            self._state, parallel.global_batch(self.batch, self._mesh), self.catalogue)
        return figures

    @property
    def params(self) -> Any:
        """The parameters as they are now."""
        return self._state.params


def _state(model: generator.Generator, optimizer: Any, batch: dict[str, np.ndarray],
           catalogue: catalogues.Catalogue, mesh: Any) -> steps.TrainState:
    """A state of random numbers: no initialiser is compiled for it."""
    boxed = jax.eval_shape(functools.partial(model.init, train=False),
                           jax.random.key(0), batch, catalogue.tables)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: 0.05 * rng.standard_normal(
        leaf.shape, np.float32), nn.meta.unbox(boxed))
    state = steps.TrainState(jnp.int32(0), params, optimizer.init(params), ())
    return jax.device_put(state, parallel.replicated(mesh))


def _batch(size: Size, history: int, keep: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    # As in a shop: a person's thousands of events are of some hundred items.
    own = rng.integers(0, size.items, (size.batch, 800))
    draws = rng.integers(0, 800, (size.batch, size.events + history))
    events = np.take_along_axis(own, draws, axis=1).astype(np.int32)
    batch = {
        "items": events[:, size.events:],
        "segments": np.ones((size.batch, history), np.int32),
        "targets": rng.integers(0, size.items, (size.batch, 1)).astype(np.int32),
        "target_mask": np.ones((size.batch, 1), bool),
        "target_positions": np.full((size.batch, 1), history - 1, np.int32),
        "target_scenario": rng.integers(0, 6, (size.batch, 1)).astype(np.int8),
        "target_instruction": rng.normal(
            size=(size.batch, 1, TEXT)).astype(np.float32)}
    return batch | ({"long_items": events[:, :size.events]} if keep else {})


def _serving(size: Size, takers: dict[str, _Step]) -> dict[str, Callable[[], Any]]:
    """What a batch of requests costs before the search, in four ways."""
    calls: dict[str, Callable[[], Any]] = {}
    for name, taker in (("uncached", takers["with"]), ("without", takers["without"])):
        calls[name] = functools.partial(_asked, taker, taker.catalogue.tables)
    taker = takers["with"]
    keys = jax.jit(lambda params, tables: taker.model.apply(
        {"params": params}, tables, method="item_keys"))(
            taker.params, taker.catalogue.tables)
    cached = dataclasses.replace(taker.catalogue.tables, keys=keys)
    calls["cached"] = functools.partial(_asked, taker, cached)
    calls["choose"] = functools.partial(_asked, taker, cached, method="retrieve")
    return calls


def _asked(taker: _Step, tables: Any, method: str = "start_search") -> Any:
    used = {name: taker.batch[name] for name in taker.model.reads}
    return _ask(taker.model, taker.params, used, tables, method)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _ask(model: nn.Module, params: Any, batch: dict, tables: Any, method: str) -> Any:
    return jax.tree.leaves(model.apply({"params": params}, batch, tables,
                                       method=method))


def _in_turns(calls: dict[str, Callable[[], Any]], turns: int
              ) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Wall and CPU seconds of each call, one after the other in every turn."""
    for call in calls.values():
        jax.block_until_ready(call())
    wall: dict[str, list[float]] = {name: [] for name in calls}
    cpu: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(turns):
        # In the other order every second turn, so that none is always first.
        for name in list(calls)[::1 if turn % 2 else -1]:
            begun, busy = time.perf_counter(), time.process_time()
            jax.block_until_ready(calls[name]())
            cpu[name].append(time.process_time() - busy)
            wall[name].append(time.perf_counter() - begun)
    return wall, cpu


def _overhead(times: dict[str, list[float]], name: str, other: str) -> float:
    """Median over turns of the ratio, less 1."""
    ratios = [ours / theirs for ours, theirs in zip(times[name], times[other])]
    return round(statistics.median(ratios) - 1, 4)


def _show(size: Size, figures: dict[str, Any]) -> None:
    print(f"retrieval: {figures['igr.step_overhead']:+.1%} on a training step of "
          f"{figures['igr.step_ms']:,.0f} ms with as many positions (target "
          f"{TARGET:.0%}), by CPU time {figures['igr.step_overhead_cpu']:+.1%}; "
          f"serving {figures['igr.serve_overhead_cached']:+.1%} of CPU time "
          f"with cached keys, {figures['igr.serve_overhead_uncached']:+.1%} without, "
          f"on {figures['igr.serve_ms']:,.0f} ms; choosing alone "
          f"{figures['igr.choose_cpu_ms']} ms of CPU")
    if "igr.step_overhead_longer" in figures:
        print(f"retrieval: {figures['igr.step_overhead_longer']:+.1%} (by CPU time "
              f"{figures['igr.step_overhead_longer_cpu']:+.1%}) against a step that "
              f"reads {size.history} positions")
