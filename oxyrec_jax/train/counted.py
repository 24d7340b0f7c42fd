"""Counts the steps that are done while the loop hands more of them to the device."""

import collections
import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from oxyrec_jax.progress import Advance

_log = logging.getLogger(__name__)
AHEAD = 2
"""Steps that the device may have before it: one to work on, and the next."""


class Counted:
    """Moves the bar of a run whose loop may be many steps ahead of the device.

    A step is done once its figures are there. `handed` waits only where the device has
    more than `AHEAD` steps before it: it never idles between two, and who stops the run
    does not wait for dozens of steps that were handed over.
    """

    def __init__(self, advance: Advance):
        """Nothing is handed over yet.

        Args:
          advance: of the bar.
        """
        self._advance, self._note = advance, ""
        # Of `jax.Array`s, whose type does not tell that they have `is_ready`.
        self._pending: collections.deque[Any] = collections.deque()

    def handed(self, figures: Mapping[str, Any]) -> None:
        """Takes the figures of a step that was handed over; counts what is done."""
        self._pending.append(next(iter(figures.values())))
        done = 0
        while len(self._pending) > AHEAD:
            self._pending.popleft().block_until_ready()
            done += 1
        while self._pending and self._pending[0].is_ready():
            self._pending.popleft()
            done += 1
        if done:
            self._advance(done)

    def wait(self) -> None:
        """Returns once every step is done, counting each as it ends."""
        while self._pending:
            self._pending.popleft().block_until_ready()
            self._advance(1)

    def note(self, text: str) -> None:
        """Shows a text beside the bar."""
        self._note = text
        self._advance(0, text)

    @contextlib.contextmanager
    def compiling(self, what: str) -> Iterator[None]:
        """Says that the block compiles a program; the note before comes back."""
        _log.info("compiling %s", what)
        self._advance(0, "compiling")
        yield
        self._advance(0, self._note)
