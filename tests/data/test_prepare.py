"""From a source to a prepared data set: filters, order, splits, facts, failures."""

import dataclasses
import errno
import gzip
import json

import numpy as np
import pytest

from oxyrec_jax import artifacts
from oxyrec_jax.base import InputError
from oxyrec_jax.data import dataset, prepare
from oxyrec_jax.data.prepare import DataConfig
from oxyrec_jax.data.readers.tables import TableColumns

TIMED = TableColumns(time="time")


def table(tmp_path, rows, head="user,item,time"):
    path = tmp_path / "log.csv"
    path.write_text("\n".join([head, *rows, ""]))
    return DataConfig(source="table", path=str(path), columns=TIMED)


def made(cfg, tmp_path):
    manifest = prepare.prepare(cfg, tmp_path / "d")
    return manifest, dataset.load_dataset(tmp_path / "d")


def histories(opened):
    names = opened.item_table()["item_id"].to_pylist()
    ends = opened.offsets()
    return {user: [names[i] for i in opened.column("item")[first:last]]
            for user, first, last in zip(opened.user_ids(), ends[:-1], ends[1:])}


def sequences(tmp_path, rows=("u\t0 1 2 3", "v\t3 2 1"), items=4):
    folder = tmp_path / "seq"
    folder.mkdir(exist_ok=True)
    (folder / "items.jsonl").write_text("".join(
        json.dumps({"item": n, "title": f"t{n}"}) + "\n" for n in range(items)))
    (folder / "sequences.tsv").write_text("".join(row + "\n" for row in rows))
    return DataConfig(path=str(folder))


def test_a_table_becomes_sequences_in_order_of_time(tmp_path):
    cfg = table(tmp_path, ["v,b,5", "u,c,30", "u,a,10", "v,a,4", "u,b,20", "w,a,1"])
    manifest, opened = made(cfg, tmp_path)
    assert histories(opened) == {"v": ["a", "b"], "u": ["a", "b", "c"]}
    assert opened.column("time").tolist() == [4, 5, 10, 20, 30]
    assert {name: rows.tolist() for name, rows in opened.splits.items()} == {
        "train": [[0, 1, 2]], "valid": [[1, 1, 2]], "test": [[1, 2, 3]]}
    assert manifest["counts"] == {
        "rows": 6, "events_read": 6, "duplicates": 0, "one_item_users": 1, "users": 2,
        "items": 3, "events": 5, "items_without_text": 3, "train_targets": 1,
        "valid_targets": 1, "test_targets": 1}
    assert (manifest["source"], manifest["protocol"], manifest["tie_policy"]) == (
        "table", "P1", "file order")
    assert manifest["config"]["columns"]["time"] == "time"
    assert manifest["quarantine"] == {"file": None, "rows": 0, "reasons": {},
                                      "share": 0}
    assert manifest["inputs"][0]["name"] == "log.csv"


def test_duplicate_events_are_dropped_and_counted_or_kept(tmp_path):
    cfg = table(tmp_path, ["u,a,1", "u,a,1", "u,a,2", "u,b,1", "u,a,1", "v,a,1",
                           "v,b,2"])
    manifest, opened = made(cfg, tmp_path)
    assert histories(opened)["u"] == ["a", "b", "a"]
    assert manifest["counts"]["duplicates"] == 2
    manifest, opened = made(dataclasses.replace(cfg, duplicates="keep"), tmp_path)
    assert histories(opened)["u"] == ["a", "a", "b", "a", "a"]
    assert manifest["counts"]["duplicates"] == 2


def test_without_times_a_repeat_is_no_duplicate(tmp_path):
    _, opened = made(sequences(tmp_path, ["u\t0 0 1 1"]), tmp_path)
    assert opened.column("item").tolist() == [0, 0, 1, 1]


def test_k_core_renumbers_users_and_items(tmp_path):
    rows = ["x,z,0", "u,b,1", "u,c,2", "v,b,3", "v,c,4", "w,c,5"]
    manifest, opened = made(dataclasses.replace(table(tmp_path, rows), k_core=2),
                            tmp_path)
    assert histories(opened) == {"u": ["b", "c"], "v": ["b", "c"]}
    assert opened.num_items == 2
    assert manifest["counts"]["outside_k_core"] == 2


def test_one_item_users_are_dropped_and_counted(tmp_path):
    manifest, opened = made(sequences(tmp_path, ["u\t0 1 2", "v\t3"]), tmp_path)
    assert opened.user_ids() == ["u"]
    assert manifest["counts"]["one_item_users"] == 1
    assert opened.num_items == 4  # the catalogue of a sequence folder stays whole


def test_nothing_left_is_refused_in_a_sentence(tmp_path):
    cfg = table(tmp_path, ["u,a,1", "v,b,2"])
    with pytest.raises(InputError, match="leaves no user with two events .read 2 ev"):
        prepare.prepare(cfg, tmp_path / "d")
    cfg = dataclasses.replace(table(tmp_path, ["u,a,1", "u,b,2"]), k_core=2)
    with pytest.raises(InputError, match="data.k_core is 2"):
        prepare.prepare(cfg, tmp_path / "d")


def test_the_tie_policy_orders_equal_times(tmp_path):
    cfg = table(tmp_path, ["u,c,1", "u,a,1", "u,b,1", "u,d,0"])
    orders = {}
    for policy in ("file order", "by id", "shuffled(0)", "shuffled(1)", "shuffled(2)"):
        manifest, opened = made(dataclasses.replace(cfg, tie_policy=policy), tmp_path)
        assert manifest["tie_policy"] == policy
        orders[policy] = histories(opened)["u"]
        assert orders[policy][0] == "d"
    assert orders["file order"] == ["d", "c", "a", "b"]
    assert orders["by id"] == ["d", "a", "b", "c"]
    assert len({tuple(order) for order in orders.values()}) >= 3


def test_shuffling_without_times_leaves_the_held_out_events(tmp_path):
    row = list(range(30))
    cfg = sequences(tmp_path, ["u\t" + " ".join(map(str, row))], items=30)
    cfg = dataclasses.replace(cfg, tie_policy="shuffled(4)")
    _, opened = made(cfg, tmp_path)
    found = opened.column("item").tolist()
    assert found[28:] == [28, 29]
    assert found[:28] != row[:28] and sorted(found[:28]) == row[:28]
    with pytest.raises(InputError, match="'by id', but the source has no times"):
        prepare.prepare(dataclasses.replace(cfg, tie_policy="by id"), tmp_path / "e")


def minionerec(tmp_path):
    cfg = sequences(tmp_path, [])
    for name, row in (("train", "u\t0 1 2 0 1 2\t3"), ("valid", "u\t1 2 3\t0"),
                      ("test", "v\t2 1 0\t3")):
        (tmp_path / "seq" / f"{name}.tsv").write_text(f"user\thistory\ttarget\n{row}\n")
    return dataclasses.replace(cfg, source="minionerec")


def test_official_rows_stay_one_sequence_each(tmp_path):
    manifest, opened = made(minionerec(tmp_path), tmp_path)
    assert manifest["protocol"] == "official"
    assert opened.user_ids() == ["u", "u", "v"] and manifest["counts"]["users"] == 2
    assert [opened.splits[name].tolist() for name in ("train", "valid", "test")] == [
        [[0, 6, 7]], [[1, 3, 4]], [[2, 3, 4]]]
    assert opened.history(2, 3).tolist() == [2, 1, 0]


def test_shuffled_official_rows_keep_targets_and_held_out_histories(tmp_path):
    cfg = dataclasses.replace(minionerec(tmp_path), tie_policy="shuffled(1)")
    _, opened = made(cfg, tmp_path)
    found = opened.column("item").tolist()
    assert found[6] == 3 and sorted(found[:6]) == [0, 0, 1, 1, 2, 2]
    assert found[:6] != [0, 1, 2, 0, 1, 2]
    assert found[7:] == [1, 2, 3, 0, 2, 1, 0, 3]


def test_global_temporal_protocol_end_to_end(tmp_path):
    rows = [f"u,a{n % 3},{n}" for n in range(11)]  # ten targets: 8, 1, 1
    cfg = dataclasses.replace(table(tmp_path, rows), protocol="P2")
    manifest, opened = made(cfg, tmp_path)
    assert [opened.splits[name].tolist() for name in ("train", "valid", "test")] == [
        [[0, 1, 9]], [[0, 9, 10]], [[0, 10, 11]]]
    assert manifest["protocol"] == "P2"


@pytest.mark.parametrize("change, message", [
    ({"source": "web"}, "data.source is 'web', expected one of sequences, amazon2018"),
    ({"protocol": "P3"}, "data.protocol is 'P3', expected one of auto, P1, P2, offi"),
    ({"protocol": "P2"}, "cuts by time, but the source has no times; take P1"),
    ({"protocol": "official"}, "sequences has no splits of its own; take P1, P2 or"),
    ({"tie_policy": "random"}, "data.tie_policy is 'random', expected 'file order'"),
    ({"duplicates": "fail"}, "data.duplicates is 'fail', expected one of drop, keep"),
    ({"max_bad_share": 2.0}, "data.max_bad_share is 2.0, expected 0 to 1"),
    ({"text_fields": ("name",)}, "data.text_fields names 'name', expected any of"),
    ({"path": ""}, "data.path is empty"),
])
def test_a_wrong_configuration_is_refused_in_a_sentence(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        prepare.prepare(dataclasses.replace(sequences(tmp_path), **change),
                        tmp_path / "d")
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("change, message", [
    ({"protocol": "P1"}, "'P1', but minionerec comes with its own splits"),
    ({"k_core": 5}, "data.k_core is 5, but minionerec comes with rows"),
])
def test_official_rows_cannot_be_filtered_or_split_again(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        prepare.prepare(dataclasses.replace(minionerec(tmp_path), **change),
                        tmp_path / "d")


def test_an_unknown_item_in_a_sequence_fails_the_run_and_keeps_the_row(tmp_path):
    cfg = sequences(tmp_path, ["u\t0 1 2", "v\t0 99 1"])
    with pytest.raises(InputError, match=(
            r"1 of 2 rows are bad \(50.00%\).* line 2: unknown item, there are 4")):
        prepare.prepare(cfg, tmp_path / "d")
    kept = (tmp_path / "d.quarantine.jsonl").read_text()
    assert json.loads(kept)["row"] == "v\t0 99 1"
    manifest, opened = made(dataclasses.replace(cfg, max_bad_share=0.5), tmp_path)
    assert opened.user_ids() == ["u"]
    assert manifest["quarantine"] == {
        "file": "d.quarantine.jsonl", "rows": 1, "share": 0.5,
        "reasons": {"unknown item, there are 4": 1}}


@pytest.mark.parametrize("source, read, unread", [
    ("table", {"columns", "time_unit", "items", "path"}, {"shop"}),
    ("amazon2023", {"items", "min_rating", "k_core"}, {"shop", "columns", "delimiter"}),
    ("sequences", {"path", "tie_policy"}, {"shop", "items", "min_rating"}),
    ("shop", {"source", "protocol", "shop"}, {"path", "columns", "k_core"})])
def test_settings_in_use_are_those_that_the_source_reads(source, read, unread):
    used = prepare.in_use(dataclasses.asdict(DataConfig(source=source)))
    assert read <= used.keys() and not unread & used.keys()
    assert used["source"] == source


def test_a_truncated_gzip_leaves_the_older_data_set(tmp_path):
    made(sequences(tmp_path), tmp_path)
    cfg = sequences(tmp_path)
    text = "".join(f"u{n}\t0 1 2\n" for n in range(9999)).encode()
    (tmp_path / "seq" / "sequences.tsv").unlink()
    (tmp_path / "seq" / "sequences.tsv.gz").write_bytes(gzip.compress(text)[:-20])
    with pytest.raises(InputError, match=r"sequences\.tsv\.gz is damaged or cut short"):
        prepare.prepare(cfg, tmp_path / "d")
    assert dataset.load_dataset(tmp_path / "d").user_ids() == ["u", "v"]


def test_a_full_disk_leaves_the_older_data_set(tmp_path, monkeypatch):
    made(sequences(tmp_path), tmp_path)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(artifacts.os, "fsync", full)
    with pytest.raises(InputError, match="the disk is full; free some space"):
        prepare.prepare(sequences(tmp_path, ["x\t0 1 2"]), tmp_path / "d")
    monkeypatch.undo()
    assert dataset.load_dataset(tmp_path / "d").user_ids() == ["u", "v"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "seq"]


def test_the_same_source_gives_the_same_files(tmp_path):
    cfg = sequences(tmp_path)
    first, second = (prepare.prepare(cfg, tmp_path / name) for name in "ab")
    assert first["files"] == second["files"]


def test_triggers_follow_the_items_and_are_none_where_their_item_goes(tmp_path):
    rows = ["u,a,1,", "u,b,2,a", "u,c,3,x", "v,a,1,c", "v,b,2,b", "w,c,9,"]
    cfg = table(tmp_path, rows, "user,item,time,trigger")
    cfg = dataclasses.replace(cfg, k_core=2, columns=TableColumns(
        time="time", trigger="trigger"))
    _, opened = made(cfg, tmp_path)
    names = opened.item_table()["item_id"].to_pylist()
    assert histories(opened) == {"u": ["a", "b"], "v": ["a", "b"]}
    assert [names[t] if t >= 0 else None for t in opened.column("trigger")] == [
        None, "a", None, "b"]


@pytest.mark.parametrize("cfg, users, items, events, targets", [
    (DataConfig(path="amazon14_beauty"), 22363, 12101, 198502, 22363),
    (DataConfig(path="amazon14_toys"), 19412, 11924, 167597, 19412),
    (DataConfig(path="amazon14_office"), 4905, 2420, 53258, 4905),
    (DataConfig(source="minionerec", path="minionerec_office"), 3231, 3459, 94833,
     4866),
    (DataConfig(source="minionerec", path="minionerec_office/orig"), 3231, 3459, 55710,
     4866),
    (DataConfig(source="table", path="retailrocket_mb/dev/inter.tsv.gz",
                columns=TableColumns(behaviour="behaviour")), 2070, 8253, 53929, 2070),
])
def test_public_files_have_the_counts_they_are_known_for(
        tmp_path, shared_data, cfg, users, items, events, targets):
    cfg = dataclasses.replace(cfg, path=str(shared_data / cfg.path), max_bad_share=0.0)
    manifest, opened = made(cfg, tmp_path)
    counts = manifest["counts"]
    found = (counts["users"], counts["items"], counts["events"])
    assert found == (users, items, events)
    assert counts["valid_targets"] == counts["test_targets"] == targets
    assert np.diff(opened.offsets()).min() >= 2


def test_the_two_layouts_of_minionerec_hold_the_same_rows(tmp_path, shared_data):
    folder = shared_data / "minionerec_office"
    rows = []
    for name, path in (("a", folder), ("b", folder / "orig")):
        cfg = DataConfig(source="minionerec", path=str(path))
        prepare.prepare(cfg, tmp_path / name)
        opened = dataset.load_dataset(tmp_path / name)
        rows.append({split: [(*opened.history(s, last).tolist(),)
                             for s, _, last in opened.splits[split]]
                     for split in ("valid", "test")})
        sids = opened.item_table()["sid"].to_pylist()
        assert sids[:2] == ["<a_60><b_159><c_203>", "<a_204><b_229><c_36>"]
    assert rows[0] == rows[1]
