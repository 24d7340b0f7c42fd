"""Attention, buckets, norms, row sums and dropout against NumPy in float64."""

import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from oxyrec_jax.models import layers

WRAPS = pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


@WRAPS
def test_attention_equals_numpy_float64(wrap):
    rng = np.random.default_rng(0)
    query, key, value = (rng.normal(size=(2, 3, length, 4)) for length in (5, 7, 7))
    bias, allowed = rng.normal(size=(1, 3, 5, 7)), rng.random((2, 1, 5, 7)) < 0.6
    allowed[..., 0] = True
    scores = np.einsum("bhqd,bhsd->bhqs", query, key) / 2 + bias  # sqrt(4) = 2
    weights = softmax(np.where(allowed, scores, -np.inf))
    found = wrap(layers.attend)(*(np.float32(x) for x in (query, key, value, bias)),
                                allowed)
    np.testing.assert_allclose(found, np.einsum("bhqs,bhsd->bhqd", weights, value),
                               rtol=1e-5, atol=1e-6)


def test_a_forbidden_key_has_no_weight_and_no_gradient():
    rng = np.random.default_rng(1)
    query, key, value = (jnp.asarray(rng.normal(size=(1, 1, 4, 2)), jnp.float32)
                         for _ in range(3))
    allowed = np.tril(np.ones((4, 4), bool))

    def first_rows(key, value):
        return jnp.sum(layers.attend(query, key, value, 0.0, allowed)[0, 0, :2])
    for gradient in jax.grad(first_rows, (0, 1))(key, value):
        assert (np.asarray(gradient)[0, 0, 2:] == 0).all()


def test_a_query_without_keys_is_finite_in_value_and_gradient():
    ones = jnp.ones((1, 1, 2, 2))

    def total(query):
        return jnp.sum(layers.attend(query, ones, ones, 0.0, jnp.zeros((2, 2), bool)))
    value, gradient = jax.value_and_grad(total)(ones)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_heads_split_and_merge_back():
    x = jnp.arange(2 * 3 * 8.0).reshape(2, 3, 8)
    split = layers.split_heads(x, 4)
    assert split.shape == (2, 4, 3, 2)
    np.testing.assert_array_equal(split[1, 2, 0], x[1, 0, 4:6])
    np.testing.assert_array_equal(layers.merge_heads(split), x)


def bucket_by_hand(distance, buckets, most, bidirectional):
    side = 0
    if bidirectional:
        buckets //= 2
        side = buckets if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    exact = buckets // 2
    if distance < exact:
        return side + distance
    # A hair above, so that exact powers do not fall on either side by rounding.
    far = math.log(distance / exact) / math.log(most / exact) * (buckets - exact)
    return side + min(exact + int(far + 1e-9), buckets - 1)


@WRAPS
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("buckets, most", [(32, 128), (16, 64), (8, 20)])
def test_relative_buckets_equal_a_loop(wrap, bidirectional, buckets, most):
    distances = np.arange(-200, 201)
    found = wrap(lambda x: layers.relative_bucket(
        x, buckets, most, bidirectional=bidirectional))(distances)
    assert found.dtype == jnp.int32
    assert found.tolist() == [bucket_by_hand(int(d), buckets, most, bidirectional)
                              for d in distances]


def test_relative_buckets_by_hand():
    # 8 buckets one way: 0 1 2 3 exact; 4 + floor(4 log(d / 4) / log(4)) for d >= 4.
    found = layers.relative_bucket(-np.arange(18), 8, 16, bidirectional=False)
    assert found.tolist() == [0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7, 7, 7]


def test_the_bias_depends_on_the_distance_alone():
    module = layers.RelativeBias(2, 8, 20, bidirectional=True)
    table = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
    bias = np.asarray(module.apply({"params": {"table": table}}, 6, 9))
    assert bias.shape == (1, 2, 6, 9)
    for query, key in np.ndindex(6, 9):
        row = bucket_by_hand(key - query, 8, 20, True)
        np.testing.assert_array_equal(bias[0, :, query, key], table[row])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rms_norm_is_float32_inside(dtype):
    x = np.random.default_rng(0).normal(size=(3, 8)) * 1e3
    scale = np.linspace(0.5, 2, 8)
    found = layers.RMSNorm().apply({"params": {"scale": np.float32(scale)}},
                                   jnp.asarray(x, dtype))
    exact = np.asarray(jnp.asarray(x, dtype), np.float64)
    exact = exact / np.sqrt((exact**2).mean(-1, keepdims=True) + 1e-6) * scale
    assert found.dtype == dtype
    np.testing.assert_allclose(np.asarray(found, np.float64), exact,
                               rtol=1e-6 if dtype == "float32" else 2**-8)


def test_swiglu_equals_its_formula():
    rng = np.random.default_rng(0)
    x, gate, up, down = (rng.normal(size=shape)
                         for shape in ((5, 4), (4, 6), (4, 6), (6, 4)))
    params = {name: {"kernel": np.float32(kernel)}
              for name, kernel in (("gate", gate), ("up", up), ("down", down))}
    inner = x @ gate
    expected = (inner / (1 + np.exp(-inner)) * (x @ up)) @ down
    found = layers.SwiGLU(6).apply({"params": params}, np.float32(x))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


ROWS = st.lists(st.integers(1, 6), min_size=1, max_size=4)


@hypothesis.settings(deadline=None, max_examples=20)
@hypothesis.given(widths=ROWS, shape=st.sampled_from([(1,), (4,), (2, 3)]),
                  seed=st.integers(0, 99))
def test_row_sums_by_product_and_by_look_up_agree(widths, shape, seed):
    rng = np.random.default_rng(seed)
    table = jnp.asarray(rng.normal(size=(sum(widths), 3)), jnp.float32)
    starts = tuple(int(n) for n in np.cumsum([0, *widths[:-1]]))
    columns = np.stack([rng.integers(0, width, shape) for width in widths], -1)
    slope = jnp.asarray(rng.normal(size=(*shape, 3)), jnp.float32)

    def total(table):
        found = layers.sum_rows(table, jnp.asarray(columns), starts)
        return jnp.sum(found * slope), found
    (_, found), gradient = jax.value_and_grad(total, has_aux=True)(table)
    expected, by_loop = np.zeros((*shape, 3)), np.zeros(table.shape)
    for place in np.ndindex(*shape):
        for row in columns[place] + np.array(starts):
            expected[place] += np.asarray(table)[row]
            by_loop[row] += np.asarray(slope)[place]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "_ONE_HOT_ROWS", 0)
        (_, looked_up), scattered = jax.value_and_grad(total, has_aux=True)(table)
    for one in (found, looked_up):
        np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-6)
    for one in (gradient, scattered):
        np.testing.assert_allclose(one, by_loop, rtol=1e-5, atol=1e-6)


class Dropped(nn.Module):
    rate: float
    train: bool = True

    @nn.compact
    def __call__(self, x):
        return layers.dropout(self, x, self.rate, train=self.train)


def drop(x, rate, seed=0, **options):
    return Dropped(rate, **options).apply({}, x, rngs={"dropout": jax.random.key(seed)})


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("seed", range(3))
def test_dropout_keeps_its_share_and_the_mean(rate, seed):
    size = 1 << 18
    found = np.asarray(drop(jnp.ones(size), rate, seed))
    kept = found != 0
    # The share's standard deviation is sqrt(r (1 - r) / n), about 0.001.
    assert abs(kept.mean() - (1 - rate)) < 5 * math.sqrt(rate * (1 - rate) / size)
    np.testing.assert_allclose(found[kept], 1 / (1 - rate), rtol=1e-6)


def test_dropout_is_independent_of_neighbours_and_of_the_key():
    masks = [np.asarray(drop(jnp.ones((512, 512)), 0.5, seed)) > 0 for seed in range(4)]
    limit = 5 / 512  # five standard deviations of a correlation of 512^2 fair coins
    for mask in masks:
        for shift in (1, 2, 3, 4, 7, 8, 16, 64, 128, 512, 1024, 65536):
            flat = mask.ravel() * 2.0 - 1
            assert abs(np.mean(flat[shift:] * flat[:-shift])) < limit, shift
    for one in range(4):
        for other in range(one):
            signs = (masks[one] * 2.0 - 1) * (masks[other] * 2.0 - 1)
            assert abs(signs.mean()) < limit


def test_dropout_passes_through_where_it_is_off():
    x = jnp.arange(6.0)
    assert drop(x, 0.5, train=False) is x and drop(x, 0.0) is x


def test_dropout_gradient_is_its_mask():
    x = jnp.full(64, 3.0)
    gradient = jax.grad(lambda x: jnp.sum(drop(x, 0.5)))(x)
    np.testing.assert_allclose(gradient, np.asarray(drop(x, 0.5)) / 3, rtol=1e-6)


def test_dropout_keeps_the_dtype():
    assert drop(jnp.ones(8, jnp.bfloat16), 0.3).dtype == jnp.bfloat16


def test_every_parameter_names_its_axes():
    boxed = layers.SwiGLU(6).init(jax.random.key(0), jnp.ones((1, 4)))["params"]
    assert boxed["gate"]["kernel"].names == ("embed", "mlp")
    assert boxed["down"]["kernel"].names == ("mlp", "embed")
