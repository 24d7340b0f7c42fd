"""Supervised targets each second of a training step, beside a T5 peer.

    python benchmarks/train_step.py --quick --json --peer    # under a minute, two cores
    python benchmarks/train_step.py --peer                   # larger batches, minutes
    python benchmarks/train_step.py --quick --size 20M       # 20 million parameters

Both train a network of TIGER's size (width 128, 4 + 4 layers, 6 heads of 64, inner
width 1024, dropout 0.1, AdamW, gradient clipping, float32) on the same made-up log: 4
codes out of 256 for each of 12,000 items, about 7 events for each user with a heavy
tail, histories of up to 20 items. Ours runs the code of `oxyrec train`: grain iterator
over packed rows, a causal encoder, every position supervised in one pass. The peer
(`peer_t5.py`) is Hugging Face's T5: one row for each target, an item is four tokens,
padded to the longest history of the batch; and once more with batches of like lengths
("grouped"), which spares it the padding. Ours and the peer take turns in one process
on the same threads.

`ratio_vs_peer` is targets/s, ours : peer by wall time, padded in the usual way. The
same work is the same targets, not the same FLOPs: the gain comes from doing less, and
the FLOPs of each are printed. Two differences that a ratio hides: in a sequence longer
than the history, the packed windows show some targets only 11 to 20 of the last 20
events; the peer also drops attention weights, ours does not.

`gemm_share` is (FLOPs that the network needs / wall time) : the best rate of a float32
matrix product seen in half a second of the same turn; the median over turns. On a CPU,
which has no datasheet peak, that is `mfu`; `hardware_flops_share` takes the FLOPs that
XLA counts in the compiled step, padding and optimiser included. CPU time
stands beside wall time, for machines that do other work as well. All run with 2 MiB
memory pages where the system gives them, as the `oxyrec` command does.
"""

import argparse
import collections
import dataclasses
import json
import os
import pathlib
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator

import decode_request as decode  # same network; sets the environment of JAX first
import jax
import numpy as np
import peer_t5
import pyarrow as pa

from oxyrec_jax import huge_pages, parallel, profiling
from oxyrec_jax.data import dataset, packing, pipeline, schema
from oxyrec_jax.models import flops, generator
from oxyrec_jax.tokenizer import catalogue as catalogues
from oxyrec_jax.train import loop, setup

HISTORY = 20
ROW_LENGTH = 64
BUCKETS = (2, 5, 10)  # below HISTORY, for the padding that they leave
DROPOUT = 0.1
TARGET_RATIO = 5
TARGET_SHARE = 0.3
CONFIG = dataclasses.replace(decode.CONFIG, causal=True, dropout=DROPOUT)
SIZES = {"tiger": CONFIG, "20M": dataclasses.replace(
    CONFIG, width=512, heads=8, head_width=64, mlp_width=1536, encoder_layers=3,
    decoder_layers=2)}


def main() -> None:
    options = _options()
    cores = sorted(os.sched_getaffinity(0))[:options.threads]
    options.threads = len(cores)
    os.sched_setaffinity(0, set(cores))  # before JAX makes its threads
    codes = decode.make_codes(decode.ITEMS)
    with tempfile.TemporaryDirectory() as folder:
        log = write_log(pathlib.Path(folder) / "log", options.users)
        ours = Ours(SIZES[options.size], log, codes, options.rows)
        peers = _peers(log, codes, options) if options.peer else {}
        print_conditions(log, ours, peers, options)
        takers: dict[str, Callable[[], int]] = {"ours": ours.step}
        takers |= {name: peer.step for name, peer in peers.items()}
        rates, peaks = measure(takers, options.repeats)
    cost = {causal: per_target(windows(log), dataclasses.replace(
        SIZES[options.size], causal=causal)) for causal, windows in
        ((True, packed_windows), (False, single_windows))}
    figures = summarise(rates, cost[True], peaks, options.threads)
    # The device's peak is what its product reaches: MFU is the share of that.
    figures |= {"mfu": figures["gemm_share"], "hardware_flops_share": share(
        rates["ours"].wall, ours.counted / ours.targets_per_step, peaks)}
    figures |= {"flops_per_target": round(cost[True]),
                "flops_per_target_last": round(cost[False]),
                "padding_share": round(1 - ours.source.fill, 4),
                **padding_of_single_rows(log, options.rows),
                "rows": options.rows, "row_length": ROW_LENGTH,
                "peer_batch": options.peer_batch, "threads": options.threads,
                "gflops_peak": round(statistics.median(peaks) / 1e9, 1),
                "jax": jax.__version__}
    print_results(figures, rates)
    if options.json:
        print(json.dumps(figures))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flag = {"action": "store_true"}
    parser.add_argument("--quick", help="small batches, three turns", **flag)
    parser.add_argument("--json", help="one JSON object as the last line", **flag)
    parser.add_argument("--peer", help="time the peer in the same run", **flag)
    parser.add_argument("--size", choices=SIZES, default="tiger",
                        help="of our network; the peer is of TIGER's alone (tiger)")
    parser.add_argument("--rows", type=int,
                        help=f"rows of {ROW_LENGTH} positions in our batch (64; quick: "
                             "16)")
    parser.add_argument("--peer-batch", type=int,
                        help="targets in the peer's batch (256; quick: 32)")
    parser.add_argument("--repeats", type=int, help="timed turns (10; quick: 3)")
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    if options.peer and options.size != "tiger":
        parser.error("--peer is of the size tiger; leave out --size")
    options.rows = options.rows or (16 if options.quick else 64)
    options.peer_batch = options.peer_batch or (32 if options.quick else 256)
    options.repeats = options.repeats or (3 if options.quick else 10)
    return options


def write_log(folder: pathlib.Path, users: int, seed: int = 0) -> dataset.Dataset:
    """Writes a log whose every event but a user's first is a training target.

    Lengths are 2 + a log-normal of median 2.7 and sigma 1.25, at most 200; items are
    drawn with popularity 1 / (rank + 8).
    """
    rng = np.random.default_rng(seed)
    extra = rng.lognormal(np.log(2.7), 1.25, users)
    lengths = np.minimum(2 + extra.astype(np.int64), 200)
    share = rng.permutation(1 / (np.arange(decode.ITEMS) + 8.0))
    items = rng.choice(decode.ITEMS, lengths.sum(), p=share / share.sum())

    def fill(out: dataset.DatasetWriter) -> None:
        out.add_items(schema.item_table(
            {"item_id": pa.array(np.arange(decode.ITEMS)).cast(pa.string())}))
        out.add_sequences({"item": items.astype(np.int32)}, lengths,
                          [str(user) for user in range(users)])
        number = np.arange(users)
        out.add_targets("train", np.stack([number, np.ones_like(number), lengths], 1))

    dataset.write_dataset(folder, fill, facts={"source": "benchmark"})
    return dataset.load_dataset(folder, verify=False)


class Ours:
    """The training step of the package, fed by its grain iterator."""

    def __init__(self, network: generator.ModelConfig, log: dataset.Dataset,
                 codes: np.ndarray, rows: int):
        cfg = loop.TrainConfig(steps=10_000, pipeline=pipeline.Pipeline(
            batch=rows, history=HISTORY, row_length=ROW_LENGTH))
        popularity = np.bincount(log.column("item"), minlength=len(codes))
        model = generator.Generator(network, decode.WIDTHS, len(codes))
        catalogue, _ = catalogues.make_catalogue(codes, decode.WIDTHS,
                                                 popularity=popularity)
        feed = setup.feed(model, log, cfg.pipeline, seed=0)
        self.source, self._batches = feed.source, feed.batches
        self._mesh = parallel.make_mesh(devices=jax.devices()[:1])
        made = setup.set_up(model, feed.example, catalogue, cfg, self._mesh, seed=0)
        self._state, self._catalogue = made.state, made.catalogue
        self._step = made.compile()
        # What XLA counts in the compiled step: padding and the optimiser too.
        self.counted = float(self._step.cost_analysis()["flops"])
        self.targets_per_step = (self.source.targets_per_epoch
                                 / self.source.steps_per_epoch)
        self.parameters = sum(p.size for p in jax.tree.leaves(self._state.params))

    def step(self) -> int:
        """Makes one batch and trains on it; returns its supervised targets."""
        batch = next(self._batches)
        self._state, figures = self._step(
            self._state, parallel.global_batch(batch, self._mesh), self._catalogue)
        return int(jax.block_until_ready(figures)["targets"])


class Peer:
    """The peer's training step, fed with the same targets, one for each row."""

    def __init__(self, network: peer_t5.TrainableT5, batches: Iterator[pipeline.Batch]):
        self._network, self._batches = network, batches

    def step(self) -> int:
        """Trains on one batch; returns its supervised targets."""
        batch = next(self._batches)
        real = batch["target_mask"][:, 0]
        lengths = (batch["segments"] > 0).sum(axis=1)[real]
        self._network.step(batch["items"][real], lengths, batch["targets"][real, 0])
        return int(real.sum())


def _peers(log: dataset.Dataset, codes: np.ndarray, options: argparse.Namespace
           ) -> dict[str, Peer]:
    try:
        network = peer_t5.TrainableT5(codes, decode.WIDTHS, decode.SIZE,
                                      threads=options.threads, dropout=DROPOUT)
    except ImportError as error:
        raise SystemExit(f"--peer needs the extra: pip install -e '.[bench]' ({error})")
    options.versions = (f"{network.versions}, {network.parameters / 1e6:.2f} M "
                        "parameters")
    cfg = pipeline.Pipeline(batch=options.peer_batch, history=HISTORY, mode="last")
    whole = dataclasses.replace(cfg, batch=32 * options.peer_batch)
    return {"peer": Peer(network, pipeline.train_batches(log, cfg, seed=0)),
            "peer grouped": Peer(network, grouped(
                pipeline.train_batches(log, whole, seed=0), options.peer_batch))}


def grouped(batches: Iterable[pipeline.Batch], size: int) -> Iterator[pipeline.Batch]:
    """Cuts big batches into batches of like lengths, in random order."""
    rng = np.random.default_rng(0)
    for batch in batches:
        order = np.argsort((batch["segments"] > 0).sum(axis=1), kind="stable")
        for part in rng.permutation(order.reshape(-1, size)):
            yield {name: values[part] for name, values in batch.items()}


@dataclasses.dataclass
class Rate:
    """Supervised targets each second in each turn, by wall and by CPU time."""

    wall: list[float] = dataclasses.field(default_factory=list)
    cpu: list[float] = dataclasses.field(default_factory=list)


def measure(takers: dict[str, Callable[[], int]], repeats: int
            ) -> tuple[dict[str, Rate], list[float]]:
    """Times all in turns, each at least a second in a turn after one warm-up step.

    Returns:
      The rates, and the peak of a matrix product, FLOP/s, at the start of each turn.
    """
    peaks = []
    rates = {name: Rate() for name in takers}
    for name, step in takers.items():
        start = time.perf_counter()
        step()
        print(f"warm-up, one step of {name}: {time.perf_counter() - start:.1f} s")
    for _ in range(repeats):
        peaks.append(profiling.matmul_peak("float32", size=512, seconds=0.5))
        for name, step in takers.items():
            targets, wall, cpu = 0, time.perf_counter(), time.process_time()
            while time.perf_counter() - wall < 1.0:
                targets += step()
            rates[name].wall.append(targets / (time.perf_counter() - wall))
            rates[name].cpu.append(targets / (time.process_time() - cpu))
    return rates, peaks


def padding_of_single_rows(log: dataset.Dataset, rows: int) -> dict[str, float]:
    """Padding where each target has a row of its own, with and without buckets."""
    one = pipeline.Pipeline(batch=rows, history=HISTORY, mode="last")
    ways = {"last": one, "buckets": dataclasses.replace(one, buckets=BUCKETS)}
    return {f"padding_share_{name}": round(
        1 - pipeline.TrainSource(log, way, seed=0).fill, 4)
        for name, way in ways.items()}


def packed_windows(log: dataset.Dataset) -> list[tuple[int, int]]:
    """Length and supervised targets of each window that packing makes."""
    windows = packing.tile(np.asarray(log.split("train")), log.offsets(), HISTORY)
    return list(zip(windows.length.tolist(), (windows.length - windows.fresh).tolist()))


def single_windows(log: dataset.Dataset) -> list[tuple[int, int]]:
    """Length of each target's history, one target each."""
    rows = np.asarray(log.split("train"))
    return [(min(position, HISTORY), 1) for _, first, last in rows.tolist()
            for position in range(first, last)]


def per_target(windows: list[tuple[int, int]], cfg: generator.ModelConfig) -> float:
    """FLOPs of a training step for each supervised target."""
    total = sum(
        many * flops.forward_flops(cfg, decode.WIDTHS, lengths=[length],
                                   targets=[count]).total
        for (length, count), many in collections.Counter(windows).items())
    return 3 * total / sum(count for _, count in windows)


def summarise(rates: dict[str, Rate], cost: float, peaks: list[float], threads: int
              ) -> dict:
    """Medians, shares of the peak and ratios; a peak is of all threads together."""
    ours = {kind: statistics.median(getattr(rates["ours"], kind))
            for kind in ("wall", "cpu")}
    figures = {
        "targets_per_s": round(ours["wall"], 1),
        "targets_per_cpu_s": round(ours["cpu"], 1),
        "gflops": round(ours["wall"] * cost / 1e9, 1),
        "gemm_share": share(rates["ours"].wall, cost, peaks),
        "gemm_share_cpu": share(rates["ours"].cpu, cost * threads, peaks),
    }
    for name, key in (("peer", ""), ("peer grouped", "_grouped")):
        if name in rates:
            for kind, suffix in (("wall", ""), ("cpu", "_cpu")):
                theirs = statistics.median(getattr(rates[name], kind))
                figures[f"ratio_vs_peer{key}{suffix}"] = round(ours[kind] / theirs, 2)
                figures[f"peer{key}_targets_per{suffix}_s"] = round(theirs, 1)
    return figures


def share(rates: list[float], cost: float, peaks: list[float]) -> float:
    """Median over turns of targets/s x FLOPs for each target : peak of that turn."""
    return round(statistics.median(
        rate * cost / peak for rate, peak in zip(rates, peaks, strict=True)), 4)


def print_conditions(log: dataset.Dataset, ours: Ours, peers: dict[str, Peer],
                     options: argparse.Namespace) -> None:
    """Device, versions and shapes."""
    lengths = np.diff(log.offsets())
    print(f"device: {options.threads} of {os.cpu_count()} cores, {platform.machine()}; "
          f"Python {platform.python_version()}, JAX {jax.__version__}")
    print(f"log: {len(lengths):,} users, events mean {lengths.mean():.1f}, median "
          f"{np.median(lengths):.0f}, 99th percentile {np.percentile(lengths, 99):.0f},"
          f" most {lengths.max()}; {ours.source.targets_per_epoch:,} targets")
    print(f"ours: {options.rows} rows of {ROW_LENGTH} positions, padding "
          f"{1 - ours.source.fill:.2%}, {ours.parameters / 1e6:.2f} M parameters, "
          "SwiGLU (3 matrices), float32")
    if peers:
        print(f"peer: {options.peer_batch} rows of up to {HISTORY * len(decode.WIDTHS)}"
              f" tokens, ReLU (2 matrices), float32, {options.versions}")


def print_results(figures: dict, rates: dict[str, Rate]) -> None:
    """Rates, FLOPs and shares, against the targets."""
    for name, rate in rates.items():
        print(f"{name:>12}: {_spread(rate.wall)} targets/s, median (lowest to highest)"
              f" of {len(rate.wall)} turns; {_spread(rate.cpu)} by CPU time")
    causal, last = figures["flops_per_target"], figures["flops_per_target_last"]
    print(f"FLOPs per supervised target, training: {causal / 1e6:.1f} M causal and "
          f"packed, {last / 1e6:.1f} M bidirectional with one target for each row "
          f"({last / causal:.2f} times)")
    print(f"padding of packed rows {figures['padding_share']:.1%}, of one target for "
          f"each row {figures['padding_share_last']:.1%}, in buckets of up to "
          f"{', '.join(map(str, (*BUCKETS, HISTORY)))} events "
          f"{figures['padding_share_buckets']:.1%}")
    print(f"measured peak: {figures['gflops_peak']} GFLOP/s (float32 matrix product, "
          f"{figures['threads']} threads; median of the turns)")
    print(f"achieved: {figures['gflops']} GFLOP/s, {figures['gemm_share']:.1%} of the "
          f"matrix product's peak (target {TARGET_SHARE:.0%}); by CPU time "
          f"{figures['gemm_share_cpu']:.1%}")
    if "peer" in rates:
        print(f"ratio to the peer: {figures['ratio_vs_peer']} (target {TARGET_RATIO}), "
              f"by CPU time {figures['ratio_vs_peer_cpu']}; to the peer with grouped "
              f"lengths: {figures['ratio_vs_peer_grouped']}, by CPU time "
              f"{figures['ratio_vs_peer_grouped_cpu']}")


def _spread(values: list[float]) -> str:
    return (f"{statistics.median(values):.1f} ({min(values):.1f} to "
            f"{max(values):.1f})")


if __name__ == "__main__":
    huge_pages.restart_with_huge_pages()
    main()
