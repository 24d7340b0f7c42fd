"""What is known of each item, as vectors from up to four sources.

    text           embeddings of the item's text, or a file
    image          vectors that lie with the data set, or a file
    categorical    hashed category path, brand and price, or a file
    co-engagement  which items training users take close together, or a file

Any item may lack any source: its row is zero and `present` is false.
"""

import dataclasses
import hashlib
import logging
import math
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from oxyrec_jax.base import InputError
from oxyrec_jax.data.dataset import Dataset
from oxyrec_jax.tokenizer import embeddings, engagement, vector_files
from oxyrec_jax.tokenizer.contrast import ContrastiveConfig
from oxyrec_jax.tokenizer.fusion import FusionConfig
from oxyrec_jax.tokenizer.vector_files import VectorFile

SOURCES = ("text", "image", "categorical", "co-engagement")
GENERATIONS = ("concatenate", "text", "early-fusion", "late-fusion", "multi-source")
_FIELDS = ("category", "brand", "price")
_CATEGORICAL = 256  # ours: random signs of 256 numbers keep thousands of names apart
_PATH = re.compile(r"\s*[>|,;]\s*")
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """What an item's vector is made of, and how.

    Attributes:
      generation: "concatenate" puts the sources, each of length 1, side by side; "text"
        is the text's vector alone; "early-fusion" and "late-fusion" train a network on
        pairs of views of one item; "multi-source" is late fusion that also learns from
        pairs of items that users take close together.
      sources: names; None: "text" for the first two generations, else all that the data
        have, co-engagement only for "multi-source".
      weights: for "concatenate": a factor of each source's vectors; None: 1 each.
      text, image, categorical, co_engagement: files of vectors; None: computed, or, for
        the image, those of the data set where it has some.
      dimension: columns of computed co-engagement vectors.
      window: events that count as close together for them.
      fusion: the network.
      training: how it is trained.
      seed: of every random draw.
    """

    generation: str = "concatenate"
    sources: tuple[str, ...] | None = None
    weights: tuple[float, ...] | None = None
    text: VectorFile | None = None
    image: VectorFile | None = None
    categorical: VectorFile | None = None
    co_engagement: VectorFile | None = None
    dimension: int = 128
    window: int = 5
    fusion: FusionConfig = FusionConfig()
    training: ContrastiveConfig = ContrastiveConfig()
    seed: int = 0

    def file(self, source: str) -> VectorFile | None:
        """The file that a source's vectors come from, None where they are computed."""
        return getattr(self, source.replace("-", "_"))


@dataclasses.dataclass(frozen=True)
class ItemSources:
    """Source vectors of N items.

    Attributes:
      vectors: source to `[N, D_source]` float32, finite, zero where missing; its order
        is that of the sources.
      origins: source to where it came from, JSON values for a manifest.
    """

    vectors: Mapping[str, np.ndarray]
    origins: Mapping[str, Any]

    @property
    def names(self) -> tuple[str, ...]:
        """The sources, in order."""
        return tuple(self.vectors)

    @property
    def present(self) -> np.ndarray:
        """`[N, S]` bool: which item has which source."""
        return np.stack([found.any(axis=1) for found in self.vectors.values()], axis=1)

    def facts(self) -> dict[str, Any]:
        """For a manifest: items that have each source, its dimension, origin, digest.

        The digest is the SHA-256 of the vectors' bytes, rows in order, little-endian.
        """
        return {name: {"items": int(found.any(axis=1).sum()),
                       "dimension": found.shape[1], "origin": self.origins[name],
                       "sha256": _digest(found)}
                for name, found in self.vectors.items()}


def resolve(cfg: SourceConfig, items: pa.Table,
            images: np.ndarray | None = None) -> SourceConfig:
    """Checks a configuration and names its sources where it leaves them open.

    Args:
      cfg: the configuration.
      items: the item table that the sources are looked for in.
      images: vectors of the items' pictures that need no file.

    Raises:
      InputError: an unknown generation or source, or sources that do not fit it.
    """
    if cfg.generation not in GENERATIONS:
        raise InputError(f"the generation of item vectors is {cfg.generation!r}, "
                         f"expected one of {', '.join(GENERATIONS)}")
    if cfg.sources is None:
        cfg = dataclasses.replace(cfg, sources=_available(cfg, items, images))
    names = cfg.sources or ()
    if set(names) - set(SOURCES) or not names or len(set(names)) < len(names):
        raise InputError(f"the sources of item vectors are {names}, expected one or "
                         f"more of {', '.join(SOURCES)}")
    if "image" in names and cfg.image is None and images is None:
        raise InputError("the source \"image\" needs a file of vectors, since none lie "
                         "with the data set; set image.path, or prepare a simulated "
                         "shop again")
    if cfg.generation == "text" and names != ("text",):
        raise InputError(f"the generation \"text\" has the sources {names}; leave "
                         "them open or choose another generation")
    views = cfg.generation in ("early-fusion", "late-fusion")
    if views and len(names) < 2:
        raise InputError(f"{cfg.generation} learns from two sources of one item and "
                         f"has only {names}; name another in sources, or choose "
                         "\"multi-source\"")
    if cfg.weights is not None and (
            len(cfg.weights) != len(names) or min(cfg.weights) <= 0):
        raise InputError(f"the sources {names} have the weights {cfg.weights}; give "
                         "one positive number for each")
    return cfg


def item_sources(items: pa.Table, cfg: SourceConfig,
                 embedding: embeddings.EmbeddingConfig, cache: str | os.PathLike, *,
                 dataset: Dataset | None = None,
                 images: np.ndarray | None = None) -> ItemSources:
    """Gathers every source's vectors.

    Args:
      items: the item table, N rows with `schema.ITEM_FIELDS`.
      cfg: which sources; those left open are chosen as `resolve` says.
      embedding: where text embeddings come from, unless a file is given.
      cache: folder of computed text embeddings.
      dataset: whose training split gives the co-engagement vectors of its N items;
        None, as for new items: they have none.
      images: `[N, D]` vectors of the items' pictures, unless a file is given; zero
        rows have none. None: those of the data set.

    Returns:
      The sources in the order of `cfg.sources`.

    Raises:
      InputError: the configuration does not fit, or vectors are not usable, with the
        file and row.
    """
    if images is None and dataset is not None:
        images = dataset.images()
    cfg = resolve(cfg, items, images)
    vectors, origins = {}, {}
    for name in cfg.sources or ():
        file = cfg.file(name)
        if file is not None:
            found = vector_files.read_vectors(file, items["item_id"].to_pylist())
            origin: Any = vector_files.describe(file)
        elif name == "text":
            texts = [text or "" for text in items["text"].to_pylist()]
            if dataset is not None and embedding.source != "file" and not any(texts):
                raise InputError("the items have no text; choose other sources or give "
                                 "embeddings in a file")
            found = embeddings.embed_texts(texts, embedding, cache)
            origin = embeddings.describe_encoder(embedding)
        elif name == "image":
            found = np.asarray(images, np.float32)
            embeddings.check(found, len(items), "the data set's images")
            origin = {"name": "images of the data set"}
        elif name == "categorical":
            found = categorical_vectors(items)
            origin = {"name": "hashed category, brand, price", "fields": list(_FIELDS)}
        elif dataset is None:
            found = np.zeros((len(items), cfg.dimension), np.float32)
            origin = None
        else:
            found = engagement.co_engagement_embeddings(
                dataset.column("item"), dataset.offsets(), dataset.split("train"),
                num_items=dataset.num_items, dimension=cfg.dimension,
                window=cfg.window, seed=cfg.seed)
            origin = {"name": "co-engagement", "dimension": cfg.dimension,
                      "window": cfg.window}
        blank = int((~found.any(axis=1)).sum())
        if blank:
            _log.info("%d of %d items have no %s", blank, len(found), name)
        vectors[name], origins[name] = found, origin
    return ItemSources(vectors, origins)


def concatenate(sources: ItemSources, weights: tuple[float, ...] | None = None
                ) -> np.ndarray:
    """Puts the sources side by side, each scaled to length 1 times its weight.

    Args:
      sources: S sources of N items.
      weights: S factors; None: 1 each.

    Returns:
      `[N, D]` float32, zero where a source is missing.
    """
    parts = []
    for vectors, weight in zip(sources.vectors.values(),
                               weights or (1.0,) * len(sources.vectors)):
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        parts.append(np.float32(weight) * vectors / np.where(length > 0, length, 1))
    return np.concatenate(parts, axis=1).astype(np.float32)


def categorical_vectors(items: pa.Table, dimension: int = _CATEGORICAL) -> np.ndarray:
    """Makes vectors of category, brand and price that depend on nothing else.

    Every name is a vector of D random signs, its hash being the seed. The category is
    the sum of its parts (separated by ">", "|", "," or ";") and of its path down to
    each part; the price lies between two steps of half an octave and is the sum of
    both, nearer first. Each of the three is scaled to length 1 and added. An item of
    tomorrow gets its vector as those of today.

    Args:
      items: the item table, N rows.
      dimension: D.

    Returns:
      `[N, D]` float32, zero where an item has none of the three.

    Raises:
      InputError: a price is not finite or negative, with its row.
    """
    result = np.zeros((len(items), dimension), np.float32)
    for field, parts in (("category", _path), ("brand", _brand), ("price", _steps)):
        distinct: dict[Any, int] = {}
        rows = np.array([distinct.setdefault(value, len(distinct))
                         for value in items[field].to_pylist()], np.int64)
        if field == "price":
            _check_prices(items)
        table = np.zeros((len(distinct), dimension), np.float32)
        for value, row in distinct.items():
            for name, weight in parts(value).items():
                table[row] += np.float32(weight) * _signs(name, dimension)
        length = np.linalg.norm(table, axis=1, keepdims=True)
        result += (table / np.where(length > 0, length, 1))[rows]
    return result


def _check_prices(items: pa.Table) -> None:
    for row, price in enumerate(items["price"].to_pylist()):
        if price is not None and not 0 <= price < math.inf:
            raise InputError(f"row {row} of the item table has the price {price}, "
                             "expected a number of at least 0; correct it or leave it "
                             "out")


def _available(cfg: SourceConfig, items: pa.Table,
               images: np.ndarray | None) -> tuple[str, ...]:
    if cfg.generation in ("concatenate", "text"):
        return ("text",)
    there = {
        "text": cfg.text is not None or any(items["text"].to_pylist()),
        "image": cfg.image is not None or images is not None,
        "categorical": cfg.categorical is not None or any(
            items[name].null_count < len(items) for name in _FIELDS),
        "co-engagement": cfg.generation == "multi-source",
    }
    return tuple(name for name in SOURCES if there[name])


def _path(category: str | None) -> dict[str, float]:
    parts = [part for part in _PATH.split((category or "").strip()) if part]
    names = [f"category {part}" for part in parts]
    names += [f"path {' > '.join(parts[:depth])}" for depth in range(2, len(parts) + 1)]
    return dict.fromkeys(names, 1.0)


def _brand(brand: str | None) -> dict[str, float]:
    name = (brand or "").strip().lower()
    return {f"brand {name}": 1.0} if name else {}


def _steps(price: float | None) -> dict[str, float]:
    if price is None:
        return {}
    place = 2 * math.log2(price) if price > 0 else -100.0
    low = math.floor(place)
    return {f"price {low}": low + 1 - place, f"price {low + 1}": place - low}


def _signs(name: str, dimension: int) -> np.ndarray:
    """Random signs that the name decides, the same on every machine."""
    bits = hashlib.shake_128(name.encode()).digest(-(-dimension // 8))
    return np.unpackbits(np.frombuffer(bits, np.uint8))[:dimension] * np.float32(2) - 1


def _digest(vectors: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(vectors, "<f4").data).hexdigest()
