"""What each source gives, for items of the data set and for new ones."""

import dataclasses
import hashlib
import json

import numpy as np
import pyarrow as pa
import pytest

import tiny_world
from oxyrec_jax.base import InputError
from oxyrec_jax.data import schema
from oxyrec_jax.tokenizer import embeddings, engagement, sources
from oxyrec_jax.tokenizer.sources import SourceConfig
from oxyrec_jax.tokenizer.vector_files import VectorFile

HASHED = embeddings.EmbeddingConfig(source="hashed", dimension=32)


def table(**columns):
    rows = len(next(iter(columns.values())))
    return schema.item_table({"item_id": [f"i{n}" for n in range(rows)], **columns})


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_categorical_vectors_share_what_items_share():
    made = sources.categorical_vectors(table(
        category=["Hair > Shampoo", "Hair > Conditioner", "Nails > Polish",
                  "Hair|Shampoo", None, None],
        brand=["Acme", "acme ", "Other", "Acme", None, "Acme"],
        price=[10.0, 10.0, 200.0, 10.0, None, None]))
    assert made.shape == (6, 256) and made.dtype == np.float32
    np.testing.assert_array_equal(made[0], made[3])  # separators do not matter
    np.testing.assert_array_equal(made[4], 0)
    # Brand and price equal, one of three category names: (1 + 1 + 1/3) / 3 = 0.78;
    # 256 random signs add noise of 1/16.
    assert abs(cosine(made[0], made[1]) - 7 / 9) < 0.15
    assert abs(cosine(made[0], made[2])) < 0.2
    assert abs(cosine(made[0], made[5]) - 1 / 3 ** 0.5) < 0.15  # the brand of three


def test_near_prices_are_near():
    made = sources.categorical_vectors(table(price=[10.0, 10.5, 12.0, 100.0, 0.0]))
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, rtol=1e-5)
    near = [cosine(made[0], made[row]) for row in range(1, 5)]
    assert near[0] > 0.9 and near[0] > near[1] > 0.3
    assert abs(near[2]) < 0.25 and abs(near[3]) < 0.25


def test_categorical_vectors_do_not_depend_on_other_items():
    whole = table(category=["A > B", "C", None], brand=["x", None, "y"],
                  price=[1.0, 2.0, None])
    made = sources.categorical_vectors(whole)
    for row in range(3):
        np.testing.assert_array_equal(
            sources.categorical_vectors(whole.slice(row, 1))[0], made[row])


def test_categorical_vectors_are_the_same_on_every_machine():
    # Signs from SHAKE-128("brand acme"), most significant bit first.
    made = sources.categorical_vectors(table(brand=["Acme"]), 16)[0]
    bits = "".join(f"{byte:08b}" for byte in hashlib.shake_128(b"brand acme").digest(2))
    np.testing.assert_allclose(made, [(2 * int(bit) - 1) / 4 for bit in bits])


@pytest.mark.parametrize("price", [-1.0, float("inf"), float("nan")])
def test_a_price_that_is_none_is_named(price):
    items = table(brand=["a", "b"]).set_column(
        5, "price", pa.array([1.0, price], pa.float32()))
    with pytest.raises(InputError, match="row 1 of the item table has the price"):
        sources.categorical_vectors(items)


def test_all_sources_of_a_data_set_and_of_new_items(tmp_path):
    data = tiny_world.make_dataset(tmp_path / "data")
    np.save(tmp_path / "image.npy", np.ones((30, 3), np.float32))
    items = data.item_table().set_column(
        2, "text", pa.array([f"word{n % 5}" if n else "" for n in range(30)]))
    items = items.set_column(4, "brand", pa.array(["Acme", None] * 15))
    cfg = SourceConfig(generation="multi-source", dimension=8,
                       image=VectorFile(str(tmp_path / "image.npy")))
    cfg = sources.resolve(cfg, items)
    assert cfg.sources == sources.SOURCES
    found = sources.item_sources(items, cfg, HASHED, tmp_path / "cache", dataset=data)
    assert found.names == cfg.sources and found.present.shape == (30, 4)
    expected = engagement.co_engagement_embeddings(
        data.column("item"), data.offsets(), data.split("train"), num_items=30,
        dimension=8, window=5, seed=0)
    np.testing.assert_array_equal(found.vectors["co-engagement"], expected)
    np.testing.assert_array_equal(found.present[:, 0], np.arange(30) > 0)
    np.testing.assert_array_equal(found.present[:, 2], np.arange(30) % 2 == 0)
    facts = found.facts()
    json.dumps(facts, allow_nan=False)
    assert facts["text"]["items"] == 29 and facts["text"]["dimension"] == 32
    assert facts["image"]["origin"]["file"] == "image.npy"
    assert len({fact["sha256"] for fact in facts.values()}) == 4
    # New items: no behaviour, no image in the file's place by row.
    new = dataclasses.replace(cfg, image=None, sources=("text", "co-engagement"))
    fresh = sources.item_sources(table(text=["word1", "word2"]), new, HASHED,
                                 tmp_path / "cache")
    np.testing.assert_array_equal(fresh.present, [[True, False], [True, False]])
    assert fresh.vectors["co-engagement"].shape == (2, 8)


def test_concatenation_by_hand():
    found = sources.ItemSources({"text": np.array([[3, 4], [0, 0]], np.float32),
                                 "image": np.array([[0, 0, 2], [1, 0, 0]], np.float32)},
                                {"text": None, "image": None})
    np.testing.assert_allclose(sources.concatenate(found, (1.0, 2.0)),
                               [[.6, .8, 0, 0, 2], [0, 0, 2, 0, 0]], rtol=1e-6)
    assert sources.concatenate(found).dtype == np.float32


@pytest.mark.parametrize("generation, expected", [
    ("concatenate", ("text",)), ("text", ("text",)),
    ("early-fusion", ("text", "categorical")), ("late-fusion", ("text", "categorical")),
    ("multi-source", ("text", "categorical", "co-engagement"))])
def test_open_sources_are_those_of_the_generation_that_the_items_have(
        generation, expected):
    items = table(text=["x", ""], brand=["a", None])
    found = sources.resolve(SourceConfig(generation), items)
    assert found.sources == expected


@pytest.mark.parametrize("options, said", [
    ({"generation": "fifth"}, "is 'fifth', expected one of concatenate, text"),
    ({"sources": ("sound",)}, "expected one or more of text, image"),
    ({"sources": ()}, "expected one or more of text"),
    ({"sources": ("text", "text")}, "expected one or more of text"),
    ({"sources": ("image",)}, "set image.path"),
    ({"generation": "text", "sources": ("text", "categorical")}, "leave them open"),
    ({"generation": "late-fusion"}, "learns from two sources .* only .'text'"),
    ({"weights": (1.0, 2.0)}, "one positive number for each"),
    ({"weights": (-1.0,)}, "one positive number for each"),
])
def test_configurations_that_do_not_fit_are_named(options, said):
    with pytest.raises(InputError, match=said):
        sources.resolve(SourceConfig(**options), table(text=["x"]))


def test_items_without_text_are_named(tmp_path):
    data = tiny_world.make_dataset(tmp_path / "data")
    with pytest.raises(InputError, match="the items have no text"):
        sources.item_sources(data.item_table(), SourceConfig(), HASHED,
                             tmp_path / "cache", dataset=data)
