"""Any table by a column map: CSV and Parquet, types, bad rows, wrong columns."""

import datetime
import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oxyrec_jax.base import InputError
from oxyrec_jax.data.intake import Intake, Place
from oxyrec_jax.data.readers import columns, tables

FULL = tables.TableColumns("who", "what", "when", "did", "where", "from", "asked",
                           "paid", "basket", "stars")
HEAD = "who,what,when,did,where,from,asked,paid,basket,stars"
ROWS = ["u,a,10,view,home,,,,b1,5", "u,b,20,buy,search,a,red pen,1.5,b1,4",
        "v,a,15,view,home,zzz,,2,,4"]


@pytest.fixture
def take(tmp_path):
    with Intake(tmp_path / "q.jsonl", 1.0) as opened:
        yield opened


def csv(path, rows, head=HEAD):
    data = "\n".join([head, *rows, ""]).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return Place(path)


def test_every_field_of_the_schema_from_csv(tmp_path, take):
    log = tables.read_table(csv(tmp_path / "x.csv.gz", ROWS), None, take, columns=FULL)
    assert log.users == ["u", "v"] and log.user.tolist() == [0, 0, 1]
    assert log.items["item_id"].to_pylist() == ["a", "b"]
    assert log.item.tolist() == [0, 1, 0]
    found = {name: values.tolist() for name, values in log.columns.items()
             if name != "price"}
    assert found == {
        "time": [10, 20, 15], "behaviour": [0, 1, 0], "scenario": [0, 1, 0],
        "trigger": [-1, 0, -1], "query": [-1, 1, -1], "request": [0, 0, -1]}
    np.testing.assert_array_equal(log.columns["price"], [np.nan, 1.5, 2.0])
    assert (log.behaviours, log.scenarios) == (("view", "buy"), ("home", "search"))
    assert log.queries[1] == "red pen"
    assert (take.good, take.bad) == (3, 0)


def test_bad_rows_are_numbered_as_records(tmp_path, take):
    rows = ["u,a,10,view,home,,,,b1,5",     # record 2
            ",a,10,view,home,,,,b1,5",      # 3
            "u,,10,view,home,,,,b1,5",      # 4
            "u,a",                          # 5
            'u,"a\nb",10,view,home,,,,,5',  # 6, on two lines
            "u,a,soon,view,home,,,,b1,5",   # 7
            "u,a,10,view,home,,,cheap,,5",  # 8
            "u,a,10,view,home,,,,,",        # 9
            "u,a,10,,home,,,,,5",           # 10
            "u,a,10,view,home,,,,,5,6"]     # 11
    log = tables.read_table(csv(tmp_path / "x.csv", rows), None, take, columns=FULL)
    assert len(log.user) == 2 and take.good == 2
    take.__exit__()
    kept = [json.loads(line) for line in take.quarantine.read_text().splitlines()]
    assert sorted((entry["line"], entry["reason"]) for entry in kept) == [
        (3, "no user"), (4, "no item"), (5, "expected 10 columns"), (7, "bad time"),
        (8, "bad price"), (9, "bad rating"), (10, "no behaviour"),
        (11, "expected 10 columns")]


def test_rows_keep_their_numbers_over_blocks(tmp_path, take, monkeypatch):
    monkeypatch.setattr(columns, "_BLOCK_BYTES", 64)
    rows = [f"u{n},a" if n % 7 else f"u{n}" for n in range(2, 100)]
    rows[50] = ",a"
    log = tables.read_table(csv(tmp_path / "x.csv", rows, "user,item"), None, take)
    take.__exit__()
    kept = [json.loads(line) for line in take.quarantine.read_text().splitlines()]
    assert sorted(entry["line"] for entry in kept) == sorted(
        [52] + [n for n in range(2, 100) if n % 7 == 0])
    assert len(log.user) == 98 - len(kept)


def test_a_row_that_is_no_text_costs_only_itself(tmp_path, take):
    (tmp_path / "x.csv").write_bytes(b"user,item\nu,a\nu,\xff\nv,b\n")
    log = tables.read_table(Place(tmp_path / "x.csv"), None, take)
    assert log.users == ["u", "v"]
    assert dict(take.reasons) == {"not utf-8 text": 1}


@pytest.mark.parametrize("unit, text, clock, second", [
    ("s", "12", 12, 12), ("s", "12.0", 12, 12), ("ms", "1999", 1999, 1),
    ("us", "-1", -1, -1), ("ns", "1500000000000000001", 1500000000000000001,
                           1500000000),
    ("iso", "1970-01-02", 86_400_000_000, 86_400),
    ("iso", "1970-01-01T00:00:01.5Z", 1_500_000, 1),
    ("iso", "1970-01-01 02:00:00+02:00", 0, 0),
])
def test_units_of_time(tmp_path, take, unit, text, clock, second):
    place = csv(tmp_path / "x.csv", [f"u,a,{text}", "u,a,x"], "user,item,t")
    log = tables.read_table(place, None, take, columns=tables.TableColumns(time="t"),
                            time_unit=unit)
    assert (log.clock.tolist(), log.columns["time"].tolist()) == ([clock], [second])
    assert dict(take.reasons) == {"bad time": 1}


def test_parquet_with_types_and_nulls(tmp_path, take):
    when = datetime.datetime(1970, 1, 1, 0, 1, tzinfo=datetime.UTC)
    pq.write_table(pa.table({
        "user": pa.array([7, 7, None]), "item": pa.array(["a", "b", "c"]),
        "t": pa.array([when, when, when], pa.timestamp("ms", "UTC")),
        "price": pa.array([1.25, None, 3.0]), "unread": pa.array([1, 2, 3])}),
        tmp_path / "x.parquet")
    log = tables.read_table(
        Place(tmp_path / "x.parquet"), None, take, time_unit="iso",
        columns=tables.TableColumns(time="t", price="price"))
    assert log.users == ["7"] and log.columns["time"].tolist() == [60, 60]
    np.testing.assert_array_equal(log.columns["price"], [1.25, np.nan])
    assert dict(take.reasons) == {"no user": 1}


@pytest.mark.parametrize("name, data, message", [
    ("x.csv", b"user,thing\nu,a\n", "has no column item; it has user, thing"),
    ("x.tsv", b"user,item\nu,a\n", "has no column user, item; it has user,item"),
    ("x.csv", b"", "is empty"),
    ("x.parquet", b"PAR1 nonsense PAR1", "is not a Parquet table of user, item"),
    ("x.csv.gz", gzip.compress(b"user,item\n" + b"u,a\n" * 99, mtime=0)[:-9],
     "cut short"),
    ("x.csv.gz", gzip.compress(b"user,item\n" + bytes(range(256)) * 999, mtime=0)[:900],
     "cut short"),
])
def test_what_cannot_be_read_is_one_sentence(tmp_path, take, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=rf"{name} .*{message}"):
        tables.read_table(Place(tmp_path / name), None, take)


def test_wrong_settings_are_refused(tmp_path, take):
    place = csv(tmp_path / "x.csv", ["u,a"], "user,item")
    with pytest.raises(InputError, match="data.time_unit is 'days'"):
        tables.read_table(place, None, take, time_unit="days")
    with pytest.raises(InputError, match="data.delimiter is '::'"):
        tables.read_table(place, None, take, delimiter="::")
    with pytest.raises(InputError, match="must name the columns of user and item"):
        tables.read_table(place, None, take, columns=tables.TableColumns(user=""))
    many = csv(tmp_path / "y.csv", [f"u,a,{n}" for n in range(200)], "user,item,b")
    with pytest.raises(InputError, match="200 different values, too many to be a"):
        tables.read_table(many, None, take, columns=tables.TableColumns(behaviour="b"))


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl.gz"])
def test_item_tables_in_three_formats(tmp_path, take, kind):
    rows = [{"id": "b", "name": "Pen", "cost": "2.5"}, {"id": "zz", "name": "x"},
            {"id": "b", "name": "again"}, {"id": "", "name": "none"}]
    path = tmp_path / f"items.{kind}"
    if kind == "csv":
        csv(path, [f"{row['id']},{row['name']},{row.get('cost', '')}" for row in rows],
            "id,name,cost")
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_bytes(gzip.compress(
            "\n".join(json.dumps(row) for row in [*rows, []]).encode()))
    events = csv(tmp_path / "x.csv", ["u,a", "u,b"], "user,item")
    log = tables.read_table(
        events, Place(path), take,
        item_columns=tables.ItemColumns("id", "name", price="cost"))
    assert log.items["title"].to_pylist() == [None, "Pen"]
    assert log.items["price"].to_pylist() == [None, 2.5]
    assert {"no item", "the item has a row already"} <= set(take.reasons)


@pytest.mark.parametrize("texts, values, good", [
    (["1", "-2.", "+3", "1e5", "", None, "12x"], [1, -2, 0, 0, 0, 0, 0],
     [1, 1, 0, 0, 0, 0, 0]),
])
def test_whole_numbers(texts, values, good):
    found = columns.whole_numbers(pa.array(texts, pa.string()))
    assert found[0].tolist() == values and found[1].tolist() == [bool(g) for g in good]


def test_real_numbers():
    texts = ["1", "-2.5", ".5", "3.", "1e-3", "nan", "inf", "", None, "1e400"]
    values, good = columns.real_numbers(pa.array(texts, pa.string()))
    assert good.tolist() == [True] * 5 + [False] * 5
    assert values[:5].tolist() == [1, -2.5, 0.5, 3, 0.001]
