"""Takes in files from outside: opens them safely, counts and keeps what is bad in them.

A damaged file ends the run in one sentence. A bad row does not: it is written to the
quarantine file with its file, line number and reason, and the run fails only where bad
rows are more than a stated share of all. Archives are read in place, never unpacked.
"""

import collections
import contextlib
import dataclasses
import gzip
import json
import os
import pathlib
import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import IO, Any

from oxyrec_jax import artifacts, progress
from oxyrec_jax.base import InputError

_LINE_LIMIT = 64 << 20  # bytes; a longer line is no row of any format read here
_LINES_BETWEEN_SIGNS = 1 << 16
_TEXT_KEPT = 200  # characters of a bad row in the quarantine file
_NEARLY = 0.9  # ours: of the bad rows, for a reason to be told what mends it
_MEMBER_LIMIT, _RATIO_LIMIT = 1 << 30, 1000  # a larger member may not inflate so much


@dataclasses.dataclass(frozen=True)
class Place:
    """A file, or a member of a zip archive."""

    path: pathlib.Path
    member: str | None = None

    def __str__(self) -> str:
        return f"{self.path}" + (f":{self.member}" if self.member else "")

    @property
    def name(self) -> str:
        """The name without its folder and without ".gz"."""
        whole = self.member or self.path.name
        return pathlib.PurePosixPath(whole).name.removesuffix(".gz")


class Intake(contextlib.AbstractContextManager):
    """What a run reads: its files, its good rows, its bad rows.

    Leaving the block puts the quarantine file in its place, also when the run failed.
    One of an earlier run stays until there are other bad rows to tell of, or until a
    whole run found none.

    Attributes:
      quarantine: where bad rows are written; no file where there are none.
      max_bad_share: the largest share of bad rows that is accepted, in [0, 1].
      good, bad: rows so far.
      reasons: how many rows are bad for each reason.
    """

    def __init__(self, quarantine: str | os.PathLike, max_bad_share: float):
        self.quarantine = pathlib.Path(quarantine)
        self.max_bad_share = max_bad_share
        self.good = self.bad = 0
        self.reasons: collections.Counter[str] = collections.Counter()
        self._first = ""
        self._by_file: collections.Counter[tuple[str, str]] = collections.Counter()
        self._advice: dict[tuple[str, str], str] = {}
        self._files: dict[str, pathlib.Path] = {}
        self._stack = contextlib.ExitStack()
        self._file: IO | None = None

    def __exit__(self, kind: object = None, error: object = None,
                 trace: object = None) -> None:
        self._stack.close()
        if kind is None and not self.bad:
            self.quarantine.unlink(missing_ok=True)
        if isinstance(error, InputError):
            with self.naming():
                raise error

    def accept(self, rows: int = 1) -> None:
        """Counts good rows."""
        self.good += rows

    def reject(self, place: Place, line: int, reason: str, row: Any = "") -> None:
        """Counts a bad row and writes it to the quarantine file.

        Args:
          place: the file.
          line: the row's number in it, from 1.
          reason: a few words; rows are counted by it.
          row: what the row held; its first characters are kept.
        """
        if self._file is None:
            self.quarantine.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._stack.enter_context(
                artifacts.open_atomic(self.quarantine, "w"))
        text = row if isinstance(row, str) else repr(row)
        entry = {"file": place.name, "line": line, "reason": reason,
                 "row": text[:_TEXT_KEPT]}
        self._file.write(json.dumps(entry) + "\n")
        self._first = self._first or f"{place} line {line}: {reason}"
        self.bad += 1
        self.reasons[reason] += 1
        self._by_file[str(place), reason] += 1

    def explain(self, place: Place, reason: str, advice: str) -> None:
        """Keeps what mends rows that are bad for a reason; the first one counts.

        Args:
          place: the file.
          reason: as given to `reject`.
          advice: what is likely wrong and which setting mends it, a clause.
        """
        self._advice.setdefault((str(place), reason), advice)

    @contextlib.contextmanager
    def naming(self) -> Iterator[None]:
        """Adds to an `InputError` of the block where bad rows lie, if there are any."""
        try:
            yield
        except InputError as error:
            if not self.bad:
                raise
            raise InputError(f"{error}; the {self.bad} bad rows before that are in "
                             f"{self.quarantine}") from error

    def check(self) -> None:
        """Raises `InputError` where bad rows are more than the stated share.

        Where nearly all of them are bad for one reason it says what mends that.
        """
        rows = self.good + self.bad
        if self.bad <= self.max_bad_share * rows:
            return
        most, count = self._by_file.most_common(1)[0]
        advice = self._advice.get(most) if count >= _NEARLY * self.bad else None
        last = f"see {self.quarantine}, then mend the file or raise the share"
        if advice is not None:
            last = f"{advice}; all of them are in {self.quarantine}" + (
                "" if self.bad > rows / 2 else ", and a higher share leaves them out")
        raise InputError(
            f"{self.bad} of {rows} rows are bad ({self.bad / rows:.2%}), more than "
            f"data.max_bad_share {self.max_bad_share:.2%}; the first is {self._first}; "
            f"{last}")

    def facts(self) -> dict[str, Any]:
        """Returns the manifest's entry: `file`, `rows`, `reasons`, `share`."""
        return {"file": self.quarantine.name if self.bad else None, "rows": self.bad,
                "reasons": dict(sorted(self.reasons.items())),
                "share": self.bad / max(self.good + self.bad, 1)}

    def sources(self) -> list[dict[str, Any]]:
        """Returns name, size and SHA-256 digest of every file that was opened."""
        return [{"name": path.name, "bytes": path.stat().st_size,
                 "sha256": artifacts.file_digest(path)}
                for path in sorted(self._files.values())]

    @contextlib.contextmanager
    def open(self, place: Place) -> Iterator[IO[bytes]]:
        """Opens a file for reading bytes; ".gz" is decompressed.

        Raises:
          InputError: it is missing, empty, or (also later, while it is being read)
            damaged or cut short.
        """
        try:
            with contextlib.ExitStack() as stack:
                if place.member is None:
                    file: IO[bytes] = stack.enter_context(open(place.path, "rb"))
                    empty = place.path.stat().st_size == 0
                else:
                    archive = stack.enter_context(zipfile.ZipFile(place.path))
                    file = stack.enter_context(archive.open(place.member))
                    empty = archive.getinfo(place.member).file_size == 0
                if empty:
                    raise InputError(f"{place} is empty; fetch or write it again")
                self._files[str(place.path)] = place.path
                if (place.member or place.path.name).endswith(".gz"):
                    file = stack.enter_context(gzip.open(file))  # type: ignore
                yield file
        except FileNotFoundError:
            raise InputError(f"{place} does not exist") from None
        except IsADirectoryError:
            raise InputError(f"{place} is a folder, expected a file") from None
        except (EOFError, gzip.BadGzipFile, zlib.error, zipfile.BadZipFile) as error:
            raise InputError(f"{place} is damaged or cut short ({error}); fetch it "
                             "again") from error

    def lines(self, place: Place, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
        """Yields (number from 1, text without its end) of each line that is not empty.

        A line that is not text in `encoding` goes to quarantine. Shows progress.
        """
        with progress.bar(f"reading {place.name}", None) as advance:
            done = number = 0
            for number, text in self._lines(place, encoding):
                yield number, text
                if number - done >= _LINES_BETWEEN_SIGNS:
                    advance(number - done)
                    done = number
            advance(number - done)

    def objects(self, place: Place) -> Iterator[tuple[int, dict[str, Any], str]]:
        """Yields (number from 1, object, text) of each line of a file of JSON lines.

        A line that holds anything else goes to quarantine. Shows progress.
        """
        for number, text in self.lines(place):
            try:
                row = json.loads(text)
            except (json.JSONDecodeError, RecursionError):
                row = None
            if isinstance(row, dict):
                yield number, row, text
            else:
                self.reject(place, number, "not a JSON object", text)

    def header(self, place: Place) -> str:
        """Returns the first line that is not empty, "" where there is none."""
        return next(self._lines(place, "utf-8"), (0, ""))[1]

    def _lines(self, place: Place, encoding: str) -> Iterator[tuple[int, str]]:
        with self.open(place) as file:
            number = 0
            while line := file.readline(_LINE_LIMIT):
                number += 1
                if len(line) == _LINE_LIMIT:
                    raise InputError(f"{place} line {number} is longer than "
                                     f"{_LINE_LIMIT >> 20} MiB; it is no file of rows")
                try:
                    text = line.decode(encoding).rstrip("\r\n")
                except UnicodeDecodeError:
                    self.reject(place, number, f"not {encoding} text", repr(line[:99]))
                    continue
                if number == 1:
                    text = text.removeprefix("\ufeff")
                if text:
                    yield number, text


def find(where: str | os.PathLike, names: Sequence[str]) -> Place | None:
    """Finds the first of some file names in a folder or zip archive.

    Args:
      where: a folder, or a ".zip" file.
      names: in order of preference; each is also looked for with ".gz". In an archive
        they are names without folders.

    Returns:
      The place, None where none of them is there.

    Raises:
      InputError: `where` does not exist, or the archive is damaged, names a path
        outside itself, or holds the name twice.
    """
    where = pathlib.Path(where)
    wanted = [full for name in names for full in (name, f"{name}.gz")]
    if where.suffix == ".zip":
        members = _members(where)
        for name in wanted:
            found = [m for m in members if pathlib.PurePosixPath(m).name == name]
            if len(found) > 1:
                raise InputError(f"{where} holds {name} more than once: "
                                 f"{', '.join(found)}; keep one")
            if found:
                return Place(where, found[0])
        return None
    if not where.is_dir():
        raise InputError(f"{where} is not a folder" if where.exists() else
                         f"{where} does not exist")
    for name in wanted:
        if (where / name).is_file():
            return Place(where / name)
    return None


def need(where: str | os.PathLike, names: Sequence[str]) -> Place:
    """As `find`, but a file that is not there raises `InputError`."""
    place = find(where, names)
    if place is None:
        raise InputError(f"{where} holds none of {', '.join(names)} (or the same with "
                         ".gz); give the folder that has it")
    return place


def _members(path: pathlib.Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except zipfile.BadZipFile as error:
        raise InputError(f"{path} is damaged or cut short ({error}); fetch it again"
                         ) from error
    for entry in entries:
        parts = pathlib.PurePosixPath(entry.filename.replace("\\", "/")).parts
        if ".." in parts or parts[:1] == ("/",) or ":" in (parts or ("",))[0]:
            raise InputError(f"{path} names {entry.filename!r}, outside itself; it is "
                             "not used")
        if stat.S_ISLNK(entry.external_attr >> 16) or entry.flag_bits & 1:
            raise InputError(f"{path} holds {entry.filename!r}, a link or an encrypted "
                             "file; it is not used")
        if (entry.file_size > _MEMBER_LIMIT
                and entry.file_size > _RATIO_LIMIT * max(entry.compress_size, 1)):
            raise InputError(f"{path} holds {entry.filename!r}, which inflates more "
                             f"than {_RATIO_LIMIT} times; it is not used")
    return [entry.filename for entry in entries if not entry.is_dir()]
