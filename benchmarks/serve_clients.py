"""Clients of a recommendation server that ask whether or not they were answered.

Requests are made in advance and connections stay open, so that asking costs the client
0.03 to 0.06 ms each.
"""

import collections
import dataclasses
import itertools
import json
import random
import select
import socket
import threading
import time

ITEMS, HISTORY, K = 12_000, 30, 10
FILTERED = 0.2  # of the requests


@dataclasses.dataclass
class _Connection:
    """One that stays open; at most one request at a time goes over it."""

    socket: socket.socket
    due: float = 0.0
    found: bytes = b""


class Clients:
    """As many connections as there are requests in flight, on two threads at most.

    Attributes:
      figures: what a caller keeps of its loads.
    """

    def __init__(self, port: int):
        """Makes the requests; `port` is the server's, on this machine."""
        self._port, self._rng = port, random.Random(0)
        self._free: collections.deque[_Connection] = collections.deque()
        self._all: dict[int, _Connection] = {}
        self._epoll = select.epoll()
        self._requests = itertools.cycle([self._request() for _ in range(2_000)])
        self.figures: dict[str, dict[str, float]] = {}

    def one_by_one(self, count: int) -> list[float]:
        """Milliseconds of each request."""
        spent = []
        for _ in range(count):
            self._send(time.perf_counter())
            while not (found := self._receive(60)):
                pass
            spent.append(found[0][0])
        return spent

    def closed(self, flight: int, seconds: float) -> float:
        """Answers a second with so many in flight."""
        start = time.perf_counter()
        for _ in range(flight):
            self._send(start)
        left, done = flight, 0
        while left:
            for _, status, _ in self._receive(60):
                left, done = left - 1, done + (status == 200)
                if (now := time.perf_counter()) < start + seconds:
                    self._send(now)
                    left += 1
        return done / (time.perf_counter() - start)

    def poisson(self, rate: float, seconds: float) -> tuple[
            list[float], list[float], dict[int, int], float]:
        """Milliseconds from due to answered and in the queue; statuses; seconds."""
        spent: list[float] = []
        waits: list[float] = []
        statuses: collections.Counter[int] = collections.Counter()
        start, dues = time.perf_counter(), []
        due = start + self._rng.expovariate(rate)
        while due < start + seconds:
            dues.append(due)
            due += self._rng.expovariate(rate)

        def send() -> None:
            for due in dues:
                time.sleep(max(0.0, due - time.perf_counter()))
                self._send(due)
        sender = threading.Thread(target=send)
        sender.start()
        while sum(statuses.values()) < len(dues):
            for milliseconds, status, queue in self._receive(1):
                statuses[status] += 1
                if status == 200:
                    spent.append(milliseconds)
                    waits.append(queue)
        sender.join()
        return spent, waits, statuses, time.perf_counter() - start

    def close(self) -> None:
        """Closes the connections."""
        for connection in self._all.values():
            connection.socket.close()
        self._epoll.close()

    def _send(self, due: float) -> None:
        if self._free:
            connection = self._free.pop()
        else:
            made = socket.create_connection(("127.0.0.1", self._port))
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = self._all[made.fileno()] = _Connection(made)
            self._epoll.register(made.fileno(), select.EPOLLIN)
        connection.due = due
        connection.socket.sendall(next(self._requests))

    def _receive(self, patience: float) -> list[tuple[float, int, float]]:
        """Milliseconds, status and milliseconds in the queue of what has come."""
        done = []
        for number, _ in self._epoll.poll(patience):
            connection = self._all[number]
            connection.found += (part := connection.socket.recv(65_536))
            if not part:
                raise SystemExit("the server closed a connection that it had to answer")
            head, end, body = connection.found.partition(b"\r\n\r\n")
            length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
            if not end or len(body) < int(length):
                continue
            status, queue = int(head[9:12]), 0.0
            if status == 200:
                queue = float(body.partition(b'"queue_ms":')[2].split(b",")[0])
            done.append((1e3 * (time.perf_counter() - connection.due), status, queue))
            connection.found = b""
            self._free.append(connection)
        return done

    def _request(self) -> bytes:
        rng = self._rng
        body: dict[str, object] = {"k": K, "deadline_ms": 5_000, "history": [
            f"item-{rng.randrange(ITEMS)}" for _ in range(rng.randint(1, HISTORY))]}
        if rng.random() < FILTERED:
            body["filters"] = {"exclude_history": True,
                               "deny_items": [f"item-{rng.randrange(ITEMS)}"]}
        data = json.dumps(body).encode()
        return (b"POST /v1/recommend HTTP/1.1\r\nhost: x\r\ncontent-type: "
                b"application/json\r\ncontent-length: %d\r\n\r\n" % len(data) + data)
