"""Item vectors that were made elsewhere, one file for a kind of vector.

    .npy      [N, D] numbers; row = row of the item table, or named by `ids`
    .parquet  a column of lists and a column of item ids, in any order

An item has no vector where its row is zero, its list is null or its id is not in the
file. NaN and infinity are errors: they come from a step that failed.
"""

import dataclasses
import logging
import pathlib
from typing import Any

import numpy as np

from oxyrec_jax import artifacts
from oxyrec_jax.base import InputError
from oxyrec_jax.tokenizer import embeddings

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class VectorFile:
    """Where vectors lie.

    Attributes:
      path: the `.npy` or `.parquet` file.
      column: of a `.parquet` file: lists of numbers.
      id_column: of a `.parquet` file: item ids as in the item table.
      ids: for a `.npy` file: a text file with the item id of each row, one a line;
        None: row n belongs to row n of the item table.
    """

    path: str = ""
    column: str = "embedding"
    id_column: str = "item_id"
    ids: str | None = None


def read_vectors(file: VectorFile, item_ids: list[str]) -> np.ndarray:
    """Reads a vector for each item.

    Args:
      file: where from. Vectors of items that are not asked for are left out.
      item_ids: N names of items.

    Returns:
      `[N, D]` float32, finite, zero where an item has none.

    Raises:
      InputError: the file cannot be read; it holds no numbers, vectors of several
        lengths, NaN or infinity; an id stands twice or is null; or, without ids, it has
        not N rows.
    """
    path = _existing(file.path)
    if path.suffix == ".npy":
        vectors = embeddings.as_float32(embeddings.read_npy(path), path)
        if file.ids is None:
            embeddings.check(vectors, len(item_ids), str(path))
            return vectors
        names = _read_ids(_existing(file.ids))
    elif path.suffix == ".parquet":
        table = embeddings.read_table(path, file.column, file.id_column)
        table = table.filter(table[file.column].is_valid())
        names = [None if name is None else str(name)
                 for name in table[file.id_column].to_pylist()]
        vectors = embeddings.as_float32(
            embeddings.as_matrix(table[file.column], file.column, path), path)
    else:
        raise InputError(f"{path} ends in {path.suffix!r}, expected .npy or .parquet")
    embeddings.check(vectors, len(names), str(path))
    return _by_id(vectors, names, item_ids, path)


def describe(file: VectorFile) -> dict[str, Any]:
    """Names a file for a manifest: its name and SHA-256."""
    path = _existing(file.path)
    return {"file": path.name, "sha256": artifacts.file_digest(path)}


def _existing(name: str) -> pathlib.Path:
    path = pathlib.Path(name)
    if not name or not path.is_file():
        raise InputError(f"{name or 'the path of a vector file'} does not exist; give "
                         "the .npy or .parquet file of item vectors")
    return path


def _read_ids(path: pathlib.Path) -> list[str | None]:
    try:
        return list(path.read_text("utf-8").splitlines())
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error}); give a file with one "
                         "item id a line") from error


def _by_id(vectors: np.ndarray, names: list[str | None], item_ids: list[str],
           path: pathlib.Path) -> np.ndarray:
    rows: dict[str, int] = {}
    for row, name in enumerate(names):
        if name is None or name in rows:
            what = "no item id" if name is None else (
                f"the item id {name!r}, which row {rows[name]} has too")
            raise InputError(f"{path}: row {row} has {what}; give every vector the id "
                             "of one item")
        rows[name] = row
    places = np.array([rows.get(name, -1) for name in item_ids], np.int64)
    found = places >= 0
    result = np.zeros((len(item_ids), vectors.shape[1]), np.float32)
    result[found] = vectors[places[found]]
    if not found.all():
        _log.info("%s has no vector for %d of %d items", path.name, (~found).sum(),
                  len(item_ids))
    return result
