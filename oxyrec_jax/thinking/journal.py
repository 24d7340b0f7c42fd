"""What a near-line run has asked for and finished, so that a rerun knows.

One row for each user and kind in a SQLite file, the latest window only; states with a
window of their own are noted each under a kind of its own (`UserState.kind_at`). A
question is noted before it is sent, and as done after its instruction is in the store:

    nothing noted  nobody was asked
    asked          sent; the answer is in the cache of answers, or nobody knows it
    done           stored, refused by the gate, or answered and useless

A killed process loses no note that was made. The file is locked by the run that has it
open: two runs of one shard would pay twice.
"""

import contextlib
import os
import pathlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from oxyrec_jax.base import InputError
from oxyrec_jax.transaction import transaction

_SCHEMA = 1
_KEYS_AT_ONCE = 300  # of two values; SQLite takes at most 999 in older builds
_ASKED, _DONE = 0, 1


class Note(NamedTuple):
    """The latest of one user and kind; `asked` is a digest, None when done."""

    window: int
    asked: bytes | None


class Journal:
    """An open journal; close it to let the next run have it.

    Args:
      path: the SQLite file, made where it is not.

    Raises:
      InputError: another run has it, or it is none.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)
        # A note made within another thread's transaction could be undone with it.
        self._turn = threading.Lock()
        with self._named():
            self._database = sqlite3.connect(path, timeout=0.2, isolation_level=None,
                                             check_same_thread=False)
        try:
            with self._named():
                self._prepare()
        except BaseException:
            self._database.close()
            raise

    def notes(self, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Note]:
        """Returns what is noted of these (user, kind)."""
        found = {}
        with self._turn, self._named():
            for start in range(0, len(pairs), _KEYS_AT_ONCE):
                part = pairs[start:start + _KEYS_AT_ONCE]
                rows = self._database.execute(
                    "SELECT user, kind, window, asked, state FROM notes WHERE "
                    f"(user, kind) IN (VALUES {','.join(['(?, ?)'] * len(part))})",
                    [value for pair in part for value in pair])
                for user, kind, window, asked, state in rows:
                    found[user, kind] = Note(window, None if state else asked)
        return found

    def ask(self, user: str, kind: str, window: int, digest: bytes) -> None:
        """Notes that a question is about to be sent; a killed process keeps that."""
        with self._turn, self._named():
            self._database.execute("INSERT OR REPLACE INTO notes VALUES "
                                   "(?, ?, ?, ?, ?)",
                                   (user, kind, window, digest, _ASKED))

    def finish(self, done: Iterable[tuple[str, str, int]]) -> None:
        """Notes that these (user, kind, window) are done, in one step."""
        with self._step():
            self._database.executemany(
                "INSERT OR REPLACE INTO notes VALUES (?, ?, ?, NULL, ?)",
                [(*job, _DONE) for job in done])

    def forget(self, jobs: Iterable[tuple[str, str, int]]) -> None:
        """Takes back that these were asked, since nobody can have billed them."""
        with self._step():
            self._database.executemany(
                "DELETE FROM notes WHERE user = ? AND kind = ? AND window = ?",
                list(jobs))

    def in_doubt(self) -> Iterator[tuple[str, str, int]]:
        """Yields (user, kind, window) of questions without a noted end.

        After a run these are the ones that may or may not have been billed.
        """
        with self._turn, self._named():
            rows = self._database.execute(
                "SELECT user, kind, window FROM notes WHERE state = ?", (_ASKED,))
            found = rows.fetchall()
        yield from found

    def close(self) -> None:
        """Closes the file."""
        self._database.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _prepare(self) -> None:
        run = self._database.execute
        run("PRAGMA locking_mode=EXCLUSIVE")
        run("PRAGMA journal_mode=WAL")
        run("PRAGMA synchronous=NORMAL")
        run("PRAGMA wal_autocheckpoint=10000")  # 40 MB: each waits for the disk
        run("BEGIN EXCLUSIVE")
        version = run("PRAGMA user_version").fetchone()[0]
        if version not in (0, _SCHEMA):
            raise InputError(f"{self.path} has schema version {version}, this release "
                             f"reads {_SCHEMA}; finish its window with the release "
                             "that wrote it, then delete it")
        run("CREATE TABLE IF NOT EXISTS notes (user TEXT, kind TEXT, window INTEGER, "
            "asked BLOB, state INTEGER, PRIMARY KEY (user, kind)) WITHOUT ROWID")
        run(f"PRAGMA user_version={_SCHEMA}")
        run("COMMIT")

    @contextlib.contextmanager
    def _step(self) -> Iterator[None]:
        with self._turn, self._named(), transaction(self._database):
            yield

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise InputError(f"{self.path} is in use by another run of this shard; "
                                 "wait for its end") from None
            raise self._unusable(error) from error
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> InputError:
        return InputError(f"{self.path} cannot be used as a journal ({error}); free "
                          "some disk or restore it: without it users of this window "
                          "may be asked for again")
