"""The bytes of one stored instruction: fixed layout, versioned, checksummed.

docs/data_formats.md draws the layout. Numbers are big-endian so that a server's script
can compare them, the vector is little-endian; nothing is pickled. The checksum covers
the key, so a record that strayed under another key is as damaged as one with a flipped
bit.
"""

import dataclasses
import functools
import hashlib
import re
import struct
from typing import NamedTuple

from oxyrec_jax.base import InputError

MAGIC = b"OXI1"  # the last character is the layout's version
HEAD = 24  # bytes that name one record: magic, checksum, version, window
MAX_KEY_BYTES = 400  # LMDB takes 511; the server's prefix stands before it
MAX_DIMENSION = 16_384
MAX_MOMENT = 2**53  # exact in the doubles of a server's script
DTYPES = {"float16": 1, "float32": 2}  # name to code in the record
WIDTHS = {1: 2, 2: 4}  # code to bytes of one number

_HEADER = struct.Struct(">4s8sIQQQBxHHI")
_ORDER = struct.Struct(">IQ")
_COVERED = 12  # the checksum covers everything from here on
_KIND = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Damaged(Exception):
    """These bytes are no whole record of this key."""


@dataclasses.dataclass(frozen=True)
class Version:
    """What wrote an instruction, and how new that is.

    Attributes:
      number: 1 to 2^32 - 1, raised with every change of model, prompt or encoder. It
        orders writes: a record of a lower number never replaces one of a higher.
      model: the language model's name.
      prompt: the prompt's name.
      encoder: the text encoder's name, with its digest where it has one; vectors of
        two encoders have nothing to do with each other.
    """

    number: int
    model: str = ""
    prompt: str = ""
    encoder: str = ""


class Record(NamedTuple):
    """One stored instruction.

    Attributes:
      version: what wrote it.
      window: seconds since 1970, end of the window of behaviour that it has seen.
      written: milliseconds since 1970, by the writer's clock.
      expires: milliseconds since 1970, 0 for never.
      text: the instruction.
      dtype: code of the vector's numbers, as in `DTYPES`.
      vector: the embedding of `text`, little-endian.
    """

    version: Version
    window: int
    written: int
    expires: int
    text: str
    dtype: int
    vector: bytes


def make_key(user: str, kind: str) -> bytes | None:
    """Returns the key of a user's instruction of one kind, `kind:user`.

    None where no record can have that key: the id is too long or is not Unicode.
    """
    try:
        key = f"{kind}:{user}".encode()
    except UnicodeEncodeError:
        return None
    return key if len(key) <= MAX_KEY_BYTES else None


def check_kind(kind: str) -> None:
    """Refuses a kind that a key cannot begin with."""
    if not _KIND.fullmatch(kind):
        raise InputError(f"{kind!r} cannot name a kind of instruction; take 1 to 64 "
                         "ASCII letters, digits, '.', '-' or '_'")


def check_version(version: Version) -> None:
    """Refuses a version that a record cannot hold."""
    if not 1 <= version.number < 2**32:
        raise InputError(f"the instructions' version number is {version.number}, "
                         "expected 1 to 4294967295")
    for field in ("model", "prompt", "encoder"):
        name = getattr(version, field)
        if "\0" in name or len(name.encode(errors="replace")) > 1_000:
            raise InputError(f"the {field} of the instructions' version is longer than "
                             "1,000 bytes or holds a NUL; give a shorter name")


def pack(key: bytes, record: Record) -> bytes:
    """Returns the bytes of a record under its key.

    Raises:
      ValueError: a name or text is no Unicode, a number outside its field.
    """
    names = "\0".join((record.version.model, record.version.prompt,
                       record.version.encoder)).encode()
    text = record.text.encode()
    dimension = len(record.vector) // WIDTHS[record.dtype]
    try:
        header = _HEADER.pack(
            MAGIC, b"", record.version.number, record.window, record.written,
            record.expires, record.dtype, len(names), dimension, len(text))
    except struct.error as error:
        raise ValueError(f"{record.window=} {record.written=}: {error}") from None
    covered = b"".join((header[_COVERED:], names, text, record.vector))
    return MAGIC + _checksum(key, covered) + covered


def unpack(key: bytes, value: bytes) -> Record:
    """Reads a record back.

    Raises:
      Damaged: cut short, changed, of another key or of another layout.
    """
    if len(value) < _HEADER.size:
        raise Damaged
    (magic, checksum, number, window, written, expires, dtype, names, dimension,
     text) = _HEADER.unpack_from(value)
    if magic != MAGIC or checksum != _checksum(key, value[_COVERED:]):
        raise Damaged
    start = _HEADER.size + names
    end = start + text
    if dtype not in WIDTHS or end + dimension * WIDTHS[dtype] != len(value):
        raise Damaged
    try:
        version = _version(number, value[_HEADER.size:start])
        return Record(version, window, written, expires, value[start:end].decode(),
                      dtype, value[end:])
    except ValueError:
        raise Damaged from None


def order(key: bytes, value: bytes | None, now: int) -> tuple[int, int] | None:
    """Returns (version number, window), by which a newer record is known.

    None where there is no record that could be worth keeping: absent, expired before
    `now` (milliseconds) or damaged.
    """
    if value is None:
        return None
    try:
        record = unpack(key, value)
    except Damaged:
        return None
    if 0 < record.expires <= now:
        return None
    return record.version.number, record.window


def given_order(value: bytes) -> tuple[int, int]:
    """Returns (version number, window) of bytes that `pack` made."""
    return _ORDER.unpack_from(value, _COVERED)  # type: ignore[return-value]


def head(value: bytes) -> bytes:
    """Returns the first bytes, which no two records of one key share."""
    return value[:HEAD]


def _checksum(key: bytes, covered: bytes) -> bytes:
    # SHA-1 is what a Redis script can compute too; against accidents 8 bytes are ample.
    return hashlib.sha1(key + covered, usedforsecurity=False).digest()[:8]


@functools.lru_cache(maxsize=256)
def _version(number: int, names: bytes) -> Version:
    model, prompt, encoder = names.decode().split("\0")
    return Version(number, model, prompt, encoder)
