"""The loss of a yes or no: by hand, as a funnel, and what a mask keeps out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oxyrec_jax import losses

BOTH = pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])


@BOTH
def test_the_cost_is_minus_the_log_chance_of_the_label(wrap):
    logits = np.log(np.array([3.0, 1.0, 0.25], np.float32))  # chances 3/4, 1/2, 1/5
    labels, mask = np.array([True, False, True]), np.array([True, True, True])
    found = wrap(lambda x: losses.binary_loss(x, labels, mask))(logits)
    expected = -np.log([0.75, 0.5, 0.2]).sum()
    np.testing.assert_allclose([found.total, found.weight], [expected, 3], rtol=1e-6)
    slope = jax.grad(lambda x: wrap(lambda y: losses.binary_loss(
        y, labels, mask).total)(x))(logits)
    np.testing.assert_allclose(slope, [0.75 - 1, 0.5, 0.2 - 1], rtol=1e-6)


@BOTH
def test_what_is_masked_is_not_read_and_weights_count(wrap):
    logits = np.array([0.0, np.nan, 0.0], np.float32)
    labels = np.array([1.0, np.nan, 0.25], np.float32)
    mask, weights = np.array([True, False, True]), np.array([3, np.nan, 1], np.float32)

    def loss(x):
        return losses.binary_loss(x, labels, mask, sample_weights=weights)
    found = wrap(loss)(logits)
    np.testing.assert_allclose([found.total, found.weight], [4 * np.log(2), 4],
                               rtol=1e-6)
    slope = jax.grad(lambda x: loss(x).total)(logits)
    np.testing.assert_allclose(slope, [3 * -0.5, 0, 0.25], rtol=1e-6)
    assert losses.binary_loss(logits, labels, np.zeros(3, bool)).mean() == 0


def test_masked_steps_add_up_to_the_likelihood_of_a_funnel():
    """p(nothing) = 1-p, p(click only) = p(1-q), p(cart only) = pq(1-r), p(order) = pqr.
    """
    logits = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    outcome = np.arange(4)  # nothing, click, cart, order
    p, q, r = (1 / (1 + np.exp(-logits.astype(np.float64)))).T
    expected = -np.log([(1 - p)[0], (p * (1 - q))[1], (p * q * (1 - r))[2],
                        (p * q * r)[3]]).sum()
    total = sum(losses.binary_loss(jnp.asarray(logits[:, step]), outcome > step,
                                   outcome >= step).total for step in range(3))
    np.testing.assert_allclose(total, expected, rtol=1e-6)


def test_large_logits_stay_finite():
    found = losses.binary_loss(np.array([1e4, -1e4], np.float32),
                               np.array([False, True]), np.array([True, True]))
    np.testing.assert_allclose(found.total, 2e4, rtol=1e-6)


def test_wrong_shapes_and_dtypes_are_named():
    logits = np.zeros(2, np.float32)
    with pytest.raises(ValueError, match="mask.shape"):
        losses.binary_loss(logits, logits, np.zeros(3, bool))
    with pytest.raises(TypeError, match="labels has dtype int"):
        losses.binary_loss(logits, np.zeros(2, int), np.zeros(2, bool))
    with pytest.raises(ValueError, match="sample_weights.shape"):
        losses.binary_loss(logits, logits, np.zeros(2, bool),
                           sample_weights=np.zeros(3, np.float32))
