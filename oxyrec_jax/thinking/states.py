"""What slow thinking knows about a user: recent behaviour, place, time, profile."""

import dataclasses
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from oxyrec_jax.base import InputError


@dataclasses.dataclass(frozen=True)
class Deed:
    """One event of a history: what was done to which item."""

    title: str
    behaviour: str = "click"
    time: int = 0  # seconds since 1970


@dataclasses.dataclass(frozen=True)
class UserState:
    """One user as of now. All text may come from outside and is never trusted.

    Attributes:
      user: the id; not shown to a language model.
      history: oldest first.
      searches: words typed, oldest first.
      time, place, weather, holiday: in words, empty where not known.
      profile: such as {"life": "baby", "pet": "dog"}.
      facts: names of a knowledge base's facts that hold, such as "cold" and "baby".
      window: end of the window of behaviour that it has seen, seconds since 1970, where
        that is not the run's, as in a log that is replayed; 0: the run's.
    """

    user: str
    history: tuple[Deed, ...] = ()
    searches: tuple[str, ...] = ()
    time: str = ""
    place: str = ""
    weather: str = ""
    holiday: str = ""
    profile: Mapping[str, str] = dataclasses.field(default_factory=dict)
    facts: tuple[str, ...] = ()
    window: int = 0

    def kind_at(self, kind: str) -> str:
        """Names a kind of instruction where windows of their own stand apart."""
        return f"{kind}.{self.window}" if self.window else kind


def state_to_json(state: UserState) -> str:
    """Returns a state as one line of JSON."""
    return json.dumps(dataclasses.asdict(state))


def state_from_json(line: str, where: str) -> UserState:
    """Reads a state back.

    Raises:
      InputError: `line` is no state; the message begins with `where`.
    """
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        raise InputError(f"{where} is no JSON; write one user state a line") from None
    if not isinstance(told, dict) or not isinstance(told.get("user"), str):
        raise InputError(f"{where} names no user; expected an object with the field "
                         "user, a string")
    known = {field.name for field in dataclasses.fields(UserState)}
    if unknown := sorted(set(told) - known):
        raise InputError(f"{where} has the field {unknown[0]!r}, expected some of "
                         f"{', '.join(sorted(known))}")
    for name, value in told.items():
        if not _fits(name, value):
            raise InputError(f"{where} has a field {name} of another type; history is "
                             "a list of {title, behaviour, time}, searches and facts "
                             "are lists of strings, profile maps strings to strings, "
                             "window is a whole number from 0, all others are strings")
    history = tuple(Deed(**deed) for deed in told.get("history", ()))
    lists = {name: tuple(told.get(name, ())) for name in ("searches", "facts")}
    return UserState(**{**told, **lists, "history": history})


def read_states(path: str | os.PathLike) -> Iterator[UserState]:
    """Yields the states of a file with one of them a line, as `state_to_json` writes.

    Raises:
      InputError: the file cannot be read, or a line is no state.
    """
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield state_from_json(line, f"{path}, line {number},")
    except OSError as error:
        raise InputError(f"{path} could not be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is no UTF-8 text") from None


def shard_of(user: str, shards: int) -> int:
    """Returns which of n shards a user belongs to; the same in every process."""
    return zlib.crc32(user.encode(errors="replace")) % shards


def _fits(name: str, value: Any) -> bool:
    if name == "history":
        return isinstance(value, list) and all(map(_is_deed, value))
    if name in ("searches", "facts"):
        return isinstance(value, list) and all(isinstance(one, str) for one in value)
    if name == "profile":
        return isinstance(value, dict) and all(
            isinstance(one, str) for one in value.values())
    if name == "window":
        return type(value) is int and value >= 0
    return isinstance(value, str)


def _is_deed(value: Any) -> bool:
    return (isinstance(value, dict) and set(value) <= {"title", "behaviour", "time"}
            and isinstance(value.get("title"), str)
            and isinstance(value.get("behaviour", ""), str)
            and type(value.get("time", 0)) is int)
