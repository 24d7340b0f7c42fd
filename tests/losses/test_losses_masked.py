"""The loss of hidden codes by hand, against float64, and as the bound that it is."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oxyrec_jax import losses

WRAPS = pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])


@WRAPS
def test_three_targets_by_hand(wrap):
    # softmax([0, log 3]) = [1/4, 3/4]: code 1 costs log(4/3), code 0 costs log 4.
    logits = np.log(np.array([[1, 3], [1, 3], [1, 3], [5, 5]], np.float32))
    hidden = np.array([[True, True, True],    # n = 3: T/n = 1
                       [False, False, True],  # shown at level 1: nothing
                       [False, True, False],  # n = 1: T/n = 3
                       [True, True, True]])
    mask = np.array([True, True, True, False])
    weights = np.array([1, 5, 2, 7], np.float32)

    def loss(x):
        return losses.masked_code_loss(x, np.array([1, 0, 0, 9]), hidden, mask, level=1,
                                       sample_weights=weights)
    found = wrap(loss)(logits)
    np.testing.assert_allclose(found.total, np.log(4 / 3) + 2 * 3 * np.log(4),
                               rtol=1e-6)
    np.testing.assert_allclose(found.weight, 1 + 5 + 2)  # of all that is supervised
    gradient = wrap(jax.grad(lambda x: loss(x).total))(logits)
    np.testing.assert_allclose(
        gradient, [[1 / 4, -1 / 4], [0, 0], [6 * (1 / 4 - 1), 6 * 3 / 4], [0, 0]],
        atol=1e-6)


def test_value_and_gradient_are_those_of_float64():
    rng = np.random.default_rng(0)
    shape, depth, size = (4, 5), 4, 6
    logits = rng.normal(0, 2, (*shape, size))
    targets, mask = rng.integers(0, size, shape), rng.random(shape) < 0.8
    hidden, weights = rng.random((*shape, depth)) < 0.5, rng.uniform(0.5, 2, shape)
    total, gradient = 0.0, np.zeros_like(logits)
    for place in np.argwhere(mask & hidden[..., 2]):
        place = tuple(place)
        share = weights[place] * depth / hidden[place].sum()
        row = logits[place]
        z = np.log(np.exp(row).sum())
        total += share * (z - row[targets[place]] + 0.1 * z * z)
        gradient[place] = share * np.exp(row - z) * (1 + 0.2 * z)
        gradient[(*place, targets[place])] -= share

    def loss(x):
        return losses.masked_code_loss(x, targets, hidden, mask, level=2, z_loss=0.1,
                                       sample_weights=weights.astype(np.float32)).total
    given = jnp.asarray(logits, jnp.float32)
    np.testing.assert_allclose(loss(given), total, rtol=1e-5)
    np.testing.assert_allclose(jax.grad(loss)(given), gradient, atol=1e-5)


def test_its_mean_over_what_is_hidden_is_the_mean_over_all_orders():
    """Of a network that is a table of logits by level and set of codes shown."""
    depth, size = 3, 4
    rng = np.random.default_rng(1)
    sets = [frozenset(chosen) for count in range(depth + 1)
            for chosen in itertools.combinations(range(depth), count)]
    table = {(level, shown): rng.normal(0, 2, size).astype(np.float32)
             for shown in sets for level in range(depth) if level not in shown}
    target = [2, 0, 3]

    def cost(level, shown):
        row = table[level, shown].astype(np.float64)
        return np.log(np.exp(row).sum()) - row[target[level]]

    orders = [sum(cost(level, frozenset(order[:place]))
                  for place, level in enumerate(order))
              for order in itertools.permutations(range(depth))]
    mean = 0.0
    for shown in sets:
        count = depth - len(shown)
        if not count:
            continue
        chance = 1 / (depth * math.comb(depth, count))
        # the weight of this set where each code is hidden with probability t, over 1/t
        by_time = math.factorial(count - 1) * math.factorial(depth - count) / (
            math.factorial(depth))
        np.testing.assert_allclose(chance * depth / count, by_time)
        hidden = np.array([[level not in shown for level in range(depth)]])
        mean += chance * sum(float(losses.masked_code_loss(
            table[level, shown][None], np.array([target[level]]), hidden,
            np.array([True]), level=level).total)
            for level in range(depth) if level not in shown)
    np.testing.assert_allclose(mean, np.mean(orders), rtol=1e-6)


def test_what_is_not_supervised_is_not_read():
    logits = np.array([[0, np.nan], [0, 0]], np.float32)
    hidden = np.ones((2, 3), bool)
    found = losses.masked_code_loss(logits, np.array([9, 1]), hidden,
                                    np.array([False, True]), level=0)
    np.testing.assert_allclose(found.mean(), np.log(2), rtol=1e-6)
    none = losses.masked_code_loss(logits[1:], np.array([1]), ~hidden[1:],
                                   np.array([True]), level=0)
    assert none.total == 0 and none.weight == 1


def test_wrong_shapes_and_levels_are_refused():
    rest = np.zeros((2, 3), np.float32), np.zeros(2, int)
    mask = np.ones(2, bool)
    for hidden, level in ((np.ones((3, 3), bool), 0), (np.ones((2, 3), bool), 3),
                          (np.ones((2, 3), bool), -1)):
        with pytest.raises(ValueError, match="hidden"):
            losses.masked_code_loss(*rest, hidden, mask, level=level)
    with pytest.raises(TypeError, match="hidden"):
        losses.masked_code_loss(*rest, np.ones((2, 3)), mask, level=0)
