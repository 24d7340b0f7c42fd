"""The table of semantic IDs: made from a data set, kept as a bundle, looked up.

    manifest.json          kind "semantic-ids": widths, config, encoder, quality, data
    codes.npy              [N, T] int32
    popularity.npy         [N] int64, training targets of each item
    codebook_<level>.npy   [V_level, D] float32
    embeddings.npy         [N, D] float32, what was quantised
"""

import dataclasses
import functools
import logging
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from oxyrec_jax import artifacts
from oxyrec_jax.base import InputError
from oxyrec_jax.data.dataset import Dataset
from oxyrec_jax.tokenizer import (collisions, embeddings, engagement, kmeans, quality,
                                  residual)

KIND = "semantic-ids"
VERSION = 1
SOURCES = ("text", "co-engagement")
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """How items get their semantic IDs.

    Attributes:
      widths: codes of each level.
      sources: what an item's vector is made of: "text", "co-engagement" or both, each
        scaled to length 1 and put side by side.
      weights: of each source, as a factor of its vectors; None: 1 each.
      dimension: columns of the co-engagement part.
      window: events that count as close together for it.
      collisions: "list", "spread" or "dedup", see `collisions`. "dedup" adds a level.
      iterations, restart, sample: of the k-means, see `kmeans` and `residual`.
      seed: of every random draw.
    """

    widths: tuple[int, ...] = (256, 256, 256)
    sources: tuple[str, ...] = ("text",)
    weights: tuple[float, ...] | None = None
    dimension: int = 128
    window: int = 5
    collisions: str = "list"
    iterations: int = 25
    restart: float = 0.3
    sample: int = 256
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class SemanticIds:
    """A bundle of semantic IDs, opened.

    Attributes:
      codes: `[N, T]` int32.
      widths: T numbers: codes on each level.
      popularity: `[N]` int64 training targets of each item.
      codebooks: for each level `[V_level, D]` float32; empty for imported IDs.
      embeddings: `[N, D]` float32, memory-mapped; None for imported IDs.
      manifest: configuration, encoder, quality, digests.
    """

    codes: np.ndarray
    widths: tuple[int, ...]
    popularity: np.ndarray
    codebooks: tuple[np.ndarray, ...]
    embeddings: np.ndarray | None
    manifest: Mapping[str, Any]

    @functools.cached_property
    def order(self) -> np.ndarray:
        """All item ids, the most popular first, equals by id: `[N]` int64."""
        return np.lexsort((np.arange(len(self.codes)), -self.popularity))

    @functools.cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """Item ids by semantic ID and then by `order`, and their codes."""
        order = self.order
        rows = order[np.lexsort(self.codes[order].T[::-1])]
        return rows, self.codes[rows]

    def items(self, prefix: Sequence[int]) -> np.ndarray:
        """Returns the items whose ID starts so; those of one ID most popular first.

        Args:
          prefix: up to T codes. All T: the list of items behind one semantic ID.

        Returns:
          `[M]` int64 item ids, empty where there are none.
        """
        if len(prefix) > len(self.widths):
            raise ValueError(f"{prefix=}, an ID has {len(self.widths)} codes")
        rows, codes = self._sorted
        first, last = 0, len(rows)
        for level, code in enumerate(prefix):
            column = codes[first:last, level]
            first, last = (first + int(np.searchsorted(column, code, side=side))
                           for side in ("left", "right"))
        return rows[first:last]


def build_semantic_ids(
    dataset: Dataset, embedding: embeddings.EmbeddingConfig, cfg: TokenizerConfig,
    folder: str | os.PathLike, *, cache_folder: str | os.PathLike | None = None,
) -> dict[str, Any]:
    """Gives every item of a data set a semantic ID and writes the bundle.

    Args:
      dataset: its item texts and, for co-engagement, its training split are read.
      embedding: where text vectors come from.
      cfg: levels, sources, collisions.
      folder: where the bundle shall stand; an older one there is replaced.
      cache_folder: where text vectors are kept; None: "cache" beside `folder`.

    Returns:
      The manifest.

    Raises:
      InputError: a setting is unknown, there is no text to embed, or the vectors are
        not usable (see `embeddings`).
    """
    _check_config(cfg)
    folder = pathlib.Path(folder)
    cache = pathlib.Path(cache_folder or folder.parent / "cache")
    x = embed_items(dataset, embedding, cfg, cache)
    popularity = engagement.training_popularity(
        dataset.column("item"), dataset.offsets(), dataset.split("train"),
        num_items=dataset.num_items)
    lloyd = kmeans.KMeans(iterations=cfg.iterations, restart=cfg.restart)
    books = residual.fit(jax.random.key(cfg.seed), x, residual.ResidualKMeans(
        widths=cfg.widths, sample=cfg.sample, lloyd=lloyd))
    codes, widths = residual.encode(books, x), cfg.widths
    codebooks = [np.asarray(book) for book in books]
    if cfg.collisions == "spread":
        rest = x - residual.decode(books, codes[:, :-1])
        codes = collisions.spread(codes, rest, codebooks[-1])
    elif cfg.collisions == "dedup":
        codes, width = collisions.number(codes, popularity)
        widths = (*widths, width)
        codebooks.append(np.zeros((width, x.shape[1]), np.float32))
    facts = {
        "config": {"embedding": dataclasses.asdict(embedding),
                   "tokenizer": dataclasses.asdict(cfg)},
        "encoder": (embeddings.describe_encoder(embedding)
                    if "text" in cfg.sources else None),
    }
    return write_semantic_ids(dataset, codes, widths, folder, popularity=popularity,
                              codebooks=codebooks, vectors=x, facts=facts)


def embed_items(dataset: Dataset, embedding: embeddings.EmbeddingConfig,
                cfg: TokenizerConfig, cache: pathlib.Path) -> np.ndarray:
    """Returns `[N, D]` float32: the sources, scaled to length, side by side."""
    parts = []
    for source, weight in zip(cfg.sources, cfg.weights or (1.0,) * len(cfg.sources)):
        if source == "text":
            vectors = embeddings.embed_texts(_texts(dataset, embedding), embedding,
                                             cache)
        else:
            vectors = engagement.co_engagement_embeddings(
                dataset.column("item"), dataset.offsets(), dataset.split("train"),
                num_items=dataset.num_items, dimension=cfg.dimension,
                window=cfg.window, seed=cfg.seed)
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        blank = int((length == 0).sum())
        if blank:
            _log.info("%d of %d items have no %s", blank, len(vectors), source)
        parts.append(np.float32(weight) * vectors / np.where(length > 0, length, 1))
    return np.concatenate(parts, axis=1).astype(np.float32)


def write_semantic_ids(
    dataset: Dataset, codes: np.ndarray, widths: Sequence[int],
    folder: str | os.PathLike, *, popularity: np.ndarray,
    codebooks: Sequence[np.ndarray] = (), vectors: np.ndarray | None = None,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measures semantic IDs, made here or elsewhere, and writes their bundle.

    Args:
      dataset: whose items they are.
      codes: `[N, T]` int, `0 <= code < width`.
      widths: T numbers.
      folder: where the bundle shall stand.
      popularity: `[N]` int, orders the items that share an ID.
      codebooks: T codebooks `[V_level, D]`, or none.
      vectors: `[N, D]` float32, what was quantised, or None.
      facts: more for the manifest, such as `config` and `encoder`.

    Returns:
      The manifest.

    Raises:
      InputError: the codes do not fit the data set or the widths.
      ValueError: `popularity` has another length.
    """
    codes, popularity = np.asarray(codes), np.asarray(popularity, np.int64)
    if popularity.shape != (dataset.num_items,):
        raise ValueError(f"{popularity.shape=}, expected ({dataset.num_items},)")
    _check_codes(codes, widths, dataset.num_items, f"semantic IDs for {folder}")
    arrays = {"codes": codes.astype(np.int32), "popularity": popularity}
    arrays |= {f"codebook_{level}": book for level, book in enumerate(codebooks)}
    if vectors is not None:
        arrays["embeddings"] = vectors
    table = dataset.item_table()
    figures = quality.measure(codes, widths, embeddings=vectors, codebooks=codebooks,
                              categories=table["category"].to_pylist())
    return artifacts.write_bundle(
        folder, kind=KIND, version=VERSION, arrays=arrays,
        facts={"config": None, "encoder": None, **(facts or {}),
               "widths": list(widths), "quality": figures,
               "dataset": dataset_digest(dataset)})


def load_semantic_ids(folder: str | os.PathLike, dataset: Dataset | None = None, *,
                      verify: bool = True) -> SemanticIds:
    """Opens a bundle of semantic IDs.

    Args:
      folder: what `build_semantic_ids` wrote.
      dataset: the data set that they must have been made for; None: not checked.
      verify: also check the size and digest of every file.

    Raises:
      InputError: no bundle there, another kind or version, a damaged file, another
        data set's, or arrays that do not fit each other, with the file.
    """
    folder = pathlib.Path(folder)
    manifest = artifacts.read_manifest(folder, kind=KIND, version=VERSION,
                                       verify=verify)
    if dataset is not None and manifest["dataset"] != dataset_digest(dataset):
        raise InputError(f"{folder} was made for another data set than "
                         f"{dataset.folder}; tokenize this data set again")
    widths = tuple(manifest["widths"])
    codes = np.asarray(artifacts.read_array(folder, "codes"))
    _check_codes(codes, widths, len(codes), str(folder / "codes.npy"))
    popularity = np.asarray(artifacts.read_array(folder, "popularity"))
    if popularity.shape != codes.shape[:1]:
        raise InputError(f"{folder / 'popularity.npy'} has shape {popularity.shape}, "
                         f"expected {codes.shape[:1]}; make the bundle again")
    names = [f"codebook_{level}" for level in range(len(widths))]
    books = tuple(np.asarray(artifacts.read_array(folder, name)) for name in names
                  if f"{name}.npy" in manifest["files"])
    vectors = (artifacts.read_array(folder, "embeddings")
               if "embeddings.npy" in manifest["files"] else None)
    return SemanticIds(codes, widths, popularity, books, vectors, manifest)


def dataset_digest(dataset: Dataset) -> str:
    """Returns the digest of a data set's manifest, which holds all files' digests."""
    return artifacts.value_digest(dict(dataset.manifest))


def _texts(dataset: Dataset, embedding: embeddings.EmbeddingConfig) -> list[str]:
    texts = [text or "" for text in dataset.item_table()["text"].to_pylist()]
    if embedding.source != "file" and not any(texts):
        raise InputError(f"the items of {dataset.folder} have no text; choose the "
                         "source \"co-engagement\" or give embeddings in a file")
    return texts


def _check_config(cfg: TokenizerConfig) -> None:
    unknown = set(cfg.sources) - set(SOURCES)
    if unknown or not cfg.sources or len(set(cfg.sources)) < len(cfg.sources):
        raise InputError(f"the tokenizer's sources are {cfg.sources}, expected one or "
                         f"both of {', '.join(SOURCES)}")
    if cfg.weights is not None and (
            len(cfg.weights) != len(cfg.sources) or min(cfg.weights) <= 0):
        raise InputError(f"the tokenizer has the weights {cfg.weights} for the sources "
                         f"{cfg.sources}; give one positive number for each")
    if cfg.collisions not in collisions.POLICIES:
        raise InputError(f"the collision policy is {cfg.collisions!r}, expected one of "
                         f"{', '.join(collisions.POLICIES)}")
    if not cfg.widths or min(cfg.widths) < 1:
        raise InputError(f"the tokenizer's widths are {cfg.widths}, expected one or "
                         "more positive numbers")


def _check_codes(codes: np.ndarray, widths: Sequence[int], items: int, what: str
                 ) -> None:
    if codes.dtype.kind not in "iu" or codes.shape != (items, len(widths)):
        raise InputError(f"{what}: found {codes.dtype} {codes.shape}, expected "
                         f"integers ({items}, {len(widths)})")
    wrong = np.argwhere((codes < 0) | (codes >= np.asarray(widths)))
    if len(wrong):
        row, level = wrong[0]
        raise InputError(f"{what}: row {row} has the code {codes[row, level]} at level "
                         f"{level}, expected 0 to {widths[level] - 1}")
