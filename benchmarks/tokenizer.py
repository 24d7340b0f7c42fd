"""Semantic IDs at size: k-means, encoding of new items, and the trie of a catalogue.

    python benchmarks/tokenizer.py --quick --json        # 1M items, under a minute
    python benchmarks/tokenizer.py --peer                # 20M items; faiss beside ours

The trie holds random items of 3 codes out of 8192. A step is what a search does for one
request at one level with 256 beams (one beam at level 0), each on the node of a random
item: `mask` marks the codes that may follow, `children` lists them, which is all that
beam search asks for; then the same under a list of 256 forbidden items and under a pool
of half the items, counted as the search goes or marked in advance. `mask_us` is the
mean over the levels, as a search takes one step on each.

The bound of a step is the memory that it must touch, read or written once, at the rate
of a pass over a large array measured in the same run; what stays in cache can be faster
than that. k-means is timed with float32 scores, the default, and with bfloat16, which
`kmeans.ratio_vs_faiss` and `kmeans.inertia_ratio` are of: the sums stay float32, and on
processors with bfloat16 matrix units it is several times as fast. Every item's semantic
ID is followed to its leaf before anything is timed.
"""

import argparse
import dataclasses
import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import kmeans_by_faiss  # noqa: E402
import numpy as np  # noqa: E402

from oxyrec_jax import huge_pages, profiling  # noqa: E402
from oxyrec_jax.tokenizer import item_sets, trie_filter  # noqa: E402
from oxyrec_jax.tokenizer import trie as tries  # noqa: E402

WIDTHS = (8192,) * 3
BEAMS = 256
HEADLINE = "bfloat16"  # scores of k-means; the default, float32, stands in the detail
DENIED = 256  # items on one request's list


def main() -> None:
    options = _options()
    memory = profiling.memory_rate()
    device = jax.devices()[0]
    print(f"device: {device.device_kind}, {os.cpu_count()} cores, {platform.machine()};"
          f" Python {platform.python_version()}, JAX {jax.__version__}, "
          f"NumPy {np.__version__}")
    print(f"shapes: {options.items:,} items of {len(WIDTHS)} codes of {WIDTHS[0]}, "
          f"{BEAMS} beams, int32. Memory: {memory / 1e9:.1f} GB/s (read and write). "
          f"Median (lowest to highest) of {options.repeats} after a warm-up.")
    figures = {"trie": trie_figures(options.items, options.repeats, memory)}
    figures |= kmeans_figures(options)
    if options.json:
        print(json.dumps(figures))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flag = {"action": "store_true"}
    parser.add_argument("--quick", help="a million items", **flag)
    parser.add_argument("--json", help="one JSON object as the last line", **flag)
    parser.add_argument("--peer", help="k-means by faiss in the same run", **flag)
    parser.add_argument("--items", type=int, help="(20,000,000; quick: 1,000,000)")
    parser.add_argument("--points", type=int, default=1_000_000,
                        help="of k-means, 256 numbers each (1,000,000; quick: 40,000)")
    parser.add_argument("--widths", type=int, nargs="+", default=[1024, 1024, 1024],
                        help="of k-means (1024 1024 1024)")
    parser.add_argument("--repeats", type=int, help="timed steps (50; quick: 20)")
    options = parser.parse_args()
    options.items = options.items or (1_000_000 if options.quick else 20_000_000)
    options.repeats = options.repeats or (20 if options.quick else 50)
    return options


def kmeans_figures(options: argparse.Namespace) -> dict[str, Any]:
    """The k-means and encoding figures of `kmeans_by_faiss.py`."""
    size = {"points": 40_000} if options.quick else {"points": options.points}
    iterations = 15 if options.quick else 25
    found = kmeans_by_faiss.compare(
        peer=options.peer, memory=not options.quick, iterations=iterations,
        widths=options.widths, **size)
    rate = kmeans_by_faiss.encode_rate(
        **({"points": 100_000} if options.quick else {}))
    ours = found[f"ours.{HEADLINE}"]
    print(f"k-means: {found}")
    print(f"encoding: {rate:,.0f} items/s (256 numbers each, 3 x 256)")
    return {"kmeans": {**{name: ours[name] for name in ("ratio_vs_faiss",
                                                        "inertia_ratio")
                          if name in ours}, "scores": HEADLINE, "detail": found},
            "encode_items_per_s": round(rate)}


def trie_figures(items: int, repeats: int, memory: float) -> dict[str, Any]:
    """Builds, checks and times the trie of random items; prints its lines."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, WIDTHS[0], (items, len(WIDTHS)), dtype=np.int32)
    start, begun = time.perf_counter(), time.process_time()
    trie, leaves = tries.build_trie(codes, WIDTHS)
    jax.block_until_ready(trie)
    wall, cpu = time.perf_counter() - start, time.process_time() - begun
    start = time.perf_counter()
    places = jax.block_until_ready(item_sets.place_items(trie, leaves))
    placing = time.perf_counter() - start
    nodes = [int((level >= 0).sum()) for level in map(np.asarray, trie.codes)]
    print(f"trie: built in {wall:.1f} s (CPU {cpu:.1f}); nodes {nodes}, most children "
          f"{list(trie.branches)}, {trie.nbytes / items:.2f} bytes per item on the "
          f"device, {leaves.nbytes / items:.2f} on the host; for filters "
          f"{places.nbytes / items:.2f} more, placed in {placing:.1f} s; peak memory "
          f"of the process {_peak_gb():.2f} GB")
    following = follow_all(trie, leaves, codes)
    print(f"advance: every item followed to its leaf, {following / 1e6:.2f}M items/s")
    paths = np.asarray(tries.item_paths(trie, codes[rng.integers(items, size=BEAMS)]))
    beams = [np.zeros((1, 1), np.int32)] + [
        np.sort(paths[:, level])[None] for level in range(len(WIDTHS) - 1)]
    steps, filters = step_figures(trie, leaves, places, beams, repeats, memory)
    return {
        "bytes_per_item": round(trie.nbytes / items, 3),
        **steps,
        "build_s": round(wall, 2), "build_cpu_s": round(cpu, 2),
        "host_bytes_per_item": round(leaves.nbytes / items, 3),
        "filter_bytes_per_item": round(places.nbytes / items, 3),
        "items_followed_per_s": round(following),
        "filter": filters, "items": items, "beams": BEAMS,
        "gbytes_per_s": round(memory / 1e9, 1), "peak_rss_gb": round(_peak_gb(), 2),
    }


def follow_all(trie: tries.Trie, leaves: tries.Leaves, codes: np.ndarray,
               chunk: int = 250_000) -> float:
    """Items followed each second; ends the run if one does not reach its leaf."""
    follow = jax.jit(tries.item_paths)
    expected, seconds = leaves.of_items(), 0.0
    reached = np.zeros(len(leaves), bool)
    for first in range(0, len(codes), chunk):
        block = np.zeros((chunk, codes.shape[1]), np.int32)
        part = codes[first:first + chunk]
        block[:len(part)] = part
        start = time.perf_counter()
        found = np.asarray(follow(trie, block))[:len(part), -1]
        seconds += time.perf_counter() - start
        if not np.array_equal(found, expected[first:first + chunk]):
            raise SystemExit("an item's semantic ID does not lead to its leaf")
        reached[found] = True
    if not reached.all():
        raise SystemExit("a leaf has no item")
    return len(codes) / seconds


def step_figures(trie: tries.Trie, leaves: tries.Leaves, places: item_sets.Places,
                 beams: list[np.ndarray], repeats: int, memory: float
                 ) -> tuple[dict, dict]:
    """Microseconds of each operation, by level and on average."""
    rng = np.random.default_rng(1)
    items = len(leaves.items)
    make = trie_filter.make_filter
    rank = jax.jit(item_sets.rank_sets)
    join = jax.jit(lambda one, other: one & ~other)
    sets = item_sets.pack_flags(places, leaves, rng.random((2, items)) < 0.5)
    one, other = (item_sets.ItemSet(words[None]) for words in sets.words)
    pools = rank(one)
    deny = rng.integers(items, size=(1, DENIED), dtype=np.int32)
    by_list = make(trie, places, batch=1, deny=deny)
    by_pool = make(trie, places, batch=1, pools=pools)
    mark = jax.jit(lambda *parts: trie_filter.mark_nodes(*parts).nodes)
    by_marked = make(trie, places, batch=1, pools=dataclasses.replace(
        pools, nodes=mark(trie, places, pools)))
    filters = {}
    for name, run in {
        "list_us": lambda: make(trie, places, batch=1, deny=deny),
        "join_us": lambda: join(one, other), "rank_us": lambda: rank(one),
        "mark_us": lambda: mark(trie, places, pools),
    }.items():
        times = _timed(run, 5)
        filters[name] = round(statistics.median(times), 1)
        print(f"filter {name[:-3]:>5}: {_spread(times)} us")
    steps: dict[str, Any] = {}
    for name, function, allowed in (
            ("mask", tries.mask, None), ("children", tries.children, None),
            ("children_by_list", tries.children, by_list),
            ("children_by_pool", tries.children, by_pool),
            ("children_by_marked", tries.children, by_marked)):
        step = jax.jit(function, static_argnames="level")
        medians, lowest, bounds = [], [], []
        for level, nodes in enumerate(map(jnp.asarray, beams)):
            times = _timed(lambda: step(trie, level=level, nodes=nodes,
                                        allowed=allowed), repeats)
            medians.append(statistics.median(times))
            lowest.append(min(times))
            bounds.append(touched(trie, level, np.asarray(nodes)[0], name)
                          / memory * 1e6)
            print(f"{name:>18}, level {level}, {nodes.shape[1]:>3} beams: "
                  f"{_spread(times)} us | bound {bounds[-1]:.1f} us, reached "
                  f"{bounds[-1] / medians[-1]:.0%}")
        steps[f"{name}_us"] = round(statistics.mean(medians), 1)
        steps[f"{name}_us_lowest"] = round(statistics.mean(lowest), 1)
        steps[f"{name}_us_by_level"] = [round(value, 1) for value in medians]
        steps[f"{name}_bound_share"] = round(sum(bounds) / sum(medians), 3)
    return steps, filters


def touched(trie: tries.Trie, level: int, nodes: np.ndarray, name: str) -> float:
    """Bytes that a step must read or write at least once.

    The nodes and their two child offsets; then the codes of the real children and what
    is written: a flag for each code (`mask`), or a code, a node and a flag for each
    real child; a mask may read bits instead of codes. A pool adds a word and a count
    for each child, one bit for each where its nodes are marked.
    """
    starts = np.asarray(trie.starts[level])
    legal = float(np.sum(starts[nodes + 1] - starts[nodes]))
    total = 3 * 4.0 * len(nodes)
    if name == "mask":
        bits = 4.0 * len(nodes) * trie.bits[level].shape[1]
        read = min(bits, 4 * legal) if len(trie.bits[level]) else 4 * legal
        return total + read + len(nodes) * trie.widths[level]
    total += legal * (4 + 9)
    return total + legal * {"children_by_pool": 8, "children_by_marked": 1 / 8}.get(
        name, 0)


def _timed(run: Callable[[], Any], repeats: int) -> list[float]:
    """Microseconds of each call after one that is not counted."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append((time.perf_counter() - start) * 1e6)
    return times[1:]


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.0f} ({min(values):.0f}-{max(values):.0f})"


def _peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    huge_pages.restart_with_huge_pages()
    main()
