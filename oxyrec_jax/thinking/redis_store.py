"""The server backend: Redis, or a server that speaks its protocol and runs Lua.

A record is compared and written inside one script on the server, so that writers on
many machines cannot overtake each other. One server holds the store: keys of one script
lie anywhere, which a Redis Cluster refuses. The password comes from an environment
variable or a file; neither it nor the address stands in an error.
"""

import contextlib
import os
import pathlib
import re
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Any

from oxyrec_jax.base import InputError
from oxyrec_jax.thinking import records
from oxyrec_jax.thinking.backend import Row, Unavailable

_READ_AT_ONCE = 1_024
_WRITTEN_AT_ONCE = 64  # a script blocks the server: here under a millisecond
_SCANNED_AT_ONCE = 512
_PREFIX = re.compile(r"[A-Za-z0-9_.-]{1,64}")

# KEYS: the records. ARGV: now, bytes of the prefix, whether to replace, and for each
# record its value and its life in ms. Returns an `Outcome` for each. It judges what is
# there as `records.order` does: the checksum is SHA-1 over key and covered bytes.
_PUT = """
local now, skip, replace = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3] == '1'
local function number(bytes, at)
  local high, low = struct.unpack('>I4I4', bytes, at)
  return high * 4294967296 + low
end
local function whole(key, value)
  if #value < 50 or string.sub(value, 1, 4) ~= 'OXI1' then return false end
  local sum = redis.sha1hex(string.sub(key, skip + 1) .. string.sub(value, 13))
  local high, low = struct.unpack('>I4I4', value, 5)
  return tonumber(string.sub(sum, 1, 8), 16) == high
     and tonumber(string.sub(sum, 9, 16), 16) == low
end
local outcomes = {}
for i, key in ipairs(KEYS) do
  local value, life = ARGV[2 * i + 2], tonumber(ARGV[2 * i + 3])
  local there, outcome = redis.call('GET', key), 0
  if there and not replace and whole(key, there) then
    local expires = number(there, 33)
    if expires == 0 or expires > now then
      local version, window = struct.unpack('>I4', there, 13), number(there, 17)
      local given, given_window = struct.unpack('>I4', value, 13), number(value, 17)
      if version == given and window == given_window then outcome = 1
      elseif version > given or (version == given and window > given_window) then
        outcome = 2
      end
    end
  end
  if outcome == 0 then
    if life > 0 then redis.call('SET', key, value, 'PX', life)
    else redis.call('SET', key, value) end
  end
  outcomes[i] = outcome
end
return outcomes
"""

# KEYS: the records. ARGV: the head of each as it was read.
_REMOVE = """
local removed = 0
for i, key in ipairs(KEYS) do
  if redis.call('GETRANGE', key, 0, #ARGV[i] - 1) == ARGV[i] then
    removed = removed + redis.call('DEL', key)
  end
end
return removed
"""


class RedisBackend:
    """Records under `<prefix>:<key>` on one server. Connects when first used.

    Args:
      url: "redis://host:6379/0", "rediss://…" for TLS or "unix:///path"; no user or
        password in it.
      prefix: begins every key, so that several stores may share a server.
      user: of the server's access list; None: its default user.
      password_variable: environment variable that holds the password.
      password_file: file that holds it, in place of the variable.
      timeout: seconds to connect and for each answer; a writer's patience. A reader's
        deadline is its own.

    Raises:
      InputError: a setting is not usable or the package `redis` is not installed.
    """

    def __init__(self, url: str, *, prefix: str = "oxyrec", user: str | None = None,
                 password_variable: str | None = None,
                 password_file: str | None = None, timeout: float = 1.0):
        _check_url(url)
        if not _PREFIX.fullmatch(prefix):
            raise InputError(f"the instruction store's prefix is {prefix!r}; take 1 to "
                             "64 ASCII letters, digits, '.', '-' or '_'")
        if timeout <= 0:
            raise InputError(f"the instruction store's timeout is {timeout} s, "
                             "expected more than 0")
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError:
            raise InputError("an instruction store on a server needs the package "
                             "redis; pip install 'oxyrec_jax[redis]'") from None
        self._prefix, self._timeout = prefix.encode() + b":", timeout
        self._errors = redis.exceptions
        password = _read_password(password_variable, password_file)
        try:
            self._client: Any = redis.Redis.from_url(
                url, username=user, password=password, socket_timeout=timeout,
                socket_connect_timeout=timeout, retry=Retry(NoBackoff(), 0))
        except ValueError:
            raise InputError("the instruction store's url has a part that Redis does "
                             "not know; give it as redis://host:6379/0") from None
        self._put = self._client.register_script(_PUT)
        self._remove = self._client.register_script(_REMOVE)

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """As `Backend.read`."""
        values: list[bytes | None] = []
        with self._named():
            for part in _parts(keys, _READ_AT_ONCE):
                values += self._client.mget([self._prefix + key for key in part])
        return values

    def write(self, rows: Sequence[Row], *, now: int, replace: bool) -> list[int]:
        """As `Backend.write`; rows go in parts, each of which is written whole."""
        outcomes: list[int] = []
        with self._named():
            for part in _parts(rows, _WRITTEN_AT_ONCE):
                given: list[Any] = [now, len(self._prefix), int(replace)]
                for row in part:
                    given += [row.value, row.life]
                outcomes += self._put(keys=[self._prefix + row.key for row in part],
                                      args=given)
        return outcomes

    def remove(self, found: Sequence[tuple[bytes, bytes]]) -> int:
        """As `Backend.remove`."""
        removed = 0
        with self._named():
            for part in _parts(found, _WRITTEN_AT_ONCE):
                removed += self._remove(
                    keys=[self._prefix + key for key, _ in part],
                    args=[records.head(value) for _, value in part])
        return removed

    def scan(self) -> Iterator[tuple[bytes, bytes]]:
        """As `Backend.scan`; while the server grows its table a key may come twice."""
        cursor = 0
        while True:
            with self._named():
                cursor, keys = self._client.scan(
                    cursor, match=self._prefix + b"*", count=_SCANNED_AT_ONCE)
                values = self._client.mget(keys) if keys else []
            for key, value in zip(keys, values):
                if value is not None:
                    yield key[len(self._prefix):], value
            if cursor == 0:
                return

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except self._errors.RedisError as error:
            # "from None": what the client raises names the server's address.
            raise self._explained(error) from None

    def _explained(self, error: Exception) -> InputError:
        errors, who = self._errors, "the instruction store's Redis server"
        if isinstance(error, errors.TimeoutError):
            return Unavailable(f"{who} gave no answer within {self._timeout} s; check "
                               "that it runs, or raise the timeout")
        if isinstance(error, (errors.AuthenticationError, errors.AuthorizationError,
                              errors.NoPermissionError)):
            return InputError(f"{who} rejected the user or password; check user, "
                              "password_variable and password_file")
        if isinstance(error, errors.BusyLoadingError):
            return Unavailable(f"{who} is still loading its data; try again soon")
        if isinstance(error, errors.ConnectionError):
            return Unavailable(f"{who} cannot be reached; check that it runs and that "
                               "the url is right")
        words = str(error)
        if isinstance(error, errors.OutOfMemoryError) or "OOM" in words:
            return InputError(f"{who} has no memory left (its maxmemory); raise it or "
                              "let instructions expire sooner")
        if "READONLY" in words or isinstance(error, errors.ReadOnlyError):
            return InputError(f"{who} is a read-only replica; give the url of the one "
                              "that takes writes")
        if "MISCONF" in words:
            return InputError(f"{who} refuses writes because it cannot save to its "
                              "disk; free some space there")
        return InputError(f"{who} refused the command ({type(error).__name__}); check "
                          "its log, its version and that it may run Lua scripts")


def _parts(values: Sequence, size: int) -> Iterator[Sequence]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


def _check_url(url: str) -> None:
    try:
        parts = urllib.parse.urlsplit(url)
        named = bool(parts.path if parts.scheme == "unix" else
                     parts.hostname and re.fullmatch("/?[0-9]*", parts.path))
        secret = parts.username or parts.password or parts.query
        _ = parts.port
    except ValueError:
        named, secret, parts = False, None, urllib.parse.urlsplit("")
    if parts.scheme not in ("redis", "rediss", "unix") or not named:
        raise InputError("the instruction store's url must start with redis://, "
                         "rediss:// or unix:// and name a host and the database's "
                         "number, or a path, such as redis://localhost:6379/0")
    if secret:
        raise InputError("the instruction store's url must hold no user, password or "
                         "query; give user, and name the password's variable or file "
                         "(password_variable, password_file)")


def _read_password(variable: str | None, file: str | None) -> str | None:
    if file is not None:
        where = f"the password file {file}"
        try:
            password = pathlib.Path(file).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise InputError(f"{where} cannot be read as text") from None
    elif variable is not None:
        where = f"the environment variable {variable}"
        password = os.environ.get(variable, "").strip()
    else:
        return None
    if not password:
        raise InputError(f"{where} holds no password; set it")
    return password
