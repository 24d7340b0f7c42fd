"""RQ-VAE: gradients past the codes, moving averages, revival, by hand and by matrix."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oxyrec_jax import parallel
from oxyrec_jax.base import InputError
from oxyrec_jax.tokenizer import autoencoder, rqvae

WIDTHS = (16, 16, 16)
CFG = rqvae.RqVae(hidden=(32,), latent=8, estimator="rotation", decay=0.9, batch=64,
                  steps=150, learning_rate=3e-3)


def _points(rows=500, dimension=12, seed=0):
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(rows, dimension)) @ rng.normal(size=(dimension, dimension))
    return (5 * mixed + 3).astype(np.float32)


@pytest.fixture(scope="module")
def fitted():
    x = _points()
    return x, rqvae.fit(jax.random.key(0), x, CFG, widths=WIDTHS)


def _rotation(z, q):
    """The matrix of the rotation trick in float64, column vectors."""
    z, q = np.float64(z), np.float64(q)
    a, b = z / np.linalg.norm(z), q / np.linalg.norm(q)
    w = (a + b) / np.linalg.norm(a + b)
    turn = np.eye(len(z)) - 2 * np.outer(w, w) + 2 * np.outer(b, a)
    return np.linalg.norm(q) / np.linalg.norm(z) * turn


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_straight_through_gives_q_and_sends_the_gradient_to_z_unchanged(wrap):
    z, q = jnp.array([1.0, -2.0]), jnp.array([0.5, 3.0])
    weights = jnp.array([2.0, 7.0])
    value, pull = jax.vjp(wrap(rqvae.straight_through), z, q)
    np.testing.assert_allclose(value, q, rtol=1e-6)
    to_z, to_q = pull(weights)
    np.testing.assert_array_equal(to_z, weights)
    np.testing.assert_array_equal(to_q, [0, 0])


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_rotation_is_that_of_the_explicit_matrix(wrap):
    rng = np.random.default_rng(0)
    z, q, g = (np.float32(rng.normal(size=(20, 6))) for _ in range(3))
    value, pull = jax.vjp(wrap(rqvae.rotation_trick), z, q)
    to_z, to_q = pull(jnp.asarray(g))
    np.testing.assert_array_equal(value, q)
    np.testing.assert_array_equal(to_q, np.zeros_like(q))
    for row in range(20):
        matrix = _rotation(z[row], q[row])
        np.testing.assert_allclose(matrix @ z[row], q[row], atol=1e-5)
        np.testing.assert_allclose(to_z[row], matrix.T @ g[row], rtol=1e-3, atol=1e-4)


def test_rotation_by_hand():
    # z = (2, 0) and q = (0, 1): a quarter turn, halved. The gradient (3, 5) at q is
    # turned back: along q it is 5, which becomes 5/2 along z; across q (which the turn
    # took from z's (0, 1) to (-1, 0)) it is -3, which becomes -3/2.
    _, pull = jax.vjp(rqvae.rotation_trick, jnp.array([2.0, 0]), jnp.array([0.0, 1]))
    np.testing.assert_allclose(pull(jnp.array([3.0, 5]))[0], [2.5, -1.5], atol=1e-6)


def test_rotation_keeps_the_angle_of_the_gradient_and_scales_by_the_ratio():
    rng = np.random.default_rng(1)
    z, q, g = (np.float32(rng.normal(size=(50, 8))) for _ in range(3))
    to_z = np.asarray(jax.vjp(rqvae.rotation_trick, z, q)[1](jnp.asarray(g))[0])

    def cosine(u, v):
        return (u * v).sum(-1) / np.linalg.norm(u, axis=-1) / np.linalg.norm(v, axis=-1)

    np.testing.assert_allclose(cosine(to_z, z), cosine(g, q), atol=1e-4)
    np.testing.assert_allclose(
        np.linalg.norm(to_z, axis=-1) / np.linalg.norm(g, axis=-1),
        np.linalg.norm(q, axis=-1) / np.linalg.norm(z, axis=-1), rtol=1e-4)


@pytest.mark.parametrize("z, q, expected", [
    ([0.0, 0.0], [1.0, 0.0], [3.0, 5.0]),  # no direction: straight through
    ([1.0, 0.0], [0.0, 0.0], [3.0, 5.0]),
    ([1.0, 0.0], [2.0, 0.0], [6.0, 10.0]),  # same direction: only stretched
    ([1.0, 0.0], [-1.0, 0.0], [-3.0, 5.0]),  # opposite: mirrored
], ids=["z is 0", "q is 0", "parallel", "opposite"])
def test_rotation_where_a_direction_is_missing(z, q, expected):
    value, pull = jax.vjp(rqvae.rotation_trick, jnp.array(z), jnp.array(q))
    np.testing.assert_array_equal(value, q)
    np.testing.assert_allclose(pull(jnp.array([3.0, 5]))[0], expected, atol=1e-6)


@pytest.mark.parametrize("estimator", rqvae.ESTIMATORS)
def test_the_encoder_learns_through_the_codes(estimator):
    x = _points(64)
    network, params = autoencoder.make(jax.random.key(0), 12, (8,), 4)
    books = (jax.random.normal(jax.random.key(1), (16, 4)),)
    cfg = dataclasses.replace(CFG, estimator=estimator, commitment=0.0)
    gradient = jax.jit(jax.grad(lambda p: rqvae._loss(
        (p, ()), books, jnp.asarray(x), network, cfg)[0]))(params)
    assert np.abs(gradient["encoder"]["0"]["kernel"]).max() > 1e-4


def test_the_loss_by_hand():
    # Encoder and decoder are the identity of one number; books {0, 4} and {-1, 1}.
    # x = 6: code 4, rest 2, code 1, sum 5. Rebuilding: (6 - 5)^2 = 1. Commitment:
    # (6 - 4)^2 + (6 - 5)^2 = 5. Codebooks: (6 - 4)^2 + (2 - 1)^2 = 5.
    network = autoencoder.Autoencoder(1, (), 1)
    one = {"0": {"kernel": jnp.ones((1, 1)), "bias": jnp.zeros(1)}}
    params = {"encoder": one, "decoder": one}
    books = (jnp.array([[0.0], [4]]), jnp.array([[-1.0], [1]]))
    x = jnp.array([[6.0]])
    for update, expected in (("ema", 1 + 0.25 * 5), ("gradient", 1 + 0.25 * 5 + 5)):
        cfg = dataclasses.replace(CFG, update=update, commitment=0.25)
        learnt = rqvae._learnt(params, books, cfg)
        (loss, (_, codes, sums)), (_, moved) = jax.jit(jax.value_and_grad(
            lambda p: rqvae._loss(p, books, x, network, cfg), has_aux=True))(learnt)
        np.testing.assert_allclose(loss, expected, rtol=1e-6)
        np.testing.assert_array_equal(codes, [[1, 1]])
        np.testing.assert_array_equal(sums, [[[4]], [[5]]])
    np.testing.assert_allclose(moved[0], [[0], [-4]])  # d (6 - c)^2 = -2 (6 - 4)
    np.testing.assert_allclose(moved[1], [[0], [-2]])  # d (2 - c)^2 = -2 (2 - 1)


def test_moving_average_by_hand():
    usage, sums, book = rqvae.moving_average(
        jnp.array([2.0, 1.0, 4.0]), jnp.array([[2.0], [5], [8]]),
        jnp.array([[1.0], [3], [7]]), jnp.array([0, 0, 1]), decay=0.9)
    # n: .9 2 + .1 2, .9 1 + .1 1, .9 4;  m: .9 2 + .1 (1 + 3), .9 5 + .1 7, .9 8
    np.testing.assert_allclose(usage, [2.0, 1.0, 3.6], rtol=1e-6)
    np.testing.assert_allclose(sums, [[2.2], [5.2], [7.2]], rtol=1e-6)
    np.testing.assert_allclose(book, [[1.1], [5.2], [2.0]], rtol=1e-6)


def test_only_dead_codes_start_again_on_points_of_the_batch():
    book, usage, sums = rqvae.revive(
        jax.random.key(0), jnp.array([[1.0], [2], [3]]), jnp.array([1.9, 0.1, 0.3]),
        jnp.array([[1.9], [0.2], [0.9]]), jnp.array([[50.0], [50]]), share=0.4)
    # Two points for three codes: the mean is 2/3 and codes below 0.27 are dead.
    np.testing.assert_allclose(book, [[1], [50], [3]])
    np.testing.assert_allclose(usage, [1.9, 2 / 3, 0.3], rtol=1e-6)
    np.testing.assert_allclose(sums, [[1.9], [100 / 3], [0.9]], rtol=1e-6)


@pytest.mark.parametrize("update", rqvae.UPDATES)
def test_dead_codes_revive_in_training(update, fitted):
    x, arrays = fitted
    lost = dict(arrays)
    for level in range(3):  # all codes but one where no latent ever comes
        book = lost[f"latent_codebook_{level}"].copy()
        book[1:] = 1e4
        lost[f"latent_codebook_{level}"] = book
    used = {}
    for restart in (0.0, 0.1):
        cfg = dataclasses.replace(CFG, update=update, restart=restart)
        found = rqvae.fit(jax.random.key(1), x, cfg, widths=WIDTHS, start=lost)
        codes = rqvae.encode(found, x, levels=3, chunk=64)
        used[restart] = [len(np.unique(codes[:, level])) for level in range(3)]
    assert used[0.0] == [1, 1, 1]
    assert min(used[0.1]) >= 14


def test_codes_are_the_nearest_centroids_of_each_residual(fitted):
    x, arrays = fitted
    rest = np.float64(autoencoder.latents(arrays, x, chunk=64))
    codes = rqvae.encode(arrays, x, levels=3, chunk=64)
    errors = [np.square(rest).sum()]
    for level in range(3):
        book = np.float64(arrays[f"latent_codebook_{level}"])
        exact = np.square(rest[:, None] - book).sum(-1)
        np.testing.assert_allclose(exact[np.arange(len(x)), codes[:, level]],
                                   exact.min(1), rtol=1e-4, atol=1e-5)
        assert (codes[:, level] == exact.argmin(1)).mean() > 0.99
        rest = rest - book[codes[:, level]]
        errors.append(np.square(rest).sum())
    assert errors == sorted(errors, reverse=True)


def test_the_network_is_that_of_numpy(fitted):
    x, arrays = fitted

    def gelu(v):  # the tanh form
        return v / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3)))

    def forward(side, v):
        v = v @ arrays[f"{side}_0_kernel"] + arrays[f"{side}_0_bias"]
        return gelu(v) @ arrays[f"{side}_1_kernel"] + arrays[f"{side}_1_bias"]

    z = forward("encoder", (np.float64(x) - arrays["mean"]) / arrays["scale"])
    np.testing.assert_allclose(autoencoder.latents(arrays, x, chunk=64), z, atol=1e-4)
    codes = np.array([[3, 0, 15], [0, 7, 1]])
    q = sum(np.float64(arrays[f"latent_codebook_{level}"])[codes[:, level]]
            for level in range(3))
    expected = forward("decoder", q) * arrays["scale"] + arrays["mean"]
    np.testing.assert_allclose(rqvae.decode(arrays, codes), expected, rtol=1e-4,
                               atol=1e-3)


@pytest.mark.parametrize("estimator, update", [
    ("rotation", "ema"), ("straight-through", "gradient")])
def test_training_rebuilds_better_than_no_training(estimator, update, fitted):
    x, _ = fitted
    errors = {}
    for steps in (0, 150):
        cfg = dataclasses.replace(CFG, estimator=estimator, update=update, steps=steps)
        arrays = rqvae.fit(jax.random.key(0), x, cfg, widths=WIDTHS)
        codes = rqvae.encode(arrays, x, levels=3, chunk=64)
        errors[steps] = np.square(x - rqvae.decode(arrays, codes)).sum()
    spread = np.square(x - x.mean(0)).sum()
    assert errors[150] < 0.5 * spread and errors[150] < 0.6 * errors[0]


def test_training_goes_on_from_a_start(fitted):
    x, arrays = fitted
    none = rqvae.fit(jax.random.key(5), x, dataclasses.replace(CFG, steps=0),
                     widths=WIDTHS, start=arrays)
    assert none.keys() == arrays.keys()
    for name in arrays:
        np.testing.assert_array_equal(none[name], arrays[name])
    more = rqvae.fit(jax.random.key(5), x, CFG, widths=WIDTHS, start=arrays)
    errors = [np.square(x - rqvae.decode(a, rqvae.encode(a, x, levels=3, chunk=64)))
              .sum() for a in (arrays, more)]
    assert errors[1] < errors[0]


def test_eight_devices_train_as_one_does():
    x = _points()
    cfg = dataclasses.replace(CFG, steps=20)
    mesh = parallel.make_mesh(parallel.MeshConfig())
    assert mesh.size == 8
    one, eight = (rqvae.fit(jax.random.key(0), x, cfg, widths=WIDTHS, mesh=m)
                  for m in (None, mesh))
    for name in one:  # sums of a batch in another order, 20 steps of Adam
        np.testing.assert_allclose(eight[name], one[name], rtol=0.02, atol=0.02)


def test_a_batch_that_the_devices_cannot_share_is_refused():
    cfg = dataclasses.replace(CFG, batch=60)
    with pytest.raises(InputError, match="batch is 60, expected a multiple of the 8"):
        rqvae.fit(jax.random.key(0), _points(), cfg, widths=WIDTHS,
                  mesh=parallel.make_mesh(parallel.MeshConfig()))


def test_a_training_that_diverges_says_so():
    cfg = dataclasses.replace(CFG, learning_rate=1e30)
    with pytest.raises(InputError, match="within 150 steps.* lower its learning_rate"):
        rqvae.fit(jax.random.key(0), _points(), cfg, widths=WIDTHS)


@pytest.mark.parametrize("change, message", [
    ({"estimator": "gumbel"}, "estimator is 'gumbel', expected one of straight-"),
    ({"update": "sgd"}, "update is 'sgd', expected one of ema, gradient"),
    ({"batch": 0}, "at least 1"),
    ({"hidden": (32, 0)}, "at least 1"),
])
def test_unknown_settings_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        rqvae.fit(jax.random.key(0), _points(), dataclasses.replace(CFG, **change),
                  widths=WIDTHS)


def test_a_start_of_another_network_is_refused(fitted):
    x, arrays = fitted
    with pytest.raises(InputError, match="fit without it"):
        rqvae.fit(jax.random.key(0), x, dataclasses.replace(CFG, latent=4),
                  widths=WIDTHS, start=arrays)
    lacking = {name: a for name, a in arrays.items() if name != "encoder_0_bias"}
    with pytest.raises(InputError, match="lack arrays of the encoder"):
        rqvae.encode(lacking, x, levels=3, chunk=64)
