"""Raw signals of rewards: hand-computed values and NumPy oracles."""

import jax.numpy as jnp
import numpy as np

from oxyrec_jax.rewards import components


def test_format_and_hit_are_ones_and_zeros():
    legal = jnp.array([[True, False]])
    assert components.format_reward(legal).tolist() == [[1, 0]]
    items = jnp.array([[4, 7, 4], [1, 2, 3]])
    found = components.hit_reward(items, jnp.array([4, 9]))
    assert found.tolist() == [[1, 0, 1], [0, 0, 0]]


def test_token_hits_weigh_early_codes_more():
    codes = jnp.array([[[1, 2, 3], [1, 0, 3], [0, 2, 3], [0, 0, 0]]])
    found = components.token_hit_reward(codes, jnp.array([[1, 2, 3]]), discount=0.5)
    # weights 1, 1/2, 1/4 over 7/4
    np.testing.assert_allclose(found, [[1, 1.25 / 1.75, 0.75 / 1.75, 0]], rtol=1e-6)


def test_a_trajectory_pays_for_what_was_taken_later_and_less_the_later():
    codes = jnp.array([[[1, 2], [3, 4], [3, 9], [5, 6]]])
    future = jnp.array([[[1, 2], [3, 4], [5, 6]]])
    real = jnp.array([[True, True, False]])
    found = components.trajectory_reward(codes, future, real, discount=0.5, fade=0.8)
    # The choice itself; the next event; its first code, 1 / 1.5 of it; no such event.
    np.testing.assert_allclose(found, [[1, 0.8, 0.8 / 1.5, 0]], rtol=1e-6)


def test_spend_is_the_price_of_a_hit_in_the_basket():
    items = jnp.array([[4, 7, 9, 4], [1, 2, 0, 5]])
    bought = jnp.array([[7, 4, -1], [2, -1, -1]])
    paid = jnp.array([[2.5, 1.0, 8.0], [0.0, 3.0, 3.0]])
    found = components.spend_reward(items, bought, paid)
    # 8 and 3 stand where nothing was bought; item 2 was free.
    assert found.tolist() == [[1, 2.5, 0, 1], [0, 0, 0, 0]]
    assert components.spend_reward(jnp.array([[-1]]), bought[:1],
                                   paid[:1]).tolist() == [[0]]


def test_a_trajectory_of_the_choice_alone_is_the_token_hit():
    rng = np.random.default_rng(0)
    codes, wanted = rng.integers(0, 3, (4, 5, 3)), rng.integers(0, 3, (4, 3))
    np.testing.assert_allclose(
        components.trajectory_reward(codes, wanted[:, None], np.ones((4, 1), bool)),
        components.token_hit_reward(codes, wanted), rtol=1e-6)


def test_relevance_is_a_cosine_and_zero_for_zero_vectors():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3, 4, 5)), rng.normal(size=(3, 5))
    x[1, 2], y[2] = 0, 0
    with np.errstate(invalid="ignore"):
        wanted = np.einsum("bgd,bd->bg", x, y) / (
            np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)[:, None])
    found = components.relevance_reward(jnp.array(x), jnp.array(y))
    np.testing.assert_allclose(found, np.nan_to_num(wanted), atol=1e-6)


def test_conversion_and_value():
    click, cart, order = (jnp.array([[p]]) for p in (0.5, 0.2, 0.1))
    found = components.conversion_reward(click, cart, order)
    np.testing.assert_allclose(found, [[(0.6 + 0.3 + 0.2) / 4.7]], rtol=1e-6)
    np.testing.assert_allclose(components.value_reward(order, jnp.array([[30.0]])),
                               [[3.0]], rtol=1e-6)


def test_diversity_is_one_less_the_mean_cosine_to_the_others():
    rng = np.random.default_rng(1)
    x, real = rng.normal(size=(2, 5, 3)), np.ones((2, 5), bool)
    real[0, 3:] = False
    real[1, 1:] = False  # one alone
    found = np.asarray(components.diversity_reward(jnp.array(x), jnp.array(real)))
    unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
    for g in range(3):
        others = [unit[0, g] @ unit[0, h] for h in range(3) if h != g]
        np.testing.assert_allclose(found[0, g], 1 - np.mean(others), atol=1e-6)
    assert (found[0, 3:] == 0).all() and (found[1] == 0).all()


def test_copies_are_not_diverse_and_opposites_are():
    same = jnp.ones((1, 3, 2))
    np.testing.assert_allclose(
        components.diversity_reward(same, jnp.ones((1, 3), bool)), 0, atol=1e-6)
    opposite = jnp.array([[[1.0, 0.0], [-1.0, 0.0]]])
    np.testing.assert_allclose(
        components.diversity_reward(opposite, jnp.ones((1, 2), bool)), 2, atol=1e-6)


def test_rounding_does_not_leave_the_ranges():
    vectors = np.random.default_rng(0).normal(size=(50, 1, 33))
    same = jnp.asarray(np.repeat(vectors, 4, axis=1), jnp.float32)
    found = components.diversity_reward(same * jnp.array([1, 1, 1, 1.])[:, None],
                                        jnp.ones((50, 4), bool))
    assert (found >= 0).all() and (found < 1e-6).all()
    found = components.relevance_reward(same, same[:, 0])
    assert (found <= 1).all() and (found > 1 - 1e-6).all()
