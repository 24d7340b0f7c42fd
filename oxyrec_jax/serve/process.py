"""The process around the application: its socket, its signals, its end."""

import asyncio
import contextlib
import dataclasses
import gc
import logging
import os
import pathlib
import resource
import socket
import stat
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from oxyrec_jax.base import InputError
from oxyrec_jax.serve.front import Front

_log = logging.getLogger(__name__)
_LOOK = 0.05  # seconds between two looks at what is still to be answered
_HEAD = 65_536  # bytes that a request may have before its body
_TURN = 5e-4  # seconds after which a thread that runs Python lets another one; ours


@dataclasses.dataclass(frozen=True)
class Listening:
    """Where the server listens and how patient it is. Defaults are ours.

    Attributes:
      host: address; those of the machine alone by default.
      port: 0 takes a free one.
      connections: beyond so many a request is answered 503.
      idle: seconds after which a connection that asks nothing is closed; one that takes
        longer to send the head of a request is closed too.
      grace: seconds for which new requests are answered 503 after SIGTERM, so that
        whoever spreads them sees /readyz fall; what came before is answered meanwhile.
      drain: seconds after which the server ends even if something is not answered.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    connections: int = 16_384
    idle: float = 10.0
    grace: float = 1.0
    drain: float = 30.0


def read_token(variable: str, path: pathlib.Path | None) -> str | None:
    """Reads a token from a file or, without one, from an environment variable.

    Raises:
      InputError: the file cannot be read, others may read it, or there is too little
        in it to be a secret.
    """
    if path is None:
        token, where = os.environ.get(variable, ""), f"the variable {variable}"
        if not token:
            return None
    else:
        where = str(path)
        try:
            token = path.read_text("utf-8").strip()
            mode = path.stat().st_mode
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path} cannot be read: {type(error).__name__}") from None
        if mode & (stat.S_IRGRP | stat.S_IROTH):
            raise InputError(f"{path} can be read by others than its owner; chmod 600 "
                             "it")
    if len(token) < 16 or not token.isascii() or not token.isprintable():
        raise InputError(f"{where} holds no token of 16 or more printable ASCII "
                         "characters; make one with openssl rand -hex 32")
    return token


@contextlib.contextmanager
def listen(cfg: Listening) -> Iterator[socket.socket]:
    """Opens the socket, so that a port that is taken is known before anything else.

    Raises:
      InputError: it cannot be opened.
    """
    family = socket.AF_INET6 if ":" in cfg.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((cfg.host, cfg.port))
        except (OSError, OverflowError) as error:
            raise InputError(f"--host {cfg.host} --port {cfg.port} cannot be listened "
                             f"on: {error}; take another port") from error
        yield sock
    finally:
        sock.close()


def run(front: Front, cfg: Listening, sock: socket.socket) -> None:
    """Serves until SIGTERM or SIGINT; a second one ends at once."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each connection is one
    protocol = type("Protocol", (_Protocol,), {"patience": cfg.idle})
    config = uvicorn.Config(
        front.app(), http=protocol, ws="none", lifespan="off", log_config=None,
        access_log=False, server_header=False, proxy_headers=False,
        limit_concurrency=cfg.connections, backlog=4096,
        timeout_keep_alive=max(1, round(cfg.idle)),
        timeout_graceful_shutdown=max(1, round(cfg.drain)))
    with _quiet():
        _Server(config, front, cfg).run(sockets=[sock])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Short turns of Python's threads, and no search for garbage among what was loaded:
    it takes as long as many requests, and finds nothing."""
    turn = sys.getswitchinterval()
    sys.setswitchinterval(_TURN)
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        sys.setswitchinterval(turn)


class _Server(uvicorn.Server):
    """Answers what came before a signal, and 503 to what comes after, then ends."""

    def __init__(self, config: uvicorn.Config, front: Front, cfg: Listening):
        super().__init__(config)
        self._front, self._cfg = front, cfg
        self._drainer: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begins to drain; at the second signal, ends."""
        if self._front.draining:
            self.force_exit = True
            self.should_exit = True
        self._front.begin_drain()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens, and says where."""
        await super().startup(sockets)
        for sock in sockets or ():
            host, port = sock.getsockname()[:2]
            _log.info("serving http://%s:%d", f"[{host}]" if ":" in host else host,
                      port)

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second."""
        if self._front.draining and self._drainer is None:
            _log.info("draining: %d requests are inside", self._front.inside)
            self._drainer = asyncio.create_task(self._drain())
        return await super().on_tick(counter)

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        while ((waited := loop.time() - start) < self._cfg.grace
               or self._front.inside and waited < self._cfg.drain):
            await asyncio.sleep(_LOOK)
        self.should_exit = True


class _Protocol(HttpToolsProtocol):
    """Closes connections whose next request does not come, or whose head does not end.
    """

    patience = 10.0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._seen: object = None
        self._head = 0
        self._timer = self.loop.call_later(self.patience, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self._head += len(data)
        super().data_received(data)
        if self._head > _HEAD:
            self.transport.close()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._head = 0

    def _look(self) -> None:
        """No new request since the last look, and none is being answered."""
        cycle = self.cycle
        if (cycle is None or cycle.response_complete) and cycle is self._seen:
            self.transport.close()
            return
        self._seen = cycle
        self._timer = self.loop.call_later(self.patience, self._look)
