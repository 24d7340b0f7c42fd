"""Q2I and InfoNCE against float64 loops, over shards, with padding and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from oxyrec_jax import losses

BOTH = pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])


def vectors(seed=0, shape=(6, 4)):
    both = np.random.default_rng(seed).normal(size=(2, *shape))
    both /= np.linalg.norm(both, axis=-1, keepdims=True)
    return both


def q2i_by_loops(queries, targets, variance_weight=0.3, decorrelation_weight=0.7):
    rows = len(queries)
    near = sum(queries[i] @ targets[i] for i in range(rows)) / rows
    spread = [np.mean([np.mean((x[:, d] - x[:, d].mean()) ** 2)
                       for d in range(x.shape[1])]) for x in (queries, targets)]
    crossed = sum((queries[i] @ queries[j]) ** 2 for i in range(rows)
                  for j in range(rows) if i != j)
    return (-near - variance_weight * np.log(spread[0] * spread[1])
            + decorrelation_weight * crossed / (rows**2 - rows))


def info_nce_by_loops(anchors, positives, real, temperature, symmetric=False):
    total = 0.0
    for i in real:
        row = [anchors[i] @ positives[j] / temperature for j in real]
        column = [anchors[j] @ positives[i] / temperature for j in real]
        own = anchors[i] @ positives[i] / temperature
        one = np.log(np.sum(np.exp(row))) - own
        two = np.log(np.sum(np.exp(column))) - own
        total += (one + two) / 2 if symmetric else one
    return total


def slopes(total, one, two, step=1e-6):
    found = []
    for which in (0, 1):
        gradient = np.zeros_like(one)
        for place in np.ndindex(one.shape):
            ends = []
            for sign in (1, -1):
                moved = [one.copy(), two.copy()]
                moved[which][place] += sign * step
                ends.append(total(*moved))
            gradient[place] = (ends[0] - ends[1]) / (2 * step)
        found.append(gradient)
    return found


@BOTH
@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (2, 1)], ids=str)
def test_q2i_equals_the_loops(wrap, shape):
    queries, targets = vectors(0, shape)

    def ours(q, t):
        return losses.q2i_loss(q, t, variance_weight=0.3, decorrelation_weight=0.7)

    single = queries.astype(np.float32), targets.astype(np.float32)
    if shape == (2, 1):  # unit vectors on a line: give them a spread
        queries, targets = queries * [[1], [2]], targets * [[3], [1]]
        single = queries.astype(np.float32), targets.astype(np.float32)
    found = wrap(ours)(*single)
    np.testing.assert_allclose(found.mean(), q2i_by_loops(queries, targets), rtol=1e-5)
    assert found.weight == shape[0]
    gradients = wrap(jax.grad(lambda *x: ours(*x).mean(), (0, 1)))(*single)
    for ours_, expected in zip(gradients, slopes(q2i_by_loops, queries, targets)):
        np.testing.assert_allclose(ours_, expected, rtol=1e-3, atol=2e-5)


def test_q2i_by_hand():
    # q1 = t1 = (1, 0), q2 = t2 = (0, 1): q·t = 1, every dimension has variance 1/4,
    # q1·q2 = 0: L = -1 - w log(1/16).
    rows = np.eye(2, dtype=np.float32)
    loss = losses.q2i_loss(rows, rows, variance_weight=0.5, decorrelation_weight=9.0)
    np.testing.assert_allclose(loss.mean(), -1 + 0.5 * np.log(16), rtol=1e-6)


def test_q2i_of_a_collapsed_batch_is_finite():
    rows = np.tile(np.array([[0.6, 0.8]], np.float32), (4, 1))
    value, gradient = jax.value_and_grad(lambda x: losses.q2i_loss(
        x, x, variance_weight=0.1, decorrelation_weight=0.1).mean())(rows)
    assert np.isfinite(value) and np.all(np.isfinite(gradient))


@BOTH
@pytest.mark.parametrize("symmetric", [False, True])
def test_info_nce_equals_the_loops(wrap, symmetric):
    anchors, positives = vectors(1)
    mask = np.array([True, True, False, True, True, False])
    real = np.flatnonzero(mask)

    def ours(a, p):
        return losses.info_nce_loss(a, p, temperature=0.2, mask=mask,
                                    symmetric=symmetric)

    padded = [np.where(mask[:, None], x, np.nan).astype(np.float32)
              for x in (anchors, positives)]
    found = wrap(ours)(*padded)
    total = lambda a, p: info_nce_by_loops(a, p, real, 0.2, symmetric)
    np.testing.assert_allclose(found.total, total(anchors, positives), rtol=1e-5)
    assert found.weight == 4
    gradients = wrap(jax.grad(lambda *x: ours(*x).total, (0, 1)))(*padded)
    for ours_, expected in zip(gradients, slopes(total, anchors, positives)):
        np.testing.assert_allclose(ours_, expected, rtol=1e-3, atol=1e-5)


def test_info_nce_by_hand():
    # Scores at temperature 1/2: own 2, other 0: log(e² + 1) - 2 for both rows.
    rows = np.eye(2, dtype=np.float32)
    loss = losses.info_nce_loss(rows, rows, temperature=0.5)
    np.testing.assert_allclose(loss.mean(), np.log(np.exp(2) + 1) - 2, rtol=1e-5)


@BOTH
def test_excluded_pairs_are_no_negatives(wrap):
    # Scores at temperature 1: rows (1, 0), (1, 0), (0, 1). Without the exclusion the
    # first row costs log(e + e + 1) - 1; with [0, 1] excluded it is log(e + 1) - 1.
    rows = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    excluded = np.zeros((3, 3), bool)
    excluded[0, 1] = excluded[2, 2] = True  # the latter is its own pair: stays
    e = np.e
    forth = [np.log(e + 1) - 1, np.log(2 * e + 1) - 1, np.log(e + 2) - 1]
    back = [np.log(2 * e + 1) - 1, np.log(e + 1) - 1, np.log(e + 2) - 1]
    loss = wrap(lambda x: losses.info_nce_loss(
        x, x, temperature=1.0, excluded=excluded).total)
    np.testing.assert_allclose(loss(rows), sum(forth), rtol=1e-6)
    both = wrap(lambda x: losses.info_nce_loss(
        x, x, temperature=1.0, excluded=excluded, symmetric=True).total)
    np.testing.assert_allclose(both(rows), (sum(forth) + sum(back)) / 2, rtol=1e-6)


def test_excluded_pairs_get_no_gradient_from_each_other():
    anchors, positives = vectors(7).astype(np.float32)
    excluded = np.zeros((6, 6), bool)
    excluded[1, 4] = True

    def first_row(p):
        one = np.zeros(6, bool)
        one[[1, 4]] = True
        return losses.info_nce_loss(anchors, p, temperature=0.3, mask=one,
                                    excluded=excluded | excluded.T).total
    # Two rows, each excluded from the other: nothing but the own score is left.
    np.testing.assert_allclose(first_row(positives), 0, atol=1e-6)
    np.testing.assert_allclose(jax.grad(first_row)(positives), 0, atol=1e-6)


def test_learned_temperature_receives_its_gradient():
    anchors, positives = vectors(2)
    total = lambda t: info_nce_by_loops(anchors, positives, range(6), t)
    slope = (total(0.3 + 1e-6) - total(0.3 - 1e-6)) / 2e-6
    found = jax.grad(lambda t: losses.info_nce_loss(
        anchors.astype(np.float32), positives.astype(np.float32), temperature=t).total)
    np.testing.assert_allclose(found(0.3), slope, rtol=1e-3)


def test_small_temperatures_do_not_overflow():
    anchors, positives = vectors(3).astype(np.float32)
    value, gradient = jax.value_and_grad(lambda a: losses.info_nce_loss(
        a, positives, temperature=1e-4, symmetric=True).mean())(anchors)
    assert np.isfinite(value) and np.all(np.isfinite(gradient))


def test_empty_mask_gives_zero_and_zero_gradient():
    anchors, positives = vectors(4).astype(np.float32)
    value, gradient = jax.value_and_grad(lambda a: losses.info_nce_loss(
        a, positives, temperature=0.1, mask=np.zeros(6, bool), symmetric=True).mean()
        )(anchors)
    assert value == 0 and not np.any(gradient)


@pytest.mark.parametrize("loss", [
    lambda a, b: losses.info_nce_loss(a, b, temperature=0.1, symmetric=True),
    lambda a, b: losses.q2i_loss(a, b, variance_weight=0.1, decorrelation_weight=0.2),
], ids=["info_nce", "q2i"])
def test_sharded_batches_see_the_whole_batch(loss):
    """Eight devices hold two rows each; negatives and variances are the global ones."""
    pairs = vectors(5, (16, 4)).astype(np.float32)
    both = jax.jit(jax.value_and_grad(lambda a, b: loss(a, b).mean(), (0, 1)))
    whole, gradients = both(*pairs)
    rows = NamedSharding(Mesh(np.array(jax.devices()[:8]), ("data",)),
                         PartitionSpec("data"))
    spread = [jax.device_put(x, rows) for x in pairs]
    assert len(spread[0].addressable_shards) == 8
    value, parts = both(*spread)
    np.testing.assert_allclose(value, whole, rtol=1e-6)
    for one, two in zip(gradients, parts):
        np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-6)


def test_bfloat16_gives_float32():
    a, b = (jnp.asarray(x, jnp.bfloat16) for x in vectors(6))
    assert losses.info_nce_loss(a, b, temperature=0.1).total.dtype == jnp.float32
    assert losses.q2i_loss(a, b, variance_weight=0.1, decorrelation_weight=0.1
                           ).total.dtype == jnp.float32


ROWS = jnp.zeros((3, 2))


@pytest.mark.parametrize("call, error, words", [
    (lambda: losses.q2i_loss(ROWS[:1], ROWS[:1], variance_weight=0.1,
                             decorrelation_weight=0.1), ValueError,
     r"queries.shape=\(1, 2\), expected \[B, D\] with B >= 2"),
    (lambda: losses.q2i_loss(ROWS, ROWS.T, variance_weight=0.1,
                             decorrelation_weight=0.1), ValueError,
     r"targets.shape=\(2, 3\), expected \(3, 2\)"),
    (lambda: losses.q2i_loss(ROWS, ROWS, variance_weight=-0.1,
                             decorrelation_weight=0.1), ValueError, "variance_weight"),
    (lambda: losses.info_nce_loss(ROWS, ROWS, temperature=0.0), ValueError,
     r"temperature=0.0, expected in \(0"),
    (lambda: losses.info_nce_loss(ROWS, ROWS, temperature=-1.0), ValueError,
     "temperature=-1.0"),
    (lambda: losses.info_nce_loss(ROWS[0], ROWS[0], temperature=1.0), ValueError,
     r"anchors.shape=\(2,\), expected \[B, D\]"),
    (lambda: losses.info_nce_loss(ROWS, ROWS, temperature=1.0, mask=jnp.ones(3)),
     TypeError, "mask has dtype float32, expected bool"),
    (lambda: losses.info_nce_loss(ROWS, ROWS, temperature=1.0,
                                  excluded=jnp.ones((3, 2), bool)),
     ValueError, r"excluded.shape=\(3, 2\), expected \(3, 3\)"),
    (lambda: losses.info_nce_loss(ROWS.astype(int), ROWS, temperature=1.0), TypeError,
     "anchors has dtype int32"),
])
def test_bad_arguments_raise(call, error, words):
    with pytest.raises(error, match=words):
        jax.eval_shape(call)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("batch, width", [(5, 128), (48, 256), (100, 128)])
def test_equal_queries_have_no_gradient_though_their_mean_is_rounded(batch, width,
                                                                     masked):
    rng = np.random.default_rng(batch)
    query, *targets = unit_rows(rng, batch + 1, width)
    queries = jnp.tile(query, (batch, 1))
    mask = jnp.arange(batch) > 1 if masked else None

    def spread(queries):  # the variance's part alone
        cost = [losses.q2i_loss(queries, jnp.stack(targets), mask=mask,
                                variance_weight=weight, decorrelation_weight=0.0).mean()
                for weight in (0.01, 0.0)]
        return cost[0] - cost[1]
    assert np.abs(jax.jit(jax.grad(spread))(queries)).max() < 1e-3


def unit_rows(rng, *shape):
    rows = rng.normal(size=shape)
    return jnp.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), jnp.float32)
