"""A catalogue on the device: tables that agree, in an order that popularity gives."""

import numpy as np
import pytest

from oxyrec_jax.base import InputError
from oxyrec_jax.tokenizer.catalogue import make_catalogue

CODES = np.array([[1, 0], [0, 1], [1, 0], [0, 0], [1, 0]])


def test_paths_lead_to_the_leaf_of_each_item():
    catalogue, leaves = make_catalogue(CODES, (2, 2), popularity=np.zeros(5))
    # SIDs in order: 00, 01, 10. The first codes 0 and 1 are nodes 0 and 1.
    assert catalogue.paths.tolist() == [[1, 2], [0, 1], [1, 2], [0, 0], [1, 2]]
    assert catalogue.paths[:, -1].tolist() == leaves.of_items().tolist()
    assert catalogue.tables.codes.tolist() == CODES.tolist()


def test_items_of_one_id_stand_by_popularity_then_by_number():
    _, leaves = make_catalogue(CODES, (2, 2), popularity=np.array([1, 0, 7, 0, 7]))
    assert leaves.items[leaves.offsets[2]:].tolist() == [2, 4, 0]


def test_tables_of_another_length_are_refused():
    with pytest.raises(InputError, match="4 items have a popularity and 5 a semantic"):
        make_catalogue(CODES, (2, 2), popularity=np.zeros(4))
    with pytest.raises(InputError, match="3 items have features and 5 a semantic"):
        make_catalogue(CODES, (2, 2), popularity=np.zeros(5), features=np.zeros((3, 2)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_not_finite_are_named(bad):
    features = np.zeros((5, 2))
    features[[3, 4], 1] = bad
    with pytest.raises(InputError, match=r"item 3 are not finite \(2 such items\)"):
        make_catalogue(CODES, (2, 2), popularity=np.zeros(5), features=features)


def test_retired_items_keep_their_codes_and_leave_the_trie():
    catalogue, leaves = make_catalogue(
        CODES, (2, 2), popularity=np.array([1, 0, 7, 0, 7]),
        retired=np.array([False, True, False, False, True]))
    # Left are the items 0, 2, 3 with the SIDs 10, 10, 00.
    assert catalogue.tables.codes.tolist() == CODES.tolist()
    assert leaves.items.tolist() == [3, 2, 0] and leaves.offsets.tolist() == [0, 1, 3]
    assert catalogue.paths.tolist() == [[1, 1], [-1, -1], [1, 1], [0, 0], [-1, -1]]
    assert catalogue.tables.live.tolist() == [True, False, True, True, False]


def test_rows_beyond_the_items_are_in_no_trie():
    found, leaves = make_catalogue(CODES, (2, 2), popularity=np.zeros(5), rows=8,
                                   features=np.ones((5, 3)))
    short, expected = make_catalogue(CODES, (2, 2), popularity=np.zeros(5))
    assert found.tables.codes.shape == (8, 2) and found.tables.features.shape == (8, 3)
    assert found.tables.live.tolist() == [True] * 5 + [False] * 3
    assert found.paths[:5].tolist() == short.paths.tolist()
    assert (found.paths[5:] == -1).all() and short.tables.live is None
    np.testing.assert_array_equal(leaves.items, expected.items)
    with pytest.raises(ValueError, match="rows=4"):
        make_catalogue(CODES, (2, 2), popularity=np.zeros(5), rows=4)


def test_a_catalogue_without_any_item_left_is_refused():
    with pytest.raises(InputError, match="all items are retired"):
        make_catalogue(CODES, (2, 2), popularity=np.zeros(5), retired=np.ones(5, bool))
