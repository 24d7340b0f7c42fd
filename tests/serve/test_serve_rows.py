"""What a served history tells of its requests."""

import numpy as np
import pytest

import tiny_world
from oxyrec_jax.serve.rows import Row, lay, sides_of

TIMES = np.array([100, 100, 250, 250, 250, 300])


@pytest.mark.parametrize("times, columns, expected", [
    (TIMES, {"request": np.array([7, 8, 8, -1, -1, 9])}, [1, 1, 0, 1, 1, 1]),
    (TIMES, {}, [1, 0, 1, 0, 0, 1])])
def test_requests_are_told_by_their_column_or_by_the_moment(times, columns, expected):
    found = sides_of(times, 400, columns, ("gap", "opens"))
    assert found["opens"].tolist() == expected and len(found["gap"]) == 6


def test_of_a_history_without_either_nothing_fades():
    assert not sides_of(None, None, {}, ("opens",))
    assert not sides_of(np.zeros(0, np.int64), None, {}, ("opens",))
    model = tiny_world.make_model(own="requests")
    made = lay([Row(np.arange(3)), Row(np.arange(6), {"opens": np.arange(6.0)})], None,
               model, batch=2, length=4)
    assert {*model.reads} <= {*made} and made["opens"].dtype == np.float32
    np.testing.assert_array_equal(made["opens"], [[0, 0, 0, 0], [2, 3, 4, 5]])
