"""Vectors find their items by id; whatever a file holds wrong is named with its row."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oxyrec_jax.base import InputError
from oxyrec_jax.tokenizer import vector_files
from oxyrec_jax.tokenizer.vector_files import VectorFile

IDS = ["a", "b", "c"]


def npy(folder, array, ids=None):
    path = folder / "vectors.npy"
    np.save(path, np.asarray(array))
    if ids is None:
        return VectorFile(str(path))
    (folder / "ids.txt").write_text("\n".join(ids) + "\n")
    return VectorFile(str(path), ids=str(folder / "ids.txt"))


def parquet(folder, ids, lists, kind=pa.float32()):
    path = folder / "vectors.parquet"
    pq.write_table(pa.table({"item_id": pa.array(ids),
                             "embedding": pa.array(lists, pa.list_(kind))}), path)
    return VectorFile(str(path))


def test_rows_of_an_array_are_rows_of_the_item_table(tmp_path):
    found = vector_files.read_vectors(npy(tmp_path, [[1, 2], [0, 0], [5, 6.0]]), IDS)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[1, 2], [0, 0], [5, 6]])


def test_rows_are_found_by_id_and_absent_items_are_zero(tmp_path):
    expected = [[3, 4], [0, 0], [1, 2]]
    file = npy(tmp_path, [[1.0, 2], [3, 4], [7, 7]], ["c", "a", "stranger"])
    np.testing.assert_array_equal(vector_files.read_vectors(file, IDS), expected)
    file = parquet(tmp_path, ["c", "a", "b", "other"], [[1, 2], [3, 4], None, [7, 7]])
    np.testing.assert_array_equal(vector_files.read_vectors(file, IDS), expected)


def test_a_file_without_any_wanted_item_still_tells_its_dimension(tmp_path):
    file = parquet(tmp_path, ["x"], [[1, 2, 3, 4]])
    np.testing.assert_array_equal(vector_files.read_vectors(file, IDS),
                                  np.zeros((3, 4)))


def test_other_columns_may_hold_them(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"asin": [3, 1], "clip": pa.array([[3.0], [1.0]])}), path)
    file = VectorFile(str(path), column="clip", id_column="asin")
    np.testing.assert_array_equal(vector_files.read_vectors(file, ["1", "2", "3"]),
                                  [[1], [0], [3]])


@pytest.mark.parametrize("array, said", [
    ([[1, 2], [3, 4.0]], r"shape \(2, 2\), expected \[3, dimension\]"),
    ([1.0, 2, 3], r"shape \(3,\)"),
    ([[1], [np.nan], [3]], "row 1 holds NaN or infinity"),
    ([[1], [3], [np.inf]], "row 2 holds NaN or infinity"),
    ([[1.0], [1e300], [2]], "row 1 holds NaN or infinity"),  # not a float32
    ([["x"], ["y"], ["z"]], "holds no numbers"),
])
def test_arrays_that_do_not_fit_are_named(tmp_path, array, said):
    with pytest.raises(InputError, match=f"vectors.npy.*{said}"):
        vector_files.read_vectors(npy(tmp_path, array), IDS)


@pytest.mark.parametrize("ids, lists, said", [
    (["a", "b", "a"], [[1], [2], [3]], "row 2 has the item id 'a', which row 0 has"),
    (["a", None], [[1], [2]], "row 1 has no item id"),
    (["a", "b"], [[1], [1, 2]], "holds (1|2) numbers, unlike the others"),
    (["a", "b"], [[1], [float("nan")]], "row 1 holds NaN"),
    (["a", "b"], [[1], [None]], "row 1 holds NaN"),
    ([], [], r"shape \(0, 0\)"),
])
def test_tables_that_do_not_fit_are_named(tmp_path, ids, lists, said):
    with pytest.raises(InputError, match=f"vectors.parquet.*{said}"):
        vector_files.read_vectors(
            parquet(tmp_path, pa.array(ids, pa.string()), lists), IDS)


def test_ids_that_do_not_match_the_rows_are_named(tmp_path):
    with pytest.raises(InputError, match=r"shape \(3, 1\), expected \[2, dimension\]"):
        vector_files.read_vectors(npy(tmp_path, [[1.0], [2], [3]], ["a", "b"]), IDS)


def test_files_that_are_not_there_or_unreadable_are_named(tmp_path):
    for file, said in ((VectorFile(str(tmp_path / "no.npy")), "no.npy does not exist"),
                       (VectorFile(), "the path of a vector file does not exist")):
        with pytest.raises(InputError, match=said):
            vector_files.read_vectors(file, IDS)
    for name, said in (("x.npy", "not a readable .npy"), ("x.csv", "ends in '.csv'"),
                       ("x.parquet", "not a readable Parquet")):
        (tmp_path / name).write_bytes(b"something else")
        with pytest.raises(InputError, match=said):
            vector_files.read_vectors(VectorFile(str(tmp_path / name)), IDS)
    file = npy(tmp_path, [[1.0]], ["a"])
    (tmp_path / "ids.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="ids.txt is not UTF-8"):
        vector_files.read_vectors(file, IDS)


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path):
    file = parquet(tmp_path, ["a"], [[1]])
    with pytest.raises(InputError, match="no column 'clip'; its columns are item_id, "
                                         "embedding"):
        vector_files.read_vectors(VectorFile(file.path, column="clip"), IDS)


def test_an_array_of_objects_is_refused_unread(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(InputError, match="not a readable .npy"):
        vector_files.read_vectors(VectorFile(str(tmp_path / "x.npy")), IDS)


def test_a_file_is_described_by_name_and_digest(tmp_path):
    file = npy(tmp_path, [[1.0]])
    found = vector_files.describe(file)
    assert found["file"] == "vectors.npy" and len(found["sha256"]) == 64
    before = found["sha256"]
    assert vector_files.describe(npy(tmp_path, [[2.0]]))["sha256"] != before
