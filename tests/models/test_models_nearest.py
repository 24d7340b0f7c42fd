"""The table of nearest items against NumPy float64."""

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest

from oxyrec_jax.models import nearest


def by_sorting(vectors, most):
    """Cosines of every item with its nearest, float64: a list of `(item, cosine)`."""
    x = vectors.astype(np.float64)
    lengths = np.linalg.norm(x, axis=1)
    x = x / np.maximum(lengths, 1e-12)[:, None]
    cosines = x @ x.T
    rows = []
    for item in range(len(x)):
        others = [c for c in range(len(x)) if c != item and lengths[c] > 0]
        others.sort(key=lambda c: (-cosines[item, c], c))
        rows.append([(c, cosines[item, c]) for c in others[:most]]
                    if lengths[item] > 0 else [])
    return rows


@hypothesis.settings(deadline=None, max_examples=25)
@hypothesis.given(vectors=hnp.arrays(np.float32, (7, 3), elements=st.integers(-3, 3)),
                  most=st.integers(1, 4))
def test_nearest_equal_a_sort(vectors, most):
    found = nearest.nearest_items(vectors, most=most)
    for item, expected in enumerate(by_sorting(vectors, most)):
        count = len(expected)
        np.testing.assert_allclose(found.cosines[item, :count],
                                   [cosine for _, cosine in expected], atol=1e-5)
        assert (np.asarray(found.items[item, count:]) == -1).all()
        assert (np.asarray(found.cosines[item, count:]) == 0).all()
        kept = np.asarray(found.items[item, :count])
        assert item not in kept and len(set(kept.tolist())) == count


def test_more_items_than_a_block_holds():
    vectors = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
    found = nearest.nearest_items(vectors, most=5)
    assert found.items.shape == (600, 5)
    for item, expected in enumerate(by_sorting(vectors, 5)):
        assert found.items[item].tolist() == [c for c, _ in expected]


def test_vectors_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        nearest.nearest_items(np.float32([[1, 0], [np.nan, 1]]), most=1)


def test_a_table_is_kept_under_what_it_was_made_of(tmp_path, monkeypatch):
    vectors = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    made = nearest.nearest_items(vectors, most=3)
    first = nearest.kept_nearest(vectors, most=3, cache_folder=tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.delattr(nearest, "nearest_items")
        again = nearest.kept_nearest(vectors, most=3, cache_folder=tmp_path / "cache")
    for found in (first, again):
        np.testing.assert_array_equal(found.items, made.items)
        np.testing.assert_array_equal(found.cosines, made.cosines)
    for others, most in ((vectors, 2), (vectors[::-1], 3)):
        found = nearest.kept_nearest(others, most=most, cache_folder=tmp_path / "cache")
        np.testing.assert_array_equal(found.items, nearest.nearest_items(
            others, most=most).items)


def test_a_damaged_table_is_made_again_and_one_that_cannot_be_kept_is_told(
        tmp_path, caplog):
    vectors = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    made = nearest.kept_nearest(vectors, most=3, cache_folder=tmp_path)
    path, = tmp_path.glob("nearest-*/items.npy")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    for folder, said in ((tmp_path, "items.npy was changed"), (path, "is not kept")):
        found = nearest.kept_nearest(vectors, most=3, cache_folder=folder)
        np.testing.assert_array_equal(found.items, made.items)
        assert said in caplog.text
    assert path.read_bytes()[-1:] != b"x"
