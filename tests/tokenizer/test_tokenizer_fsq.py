"""Finite scalar quantisation: the grid value by value, codes back and forth."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oxyrec_jax import parallel
from oxyrec_jax.base import InputError
from oxyrec_jax.tokenizer import autoencoder, fsq

WIDTHS = (16, 9)
CFG = fsq.Fsq(hidden=(32,), batch=64, steps=200, learning_rate=3e-3)


def _points(rows=500, dimension=12, seed=0):
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(rows, 4)) @ rng.normal(size=(4, dimension))
    return (5 * mixed + 3).astype(np.float32)


@pytest.fixture(scope="module")
def fitted():
    x = _points()
    return x, fsq.fit(jax.random.key(0), x, CFG, widths=WIDTHS)


def test_the_grid_of_a_small_level_value_by_value():
    # 3 values are -1, 0, 1; 2 values are -1, 0. The first dimension varies fastest.
    expected = [[-1, -1], [0, -1], [1, -1], [-1, 0], [0, 0], [1, 0]]
    np.testing.assert_array_equal(fsq.points_of((3, 2)), expected)
    np.testing.assert_array_equal(fsq.code_of(jnp.array(expected, jnp.float32), (3, 2)),
                                  range(6))


@pytest.mark.parametrize("grid", [(1,), (2,), (7,), (8, 8, 4), (3, 1, 5, 2)])
def test_codes_and_points_are_one_to_one(grid):
    points = fsq.points_of(grid)
    assert points.shape == (np.prod(grid), len(grid))
    assert len(np.unique(points, axis=0)) == len(points)
    codes = np.asarray(fsq.code_of(jnp.asarray(points), grid))
    np.testing.assert_array_equal(codes, np.arange(len(points)))


@pytest.mark.parametrize("values", range(1, 9))
def test_latents_round_to_all_values_of_a_dimension_and_to_no_others(values):
    z = np.linspace(-12, 12, 4001, dtype=np.float32)[:, None]
    bounded = np.asarray(fsq.bound(jnp.asarray(z), (values,)))
    rounded = np.round(bounded)
    np.testing.assert_array_equal(np.unique(rounded),
                                  np.arange(values) - values // 2)
    # It rises, but for rounding: four units in the last place of 4.
    assert (np.diff(bounded[:, 0]) >= -4 * np.spacing(np.float32(4))).all()
    np.testing.assert_allclose(bounded[2000], 0, atol=1e-6)  # 0 stays 0


@pytest.mark.parametrize("width, grid", [
    (256, (8, 8, 4)), (1024, (8, 8, 4, 4)), (8192, (8, 8, 8, 4, 4)), (9, (3, 3)),
    (1, (1,)), (2, (2,)), (7, (7,)), (11, (3, 3)), (257, (8, 8, 4))])
def test_grids_of_usual_widths(width, grid):
    assert sorted(fsq.grid_of(width)) == sorted(grid)


@pytest.mark.parametrize("width", [5, 12, 30, 100, 127])
def test_the_grid_is_the_largest_that_brute_force_finds(width):
    products = [int(np.prod(grid)) for size in range(1, 5)
                for grid in itertools.combinations_with_replacement(range(3, 9), size)]
    assert np.prod(fsq.grid_of(width)) == max(p for p in products if p <= width)


def test_rounding_passes_the_gradient_through():
    value, pull = jax.vjp(fsq.round_through, jnp.array([0.4, -1.6]))
    np.testing.assert_array_equal(value, [0, -2])
    np.testing.assert_array_equal(pull(jnp.array([3.0, 5]))[0], [3, 5])


def test_encode_is_the_nearest_point_of_each_grid(fitted):
    x, arrays = fitted
    z = autoencoder.latents(arrays, x, chunk=64)
    codes = fsq.encode(arrays, x, levels=2, chunk=64)
    first = 0
    for level, width in enumerate(WIDTHS):
        grid = tuple(arrays[f"grid_{level}"].tolist())
        assert np.prod(grid) == width
        nearest = np.zeros((len(x), len(grid)))
        for column, size in enumerate(grid):
            bounded = np.asarray(fsq.bound(z[:, first + column : first + column + 1],
                                           (size,)), np.float64)
            values = np.arange(size) - size // 2
            nearest[:, column] = values[np.abs(bounded - values).argmin(1)]
        points = np.array(list(itertools.product(
            *(np.arange(size) - size // 2 for size in grid[::-1]))))[:, ::-1]
        expected = (nearest[:, None] == points).all(-1).argmax(1)
        assert (codes[:, level] == expected).mean() > 0.995
        first += len(grid)


def test_training_uses_the_grid_and_each_group_rebuilds_better(fitted):
    x, arrays = fitted
    codes = fsq.encode(arrays, x, levels=2, chunk=64)
    errors = [np.square(x - fsq.decode(arrays, codes[:, :level], levels=2)).sum()
              for level in range(3)]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 0.4 * np.square(x - x.mean(0)).sum()
    for level, width in enumerate(WIDTHS):
        assert len(np.unique(codes[:, level])) > 0.8 * width


def test_hiding_groups_lets_the_first_one_carry_more(fitted):
    x, arrays = fitted
    errors = []
    plain = fsq.fit(jax.random.key(0), x, dataclasses.replace(CFG, prefix=0.0),
                    widths=WIDTHS)
    for found in (arrays, plain):
        codes = fsq.encode(found, x, levels=2, chunk=64)[:, :1]
        errors.append(np.square(x - fsq.decode(found, codes, levels=2)).sum())
    assert errors[0] < 0.9 * errors[1]


def test_grids_of_ones_own(fitted):
    x, _ = fitted
    cfg = dataclasses.replace(CFG, grids=((5, 3), (2, 2, 2)), steps=0)
    arrays = fsq.fit(jax.random.key(0), x, cfg, widths=(16, 8))
    codes = fsq.encode(arrays, x, levels=2, chunk=64)
    assert codes[:, 0].max() < 15 and codes[:, 1].max() < 8
    with pytest.raises(InputError, match="multiply to at most it"):
        fsq.fit(jax.random.key(0), x, cfg, widths=(14, 8))
    with pytest.raises(InputError, match="expected one for each"):
        fsq.fit(jax.random.key(0), x, cfg, widths=(16, 8, 4))


def test_training_goes_on_from_a_start(fitted):
    x, arrays = fitted
    none = fsq.fit(jax.random.key(5), x, dataclasses.replace(CFG, steps=0),
                   widths=WIDTHS, start=arrays)
    for name in arrays:
        np.testing.assert_array_equal(none[name], arrays[name])
    with pytest.raises(InputError, match="fit without it"):
        fsq.fit(jax.random.key(0), x, CFG, widths=(16, 16), start=arrays)


def test_eight_devices_train_as_one_does():
    cfg = dataclasses.replace(CFG, steps=20)
    one, eight = (fsq.fit(jax.random.key(0), _points(), cfg, widths=WIDTHS, mesh=mesh)
                  for mesh in (None, parallel.make_mesh(parallel.MeshConfig())))
    for name in one:  # sums of a batch in another order, 20 steps of Adam
        np.testing.assert_allclose(eight[name], one[name], rtol=0.02, atol=0.02)


@pytest.mark.parametrize("change", [{"batch": 0}, {"prefix": 1.5}, {"hidden": (0,)}])
def test_settings_out_of_range_are_refused(change):
    with pytest.raises(InputError, match="at least 1 and a prefix from 0 to 1"):
        fsq.fit(jax.random.key(0), _points(), dataclasses.replace(CFG, **change),
                widths=WIDTHS)


def test_of_a_long_grid_nothing_lies_outside():
    for size in (1024, 4097):
        rounded = jnp.round(fsq.bound(jnp.array([[-100.0], [100.0]]), (size,)))
        np.testing.assert_array_equal(fsq.code_of(rounded, (size,)), [0, size - 1])
