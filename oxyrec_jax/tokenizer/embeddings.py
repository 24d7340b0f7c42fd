"""Item text to vectors: one config, four sources, one cache.

    wordllama   static word vectors that ship with a dependency; works offline
    hashed      character n-grams, no model at all; only ever chosen by name
    endpoint    any server that speaks the OpenAI embeddings protocol
    file        vectors made elsewhere, `.npy` or `.parquet`, row = item
"""

import dataclasses
import hashlib
import logging
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from oxyrec_jax import artifacts, llm, progress
from oxyrec_jax.base import InputError
from oxyrec_jax.tokenizer import text_encoders

KIND = "embeddings"
VERSION = 1
SOURCES = ("wordllama", "hashed", "endpoint", "file")
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class EmbeddingConfig:
    """Where the text embeddings come from.

    Attributes:
      source: "wordllama", "hashed", "endpoint" or "file".
      dimension: D; None: 256 for wordllama, 384 for hashed, whatever the endpoint or
        the file gives.
      path: for "file": the `.npy` or `.parquet` file.
      column: for a `.parquet` file: the column of lists of numbers.
      endpoint: for "endpoint": the server, the model, and how to call it.
    """

    source: str = "wordllama"
    dimension: int | None = None
    path: str | None = None
    column: str = "embedding"
    endpoint: llm.Endpoint | None = None


def embed_texts(texts: list[str], cfg: EmbeddingConfig,
                cache_folder: str | os.PathLike) -> np.ndarray:
    """Embeds texts, or reads from the cache what was embedded before.

    Args:
      texts: N texts. An empty one gets a zero row, except from a file.
      cfg: from where.
      cache_folder: where results are kept under the digest of texts and encoder; a
        damaged entry is logged and made again. "file" is not cached.

    Returns:
      `[N, D]` float32, finite, not normalised.

    Raises:
      InputError: the source is unknown, lacks a setting or cannot be reached; or the
        vectors are not N finite rows of one length, with file and row.
    """
    encoder = describe_encoder(cfg)
    if cfg.source == "file":
        return _read_file(cfg, len(texts))
    cache = pathlib.Path(cache_folder)
    digest = hashlib.sha256(artifacts.value_digest(encoder).encode())
    for text in texts:
        digest.update(hashlib.sha256(text.encode()).digest())

    def make() -> dict[str, np.ndarray]:
        vectors = _embed(texts, cfg, cache)
        check(vectors, len(texts), f"the {cfg.source} encoder")
        return {"vectors": vectors}
    return artifacts.kept_arrays(
        cache / f"embeddings-{digest.hexdigest()[:32]}", make, kind=KIND,
        version=VERSION, facts={"encoder": encoder})["vectors"]


def describe_encoder(cfg: EmbeddingConfig) -> dict[str, Any]:
    """Names the encoder for a manifest: its name, dimension and weights' SHA-256.

    Raises:
      InputError: the source is unknown or lacks a setting.
    """
    if cfg.source == "wordllama":
        return {"name": "wordllama l2_supercat", "dimension": cfg.dimension or 256,
                "sha256": text_encoders.WORDLLAMA_SHA256}
    if cfg.source == "hashed":
        return {"name": "hashed character n-grams", "dimension": cfg.dimension or 384,
                "sha256": None}
    if cfg.source == "endpoint":
        if cfg.endpoint is None:
            raise InputError("embeddings from an endpoint need endpoint.url and "
                             "endpoint.model; set them")
        return {"name": f"endpoint model {cfg.endpoint.model}",
                "dimension": cfg.dimension, "sha256": None}
    if cfg.source == "file":
        path = _file(cfg)
        return {"name": f"file {path.name}", "dimension": cfg.dimension,
                "sha256": artifacts.file_digest(path)}
    raise InputError(f"the embedding source is {cfg.source!r}, expected one of "
                     f"{', '.join(SOURCES)}")


def encode_texts(texts: list[str], cfg: EmbeddingConfig,
                 cache_folder: str | os.PathLike,
                 advance: Callable[[int], None] = lambda count: None) -> np.ndarray:
    """Embeds a few texts that come as they come, as instructions do.

    As `embed_texts`, but that nothing is kept on disk except what an endpoint was paid
    for, nothing is shown, and a file, which holds vectors of items, is refused.

    Args:
      advance: called with how many more texts an endpoint has done.
    """
    describe_encoder(cfg)
    if cfg.source == "file":
        raise InputError("text.source is \"file\", which holds vectors of items and "
                         "cannot embed instructions; set text.source to wordllama, "
                         "hashed or endpoint")
    if cfg.endpoint is not None and cfg.source == "endpoint":
        cache = pathlib.Path(cache_folder)
        cache.mkdir(parents=True, exist_ok=True)
        vectors, usage = llm.embed(texts, cfg.endpoint, dimension=cfg.dimension,
                                   cache=cache / "llm.sqlite", advance=advance)
        _log.log(logging.INFO if usage.requests else logging.DEBUG,
                 "embedded %d texts: %s", len(texts), usage)
        return vectors
    if cfg.source == "hashed":
        return text_encoders.hashed(texts, dimension=cfg.dimension or 384)
    return text_encoders.wordllama(texts, dimension=cfg.dimension or 256)


def _embed(texts: list[str], cfg: EmbeddingConfig, cache: pathlib.Path) -> np.ndarray:
    if cfg.source != "endpoint":
        return encode_texts(texts, cfg, cache)
    with progress.bar("embedding texts", len(set(texts) - {""})) as advance:
        return encode_texts(texts, cfg, cache, advance)


def _file(cfg: EmbeddingConfig) -> pathlib.Path:
    if cfg.path is None:
        raise InputError("embeddings from a file need its path; set it")
    path = pathlib.Path(cfg.path)
    if not path.is_file():
        raise InputError(f"{path} does not exist; give the file of embeddings")
    return path


def _read_file(cfg: EmbeddingConfig, rows: int) -> np.ndarray:
    path = _file(cfg)
    if path.suffix == ".npy":
        vectors = read_npy(path)
    elif path.suffix == ".parquet":
        vectors = as_matrix(read_table(path, cfg.column)[cfg.column], cfg.column, path)
    else:
        raise InputError(f"{path} ends in {path.suffix!r}, expected .npy or .parquet")
    vectors = as_float32(vectors, path)
    check(vectors, rows, str(path))
    if cfg.dimension is not None and vectors.shape[1] != cfg.dimension:
        raise InputError(f"{path} has vectors of {vectors.shape[1]} numbers, expected "
                         f"{cfg.dimension}; correct the dimension or the file")
    return vectors


def read_npy(path: pathlib.Path) -> np.ndarray:
    """Reads a `.npy` file; one that is no array raises `InputError` naming it."""
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"{path} is not a readable .npy array ({error})") from error


def read_table(path: pathlib.Path, *columns: str) -> pa.Table:
    """Reads a Parquet file that must have some columns.

    Raises:
      InputError: it cannot be read or lacks one, with the columns that it has.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path} is not a readable Parquet file ({error})") from error
    for column in columns:
        if column not in table.column_names:
            raise InputError(f"{path} has no column {column!r}; its columns are "
                             f"{', '.join(table.column_names)}")
    return table


def as_matrix(lists: pa.ChunkedArray, column: str, path: pathlib.Path) -> np.ndarray:
    """Turns R lists of D numbers into `[R, D]`.

    Args:
      lists: the column.
      column: its name, for errors.
      path: its file, likewise.

    Raises:
      InputError: it holds no lists, or lists of several lengths, with the row.
    """
    values = lists.combine_chunks()
    kind = values.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)
            or pa.types.is_fixed_size_list(kind)):
        raise InputError(f"{path}: column {column!r} holds {kind}, expected lists of "
                         "numbers")
    lengths = np.array(values.value_lengths().fill_null(-1))
    wrong = np.flatnonzero(lengths != np.argmax(np.bincount(lengths[lengths >= 0]))
                           if (lengths >= 0).any() else lengths < 0)
    if len(wrong):
        found = "no list" if lengths[wrong[0]] < 0 else f"{lengths[wrong[0]]} numbers"
        raise InputError(f"{path}: row {wrong[0]} of column {column!r} holds {found}, "
                         "unlike the others; give every item a vector of one length")
    flat = values.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(lengths), lengths[0] if len(lengths) else 0)


def as_float32(vectors: np.ndarray, path: pathlib.Path) -> np.ndarray:
    """Casts numbers to float32; anything else raises `InputError` naming the file."""
    if not isinstance(vectors, np.ndarray) or vectors.dtype.kind not in "fiu":
        raise InputError(f"{path} holds no numbers; expected [items, dimension] floats")
    with np.errstate(over="ignore"):  # what float32 cannot hold is found as infinity
        return np.asarray(vectors, np.float32)


def check(vectors: np.ndarray, rows: int, what: str) -> None:
    """Raises `InputError` unless `vectors` are `rows` finite rows of one length."""
    if vectors.ndim != 2 or len(vectors) != rows or not vectors.shape[1]:
        raise InputError(f"{what} gives an array of shape {vectors.shape}, expected "
                         f"[{rows}, dimension]: one row for each item in order")
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise InputError(f"{what}: row {bad[0]} holds NaN or infinity ({len(bad)} such "
                         "rows); embed these items again")
