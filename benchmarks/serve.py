"""Requests a second and milliseconds of `oxyrec serve`, under load that does not wait.

    python benchmarks/serve.py --quick --json      # a small network, a minute
    python benchmarks/serve.py                     # TIGER's size, four minutes
    python benchmarks/serve.py --soak 30           # half an hour: memory

A server in a process of its own answers over HTTP on this machine: random weights,
12,000 items of 4 codes out of 256 each (quick: 3), histories of 1 to 30 items, a fifth
of the requests with a filter, 10 items asked for. The server is held to two cores. This
process asks: from the other cores or, where there are none, from the same two; its
requests are made in advance and its CPU is told.

unloaded    one request at a time
closed      answers a second when 4 times the largest batch are always in flight
saturation  answers a second when requests come as a Poisson process of 1.1 times that
loads       a Poisson process of 30, 50, 80 and 95 % of saturation, whether or not
            earlier requests were answered; latency counts from the time at which the
            request was due, so that a client that falls behind hides nothing
ideal       the same Poisson process through a simulation whose only cost is the time
            that each program takes alone: what queues alone make of these programs

`p99_vs_unloaded_at_80` is the 99th percentile at 80 % over the median unloaded.
`rss_growth_mb` is the server's resident memory at the end, less that after saturation
or, of a soak, after its first tenth. A swap between two versions of the catalogue goes
on once a second during the loads; `swap_ms` is the longest pause.
"""

import argparse
import dataclasses
import heapq
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import threading
import time
import types
import urllib.request

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import numpy as np  # noqa: E402
from flax import linen as nn  # noqa: E402

from serve_clients import FILTERED, HISTORY, ITEMS, Clients  # noqa: E402

from oxyrec_jax.models.generator import Generator, ModelConfig  # noqa: E402
from oxyrec_jax.serve.engine import Engine  # noqa: E402
from oxyrec_jax.serve.front import Front, Limits  # noqa: E402
from oxyrec_jax.serve.people import People  # noqa: E402
from oxyrec_jax.serve.process import Listening, listen, run  # noqa: E402
from oxyrec_jax.serve.programs import Programs, Sizes  # noqa: E402
from oxyrec_jax.serve.rows import Row, lay  # noqa: E402
from oxyrec_jax.serve.snapshot import Snapshot, make_snapshot  # noqa: E402
from oxyrec_jax.tokenizer.catalogue import make_catalogue  # noqa: E402

LOADS = (0.3, 0.5, 0.8, 0.95)
TARGET = 3.0  # p99 at 80 % over unloaded
TOKEN = "a-token-of-this-benchmark"
TIGER = ModelConfig(width=128, heads=6, head_width=64, mlp_width=1024, encoder_layers=4,
                    decoder_layers=4, causal=False, item_embedding=False, dropout=0.0)
SMALL = dataclasses.replace(TIGER, width=64, heads=2, head_width=32, mlp_width=128,
                            encoder_layers=1, decoder_layers=1)


def main() -> None:
    options = _options()
    if options.server:
        _serve(options)
        return
    print(f"device: {os.cpu_count()} cores, {platform.machine()}; Python "
          f"{platform.python_version()}, JAX {jax.__version__}; load "
          f"{os.getloadavg()[0]:.1f}")
    network = "small network, 3 codes" if options.quick else "TIGER-size, 4 codes"
    print(f"shapes: {network} of 256 an item, {ITEMS:,} items, K = {options.beams}, "
          f"batches of {options.batches}, {options.workers} at a time, histories of 1 "
          f"to {HISTORY}; random weights")
    with _Process(options) as server:
        found = _measure(options, server)
    if options.json:
        print(json.dumps(found))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flag = {"action": "store_true"}
    parser.add_argument("--quick", help="a small network, 4 s a load", **flag)
    parser.add_argument("--json", help="one JSON object as the last line", **flag)
    parser.add_argument("--soak", type=float, metavar="MINUTES",
                        help="instead of the loads, one rate for so long")
    parser.add_argument("--rate", type=float, metavar="REQUESTS",
                        help="a second, of a soak (half of saturation)")
    parser.add_argument("--seconds", type=float, help="of each load (30; quick: 4)")
    parser.add_argument("--beams", type=int, default=20)
    parser.add_argument("--batches", type=int, nargs="+", help="(1 4 8; quick: 1 8)")
    parser.add_argument("--workers", type=int, default=1, help="batches at a time (1)")
    parser.add_argument("--cores", type=int, default=2, help="of the server (2)")
    parser.add_argument("--server", help=argparse.SUPPRESS, **flag)
    options = parser.parse_args()
    options.seconds = options.seconds or (4 if options.quick else 30)
    options.batches = options.batches or ([1, 8] if options.quick else [1, 4, 8])
    return options


def _measure(options: argparse.Namespace, server: "_Process") -> dict[str, object]:
    """All figures, printed as they come."""
    clients = Clients(server.port)
    clients.one_by_one(30)  # warm-up
    alone = clients.one_by_one(100 if options.quick else 300)
    print(f"unloaded: p50 {_at(alone, 50):.2f} ms, p99 {_at(alone, 99):.2f} ms")
    found: dict[str, object] = {
        "unloaded_p50_ms": _at(alone, 50), "unloaded_p99_ms": _at(alone, 99),
        "startup_seconds": server.startup,
        "compiled": server.metric("oxyrec_compiled_programs")}
    if options.soak and options.rate:
        saturation = 2 * options.rate
    else:
        more, saturation = _saturation(options, clients, server)
        found |= more
    before = server.rss()
    if options.soak:
        found |= _soak(clients, server, options.rate or 0.5 * saturation,
                       60 * options.soak)
    else:
        for load in LOADS:
            found |= _load(clients, server, load, saturation, options.seconds)
        ratio = clients.figures["p99_ms"]["80%"] / _at(alone, 50)
        ideal = _ideal(server, options.workers, _at(alone, 50))
        print(f"target: p99 at 80 % at most {TARGET:g} times unloaded; reached "
              f"{ratio:.2f}; queues alone make it {ideal:.2f}")
        found |= {"p99_vs_unloaded_at_80": round(ratio, 3),
                  "ideal_p99_vs_unloaded_at_80": round(ideal, 3),
                  "rss_growth_mb": round(server.rss() - before, 2),
                  "swap_ms": max(server.pauses, default=0.0),
                  "swaps": len(server.pauses)}
        print(f"swap: {found['swaps']} times, {found['swap_ms']:.3f} ms at most; "
              f"memory grew by {found['rss_growth_mb']} MB")
    found["compiled_after"] = server.metric("oxyrec_compiled_programs")
    clients.close()
    return found


def _saturation(options: argparse.Namespace, clients: Clients, server: "_Process"
                ) -> tuple[dict[str, object], float]:
    """Answers a second in a closed loop, and of a Poisson process of more than that."""
    flight = 4 * options.batches[-1] * options.workers
    cpu, own, asked = server.cpu(), time.process_time(), server.batches()[1]
    closed = clients.closed(flight, options.seconds)
    count = max(1.0, server.batches()[1] - asked)
    cpu = 1e3 * (server.cpu() - cpu) / count
    own = 1e3 * (time.process_time() - own) / count
    spent, _, _, took = clients.poisson(1.1 * closed, options.seconds)
    saturation = len(spent) / took
    print(f"saturation: {closed:.0f} requests/s with {flight} in flight, "
          f"{saturation:.0f}/s as they come; {cpu:.2f} ms of the server's CPU a "
          f"request, {own:.2f} of the client's")
    return {"saturation_rps": round(saturation, 1), "closed_rps": round(closed, 1),
            "cpu_ms_per_request": round(cpu, 3),
            "client_cpu_ms_per_request": round(own, 3)}, saturation


def _load(clients: Clients, server: "_Process", load: float, saturation: float,
          seconds: float) -> dict[str, object]:
    name, rate = f"{load:.0%}", load * saturation
    batches, asked = server.batches()
    stop = threading.Event()
    swaps = threading.Thread(target=server.keep_swapping, args=(stop,))
    swaps.start()
    spent, waits, statuses, took = clients.poisson(rate, seconds)
    stop.set()
    swaps.join()
    after = server.batches()
    size = (after[1] - asked) / max(1, after[0] - batches)
    good = statuses.get(200, 0)
    print(f"{name}: {rate:.0f}/s asked, {good / took:.0f}/s answered, p50 "
          f"{_at(spent, 50):.2f} ms, p99 {_at(spent, 99):.2f} ms, in the queue "
          f"{_at(waits, 50):.2f} and {_at(waits, 99):.2f} ms, {size:.1f} requests a "
          f"batch, {dict(sorted(statuses.items()))}")
    figures = {"p50_ms": _at(spent, 50), "p99_ms": _at(spent, 99),
               "throughput_rps": round(good / took, 1), "queue_p99_ms": _at(waits, 99),
               "batch_mean": round(size, 2), "refused": sum(statuses.values()) - good}
    for figure, value in figures.items():
        clients.figures.setdefault(figure, {})[name] = value
    return dict(clients.figures)


def _ideal(server: "_Process", workers: int, unloaded: float) -> float:
    """p99 over unloaded at 80 % of a server whose only cost is its programs' time.

    Poisson arrivals, the engine's choice of sizes, the same workers; what a request
    takes beside its program when nothing else goes on is added to each.
    """
    costs = server.costs()
    least = min(costs[False].values())
    rate = 0.8 * workers * max(size / cost for size, cost in costs[False].items())
    rng = np.random.default_rng(0)
    arrivals = np.cumsum(rng.exponential(1 / rate, 20_000))
    kinds = (rng.random(len(arrivals)) < FILTERED).tolist()
    waiting: dict[bool, list[int]] = {False: [], True: []}
    free, spent, came = [0.0] * workers, np.zeros(len(arrivals)), 0
    while came < len(arrivals) or waiting[False] or waiting[True]:
        now = heapq.heappop(free)
        if not waiting[False] and not waiting[True]:
            now = max(now, arrivals[came])
        while came < len(arrivals) and arrivals[came] <= now:
            waiting[kinds[came]].append(came)
            came += 1
        kind = min((kind for kind in waiting if waiting[kind]),
                   key=lambda kind: waiting[kind][0])
        mine = waiting[kind]
        size = min(costs[kind], key=lambda size: costs[kind][size] / min(
            size, len(mine)))
        end = now + costs[kind][size]
        spent[mine[:size]] = end - arrivals[mine[:size]]
        del mine[:size]
        heapq.heappush(free, end)
    beside = max(0.0, unloaded / 1e3 - least)
    return float((np.percentile(spent, 99) + beside) / (least + beside))


def _soak(clients: Clients, server: "_Process", rate: float, seconds: float
          ) -> dict[str, object]:
    """A line a minute; growth counts from the end of the first tenth."""
    print(f"soak: {rate:.0f}/s for {seconds / 60:g} minutes", flush=True)
    parts = max(10, round(seconds / 60))
    start, first, refused, count, worst = 0.0, max(1, parts // 10), 0, 0, 0.0
    sizes = []
    for part in range(parts):
        spent, _, statuses, _ = clients.poisson(rate, seconds / parts)
        sizes.append(server.rss())
        if part + 1 == first:
            start = sizes[-1]
        worst = max(worst, _at(spent, 99))
        count += sum(statuses.values())
        refused += sum(statuses.values()) - statuses.get(200, 0)
        print(f"soak: {seconds * (part + 1) / parts / 60:.1f} min, {count:,} requests, "
              f"{refused} refused, p99 {_at(spent, 99):.2f} ms, {sizes[-1]:.1f} MB, "
              f"load {os.getloadavg()[0]:.1f}", flush=True)
    later = np.arange(first, parts) * seconds / parts / 60
    slope = float(np.polyfit(later, sizes[first:], 1)[0]) if len(later) > 1 else 0.0
    return {"rss_growth_mb": round(sizes[-1] - start, 2), "rss_mb": sizes,
            "rss_mb_per_hour": round(60 * slope, 2), "soak_minutes": seconds / 60,
            "soak_rate": rate, "soak_requests": count, "soak_refused": refused,
            "soak_p99_ms": worst}


class _Process:
    """The server, started with `with`."""

    def __init__(self, options: argparse.Namespace):
        self._words = [sys.executable, __file__, "--server", "--beams",
                       str(options.beams), "--workers", str(options.workers),
                       "--batches", *map(str, options.batches),
                       *(["--quick"] if options.quick else [])]
        self.port, self.startup, self._cores = 0, 0.0, options.cores
        self.pauses: list[float] = []

    def __enter__(self) -> "_Process":
        start = time.perf_counter()
        self._process = subprocess.Popen(self._words, stdout=subprocess.PIPE, text=True)
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(self._process.pid, cores[:self._cores])
        os.sched_setaffinity(0, cores[self._cores:] or cores)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        while True:
            try:
                self._get("/readyz")
                break
            except OSError:
                if self._process.poll() is not None:
                    raise SystemExit("the server ended at once") from None
                time.sleep(0.2)
        self.startup = round(time.perf_counter() - start, 1)
        print(f"ready after {self.startup} s, {self.rss():.0f} MB")
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.wait(60)

    def rss(self) -> float:
        """Resident memory, MB."""
        text = pathlib.Path(f"/proc/{self._process.pid}/status").read_text()
        return int(text.partition("VmRSS:")[2].split()[0]) / 1024

    def cpu(self) -> float:
        """Seconds of CPU so far, which other work on the machine changes less."""
        return self.metric("process_cpu_seconds_total")

    def metric(self, name: str) -> float:
        """A figure of /metrics."""
        lines = self._get("/metrics").splitlines()
        return next(float(line.split()[-1]) for line in lines
                    if line.startswith(f"{name} "))

    def costs(self) -> dict[bool, dict[int, float]]:
        """Seconds of the program of each size, without and with filters."""
        found: dict[bool, dict[int, float]] = {False: {}, True: {}}
        for labels, value in re.findall(r"^oxyrec_program_seconds\{(.*)\} (\S+)$",
                                        self._get("/metrics"), re.MULTILINE):
            named = dict(re.findall(r'(\w+)="(\d+)"', labels))
            found[named["filtered"] == "1"][int(named["batch"])] = float(value)
        return found

    def batches(self) -> tuple[float, float]:
        """Batches so far, and the requests in them."""
        return (self.metric("oxyrec_batch_requests_count"),
                self.metric("oxyrec_batch_requests_sum"))

    def keep_swapping(self, stop: threading.Event) -> None:
        """Another version once a second; notes the pauses."""
        while not stop.wait(1.0):
            found = json.loads(self._get("/v1/swap", b""))
            self.pauses.append(found["swap_ms"])

    def _get(self, path: str, body: bytes | None = None) -> str:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", body,
            {"authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.read().decode()


def _serve(options: argparse.Namespace) -> None:
    """The server's side: two versions of one catalogue take turns."""
    cfg = SMALL if options.quick else TIGER
    rng = np.random.default_rng(0)
    # Popular and rare codes on each level.
    widths = (256,) * (3 if options.quick else 4)
    codes = (256 * rng.random((2 * ITEMS, len(widths))) ** 2).astype(np.int32)
    codes = rng.permutation(np.unique(codes, axis=0))[:ITEMS]
    model = Generator(cfg, widths, ITEMS)
    catalogue, leaves = make_catalogue(codes, widths, popularity=np.arange(ITEMS))
    batch = lay([Row(np.arange(3, dtype=np.int32))], None, model, batch=1,
                length=HISTORY)
    batch["targets"] = np.zeros((1, 1), np.int32)
    shapes = nn.meta.unbox(jax.eval_shape(lambda: model.init(
        jax.random.key(0), batch, catalogue.tables)["params"]))
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(
        np.float32), shapes)
    names = [f"item-{number}" for number in range(ITEMS)]
    vectors = rng.normal(size=(ITEMS, 32))

    def snapshot(version: str, before: Snapshot | None = None) -> Snapshot:
        return make_snapshot(
            version, model, params, catalogue, leaves, item_ids=names, titles=names,
            codes=codes, vectors=vectors, at_least=before)
    engine = Engine(snapshot("a"), Programs(Sizes(
        tuple(options.batches), (HISTORY,), options.beams), alone=options.workers > 1),
        queue=1_000, workers=options.workers)
    other = snapshot("b", engine.live.snapshot)
    nobody = People(types.SimpleNamespace(profiles=None),  # type: ignore[arg-type]
                    {}, np.zeros(1), {}, (), (), 0)

    def reload(before: Snapshot) -> Snapshot:
        return other if before.version == "a" else first
    first = engine.live.snapshot
    listening = Listening(port=0, grace=0, idle=3_600)  # clients keep connections
    with listen(listening) as sock, engine:
        print(sock.getsockname()[1], flush=True)
        run(Front(engine, nobody, history=HISTORY, reload=reload,
                  limits=Limits(admin_token=TOKEN)), listening, sock)


def _at(values: list[float], percent: float) -> float:
    return round(float(np.percentile(values, percent)), 3) if values else 0.0


if __name__ == "__main__":
    main()
