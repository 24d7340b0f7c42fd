"""The instruction store: what slow thinking wrote, by user and kind of instruction.

A `Store` is a backend (an embedded file, a server) with what all backends share: the
record's bytes, which record may replace which, expiry, and a default wherever nothing
fit to serve is stored. Online paths read it through `reading.Reader`, which adds a
deadline.
"""

import bisect
import collections
import dataclasses
import enum
import itertools
import logging
import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np

from oxyrec_jax.base import InputError
from oxyrec_jax.thinking import records
from oxyrec_jax.thinking.backend import Backend, Row
from oxyrec_jax.thinking.records import Version

DEFAULT_KIND = "reasoning"
AGE_EDGES = {"1 min": 60, "5 min": 300, "15 min": 900, "1 h": 3_600, "6 h": 21_600,
             "1 day": 86_400, "7 days": 604_800}  # upper ends, seconds
_REMOVED_AT_ONCE = 1_000
_SECONDS_BETWEEN_LINES = 1.0  # about damage, which a busy reader meets again and again
_log = logging.getLogger(__name__)


class Source(enum.IntEnum):
    """Where one row of `Instructions` came from; all but STORED are the default."""

    STORED = 0
    MISSING = 1
    EXPIRED = 2
    MISMATCH = 3  # another version, encoder or vector length than the reader's
    DAMAGED = 4
    LATE = 5  # the deadline passed
    FAILED = 6  # the store raised
    SKIPPED = 7  # not asked for, because the store failed just before


@dataclasses.dataclass(frozen=True)
class Instructions:
    """What a store gave for N users.

    Attributes:
      texts: `[N]` object, each a str.
      vectors: `[N, D]` float32, embeddings of the texts.
      versions: `[N]` int64, version number, 0 where it is the default.
      ages: `[N]` float64 seconds since it was written, NaN where it is the default.
      sources: `[N]` int8, a `Source` each.
    """

    texts: np.ndarray
    vectors: np.ndarray
    versions: np.ndarray
    ages: np.ndarray
    sources: np.ndarray

    @property
    def stored(self) -> np.ndarray:
        """`[N]` bool, false where a row is the default."""
        return self.sources == Source.STORED


class Store:
    """Instructions of users, whatever they lie in.

    Args:
      backend: where the bytes lie.
      dimension: D, of the vectors that this program writes and reads.
      encoder: serve only vectors of this text encoder; None: of any.
      versions: serve only these version numbers; None: all.
      dtype: of the vectors that are written, "float16" or "float32".
      ttl: seconds after which a record is no longer served, None for never.
      max_text: bytes of UTF-8 that a text may have.
      default_text: served where nothing else can be.
      default_vector: `[D]`, likewise; None: zeros. Models take their own learnt
        default where `Instructions.stored` is false.
      clock: gives seconds since 1970.
    """

    def __init__(
        self, backend: Backend, *, dimension: int, encoder: str | None = None,
        versions: Collection[int] | None = None, dtype: str = "float16",
        ttl: float | None = 604_800, max_text: int = 65_536, default_text: str = "",
        default_vector: np.ndarray | None = None,
        clock: Callable[[], float] = time.time,
    ):
        if not 1 <= dimension <= records.MAX_DIMENSION:
            raise InputError(f"instructions cannot have vectors of {dimension} numbers;"
                             f" expected 1 to {records.MAX_DIMENSION}")
        if dtype not in records.DTYPES:
            raise InputError(f"the instruction store's dtype is {dtype!r}, expected "
                             f"one of {', '.join(records.DTYPES)}")
        if ttl is not None and not 0 < ttl < 1e11:
            raise InputError(f"the instruction store's ttl is {ttl} s; expected more "
                             "than 0, or None for never")
        default = np.zeros(dimension) if default_vector is None else default_vector
        if np.shape(default) != (dimension,):
            raise ValueError(f"{np.shape(default)=}, expected {(dimension,)}")
        self.backend, self.dimension, self.encoder = backend, dimension, encoder
        self.versions = None if versions is None else frozenset(versions)
        self.dtype, self.ttl, self.max_text = dtype, ttl, max_text
        self.clock, self._text = clock, default_text
        self._vector = np.asarray(default, np.float32)
        self._told = -math.inf  # when damage was last logged

    def get_many(self, users: Sequence[str], kind: str | Sequence[str] = DEFAULT_KIND
                 ) -> Instructions:
        """Reads the instructions of N users.

        Args:
          users: user ids; may repeat.
          kind: of all, or one for each user.

        Returns:
          A row for each user in the order given, the default where nothing is stored
          that this reader may serve.

        Raises:
          InputError: a kind that is none, a damaged file, a refusing server.
          Unavailable: the server does not answer.
        """
        kinds = kind_of_each(kind, len(users))
        keys = [records.make_key(*pair) for pair in zip(users, kinds)]
        asked = [key for key in keys if key is not None]
        found = iter(self.backend.read(asked) if asked else ())
        return self._decode(keys, [None if key is None else next(found)
                                   for key in keys])

    def defaults(self, count: int, source: Source) -> Instructions:
        """Returns `count` rows of the default, said to come from `source`."""
        texts = np.empty(count, object)
        texts[:] = self._text
        return Instructions(
            texts, np.tile(self._vector, (count, 1)), np.zeros(count, np.int64),
            np.full(count, np.nan), np.full(count, source, np.int8))

    def put_many(
        self, users: Sequence[str], texts: Sequence[str], vectors: np.ndarray, *,
        version: Version, window: int | Sequence[int] | np.ndarray,
        kind: str | Sequence[str] = DEFAULT_KIND, replace: bool = False,
    ) -> np.ndarray:
        """Writes the instructions of N users; safe to repeat.

        A record is replaced only by one of a higher version number, or of the same
        number and a later window. One that has expired or is damaged is as absent.

        Args:
          users: user ids; of two equal ones the later is put after the earlier.
          texts: the instructions.
          vectors: `[N, D]` their embeddings.
          version: what wrote them.
          window: seconds since 1970, end of the window of behaviour that they have
            seen: one for all or one each.
          kind: of all, or one for each user.
          replace: write whatever is there; for repairs by hand.

        Returns:
          `[N]` int8, an `Outcome` each.

        Raises:
          InputError: a record that cannot be stored, named, or no room; nothing was
            written then by the embedded backend, and by a server at most the records
            before those that it refused.
          Unavailable: the server does not answer; put the same again later.
        """
        count = len(users)
        rows = self._rows(count, users, texts, vectors, version,
                          np.broadcast_to(window, count), kind_of_each(kind, count))
        if not rows:
            return np.zeros(0, np.int8)
        return np.asarray(self.backend.write(rows, now=self._now(), replace=replace),
                          np.int8)

    def roll_back(self, number: int) -> int:
        """Removes all records above a version number and returns how many those were.

        Writers of that number can then write again. Stop those of higher numbers first.
        """
        return self._remove(lambda record: record.version.number > number)

    def sweep(self) -> int:
        """Removes damaged and expired records and returns how many those were."""
        now = self._now()
        return self._remove(lambda record: 0 < record.expires <= now, damaged=True)

    def summary(self) -> dict[str, Any]:
        """Reads the whole store: records by kind and version, and how old they are.

        "records" are those that could be served, "ages" is their staleness histogram.
        """
        kinds: collections.Counter = collections.Counter()
        versions: collections.Counter = collections.Counter()
        states: collections.Counter = collections.Counter()
        ages: collections.Counter = collections.Counter()
        now, edges = self._now(), list(AGE_EDGES.values())
        for key, value in self.backend.scan():
            try:
                record = records.unpack(key, value)
            except records.Damaged:
                states["damaged"] += 1
                continue
            if 0 < record.expires <= now:
                states["expired"] += 1
                continue
            states["records"] += 1
            kinds[key.split(b":")[0].decode()] += 1
            versions[str(record.version.number)] += 1
            ages[bisect.bisect_right(edges, (now - record.written) / 1_000)] += 1
        return {**{name: states[name] for name in ("records", "expired", "damaged")},
                "kinds": dict(sorted(kinds.items())),
                "versions": dict(sorted(versions.items())),
                "ages": _named_ages([ages[bin] for bin in range(len(edges) + 1)])}

    def close(self) -> None:
        """Closes the backend."""
        self.backend.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _now(self) -> int:
        return int(self.clock() * 1_000)

    def _decode(self, keys: Sequence[bytes | None], values: Sequence[bytes | None]
                ) -> Instructions:
        out, now = self.defaults(len(keys), Source.MISSING), self._now()
        rows, good, damaged = [], [], []  # gathered here: arrays are slow one by one
        for row, (key, value) in enumerate(zip(keys, values)):
            if key is None or value is None:
                continue
            try:
                record = records.unpack(key, value)
            except records.Damaged:
                out.sources[row] = Source.DAMAGED
                damaged.append(key)
                continue
            if 0 < record.expires <= now:
                out.sources[row] = Source.EXPIRED
            elif not self._fits(record):
                out.sources[row] = Source.MISMATCH
            else:
                rows.append(row)
                good.append(record)
        if rows:
            out.sources[rows] = Source.STORED
            # A list of str would first become an array as wide as the longest text.
            out.texts[rows] = np.fromiter((record.text for record in good), object)
            out.versions[rows] = [record.version.number for record in good]
            written = np.array([record.written for record in good])
            out.ages[rows] = np.maximum(now - written, 0) / 1_000
            out.vectors[rows] = self._decode_vectors(good)
        if damaged and time.monotonic() > self._told + _SECONDS_BETWEEN_LINES:
            self._told = time.monotonic()
            _log.warning("%d damaged instruction records are not served, such as %r",
                         len(damaged), damaged[0].decode(errors="replace"))
        return out

    def _decode_vectors(self, good: Sequence[records.Record]) -> np.ndarray:
        codes = {record.dtype for record in good}
        out = np.empty((len(good), self.dimension), np.float32)
        for code in codes:
            of_code = [record.dtype == code for record in good]
            out[of_code] = np.frombuffer(
                b"".join(itertools.compress((record.vector for record in good),
                                            of_code)),
                f"<f{records.WIDTHS[code]}").reshape(-1, self.dimension)
        return out

    def _fits(self, record: records.Record) -> bool:
        return (len(record.vector) == self.dimension * records.WIDTHS[record.dtype]
                and (self.encoder is None or record.version.encoder == self.encoder)
                and (self.versions is None or record.version.number in self.versions))

    def _rows(self, count: int, users: Sequence[str], texts: Sequence[str],
              vectors: np.ndarray, version: Version, windows: np.ndarray,
              kinds: Sequence[str]) -> list[Row]:
        records.check_version(version)
        stored = self._vectors(count, users, vectors)
        if len(texts) != count:
            raise ValueError(f"{len(texts)=}, expected {count}")
        now, life = self._now(), 0 if self.ttl is None else int(self.ttl * 1_000)
        dtype, rows = records.DTYPES[self.dtype], []
        for user, kind, text, vector, window in zip(
                users, kinds, texts, stored, windows.tolist()):
            key = records.make_key(user, kind)
            if key is None:
                raise InputError(
                    f"user id {_short(user)} cannot be a key of the instruction store: "
                    f"with its kind it has more than {records.MAX_KEY_BYTES} bytes, or "
                    "is not Unicode")
            if not 0 <= window < records.MAX_MOMENT:
                raise InputError(f"the instruction of user {_short(user)} has window "
                                 f"{window}, expected whole seconds since 1970")
            _check_text(user, text, self.max_text)
            record = records.Record(version, int(window), now, life and now + life,
                                    text, dtype, vector.tobytes())
            rows.append(Row(key, records.pack(key, record), life))
        return rows

    def _vectors(self, count: int, users: Sequence[str], vectors: np.ndarray
                 ) -> np.ndarray:
        vectors = np.asarray(vectors)
        if vectors.shape != (count, self.dimension):
            raise ValueError(f"{vectors.shape=}, expected {(count, self.dimension)}")
        with np.errstate(over="ignore"):
            stored = vectors.astype(np.dtype(self.dtype).newbyteorder("<"))
        finite = np.isfinite(stored).all(axis=1)
        if not finite.all():
            raise InputError(
                f"the vector of user {_short(users[int(np.argmin(finite))])} holds NaN,"
                f" infinity or a number beyond {self.dtype}; correct it or its encoder")
        return stored

    def _remove(self, unwanted: Callable[[records.Record], bool],
                damaged: bool = False) -> int:
        def chosen() -> Iterator[tuple[bytes, bytes]]:
            for key, value in self.backend.scan():
                try:
                    remove = unwanted(records.unpack(key, value))
                except records.Damaged:
                    remove = damaged
                if remove:
                    yield key, value
        found = chosen()
        batches = iter(lambda: list(itertools.islice(found, _REMOVED_AT_ONCE)), [])
        return sum(self.backend.remove(batch) for batch in batches)


def age_histogram(ages: np.ndarray) -> dict[str, int]:
    """Counts ages in seconds by the first of `AGE_EDGES` that they are below."""
    ages = ages[np.isfinite(ages)]
    bins = np.searchsorted(list(AGE_EDGES.values()), ages, side="right")
    return _named_ages(np.bincount(bins, minlength=len(AGE_EDGES) + 1).tolist())


def _named_ages(counts: Sequence[int]) -> dict[str, int]:
    return dict(zip([*AGE_EDGES, "older"], counts))


def kind_of_each(kind: str | Sequence[str], count: int) -> Sequence[str]:
    """Returns the kind of each of `count` rows, checked."""
    kinds = [kind] * count if isinstance(kind, str) else kind
    if len(kinds) != count:
        raise ValueError(f"{len(kinds)=}, expected {count}")
    for name in set(kinds):
        records.check_kind(name)
    return kinds


def _check_text(user: str, text: str, most: int) -> None:
    try:
        length = len(text.encode())
    except UnicodeEncodeError:
        raise InputError(f"the instruction of user {_short(user)} holds half a "
                         "surrogate pair, which is not Unicode; clean the text"
                         ) from None
    if length > most:
        raise InputError(f"the instruction of user {_short(user)} has {length:,} bytes,"
                         f" expected at most {most:,}; shorten it or raise max_text")


def _short(user: str) -> str:
    return repr(user if len(user) <= 60 else user[:60] + "…")
