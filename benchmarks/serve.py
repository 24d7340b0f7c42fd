"""Requests a second and milliseconds of `oxyrec serve`, under load that does not wait.

    python benchmarks/serve.py --quick --json      # a small network, under a minute
    python benchmarks/serve.py                     # TIGER's size, four minutes
    python benchmarks/serve.py --soak 30           # half an hour at half load: memory

A server in a process of its own answers over HTTP on this machine: random weights,
12,000 items of 4 codes out of 256 each (quick: 3), histories of 1 to 30 items, a fifth
of the requests with a filter, 10 items asked for. This process asks; both share the
cores.

unloaded    one request at a time
saturation  answers a second when 4 times the largest batch are always in flight
loads       requests at the times of a Poisson process of 50, 80 and 95 % of saturation,
            whether or not earlier ones were answered; latency counts from the time at
            which the request was due, so that a client that falls behind hides nothing

`p99_vs_unloaded_at_80` is the 99th percentile at 80 % over the median unloaded.
`rss_growth_mb` is the server's resident memory at the end, less that after saturation
or, of a soak, after its first tenth. A swap between two versions of the catalogue goes
on once a second during the loads; `swap_ms` is the longest pause.
"""

import argparse
import asyncio
import dataclasses
import json
import os
import pathlib
import platform
import random
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

from oxyrec_jax.models.generator import Generator, ModelConfig  # noqa: E402
from oxyrec_jax.serve.engine import Engine  # noqa: E402
from oxyrec_jax.serve.front import Front, Limits  # noqa: E402
from oxyrec_jax.serve.people import People  # noqa: E402
from oxyrec_jax.serve.process import Listening, listen, run  # noqa: E402
from oxyrec_jax.serve.programs import Programs, Sizes  # noqa: E402
from oxyrec_jax.serve.rows import Row, lay  # noqa: E402
from oxyrec_jax.serve.snapshot import Snapshot, make_snapshot  # noqa: E402
from oxyrec_jax.tokenizer.catalogue import make_catalogue  # noqa: E402

ITEMS, HISTORY, K = 12_000, 30, 10
LOADS = (0.5, 0.8, 0.95)
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
          f"{platform.python_version()}, JAX {jax.__version__}")
    network = "small network, 3 codes" if options.quick else "TIGER-size, 4 codes"
    print(f"shapes: {network} of 256 an item, {ITEMS:,} items, K = {options.beams}, "
          f"batches of {options.batches}, histories of 1 to {HISTORY}; random weights")
    with _Process(options) as server:
        found = asyncio.run(_measure(options, server))
    if options.json:
        print(json.dumps(found))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flag = {"action": "store_true"}
    parser.add_argument("--quick", help="a small network, 4 s a load", **flag)
    parser.add_argument("--json", help="one JSON object as the last line", **flag)
    parser.add_argument("--soak", type=float, metavar="MINUTES",
                        help="instead of the loads, half load for so long")
    parser.add_argument("--seconds", type=float, help="of each load (30; quick: 4)")
    parser.add_argument("--beams", type=int, default=20)
    parser.add_argument("--batches", type=int, nargs="+", help="(1 4 8; quick: 1 8)")
    parser.add_argument("--server", help=argparse.SUPPRESS, **flag)
    options = parser.parse_args()
    options.seconds = options.seconds or (4 if options.quick else 30)
    options.batches = options.batches or ([1, 8] if options.quick else [1, 4, 8])
    return options


async def _measure(options: argparse.Namespace, server: "_Process"
                   ) -> dict[str, object]:
    """All figures, printed as they come."""
    clients = _Clients(server.port)
    await clients.one_by_one(30)  # warm-up
    alone = await clients.one_by_one(100 if options.quick else 300)
    print(f"unloaded: p50 {_at(alone, 50):.2f} ms, p99 {_at(alone, 99):.2f} ms")
    flight = 4 * options.batches[-1]
    cpu, asked = server.cpu(), server.batches()[1]
    saturation = await clients.closed(flight, options.seconds)
    cpu = 1e3 * (server.cpu() - cpu) / max(1.0, server.batches()[1] - asked)
    print(f"saturation: {saturation:.0f} requests/s with {flight} in flight, "
          f"{cpu:.2f} ms of the server's CPU a request")
    found: dict[str, object] = {
        "saturation_rps": round(saturation, 1), "cpu_ms_per_request": round(cpu, 3),
        "unloaded_p50_ms": _at(alone, 50),
        "unloaded_p99_ms": _at(alone, 99), "startup_seconds": server.startup,
        "compiled": server.metric("oxyrec_compiled_programs")}
    before = server.rss()
    if options.soak:
        found |= await _soak(clients, server, 0.5 * saturation, 60 * options.soak)
    else:
        for load in LOADS:
            found |= await _load(clients, server, load, saturation, options.seconds)
        ratio = clients.figures["p99_ms"][f"{LOADS[1]:.0%}"] / _at(alone, 50)
        print(f"target: p99 at 80 % at most {TARGET:g} times unloaded; reached "
              f"{ratio:.2f}")
        found |= {"p99_vs_unloaded_at_80": round(ratio, 3),
                  "rss_growth_mb": round(server.rss() - before, 2),
                  "swap_ms": max(server.pauses, default=0.0),
                  "swaps": len(server.pauses)}
        print(f"swap: {found['swaps']} times, {found['swap_ms']:.3f} ms at most; "
              f"memory grew by {found['rss_growth_mb']} MB")
    found["compiled_after"] = server.metric("oxyrec_compiled_programs")
    await clients.close()
    return found


async def _load(clients: "_Clients", server: "_Process", load: float, saturation: float,
                seconds: float) -> dict[str, object]:
    name, rate = f"{load:.0%}", load * saturation
    batches, asked = server.batches()
    stop = threading.Event()
    swaps = threading.Thread(target=server.keep_swapping, args=(stop,))
    swaps.start()
    spent, waits, statuses, took = await clients.poisson(rate, seconds)
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


async def _soak(clients: "_Clients", server: "_Process", rate: float, seconds: float
                ) -> dict[str, object]:
    print(f"soak: {rate:.0f}/s for {seconds / 60:g} minutes")
    await clients.poisson(rate, 0.1 * seconds)
    start, refused, count = server.rss(), 0, 0
    worst = 0.0
    for part in range(9):
        spent, _, statuses, _ = await clients.poisson(rate, 0.1 * seconds)
        worst = max(worst, _at(spent, 99))
        count += sum(statuses.values())
        refused += sum(statuses.values()) - statuses.get(200, 0)
        print(f"soak: {0.1 * (part + 2):.0%}, p99 {_at(spent, 99):.2f} ms, "
              f"{server.rss():.1f} MB")
    return {"rss_growth_mb": round(server.rss() - start, 2),
            "soak_minutes": seconds / 60, "soak_requests": count,
            "soak_refused": refused, "soak_p99_ms": worst}


class _Clients:
    """Connections that stay open, as many as there are requests in flight."""

    def __init__(self, port: int):
        self._port, self._free = port, []
        self._rng = random.Random(0)
        self.figures: dict[str, dict[str, float]] = {}

    async def one_by_one(self, count: int) -> list[float]:
        """Milliseconds of each request."""
        spent = []
        for _ in range(count):
            start = time.perf_counter()
            await self.ask()
            spent.append(1e3 * (time.perf_counter() - start))
        return spent

    async def closed(self, flight: int, seconds: float) -> float:
        """Answers a second with so many in flight."""
        done, end = 0, time.perf_counter() + seconds

        async def keep_asking() -> None:
            nonlocal done
            while time.perf_counter() < end:
                status, _ = await self.ask()
                done += status == 200
        start = time.perf_counter()
        await asyncio.gather(*(keep_asking() for _ in range(flight)))
        return done / (time.perf_counter() - start)

    async def poisson(self, rate: float, seconds: float) -> tuple[
            list[float], list[float], dict[int, int], float]:
        """Milliseconds from due to answered and in the queue; statuses; seconds."""
        spent: list[float] = []
        waits: list[float] = []
        statuses: dict[int, int] = {}
        tasks = set()

        async def one(due: float) -> None:
            status, queue = await self.ask()
            statuses[status] = statuses.get(status, 0) + 1
            if status == 200:
                spent.append(1e3 * (time.perf_counter() - due))
                waits.append(queue)
        start = due = time.perf_counter()
        while (due := due + self._rng.expovariate(rate)) < start + seconds:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.add(task := asyncio.create_task(one(due)))
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        return spent, waits, statuses, time.perf_counter() - start

    async def ask(self) -> tuple[int, float]:
        """One request: its status and its milliseconds in the queue."""
        rng = self._rng
        body: dict[str, object] = {"k": K, "deadline_ms": 5_000, "history": [
            f"item-{rng.randrange(ITEMS)}" for _ in range(rng.randint(1, HISTORY))]}
        if rng.random() < 0.2:
            body["filters"] = {"exclude_history": True,
                               "deny_items": [f"item-{rng.randrange(ITEMS)}"]}
        data = json.dumps(body).encode()
        reader, writer = (self._free.pop() if self._free else
                          await asyncio.open_connection("127.0.0.1", self._port))
        writer.write(b"POST /v1/recommend HTTP/1.1\r\nhost: x\r\ncontent-type: "
                     b"application/json\r\ncontent-length: %d\r\n\r\n" % len(data)
                     + data)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        answer = json.loads(await reader.readexactly(length))
        self._free.append((reader, writer))
        status = int(head[9:12])
        return status, answer["timing"]["queue_ms"] if status == 200 else 0.0

    async def close(self) -> None:
        """Closes the connections."""
        for _, writer in self._free:
            writer.close()


class _Process:
    """The server, started with `with`."""

    def __init__(self, options: argparse.Namespace):
        self._words = [sys.executable, __file__, "--server", "--beams",
                       str(options.beams), "--batches", *map(str, options.batches),
                       *(["--quick"] if options.quick else [])]
        self.port, self.startup = 0, 0.0
        self.pauses: list[float] = []

    def __enter__(self) -> "_Process":
        start = time.perf_counter()
        self._process = subprocess.Popen(self._words, stdout=subprocess.PIPE, text=True)
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
        tuple(options.batches), (HISTORY,), options.beams)), queue=1_000)
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
