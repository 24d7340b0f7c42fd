"""Scale and shift of logits: found again, pulled back where there is little data."""

import numpy as np
import pytest
from scipy import optimize

from oxyrec_jax.evaluate import calibration


def drawn(scale, shift, rows=40_000, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 2, rows)
    return logits, rng.random(rows) < 1 / (1 + np.exp(-(scale * logits + shift)))


@pytest.mark.parametrize("scale, shift", [(0.5, -0.7), (2.0, 0.3), (1.0, 0.0)])
def test_platt_finds_the_scale_and_shift_that_made_the_labels(scale, shift):
    found = calibration.fit(*drawn(scale, shift), "platt")
    np.testing.assert_allclose(found, [scale, shift], atol=0.06)


def test_the_fit_is_the_minimum_that_another_method_finds():
    logits, labels = drawn(0.6, 0.4, rows=200)

    def cost(point):
        scores = point[0] * logits + point[1]
        return (np.logaddexp(0, scores) - labels * scores).sum() + (
            (point[0] - 1) ** 2 + point[1] ** 2) / 2
    best = optimize.minimize(cost, [1.0, 0.0], tol=1e-12).x
    np.testing.assert_allclose(calibration.fit(logits, labels, "platt"), best,
                               atol=1e-4)


def test_a_temperature_has_no_shift_and_none_changes_nothing():
    logits, labels = drawn(0.5, 0.0)
    scale, shift = calibration.fit(logits, labels, "temperature")
    assert shift == 0 and abs(scale - 0.5) < 0.03
    assert calibration.fit(logits, labels, "none") == (1.0, 0.0)
    with pytest.raises(ValueError, match="method='isotonic', expected one of"):
        calibration.fit(logits, labels, "isotonic")


@pytest.mark.parametrize("logits, labels", [
    (np.zeros(0), np.zeros(0, bool)), (np.array([3.0]), np.array([True])),
    (np.array([-2.0, 2.0]), np.array([False, True])),     # separable
    (np.full(5, 30.0), np.zeros(5, bool))])               # as wrong as can be
def test_little_or_separable_data_stay_near_the_logits(logits, labels):
    scale, shift = calibration.fit(logits, labels, "platt")
    assert np.isfinite([scale, shift]).all() and abs(scale - 1) < 2.5
    assert abs(shift) < 2.5


def test_each_step_of_a_funnel_is_fitted_where_it_was_open():
    logits = np.random.default_rng(0).normal(size=(6, 2, 3))
    outcome = np.array([[0, 3], [1, 2], [0, 1], [2, 0], [3, 1], [1, 1]])
    shown = np.ones((6, 2), bool)
    shown[0, 0] = False
    found = calibration.fit_funnel(logits, outcome, shown, "platt")
    there = outcome >= 1  # the cart was open to what was clicked
    expected = calibration.fit(logits[..., 1][there], outcome[there] >= 2, "platt")
    np.testing.assert_allclose(found[1], expected, rtol=1e-6)
    expected = calibration.fit(logits[..., 0][shown], outcome[shown] >= 1, "platt")
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)
