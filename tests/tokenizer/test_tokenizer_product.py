"""Product quantisation: slices against brute force, what the rotation of OPQ earns."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxyrec_jax import parallel
from oxyrec_jax.base import InputError
from oxyrec_jax.tokenizer import kmeans, product

WIDTHS = (16, 16, 16)
LLOYD = kmeans.KMeans(iterations=10)


def _points(rows=500, dimension=12, seed=0):
    """Points with strongly correlated columns, far from the origin."""
    rng = np.random.default_rng(seed)
    scales = 2.0 ** -np.arange(dimension)
    turn = np.linalg.qr(rng.normal(size=(dimension, dimension)))[0]
    return (rng.normal(size=(rows, dimension)) * scales @ turn + 7).astype(np.float32)


def _fit(x, rotations, *, seed=0, sample=256, start=None, mesh=None):
    return product.fit(jax.random.key(seed), x, product.Product(rotations),
                       widths=WIDTHS, sample=sample, lloyd=LLOYD, start=start,
                       mesh=mesh)


def _error(arrays, x, levels=3):
    codes = product.encode(arrays, x, levels=levels, chunk=512)
    return np.square(x - product.decode(arrays, codes)).sum()


@pytest.fixture(scope="module")
def plain():
    return _points(), _fit(_points(), 0)


@pytest.fixture(scope="module")
def turned():
    return _points(), _fit(_points(), 20)


@pytest.mark.parametrize("which", ["plain", "turned"])
def test_each_code_is_the_nearest_centroid_of_its_slice(which, request):
    x, arrays = request.getfixturevalue(which)
    codes = product.encode(arrays, x, levels=3, chunk=64)
    y = (np.float64(x) - arrays["mean"]) @ np.float64(arrays["rotation"])
    for level in range(3):
        book = np.float64(arrays[f"subspace_{level}"])
        part = y[:, 4 * level : 4 * level + 4]
        exact = np.square(part[:, None] - book).sum(-1)
        np.testing.assert_allclose(exact[np.arange(500), codes[:, level]],
                                   exact.min(1), rtol=1e-3, atol=1e-6)
        assert (codes[:, level] == exact.argmin(1)).mean() > 0.99


def test_without_rotations_the_columns_stay_where_they_are(plain):
    x, arrays = plain
    np.testing.assert_array_equal(arrays["rotation"], np.eye(12))
    codes = np.array([[3, 0, 15]])
    expected = np.concatenate([arrays[f"subspace_{level}"][code]
                               for level, code in enumerate(codes[0])])
    np.testing.assert_allclose(product.decode(arrays, codes)[0],
                               expected + x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(product.decode(arrays, codes[:, :1])[0, 4:],
                               x.mean(0)[4:], rtol=1e-5)


def test_the_rotation_is_orthonormal_and_keeps_distances(turned):
    _, arrays = turned
    square = np.float64(arrays["rotation"]).T @ np.float64(arrays["rotation"])
    np.testing.assert_allclose(square, np.eye(12), atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_the_rotation_lowers_the_error_on_correlated_columns(seed):
    x = _points(seed=seed)
    assert _error(_fit(x, 20), x) < 0.7 * _error(_fit(x, 0), x)


def test_slices_that_fit_the_columns_already_are_left_as_they_are():
    # Three slices of four columns, each 16 distinct rows at random and independent of
    # the others: cut right there PQ loses nothing, and any turn would.
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(16, 4))[rng.integers(0, 16, 500)]
                        for _ in range(3)], axis=1).astype(np.float32)
    assert _error(_fit(x, 20), x) < 1e-6 * np.square(x - x.mean(0)).sum()


def test_what_centroids_explain_is_the_error_that_they_save(plain):
    x, arrays = plain
    centred, codes = x - arrays["mean"], product.encode(arrays, x, levels=3, chunk=64)
    books = product._books(arrays, 3)
    sums = []
    for level in range(3):
        taken = np.eye(16)[codes[:, level]]
        sums.append((taken.T @ centred, taken.sum(0)))
    saved = np.square(centred).sum() - _error(arrays, x)
    np.testing.assert_allclose(product.explained(sums, arrays["rotation"], books),
                               saved, rtol=1e-4)


def test_more_turns_do_not_rebuild_worse_than_the_principal_axes():
    x = _points()
    assert _error(_fit(x, 20), x) < 1.02 * _error(_fit(x, 1), x)


def test_one_turn_is_the_procrustes_of_the_centroids_taken():
    x = np.float32(np.random.default_rng(0).normal(size=(200, 6)))
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    books = [np.float32(np.random.default_rng(2 + k).normal(size=(5, 3)))
             for k in range(2)]
    padded, mask = kmeans.pad_points(x, 64)
    found, moved = product._alternate(padded, mask, np.float32(rotation),
                                      tuple(books), 1, 64)
    y = x @ rotation
    codes = [np.square(y[:, None, 3 * k : 3 * k + 3] - books[k]).sum(-1).argmin(1)
             for k in range(2)]
    taken = np.concatenate([books[k][codes[k]] for k in range(2)], axis=1)
    left, _, right = np.linalg.svd(np.float64(x).T @ taken)
    np.testing.assert_allclose(found, left @ right, atol=1e-4)
    again = x @ (left @ right)
    for k in range(2):
        for code in np.unique(codes[k]):
            np.testing.assert_allclose(
                moved[k][code], again[codes[k] == code, 3 * k : 3 * k + 3].mean(0),
                atol=1e-4)


def test_axes_are_dealt_so_that_products_of_variances_are_even():
    # Logs over the least: 16 -> 4, 8 -> 3, 2 -> 1, 1 -> 0. The first slice gets 16, the
    # second, being empty, 8; it has less, so it gets 2 too; the first gets the rest.
    assert product.allocate(np.array([16.0, 8, 2, 1]), (2, 2)) == [[0, 3], [1, 2]]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 8), st.integers(0, 99))
def test_every_axis_is_dealt_once(dimension, levels, seed):
    levels = min(levels, dimension)
    sizes = product.slices(dimension, levels)
    assert sum(sizes) == dimension and max(sizes) - min(sizes) <= 1
    variances = np.sort(np.random.default_rng(seed).exponential(size=dimension))[::-1]
    dealt = product.allocate(variances, sizes)
    assert [len(axes) for axes in dealt] == list(sizes)
    assert sorted(sum(dealt, [])) == list(range(dimension))


def test_columns_that_no_number_of_slices_divides():
    x = _points(dimension=11)
    arrays = _fit(x, 1)
    assert [arrays[f"subspace_{level}"].shape[1] for level in range(3)] == [4, 4, 3]
    assert _error(arrays, x) < 0.5 * np.square(x - x.mean(0)).sum()


def test_a_large_set_is_fitted_on_a_sample():
    x = _points(4000)
    errors = _error(_fit(x, 5, sample=32), x), _error(_fit(x[:512], 5), x[:512])
    assert errors[0] / 4000 < 1.5 * errors[1] / 512


def test_a_start_is_gone_on_from(turned):
    x, arrays = turned
    more = _fit(x, 1, seed=9, start=arrays)
    np.testing.assert_array_equal(more["mean"], arrays["mean"])
    turn = np.linalg.norm(more["rotation"] - arrays["rotation"])
    assert turn < 0.3 * np.sqrt(2 * 12)  # sqrt(2 * 12): two rotations drawn at random
    assert _error(more, x) < 1.05 * _error(arrays, x)


def test_eight_devices_fit_as_one_does():
    x = _points()
    one, eight = (_fit(x, 3, mesh=mesh)
                  for mesh in (None, parallel.make_mesh(parallel.MeshConfig())))
    # Sums in another order: a point between two centroids may change sides.
    np.testing.assert_allclose(_error(eight, x), _error(one, x), rtol=0.05)
    np.testing.assert_allclose(eight["mean"], one["mean"], rtol=1e-6)


def test_fewer_columns_than_slices_are_refused():
    with pytest.raises(InputError, match="into 3 slices, found 2 columns; take fewer"):
        _fit(_points(dimension=2), 5)
    with pytest.raises(InputError, match="rotations is -1, expected at least 0"):
        _fit(_points(), -1)
