"""Files of new items: what is read of them, and how bad ones are told."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oxyrec_jax.base import InputError
from oxyrec_jax.tokenizer import new_items

ROWS = [{"item_id": "a", "title": "Red  tea", "brand": "Ox", "price": "$2.50"},
        {"item_id": "7", "title": "cup, blue", "brand": None, "price": None}]


def write(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    else:
        mark = "\t" if path.suffix == ".tsv" else ","
        lines = [list(rows[0]), *([value or "" for value in row.values()]
                                  for row in rows)]
        path.write_text("\n".join(
            mark.join(f'"{value}"' for value in line) for line in lines), "utf-8-sig")
    return path


@pytest.mark.parametrize("suffix", new_items.FORMATS)
def test_every_format_gives_the_same_table(suffix, tmp_path):
    found = new_items.read_new_items(write(tmp_path / f"new{suffix}", ROWS), {"b"})
    assert found.to_pylist() == [
        {"item_id": "a", "title": "Red tea", "text": "Red tea. Ox", "category": None,
         "brand": "Ox", "price": 2.5},
        {"item_id": "7", "title": "cup, blue", "text": "cup, blue", "category": None,
         "brand": None, "price": None}]


def test_own_columns_own_text_and_numbers_as_ids(tmp_path):
    path = write(tmp_path / "new.jsonl", [
        {"sku": 12, "name": "tea", "text": "what the encoder shall read"},
        {"sku": 13, "name": "cup"}])
    found = new_items.read_new_items(path, set(), columns={
        "item_id": "sku", "title": "name", "brand": ""})
    assert found["item_id"].to_pylist() == ["12", "13"]
    assert found["text"].to_pylist() == ["what the encoder shall read", "cup"]


def test_vectors_in_the_file_are_left_to_others(tmp_path):
    path = tmp_path / "new.parquet"
    pq.write_table(pa.table({"item_id": ["a"], "title": ["x"], "category": [["p", "q"]],
                             "embedding": [[1.0, 2.0]]}), path)
    assert new_items.read_new_items(path, set())["category"].to_pylist() == ["p q"]


@pytest.mark.parametrize("rows, words", [
    ([{"title": "x"}], "no column item_id; it has title"),
    ([{"item_id": "", "title": "x"}], "item 1 has no id"),
    ([ROWS[0], {**ROWS[1], "item_id": None}], "item 2 has no id"),
    ([ROWS[0], ROWS[1], ROWS[0]], "item 3 has the id a of item 1"),
    ([ROWS[0], {"item_id": "old"}, {"item_id": "older"}],
     "2 of 3 items are in the catalogue already, the first is old"),
    ([{**ROWS[0], "price": float("nan")}], r"item 1 \(a\) has the price nan"),
    ([{**ROWS[0], "price": "cheap"}], r"item 1 \(a\) has the price cheap"),
])
def test_a_bad_row_is_named(rows, words, tmp_path):
    path = write(tmp_path / "new.jsonl", rows)
    with pytest.raises(InputError, match=f"new.jsonl.*{words}"):
        new_items.read_new_items(path, {"old", "older"})


@pytest.mark.parametrize("name, content, words", [
    ("gone.csv", None, "does not exist"), ("new.xlsx", b"x", "ends in '.xlsx'"),
    ("new.csv", b"", "is empty"), ("new.csv", b"item_id,title\n", "holds no items"),
    ("new.csv", b"item_id,title\na\n", "item 1 has 1 fields, the header 2"),
    ("new.csv", b"item_id,title\na,\xff\n", "not UTF-8"),
    ("new.jsonl", b"[1]\n", "line 1 is not a JSON object"),
    ("new.jsonl", b"\n\n", "holds no items"),
    ("new.parquet", b"PAR1", "not a readable Parquet"),
])
def test_a_bad_file_is_named(name, content, words, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}.*{words}"):
        new_items.read_new_items(tmp_path / name, set())


def test_ids_are_read_line_by_line(tmp_path):
    path = tmp_path / "gone.txt"
    path.write_text("a\n\n  b \n")
    assert new_items.read_ids(path, {"a", "b", "c"}) == ["a", "b"]
    with pytest.raises(InputError, match="nowhere.txt does not exist"):
        new_items.read_ids(tmp_path / "nowhere.txt", {"a"})
