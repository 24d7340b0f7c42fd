"""The offline text encoders: no network, right vectors, damaged files named."""

import json
import socket
import subprocess
import sys

import numpy as np
import pytest

from oxyrec_jax.base import InputError
from oxyrec_jax.tokenizer import text_encoders

TEXTS = ["OPI Nail Lacquer, Red", "red nail polish", "Shampoo for dry hair 250 ml",
         "", "été ☃ 洗发水"]
ORACLE = """
import json, pathlib, sys, wordllama
root = pathlib.Path(wordllama.__file__).parent
model = wordllama.WordLlama.load(cache_dir=root, disable_download=True)
print(json.dumps(model.embed(json.load(sys.stdin)).tolist()))
"""


def test_wordllama_gives_the_vectors_of_its_own_package():
    texts = [text for text in TEXTS if text]
    run = subprocess.run([sys.executable, "-c", ORACLE], input=json.dumps(texts),
                         capture_output=True, text=True, check=True)
    np.testing.assert_allclose(text_encoders.wordllama(texts), json.loads(run.stdout),
                               atol=1e-5)


def test_wordllama_needs_no_network_and_is_never_imported(monkeypatch):
    def refuse(*args):
        raise AssertionError("a network connection was tried")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    vectors = text_encoders.wordllama(TEXTS)
    assert vectors.shape == (5, 256) and vectors.dtype == np.float32
    assert "wordllama" not in sys.modules


def test_a_smaller_wordllama_is_the_leading_columns():
    np.testing.assert_array_equal(text_encoders.wordllama(TEXTS, dimension=64),
                                  text_encoders.wordllama(TEXTS)[:, :64])
    with pytest.raises(InputError, match="dimension 100; choose one of"):
        text_encoders.wordllama(TEXTS, dimension=100)


@pytest.mark.parametrize("encode", [text_encoders.wordllama, text_encoders.hashed])
def test_like_texts_are_near_and_empty_ones_zero(encode):
    vectors = encode(TEXTS)
    assert np.isfinite(vectors).all() and not vectors[3].any()
    norms = np.linalg.norm(vectors, axis=1)
    cosine = vectors @ vectors[1] / np.maximum(norms * norms[1], 1e-9)
    assert cosine[0] > cosine[2] and cosine[0] > 0.2


@pytest.mark.parametrize("encode", [text_encoders.wordllama, text_encoders.hashed])
def test_chunks_and_no_texts_change_nothing(encode, monkeypatch):
    whole = encode(TEXTS * 3)
    monkeypatch.setattr(text_encoders, "_TEXTS_AT_ONCE", 4)
    np.testing.assert_array_equal(encode(TEXTS * 3), whole)
    assert encode([]).shape[0] == 0


def test_hashed_vectors_by_hand():
    # <ab> has the grams <ab, ab>, <ab>; they stand in both of the two texts, so their
    # idf is log(3 / 3) + 1 = 1; those of xyz stand in one: log(3 / 2) + 1.
    both = text_encoders.hashed(["ab xyz", "ab"], dimension=4096)
    values = sorted(np.abs(both[0][both[0] != 0]).tolist())
    grams = ["<xy", "xyz", "yz>", "<xyz", "xyz>", "<xyz>"]
    assert len(values) == 3 + len(grams)
    np.testing.assert_allclose(values[:3], 1, rtol=1e-6)
    np.testing.assert_allclose(values[3:], np.log(1.5) + 1, rtol=1e-6)
    np.testing.assert_allclose(np.abs(both[1][both[1] != 0]), [1, 1, 1], rtol=1e-6)


def test_hashed_vectors_are_the_same_on_every_run():
    found = text_encoders.hashed(["nail polish red", "red hair"], dimension=8)
    again = subprocess.run(
        [sys.executable, "-c",
         "from oxyrec_jax.tokenizer import text_encoders as t\n"
         "print(t.hashed(['nail polish red', 'red hair'], dimension=8).tolist())"],
        capture_output=True, text=True, check=True)
    np.testing.assert_allclose(found, json.loads(again.stdout), rtol=1e-6)


def _move_package(monkeypatch, folder):
    class Spec:
        origin = str(folder / "__init__.py")
    monkeypatch.setattr(text_encoders.importlib.util, "find_spec", lambda name: Spec)


def test_missing_or_other_files_are_named(monkeypatch, tmp_path):
    found = text_encoders.find_wordllama()
    assert found.weights.is_file() and found.tokenizer.is_file()
    _move_package(monkeypatch, tmp_path)
    with pytest.raises(InputError, match="l2_supercat_256.safetensors is missing"):
        text_encoders.find_wordllama()
    (tmp_path / "weights").mkdir()
    whole = found.weights.read_bytes()
    (tmp_path / "weights" / found.weights.name).write_bytes(whole[:-1])
    with pytest.raises(InputError, match="is not the file that wordllama 0.4 ships"):
        text_encoders.find_wordllama()
    monkeypatch.setattr(text_encoders.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="wordllama, which is not installed"):
        text_encoders.find_wordllama()
