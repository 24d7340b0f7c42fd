"""Every quantiser through its one interface: nearest codes, round trips, bad input."""

import jax
import numpy as np
import pytest

from oxyrec_jax.base import InputError
from oxyrec_jax.tokenizer import fsq, kmeans, quantiser, residual, rqvae

WIDTHS = (16, 8, 16)  # few different ones: each is compiled
LLOYD = kmeans.KMeans(iterations=8)
FIELDS = {
    "residual-kmeans": {},
    "balanced-kmeans": {},
    "rq-vae": {"rq_vae": rqvae.RqVae(hidden=(32,), latent=8, batch=64, steps=200,
                                     learning_rate=3e-3)},
    "product": {},
    "fsq": {"fsq": fsq.Fsq(hidden=(32,), batch=64, steps=400, learning_rate=3e-3)},
}
CONFIGS = {kind: quantiser.Quantiser(kind=kind, lloyd=LLOYD, **fields)
           for kind, fields in FIELDS.items()}


def _points(rows=400, dimension=12, seed=0):
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(rows, dimension)) @ rng.normal(size=(dimension, dimension))
    return (mixed + 1).astype(np.float32)


@pytest.fixture(scope="module", params=CONFIGS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def fitted(kind):
    x = _points()
    return x, quantiser.fit(jax.random.key(0), x, CONFIGS[kind], widths=WIDTHS)


def test_codes_lie_in_their_levels(fitted):
    x, books = fitted
    codes = quantiser.encode(books, x, chunk=64)
    assert codes.dtype == np.int32 and codes.shape == (400, 3)
    assert (codes >= 0).all() and (codes < WIDTHS).all()
    assert len(np.unique(codes, axis=0)) > 100


def test_the_last_code_is_the_nearest_by_brute_force(fitted):
    x, books = fitted
    codes = quantiser.encode(books, x, chunk=64)
    rest, last = (np.float64(part) for part in quantiser.last_level(books, x, codes))
    exact = np.square(rest[:, None] - last).sum(-1)
    np.testing.assert_allclose(exact[np.arange(400), codes[:, -1]], exact.min(1),
                               rtol=1e-4, atol=1e-5)
    assert (codes[:, -1] == exact.argmin(1)).mean() > 0.99


def test_more_codes_rebuild_better(fitted):
    x, books = fitted
    codes = quantiser.encode(books, x, chunk=64)
    errors = [np.square(x - quantiser.decode(books, codes[:, :level])).mean()
              for level in range(4)]
    assert errors == sorted(errors, reverse=True)
    assert errors[3] < 0.6 * errors[0]


def test_codes_do_not_depend_on_the_rows_beside_them(fitted):
    x, books = fitted
    whole = quantiser.encode(books, x, chunk=64)
    for rows in (1, 63, 65):
        np.testing.assert_array_equal(quantiser.encode(books, x[:rows], chunk=64),
                                      whole[:rows])
    assert quantiser.encode(books, x[:0]).shape == (0, 3)


def test_arrays_written_and_read_are_the_same_quantiser(fitted, tmp_path):
    x, books = fitted
    np.savez(tmp_path / "books.npz", **books.arrays)
    with np.load(tmp_path / "books.npz", allow_pickle=False) as file:
        read = quantiser.Codebooks(books.kind, books.widths, dict(file))
    codes = quantiser.encode(books, x)
    np.testing.assert_array_equal(quantiser.encode(read, x), codes)
    np.testing.assert_array_equal(quantiser.decode(read, codes),
                                  quantiser.decode(books, codes))


def test_same_seed_same_bits_and_another_seed_others(kind, fitted):
    x, books = fitted
    again, other = (quantiser.fit(jax.random.key(seed), x, CONFIGS[kind], widths=WIDTHS)
                    for seed in (0, 1))
    assert books.arrays.keys() == again.arrays.keys()
    for name, array in books.arrays.items():
        np.testing.assert_array_equal(array, again.arrays[name])
    assert any((array != other.arrays[name]).any()
               for name, array in books.arrays.items())


@pytest.mark.parametrize("x", [np.full((90, 12), 0.5), np.full((1, 12), 3.0)],
                         ids=["all identical", "one item"])
def test_items_that_are_all_alike_share_one_id_and_are_rebuilt(kind, x):
    books = quantiser.fit(jax.random.key(0), x, CONFIGS[kind], widths=WIDTHS)
    codes = quantiser.encode(books, x)
    assert len(np.unique(codes, axis=0)) == 1
    np.testing.assert_allclose(quantiser.decode(books, codes), x, atol=1e-4)


def test_fewer_items_than_codes(kind):
    x = _points(5)
    books = quantiser.fit(jax.random.key(0), x, CONFIGS[kind], widths=WIDTHS)
    codes = quantiser.encode(books, x)
    assert len(np.unique(codes, axis=0)) == 5
    error = np.square(x - quantiser.decode(books, codes)).sum()
    assert error < 0.2 * np.square(x - x.mean(0)).sum()


def test_any_number_of_levels_of_any_width(kind):
    x, widths = _points(200), (1, 8, 16, 2)
    books = quantiser.fit(jax.random.key(0), x, CONFIGS[kind], widths=widths)
    codes = quantiser.encode(books, x)
    assert codes.shape == (200, len(widths))
    assert (codes >= 0).all() and (codes < widths).all()
    assert quantiser.decode(books, codes).shape == x.shape


def test_rows_that_are_not_finite_are_named(kind, fitted):
    x, books = fitted
    bad = x.copy()
    bad[[7, 9], 3] = np.nan, np.inf
    with pytest.raises(InputError, match="item 7 .* at least 2"):
        quantiser.fit(jax.random.key(0), bad, CONFIGS[kind], widths=WIDTHS)
    with pytest.raises(InputError, match="item 7 .* at least 2"):
        quantiser.encode(books, bad)


def test_vectors_of_another_length_are_refused(fitted):
    with pytest.raises(InputError, match="3 columns, the quantiser was fitted on 12"):
        quantiser.encode(fitted[1], np.zeros((2, 3)))


def test_codes_outside_their_level_are_refused(fitted):
    with pytest.raises(ValueError, match="expected 0 to"):
        quantiser.decode(fitted[1], np.array([[0, 8, 0]]))
    with pytest.raises(ValueError, match="T' <= 3"):
        quantiser.decode(fitted[1], np.zeros((1, 4), int))


def test_what_cannot_be_fitted_is_refused():
    key, x, cfg = jax.random.key(0), _points(), quantiser.Quantiser()
    with pytest.raises(InputError, match="'kmeans', expected one of residual-kmeans"):
        quantiser.fit(key, x, quantiser.Quantiser(kind="kmeans"), widths=WIDTHS)
    with pytest.raises(InputError, match="from 1 to 65536"):
        quantiser.fit(key, x, cfg, widths=(16, 0))
    with pytest.raises(InputError, match="from 1 to 65536"):
        quantiser.fit(key, x, cfg, widths=())
    with pytest.raises(InputError, match="0 vectors of 12 columns"):
        quantiser.fit(key, x[:0], cfg, widths=WIDTHS)
    with pytest.raises(ValueError, match="expected .N, D"):
        quantiser.fit(key, x[0], cfg, widths=WIDTHS)


def test_a_catalogue_is_encoded_row_by_row_unless_it_is_balanced(kind, fitted):
    x, books = fitted
    alone = quantiser.encode(books, x)
    together = quantiser.encode_catalogue(books, x, CONFIGS[kind])
    shared = [len(x) - len(np.unique(codes, axis=0)) for codes in (alone, together)]
    if kind == "balanced-kmeans":
        np.testing.assert_array_equal(together[:, :-1], alone[:, :-1])
        assert shared[1] < 0.5 * shared[0]
    else:
        np.testing.assert_array_equal(together, alone)


def test_a_fit_goes_on_from_codebooks(kind, fitted):
    x, books = fitted
    more = quantiser.fit(jax.random.key(9), x, CONFIGS[kind], widths=WIDTHS,
                         start=books)
    errors = [np.square(x - quantiser.decode(b, quantiser.encode(b, x))).sum()
              for b in (books, more)]
    assert errors[1] < 1.02 * errors[0]


def test_a_start_of_another_shape_is_refused(fitted):
    x, books = fitted
    with pytest.raises(InputError, match="expected .* fit without it"):
        quantiser.fit(jax.random.key(0), x, CONFIGS[books.kind], widths=(16, 8),
                      start=books)


def test_the_default_is_residual_kmeans_bit_for_bit():
    x = _points()
    direct = residual.fit(jax.random.key(3), x, residual.ResidualKMeans(
        widths=WIDTHS, lloyd=LLOYD))
    books = quantiser.fit(jax.random.key(3), x, quantiser.Quantiser(lloyd=LLOYD),
                          widths=WIDTHS)
    for level, book in enumerate(direct):
        np.testing.assert_array_equal(books.arrays[f"codebook_{level}"], book)


@pytest.mark.parametrize("size, told", [(np.nan, "is not finite"),
                                        (1e20, "numbers above 1e16")])
def test_vectors_that_have_no_distances_are_refused(size, told):
    x = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    x[7, 2] = size
    for kind in ("residual-kmeans", "balanced-kmeans", "product"):
        with pytest.raises(InputError, match=f"item 7 .*{told}"):
            quantiser.fit(jax.random.key(0), x, quantiser.Quantiser(kind),
                          widths=(4, 4))
