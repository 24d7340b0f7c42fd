"""Balanced codes: loads within capacity, no shared IDs, little lost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxyrec_jax.tokenizer import balanced, kmeans, residual

METHODS = pytest.mark.parametrize("method", balanced.METHODS)
CFG = residual.ResidualKMeans(widths=(8, 8, 16), lloyd=kmeans.KMeans(chunk=64))


@pytest.fixture(scope="module")
def crowded():
    """600 points in 60 tight heaps of uneven size, and plain codebooks for them."""
    rng = np.random.default_rng(0)
    heaps = np.minimum(rng.geometric(0.05, 600), 60) - 1
    x = rng.normal(0, 3, (60, 6))[heaps] + rng.normal(0, 0.1, (600, 6))
    x = x.astype(np.float32)
    return x, residual.fit(jax.random.key(0), x, CFG)


def _duplicates(codes):
    counts = np.unique(codes, axis=0, return_counts=True)[1]
    return counts[counts > 1].sum() / len(codes)


def test_the_code_takes_the_nearest_and_the_rest_ask_again():
    # Room for two on each code. 0, 1 and 2 ask for the code at 0; it keeps 0 and 1.
    x = np.array([[2.0], [0], [1], [9]], np.float32)
    book = np.array([[0.0], [10]], np.float32)
    found = balanced.assign_level(x, book, balanced.Balance(slack=1.0))
    assert found.tolist() == [1, 0, 0, 1]


@METHODS
@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1000), st.sampled_from([1.0, 1.5, 3.0]))
def test_no_code_of_a_level_is_over_its_capacity(method, seed, slack):
    rng = np.random.default_rng(seed)
    x = np.float32(rng.normal(size=(200, 3)) + rng.exponential(size=(200, 1)))
    book = np.float32(rng.normal(size=(16, 3)))
    cfg = balanced.Balance(method=method, slack=slack)
    codes = balanced.assign_level(x, book, cfg)
    load = np.bincount(codes, minlength=16)
    assert codes.min() >= 0 and load.sum() == 200
    assert load.max() <= np.ceil(slack * 200 / 16)
    if slack == 1.0:
        assert load.min() > 0  # 13 * 15 < 200: no code can be left out


def test_with_room_for_all_the_nearest_centroid_stands():
    x = np.float32(np.random.default_rng(1).normal(size=(100, 3)))
    book = x[:10]
    codes = balanced.assign_level(x, book, balanced.Balance(slack=10.0))
    exact = ((np.float64(x)[:, None] - book) ** 2).sum(-1)
    np.testing.assert_array_equal(codes, exact.argmin(1))


@METHODS
def test_points_exactly_on_their_centroids_stay_there(method):
    book = np.float32(np.eye(4) * 5)
    cfg = balanced.Balance(method=method, slack=1.0)
    codes = balanced.assign_level(np.repeat(book, 3, 0), book, cfg)
    np.testing.assert_array_equal(codes, np.repeat(np.arange(4), 3))


def test_prices_balance_a_plan_to_the_capacity():
    rng = np.random.default_rng(2)
    x, book = rng.normal(size=(128, 2)), rng.normal(size=(4, 2))
    heat = 0.5
    prices = np.asarray(balanced._sinkhorn(
        jnp.float32(x), jnp.ones(128, bool), jnp.float32(book), 32.0, heat, sweeps=400,
        chunk=64))
    cost = ((x[:, None] - book) ** 2).sum(-1) + prices  # in float64, from scratch
    plan = np.exp(-(cost - cost.min(1, keepdims=True)) / heat)
    load = (plan / plan.sum(1, keepdims=True)).sum(0)
    np.testing.assert_allclose(load, 32, rtol=0.02)  # 4 codes of 32 for 128 points


@METHODS
@pytest.mark.parametrize("levels", ["last", "all"])
def test_duplicates_go_and_no_code_is_lost(crowded, levels, method):
    x, books = crowded
    plain = residual.encode(books, x)
    assert _duplicates(plain) > 0.2
    cfg = balanced.Balance(levels=levels, method=method)
    if levels == "all":
        books = balanced.fit(jax.random.key(0), x, CFG, cfg)
    codes = balanced.assign_balanced(books, x, cfg)
    assert _duplicates(codes) < 0.6 * _duplicates(plain)
    prefixes, inverse = np.unique(codes[:, :2], axis=0, return_inverse=True)
    for prefix in range(len(prefixes)):
        load = np.bincount(codes[inverse.ravel() == prefix, 2], minlength=16)
        assert load.max() - load.min() <= 1
    if levels == "all":
        for level in (0, 1):  # 2 * 600 / 8
            load = np.bincount(codes[:, level], minlength=8)
            assert load.max() <= 150 and load.min() > 0
    else:
        np.testing.assert_array_equal(codes[:, :2], plain[:, :2])
    same = balanced.assign_balanced(books, x, cfg)
    np.testing.assert_array_equal(codes, same)


def test_none_is_the_plain_encoding(crowded):
    x, books = crowded
    cfg = balanced.Balance(levels="none")
    np.testing.assert_array_equal(balanced.assign_balanced(books, x, cfg),
                                  residual.encode(books, x))


@METHODS
def test_identical_items_are_spread_over_all_codes(method):
    x = np.full((20, 3), 2.0, np.float32)
    books = (np.full((1, 3), 2.0, np.float32), np.zeros((16, 3), np.float32))
    codes = balanced.assign_balanced(books, x, balanced.Balance(method=method))
    load = np.bincount(codes[:, 1], minlength=16)
    assert load.min() == 1 and load.max() == 2  # 20 on 16 codes


@pytest.mark.parametrize("levels", balanced.LEVELS)
def test_one_level_and_one_item(levels):
    cfg = residual.ResidualKMeans(widths=(4,), lloyd=CFG.lloyd)
    balance = balanced.Balance(levels=levels)
    x = np.ones((1, 3), np.float32)
    books = balanced.fit(jax.random.key(0), x, cfg, balance)
    assert balanced.assign_balanced(books, x, balance).shape == (1, 1)
    np.testing.assert_allclose(books[0][0], x[0])


@pytest.mark.parametrize("wrong", [
    {"levels": "first"}, {"method": "auction"}, {"slack": 0.9}, {"temperature": 0.0},
    {"rounds": -1}, {"sweeps": 0}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        balanced.Balance(**wrong)


def test_beauty_titles_share_no_ids(shared_data, tmp_path):
    # Cheap stand-in for the encoder: hashed words, projected; 3 x 64 is crowded too.
    import gzip
    import json
    import zlib
    with gzip.open(shared_data / "amazon14_beauty" / "items.jsonl.gz", "rt") as lines:
        titles = [json.loads(line).get("title") or "" for line in lines][:3000]
    words = np.random.default_rng(0).normal(size=(4096, 32)).astype(np.float32)
    x = np.stack([np.sum([words[zlib.crc32(word.encode()) % 4096]
                          for word in title.split()] or [np.zeros(32)], axis=0)
                  for title in titles]).astype(np.float32)
    cfg = residual.ResidualKMeans(widths=(32, 32, 32), lloyd=CFG.lloyd)
    books = residual.fit(jax.random.key(0), x, cfg)
    plain = _duplicates(residual.encode(books, x))
    codes = balanced.assign_balanced(books, x, balanced.Balance())
    assert _duplicates(codes) <= 0.02 < plain
    for level in range(3):
        assert len(np.unique(codes[:, level])) >= 0.95 * 32
