"""What an instruction store lies in: bytes by key, where a newer record stays."""

import enum
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from oxyrec_jax.base import InputError


class Unavailable(InputError):
    """The store does not answer now; the same call may work later."""


class Outcome(enum.IntEnum):
    """What a put did with one record."""

    WRITTEN = 0
    UNCHANGED = 1  # a record of this version and window is there
    OLDER = 2  # a newer record is there


class Row(NamedTuple):
    """One record on its way to a backend."""

    key: bytes
    value: bytes
    life: int  # milliseconds until it expires, 0 for never


class Backend(Protocol):
    """Bytes by key. All methods may be called from several threads at once."""

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Returns the values, None where there is none, b"" where unreadable."""

    def write(self, rows: Sequence[Row], *, now: int, replace: bool) -> list[int]:
        """Writes each row, in order, unless a record that is as new is there.

        Compares and writes in one step that no other writer can come between.

        Args:
          rows: the records.
          now: milliseconds since 1970; what expired before is as absent.
          replace: write whatever is there.

        Returns:
          An `Outcome` for each row.
        """

    def remove(self, found: Sequence[tuple[bytes, bytes]]) -> int:
        """Removes each (key, value) whose record has not changed since it was read."""

    def scan(self) -> Iterator[tuple[bytes, bytes]]:
        """Yields keys and values; those written meanwhile may or may not appear."""

    def close(self) -> None:
        """Lets go of files and connections."""
