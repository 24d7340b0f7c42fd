"""A law of sizes and data: found again from its own points, and refused without them.
"""

import numpy as np
import pytest

from oxyrec_jax.errors import InputError
from oxyrec_jax.evaluate import scaling_law

SIZES, DATA = (each.ravel() for each in np.meshgrid(
    [2e3, 1e4, 5e4, 2e5, 1e6], [1e4, 4e4, 1.6e5], indexing="ij"))


def test_a_law_by_hand():
    law = scaling_law.Law(1.5, 10.0, 0.5, 100.0, 1.0, 0.0)
    # 1.5 + 10 / sqrt(100) + 100 / 1000
    assert law(np.array([100.0]), np.array([1000.0])) == pytest.approx([2.6])


@pytest.mark.parametrize("law", [
    scaling_law.Law(2.0, 30.0, 0.5, 400.0, 0.6, 0.0),
    scaling_law.Law(3.5, 5.0, 0.3, 40.0, 0.4, 0.0)])
def test_the_law_is_found_again_from_points_on_it(law):
    found = scaling_law.fit(SIZES, DATA, law(SIZES, DATA))
    assert found.error < 1e-6
    for name in ("floor", "size_power", "data_power"):
        assert getattr(found, name) == pytest.approx(getattr(law, name), rel=1e-2)
    wide = np.array([1e7]), np.array([1e7])
    assert found(*wide) == pytest.approx(law(*wide), rel=1e-3)


def test_a_search_that_begins_near_ends_where_the_wide_one_does():
    law = scaling_law.Law(2.0, 30.0, 0.5, 400.0, 0.6, 0.0)
    noisy = law(SIZES, DATA) * np.exp(
        0.002 * np.random.default_rng(0).standard_normal(len(SIZES)))
    wide = scaling_law.fit(SIZES, DATA, noisy)
    near = scaling_law.fit(SIZES, DATA, noisy, begin=wide)
    assert near.error == pytest.approx(wide.error, rel=1e-3)
    assert 0 < wide.error < 0.003
    assert near.floor == pytest.approx(wide.floor, rel=1e-2)


@pytest.mark.parametrize("rows, losses, words", [
    (slice(0, 5), 1.0, "5 points of 2 sizes and 3"), (slice(0, 15, 3), 1.0, "amounts"),
    (slice(None), 0.0, "expected above 0")])
def test_too_few_points_and_losses_of_nothing_are_refused(rows, losses, words):
    with pytest.raises(InputError, match=words):
        scaling_law.fit(SIZES[rows], DATA[rows], np.full(len(SIZES[rows]), losses))
