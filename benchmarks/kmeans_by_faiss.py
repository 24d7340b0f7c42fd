"""Residual k-means beside faiss: the same points, levels and steps, in turns.

The k-means part of `tokenizer.py`: it prints what `compare` and `encode_rate` return.

The bound is 2 N V D FLOPs for each step, by the rate of the float32 matrix product that
the caller measures. Ours is timed with float32 and with bfloat16 scores; inertia is
always computed in float32 from the finished codebooks.
"""

import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import jax  # noqa: E402
import numpy as np  # noqa: E402

from oxyrec_jax.tokenizer import kmeans, residual  # noqa: E402


def make_points(points: int, dimension: int, seed: int = 0) -> np.ndarray:
    """Clusters with a falling spectrum, as item embeddings have: `[N, D]` float32."""
    rng = np.random.default_rng(seed)
    scale = (1 / np.sqrt(1 + np.arange(dimension) / 8)).astype(np.float32)
    centres = rng.standard_normal((4096, dimension), np.float32) * scale
    x = rng.standard_normal((points, dimension), np.float32)
    for first in range(0, points, 1 << 16):
        part = x[first : first + (1 << 16)]
        part *= 0.7 * scale
        part += centres[rng.integers(0, len(centres), len(part))]
    return x


def compare(*, points: int = 1_000_000, dimension: int = 256,
            widths: Sequence[int] = (1024, 1024, 1024), iterations: int = 25,
            repeats: int = 1, peer: bool = True, memory: bool = True,
            scores: Sequence[str] = kmeans.SCORES, seed: int = 0) -> dict[str, Any]:
    """Fits ours and faiss in turns and returns seconds, ratios and memory.

    Args:
      points, dimension: of the data, all of which both sides train on.
      widths: codes of each level.
      iterations: Lloyd steps of each level; nobody stops early.
      repeats: turns; the median counts.
      peer: also run faiss.
      memory: also measure peak memory, in a process of its own.
      scores: how ours scores points, one row each.
      seed: of the points and of both sides.

    Returns:
      `ours.<scores>` and `faiss`: `seconds`, `cpu_seconds`, `inertia` (mean squared
      error after the last level); of ours also `ratio_vs_faiss` (time of faiss : ours)
      and `inertia_ratio` (ours : faiss); `flops`; `memory_ratio`: peak bytes of fit
      and points : bytes of the points.
    """
    x = make_points(points, dimension, seed)
    runs = {f"ours.{name}": _ours(tuple(widths), iterations, name, seed)
            for name in scores}
    for run in runs.values():
        run(x, 1)  # compiles
    if peer:
        runs["faiss"] = _faiss(tuple(widths), iterations, seed)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    books: dict[str, tuple] = {}
    for _ in range(repeats):
        for name, run in runs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            books[name] = run(x, iterations)
            times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    result: dict[str, Any] = {
        "points": points, "dimension": dimension, "widths": list(widths),
        "iterations": iterations,
        "flops": 2.0 * points * dimension * sum(widths) * iterations}
    for name in runs:
        wall, cpu = (statistics.median(part) for part in zip(*times[name]))
        result[name] = {"seconds": wall, "cpu_seconds": cpu,
                        "inertia": _inertia(x, books[name])}
    for name in runs:
        if peer and name != "faiss":
            result[name] |= {
                "ratio_vs_faiss": result["faiss"]["seconds"] / result[name]["seconds"],
                "inertia_ratio": result[name]["inertia"] / result["faiss"]["inertia"]}
    if memory:
        result["memory_ratio"] = _memory_ratio(points, dimension, widths)
    return result


def encode_rate(*, points: int = 1_000_000, dimension: int = 256,
                widths: Sequence[int] = (256, 256, 256), seed: int = 0) -> float:
    """Returns the items a second that `residual.encode` gives codes, compiled before.

    Args:
      points, dimension: of the items.
      widths: codes of each level.
      seed: of the items, some of which serve as centroids.
    """
    x = make_points(points, dimension, seed)
    books, rest = [], x[: 2 * sum(widths)].copy()
    for width in widths:
        books.append(jax.numpy.asarray(rest[:width]))
        rest = rest[width:] * 0.5
    residual.encode(tuple(books), x[: min(points, 1 << 16)])
    start = time.perf_counter()
    residual.encode(tuple(books), x)
    return points / (time.perf_counter() - start)


def _ours(widths: tuple[int, ...], iterations: int, scores: str, seed: int):
    def run(x: np.ndarray, steps: int) -> tuple:
        lloyd = kmeans.KMeans(iterations=steps, tolerance=-1.0, scores=scores)
        cfg = residual.ResidualKMeans(widths=widths, sample=len(x), lloyd=lloyd)
        return jax.block_until_ready(residual.fit(jax.random.key(seed), x, cfg))
    return run


def _faiss(widths: tuple[int, ...], iterations: int, seed: int):
    import faiss  # only where the peer is wanted

    faiss.omp_set_num_threads(len(os.sched_getaffinity(0)))

    def run(x: np.ndarray, steps: int) -> tuple:
        rest, books = x.copy(), []
        for level, width in enumerate(widths):
            job = faiss.Kmeans(x.shape[1], width, niter=steps, seed=seed + level + 1,
                               max_points_per_centroid=len(x),
                               min_points_per_centroid=1)
            job.train(rest)
            books.append(job.centroids.copy())
            if level + 1 < len(widths):
                rest -= books[-1][job.index.search(rest, 1)[1][:, 0]]
        return tuple(jax.numpy.asarray(book) for book in books)
    return run


def _inertia(x: np.ndarray, books: tuple) -> float:
    total = 0.0
    for first in range(0, len(x), 1 << 16):
        part = x[first : first + (1 << 16)]
        rest = part - residual.decode(books, residual.encode(books, part))
        total += float(np.square(rest, dtype=np.float64).sum())
    return total / len(x)


def _memory_ratio(points: int, dimension: int, widths: Sequence[int]) -> float:
    program = ("import kmeans_by_faiss as one; "
               f"one.print_memory({points}, {dimension}, {tuple(widths)})")
    done = subprocess.run([sys.executable, "-c", program], check=True, text=True,
                          capture_output=True, cwd=pathlib.Path(__file__).parent)
    return float(done.stdout.split()[-1])


def print_memory(points: int, dimension: int, widths: tuple[int, ...]) -> None:
    """Prints the peak memory of one fit over that of its points."""
    run = _ours(widths, 2, "float32", 0)
    run(make_points(2 * max(widths), dimension), 2)  # the compiler's own memory
    before = _resident("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5", "ascii")  # forget the peak
    run(make_points(points, dimension), 2)
    print((_resident("VmHWM") - before) / (4 * points * dimension))


def _resident(field: str) -> int:
    """Bytes of this process in memory: now (VmRSS) or at most so far (VmHWM)."""
    lines = pathlib.Path("/proc/self/status").read_text("ascii").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) << 10
