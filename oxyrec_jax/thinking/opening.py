"""Which instruction store a run uses, and its opening."""

import dataclasses
import os
import pathlib
import time
from collections.abc import Callable, Collection

from oxyrec_jax.base import InputError
from oxyrec_jax.thinking.backend import Backend
from oxyrec_jax.thinking.lmdb_store import LmdbBackend
from oxyrec_jax.thinking.redis_store import RedisBackend
from oxyrec_jax.thinking.store import Store


@dataclasses.dataclass(frozen=True)
class StoreConfig:
    """Where instructions lie. Defaults are ours.

    Attributes:
      backend: "lmdb", a folder of this machine, or "redis", a server.
      dtype: of stored vectors, "float16" or "float32".
      ttl: seconds after which an instruction is no longer served; None: never.
      max_text: bytes of UTF-8 that a text may have.
      max_bytes: (lmdb) how large the file may grow.
      url: (redis) the server, without user or password.
      prefix: (redis) begins every key.
      user: (redis) of the server's access list.
      password_variable: (redis) environment variable that holds the password.
      password_file: (redis) file that holds it, in place of the variable.
      timeout: (redis) seconds to connect and for each answer.
    """

    backend: str = "lmdb"
    dtype: str = "float16"
    ttl: float | None = 604_800.0
    max_text: int = 65_536
    max_bytes: int = 1 << 36
    url: str = "redis://localhost:6379/0"
    prefix: str = "oxyrec"
    user: str | None = None
    password_variable: str | None = None
    password_file: str | None = None
    timeout: float = 1.0


def open_store(
    cfg: StoreConfig, folder: str | os.PathLike, *, dimension: int,
    encoder: str | None = None, versions: Collection[int] | None = None,
    readonly: bool = False, clock: Callable[[], float] = time.time,
) -> Store:
    """Opens the store of a run.

    Args:
      cfg: which one.
      folder: where the embedded backend keeps its file; others leave it alone.
      dimension: D, of the vectors.
      encoder: serve only vectors of this text encoder; None: of any.
      versions: serve only these version numbers; None: all.
      readonly: the embedded backend must be there and is not written to.
      clock: gives seconds since 1970.

    Raises:
      InputError: a setting or the folder is not usable. A server that is down is
        found out when it is first asked.
    """
    if cfg.backend == "lmdb":
        backend: Backend = LmdbBackend(pathlib.Path(folder), max_bytes=cfg.max_bytes,
                                       readonly=readonly)
    elif cfg.backend == "redis":
        backend = RedisBackend(
            cfg.url, prefix=cfg.prefix, user=cfg.user, timeout=cfg.timeout,
            password_variable=cfg.password_variable, password_file=cfg.password_file)
    else:
        raise InputError(f"the instruction store's backend is {cfg.backend!r}, "
                         "expected lmdb or redis")
    return Store(backend, dimension=dimension, encoder=encoder, versions=versions,
                 dtype=cfg.dtype, ttl=cfg.ttl, max_text=cfg.max_text, clock=clock)
