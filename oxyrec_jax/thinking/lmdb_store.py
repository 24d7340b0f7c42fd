"""The embedded backend: one LMDB file, many readers, one writer at a time.

A batch is written in one transaction that is on disk when the call returns; a process
killed at any moment leaves the batches before it. Several processes may open the same
folder; one process opens it once and shares it between its threads.

The file is mapped into memory. A record whose bytes a failing disk changed is seen by
its checksum; a changed page of the tree itself mostly raises, but may end the process
that follows it. `check` walks a suspect file in a process of its own.
"""

import contextlib
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from oxyrec_jax.base import InputError
from oxyrec_jax.thinking import records
from oxyrec_jax.thinking.backend import Outcome, Row

_SCANNED_AT_ONCE = 1_000  # a long read would keep writers from reusing pages
_LEAST_BYTES = 8_192  # of a file that was ever written: its two headers
_MAX_READERS = 1_024
_WALK = """
import sys, lmdb
count, last = 0, b""
with lmdb.open(sys.argv[1], map_size=0, readonly=True) as file:
    with file.begin() as transaction:
        for key, value in transaction.cursor():
            if key <= last or transaction.get(key) != value:
                sys.exit(1)
            count, last = count + 1, key
print(count)
"""


class LmdbBackend:
    """Records in `folder/data.mdb`.

    Args:
      folder: made where it is not.
      max_bytes: how large the file may grow. It is address space that is set aside,
        not memory or disk. All processes should give the same number.
      readonly: open a store that must be there and refuse to write to it.

    Raises:
      InputError: the folder cannot be used, or holds a damaged file.
    """

    def __init__(self, folder: str | os.PathLike, *, max_bytes: int = 1 << 36,
                 readonly: bool = False):
        import lmdb  # whoever keeps instructions on a server need not load it
        self.folder, self.readonly = pathlib.Path(folder), readonly
        self.max_bytes, self._lmdb = max_bytes, lmdb
        if readonly and not (self.folder / "data.mdb").is_file():
            raise InputError(f"{self.folder} holds no instruction store; run the step "
                             "that writes it first")
        with self._named():
            self.folder.mkdir(parents=True, exist_ok=True)
            _check_started(self.folder / "data.mdb")
            self._env = lmdb.open(
                os.fspath(self.folder), map_size=max_bytes, readonly=readonly,
                readahead=False, max_readers=_MAX_READERS)
            try:
                self._check_length()
                self._env.reader_check()  # frees what killed readers held
            except BaseException:
                self._env.close()
                raise

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """As `Backend.read`, as of one moment."""
        with self._named():
            try:
                with self._env.begin() as transaction:
                    return [transaction.get(key) for key in keys]
            except self._lmdb.Error:
                return self._read_around(keys)

    def write(self, rows: Sequence[Row], *, now: int, replace: bool) -> list[int]:
        """As `Backend.write`, all rows or none."""
        outcomes = [Outcome.WRITTEN] * len(rows)
        with self._writing() as transaction:
            # In the order of the keys pages are touched once; a stable sort keeps the
            # order of rows of one key.
            for at in sorted(range(len(rows)), key=lambda at: rows[at].key):
                key, value, _ = rows[at]
                there = None if replace else records.order(
                    key, transaction.get(key), now)
                if there is not None and there >= (new := records.given_order(value)):
                    outcomes[at] = (Outcome.UNCHANGED if there == new else
                                    Outcome.OLDER)
                else:
                    transaction.put(key, value)
        return [int(outcome) for outcome in outcomes]

    def remove(self, found: Sequence[tuple[bytes, bytes]]) -> int:
        """As `Backend.remove`, all in one step."""
        removed = 0
        with self._writing() as transaction:
            for key, value in found:
                there = transaction.get(key)
                if there is not None and records.head(there) == records.head(value):
                    removed += transaction.delete(key)
        return removed

    def scan(self) -> Iterator[tuple[bytes, bytes]]:
        """As `Backend.scan`, in the order of the keys."""
        last = b""
        while True:
            with self._named(), self._env.begin() as transaction:
                cursor = transaction.cursor()
                there = cursor.set_range(last) if last else cursor.first()
                if there and cursor.key() == last:
                    there = cursor.next()
                part: list[tuple[bytes, bytes]] = []
                while there and len(part) < _SCANNED_AT_ONCE:
                    part.append(cursor.item())
                    there = cursor.next()
            if not part:
                return
            yield from part
            last = part[-1][0]

    def close(self) -> None:
        """Closes the file; no other call may run or follow."""
        self._env.close()

    @contextlib.contextmanager
    def _writing(self):
        if self.readonly:
            raise InputError(f"{self.folder} was opened to read instructions; open it "
                             "to write as well")
        with self._named(), self._env.begin(write=True) as transaction:
            yield transaction

    def _read_around(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Reads a file of which a page is damaged: one transaction for each key."""
        values: list[bytes | None] = []
        for key in keys:
            try:
                with self._env.begin() as transaction:
                    values.append(transaction.get(key))
            except (self._lmdb.CorruptedError, self._lmdb.PageNotFoundError,
                    self._lmdb.BadTxnError):
                values.append(b"")
        return values

    def _check_length(self) -> None:
        # Reading beyond the end of a mapped file would kill the process.
        pages = self._env.info()["last_pgno"] + 1
        needed, path = pages * self._env.stat()["psize"], self.folder / "data.mdb"
        if path.stat().st_size < needed:
            raise InputError(f"{path} was cut short: it has {path.stat().st_size:,} "
                             f"bytes, expected {needed:,}; restore it or delete the "
                             "folder and write the instructions again")

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        lmdb = self._lmdb
        try:
            yield
        except lmdb.MapFullError:
            raise InputError(
                f"{self.folder} is full: it may have {self.max_bytes:,} bytes; nothing "
                "of this batch was written; raise max_bytes") from None
        except lmdb.MapResizedError:
            raise InputError(
                f"{self.folder} has more than the {self.max_bytes:,} bytes that this "
                "process set aside; open it with a larger max_bytes") from None
        except (lmdb.InvalidError, lmdb.CorruptedError, lmdb.PageNotFoundError,
                lmdb.VersionMismatchError, lmdb.BadTxnError, lmdb.PanicError) as error:
            raise InputError(
                f"{self.folder / 'data.mdb'} is damaged or no instruction store "
                f"({type(error).__name__}); restore it or delete the folder and write "
                "the instructions again") from None
        except (lmdb.Error, OSError) as error:
            raise InputError(f"{self.folder} cannot be used as an instruction store: "
                             f"{_reason(error)}") from None


def check(folder: str | os.PathLike) -> int:
    """Reads every record of a store in another process.

    Returns:
      How many records there are, damaged ones included: those are not served, and
      `Store.sweep` removes them.

    Raises:
      InputError: the file itself is damaged.
    """
    folder = pathlib.Path(folder)
    LmdbBackend(folder, readonly=True).close()  # says what is wrong at the first look
    walk = subprocess.run([sys.executable, "-c", _WALK, os.fspath(folder)],
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    if walk.returncode:
        raise InputError(f"{folder / 'data.mdb'} is damaged: reading all of it failed; "
                         "restore it or delete the folder and write the instructions "
                         "again")
    return int(walk.stdout)


def _check_started(path: pathlib.Path) -> None:
    """Refuses an empty file, which LMDB would begin anew, after a moment's patience."""
    for _ in range(20):  # another process may be about to write its first bytes
        if not path.exists() or path.stat().st_size >= _LEAST_BYTES:
            return
        time.sleep(0.05)
    raise InputError(f"{path} was cut short: it has {path.stat().st_size:,} bytes; "
                     "restore it or delete the folder and write the instructions again")


def _reason(error: Exception) -> str:
    words = (getattr(error, "strerror", None) or str(error)).lower()
    if "no space" in words or "quota" in words or "too large" in words:
        return ("the disk or quota is full; nothing of this batch was written; free "
                "some space")
    return words
