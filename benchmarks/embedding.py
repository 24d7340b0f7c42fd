"""Sparse tables: look-ups beside the memory bound, touched rows beside dense Adam.

    python benchmarks/embedding.py --quick --json    # under a minute, two cores
    python benchmarks/embedding.py                   # 2 million rows: 6 GB of memory

A table of N rows of 128 float32 numbers, a batch of ids with popularity 1 / (rank + 8)
spread over the table, as in a log. What is timed, in turns in one process:

    take       `table[ids]` by itself
    lookup     the same rows by `parallel.lookup.take_rows` on all devices, the gathered
               route; "exchanged": its other route, distinct ids only
    adagrad    gradient of the vectors and row-wise Adagrad on the rows touched
    adam       the same with lazy Adam
    dense      the gradient of the whole table and Adam on all of it (optax)

`lookup.bound_share` is the least time for the bytes (each id's row read and written,
ids read) at the memory's rate, measured in the same turns, over the time of `lookup`: 1
is the bound. Of the memory and of each look-up a turn keeps the best of several runs,
as other work on the machine only ever adds time; the median is over turns. Every run
has other ids; popular ones are read from cache, as is a small batch's output, so the
share may lie above 1. `sparse_update.ratio_vs_dense_adam` is dense : adagrad by wall
time, so many times faster; `sparse_update.ratio_vs_dense_adam_lazy` is dense : adam.
The bytes that the two must move tell what to expect and are printed first.

With one device no row crosses a wire. What crosses between devices is in the compiled
program whatever the machine: tests/parallel/test_parallel_lookup.py holds it to the
rows asked for.
"""

import argparse
import functools
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

from oxyrec_jax import parallel, profiling  # noqa: E402
from oxyrec_jax.parallel import lookup  # noqa: E402
from oxyrec_jax.train import rows  # noqa: E402

WIDTH = 128
BATCHES = 16


def main() -> None:
    options = _options()
    mesh = parallel.make_mesh()
    batches = [make_ids(options.rows, options.ids, seed) for seed in range(BATCHES)]
    ids = batches[0]
    figures: dict[str, Any] = {
        "rows": options.rows, "width": WIDTH, "ids": options.ids,
        "distinct_ids": len(np.unique(ids)), "devices": jax.device_count(),
        "device": jax.devices()[0].device_kind, "jax": jax.__version__}
    print(f"table {options.rows:,} x {WIDTH} float32 "
          f"({options.rows * WIDTH * 4 / 2**30:.2f} GiB), {options.ids:,} ids of which "
          f"{figures['distinct_ids']:,} distinct; {figures['devices']} x "
          f"{figures['device']}, jax {figures['jax']}")
    figures |= time_lookups(mesh, batches, options)
    figures |= time_updates(mesh, ids, options)
    for name, value in figures.items():
        if isinstance(value, float):
            print(f"{name:45s} {value:,.4g}")
    if options.json:
        print(json.dumps(figures))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flag = {"action": "store_true"}
    parser.add_argument("--quick", help="200,000 rows, 8,192 ids, five turns", **flag)
    parser.add_argument("--json", help="one JSON object as the last line", **flag)
    parser.add_argument("--rows", type=int, help="of the table (2,000,000)")
    parser.add_argument("--ids", type=int, help="of a batch (32,768)")
    parser.add_argument("--repeats", type=int, help="timed turns (10; quick: 5)")
    options = parser.parse_args()
    options.rows = options.rows or (200_000 if options.quick else 2_000_000)
    options.ids = options.ids or (8_192 if options.quick else 32_768)
    options.repeats = options.repeats or (5 if options.quick else 10)
    return options


def make_ids(rows: int, count: int, seed: int = 0) -> np.ndarray:
    """Ids `[count]` int32 of a popularity with a long tail, spread over the table."""
    share = np.cumsum(1 / (np.arange(rows) + 8.0))
    drawn = np.random.default_rng(seed).random(count)
    rank = np.searchsorted(share, drawn * share[-1])
    return np.random.default_rng(0).permutation(rows)[rank].astype(np.int32)


def time_lookups(mesh: jax.sharding.Mesh, batches: list[np.ndarray],
                 options: argparse.Namespace) -> dict[str, float]:
    """Seconds and shares of the bound of each way to look rows up."""
    layout = _layout(mesh)
    exchange = lookup.Layout(mesh, layout.rows,
                             capacity=2 * options.ids // layout.shards)
    table = _made(layout, options.rows)
    given = itertools.cycle(jax.device_put(batches, parallel.batch_sharding(mesh)))
    take = jax.jit(lambda table, ids: table.at[ids].get(mode="clip"))
    look = jax.jit(lookup.take_rows, static_argnums=2)
    ways: dict[str, Callable[[], Any]] = {
        "take": lambda: take(table, next(given)),
        "lookup": lambda: look(table, next(given), layout)[0],
        "exchanged": lambda: look(table, next(given), exchange)[0]}
    seconds, rate = _in_turns(ways, options.repeats, best_of=BATCHES)
    least = options.ids * 4 * (2 * WIDTH + 1) / rate
    print(f"memory {rate / 1e9:.1f} GB/s: a look-up takes at least {least * 1e3:.3g} "
          "ms")
    return {"memory_gbps": rate / 1e9,
            **{f"{name}.ms": 1e3 * value for name, value in seconds.items()},
            **{f"{name}.bound_share": least / value
               for name, value in seconds.items()}}


def time_updates(mesh: jax.sharding.Mesh, ids: np.ndarray,
                 options: argparse.Namespace) -> dict[str, float]:
    """Seconds of a step of a table, by the rows touched and densely."""
    layout = _layout(mesh)
    ids = jax.device_put(ids, parallel.batch_sharding(mesh))
    touched = len(np.unique(ids)) * WIDTH * 4
    whole = options.rows * WIDTH * 4
    # Sparse: rows read and written, vectors and their gradients; dense: gradient
    # written and read, table and two moments read and written.
    print(f"bytes moved at least: sparse {(2 * touched + 4 * ids.size * WIDTH * 4):,}, "
          f"dense {8 * whole:,}")
    seconds = {}
    for name, rule in (("adagrad", rows.RowAdagrad()), ("adam", rows.RowAdam()),
                       ("dense", None)):
        step = _sparse_step(rule, layout) if rule else _dense_step(layout)
        table = _made(layout, options.rows)
        state = jax.device_put((rule or optax.adam(1e-3)).init(table))
        held = [table, state]

        def run() -> Any:
            held[0], held[1] = step(held[0], held[1], ids)
            return held[1]

        del table, state
        seconds |= _in_turns({name: run}, options.repeats)[0]
        held.clear()
    return {**{f"{name}_step.ms": 1e3 * value for name, value in seconds.items()},
            "sparse_update.ratio_vs_dense_adam": seconds["dense"] / seconds["adagrad"],
            "sparse_update.ratio_vs_dense_adam_lazy":
                seconds["dense"] / seconds["adam"]}


def _layout(mesh: jax.sharding.Mesh) -> lookup.Layout:
    """Rows over every device."""
    return lookup.Layout(mesh, parallel.BATCH_AXES)


def _made(layout: lookup.Layout, count: int) -> jax.Array:
    make = jax.jit(lambda: jax.random.normal(
        jax.random.key(0), (layout.padded(count), WIDTH)),
        out_shardings=layout.table_sharding)
    return make()


def _loss(vectors: jax.Array) -> jax.Array:
    return jnp.sum(jnp.tanh(vectors))


def _sparse_step(rule: rows.RowRule, layout: lookup.Layout) -> Callable:
    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(table: jax.Array, state: Any, ids: jax.Array) -> tuple[jax.Array, Any]:
        vectors, _ = lookup.take_rows(table, ids, layout)
        return rows.update_table(rule, table, state, ids, jax.grad(_loss)(vectors),
                                 layout, rate=1e-3, step=1)[:2]
    return step


def _dense_step(layout: lookup.Layout) -> Callable:
    rule = optax.adam(1e-3)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(table: jax.Array, state: Any, ids: jax.Array) -> tuple[jax.Array, Any]:
        slope = jax.grad(lambda table: _loss(table.at[ids].get(mode="clip")))(table)
        slope = jax.lax.with_sharding_constraint(slope, layout.table_sharding)
        updates, state = rule.update(slope, state)
        return optax.apply_updates(table, updates), state
    return step


def _in_turns(ways: dict[str, Callable[[], Any]], repeats: int, best_of: int = 1
              ) -> tuple[dict[str, float], float]:
    """Median seconds of each over turns, of a turn its best, and the memory's median
    rate."""
    for run in ways.values():
        for _ in range(2):  # the second compiles for the layout that the first made
            jax.block_until_ready(run())
    times: dict[str, list[float]] = {name: [] for name in ways}
    rates = []
    for _ in range(repeats):
        rates.append(profiling.memory_rate(128))
        for name, run in ways.items():
            best = float("inf")
            for _ in range(best_of):
                begin = time.perf_counter()
                jax.block_until_ready(run())
                best = min(best, time.perf_counter() - begin)
            times[name].append(best)
    for name, found in times.items():
        print(f"{name:10s} median {1e3 * statistics.median(found):.3f} ms, "
              f"{1e3 * min(found):.3f} to {1e3 * max(found):.3f}")
    return ({name: statistics.median(found) for name, found in times.items()},
            statistics.median(rates))


if __name__ == "__main__":
    main()
