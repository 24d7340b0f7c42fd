"""What instructions cost: how fast the store answers and how fast it is filled.

    python benchmarks/instructions.py --quick --json      # 50,000 users, under 60 s
    python benchmarks/instructions.py --json              # 1,000,000 users; 8 GB free

Store: writes one instruction of 1.5 KB (a vector of 384 float16 and 700 bytes of text)
for each user to each backend, then reads batches of 256 users drawn evenly, one after
the other from one thread, after a warm-up. A read is counted whole: keys, bytes,
checksums, arrays. The backends take turns, so that both see the same machine. "raw" is
the backend's share of it, the bytes alone of the same users again; "reader" is the same
through the reader with its deadline, thread and counters, with the share of rows that
were in time. `cpu_ms` is the reading process's CPU time for a batch, which other work
on the machine changes less.

Redis needs the package redis and a server: `redis-server` of the extra "test" or of the
PATH, started here on a port of its own without persistence. Without one its figures are
left out and "skipped" says so. `reads_per_s` counts users.

The near-line pipeline that fills the store: see near_line.py beside this file; what
retrieval from long histories adds to a training step and to a request: igr_step.py.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import socket
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from igr_step import measure_retrieval
from near_line import measure_thinking

from oxyrec_jax.thinking.lmdb_store import LmdbBackend
from oxyrec_jax.thinking.reading import ReadConfig, Reader
from oxyrec_jax.thinking.records import Version
from oxyrec_jax.thinking.redis_store import RedisBackend
from oxyrec_jax.thinking.store import Source, Store

KEYS, DIMENSION, TEXT_BYTES = 256, 384, 700
WRITTEN_AT_ONCE = 5_000
DEADLINE = 0.02
TURNS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flag = {"action": "store_true"}
    parser.add_argument("--quick", help="50,000 users", **flag)
    parser.add_argument("--json", help="one JSON object as the last line", **flag)
    parser.add_argument("--peer", help="accepted; there is no peer", **flag)
    parser.add_argument("--folder", help="where the embedded store is put; a temporary "
                                         "folder by default")
    options = parser.parse_args()
    print(f"device: {os.cpu_count()} CPUs ({platform.machine()}); Python "
          f"{platform.python_version()}, NumPy {np.__version__}, lmdb "
          f"{importlib.metadata.version('lmdb')}")
    figures: dict[str, Any] = {}
    figures |= measure_store(50_000 if options.quick else 1_000_000,
                             60 if options.quick else 400, options.folder)
    figures |= measure_thinking(options.quick, options.folder)
    figures |= measure_retrieval(options.quick)
    if options.json:
        print(json.dumps(figures))


def measure_store(users: int, batches: int, folder: str | None) -> dict[str, Any]:
    """Returns `store.<backend>.<figure>` for each backend that runs here."""
    print(f"shapes: {users:,} users, vectors of {DIMENSION} float16, texts of "
          f"{TEXT_BYTES} bytes; {TURNS} turns of {batches} batches of {KEYS} users for "
          "each backend; warm-up: one turn")
    figures: dict[str, Any] = {"store.users": users, "store.keys": KEYS}
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(tempfile.TemporaryDirectory(dir=folder))
        backends = {"lmdb": LmdbBackend(pathlib.Path(place) / "lmdb")}
        server = stack.enter_context(_redis_server(place))
        if isinstance(server, str):
            figures["store.redis.skipped"] = server
        else:
            backends["redis"] = RedisBackend(f"redis://127.0.0.1:{server}/0",
                                             timeout=60)
        stores = {name: stack.enter_context(Store(backend, dimension=DIMENSION))
                  for name, backend in backends.items()}
        for name, store in stores.items():
            figures[f"store.{name}.writes_per_s"] = round(_fill(store, users))
        times = _read(stores, users, batches)
        for name, kinds in times.items():
            figures |= _figures(f"store.{name}", kinds)
            share = kinds["in_time"] / (kinds["rows"] or 1)
            figures[f"store.{name}.reader_in_time"] = round(share, 5)
            _show(name, figures)
        size = (pathlib.Path(place) / "lmdb" / "data.mdb").stat().st_size
        figures["store.lmdb.bytes_per_user"] = round(size / users)
    return figures


def _fill(store: Store, users: int) -> float:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((WRITTEN_AT_ONCE, DIMENSION)).astype(np.float16)
    texts = ["".join(chr(97 + letter) for letter in row)
             for row in rng.integers(26, size=(WRITTEN_AT_ONCE, TEXT_BYTES))]
    version = Version(1, "benchmark", "none", "none")
    begun = time.perf_counter()
    for first in range(0, users, WRITTEN_AT_ONCE):
        part = range(first, min(users, first + WRITTEN_AT_ONCE))
        store.put_many([f"user{number}" for number in part], texts[:len(part)],
                       vectors[:len(part)], version=version, window=1)
    return users / (time.perf_counter() - begun)


def _read(stores: dict[str, Store], users: int, batches: int
          ) -> dict[str, dict[str, Any]]:
    """Times every way of reading, the backends in turn; the first turn warms up."""
    rng = np.random.default_rng(1)
    out = {name: _nothing() for name in stores}
    for turn in range(TURNS + 1):
        for name, store in stores.items():
            kept = out[name] if turn else _nothing()
            cfg = ReadConfig(deadline=DEADLINE, failures=1_000_000)
            with Reader(store, cfg) as reader:
                for row in rng.integers(users, size=(batches, KEYS)):
                    asked = [f"user{number}" for number in row]
                    keys = [f"reasoning:{user}".encode() for user in asked]
                    begun = time.process_time()
                    kept["whole"].append(_timed(store.get_many, asked))
                    kept["cpu"].append(time.process_time() - begun)
                    kept["raw"].append(_timed(store.backend.read, keys))
                    kept["reader"].append(_timed(reader.get_many, asked))
                kept["in_time"] += reader.figures()[Source.STORED.name.lower()]
                kept["rows"] += reader.figures()["keys"]
            if not store.get_many(asked).stored.all():
                raise SystemExit(f"{name} does not hold what was written to it")
    return out


def _nothing() -> dict[str, Any]:
    return {"whole": [], "cpu": [], "raw": [], "reader": [], "in_time": 0, "rows": 0}


def _timed(call, argument) -> float:
    begun = time.perf_counter()
    call(argument)
    return time.perf_counter() - begun


def _figures(prefix: str, times: dict[str, Any]) -> dict[str, float]:
    whole = times["whole"]
    figures = {f"{prefix}.reads_per_s": float(round(KEYS * len(whole) / sum(whole)))}
    cpu = 1e3 * float(np.median(times["cpu"]))
    figures[f"{prefix}.cpu_ms"] = round(cpu, 3)
    for kind, start in (("whole", ""), ("raw", "raw_"), ("reader", "reader_")):
        for share in (50, 99):
            milliseconds = 1e3 * float(np.percentile(times[kind], share))
            figures[f"{prefix}.{start}p{share}_ms"] = round(milliseconds, 3)
    return figures


def _show(name: str, figures: dict[str, Any]) -> None:
    def get(key: str) -> Any:
        return figures[f"store.{name}.{key}"]
    print(f"{name:>6}: {get('reads_per_s'):>9,.0f} users/s; a batch p50 "
          f"{get('p50_ms'):.2f} ms, p99 {get('p99_ms'):.2f} ms, of this process's "
          f"CPU {get('cpu_ms'):.2f} ms (bytes alone {get('raw_p50_ms'):.2f}, "
          f"{get('raw_p99_ms'):.2f}); through the reader "
          f"{get('reader_p50_ms'):.2f}, {get('reader_p99_ms'):.2f}, in time "
          f"{get('reader_in_time'):.2%}; {get('writes_per_s'):,} writes/s")


@contextlib.contextmanager
def _redis_server(place: str) -> Iterator[int | str]:
    """Starts a server and gives its port, or says why there is none."""
    ours = pathlib.Path(sysconfig.get_path("scripts")) / "redis-server"
    program = str(ours) if ours.is_file() else shutil.which("redis-server")
    if program is None:
        yield "no redis-server here"
        return
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", place,
         "--save", ""], stdout=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            time.sleep(0.05)
        yield port
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
