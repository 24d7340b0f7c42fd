"""Sums and weights add exactly, and an empty weight gives 0 without a gradient."""

import jax
import jax.numpy as jnp
import numpy as np

from oxyrec_jax.base import InputError, Weighted


def test_weighted_adds_sums_and_weights_apart():
    both = Weighted(jnp.float32(3), jnp.float32(2)) + Weighted(jnp.float32(1),
                                                               jnp.float32(6))
    assert float(both.mean()) == 0.5  # (3 + 1) / (2 + 6), not (1.5 + 1/6) / 2


def test_an_empty_weight_gives_zero_and_no_gradient():
    def mean(total, weight):
        return Weighted(total, weight).mean()
    value, slopes = jax.value_and_grad(mean, (0, 1))(jnp.float32(5), jnp.float32(0))
    assert float(value) == 0 and [float(slope) for slope in slopes] == [0, 0]


def test_weighted_is_a_pytree_of_its_two_numbers():
    doubled = jax.tree.map(lambda leaf: 2 * leaf, Weighted(jnp.float32(1),
                                                           jnp.float32(4)))
    np.testing.assert_array_equal([doubled.total, doubled.weight], [2, 8])


def test_an_input_error_is_a_value_error():
    assert issubclass(InputError, ValueError)
