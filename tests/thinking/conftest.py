"""An empty store on each backend, with a clock that the test turns."""

import dataclasses
import itertools

import chat_server
import pytest
import redis_process

from oxyrec_jax.thinking.lmdb_store import LmdbBackend
from oxyrec_jax.thinking.redis_store import RedisBackend
from oxyrec_jax.thinking.store import Store

PREFIXES = (f"test{number}" for number in itertools.count())


@dataclasses.dataclass
class Clock:
    """Seconds since 1970, which only the test moves."""

    now: float = 1_790_000_000.0

    def __call__(self):
        return self.now


@dataclasses.dataclass
class Place:
    """Where stores of one test lie: `open` gives a store on the same records."""

    backend: object
    clock: Clock

    def open(self, **options):
        options = {"dimension": 2, "clock": self.clock, **options}
        return Store(self.backend, **options)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory):
    with redis_process.running(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def lmdb_place(tmp_path):
    backend = LmdbBackend(tmp_path / "store", max_bytes=1 << 28)
    yield Place(backend, Clock())
    backend.close()


@pytest.fixture
def redis_place(redis_server):
    backend = RedisBackend(redis_server.url, prefix=next(PREFIXES), timeout=10)
    yield Place(backend, Clock())
    backend.close()


@pytest.fixture(params=["lmdb", "redis"])
def place(request):
    """The same test on both backends."""
    return request.getfixturevalue(f"{request.param}_place")


@pytest.fixture
def server():
    """A chat server that answers well until the test makes it worse."""
    running = chat_server.ChatServer()
    yield running
    running.close()
