"""The quality figures, by hand and against plain loops."""

import json

import numpy as np
import pytest

from oxyrec_jax.tokenizer import quality

#   SIDs: (0, 0) twice, (0, 1), (1, 1) three times; level widths 3 and 2
CODES = np.array([[0, 0], [1, 1], [0, 0], [0, 1], [1, 1], [1, 1]])


def test_collisions_and_code_use_by_hand():
    figures = quality.measure(CODES, (3, 2))
    assert figures["items"] == 6 and figures["sids"] == 3
    assert figures["duplicates"] == pytest.approx(5 / 6)  # all but the one of (0, 1)
    assert figures["mean_items_per_sid"] == 2
    assert figures["max_items_per_sid"] == figures["p99"] == figures["p999"] == 3
    assert figures["coverage"] == [pytest.approx(2 / 3), 1]
    assert figures["dead_codes"] == [1, 0]
    # Level 0 has loads 3, 3, 0: two codes in even use. Level 1: 2 of 6 and 4 of 6.
    entropy = -(1 / 3 * np.log(1 / 3) + 2 / 3 * np.log(2 / 3))
    np.testing.assert_allclose(figures["perplexity"], [2, np.exp(entropy)])
    # (2 i - 4) x for x = 0, 3, 3 is 0 + 0 + 6 over 3 * 6; (2 i - 3) x for 2, 4 is
    # -2 + 4 over 2 * 6.
    np.testing.assert_allclose(figures["gini"], [6 / 18, 2 / 12])
    assert "purity" not in figures and "reconstruction" not in figures
    json.dumps(figures, allow_nan=False)


def test_gini_is_the_mean_absolute_difference():
    load = np.random.default_rng(0).integers(0, 9, 30)
    pairs = np.abs(load[:, None] - load).mean() / (2 * load.mean())
    assert quality.gini(load) == pytest.approx(pairs)


def test_purity_by_hand():
    names = ["a", "b", "a", "b", None, "b"]
    figures = quality.measure(CODES, (3, 2), categories=names)
    # Depth 1: prefix 0 holds a, a, b (2), prefix 1 holds b, b (2): 4 of 5 known.
    # Depth 2: (0, 0) holds a, a, (0, 1) holds b, (1, 1) holds b, b: all pure.
    assert figures["purity"] == [pytest.approx(0.8), 1]
    assert "purity" not in quality.measure(CODES, (3, 2), categories=[None] * 6)


def test_reconstruction_is_the_share_of_variance_left(monkeypatch):
    rng = np.random.default_rng(1)
    x = rng.normal(3, 1, (50, 4)).astype(np.float32)
    books = [rng.normal(3, 1, (3, 4)), rng.normal(0, 0.1, (2, 4))]
    codes = np.stack([rng.integers(0, 3, 50), rng.integers(0, 2, 50)], 1)
    variance = ((x - x.mean(0)) ** 2).sum()
    first = x - books[0][codes[:, 0]]
    expected = [(first ** 2).sum() / variance,
                ((first - books[1][codes[:, 1]]) ** 2).sum() / variance]
    np.testing.assert_allclose(quality.reconstruction(x, codes, books), expected,
                               rtol=1e-5)
    monkeypatch.setattr(quality, "_ROWS_AT_ONCE", 7)
    np.testing.assert_allclose(quality.reconstruction(x, codes, books), expected,
                               rtol=1e-5)


def test_identical_embeddings_have_nothing_left_over():
    x = np.full((4, 2), 0.1, np.float32)
    found = quality.reconstruction(x, np.zeros((4, 1), int), [x[:1]])
    assert found == [0.0]
