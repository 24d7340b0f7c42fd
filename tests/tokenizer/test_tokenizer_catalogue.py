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
