"""Whose instruction is due: users who did something in a window that has ended.

Time is cut into windows of equal length. A user who did anything in a window is due
once when the window ends, with the window's end as the mark of what has been seen.
Source: a window of about five minutes as in OxygenREC, arXiv 2512.22386; the treatment
of late events and of clocks is ours.
"""

import dataclasses
import math
from typing import NamedTuple

from oxyrec_jax.base import InputError


class Due(NamedTuple):
    """Users who changed in one window, which ended at `window` (seconds since 1970)."""

    window: int
    users: list[str]


@dataclasses.dataclass
class ChangeCounts:
    """What came in.

    Attributes:
      events: all.
      late: of a window that had been given out; counted to the open one.
      early: later than the clock; counted to the open window too.
      backwards: times that the clock was behind an earlier reading of itself.
      refused: with a time that is no number.
      due: users given out, once for each window.
    """

    events: int = 0
    late: int = 0
    early: int = 0
    backwards: int = 0
    refused: int = 0
    due: int = 0


class ChangedUsers:
    """Gathers events and gives out each user at most once a window.

    The clock of this object never goes back: it is the latest that it was ever told.
    What it holds is in memory. After a crash feed the events since the end of the last
    window that was worked off again; the pipeline's journal knows who is done.

    Args:
      window: seconds.

    Raises:
      InputError: the window is no whole number of at least one second.
    """

    def __init__(self, window: int = 300):
        if window < 1 or window != int(window):
            raise InputError(f"the window of changes is {window} s, expected a whole "
                             "number of at least 1")
        self.window, self.counts = int(window), ChangeCounts()
        self._now = -math.inf
        self._open: dict[int, dict[str, None]] = {}  # window's end to users, in order

    def add(self, user: str, time: float, now: float | None = None) -> None:
        """Notes that a user did something.

        Args:
          user: the id.
          time: of the event, seconds since 1970, by any clock.
          now: by this machine's clock; None: the event's time, for logs in order.
        """
        self.counts.events += 1
        if not math.isfinite(time) or time < 0:
            self.counts.refused += 1
            return
        self._advance(time if now is None else now)
        end = self._end(time)
        current = self._end(self._now)
        if end < current:
            # Its window is given out, or is about to be: a user of both windows would
            # be due twice within moments.
            self.counts.late += end not in self._open
            end = end if end in self._open else current
        elif end > current:
            self.counts.early += 1
            end = current
        self._open.setdefault(end, {})[user] = None

    def due(self, now: float) -> list[Due]:
        """Gives out, and forgets, the users of all windows that have ended."""
        self._advance(now)
        return self.ended()

    def ended(self) -> list[Due]:
        """As `due` at the time that is known."""
        ended = sorted(end for end in self._open if end <= self._now)
        return [self._give(end) for end in ended]

    def flush(self) -> list[Due]:
        """Gives out all that is left; for the end of a log."""
        return [self._give(end) for end in sorted(self._open)]

    def _give(self, end: int) -> Due:
        users = list(self._open.pop(end))
        self.counts.due += len(users)
        return Due(end, users)

    def _advance(self, now: float) -> None:
        if not math.isfinite(now):
            raise ValueError(f"{now=}, expected seconds since 1970")
        self.counts.backwards += now < self._now
        self._now = max(self._now, now)

    def _end(self, time: float) -> int:
        return (int(time // self.window) + 1) * self.window
