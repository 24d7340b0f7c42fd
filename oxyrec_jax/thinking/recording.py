"""What a store held at any moment of a log: each instruction under its window too.

A store keeps the latest instruction of a user, so that a request of yesterday cannot be
judged with it: what stands there has seen what the user did since. A run over a log
writes each instruction a second time, under its kind and window, and whoever replays
the log takes the latest whose window had ended.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from oxyrec_jax.thinking.records import Version
from oxyrec_jax.thinking.store import Store, kind_of_each


class Sink(Protocol):
    """What instructions are written to, as `Store.put_many`."""

    def put_many(self, users: Sequence[str], texts: Sequence[str], vectors: np.ndarray,
                 *, version: Version, window: int | Sequence[int] | np.ndarray,
                 kind: str | Sequence[str]) -> np.ndarray:
        """Writes and returns an `Outcome` each."""


@dataclasses.dataclass(frozen=True)
class Recorded:
    """Writes to a store and keeps every window in another one.

    Attributes:
      live: what online paths read; its outcomes are told.
      history: gets each instruction under "kind.window"; written first, so that what
        is live is always in it.
    """

    live: Sink
    history: Sink

    def put_many(self, users: Sequence[str], texts: Sequence[str], vectors: np.ndarray,
                 *, version: Version, window: int | Sequence[int] | np.ndarray,
                 kind: str | Sequence[str]) -> np.ndarray:
        """As `Store.put_many`."""
        windows = np.broadcast_to(window, len(users)).tolist()
        kinds = kind_of_each(kind, len(users))
        at = [f"{name}.{end}" for name, end in zip(kinds, windows)]
        self.history.put_many(users, texts, vectors, version=version, window=windows,
                              kind=at)
        return self.live.put_many(users, texts, vectors, version=version,
                                  window=windows, kind=kinds)


@dataclasses.dataclass(frozen=True)
class History:
    """What was written, R rows in any order.

    Attributes:
      users: `[R]` user ids.
      windows: `[R]` int64 ends of their windows, seconds since 1970.
      texts: `[R]` the instructions.
      vectors: `[R, D]` float32.
      stored: `[R]` bool; false where the vector is of another encoder, or damaged.
    """

    users: list[str]
    windows: np.ndarray
    texts: list[str]
    vectors: np.ndarray
    stored: np.ndarray


def read_history(store: Store, kind: str) -> History:
    """Reads all windows of one kind.

    Args:
      store: the one that `Recorded` kept them in.
      kind: as it was written, without the window.
    """
    begins = f"{kind}.".encode()
    keys = [key.decode() for key, _ in store.backend.scan() if key.startswith(begins)]
    kinds, users = zip(*(key.split(":", 1) for key in keys)) if keys else ((), ())
    found = store.get_many(users, kinds)
    return History(list(users), np.array([int(name[len(begins):]) for name in kinds],
                                         np.int64),
                   found.texts.tolist(), found.vectors, found.stored)
