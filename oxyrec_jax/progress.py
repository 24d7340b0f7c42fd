"""Progress of long work: a bar on a terminal, plain log lines elsewhere.

Both go to standard error, so that standard output stays free for results.
"""

import contextlib
import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

Item = TypeVar("Item")
_log = logging.getLogger(__name__)
_SECONDS_BETWEEN_LINES = 10.0


def track(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """Yields `items`, showing how far the work is.

    Args:
      items: what is worked through.
      what: the work in a few words, such as "reading events".
      total: how many items there are, where `len(items)` does not tell.
    """
    if total is None:
        total = len(items) if hasattr(items, "__len__") else None  # type: ignore
    with bar(what, total) as advance:
        for item in items:
            yield item
            advance(1)


@contextlib.contextmanager
def bar(what: str, total: int | None) -> Iterator["Advance"]:
    """Shows progress for the block; call the yielded `advance(count, note)` inside.

    Args:
      what: the work in a few words.
      total: how many units the work has, None where it is not known.
    """
    if sys.stderr.isatty():
        from rich import console, progress  # 50 ms of import that a log does not need
        columns = (progress.TextColumn("{task.description}"), progress.BarColumn(),
                   progress.MofNCompleteColumn(), progress.TimeElapsedColumn(),
                   progress.TimeRemainingColumn(),
                   progress.TextColumn("{task.fields[note]}"))
        with progress.Progress(*columns, console=console.Console(stderr=True)) as shown:
            task = shown.add_task(what, total=total, note="")

            def advance(count: int = 1, note: str | None = None) -> None:
                shown.update(task, advance=count)
                if note is not None:
                    shown.update(task, note=note)
            yield advance
    else:
        lines = _Lines(what, total)
        yield lines.advance
        lines.finish()


class Advance(Protocol):
    """The type of what `bar` yields: `advance(count=1, note=None)`."""

    def __call__(self, count: int = 1, note: str | None = None) -> None: ...


class _Lines:
    def __init__(self, what: str, total: int | None):
        self.what, self.total, self.done, self.note = what, total, 0, ""
        self.start = self.last = time.monotonic()
        self.told = -1
        self.first: tuple[float, int] | None = None  # when a line was told first

    def advance(self, count: int = 1, note: str | None = None) -> None:
        self.done += count
        self.note = note if note is not None else self.note
        if time.monotonic() - self.last >= _SECONDS_BETWEEN_LINES:
            self.last = time.monotonic()
            self._line()

    def finish(self) -> None:
        if self.told != self.done:
            self._line()

    def _line(self) -> None:
        self.told = self.done
        total = "" if self.total is None else f"/{self.total}"
        _log.info("%s: %d%s in %.1f s%s %s", self.what, self.done, total,
                  time.monotonic() - self.start, self._left(), self.note)

    def _left(self) -> str:
        """How long the rest takes at the pace since the first line."""
        now = time.monotonic()
        if self.first is None:
            self.first = now, self.done
        began, done = self.first
        if self.total is None or not done < self.done < self.total:
            return ""
        left = (now - began) / (self.done - done) * (self.total - self.done)
        return f", about {left:.0f} s left" if left < 100 else (
            f", about {left / 60:.0f} min left")
