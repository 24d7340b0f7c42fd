"""Next-code losses against hand-computed values and a NumPy float64 oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oxyrec_jax import losses

WRAPS = pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])


def oracle(logits, targets, mask, weights, smoothing, z_loss):
    """Sum, weight and gradient w.r.t. logits of one loss, row by row in float64."""
    logits = np.asarray(logits, np.float64)
    total, weight = 0.0, 0.0
    gradient = np.zeros_like(logits)
    size = logits.shape[-1]
    for place in np.ndindex(mask.shape):
        if not mask[place]:
            continue
        row, w = logits[place], float(weights[place])
        z = np.log(np.sum(np.exp(row - row.max()))) + row.max()
        wanted = np.full(size, smoothing / size)
        wanted[targets[place]] += 1 - smoothing
        total += w * (np.sum(wanted * (z - row)) + z_loss * z * z)
        weight += w
        softmax = np.exp(row - z)
        gradient[place] = w * (softmax - wanted + 2 * z_loss * z * softmax)
    return total, weight, gradient


def example(seed=0, shape=(3, 4), size=7, width=5):
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < 0.7
    mask.flat[0] = True
    return dict(
        hidden=rng.normal(size=(*shape, width)).astype(np.float32),
        table=rng.normal(size=(size, width)).astype(np.float32),
        targets=rng.integers(0, size, shape).astype(np.int32),
        mask=mask,
        weights=rng.uniform(0.5, 2, shape).astype(np.float32),
    )


@WRAPS
def test_two_codes_by_hand(wrap):
    # softmax([0, log 3]) = [1/4, 3/4]: code 1 costs log(4/3), code 0 costs log 4.
    logits = np.log(np.array([[1, 3], [1, 3], [5, 5]], np.float32))
    mask = np.array([True, True, False])
    loss = wrap(lambda x: losses.next_code_loss(x, np.array([1, 0, 9]), mask))(logits)
    np.testing.assert_allclose(loss.total, np.log(4 / 3) + np.log(4), rtol=1e-6)
    np.testing.assert_allclose(loss.weight, 2)
    np.testing.assert_allclose(loss.mean(), np.log(16 / 3) / 2, rtol=1e-6)


@WRAPS
@pytest.mark.parametrize("smoothing, z_loss, chunk", [
    (0.0, 0.0, 3), (0.1, 0.0, 1), (0.2, 0.03, 3), (0.2, 0.03, 7), (0.0, 0.03, 50)])
def test_both_forms_equal_the_oracle(wrap, smoothing, z_loss, chunk):
    case = example()
    logits = case["hidden"] @ case["table"].T
    total, weight, gradient = oracle(logits, case["targets"], case["mask"],
                                     case["weights"], smoothing, z_loss)
    options = dict(sample_weights=case["weights"], label_smoothing=smoothing,
                   z_loss=z_loss)

    def plain(x):
        return losses.next_code_loss(x, case["targets"], case["mask"], **options)

    def lean(hidden, table):
        return losses.chunked_next_code_loss(
            hidden, table, case["targets"], case["mask"], chunk=chunk, **options)

    found = wrap(plain)(logits)
    np.testing.assert_allclose(found.total, total, rtol=1e-5)
    np.testing.assert_allclose(found.weight, weight, rtol=1e-6)
    np.testing.assert_allclose(wrap(jax.grad(lambda x: plain(x).total))(logits),
                               gradient, atol=1e-5)

    found = wrap(lean)(case["hidden"], case["table"])
    np.testing.assert_allclose(found.total, total, rtol=1e-5)
    np.testing.assert_allclose(found.weight, weight, rtol=1e-6)
    of_hidden, of_table = wrap(jax.grad(lambda h, t: lean(h, t).total, argnums=(0, 1)))(
        case["hidden"], case["table"])
    np.testing.assert_allclose(of_hidden, gradient @ case["table"], atol=1e-5)
    np.testing.assert_allclose(
        of_table, np.einsum("btv,btd->vd", gradient, case["hidden"]), atol=1e-5)


@WRAPS
def test_padding_is_never_read(wrap):
    case = example(seed=1)
    hidden = np.where(case["mask"][..., None], case["hidden"], np.nan)
    targets = np.where(case["mask"], case["targets"], -7)
    weights = np.where(case["mask"], case["weights"], np.nan)

    def lean(h, y, w):
        return losses.chunked_next_code_loss(h, case["table"], y, case["mask"],
                                             sample_weights=w, chunk=3).mean()

    def plain(h, y, w):
        return losses.next_code_loss(h @ case["table"].T, y, case["mask"],
                                     sample_weights=w).mean()

    for loss in (plain, lean):
        both = wrap(jax.value_and_grad(loss))
        clean = both(case["hidden"], case["targets"], case["weights"])
        padded = both(hidden, targets, weights)
        np.testing.assert_array_equal(clean[0], padded[0])
        np.testing.assert_array_equal(clean[1][case["mask"]], padded[1][case["mask"]])


def test_empty_mask_gives_zero_and_zero_gradient():
    case = example()
    empty = np.zeros_like(case["mask"])

    def plain(hidden):
        return losses.next_code_loss(hidden @ case["table"].T, case["targets"], empty
                                     ).mean()

    def lean(hidden):
        return losses.chunked_next_code_loss(hidden, case["table"], case["targets"],
                                             empty).mean()

    for loss in (plain, lean):
        value, gradient = jax.value_and_grad(loss)(case["hidden"])
        assert value == 0
        assert not np.any(gradient)


def test_a_target_outside_the_codebook_makes_the_loss_nan():
    logits = jnp.zeros((2, 3))
    mask = np.array([True, True])
    for wrong in (-1, 3):
        loss = losses.next_code_loss(logits, np.array([0, wrong]), mask)
        assert np.isnan(loss.total)
        loss = losses.chunked_next_code_loss(logits, jnp.ones((3, 3)),
                                             np.array([0, wrong]), mask)
        assert np.isnan(loss.total)


def test_forbidden_codes_get_no_probability_and_no_gradient():
    logits = jnp.array([[0.0, -jnp.inf, 0.0]])
    loss = lambda x: losses.next_code_loss(x, np.array([0]), np.array([True])).mean()
    value, gradient = jax.value_and_grad(loss)(logits)
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
    np.testing.assert_allclose(gradient, [[-0.5, 0, 0.5]], atol=1e-7)


def test_huge_logits_do_not_overflow():
    table = np.array([[1e4], [-1e4], [9e3]], np.float32)
    hidden = np.array([[1.0], [-3.0]], np.float32)
    targets, mask = np.array([2, 1]), np.array([True, True])
    # Row 0: log(e^1e4 + ...) - 9e3 = 1000; row 1: the target is the largest: 0.
    for chunk in (1, 2, 3):
        loss = losses.chunked_next_code_loss(hidden, table, targets, mask, chunk=chunk)
        np.testing.assert_allclose(loss.total, 1000, rtol=1e-6)
    loss = losses.next_code_loss(hidden @ table.T, targets, mask)
    np.testing.assert_allclose(loss.total, 1000, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_inputs_give_float32_results(dtype):
    case = example()
    hidden = jnp.asarray(case["hidden"], dtype)
    table = jnp.asarray(case["table"], dtype)
    rest = case["targets"], case["mask"]
    found = losses.chunked_next_code_loss(hidden, table, *rest, chunk=3)
    assert found.total.dtype == found.weight.dtype == jnp.float32
    exact = losses.chunked_next_code_loss(hidden.astype(jnp.float32),
                                          table.astype(jnp.float32), *rest, chunk=3)
    np.testing.assert_allclose(found.total, exact.total, rtol=1e-5)
    gradient = jax.grad(lambda h: losses.chunked_next_code_loss(
        h, table, *rest, chunk=3).mean())(hidden)
    assert gradient.dtype == dtype


def test_lean_form_holds_no_whole_logits():
    rows, codes, width, chunk = 64, 8192, 8, 512
    hidden, table = jnp.ones((rows, width)), jnp.ones((codes, width))
    targets, mask = jnp.zeros(rows, jnp.int32), jnp.ones(rows, bool)

    def lean(h, t):
        return losses.chunked_next_code_loss(h, t, targets, mask, chunk=chunk).mean()

    compiled = jax.jit(jax.value_and_grad(lean, argnums=(0, 1))).lower(
        hidden, table).compile()
    whole = rows * codes * 4
    assert compiled.memory_analysis().temp_size_in_bytes < whole / 2
    assert f"{rows},{codes}" not in compiled.as_text()


@pytest.mark.parametrize("change, error, words", [
    (dict(logits=jnp.zeros((2, 3), jnp.int32)), TypeError, "logits has dtype int32"),
    (dict(targets=jnp.zeros(3, jnp.int32)), ValueError, r"targets.shape=\(3,\)"),
    (dict(targets=jnp.zeros(2)), TypeError, "targets has dtype float32"),
    (dict(mask=jnp.ones(2)), TypeError, "mask has dtype float32, expected bool"),
    (dict(mask=jnp.ones((2, 1), bool)), ValueError, r"mask.shape=\(2, 1\)"),
    (dict(logits=jnp.zeros((2, 0))), ValueError, "V > 0"),
    (dict(label_smoothing=1.0), ValueError, "label_smoothing=1.0"),
    (dict(z_loss=-1.0), ValueError, "z_loss=-1.0"),
    (dict(sample_weights=jnp.ones(3)), ValueError, "sample_weights.shape"),
])
def test_bad_arguments_raise_while_tracing(change, error, words):
    given = dict(logits=jnp.zeros((2, 3)), targets=jnp.zeros(2, jnp.int32),
                 mask=jnp.ones(2, bool)) | change
    with pytest.raises(error, match=words):
        jax.eval_shape(lambda logits: losses.next_code_loss(
            logits, **{k: v for k, v in given.items() if k != "logits"}),
            given["logits"])


def test_lean_form_names_the_wrong_argument():
    rest = jnp.zeros(2, jnp.int32), jnp.ones(2, bool)
    with pytest.raises(ValueError, match=r"hidden.shape=\(2, 4\), expected \(..., 3\)"):
        losses.chunked_next_code_loss(jnp.zeros((2, 4)), jnp.zeros((5, 3)), *rest)
    with pytest.raises(ValueError, match=r"table.shape=\(5,\), expected \[V, D\]"):
        losses.chunked_next_code_loss(jnp.zeros((2, 4)), jnp.zeros(5), *rest)
    with pytest.raises(ValueError, match="chunk=0"):
        losses.chunked_next_code_loss(jnp.zeros((2, 4)), jnp.zeros((5, 4)), *rest,
                                      chunk=0)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_wrong_target_does_not_train(chunked):
    table = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)
    hidden, targets = jnp.ones((2, 3)), jnp.array([1, 77])

    def cost(hidden, mask):
        if chunked:
            return losses.chunked_next_code_loss(hidden, table, targets, mask).mean()
        return losses.next_code_loss(hidden @ table.T, targets, mask).mean()
    value, slope = jax.value_and_grad(cost)(hidden, jnp.array([True, True]))
    assert np.isnan(value) and np.isnan(slope[1]).all()
    value, slope = jax.value_and_grad(cost)(hidden, jnp.array([True, False]))
    assert np.isfinite(value) and np.isfinite(slope).all() and not slope[1].any()


def test_smoothing_may_be_swept():
    logits = jnp.array([[2.0, 0, -1]])
    given = logits, jnp.array([0]), jnp.array([True])
    swept = jax.vmap(lambda share: losses.next_code_loss(
        *given, label_smoothing=share).mean())(jnp.array([0, 0.1]))
    np.testing.assert_allclose(swept, [losses.next_code_loss(
        *given, label_smoothing=share).mean() for share in (0.0, 0.1)], rtol=1e-6)
