"""k-means against NumPy in float64, and the cases where there is little to cluster."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxyrec_jax.tokenizer import kmeans, residual

CFG = kmeans.KMeans(chunk=64)
WIDTH = 16
nearest = jax.jit(kmeans.nearest)


def _fit(x, *, seed=0, cfg=CFG):
    """Fits 16 codes; all tests pad to one shape, so one program serves them."""
    rows, columns = x.shape
    padded = np.zeros((512, 8), np.float32)
    padded[:rows, :columns] = x
    found = kmeans.fit_centroids(jax.random.key(seed), jnp.asarray(padded),
                                 jnp.arange(512) < rows, width=WIDTH, cfg=cfg)
    assert not np.asarray(found)[:, columns:].any()
    return np.asarray(found)[:, :columns]


def _error(x, centroids):
    x, centroids = np.float64(x), np.float64(centroids)
    return ((x[:, None] - centroids) ** 2).sum(-1).min(1).sum()


def _clusters(count, each, *, dimension=8, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 10, (count, dimension))
    return centres, np.repeat(centres, each, 0) + rng.normal(0, 0.1, (count * each, 1))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 1.0, 30.0]))
def test_nearest_equals_brute_force(seed, shift):
    rng = np.random.default_rng(seed)
    x = np.float32(rng.normal(shift, 1, (64, 5)))
    c = np.float32(rng.normal(shift, 1, (16, 5)))
    found, distance = nearest(x, c)
    exact = ((np.float64(x)[:, None] - c) ** 2).sum(-1)
    tolerance = 1e-5 * (1 + shift**2)  # |x|^2 is added and taken away again
    np.testing.assert_allclose(distance, exact.min(1), atol=tolerance)
    np.testing.assert_allclose(  # equal distance rather than equal code: near ties
        exact[np.arange(64), found], exact.min(1), atol=tolerance)


def test_a_tie_goes_to_the_lower_code():
    codes, distance = kmeans.nearest(
        jnp.zeros((1, 2)), jnp.array([[0.0, 3], [0, 1], [1, 0], [0, -1]]))
    assert codes.tolist() == [1] and distance.tolist() == [1]


@pytest.mark.parametrize("restart", [0.0, 0.3])
def test_separated_clusters_are_found_with_any_seed(restart):
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 10, (8, 8))
    x = np.repeat(centres, 50, 0) + rng.normal(0, 0.1, (400, 8))
    cfg = dataclasses.replace(CFG, restart=restart)
    for seed in range(5):
        found = _fit(x, seed=seed, cfg=cfg)
        gaps = np.linalg.norm(centres[:, None] - found, axis=-1).min(1)
        assert gaps.max() < 0.2, seed


def test_one_step_moves_each_centroid_to_the_mean_of_its_points():
    x = np.array([[0.0], [1], [10], [14]], np.float32)
    points, mask = kmeans.pad_points(x, 8)
    found = kmeans.one_pass(points, mask, jnp.array([[1.0], [9]]), chunk=8)
    # 0 and 1 belong to the first (errors 1 and 0), 10 and 14 to the second (1 and 25).
    np.testing.assert_array_equal(found.sums, [[1], [24]])
    np.testing.assert_array_equal(found.counts, [2, 2])
    np.testing.assert_array_equal(found.errors, [1, 26])


def test_error_is_that_of_plain_lloyd_steps():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(300, 4)).astype(np.float32)
    plain = []
    for _ in range(10):
        c = x[rng.choice(300, WIDTH, replace=False)].astype(np.float64)
        for _ in range(30):
            codes = ((x[:, None] - c) ** 2).sum(-1).argmin(1)
            c = np.stack([x[codes == k].mean(0) if (codes == k).any() else c[k]
                          for k in range(WIDTH)])
        plain.append(_error(x, c))
    ours = [_error(x, _fit(x, seed=seed)) for seed in range(10)]
    assert np.mean(ours) < 1.02 * np.mean(plain)  # the plain runs spread by 5 %


def test_starved_codes_are_used_again():
    # One far outlier and two copies of it would hold three of four codes for ever.
    rng = np.random.default_rng(4)
    x = np.concatenate([rng.normal(size=(200, 3)), np.full((1, 3), 100.0)])
    x = x.astype(np.float32)
    points, mask = kmeans.pad_points(x, 64)
    means = jnp.array([[0.0, 0, 0], [100, 100, 100], [200, 0, 0], [0, 300, 0]])
    found = kmeans.one_pass(points, mask, means, chunk=64)
    assert found.counts.tolist() == [200, 1, 0, 0]
    moved = kmeans.split_starved(jax.random.key(0), means, found, 0.3)
    # One donor with error (the cloud), so one of the three starved codes splits it.
    halves = np.asarray(moved)[[0, 1]]
    np.testing.assert_allclose(halves.mean(0), [0, 0, 0], atol=1e-6)
    assert np.linalg.norm(halves[0] - halves[1]) > 0.05
    np.testing.assert_array_equal(moved[2:], means[2:])


def test_restart_evens_the_load():
    rng = np.random.default_rng(5)  # heavy tails leave many codes on single points
    x = rng.standard_t(1.5, (500, 6)).clip(-50, 50).astype(np.float32)
    largest = {}
    for restart in (0.0, 0.3):
        found = _fit(x, cfg=dataclasses.replace(CFG, restart=restart))
        codes = np.asarray(kmeans.nearest(jnp.asarray(x), jnp.asarray(found))[0])
        largest[restart] = np.bincount(codes, minlength=WIDTH).max()
    assert largest[0.3] < 0.8 * largest[0.0]


def test_same_seed_same_bits_and_another_seed_others():
    x = np.random.default_rng(6).normal(size=(500, 8))
    np.testing.assert_array_equal(_fit(x), _fit(x))
    assert (_fit(x) != _fit(x, seed=1)).any()


def test_padding_never_reaches_the_centroids():
    x = np.random.default_rng(7).normal(100, 1, (65, 3))
    assert _fit(x).min() > 90  # 447 rows of zeros beside 65 points near 100


@pytest.mark.parametrize("x, distinct", [
    (np.full((50, 3), 2.0), 1),
    (np.array([[1.0, 2, 3]]), 1),
    (np.repeat(np.eye(3), 5, 0), 3),
    (np.arange(15.0)[:, None], 15),
], ids=["all identical", "one point", "few distinct points", "fewer points than codes"])
def test_less_to_cluster_than_codes_is_exact(x, distinct):
    found = _fit(x)
    assert found.shape == (WIDTH, x.shape[1]) and np.isfinite(found).all()
    assert _error(x, found) < 1e-9
    codes = np.asarray(kmeans.nearest(jnp.float32(x), jnp.asarray(found))[0])
    assert len(np.unique(codes)) == distinct


def test_more_codes_than_padded_points():
    points, mask = kmeans.pad_points(np.arange(10.0).reshape(5, 2), 8)
    found = kmeans.fit_centroids(jax.random.key(0), points, mask, width=200,
                                 cfg=dataclasses.replace(CFG, chunk=8))
    assert found.shape == (200, 2) and _error(points[:5], found) < 1e-9


def _mixture(rows=1000, dimension=12, seed=11):
    rng = np.random.default_rng(seed)
    return np.float32(rng.normal(3, 1, (40, dimension))[rng.integers(0, 40, rows)]
                      + rng.normal(0, 0.5, (rows, dimension)))


def test_bfloat16_scores_cost_little_and_errors_are_those_of_the_assignment():
    x = _mixture()
    points, mask = kmeans.pad_points(x, 64)
    centroids = x[:WIDTH]
    exact = kmeans.one_pass(points, mask, jnp.asarray(centroids), chunk=64)
    fast = kmeans.one_pass(points, mask, jnp.asarray(centroids), chunk=64,
                           shift=jnp.asarray(x.mean(0)))
    assert fast.counts.sum() == 1000
    # The sum over all codes is the same, whoever got a point that lay between two.
    np.testing.assert_allclose(fast.sums.sum(0), x.sum(0), rtol=1e-4)
    assert 1 - 1e-5 < fast.errors.sum() / exact.errors.sum() < 1.001
    codes = np.asarray(kmeans.nearest(jnp.asarray(x), jnp.asarray(centroids))[0])
    assert np.abs(np.bincount(codes, minlength=WIDTH) - fast.counts).sum() < 10
    errors = [_error(x, kmeans.fit_centroids(
        jax.random.key(0), points, mask, width=WIDTH,
        cfg=dataclasses.replace(CFG, scores=scores))) for scores in kmeans.SCORES]
    assert errors[1] < 1.01 * errors[0]


def test_one_code_and_a_tie_with_bfloat16_scores():
    points, mask = kmeans.pad_points(np.array([[1.0], [3]]), 8)
    found = kmeans.one_pass(points, mask, jnp.array([[5.0]]), chunk=8,
                            shift=jnp.zeros(1))
    assert found.counts.tolist() == [2]
    assert found.errors.tolist() == [20]  # 16 + 4
    both = kmeans.one_pass(points, mask, jnp.array([[2.0], [2]]), chunk=8,
                           shift=jnp.zeros(1))
    assert both.counts.tolist() == [2, 0]  # the lower code


def test_eight_devices_give_what_one_gives():
    x = _mixture()
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    found = {}
    for name, place in (("one", None), ("eight", mesh), ("again", mesh)):
        points, mask = residual.place(x, None, 64, place)
        found[name] = np.asarray(kmeans.fit_centroids(
            jax.random.key(0), points, mask, width=WIDTH, cfg=CFG, mesh=place))
    assert len(points.sharding.device_set) == 8
    np.testing.assert_array_equal(found["again"], found["eight"])
    # Sums are added in another order; a point that lies between two codes by less
    # than rounding may change sides.
    np.testing.assert_allclose(_error(x, found["eight"]), _error(x, found["one"]),
                               rtol=1e-4)
    assert np.abs(found["eight"] - found["one"]).max() < 1e-3


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 1000))
def test_a_warm_start_never_raises_the_error(seed):
    rng = np.random.default_rng(seed)
    x = np.float32(rng.normal(size=(512, 8)))
    start = np.float32(rng.normal(size=(WIDTH, 8)) * 2)
    found = kmeans.fit_centroids(jax.random.key(0), jnp.asarray(x), jnp.ones(512, bool),
                                 width=WIDTH, cfg=CFG, start=jnp.asarray(start))
    assert _error(x, found) <= _error(x, start) * (1 + 1e-6)


def test_a_code_without_points_stays_where_it_started():
    start = jnp.concatenate([jnp.full((1, 8), 99.0), jnp.eye(8), jnp.zeros((7, 8))])
    x = np.random.default_rng(0).normal(size=(512, 8)).astype(np.float32)
    found = kmeans.fit_centroids(jax.random.key(0), jnp.asarray(x), jnp.ones(512, bool),
                                 width=WIDTH, cfg=CFG, start=start)
    np.testing.assert_array_equal(found[0], start[0])


def test_unknown_scores_and_a_start_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="float32, bfloat16"):
        kmeans.KMeans(scores="int8")
    with pytest.raises(ValueError, match="expected \\(16, 8\\)"):
        kmeans.fit_centroids(jax.random.key(0), jnp.zeros((512, 8)),
                             jnp.ones(512, bool), width=WIDTH, cfg=CFG,
                             start=jnp.zeros((3, 8)))
