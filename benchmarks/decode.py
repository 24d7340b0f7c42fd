"""Milliseconds of a whole request: encoder, cross keys and values, constrained beams.

    python benchmarks/decode.py --quick --json --peer      # under a minute on two cores
    python benchmarks/decode.py --peer                     # batch of 32, ten minutes

The network has the size of TIGER's T5 (width 128, 4 + 4 layers, 6 heads of 64, inner
width 1024), random weights, 12,000 items of 4 codes out of 256 each, a history of 30
items. The peer is Hugging Face's T5 with `generate` held to the same items
(`peer_t5.py`), timed in turns with ours in the same process on the same threads.

Ours reads an item as one position, the peer as four tokens. So that a reader sees what
the shorter input gives and what the search gives, ours is timed on 120 positions too.

`ratio_vs_peer` is wall time of the peer : ours at 30 positions, by number of beams.
CPU time stands beside wall time, for machines that do other work as well.

`trie_share` is what the search costs without its network (legal children, softmax,
selection) beside the whole request, in a catalogue of a million items; `swap_ms` is how
much longer the first request on another catalogue of that size takes than others, with
no program compiled. `--quick` takes 100,000 items for both.
"""

import argparse
import dataclasses
import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence

from decode_request import (HISTORY, ITEMS, SIZE, WIDTHS, Ours, make_codes,
                            request_cost)  # sets the environment of JAX

import jax
import jax.numpy as jnp
import numpy as np
import peer_t5

from oxyrec_jax import huge_pages, profiling
from oxyrec_jax.decode import beam, scoring
from oxyrec_jax.models import generator
from oxyrec_jax.tokenizer import trie as tries

TARGET = {50: 20, 256: 40}
TRIE_BEAMS, TRIE_ITEMS = 256, 1_000_000


def main() -> None:
    options = _options()
    cores = sorted(os.sched_getaffinity(0))[:options.threads]
    options.threads = len(cores)
    os.sched_setaffinity(0, set(cores))  # before JAX makes its threads
    codes = make_codes(ITEMS)
    ours = Ours(codes)
    peer, versions = None, "no peer"
    if options.peer:
        peer = _peer(codes, options.threads)
        versions = peer.versions
    # 512: a product short enough to end between two turns of the scheduler
    matmul = profiling.matmul_peak("float32", size=512, seconds=1.0)
    memory = profiling.memory_rate()
    print(f"device: {options.threads} of {os.cpu_count()} cores, {platform.machine()}; "
          f"Python {platform.python_version()}, JAX {jax.__version__}, {versions}")
    print(f"shapes: batch {options.batch}, {ITEMS:,} items of {len(WIDTHS)} codes of "
          f"{WIDTHS[0]}, {len(ours.leaves):,} leaves, {SIZE}, float32")
    print(f"measured peaks: {matmul / 1e9:.0f} GFLOP/s (float32 matrix product), "
          f"{memory / 1e9:.0f} GB/s (read and write)")
    print(f"ours: {HISTORY} positions, one for each history item, SwiGLU (3 matrices); "
          f"peer: {HISTORY * len(WIDTHS)} tokens, {len(WIDTHS)} for each item, ReLU (2 "
          "matrices). Median (lowest to highest) of the repeats after one warm-up.")
    rows = [
        measure(ours, peer, options, beams=beams, positions=positions,
                matmul=matmul, memory=memory)
        for beams in options.beams for positions in options.positions
        if positions == HISTORY or not options.quick or beams == 50
    ]
    for row in rows:
        if row.beams in TARGET and row.peer_wall:
            print(f"target at K={row.beams}: {TARGET[row.beams]}; reached "
                  f"{row.ratio():.1f}, and {_equal_length(row, rows) or 0:.1f} with "
                  f"{HISTORY * len(WIDTHS)} positions as the peer has")
    own = trie_cost(100_000 if options.quick else TRIE_ITEMS, options)
    if options.json:
        print(json.dumps(_summary(rows, options, matmul, memory) | own))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flag = {"action": "store_true"}
    parser.add_argument("--quick", help="batch of 4, two repeats", **flag)
    parser.add_argument("--json", help="one JSON object as the last line", **flag)
    parser.add_argument("--peer", help="time the peer in the same run", **flag)
    parser.add_argument("--batch", type=int, help="requests at once (32; quick: 4)")
    parser.add_argument("--repeats", type=int, help="timed turns (5; quick: 2)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--beams", type=int, nargs="+", default=[10, 20, 50, 256])
    parser.add_argument("--positions", type=int, nargs="+",
                        default=[HISTORY, HISTORY * len(WIDTHS)],
                        help="our encoder's lengths (30 120)")
    options = parser.parse_args()
    options.batch = options.batch or (4 if options.quick else 32)
    options.repeats = options.repeats or (2 if options.quick else 5)
    return options


def _peer(codes: np.ndarray, threads: int) -> peer_t5.ConstrainedT5:
    try:
        return peer_t5.ConstrainedT5(codes, WIDTHS, SIZE, threads=threads)
    except ImportError as error:
        raise SystemExit(f"--peer needs the extra: pip install -e '.[bench]' ({error})")


@dataclasses.dataclass
class Row:
    """Figures of one number of beams and one length; milliseconds of one request."""

    beams: int
    positions: int
    wall: list[float] = dataclasses.field(default_factory=list)
    cpu: list[float] = dataclasses.field(default_factory=list)
    peer_wall: list[float] = dataclasses.field(default_factory=list)
    peer_cpu: list[float] = dataclasses.field(default_factory=list)
    flops: float = 0.0
    bytes: float = 0.0
    bound: float = 0.0

    def ratio(self, kind: str = "wall") -> float | None:
        """Peer : ours by medians; None without a peer."""
        theirs = getattr(self, f"peer_{kind}")
        mine = statistics.median(getattr(self, kind))
        return statistics.median(theirs) / mine if theirs else None


def measure(ours: Ours, peer: peer_t5.ConstrainedT5 | None,
            options: argparse.Namespace, *, beams: int, positions: int, matmul: float,
            memory: float) -> Row:
    """Times one shape, ours and the peer in turns, and prints its lines."""
    rng, row = np.random.default_rng(beams), Row(beams, positions)

    def draw(length: int) -> np.ndarray:
        return rng.integers(ITEMS, size=(options.batch, length), dtype=np.int32)

    start = time.perf_counter()
    found = ours.recommend(draw(positions), beams)
    compiling = time.perf_counter() - start
    if (found < 0).any():
        raise SystemExit(f"K={beams}: a beam is dead in a catalogue of {ITEMS} items")
    with_peer = peer is not None and positions == HISTORY
    if with_peer:
        peer.recommend(draw(HISTORY)[:1], beams)
    gc.collect()
    for _ in range(options.repeats):
        _time(row.wall, row.cpu, options.batch, ours.recommend, draw(positions), beams)
        if with_peer:
            codes = _time(row.peer_wall, row.peer_cpu, options.batch,
                          peer.recommend, draw(HISTORY), beams)
            _check_legal(ours, codes)
    run = ours.rows_to_run(draw(positions), beams)
    row.flops, row.bytes = request_cost(run, positions, options.batch)
    row.bound = max(row.flops / matmul, row.bytes / memory) * 1e3
    by_wall = row.bound / statistics.median(row.wall)
    by_cpu = row.bound * options.threads / statistics.median(row.cpu)
    print(f"K={beams:>3}, {positions:>3} positions: {_spread(row.wall)} ms/request "
          f"(CPU {statistics.median(row.cpu):.2f}; compiled in {compiling:.0f} s) | "
          f"{row.flops / 1e9:.3f} GFLOP, {row.bytes / 1e6:.2f} MB: bound "
          f"{row.bound:.2f} ms; reached {by_wall:.0%} by wall, {by_cpu:.0%} by CPU")
    if with_peer:
        print(f"       peer, {HISTORY * len(WIDTHS)} tokens: {_spread(row.peer_wall)} "
              f"ms/request (CPU {statistics.median(row.peer_cpu):.2f}) | ratio "
              f"{row.ratio():.1f} by wall, {row.ratio('cpu'):.1f} by CPU time")
    return row


def trie_cost(items: int, options: argparse.Namespace) -> dict[str, float]:
    """Share of the trie in a request, and what a change of catalogue costs."""
    ours, beams = Ours(make_codes(items)), TRIE_BEAMS
    rng = np.random.default_rng(0)
    history = rng.integers(items, size=(options.batch, HISTORY), dtype=np.int32)
    logits = [jnp.asarray(rng.normal(size=(options.batch, beams, width)), jnp.float32)
              for width in WIDTHS]

    @jax.jit
    def without_network(logits, trie):
        def step(state, codes, level):
            return logits[level][:, :1 if codes is None else codes.shape[1]], ()
        return beam.beam_search(step, (), trie, beams=beams, batch=options.batch,
                                parts=scoring.parts_of(beams)).leaves

    whole, bare, rest = [], [], []
    ours.recommend(history, beams), without_network(logits, ours.trie)
    for _ in range(options.repeats):
        _time(whole, rest, 1, ours.recommend, history, beams)
        _time(bare, rest, 1, lambda: np.asarray(without_network(logits, ours.trie)))
    codes = make_codes(items, seed=1)
    begun = time.perf_counter()
    other = jax.block_until_ready(tries.build_trie(
        codes, WIDTHS, at_least=ours.trie)[0])
    built = time.perf_counter() - begun
    swap = _swap(ours, other, codes, history[:1])
    share = statistics.median(bare) / statistics.median(whole)
    print(f"K={beams}, {items:,} items: a batch of {options.batch} takes "
          f"{statistics.median(whole):.0f} ms, its search without the network "
          f"{statistics.median(bare):.0f} ms ({share:.1%}); the first request on "
          f"another catalogue takes {swap:+.1f} ms, its trie built in {built:.1f} s")
    return {"trie_share": round(share, 4), "swap_ms": round(max(swap, 0.0), 1)}


def _swap(ours: Ours, other: tries.Trie, codes: np.ndarray, history: np.ndarray,
          ) -> float:
    """Milliseconds that a request takes longer after a swap, codes still to be put on
    the device; medians of ten swaps to and fro, at 50 beams."""
    ours.recommend(history, 50)
    compiled = ours._request._cache_size()
    before, after, rest, waiting = [], [], [], (other, codes)

    def first() -> np.ndarray:
        nonlocal waiting
        (ours.trie, ours.codes), waiting = waiting, (ours.trie, ours.codes)
        ours.tables = generator.ItemTables(jnp.asarray(ours.codes))
        return ours.recommend(history, 50)
    for _ in range(10):
        _time(before, rest, 1, ours.recommend, history, 50)
        if (_time(after, rest, 1, first) < 0).any():
            raise SystemExit("a beam is dead after a swap")
    if ours._request._cache_size() != compiled:
        raise SystemExit("another catalogue compiled the search anew")
    return statistics.median(after) - statistics.median(before)


def _time(wall: list[float], cpu: list[float], requests: int, run: Callable,
          *args) -> np.ndarray:
    start, begun = time.perf_counter(), time.process_time()
    result = run(*args)
    wall.append((time.perf_counter() - start) * 1e3 / requests)
    cpu.append((time.process_time() - begun) * 1e3 / requests)
    return result


def _check_legal(ours: Ours, codes: np.ndarray) -> None:
    flat = codes.reshape(-1, len(WIDTHS)).astype(np.int32)
    if (np.asarray(tries.item_paths(ours.trie, flat))[:, -1] < 0).any():
        raise SystemExit("the peer answered with an item that does not exist")


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def _equal_length(row: Row, rows: list[Row]) -> float | None:
    """Peer : ours when ours reads as many positions as the peer reads tokens."""
    for other in rows:
        if other.beams == row.beams and other.positions == HISTORY * len(WIDTHS):
            if row.peer_wall:
                return statistics.median(row.peer_wall) / statistics.median(other.wall)
    return None


def _summary(rows: list[Row], options: argparse.Namespace, matmul: float,
             memory: float) -> dict:
    """What `--json` prints; `ms_per_request` and `ratio_vs_peer` by K."""
    def by_beams(figure: Callable[[Row], float | None], positions: int) -> dict:
        return {str(row.beams): round(value, 4) for row in rows
                if row.positions == positions
                for value in [figure(row)] if value is not None}

    def wall(row: Row) -> float:
        return statistics.median(row.wall)

    long = HISTORY * len(WIDTHS)
    return {
        "ms_per_request": by_beams(wall, HISTORY),
        "ratio_vs_peer": by_beams(lambda row: row.ratio(), HISTORY),
        "ratio_vs_peer_cpu": by_beams(lambda row: row.ratio("cpu"), HISTORY),
        "ratio_vs_peer_equal_length": by_beams(
            lambda row: _equal_length(row, rows), HISTORY),
        "ms_per_request_long": by_beams(wall, long),
        "bound_share": by_beams(lambda row: row.bound / wall(row), HISTORY),
        "bound_share_long": by_beams(lambda row: row.bound / wall(row), long),
        "target": {str(beams): ratio for beams, ratio in TARGET.items()},
        "batch": options.batch, "repeats": options.repeats,
        "threads": options.threads, "gflops_peak": round(matmul / 1e9, 1),
        "gbytes_per_s_peak": round(memory / 1e9, 1),
    }


if __name__ == "__main__":
    huge_pages.restart_with_huge_pages()
    main()
