"""Semantic IDs of a data set: vectors, codes, collisions, a bundle."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from oxyrec_jax.base import InputError
from oxyrec_jax.data.dataset import Dataset
from oxyrec_jax.tokenizer import (collisions, embeddings, engagement, multisource,
                                  ordering, quantiser, sid_table)
from oxyrec_jax.tokenizer.drift import DriftConfig
from oxyrec_jax.tokenizer.quality_gate import GateConfig
from oxyrec_jax.tokenizer.quantiser import Codebooks, Quantiser
from oxyrec_jax.tokenizer.sources import SourceConfig

_ROWS_AT_ONCE = 1 << 16


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """How items get their semantic IDs.

    Attributes:
      widths: codes of each level.
      sources: what an item's vector is made of.
      quantiser: what makes codes of it.
      collisions: "list", "reassign" or "dedup", see `collisions`. "dedup" adds a level.
      room: for "dedup": digits kept free in the new level for items that join later.
      order: which item of one ID stands first: "popularity", "recency" or "learned",
        see `ordering`.
      order_scores: for "learned": a `.npy` file with a score for each item.
      gate: bounds that the figures of a build must keep.
      drift: when new items are too unlike the old ones.
      seed: of the quantiser.
    """

    widths: tuple[int, ...] = (256, 256, 256)
    sources: SourceConfig = SourceConfig()
    quantiser: Quantiser = Quantiser()
    collisions: str = "list"
    room: int = 0
    order: str = "popularity"
    order_scores: str | None = None
    gate: GateConfig = GateConfig()
    drift: DriftConfig = DriftConfig()
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Semantic IDs of N items before they are a table.

    Attributes:
      codes: `[N, T]` int32.
      widths: T numbers.
      codebooks: the quantiser; it lacks the level that numbers a list.
      errors: `[N]` float32, see `errors`.
    """

    codes: np.ndarray
    widths: tuple[int, ...]
    codebooks: Codebooks
    errors: np.ndarray


def build_semantic_ids(
    dataset: Dataset, embedding: embeddings.EmbeddingConfig, cfg: TokenizerConfig,
    folder: str | os.PathLike, *, cache_folder: str | os.PathLike | None = None,
) -> dict[str, Any]:
    """Gives every item of a data set a semantic ID and writes the bundle.

    Args:
      dataset: its item texts and, for co-engagement, its training split are read.
      embedding: where text vectors come from.
      cfg: levels, sources, quantiser, collisions, gate.
      folder: where the bundle shall stand; an older one there is replaced.
      cache_folder: where text vectors are kept; None: "cache" beside `folder`.

    Returns:
      The manifest.

    Raises:
      InputError: a setting is unknown, there is no text to embed, the vectors are not
        usable (see `embeddings`), or a figure falls through the gate: an older bundle
        stays as it was.
    """
    check_config(cfg)
    folder = pathlib.Path(folder)
    cache = pathlib.Path(cache_folder or folder.parent / "cache")
    made = multisource.item_encoder(dataset, cfg.sources, embedding, cache)
    table = ordered(dataset, cfg)
    tokens = tokenize(made.vectors, cfg, table.priority)
    return sid_table.save(dataset, dataclasses.replace(
        table, codes=tokens.codes, widths=tokens.widths, codebooks=tokens.codebooks,
        embeddings=made.vectors, errors=tokens.errors, encoder=made.params,
        manifest={**table.manifest, **facts(embedding, cfg, made.facts)}),
        folder, gate=cfg.gate)


def ordered(dataset: Dataset, cfg: TokenizerConfig) -> sid_table.SemanticIds:
    """A table without codes that knows the order of the data set's items."""
    popularity = engagement.training_popularity(
        dataset.column("item"), dataset.offsets(), dataset.split("train"),
        num_items=dataset.num_items)
    scores = (ordering.read_scores(cfg.order_scores, dataset.num_items)
              if cfg.order == "learned" else None)
    return sid_table.SemanticIds(
        np.zeros((dataset.num_items, 0), np.int32), (), popularity,
        manifest={"order": cfg.order}, scores=scores,
        recency=ordering.training_recency(dataset))


def tokenize(x: np.ndarray, cfg: TokenizerConfig, priority: np.ndarray, *,
             start: Codebooks | None = None) -> Tokens:
    """Fits the quantiser and gives every vector its codes.

    Args:
      x: `[N, D]` float32.
      cfg: widths, quantiser, collisions.
      priority: `[N]` numbers, higher first: the digits of "dedup".
      start: codebooks to start the fit from.
    """
    books = quantiser.fit(jax.random.key(cfg.seed), x, cfg.quantiser,
                          widths=cfg.widths, start=start)
    codes, widths = quantiser.encode_catalogue(books, x, cfg.quantiser), cfg.widths
    # What joins later takes its nearest codes, so the old items' errors are of those.
    nearest = quantiser.encode(books, x) if books.kind == "balanced-kmeans" else codes
    left = errors(books, x, nearest)
    if cfg.collisions == "reassign":
        rest, last = quantiser.last_level(books, x, codes)
        codes = collisions.reassign(codes, rest, last)
    elif cfg.collisions == "dedup":
        codes, width = collisions.number(codes, priority)
        widths = (*widths, width + cfg.room)
    return Tokens(codes, widths, books, left)


def errors(codebooks: Codebooks, x: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """`[N]` float32: squared distance of each vector to what its codes restore."""
    result = np.empty(len(x), np.float32)
    for start in range(0, len(x), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        result[part] = np.square(
            x[part] - quantiser.decode(codebooks, codes[part])).sum(axis=1)
    return result


def facts(embedding: embeddings.EmbeddingConfig, cfg: TokenizerConfig,
          item_encoder: Mapping[str, Any]) -> dict[str, Any]:
    """What a manifest tells of how the IDs were made.

    Args:
      embedding: where text vectors come from.
      cfg: the configuration.
      item_encoder: the facts of `multisource.item_encoder`.
    """
    return {"config": {"embedding": dataclasses.asdict(embedding),
                       "tokenizer": dataclasses.asdict(cfg)},
            "encoder": (embeddings.describe_encoder(embedding)
                        if "text" in item_encoder["sources"] else None),
            "item_encoder": dict(item_encoder)}


def check_config(cfg: TokenizerConfig) -> None:
    """Raises `InputError` on a setting that cannot work."""
    for name, choices in (("collisions", collisions.POLICIES),
                          ("order", ordering.ORDERS)):
        if getattr(cfg, name) not in choices:
            raise InputError(f"tokenizer.{name} is {getattr(cfg, name)!r}, expected "
                             f"one of {', '.join(choices)}")
    if cfg.room < 0 or (cfg.room and cfg.collisions != "dedup"):
        raise InputError(f"tokenizer.room is {cfg.room}, expected 0 or more, and 0 "
                         "unless tokenizer.collisions is dedup")
    if not cfg.widths or min(cfg.widths) < 1:
        raise InputError(f"tokenizer.widths is {cfg.widths}, expected one or more "
                         "positive numbers")
