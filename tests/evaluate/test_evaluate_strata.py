"""Groups of targets: each axis covers every target once, by hand and by property."""

import hypothesis
import numpy as np
from hypothesis import strategies

from oxyrec_jax.evaluate import rows, strata


def _groups(found, axis):
    return {group.name: np.flatnonzero(group.rows).tolist()
            for group in found if group.axis == axis}


def test_groups_by_hand():
    # Training sees item 0 three times and nothing else; tested are 0, 1, 2, 1.
    events = rows.Events(
        np.array([0, 0, 0, 0, 1, 1, 3, 2, 2, 1]), np.array([0, 4, 6, 8, 10]),
        np.array([[0, 1, 3], [1, 1, 1]]), 4)
    tested = np.array([[0, 3, 4], [1, 1, 2], [2, 1, 2], [3, 1, 2]])
    targets = rows.expand(events, tested)
    found = strata.strata(events, targets, ["B9", "B2", "B5", "B1"])
    assert _groups(found, "popularity") == {"never in training": [1, 2, 3],
                                            "1 to 3 training events": [0]}
    assert _groups(found, "repeat") == {"new to the user": [2, 3],
                                        "in the user's history": [0, 1]}
    # Steps: B9 -> B9 same, B2 -> B2 same, B1 -> B5 up, B5 -> B2 down.
    assert _groups(found, "order") == {"product id ascends": [2],
                                       "product id descends": [3],
                                       "same item again": [0, 1]}


def test_decimal_ids_are_compared_as_numbers():
    events = rows.Events(np.array([0, 1]), np.array([0, 2]), np.zeros((0, 3), int), 2)
    targets = rows.expand(events, np.array([[0, 1, 2]]))
    assert _groups(strata.strata(events, targets, ["9", "10"]), "order") == {
        "product id ascends": [0]}
    assert _groups(strata.strata(
        events, targets, ["9223372036854775810", "9223372036854775809"]), "order") == {
            "product id descends": [0]}  # 64 bits would make floats of them
    assert _groups(strata.strata(events, targets, ["B9", "B10"]), "order") == {
        "product id descends": [0]}


def test_popularity_groups_are_of_about_equal_size():
    # Item i has i training events (openers and targets), each is tested once.
    sequences = [[item] * item for item in range(2, 42)]
    offsets = np.cumsum([0] + [len(whole) for whole in sequences])
    events = rows.Events(np.concatenate(sequences), offsets,
                         np.array([[i, 1, i + 2] for i in range(40)]), 42)
    targets = rows.expand(events, np.array([[i, 1, 2] for i in range(40)]))
    found = _groups(strata.strata(events, targets, list(map(str, range(42)))),
                    "popularity")
    assert [len(group) for group in found.values()] == [10, 10, 10, 10]
    assert list(found)[0] == "1 to 11 training events"


@hypothesis.settings(deadline=None, max_examples=50)
@hypothesis.given(strategies.integers(0, 10**6), strategies.integers(1, 6))
def test_each_axis_covers_every_target_once(seed, groups):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 8, 15)
    events = rows.Events(rng.integers(0, 9, sizes.sum()), np.cumsum([0, *sizes]),
                         np.array([[s, 1, sizes[s] - 1] for s in range(10)]), 9)
    targets = rows.expand(events, np.array([[s, sizes[s] - 1, sizes[s]]
                                            for s in range(15)]))
    found = strata.strata(events, targets, [f"i{n}" for n in rng.permutation(9)],
                          groups=groups)
    for axis in ("popularity", "repeat", "order"):
        covered = sum(group.rows.astype(int) for group in found if group.axis == axis)
        np.testing.assert_array_equal(covered, np.ones(15))
    assert all(group.rows.any() for group in found)
