"""Fusion against an independent second writing; what is missing has no influence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

from oxyrec_jax.base import InputError
from oxyrec_jax.tokenizer import fusion

CFG = fusion.FusionConfig(dimension=6, width=8, queries=3, heads=2, hidden=5)
NAMES = ("text", "image", "co-engagement")
WIDTHS = (4, 7, 5)
APPLY = jax.jit(fusion.apply, static_argnums=0)
BOTH = pytest.mark.parametrize("kind", fusion.KINDS)


def make(kind, rows=5, seed=0):
    """A network, random parameters, source vectors and who has what."""
    rng = np.random.default_rng(seed)
    network = fusion.make_fusion(kind, NAMES, CFG)
    vectors = tuple(rng.normal(size=(rows, width)).astype(np.float32)
                    for width in WIDTHS)
    boxed = jax.eval_shape(network.init, jax.random.key(0), vectors,
                           np.ones((rows, 3), bool))
    params = {name: rng.normal(size=value.shape).astype(np.float32) * 0.5
              for name, value in traverse_util.flatten_dict(
                  nn.meta.unbox(boxed)["params"], sep="/").items()}
    present = rng.random((rows, 3)) < 0.6
    present[0], present[1], present[-1] = True, [True, False, False], False
    return network, params, vectors, present


def unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-30)


def norm(x, scale):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * scale


def silu(x):
    return x / (1 + np.exp(-x))


def late_by_loops(params, vectors, present):
    """One item, one head, one query after the other, in float64."""
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}
    result = []
    for row in range(len(present)):
        there = [place for place in range(3) if present[row, place]]
        if not there:
            result.append(np.zeros(6))
            continue
        x = {place: unit(np.asarray(vectors[place][row], np.float64))
             for place in there}
        tokens = {place: norm(x[place] @ p[f"{NAMES[place]}/kernel"],
                              p[f"norm_{NAMES[place]}/scale"]) + p["sources"][place]
                  for place in there}
        found = []
        for query in p["queries"]:
            asked = norm(query, p["norm_queries/scale"]) @ p["query/kernel"]
            met = np.zeros(8)
            for head in (slice(0, 4), slice(4, 8)):
                scores = np.array([asked[head] @ (tokens[place] @ p["key"])[head]
                                   for place in there]) / 2  # sqrt of width 4
                weights = np.exp(scores) / np.exp(scores).sum()
                met[head] = sum(
                    weight * (tokens[place] @ p["value/kernel"])[head]
                    for weight, place in zip(weights, there))
            y = query + met @ p["out/kernel"]
            z = norm(y, p["norm_feed_forward/scale"])
            y = y + (silu(z @ p["feed_forward/gate/kernel"])
                     * (z @ p["feed_forward/up/kernel"])
                     ) @ p["feed_forward/down/kernel"]
            found.append(y)
        h = norm(np.concatenate(found), p["norm_head/scale"])
        out = silu(h @ p["head_in/kernel"]) @ p["head_out/kernel"]
        for place in there:
            out = out + (x[place] @ p[f"straight_{NAMES[place]}/kernel"]
                         ) * WIDTHS[place] ** 0.5
        result.append(unit(out))
    return np.array(result)


def test_late_fusion_equals_the_loops():
    network, params, vectors, present = make("late")
    np.testing.assert_allclose(APPLY(network, params, vectors, present),
                               late_by_loops(params, vectors, present), atol=2e-5)


@BOTH
def test_vectors_have_length_one_and_none_without_a_source(kind):
    network, params, vectors, present = make(kind)
    made = np.asarray(APPLY(network, params, vectors, present))
    assert made.dtype == np.float32 and made.shape == (5, 6)
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), [1, 1, 1, 1, 0], rtol=1e-5)


@BOTH
def test_a_missing_source_has_no_influence_on_value_or_gradient(kind):
    network, params, vectors, present = make(kind)

    def total(params, vectors):
        return jnp.sum(APPLY(network, params, vectors, present)[:, :3])

    blank = tuple(np.where(present[:, [place]], vector, np.nan).astype(np.float32)
                  for place, vector in enumerate(vectors))
    both = jax.jit(jax.value_and_grad(total, (0, 1)))
    value, (slopes, inputs) = both(params, vectors)
    value_blank, (slopes_blank, inputs_blank) = both(params, blank)
    assert value == value_blank
    for name in params:
        np.testing.assert_array_equal(slopes[name], slopes_blank[name])
    for place, (one, two) in enumerate(zip(inputs, inputs_blank)):
        np.testing.assert_array_equal(one, two)
        assert not np.any(one[~present[:, place]])
        assert np.any(one[present[:, place]])


@BOTH
def test_a_present_source_has_influence(kind):
    network, params, vectors, present = make(kind)
    changed = (vectors[0] * np.array([1, -2, 1, 1], np.float32), *vectors[1:])
    made, again = (APPLY(network, params, x, present) for x in (vectors, changed))
    moved = np.abs(made - again).max(axis=1)
    np.testing.assert_array_equal(moved > 1e-4, present[:, 0])


@BOTH
def test_items_in_another_order_get_their_vectors_in_that_order(kind):
    network, params, vectors, present = make(kind, rows=9)
    order = np.random.default_rng(3).permutation(9)
    made = APPLY(network, params, vectors, present)
    again = APPLY(network, params, tuple(x[order] for x in vectors), present[order])
    np.testing.assert_allclose(again, made[order], atol=1e-6)


@BOTH
def test_the_length_of_a_source_vector_does_not_count(kind):
    network, params, vectors, present = make(kind)
    longer = tuple(vector * np.float32(8) for vector in vectors)
    np.testing.assert_allclose(APPLY(network, params, longer, present),
                               APPLY(network, params, vectors, present),
                               atol=1e-6)


@BOTH
def test_jit_gives_the_same(kind):
    network, params, vectors, present = make(kind)
    np.testing.assert_allclose(APPLY(network, params, vectors, present),
                               fusion.apply(network, params, vectors, present),
                               atol=1e-6)


@pytest.mark.parametrize("kind, options, said", [
    ("middle", {}, "the fusion is 'middle', expected one of early, late"),
    ("late", {"queries": 0}, "{'queries': 0}"),
    ("late", {"heads": 3, "width": 8}, "heads that divide the width"),
])
def test_what_cannot_be_built_is_named(kind, options, said):
    with pytest.raises(InputError, match=said):
        fusion.make_fusion(kind, NAMES, fusion.FusionConfig(**options))


def test_a_mask_of_another_shape_is_a_programming_error():
    network, params, vectors, present = make("late")
    with pytest.raises(ValueError, match=r"present.shape=\(5, 2\)"):
        fusion.apply(network, params, vectors, present[:, :2])
