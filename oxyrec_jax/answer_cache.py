"""What servers answered, on disk: digest to bytes in SQLite, shared by processes.

A put is written whole or not at all, and what a checksum does not vouch for is not
given back: it is asked for again.
"""

import contextlib
import os
import pathlib
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence

from oxyrec_jax.base import InputError
from oxyrec_jax.transaction import transaction

_SCHEMA = 1
_KEYS_AT_ONCE = 500  # SQLite takes at most 999 parameters in older builds


class AnswerCache:
    """An open cache; see `open_cache`."""

    def __init__(self, path: pathlib.Path, table: str, column: str):
        self.path, self._table, self._column = path, table, column
        self._database = sqlite3.connect(path, timeout=30, isolation_level=None,
                                         check_same_thread=False)

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The answers that are there and whole."""
        found = {}
        with _named(self.path):
            for start in range(0, len(keys), _KEYS_AT_ONCE):
                part = keys[start : start + _KEYS_AT_ONCE]
                rows = self._database.execute(
                    f"SELECT key, {self._column}, checksum FROM {self._table} WHERE "
                    f"key IN ({','.join('?' * len(part))})", part)
                found.update({key: answer for key, answer, checksum in rows
                              if zlib.crc32(key + answer) == checksum})
        return found

    def put(self, answers: Mapping[bytes, bytes]) -> None:
        """Keeps answers, all or none of them; they replace older ones."""
        rows = [(key, answer, zlib.crc32(key + answer))
                for key, answer in answers.items()]
        with _named(self.path), transaction(self._database):
            self._database.executemany(
                f"INSERT OR REPLACE INTO {self._table} VALUES (?, ?, ?)", rows)

    def _prepare(self) -> None:
        version = self._database.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, _SCHEMA):
            raise InputError(f"{self.path} has schema version {version}, this release "
                             f"reads {_SCHEMA}; delete it, it is only a cache")
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=NORMAL")
        self._database.execute("PRAGMA wal_autocheckpoint=10000")  # each waits for disk
        self._database.execute(
            f"CREATE TABLE IF NOT EXISTS {self._table} (key BLOB PRIMARY KEY, "
            f"{self._column} BLOB, checksum INTEGER) WITHOUT ROWID")
        self._database.execute(f"PRAGMA user_version={_SCHEMA}")


@contextlib.contextmanager
def open_cache(path: str | os.PathLike, table: str, column: str
               ) -> Iterator[AnswerCache]:
    """Opens a cache, made if it is not there.

    Args:
      path: the SQLite file.
      table, column: names of the answers in it.

    Raises:
      InputError: the file is no such cache, or cannot be written; while it is open too.
    """
    with _named(pathlib.Path(path)):
        cache = AnswerCache(pathlib.Path(path), table, column)
    with contextlib.closing(cache._database):
        with _named(cache.path):
            cache._prepare()
        yield cache


@contextlib.contextmanager
def _named(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise InputError(f"{path} cannot be used as a cache ({error}); free some disk, "
                         "or delete the file: what it held is asked for again"
                         ) from error
