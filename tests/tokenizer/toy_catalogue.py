"""A few items with titles and a random log, for tests that build semantic IDs."""

import csv
import dataclasses

import numpy as np
import pyarrow as pa

from oxyrec_jax.data import dataset as datasets
from oxyrec_jax.tokenizer import (build, fsq, kmeans, lifecycle, quantiser, rqvae,
                                  sid_table)
from oxyrec_jax.tokenizer import trie as tries
from oxyrec_jax.tokenizer.embeddings import EmbeddingConfig
from oxyrec_jax.tokenizer.sources import SourceConfig

HASHED = EmbeddingConfig("hashed", dimension=16)
CFG = build.TokenizerConfig(
    widths=(8, 8), sources=SourceConfig(dimension=4),
    quantiser=quantiser.Quantiser(lloyd=kmeans.KMeans(iterations=8)))
SMALL = dataclasses.replace(
    CFG.quantiser, rq_vae=rqvae.RqVae(hidden=(8,), latent=4, steps=20, batch=32),
    fsq=fsq.Fsq(hidden=(8,), steps=20, batch=32))
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


def write_items(path, texts, first=0):
    with open(path, "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["item_id", "title"])
        out.writerows([f"new{first + n}", text] for n, text in enumerate(texts))
    return path


def add(toy, bundle, texts, first=0, **options):
    path = write_items(bundle.parent / "new.csv", texts, first)
    manifest = lifecycle.add_items(toy, bundle, path,
                                   cache_folder=bundle.parent / "cache", **options)
    return sid_table.load_semantic_ids(bundle, toy), manifest


def leave(toy, bundle, *names):
    path = bundle.parent / "gone.txt"
    path.write_text("\n".join(names) + "\n")
    manifest = lifecycle.retire_items(toy, bundle, path)
    return sid_table.load_semantic_ids(bundle, toy), manifest


def check_trie(ids):
    """Every SID of a live item is a path of the trie, and every path is such a SID."""
    trie, leaves = tries.build_trie(ids.codes[ids.live], ids.widths)
    nodes = np.zeros(1, np.int32)
    paths = np.zeros((1, 0), int)
    for level in range(len(ids.widths)):
        codes, below, legal = (np.asarray(found) for found in
                               tries.children(trie, level, nodes))
        rows, slots = np.nonzero(legal)
        paths = np.concatenate([paths[rows], codes[rows, slots, None]], axis=1)
        nodes = below[rows, slots]
    np.testing.assert_array_equal(paths, np.unique(ids.codes[ids.live], axis=0))
    assert len(leaves) == len(paths)
    held = [ids.items(path) for path in paths]
    np.testing.assert_array_equal(np.sort(np.concatenate(held)),
                                  np.flatnonzero(ids.live))
