"""First codes in the plane, and items under one prefix."""

import numpy as np
import pytest

from oxyrec_jax.tokenizer import code_map


def test_first_codes_lie_where_the_means_of_their_items_do():
    # Code 2 has the mean (0, 0), code 5 (4, 0), code 7 (0, 2): with weights 2, 2, 1 of
    # 5 the centre is (8/5, 2/5).
    first = np.array([2, 5, 7, 5, 2])
    x = np.array([[-1, 0], [4, 1], [0, 2], [4, -1], [1, 0]], np.float32)
    found = code_map.code_map(first, x, ["a", "b", None, "b", "a"])
    assert found.codes.tolist() == [2, 5, 7] and found.items.tolist() == [2, 2, 1]
    assert found.kept == pytest.approx(1)  # two columns fill the plane
    gaps = np.linalg.norm(found.points[:, None] - found.points, axis=-1)
    np.testing.assert_allclose(gaps, [[0, 4, 2], [4, 0, 20 ** 0.5], [2, 20 ** 0.5, 0]],
                               atol=1e-12)
    np.testing.assert_allclose(np.average(found.points, axis=0, weights=[2, 2, 1]), 0,
                               atol=1e-12)
    np.testing.assert_allclose(found.purity, [1, 1, np.nan])
    assert found.category == ("a", "b", "")


def test_the_commonest_category_of_a_code_is_named_and_equals_go_to_the_first_seen():
    names = ["x", "y", "y", "p", "q"]
    found = code_map.code_map(np.array([0, 0, 0, 1, 1]), np.eye(5, dtype=np.float32),
                              names)
    assert found.category == ("y", "p")
    np.testing.assert_allclose(found.purity, [2 / 3, 1 / 2])


def test_without_categories_there_is_no_purity():
    found = code_map.code_map(np.array([0, 1]), np.eye(2, dtype=np.float32))
    assert np.isnan(found.purity).all() and found.category == ("", "")


def test_chunks_do_not_change_the_map(monkeypatch):
    rng = np.random.default_rng(0)
    first, x = rng.integers(0, 9, 100), rng.normal(size=(100, 5)).astype(np.float32)
    whole = code_map.code_map(first, x)
    monkeypatch.setattr(code_map, "_ROWS_AT_ONCE", 7)
    parts = code_map.code_map(first, x)
    np.testing.assert_allclose(parts.points, whole.points, atol=1e-9)


@pytest.mark.parametrize("weights", [None, np.arange(1, 41)])
def test_the_plane_is_that_of_the_singular_vectors_whatever_the_sign(weights):
    x = np.random.default_rng(1).normal(size=(40, 6)) * [5, 3, 1, 1, 1, 1]
    plane, kept = code_map.principal_plane(x, weights)
    scale = np.ones(40) if weights is None else np.sqrt(weights)
    centred = x - np.average(x, axis=0, weights=weights)
    _, sizes, right = np.linalg.svd(scale[:, None] * centred)
    np.testing.assert_allclose(np.abs(plane), np.abs(centred @ right[:2].T), atol=1e-9)
    assert kept == pytest.approx((sizes[:2] ** 2).sum() / (sizes ** 2).sum())
    mirrored, _ = code_map.principal_plane(x[:, ::-1], weights)
    np.testing.assert_allclose(mirrored, plane, atol=1e-9)


@pytest.mark.parametrize("shape", [(1, 3), (4, 1), (3, 2)])
def test_a_plane_of_too_little_is_flat(shape):
    plane, kept = code_map.principal_plane(np.ones(shape))
    assert plane.shape == (shape[0], 2) and not plane.any() and kept == 0


#   First code 0: items 0 to 4; 1: item 5; 2: items 6, 7. Under 0 the second code 3 has
#   three items, two of them on one ID.
CODES = np.array([[0, 3, 1], [0, 3, 0], [0, 3, 1], [0, 2, 2], [0, 1, 0], [1, 0, 0],
                  [2, 5, 5], [2, 4, 5]])


def test_prefixes_are_followed_to_their_most_crowded_end():
    found = code_map.prefix_samples(CODES, np.array([1, 9, 1, 5, 7, 0, 2, 3]), each=2)
    assert found == [
        [{"prefix": [0], "count": 5, "items": [1, 4]},
         {"prefix": [0, 3], "count": 3, "items": [1, 0]},
         {"prefix": [0, 3, 1], "count": 2, "items": [0, 2]}],
        [{"prefix": [2], "count": 2, "items": [7, 6]}]]  # then each is alone


def test_branches_are_spread_over_the_sizes():
    codes = np.repeat(np.arange(9), np.arange(9, 0, -1))[:, None]  # 9, 8, …, 1 items
    found = code_map.prefix_samples(codes, np.zeros(len(codes)), branches=3)
    # Of the eight codes with two items or more: the first, the fourth, the last.
    assert [branch[0]["count"] for branch in found] == [9, 6, 2]


def test_no_shared_prefix_gives_no_branch():
    assert code_map.prefix_samples(np.array([[0], [1]]), np.zeros(2)) == []
