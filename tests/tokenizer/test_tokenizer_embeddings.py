"""Embedding sources: cache, files, damage, and the endpoint through the client."""

import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oxyrec_jax import llm
from oxyrec_jax.base import InputError
from oxyrec_jax.tokenizer import embeddings, text_encoders

TEXTS = ["red nail polish", "shampoo", "", "red nail polish"]
Config = embeddings.EmbeddingConfig


@pytest.mark.parametrize("cfg, dimension", [
    (Config(), 256), (Config(dimension=64), 64), (Config("hashed"), 384),
    (Config("hashed", dimension=16), 16)])
def test_offline_sources_give_rows_in_order(tmp_path, cfg, dimension):
    vectors = embeddings.embed_texts(TEXTS, cfg, tmp_path)
    assert vectors.shape == (4, dimension) and vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors[0], vectors[3])
    assert vectors[0].any() and not vectors[2].any()
    facts = embeddings.describe_encoder(cfg)
    assert facts["dimension"] == dimension and facts["name"]


def test_the_cache_is_read_and_knows_texts_and_settings(tmp_path, monkeypatch):
    made = []
    encode = text_encoders.hashed

    def count(texts, *, dimension):
        made.append(len(texts))
        return encode(texts, dimension=dimension)
    monkeypatch.setattr(text_encoders, "hashed", count)
    first = embeddings.embed_texts(TEXTS, Config("hashed"), tmp_path)
    again = embeddings.embed_texts(TEXTS, Config("hashed"), tmp_path)
    np.testing.assert_array_equal(first, again)
    assert made == [4]
    embeddings.embed_texts(TEXTS[:2], Config("hashed"), tmp_path)
    embeddings.embed_texts(["red nail", "polishshampoo"], Config("hashed"), tmp_path)
    embeddings.embed_texts(TEXTS, Config("hashed", dimension=8), tmp_path)
    assert made == [4, 2, 2, 4]


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_cache_is_made_again_and_said(tmp_path, caplog, damage):
    right = embeddings.embed_texts(TEXTS, Config("hashed"), tmp_path)
    path, = tmp_path.glob("embeddings-*/vectors.npy")
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 255
    path.write_bytes(whole[:-9] if damage == "cut" else whole)
    with caplog.at_level(logging.WARNING):
        again = embeddings.embed_texts(TEXTS, Config("hashed"), tmp_path)
    np.testing.assert_array_equal(again, right)
    assert "vectors.npy" in caplog.text and "made again" in caplog.text


def test_files_give_float32_rows(tmp_path):
    x = np.arange(12.0).reshape(4, 3)
    np.save(tmp_path / "x.npy", x)
    lists = pa.array(x.tolist(), pa.list_(pa.float64()))
    fixed = pa.array(x.tolist(), pa.list_(pa.float32(), 3))
    pq.write_table(pa.table({"embedding": lists, "fixed": fixed}),
                   tmp_path / "x.parquet", row_group_size=3)
    for name, column in [("x.npy", "embedding"), ("x.parquet", "embedding"),
                         ("x.parquet", "fixed")]:
        cfg = Config("file", path=str(tmp_path / name), column=column, dimension=3)
        found = embeddings.embed_texts(TEXTS, cfg, tmp_path / "cache")
        np.testing.assert_array_equal(found, x)
        assert found.dtype == np.float32
        assert len(embeddings.describe_encoder(cfg)["sha256"]) == 64


def _npy(path, array):
    np.save(path.with_suffix(".npy"), array, allow_pickle=True)
    return path.with_suffix(".npy")


def _parquet(path, values, kind=None):
    table = pa.table({"embedding": pa.array(values, kind)})
    pq.write_table(table, path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


def _write(path, data):
    path.write_bytes(data)
    return path


GOOD = np.ones((4, 2))
NAN = np.array([[1, 2], [3, np.nan], [5, 6], [np.inf, 8]])


@pytest.mark.parametrize("make, words", [
    (lambda p: _npy(p, NAN), r"x.npy: row 1 holds NaN or infinity \(2 such rows\)"),
    (lambda p: _npy(p, GOOD * 1e300), "row 0 holds NaN or infinity"),
    (lambda p: _npy(p, GOOD[:3]), r"x.npy gives .*\(3, 2\), expected \[4, dimension\]"),
    (lambda p: _npy(p, np.ones(4)), r"shape \(4,\)"),
    (lambda p: _npy(p, np.array([["a"]] * 4)), "x.npy holds no numbers"),
    (lambda p: _npy(p, np.array([[{}]] * 4)), "x.npy is not a readable .npy"),
    (lambda p: _write(p.with_suffix(".npy"), b"junk"), "x.npy is not a readable .npy"),
    (lambda p: _write(p.with_suffix(".npy"), b""), "x.npy is not a readable .npy"),
    (lambda p: _npy(p, np.ones((4, 5))), "vectors of 5 numbers, expected 2"),
    (lambda p: _write(p.with_suffix(".parquet"), b"junk"), "not a readable Parquet"),
    (lambda p: _parquet(p, [[1.0, 2], [1.0], [1.0, 2], [1.0, 2]]),
     "row 1 of column 'embedding' holds 1 numbers"),
    (lambda p: _parquet(p, [[1.0, 2], [1.0, 2], None, [1.0, 2]]), "row 2.*no list"),
    (lambda p: _parquet(p, [None] * 4, pa.list_(pa.float32())), "row 0.*no list"),
    (lambda p: _parquet(p, [[1.0, None]] * 4), "row 0 holds NaN"),
    (lambda p: _parquet(p, [[1.0, 2]] * 3), r"\(3, 2\), expected \[4"),
    (lambda p: _parquet(p, [1.0] * 4), "holds double, expected lists"),
    (lambda p: _parquet(p, [["a", "b"]] * 4), "holds no numbers"),
    (lambda p: _write(p.with_suffix(".txt"), b"1 2"), "ends in '.txt'"),
    (lambda p: p.with_suffix(".npy"), "x.npy does not exist"),
])
def test_bad_files_are_named(tmp_path, make, words):
    path = make(tmp_path / "x")
    with pytest.raises(InputError, match=words):
        embeddings.embed_texts(TEXTS, Config("file", path=str(path), dimension=2),
                               tmp_path / "cache")


@pytest.mark.parametrize("cfg, words", [
    (Config("bert"), "source is 'bert', expected one of wordllama"),
    (Config("file"), "need its path"),
    (Config("endpoint"), "need endpoint.url"),
])
def test_settings_that_cannot_work_are_named(tmp_path, cfg, words):
    with pytest.raises(InputError, match=words):
        embeddings.embed_texts(TEXTS, cfg, tmp_path)


def test_a_missing_column_is_named_with_those_there(tmp_path):
    path = _parquet(tmp_path / "x", [[1.0]] * 4)
    with pytest.raises(InputError, match="no column 'vector'; its columns are embedd"):
        embeddings.embed_texts(TEXTS, Config("file", path=str(path), column="vector"),
                               tmp_path)


def test_the_endpoint_is_asked_through_the_client(tmp_path, monkeypatch):
    asked = []

    def embed(texts, endpoint, *, dimension, cache, advance):
        asked.append((list(texts), endpoint.model, dimension))
        advance(len(texts))
        return np.ones((len(texts), 3), np.float32), llm.Usage(texts=3)
    monkeypatch.setattr(llm, "embed", embed)
    cfg = Config("endpoint", dimension=3,
                 endpoint=llm.Endpoint("http://localhost/v1", "tiny"))
    for _ in range(2):  # the second is read from the cache
        assert embeddings.embed_texts(TEXTS, cfg, tmp_path).shape == (4, 3)
    assert asked == [(TEXTS, "tiny", 3)]
    assert "tiny" in embeddings.describe_encoder(cfg)["name"]
