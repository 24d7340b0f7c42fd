"""Encoded histories that are kept on the device for requests that come again.

What the encoder makes of a history (keys and values for the decoder's cross-attention,
and the state at the newest event) is the same for every request with that history under
that version. A row is kept as one array on the device and is an argument of the search,
which lays the rows of a batch together itself: nothing is copied to the host, and no
size compiles anything.
"""

import collections
import threading
from collections.abc import Sequence

import jax
import numpy as np

from oxyrec_jax.models.generator import Generator

Name = tuple[str, int, bytes]


class HistoryCache:
    """Rows by name, the longest unused dropped first; safe between threads.

    Attributes:
      limit: bytes of all rows and names together, at most.
      bytes: of those that are kept.
    """

    def __init__(self, limit: int):
        self.limit, self.bytes = limit, 0
        self._rows: collections.OrderedDict[Name, jax.Array] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, names: Sequence[Name]) -> list[jax.Array | None]:
        """The rows of names, None where there is none."""
        with self._lock:
            found = [self._rows.get(name) for name in names]
            for name, row in zip(names, found):
                if row is not None:
                    self._rows.move_to_end(name)
            return found

    def keep(self, names: Sequence[Name], rows: Sequence[jax.Array]) -> None:
        """Keeps rows; what has not been asked for longest makes room."""
        with self._lock:
            for name, row in zip(names, rows):
                if name not in self._rows:
                    self._rows[name] = row
                    self.bytes += _size(name, row)
            while self.bytes > self.limit:
                name, row = self._rows.popitem(last=False)
                self.bytes -= _size(name, row)

    def clear(self) -> None:
        """Forgets all rows."""
        with self._lock:
            self._rows.clear()
            self.bytes = 0


def name_rows(model: Generator, batch: dict[str, np.ndarray], count: int, version: str,
              length: int) -> list[Name]:
    """Names the first rows of a batch by all that their encoding depends on.

    With retrieval the encoder reads events that are chosen by the whole request.
    """
    reads = (model.reads if model.cfg.retrieval.events else
             ("items", "segments", "target_positions", *model.cfg.beside))
    return [(version, length, b"".join(batch[name][row].tobytes() for name in reads))
            for row in range(count)]


def _size(name: Name, row: jax.Array) -> int:
    return row.nbytes + len(name[2])
