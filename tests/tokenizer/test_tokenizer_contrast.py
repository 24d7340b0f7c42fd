"""Which sources a pair sees, and which pairs of a batch are no negatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxyrec_jax.base import InputError
from oxyrec_jax.tokenizer import contrast, fusion
from oxyrec_jax.tokenizer.contrast import ContrastiveConfig

PRESENT = np.array([[True, True, True], [True, False, True], [False, True, False],
                    [False, False, False]] * 500)
KEY = jax.random.key(0)
TOGETHER = jax.jit(contrast.together)


def test_hiding_keeps_one_source_and_adds_none():
    seen = np.asarray(contrast.hide(KEY, PRESENT, 0.9))
    assert not (seen & ~PRESENT).any()
    np.testing.assert_array_equal(seen.any(axis=1), PRESENT.any(axis=1))
    np.testing.assert_array_equal(contrast.hide(KEY, PRESENT, 0.0), PRESENT)


def test_hiding_follows_its_rate():
    seen = np.asarray(contrast.hide(KEY, PRESENT[::4], 0.3))  # 500 items with three
    # A source stays with 0.7, and with 0.3^3 / 3 as the last of all: 0.709. Standard
    # error of a share of 1,500: 0.012.
    assert abs(seen.mean() - 0.709) < 0.05


def test_views_are_one_source_and_all_or_the_others():
    whole, single, real = (np.asarray(x) for x in contrast.split_views(KEY, PRESENT))
    np.testing.assert_array_equal(real, PRESENT.sum(axis=1) > 1)
    np.testing.assert_array_equal(single.sum(axis=1), PRESENT.any(axis=1))
    np.testing.assert_array_equal(whole | single, PRESENT)
    all_of_it = (whole == PRESENT).all(axis=1)[real]
    assert abs(all_of_it.mean() - 0.5) < 0.08  # standard error 0.016
    assert (whole.sum(axis=1) >= 1)[real].all()
    picks = single[::4].mean(axis=0)  # each of three sources with the same chance
    np.testing.assert_allclose(picks, 1 / 3, atol=0.09)


def together_by_loops(first, second, partners):
    def known(a, b):
        return b in partners[a] or a in partners[b]
    return np.array([[f == s or f == g or t == s or known(f, s)
                      for g, s in zip(first, second)]
                     for f, t in zip(first, second)])


def test_known_partners_and_repeated_items_are_together():
    partners = np.array([[1, -1], [0, 2], [1, -1], [-1, -1], [-1, -1]])
    first, second = np.array([0, 1, 3]), np.array([1, 2, 4])
    # (0,1) (1,2) (3,4): row 0 meets 1 (own), 2 (no), 4 (no); row 1 meets item 1 itself,
    # 2 (own), 4 (no); row 2 meets nothing known but its own, which is the same pair.
    np.testing.assert_array_equal(contrast.together(first, second, partners),
                                  [[True, False, False], [True, True, False],
                                   [False, False, True]])


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000))
def test_together_equals_the_loops(seed):
    rng = np.random.default_rng(seed)
    partners = rng.integers(-1, 12, (12, 3)).astype(np.int32)
    first, second = rng.integers(0, 12, (2, 9)).astype(np.int32)
    np.testing.assert_array_equal(TOGETHER(first, second, partners),
                                  together_by_loops(first, second, partners))


def test_the_objective_learns_its_temperatures_and_sees_every_pair():
    rng = np.random.default_rng(0)
    network = fusion.make_fusion("late", ("text", "image"), fusion.FusionConfig(
        dimension=4, width=8, queries=2, heads=2, hidden=4))
    vectors = (rng.normal(size=(12, 3)).astype(np.float32),
               rng.normal(size=(12, 5)).astype(np.float32))
    tables = (vectors, np.ones((12, 2), bool), np.full((12, 1), -1, np.int32))
    shapes = jax.eval_shape(network.init, KEY, vectors, tables[1])["params"]
    params = {"log_temperatures": jnp.log(jnp.array([0.1, 0.2])), "network": {
        "/".join(part.key for part in path[:-1]): rng.normal(size=leaf.shape) * 0.5
        for path, leaf in jax.tree.leaves_with_path(shapes)}}
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    rows = {"views": np.arange(6), "pairs": np.arange(12).reshape(6, 2)}

    def loss(rows, **options):
        return jax.jit(jax.grad(contrast.objective), static_argnums=(1, 5))(
            params, network, tables, rows, KEY, ContrastiveConfig(**options))

    both = loss(rows)["log_temperatures"]
    assert (np.abs(both) > 1e-4).all()
    views = loss({"views": rows["views"]})["log_temperatures"]
    np.testing.assert_allclose(views, both * np.array([1, 0]), rtol=1e-5)
    double = loss(rows, behaviour_weight=2.0)["log_temperatures"]
    np.testing.assert_allclose(double, both * np.array([1, 2]), rtol=1e-5)


@pytest.mark.parametrize("options, said", [
    ({"steps": 0}, "steps of at least 1"),
    ({"learning_rate": 0.0}, "positive learning_rate"),
    ({"warmup": -1}, "warmup of at least 0"),
    ({"temperature": 2.0}, "the temperature 2.0 is not between lowest 0.01"),
    ({"lowest": 0.0}, "both above 0"),
    ({"source_dropout": 1.0}, "source_dropout is 1.0"),
])
def test_settings_out_of_range_are_named(options, said):
    with pytest.raises(InputError, match=said):
        contrast.check(ContrastiveConfig(**options))
