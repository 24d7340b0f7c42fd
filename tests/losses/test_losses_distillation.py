"""Distillation by hand: forward divergence, one choice where the teacher is sure."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oxyrec_jax import losses

TEACHER = np.log(np.array([[0.5, 0.25, 0.25], [1.0, 1e-30, 1e-30]], np.float32))
STUDENT = np.log(np.array([[0.25, 0.5, 0.25], [0.5, 0.25, 0.25]], np.float32))
BOTH = np.array([True, True])


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("mask, certain, expected", [
    # .5 log(.5/.25) + .25 log(.25/.5) = .25 log 2, and log(1/.5) = log 2
    ([True, True], 0.0, 1.25 * np.log(2) / 2), ([True, False], 0.0, 0.25 * np.log(2)),
    # entropies 1.5 log 2 = 1.04 and 0: the first's one choice is code 0, log 4
    ([True, True], 0.1, 1.25 * np.log(2) / 2), ([True, True], 2.0, 1.5 * np.log(2)),
    ([False, False], 0.0, 0.0)])
def test_distillation_by_hand(wrap, mask, certain, expected):
    def loss(own):
        return losses.distillation_loss(own, TEACHER, np.array(mask), certain=certain
                                        ).mean()
    np.testing.assert_allclose(wrap(loss)(STUDENT), expected, rtol=1e-5, atol=1e-7)


def test_the_gradient_of_logits_is_the_difference_and_the_teacher_has_none():
    def loss(logits, told):
        return losses.distillation_loss(jax.nn.log_softmax(logits), told, BOTH).total
    own, told = jax.grad(loss, (0, 1))(jnp.asarray(STUDENT), TEACHER)
    np.testing.assert_allclose(own, np.exp(STUDENT) - np.exp(TEACHER), atol=1e-6)
    assert not told.any()


def test_impossible_codes_count_nowhere_and_a_masked_nan_is_not_read():
    wide = [np.pad(each, ((0, 1), (0, 2)), constant_values=-np.inf)
            for each in (STUDENT, TEACHER)]
    wide[0][2] = np.nan
    mask = np.array([True, True, False])

    def loss(own):
        return losses.distillation_loss(own, wide[1], mask).mean()
    value, slope = jax.value_and_grad(loss)(jnp.asarray(wide[0]))
    np.testing.assert_allclose(value, 1.25 * np.log(2) / 2, rtol=1e-5)
    assert np.isfinite(slope).all() and not slope[2].any()


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="teacher_log_probs.shape"):
        losses.distillation_loss(STUDENT, TEACHER[:1], BOTH)
    with pytest.raises(ValueError, match="certain=-1"):
        losses.distillation_loss(STUDENT, TEACHER, BOTH, certain=-1)


@pytest.mark.parametrize("certain", [0.0, 1.0])
def test_what_the_student_alone_forbids_is_infinitely_far(certain):
    student = jnp.log(jnp.array([[0, 0.5, 0.5], [0.5, 0.5, 0]]))
    teacher = jnp.log(jnp.array([[0.9, 0.05, 0.05], [1, 0, 0]]))
    for row, expected in ((0, np.inf), (1, np.log(2))):
        mask = jnp.arange(2) == row
        found = losses.distillation_loss(student, teacher, mask, certain=certain).mean()
        np.testing.assert_allclose(found, expected, rtol=1e-6)
