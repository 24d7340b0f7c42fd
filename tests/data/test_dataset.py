"""Prepared data sets: what is written comes back, and damage is named."""

import errno
import json
import pathlib

import numpy as np
import pytest

from oxyrec_jax.base import InputError
from oxyrec_jax.data import dataset, schema, writer

ITEMS = schema.item_table({"item_id": ["a", "b", "c"], "title": ["x", None, "z"],
                           "season": ["winter", None, None]})


def fill(out: dataset.DatasetWriter) -> None:
    out.add_items(ITEMS)
    out.add_sequences({"item": np.array([0, 1, 2, 1]), "time": np.arange(4)},
                      np.array([3, 1]), ["ann", "bob"])
    out.add_sequences({"item": np.array([2, 0]), "time": np.arange(2)}, np.array([2]),
                      ["cid"])
    out.add_targets("train", np.array([[0, 1, 3]]))
    out.add_targets("test", np.array([[2, 1, 2]]))
    out.facts["counts"] = {"users": 3}


def write(folder, fill=fill, **options):
    return dataset.write_dataset(folder, fill, columns=("time", "item"),
                                 facts={"source": "toy"}, **options)


@pytest.mark.parametrize("shard_events, shards", [(100, 1), (1, 2)])
def test_a_data_set_comes_back_as_it_was_written(tmp_path, shard_events, shards):
    write(tmp_path / "d", shard_events=shard_events)
    opened = dataset.load_dataset(tmp_path / "d")
    assert len(opened.shards) == shards
    assert (opened.num_items, opened.num_sequences, opened.num_events) == (3, 3, 6)
    assert opened.columns == ("item", "time")
    assert opened.column("item").tolist() == [0, 1, 2, 1, 2, 0]
    assert opened.column("item").dtype == np.int32
    assert opened.column("time").tolist() == [0, 1, 2, 3, 0, 1]
    assert opened.offsets().tolist() == [0, 3, 4, 6]
    assert [opened.history(s, n).tolist() for s, n in [(0, 2), (1, 1), (2, 1), (2, 0)]
            ] == [[0, 1], [1], [2], []]
    assert opened.targets("train").tolist() == [[0, 1], [0, 2]]
    assert opened.targets("test").tolist() == [[2, 1]]
    assert opened.user_ids() == ["ann", "bob", "cid"]
    assert opened.item_table().equals(ITEMS)
    assert opened.manifest["source"] == "toy"
    assert opened.manifest["counts"] == {"users": 3}
    assert opened.queries() == []


def test_an_empty_split_and_an_unknown_column_are_named(tmp_path):
    write(tmp_path / "d")
    opened = dataset.load_dataset(tmp_path / "d")
    with pytest.raises(InputError, match="'valid' targets"):
        opened.targets("valid")
    with pytest.raises(InputError, match="no column 'price'; its columns are item"):
        opened.column("price")
    with pytest.raises(ValueError, match="before=4"):
        opened.history(0, 4)


@pytest.mark.parametrize("broken, message", [
    (lambda o: o.add_targets("train", [[0, 0, 1]]), "1 <= first < last"),
    (lambda o: o.add_targets("train", [[1, 1, 2]]), "outside its sequence"),
    (lambda o: o.add_targets("train", [[3, 1, 2]]), "outside its sequence"),
    (lambda o: o.add_targets("dev", [[0, 1, 2]]), "split='dev'"),
    (lambda o: o.add_sequences({"item": np.array([3]), "time": np.array([0])}, [1],
                               ["x"]), "column item holds 3"),
    (lambda o: o.add_sequences({"item": np.array([-1]), "time": np.array([0])}, [1],
                               ["x"]), "column item holds -1"),
    (lambda o: o.add_sequences({"item": np.array([0])}, [1], ["x"]), "columns have"),
    (lambda o: o.add_sequences({"item": np.zeros(0), "time": np.zeros(0)}, [0], ["x"]),
     "at least 1"),
])
def test_what_does_not_fit_together_is_refused_and_leaves_nothing(
        tmp_path, broken, message):
    def fill_and_break(out):
        fill(out)
        broken(out)
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "d", fill_and_break)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_data_set_is_refused(tmp_path):
    with pytest.raises(InputError, match="0 items and 0 sequences"):
        write(tmp_path / "d", lambda out: None)


def test_a_changed_file_is_named_by_its_digest(tmp_path):
    write(tmp_path / "d")
    path = tmp_path / "d" / "sequences" / "00000" / "item.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"item\.npy was changed: its SHA-256 digest"):
        dataset.load_dataset(tmp_path / "d")


def test_a_file_cut_short_is_named_even_unverified(tmp_path):
    write(tmp_path / "d")
    path = tmp_path / "d" / "sequences" / "00000" / "item.npy"
    path.write_bytes(path.read_bytes()[:-4])
    for verify in (True, False):
        with pytest.raises(InputError, match=r"item\.npy"):
            dataset.load_dataset(tmp_path / "d", verify=verify)


def test_another_schema_version_is_refused(tmp_path):
    write(tmp_path / "d")
    path = tmp_path / "d" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 7}))
    with pytest.raises(InputError, match="schema version 7, this release reads 1"):
        dataset.load_dataset(tmp_path / "d")


def test_a_manifest_cannot_point_outside_its_folder(tmp_path):
    write(tmp_path / "d")
    path = tmp_path / "d" / "manifest.json"
    manifest = json.loads(path.read_text())
    for change in ({"columns": ["item", "../../secret"]}, {"splits": {"../x": 1}},
                   {"files": {"../x": {"bytes": 1, "sha256": ""}}}):
        path.write_text(json.dumps({**manifest, **change}))
        with pytest.raises(InputError, match=r"names .*\.\./"):
            dataset.load_dataset(tmp_path / "d")


def test_a_full_disk_says_so_and_keeps_the_older_data_set(tmp_path, monkeypatch):
    write(tmp_path / "d")
    real = writer._Appender.append

    def full(self, values):
        if self.rows:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, values)
    monkeypatch.setattr(writer._Appender, "append", full)
    with pytest.raises(InputError, match="the disk is full; free some space"):
        write(tmp_path / "d")
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
    assert dataset.load_dataset(tmp_path / "d").num_sequences == 3


def test_the_same_input_gives_the_same_bytes(tmp_path):
    assert write(tmp_path / "a") == write(tmp_path / "b")


def test_an_appended_array_is_a_plain_npy_file(tmp_path):
    appender = writer._Appender(pathlib.Path(tmp_path / "x.npy"), np.int64, (3,))
    appender.append(np.arange(6).reshape(2, 3))
    appender.append(np.arange(300).reshape(100, 3))
    appender.finish()
    array = np.load(tmp_path / "x.npy", allow_pickle=False)
    assert array.shape == (102, 3)
    assert array[1].tolist() == [3, 4, 5] and array[-1].tolist() == [297, 298, 299]
