"""Files that are never half written and never trusted unread.

Every file is written beside its place, flushed to disk and renamed. A *bundle* is a
directory of arrays and files with a `manifest.json` that names its kind, its schema
version, the configuration that made it and the SHA-256 digest and size of each file.
Reading checks all of it and names the file that is wrong. No pickle is read or written.
"""

import contextlib
import ctypes
import errno
import hashlib
import json
import logging
import os
import pathlib
import shutil
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from types import MappingProxyType
from typing import IO, Any

import numpy as np

from oxyrec_jax.base import InputError

MANIFEST = "manifest.json"
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def open_atomic(path: str | os.PathLike, mode: str = "wb") -> Iterator[IO]:
    """Opens a file that appears under `path` only when the block ends without error.

    Args:
      path: where the file shall stand; its folder must exist.
      mode: "wb" or "w" (UTF-8).

    Yields:
      The open file.

    Raises:
      InputError: the disk is full or the folder cannot be written; nothing is left
        behind and an older file under `path` stays as it was.
    """
    target = pathlib.Path(path)
    beside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with open(beside, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
        _sync_folder(target.parent)
    except OSError as error:
        raise _write_error(target, error) from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes `value` as readable JSON, atomically. NaN and infinity are refused."""
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False)
    with open_atomic(path, "w") as file:
        file.write(text + "\n")


def read_json(path: str | os.PathLike) -> Any:
    """Reads a JSON file; a missing or damaged one raises `InputError` naming it."""
    try:
        text = pathlib.Path(path).read_text("utf-8")
        return json.loads(text)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except OSError as error:
        raise InputError(f"{path} could not be read: {error.strerror}") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not valid JSON ({error}); restore or remake it"
                         ) from error


def file_digest(path: str | os.PathLike) -> str:
    """Returns the SHA-256 digest of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def value_digest(value: Any) -> str:
    """Returns the SHA-256 digest of a JSON value, independent of key order."""
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_bundle(
    folder: str | os.PathLike,
    *,
    kind: str,
    version: int,
    arrays: Mapping[str, np.ndarray],
    facts: Mapping[str, Any],
    write_files: Callable[[pathlib.Path], None] | None = None,
) -> dict[str, Any]:
    """Writes a bundle and puts it in its place in one rename.

    Args:
      folder: where the bundle shall stand; an older bundle there is replaced, and
        nothing but a bundle or an empty folder is.
      kind: what the bundle is ("dataset", "semantic-ids"); checked when read.
      version: schema version of this kind; checked when read.
      arrays: name to array, each written as `<name>.npy`; names may hold "/".
      facts: JSON values for the manifest: configuration, counts, metrics.
      write_files: called with the folder being written, for files of other formats
        and for arrays too large to hold in memory (write them as `.npy` there).

    Returns:
      The manifest.

    Raises:
      InputError: the disk is full, the place cannot be written, or something that is
        no bundle stands there; what stood there stays as it was.
    """
    target = pathlib.Path(folder)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        _check_place(target, kind)
        beside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
        beside.mkdir()
    except OSError as error:
        raise _write_error(target, error) from error
    try:
        for name, array in arrays.items():
            path = beside / f"{name}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "wb") as file:
                np.lib.format.write_array(_Stream(file), np.asarray(array),
                                          allow_pickle=False)
        if write_files is not None:
            write_files(beside)
        manifest = seal(beside, kind=kind, version=version, facts=facts)
        _replace_folder(beside, target)
        return manifest
    except OSError as error:
        raise _write_error(target, error) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def seal(folder: pathlib.Path, *, kind: str, version: int,
         facts: Mapping[str, Any] = MappingProxyType({}),
         leave_out: Collection[str] = ()) -> dict[str, Any]:
    """Makes a bundle of a folder that something else has filled.

    Every file is flushed to disk and read once for its digest.

    Args:
      folder: the files; it stays where it is, so seal it before it gets its name.
      kind, version, facts: as of `write_bundle`.
      leave_out: names of files that are not listed, as something still changes them.

    Returns:
      The manifest, which is written too.
    """
    files = {name: entry for name, entry in _list(folder).items()
             if name not in leave_out}
    manifest = {"kind": kind, "version": version, **facts, "files": files}
    write_json(folder / MANIFEST, manifest)
    return manifest


def read_manifest(
    folder: str | os.PathLike, *, kind: str, version: int, verify: bool = True
) -> dict[str, Any]:
    """Reads and checks a bundle's manifest.

    Args:
      folder: the bundle.
      kind: the kind that the caller needs.
      version: the schema version that the caller reads.
      verify: also check the size and digest of every file.

    Returns:
      The manifest.

    Raises:
      InputError: no bundle there, another kind or version, or a file that is missing,
        cut short or changed, named.
    """
    folder = pathlib.Path(folder)
    if not (folder / MANIFEST).exists():
        raise InputError(f"{folder} holds no {kind}: {MANIFEST} is missing; "
                         "run the step that writes it first")
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("kind") != kind:
        found = manifest.get("kind") if isinstance(manifest, dict) else manifest
        raise InputError(f"{folder} holds {found!r}, expected {kind!r}")
    if manifest.get("version") != version:
        raise InputError(
            f"{folder} has schema version {manifest.get('version')}, this release "
            f"reads {version}; make it again with this release")
    files = manifest.get("files")
    if not isinstance(files, dict):
        raise InputError(f"{folder / MANIFEST} lists no files; make the bundle again")
    if verify:
        for name, entry in files.items():
            _check_file(folder, name, entry)
    return manifest


def read_array(folder: str | os.PathLike, name: str) -> np.ndarray:
    """Opens one array of a bundle, memory-mapped and read-only.

    Raises:
      InputError: there is no such array, it is damaged, or its name leads out of the
        folder.
    """
    folder = pathlib.Path(folder)
    _check_name(folder, name)
    path = folder / f"{name}.npy"
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"{path} is not a readable array ({error})") from error


def kept_arrays(
    folder: str | os.PathLike, make: Callable[[], Mapping[str, np.ndarray]], *,
    kind: str, version: int, facts: Mapping[str, Any] = MappingProxyType({}),
    write: bool = True,
) -> dict[str, np.ndarray]:
    """Arrays that are kept because making them takes time.

    Args:
      folder: of their bundle, named by the digest of all that they are made of. A
        damaged one is logged and made again, and that none can be written is logged.
      make: gives the arrays by name, where they are not there.
      kind, version, facts: as of `write_bundle`.
      write: false leaves the writing to another process.

    Returns:
      The arrays, in memory.
    """
    folder = pathlib.Path(folder)
    if (folder / MANIFEST).exists():
        try:
            files = read_manifest(folder, kind=kind, version=version)["files"]
            names = [file.removesuffix(".npy") for file in files]
            return {name: np.array(read_array(folder, name)) for name in names}
        except InputError as error:
            _log.warning("what %s holds is made again: %s", folder, error)
    arrays = dict(make())
    if write:
        try:
            write_bundle(folder, kind=kind, version=version, arrays=arrays, facts=facts)
        except InputError as error:
            _log.warning("what was made is not kept: %s", error)
    return arrays


class _Stream:
    """A file that NumPy cannot hand to C, whose writing hides why it failed."""

    def __init__(self, file: IO[bytes]):
        self.write = file.write


def _check_place(target: pathlib.Path, kind: str) -> None:
    if target.is_dir():
        free = (target / MANIFEST).is_file() or not any(target.iterdir())
    else:
        free = not target.exists()
    if not free:
        raise InputError(f"{target} exists and is no {kind} that could be replaced; "
                         "move it away or choose another place")


def _check_name(folder: pathlib.Path, name: str) -> None:
    path = pathlib.PurePosixPath(name)
    if ".." in path.parts or path.is_absolute():
        raise InputError(f"{folder / MANIFEST} names {name!r}, outside its folder")


def _check_file(folder: pathlib.Path, name: str, entry: Any) -> None:
    _check_name(folder, name)
    path = folder / name
    if not isinstance(entry, dict) or not {"bytes", "sha256"} <= entry.keys():
        raise InputError(f"{folder / MANIFEST} does not tell the size and digest of "
                         f"{name!r}; make the bundle again")
    if not path.is_file():
        raise InputError(f"{path} is missing; make the bundle again")
    if path.stat().st_size != entry["bytes"]:
        raise InputError(f"{path} has {path.stat().st_size} bytes, its manifest says "
                         f"{entry['bytes']}; make the bundle again")
    if file_digest(path) != entry["sha256"]:
        raise InputError(f"{path} was changed: its SHA-256 digest is not the one in "
                         f"{MANIFEST}; make the bundle again")


def _list(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
            name = path.relative_to(folder).as_posix()
            files[name] = {"bytes": path.stat().st_size, "sha256": file_digest(path)}
    return files


def _replace_folder(beside: pathlib.Path, target: pathlib.Path) -> None:
    _sync_folder(beside)
    if not target.exists():
        os.rename(beside, target)
    elif not _exchange(beside, target):
        old = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.old")
        os.rename(target, old)
        os.rename(beside, target)
        shutil.rmtree(old, ignore_errors=True)
    _sync_folder(target.parent)


def _exchange(first: pathlib.Path, second: pathlib.Path) -> bool:
    """Swaps two folders in one step; false where the system cannot.

    Between two renames there would be a moment without a bundle.
    """
    try:
        swap = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    here, both = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if swap(here, os.fsencode(first), here, os.fsencode(second), both) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM):
        return False
    raise OSError(code, os.strerror(code))


def _sweep(target: pathlib.Path) -> None:
    """Cleans up after a writer that was killed; brings back an older bundle."""
    for old in target.parent.glob(f".{target.name}.*.old"):
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(old, target)
    for partial in target.parent.glob(f".{target.name}.*.partial"):
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)


def _sync_folder(folder: pathlib.Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_error(path: pathlib.Path, error: OSError) -> InputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InputError(f"{path} could not be written: the disk is full; free some "
                          "space and run the same command again")
    return InputError(f"{path} could not be written: {error.strerror or error}")
