"""A near-line run in a process of its own, which a test may kill."""

import dataclasses
import json

import numpy as np

from oxyrec_jax import chat
from oxyrec_jax.thinking import pipeline
from oxyrec_jax.thinking.opening import StoreConfig, open_store
from oxyrec_jax.thinking.states import Deed, UserState

DIMENSION = 2
WINDOW = 1_790_000_100


def states(count, first=0):
    """Users u0, u1, …, each with a title of its own."""
    return [UserState(f"u{number}", (Deed(f"Lantern {number}"),))
            for number in range(first, first + count)]


def embed(texts):
    return np.array([[len(text), sum(text.encode()) % 1000] for text in texts],
                    np.float32)


def think(endpoint, folder, given, *, window=WINDOW, batch=4, ask_again=False,
          embed=embed, **options):
    """One run against a server, into the LMDB store of a folder."""
    cfg = pipeline.ThinkConfig(
        batch=batch, chat=chat.ChatConfig(ask_again=ask_again), **options)
    with open_store(StoreConfig(max_bytes=1 << 26), folder / "store",
                    dimension=DIMENSION) as store:
        return pipeline.think_by_llm(given, endpoint, embed, store, folder / "think",
                                     cfg, window=window, encoder="lengths")


def stored(folder, users, kind="reasoning"):
    """The texts that the store serves, None where it has none."""
    with open_store(StoreConfig(max_bytes=1 << 26), folder / "store",
                    dimension=DIMENSION, encoder="lengths") as store:
        found = store.get_many(users, kind)
        assert (found.vectors[found.stored] == embed(found.texts[found.stored])
                .astype(np.float16)).all() if found.stored.any() else True
        return [text if there else None
                for text, there in zip(found.texts, found.stored)]


def check_sums(summary, kinds=1):
    """Every user and kind is accounted for exactly once."""
    ours = summary.users - summary.other_shard - summary.repeated
    assert ours * kinds == (
        summary.bad_id + summary.already + summary.no_data + summary.passed
        + sum(summary.refused.values()) + sum(summary.errors.values()))
    assert summary.passed == summary.stored + summary.unchanged + summary.older
    assert json.loads(json.dumps(pipeline.as_json(summary))) == dataclasses.asdict(
        summary)
