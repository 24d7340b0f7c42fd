"""A few items with titles and a random log, for tests that build semantic IDs."""

import dataclasses

import numpy as np
import pyarrow as pa

from oxyrec_jax.data import dataset as datasets
from oxyrec_jax.tokenizer import build, kmeans, quantiser, sid_table
from oxyrec_jax.tokenizer.embeddings import EmbeddingConfig
from oxyrec_jax.tokenizer.sources import SourceConfig

HASHED = EmbeddingConfig("hashed", dimension=16)
CFG = build.TokenizerConfig(
    widths=(8, 8), sources=SourceConfig(dimension=4),
    quantiser=quantiser.Quantiser(lloyd=kmeans.KMeans(iterations=8)))
KINDS = ("polish", "shampoo", "brush")
COLOURS = ("red", "blue", "green", "black", "white")


def make_texts(count=45):
    return [f"{COLOURS[n % 5]} number {n // 15} {KINDS[n % 3]}" for n in range(count)]


def make_items(texts, names=None):
    unknown = [None] * len(texts)
    return pa.table({
        "item_id": names or [f"i{n}" for n in range(len(texts))], "title": texts,
        "text": texts, "category": [text and text.split()[-1] for text in texts],
        "brand": pa.array(unknown, pa.string()),
        "price": pa.array(unknown, pa.float32())})


def make_dataset(folder, texts, *, sequences=40, length=8, seed=0, names=None,
                 facts=None):
    """A random log of leave-one-out splits over items with these texts."""
    rng = np.random.default_rng(seed)
    events = rng.zipf(1.5, sequences * length) % len(texts)

    def fill(writer):
        writer.add_items(make_items(texts, names))
        writer.add_sequences({"item": events}, np.full(sequences, length),
                             [f"u{n}" for n in range(sequences)])
        for split, first, last in [("train", 1, length - 2),
                                   ("valid", length - 2, length - 1),
                                   ("test", length - 1, length)]:
            writer.add_targets(split, [(s, first, last) for s in range(sequences)])
    datasets.write_dataset(folder, fill, facts=facts or {"source": "toy"})
    return datasets.load_dataset(folder)


def build_toy(toy, folder, **options):
    """Builds `folder/sids` by `CFG` with some options changed; opens it."""
    manifest = build.build_semantic_ids(
        toy, HASHED, dataclasses.replace(CFG, **options), folder / "sids",
        cache_folder=folder / "cache")
    return sid_table.load_semantic_ids(folder / "sids", toy), manifest
