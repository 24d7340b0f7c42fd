"""Compiled programs are kept between commands, in a folder of the user's.

JAX keeps them: a program that was compiled once for the same devices, shapes and
versions is read. What is read is run, so the folder has to be the user's own and
writable by nobody else. JAX takes a lock for each look-up, so that commands may run
side by side, and removes what was not used for longest where there is too much.
"""

import collections
import importlib.util
import logging
import os
import pathlib
import stat
import sys
from collections.abc import Mapping

VARIABLE = "OXYREC_COMPILE_CACHE"  # a folder, or "off"
MOST_BYTES = 2 << 30  # ours: a training run's programs are 1 to 20 MB
_FOLDER, _SIZE, _SECONDS = ("JAX_COMPILATION_CACHE_DIR",
                            "JAX_COMPILATION_CACHE_MAX_SIZE",
                            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
_log = logging.getLogger(__name__)


def settings(environment: Mapping[str, str]) -> dict[str, str]:
    """What to add to a process's environment, before it imports JAX.

    Args:
      environment: as it is; `OXYREC_COMPILE_CACHE` names another folder or is "off",
        and JAX's own variables have the last word.

    Returns:
      JAX's variables; empty where nothing is to be kept. The folder exists.
    """
    asked = environment.get(VARIABLE, "")
    if asked.lower() == "off" or environment.get(_FOLDER):
        return {}
    folder = pathlib.Path(asked).absolute() if asked else default_folder(environment)
    if importlib.util.find_spec("filelock") is None:
        _log.info("compiled programs are not kept: filelock is not installed; pip "
                  "install 'oxyrec_jax[train]'")
        return {}
    if fault := _fault(folder):
        _log.warning("compiled programs are not kept: %s %s; name another folder in %s "
                     "or set it to off", folder, fault, VARIABLE)
        return {}
    return {_FOLDER: str(folder),
            _SIZE: environment.get(_SIZE, str(MOST_BYTES)),
            _SECONDS: environment.get(_SECONDS, "0.2")}  # ours: reading takes 0.02 s


def default_folder(environment: Mapping[str, str]) -> pathlib.Path:
    """Where programs lie: `$XDG_CACHE_HOME/oxyrec_jax/xla`, below ~/.cache by default.

    Source: XDG Base Directory Specification 0.8; a path that is not absolute does not
    count.
    """
    home = environment.get("XDG_CACHE_HOME", "")
    cache = (pathlib.Path(home) if os.path.isabs(home)
             else pathlib.Path(environment.get("HOME") or "~").expanduser() / ".cache")
    return cache / "oxyrec_jax" / "xla"


class Kept:
    """Counts what JAX reads and adds, for one line in the log."""

    def __init__(self) -> None:
        self._seen: collections.Counter[str] = collections.Counter()

    def heard(self, event: str, **_: str | int) -> None:
        """Takes an event of JAX's monitoring."""
        self._seen[event.rpartition("/")[2]] += 1

    def tell(self) -> None:
        """Logs how many programs came from the folder; nothing where none was asked."""
        read, added = self._seen["cache_hits"], self._seen["cache_misses"]
        if read or added:
            _log.info("programs: %d read from the compile cache in %s, %d compiled and "
                      "added", read, os.environ[_FOLDER], added)


def keep() -> Kept | None:
    """Turns the cache on, for a process that has not imported JAX yet.

    Returns:
      What counts its use; None where nothing is kept, or JAX was imported before and
      whoever did so has chosen.
    """
    if "jax" in sys.modules:
        return None
    found = settings(os.environ)
    if not found:
        return None
    os.environ.update(found)
    from jax import monitoring  # after its environment is complete
    kept = Kept()
    monitoring.register_event_listener(kept.heard)
    return kept


def _fault(folder: pathlib.Path) -> str:
    """Why programs must not lie in a folder; "": they may."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        about = folder.stat()
    except OSError as error:
        return f"cannot be made ({error.strerror})"
    if not os.access(folder, os.W_OK | os.X_OK):
        return "cannot be written"
    if hasattr(os, "getuid") and (about.st_uid != os.getuid()
                                  or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
        return "may be written by others, who could so run their programs here"
    return ""
