"""Residual k-means: encode is greedy brute force, the error falls level by level."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxyrec_jax.tokenizer import kmeans, residual

CFG = residual.ResidualKMeans(widths=(16, 8, 32), lloyd=kmeans.KMeans(chunk=64))


def _points(rows=400, dimension=12, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, dimension)).astype(np.float32)


@pytest.fixture(scope="module")
def fitted():
    x = _points()
    return x, residual.fit(jax.random.key(0), x, CFG)


def test_encode_is_the_nearest_centroid_of_each_residual(fitted):
    x, books = fitted
    rest = x.astype(np.float64)
    codes = residual.encode(books, x, chunk=64)
    for level, book in enumerate(books):
        book = np.float64(book)
        exact = ((rest[:, None] - book) ** 2).sum(-1)
        np.testing.assert_allclose(exact[np.arange(len(x)), codes[:, level]],
                                   exact.min(1), rtol=1e-5)
        assert (codes[:, level] == exact.argmin(1)).mean() > 0.99
        rest = rest - book[codes[:, level]]


def test_error_never_rises_with_the_level(fitted):
    x, books = fitted
    codes = residual.encode(books, x, chunk=64)
    errors = [((x - residual.decode(books, codes[:, :level])) ** 2).sum()
              for level in range(4)]
    assert errors == sorted(errors, reverse=True)
    assert errors[3] < 0.5 * errors[0]


def test_decode_sums_the_centroids(fitted):
    _, books = fitted
    codes = np.array([[3, 0, 31], [0, 7, 1]], np.int32)
    expected = [np.asarray(books[0])[3] + books[1][0] + books[2][31],
                np.asarray(books[0])[0] + books[1][7] + books[2][1]]
    np.testing.assert_allclose(residual.decode(books, codes), expected, rtol=1e-6)


@settings(deadline=None, max_examples=10)
@given(st.integers(1, 64))
def test_codes_do_not_depend_on_the_rows_beside_them(fitted, rows):
    x, books = fitted
    whole = residual.encode(books, x, chunk=64)
    np.testing.assert_array_equal(residual.encode(books, x[:rows], chunk=64),
                                  whole[:rows])


def test_streaming_equals_one_piece(fitted, monkeypatch):
    x, books = fitted
    whole = residual.encode(books, x, chunk=64)
    monkeypatch.setattr(residual, "_ROWS_AT_ONCE", 128)
    np.testing.assert_array_equal(residual.encode(books, x, chunk=64), whole)


def test_same_seed_same_bits_and_another_seed_others():
    x = _points()
    first, again, other = (residual.fit(jax.random.key(seed), x, CFG)
                           for seed in (1, 1, 2))
    for level in range(3):
        np.testing.assert_array_equal(first[level], again[level])
        assert (np.asarray(first[level]) != other[level]).any()


def test_a_large_set_is_fitted_on_a_sample():
    x = _points(4000, 4)
    errors = {}
    for sample in (50, 500):  # of each code: 400 points, and all 4,000
        cfg = residual.ResidualKMeans(widths=(8, 8), sample=sample, lloyd=CFG.lloyd)
        books = residual.fit(jax.random.key(0), x, cfg)
        rebuilt = residual.decode(books, residual.encode(books, x, chunk=64))
        errors[sample] = ((x - rebuilt) ** 2).sum()
    assert errors[500] < errors[50] < 1.15 * errors[500]


@pytest.mark.parametrize("x", [np.full((390, 12), 0.5), np.full((1, 12), 3.0)],
                         ids=["all identical", "one item"])
def test_degenerate_catalogues_are_reconstructed(x):
    books = residual.fit(jax.random.key(0), x, CFG)
    codes = residual.encode(books, x)
    assert len(np.unique(codes, axis=0)) == 1
    np.testing.assert_allclose(residual.decode(books, codes), x, atol=1e-6)


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(ValueError, match="NaN or infinity"):
        residual.fit(jax.random.key(0), np.array([[1.0, np.nan]]), CFG)
    with pytest.raises(ValueError, match="at least one row"):
        residual.fit(jax.random.key(0), np.zeros((0, 4)), CFG)
    with pytest.raises(ValueError, match="positive"):
        residual.ResidualKMeans(widths=(4, 0))


def test_another_dimension_is_refused(fitted):
    with pytest.raises(ValueError, match="codebooks"):
        residual.encode(fitted[1], np.zeros((2, 3)))


def _loss(x, books):
    rebuilt = residual.decode(books, residual.encode(books, x, chunk=64))
    return ((x - rebuilt) ** 2).sum()


def test_the_row_that_is_not_finite_is_named(fitted):
    x = _points()
    x[7, 3] = np.inf
    with pytest.raises(ValueError, match="row 7 of x"):
        residual.fit(jax.random.key(0), x, CFG)
    with pytest.raises(ValueError, match="row 7 of x"):
        residual.encode(fitted[1], x)


def test_points_are_placed_block_by_block(monkeypatch):
    x = _points(500, 3)
    monkeypatch.setattr(residual, "_ROWS_PLACED_AT_ONCE", 100)
    points, mask = residual.place(x, None, 64, None)
    assert points.shape == (512, 3) and mask.sum() == 500
    np.testing.assert_array_equal(points[:500], x)
    assert not points[500:].any()
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    rows = np.arange(0, 500, 2)
    shared, mask = residual.place(x, rows, 64, mesh)
    assert shared.shape == (512, 3) and mask.sum() == 250  # 64 on each of 8 devices
    np.testing.assert_array_equal(shared[:250], x[rows])


def test_eight_devices_give_what_one_gives(fitted):
    x, books = fitted
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    shared = residual.fit(jax.random.key(0), x, CFG, mesh=mesh)
    # Within 1 %: a point between two codes may change sides by rounding, and the fit
    # then ends in another, equally good place.
    np.testing.assert_allclose(_loss(x, shared), _loss(x, books), rtol=0.01)


def test_batches_end_near_where_all_points_at_once_end():
    x = _points(3000, 8)
    whole = residual.fit(jax.random.key(0), x, CFG)
    cfg = residual.ResidualKMeans(widths=CFG.widths, lloyd=CFG.lloyd,
                                  memory=3000 * 8 * 4 // 4)
    first, again = (residual.fit(jax.random.key(0), x, cfg) for _ in range(2))
    assert _loss(x, first) < 1.03 * _loss(x, whole)
    for book, same in zip(first, again):
        np.testing.assert_array_equal(book, same)


def test_a_warm_start_moves_on_and_keeps_the_meaning_of_codes(fitted):
    x, books = fitted
    moved = residual.fit(jax.random.key(5), x, CFG, start=books)
    assert _loss(x, moved[:1]) <= _loss(x, books[:1]) * (1 + 1e-6)
    assert _loss(x, moved) <= _loss(x, books) * 1.02  # later levels: other rests
    codes = residual.encode(books, x, chunk=64)[:, 0]
    assert (residual.encode(moved, x, chunk=64)[:, 0] == codes).mean() > 0.9
    with pytest.raises(ValueError, match="start has"):
        residual.fit(jax.random.key(0), x, CFG, start=books[:2])


def test_batches_too_small_for_a_level_are_refused():
    cfg = residual.ResidualKMeans(widths=(256,), memory=8000)
    with pytest.raises(ValueError, match="expected at least 256"):
        residual.fit(jax.random.key(0), _points(), cfg)
