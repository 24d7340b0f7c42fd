"""How fast the near-line pipeline is, for benchmarks/instructions.py.

Overhead: states of 20 titles, 3 searches and all of the context, one kind of prompt.
The reasoner answers at once, the encoder gives constant vectors of 384 numbers; all
else is real: prompts, a note in the journal for each question, the gate, LMDB on disk.
Taken is the whole run's time over its users, the best of three runs; `cpu` is this
process's CPU time, which other work on the machine changes less. No two titles are
equal.

Concurrency: a server in a process of its own answers 50 ms after it read a question.
The bound is `concurrency` answers each 50 ms; the share is of a whole run on an open
client, from the first look into the journal to the last note in it.
"""

import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from oxyrec_jax import chat, llm
from oxyrec_jax.thinking import pipeline, reasoner
from oxyrec_jax.thinking.journal import Journal
from oxyrec_jax.thinking.opening import StoreConfig, open_store
from oxyrec_jax.thinking.reasoner import Reply
from oxyrec_jax.thinking.states import Deed, UserState

DIMENSION = 384
LATENCY = 0.05
CONCURRENCY = 8
WINDOW = 1_790_000_100
ANSWER = json.dumps({
    "instruction": "A baby sleeps restlessly in damp cold and sweats under thick "
                   "covers: look for moisture-wicking baby sleepwear.",
    "evidence": ["winter solstice", "baby"]})


def measure_thinking(quick: bool, folder: str | None) -> dict[str, Any]:
    """Returns `think.<figure>`."""
    users = 5_000 if quick else 50_000
    asked = 480 if quick else 3_200
    print(f"near-line: {users:,} users for the overhead, best of 3; {asked:,} "
          f"questions at {CONCURRENCY} in flight against {1e3 * LATENCY:.0f} ms; "
          f"warm-up: {2 * CONCURRENCY} questions")
    overhead, busy = (min(times) for times in
                      zip(*(_overhead(users, folder) for _ in range(3))))
    share, client = _concurrency(asked, folder)
    print(f"near-line: {overhead:.3f} ms a user without model and encoder, {busy:.3f} "
          "ms of CPU; "
          f"{share:.1%} of the concurrency bound, {client:.2f} ms of CPU a question")
    return {"think.overhead_ms_per_user": round(overhead, 4),
            "think.overhead_cpu_ms_per_user": round(busy, 4),
            "think.concurrency_share": round(share, 4),
            "think.concurrency": CONCURRENCY, "think.users": users,
            "think.cpu_ms_per_question": round(client, 3)}


class _AtOnce:
    """A reasoner that costs nothing."""

    name, stopped, knowledge = "at once", "", frozenset[str]()

    async def reason(self, prompts, asking):
        answer = chat.Answer(text=ANSWER, billed=True)
        for prompt in prompts:
            asking(prompt, b"0" * 32)
            yield Reply(prompt, answer, asked=True)


def _overhead(users: int, folder: str | None) -> tuple[float, float]:
    states = list(_states(users))
    with tempfile.TemporaryDirectory(dir=folder) as place, _store(place) as store, \
            Journal(f"{place}/journal.sqlite") as journal:
        begun, cpu = time.perf_counter(), time.process_time()
        summary = asyncio.run(pipeline.think(
            states, _AtOnce(), _embed, store, journal, pipeline.ThinkConfig(),
            window=WINDOW))
        seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    if summary.stored != users:
        raise SystemExit(f"the near-line run stored {summary.stored} of {users}")
    return 1e3 * seconds / users, 1e3 * cpu / users


def _concurrency(asked: int, folder: str | None) -> tuple[float, float]:
    with tempfile.TemporaryDirectory(dir=folder) as place, _server() as port, \
            _store(place) as store, Journal(f"{place}/journal.sqlite") as journal:
        endpoint = llm.Endpoint(f"http://127.0.0.1:{port}/v1", "dummy",
                                concurrency=CONCURRENCY)

        async def work() -> tuple[float, float]:
            cfg = pipeline.ThinkConfig()
            async with reasoner.open_llm(endpoint, cfg.chat, cfg.budget,
                                         f"{place}/answers.sqlite") as who:
                # Other users first: their questions are others too.
                for states in (_states(2 * CONCURRENCY, asked), _states(asked)):
                    begun, cpu = time.perf_counter(), time.process_time()
                    summary = await pipeline.think(states, who, _embed, store, journal,
                                                   cfg, window=WINDOW)
                    seconds = time.perf_counter() - begun
                    cpu = time.process_time() - cpu
            if summary.stored != asked or summary.requests != asked:
                raise SystemExit(f"the dummy server gave {summary.requests} of {asked}")
            return asked * LATENCY / CONCURRENCY / seconds, 1e3 * cpu / asked
        return asyncio.run(work())


def _states(users: int, first: int = 0) -> Iterator[UserState]:
    for number in range(first, first + users):
        yield UserState(
            f"user{number}", tuple(Deed(f"Moisture Wicking Baby Sleepwear, size {n}, "
                                        f"pack {number}") for n in range(20)),
            ("baby sleeping bag", "humidifier", "warm pyjamas"),
            time="2024-12-20 21:00", place="Chengdu", weather="4 degrees, damp",
            holiday="winter solstice tomorrow", profile={"life": "baby"},
            facts=("cold", "damp", "baby"))


def _embed(texts) -> np.ndarray:
    return np.full((len(texts), DIMENSION), 0.25, np.float32)


def _store(place: str):
    return open_store(StoreConfig(max_bytes=1 << 30), f"{place}/store",
                      dimension=DIMENSION)


@contextlib.contextmanager
def _server() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE,
                               text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


async def _serve() -> None:
    body = json.dumps({"choices": [{"index": 0, "finish_reason": "stop", "message": {
        "role": "assistant", "content": ANSWER}}], "usage": {
            "prompt_tokens": 400, "completion_tokens": 40}}).encode()
    head = (f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n").encode()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                asked = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = asked.split(b"content-length:")[1].split(b"\r\n")[0]
                await reader.readexactly(int(length))
                await asyncio.sleep(LATENCY)
                writer.write(head + body)
        writer.close()
    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve())
