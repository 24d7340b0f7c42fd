"""Preference objectives against float64 formulas, their limits, padding and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oxyrec_jax import losses

BOTH = pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])


def example(seed=0, rows=5, others=4):
    rng = np.random.default_rng(seed)
    mask = rng.random((rows, others)) < 0.7
    mask[0], mask[-1] = True, False
    draw = lambda *shape: -rng.uniform(0.5, 6, shape).astype(np.float32)
    return dict(chosen=draw(rows), rejected=draw(rows), ref_chosen=draw(rows),
                ref_rejected=draw(rows), negatives=draw(rows, others),
                ref_negatives=draw(rows, others), mask=mask)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def slopes(total, arrays, step=1e-5):
    """Central differences of a float64 function of several arrays, one by one."""
    arrays = [np.asarray(a, np.float64) for a in arrays]
    found = []
    for which, array in enumerate(arrays):
        gradient = np.zeros_like(array)
        for place in np.ndindex(array.shape):
            ends = []
            for sign in (1, -1):
                moved = array.copy()
                moved[place] += sign * step
                ends.append(total(*arrays[:which], moved, *arrays[which + 1:]))
            gradient[place] = (ends[0] - ends[1]) / (2 * step)
        found.append(gradient)
    return found


@BOTH
@pytest.mark.parametrize("smoothing", [0, 0.1])
def test_dpo_equals_the_formula(wrap, smoothing):
    d = example()

    def total(chosen, rejected):
        delta = 0.3 * (chosen - d["ref_chosen"] - rejected + d["ref_rejected"])
        return np.sum(-(1 - smoothing) * np.log(sigmoid(delta))
                      - smoothing * np.log(sigmoid(-delta)))

    def ours(chosen, rejected):
        return losses.dpo_loss(chosen, rejected, d["ref_chosen"], d["ref_rejected"],
                               beta=0.3, label_smoothing=smoothing)

    found = wrap(ours)(d["chosen"], d["rejected"])
    expected = total(d["chosen"], d["rejected"])
    np.testing.assert_allclose(found.total, expected, rtol=1e-5)
    assert found.weight == 5
    gradients = wrap(jax.grad(lambda *x: ours(*x).total, (0, 1)))(
        d["chosen"], d["rejected"])
    for ours_, expected in zip(gradients, slopes(total, (d["chosen"], d["rejected"]))):
        np.testing.assert_allclose(ours_, expected, rtol=1e-4, atol=1e-5)


@BOTH
def test_softmax_dpo_equals_the_formula(wrap):
    d = example(1)

    def total(positive, negatives):
        out = 0.0
        for row in range(4):  # the last row has no negative
            u = [positive[row] - d["ref_chosen"][row]] + [
                negatives[row, j] - d["ref_negatives"][row, j]
                for j in range(4) if d["mask"][row, j]]
            out -= np.log(np.exp(0.4 * u[0]) / np.sum(np.exp(0.4 * np.array(u))))
        return out

    def ours(positive, negatives):
        return losses.softmax_dpo_loss(positive, negatives, d["ref_chosen"],
                                       d["ref_negatives"], beta=0.4, mask=d["mask"])

    inputs = d["chosen"], np.where(d["mask"], d["negatives"], np.nan)
    found = wrap(ours)(*inputs)
    np.testing.assert_allclose(found.total, total(*inputs), rtol=1e-5)
    assert found.weight == 4
    gradients = wrap(jax.grad(lambda *x: ours(*x).total, (0, 1)))(*inputs)
    expected = slopes(total, (d["chosen"], d["negatives"]))
    np.testing.assert_allclose(gradients[0], expected[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradients[1], expected[1], rtol=1e-4, atol=1e-5)


def test_softmax_dpo_with_one_negative_is_dpo():
    d = example(2)
    one = losses.softmax_dpo_loss(d["chosen"], d["rejected"][:, None], d["ref_chosen"],
                                  d["ref_rejected"][:, None], beta=0.7)
    two = losses.dpo_loss(d["chosen"], d["rejected"], d["ref_chosen"],
                          d["ref_rejected"], beta=0.7)
    np.testing.assert_allclose(one.total, two.total, rtol=1e-6)


@BOTH
def test_simpo_equals_the_formula(wrap):
    d = example(3)
    total = lambda a, b: np.sum(-np.log(sigmoid(2 * (a - b) - 1.5)))
    ours = lambda a, b: losses.simpo_loss(a, b, beta=2.0, margin=1.5)
    found = wrap(ours)(d["chosen"], d["rejected"])
    np.testing.assert_allclose(found.total, total(d["chosen"].astype(np.float64),
                                                  d["rejected"]), rtol=1e-5)
    gradients = wrap(jax.grad(lambda *x: ours(*x).total, (0, 1)))(
        d["chosen"], d["rejected"])
    for ours_, expected in zip(gradients, slopes(total, (d["chosen"], d["rejected"]))):
        np.testing.assert_allclose(ours_, expected, rtol=1e-4, atol=1e-5)


def test_far_apart_pairs_stay_finite_and_keep_their_gradient():
    far = jnp.array([1e4, -1e4])
    zero = jnp.zeros(2)
    for loss in (lambda x: losses.dpo_loss(x, -x, zero, zero, beta=1.0).total,
                 lambda x: losses.simpo_loss(x, -x, beta=1.0, margin=0.0).total,
                 lambda x: losses.softmax_dpo_loss(x, -x[:, None], zero, zero[:, None],
                                                   beta=1.0).total):
        value, gradient = jax.value_and_grad(loss)(far)
        np.testing.assert_allclose(value, 2e4, rtol=1e-6)  # only the wrong pair costs
        np.testing.assert_allclose(gradient, [0, -2], atol=1e-6)


def test_the_reference_receives_no_gradient():
    d = example(4)
    loss = lambda a, b: losses.dpo_loss(d["chosen"], d["rejected"], a, b,
                                        beta=1.0).total
    for gradient in jax.grad(loss, (0, 1))(d["ref_chosen"], d["ref_rejected"]):
        assert not np.any(gradient)
    loss = lambda a, b: losses.softmax_dpo_loss(d["chosen"], d["negatives"], a, b,
                                                beta=1.0).total
    for gradient in jax.grad(loss, (0, 1))(d["ref_chosen"], d["ref_negatives"]):
        assert not np.any(gradient)


def test_no_negatives_at_all_give_zero():
    d = example(5)
    loss = losses.softmax_dpo_loss(d["chosen"], d["negatives"], d["ref_chosen"],
                                   d["ref_negatives"], beta=1.0,
                                   mask=np.zeros_like(d["mask"]))
    assert loss.total == loss.weight == loss.mean() == 0


def test_bfloat16_gives_float32():
    narrow = {k: jnp.asarray(v, jnp.bfloat16) for k, v in example(6).items()}
    loss = losses.dpo_loss(narrow["chosen"], narrow["rejected"], narrow["ref_chosen"],
                           narrow["ref_rejected"], beta=0.1)
    assert loss.total.dtype == loss.weight.dtype == jnp.float32


ROW, ROWS = jnp.zeros(3), jnp.zeros((3, 2))


@pytest.mark.parametrize("call, error, words", [
    (lambda: losses.dpo_loss(ROW, ROW, ROW, jnp.zeros(2), beta=1.0), ValueError,
     r"ref_rejected.shape=\(2,\), expected \(3,\)"),
    (lambda: losses.dpo_loss(ROW, ROW, ROW, ROW, beta=-1.0), ValueError, "beta=-1.0"),
    (lambda: losses.dpo_loss(ROW, ROW, ROW, ROW, beta=1.0, label_smoothing=0.5),
     ValueError, r"label_smoothing=0.5, expected in \[0, 0.5\)"),
    (lambda: losses.dpo_loss(ROWS, ROWS, ROWS, ROWS, beta=1.0), ValueError,
     r"chosen.shape=\(3, 2\), expected \[B\]"),
    (lambda: losses.softmax_dpo_loss(ROW, ROW, ROW, ROW, beta=1.0), ValueError,
     r"negatives.shape=\(3,\), expected \[B, N\]"),
    (lambda: losses.softmax_dpo_loss(ROW, ROWS, ROW, ROWS, beta=1.0, mask=ROWS),
     TypeError, "mask has dtype float32, expected bool"),
    (lambda: losses.simpo_loss(ROW, ROW, beta=1.0, margin=-1.0), ValueError,
     "margin=-1.0"),
    (lambda: losses.simpo_loss(ROW, jnp.zeros(3, int), beta=1.0, margin=0.0), TypeError,
     "rejected_mean has dtype int32"),
])
def test_bad_arguments_raise(call, error, words):
    with pytest.raises(error, match=words):
        jax.eval_shape(call)


def test_padded_pairs_are_not_read():
    rng = np.random.default_rng(0)
    pairs = [jnp.asarray(rng.normal(size=4), jnp.float32) for _ in range(4)]
    padded = [jnp.concatenate([one, jnp.array([jnp.nan, 9])]) for one in pairs]
    mask = jnp.arange(6) < 4
    for loss, many in ((lambda *x, **more: losses.dpo_loss(
            *x, beta=0.5, label_smoothing=0.1, **more), 4),
            (lambda *x, **more: losses.simpo_loss(*x, beta=2, margin=0.5, **more), 2)):
        whole = loss(*pairs[:many])
        cost, slope = jax.value_and_grad(lambda first: loss(
            first, *padded[1:many], mask=mask).mean())(padded[0])
        np.testing.assert_allclose(cost, whole.mean(), rtol=1e-6)
        assert whole.weight == 4 and np.isfinite(slope).all() and not slope[4:].any()


def test_an_impossible_chosen_item_costs_everything():
    one, never = jnp.zeros(1), jnp.array([-jnp.inf])
    assert losses.dpo_loss(never, one, one, one, beta=1).mean() == np.inf
    assert losses.dpo_loss(one, never, one, one, beta=1).mean() == 0
