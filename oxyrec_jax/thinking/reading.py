"""Reading instructions on an online path: an answer within a deadline, always.

The store is asked on a thread of the reader's own. Whoever asked waits for that thread
no longer than the deadline and then goes on with the default; the late answer is thrown
away. After some failures in a row the store is left alone for a while, so that a dead
server costs nothing instead of a deadline for each request.
"""

import dataclasses
import logging
import queue
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from oxyrec_jax.base import InputError
from oxyrec_jax.thinking import store as stores
from oxyrec_jax.thinking.store import Instructions, Source, Store

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ReadConfig:
    """How patient an online path is. Defaults are ours.

    Attributes:
      deadline: seconds that `Reader.get_many` may take. The interpreter needs up to
        its switch interval (5 ms) more when other threads compute.
      threads: reads in flight; each that is stuck holds one.
      failures: reads in a row that failed or were late, after which the store is left
        alone.
      pause: seconds for which it is; then one read tries it again.
    """

    deadline: float = 0.02
    threads: int = 4
    failures: int = 5
    pause: float = 1.0


class Reader:
    """Reads a store within a deadline, counts what it got; safe between threads.

    Args:
      store: what is read; closing it stays with the caller, after the reader.
      cfg: how patient it is.
    """

    def __init__(self, store: Store, cfg: ReadConfig = ReadConfig()):
        if cfg.deadline <= 0 or cfg.threads < 1 or cfg.failures < 1 or cfg.pause < 0:
            raise InputError(
                f"the instruction reader has deadline {cfg.deadline}, threads "
                f"{cfg.threads}, failures {cfg.failures} and pause {cfg.pause}; "
                "expected > 0, >= 1, >= 1 and >= 0")
        self.store, self.cfg = store, cfg
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(Source, 0)
        self._ages = dict.fromkeys([*stores.AGE_EDGES, "older"], 0)
        self._requests, self._failed, self._asleep_until = 0, 0, 0.0
        self._trying = False
        self._queue: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work, daemon=True,
                                          name=f"instructions-{number}")
                         for number in range(cfg.threads)]
        for thread in self._threads:
            thread.start()

    def get_many(self, users: Sequence[str],
                 kind: str | Sequence[str] = stores.DEFAULT_KIND) -> Instructions:
        """As `Store.get_many`, within the deadline and without an error of the store.

        Returns:
          A row for each user; `sources` says which are the default and why.

        Raises:
          InputError: a kind that is none; that is the caller's mistake.
        """
        start = time.monotonic()
        kind = stores.kind_of_each(kind, len(users))
        if not self._may_ask(start):
            return self._counted(self.store.defaults(len(users), Source.SKIPPED))
        request = _Request(users, kind)
        self._queue.put(request)
        request.done.acquire(timeout=max(
            0.0, start + self.cfg.deadline - time.monotonic()))
        request.abandoned = True
        answer, error = request.answer, request.error
        self._settle(answer is not None, error)
        if answer is None:
            source = Source.LATE if error is None else Source.FAILED
            answer = self.store.defaults(len(users), source)
        return self._counted(answer)

    def figures(self) -> dict[str, Any]:
        """Returns what was asked and given so far, as JSON values.

        "requests" counts calls, "keys" rows; one row has exactly one source, by the
        names of `Source`; "ages" is the staleness histogram of the rows stored.
        """
        with self._lock:
            return {"requests": self._requests, "keys": sum(self._counts.values()),
                    **{source.name.lower(): count
                       for source, count in self._counts.items()},
                    "ages": dict(self._ages)}

    def close(self) -> None:
        """Ends the threads that are idle; one that is stuck ends after its read."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join(timeout=self.cfg.deadline)

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _work(self) -> None:
        while (request := self._queue.get()) is not None:
            if request.abandoned:
                continue
            try:
                request.answer = self.store.get_many(request.users, request.kind)
            except Exception as error:  # whatever it was, the online path goes on
                request.error = error
            request.done.release()

    def _may_ask(self, now: float) -> bool:
        with self._lock:
            if self._failed < self.cfg.failures:
                return True
            if self._trying or now < self._asleep_until:
                return False
            self._trying = True
            return True

    def _settle(self, good: bool, error: Exception | None) -> None:
        with self._lock:
            self._trying = False
            before, self._failed = self._failed, 0 if good else self._failed + 1
            if self._failed >= self.cfg.failures:
                self._asleep_until = time.monotonic() + self.cfg.pause
        if good and before >= self.cfg.failures:
            _log.warning("the instruction store answers again")
        if not good and before + 1 == self.cfg.failures:
            # An InputError's sentence is ours; others may quote what they were given.
            why = (f"no answer within {self.cfg.deadline} s" if error is None else
                   str(error) if isinstance(error, InputError) else
                   type(error).__name__)
            _log.warning("the instruction store failed %d times in a row (%s); the "
                         "default is served, a read tries it every %g s",
                         self.cfg.failures, why, self.cfg.pause)

    def _counted(self, answer: Instructions) -> Instructions:
        counts = np.bincount(answer.sources, minlength=len(Source)).tolist()
        ages = stores.age_histogram(answer.ages)
        with self._lock:
            self._requests += 1
            for source, count in zip(Source, counts):
                self._counts[source] += count
            for name, count in ages.items():
                self._ages[name] += count
        return answer


class _Request:
    """One call on its way to a thread and back."""

    def __init__(self, users: Sequence[str], kind: str | Sequence[str]):
        self.users, self.kind = users, kind
        self.done = threading.Semaphore(0)
        self.abandoned = False
        self.answer: Instructions | None = None
        self.error: Exception | None = None
