"""Stage A on disk: one record for each request and candidate.

In a judge's bundle records are lines of JSON (`records.jsonl`), for people and other
programs; while a language model judges they lie in a SQLite file, where a record is
there whole or not at all, so that a process that was killed pays for none twice.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any

import pydantic

from oxyrec_jax.base import InputError
from oxyrec_jax.rewards.judge.aspects import ASPECTS
from oxyrec_jax.transaction import transaction

_SCHEMA = 1
_KEYS_AT_ONCE = 300  # of two values; SQLite takes at most 999 in older builds
Score = Annotated[float, pydantic.Field(ge=0, le=1, allow_inf_nan=False)]


@dataclasses.dataclass(frozen=True)
class Record:
    """What a judge said of one candidate of one request.

    Attributes:
      request: id of the request.
      item: the item's id in the log.
      judge: name of the judge, its model and prompts.
      scores: aspect to score in [0, 1]; without "context" where there is none.
      evidence: aspect to ground, in words.
    """

    request: str
    item: str
    judge: str
    scores: dict[str, Score]
    evidence: dict[str, str]


_ADAPTER = pydantic.TypeAdapter(Record)


def record_schema() -> dict[str, Any]:
    """The JSON schema of a record."""
    return _ADAPTER.json_schema()


def to_line(record: Record) -> str:
    """One record as one line of JSON."""
    return json.dumps(dataclasses.asdict(record), ensure_ascii=False, allow_nan=False)


def from_line(line: str, where: str) -> Record:
    """Reads a record back.

    Raises:
      InputError: it is none; the message begins with `where`.
    """
    try:
        read = _ADAPTER.validate_json(line)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{where} is no record of a judge ({name}: {first['msg']}); "
                         "judge again") from None
    if unknown := (read.scores.keys() | read.evidence.keys()) - set(ASPECTS):
        raise InputError(f"{where} has the aspect {min(unknown)!r}, expected "
                         f"{', '.join(ASPECTS)}; judge again")
    return read


def read_records(path: str | os.PathLike) -> Iterator[Record]:
    """Yields the records of a file of lines; `InputError` names a line that is none."""
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                yield from_line(line, f"{path}, line {number},")
    except OSError as error:
        raise InputError(f"{path} could not be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is no UTF-8 text") from None


class RecordStore:
    """Records in a SQLite file, by judge, request and item; close it.

    Args:
      path: the file, made where it is not.

    Raises:
      InputError: it is no such file, or of another schema version.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)
        with self._named():
            self._database = sqlite3.connect(path, timeout=30, isolation_level=None)
        try:
            with self._named():
                self._prepare()
        except BaseException:
            self._database.close()
            raise

    def get_many(self, judge: str, pairs: Sequence[tuple[str, str]]
                 ) -> dict[tuple[str, str], Record]:
        """Returns the records of these (request, item) that are there."""
        found = {}
        for start in range(0, len(pairs), _KEYS_AT_ONCE):
            part = pairs[start:start + _KEYS_AT_ONCE]
            with self._named():
                rows = self._database.execute(
                    "SELECT request, item, line FROM records WHERE judge = ? AND "
                    f"(request, item) IN (VALUES {','.join(['(?, ?)'] * len(part))})",
                    [judge, *(value for pair in part for value in pair)]).fetchall()
            for request, item, line in rows:
                found[request, item] = from_line(line, f"{self.path}, a record")
        return found

    def put_many(self, records: Iterable[Record]) -> None:
        """Writes records, all of them or none."""
        rows = [(one.judge, one.request, one.item, to_line(one)) for one in records]
        with self._named(), transaction(self._database):
            self._database.executemany(
                "INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?)", rows)

    def close(self) -> None:
        """Closes the file."""
        self._database.close()

    def _prepare(self) -> None:
        run = self._database.execute
        version = run("PRAGMA user_version").fetchone()[0]
        if version not in (0, _SCHEMA):
            raise InputError(f"{self.path} has schema version {version}, this release "
                             f"reads {_SCHEMA}; move it away: answers of a language "
                             "model are still in their own cache")
        run("PRAGMA journal_mode=WAL")
        run("PRAGMA synchronous=NORMAL")
        run("CREATE TABLE IF NOT EXISTS records (judge TEXT, request TEXT, item TEXT, "
            "line TEXT, PRIMARY KEY (judge, request, item)) WITHOUT ROWID")
        run(f"PRAGMA user_version={_SCHEMA}")

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise InputError(f"{self.path} cannot be used for a judge's records "
                             f"({error}); free some disk or move it away") from error
