"""Readers of public formats: what a few hand-written files say, and what is bad."""

import gzip
import json
import zipfile

import pytest

from oxyrec_jax.base import InputError
from oxyrec_jax.data.intake import Intake
from oxyrec_jax.data.readers import amazon, items, minionerec, movielens, sequences


@pytest.fixture
def take(tmp_path):
    with Intake(tmp_path / "quarantine.jsonl", 1.0) as opened:
        yield opened


def lines(path, rows):
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n"
                   for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def events(log):
    names = log.items["item_id"].to_pylist()
    return [(log.users[u], names[i]) for u, i in zip(log.user, log.item)]


CATALOGUE = [{"item": 0, "oid": "A1", "title": "Red <b>nail</b> polish", "brand": "OPI",
              "sid_letter": "<a_1><b_2>"},
             {"item": 1, "oid": "A2", "keywords": "star wars"},
             {"item": 2, "oid": "A3", "department": "FOOD", "type": "BREAD"}]


def test_sequence_files_by_hand(tmp_path, take):
    lines(tmp_path / "items.jsonl.gz", CATALOGUE)
    lines(tmp_path / "sequences.tsv.gz", ["u1\t2 0 1", "u2\t0 0"])
    log = sequences.read_sequences(tmp_path, take)
    assert events(log) == [("u1", "A3"), ("u1", "A1"), ("u1", "A2"), ("u2", "A1"),
                           ("u2", "A1")]
    assert log.clock is None and log.fixed_catalogue and not log.columns
    assert log.items["title"].to_pylist() == ["Red nail polish", None, None]
    assert log.items["text"].to_pylist() == [
        "Red nail polish. OPI", "star wars", "FOOD, BREAD"]
    assert log.items["sid"].to_pylist() == ["<a_1><b_2>", None, None]
    assert (take.good, take.bad) == (2, 0)


@pytest.mark.parametrize("row, reason", [
    ("u2\t0 3", "unknown item, there are 3"),
    ("u2\t0 -1", "an item is not a number"),
    ("u2\t0 1_0", "an item is not a number"),
    ("u2\t0 b", "an item is not a number"),
    ("u2\t" + "9" * 30, "an item is not a number"),
    ("u2\t ", "no items"),
    ("u2 0 1", "expected 2 columns: user TAB items"),
    ("u2\t0\t1", "expected 2 columns: user TAB items"),
    ("u1\t0 1", "the user has a line already"),
    ("\t0 1", "no user"),
])
def test_a_bad_sequence_is_left_out_whole(tmp_path, take, row, reason):
    lines(tmp_path / "items.jsonl", CATALOGUE)
    lines(tmp_path / "sequences.tsv", ["u1\t0 1", row, "u3\t1 2"])
    log = sequences.read_sequences(tmp_path, take)
    assert log.users == ["u1", "u3"] and len(log.user) == 4
    assert dict(take.reasons) == {reason: 1}


@pytest.mark.parametrize("row, message", [
    ("{", "line 2 is not JSON"), ('{"item": 2}', "expected an object with item 1"),
    ("[1]", "expected an object with item 1"),
    pytest.param("[" * 100_000, "line 2 is not JSON", id="too deep")])
def test_a_bad_item_line_ends_the_run(tmp_path, take, row, message):
    lines(tmp_path / "items.jsonl", [CATALOGUE[0], row])
    lines(tmp_path / "sequences.tsv", ["u1\t0 1"])
    with pytest.raises(InputError, match=f"items.jsonl .*{message}"):
        sequences.read_sequences(tmp_path, take)


def test_a_folder_without_sequences_says_what_it_lacks(tmp_path, take):
    with pytest.raises(InputError, match="holds none of items.jsonl"):
        sequences.read_sequences(tmp_path, take)
    with pytest.raises(InputError, match="gone does not exist"):
        sequences.read_sequences(tmp_path / "gone", take)


def test_amazon_2018_by_hand(tmp_path, take):
    review = {"reviewerID": "u", "asin": "B1", "unixReviewTime": 86400, "overall": 5.0}
    lines(tmp_path / "r.json.gz", [
        review, {**review, "asin": "B2", "overall": 2.0}, "{broken",
        {**review, "asin": None}, {**review, "unixReviewTime": "x"},
        {**review, "unixReviewTime": 1 << 70}, {**review, "overall": None}, "[]",
        {**review, "reviewerID": "v", "unixReviewTime": 172800}])
    lines(tmp_path / "m.json.gz", [
        {"asin": "B1", "title": "Pen &amp; <i>ink</i>", "brand": "Bic",
         "category": ["Office", "Pens"], "description": ["Writes.", "Well."],
         "price": "$1,012.99"},
        {"asin": "other"}, {"title": "no asin"}])
    log = amazon.read_amazon(tmp_path / "r.json.gz", tmp_path / "m.json.gz", take,
                             release=2018, min_rating=3)
    assert events(log) == [("u", "B1"), ("v", "B1")]
    assert log.columns["time"].tolist() == log.clock.tolist() == [86400, 172800]
    [item] = log.items.to_pylist()
    assert item["title"] == "Pen & ink" and item["brand"] == "Bic"
    assert item["category"] == "Office, Pens"
    assert item["text"] == "Pen & ink. Bic. Office, Pens. Writes. Well."
    assert item["price"] == pytest.approx(1012.99)
    assert dict(take.reasons) == {
        "not a JSON object": 2, "no asin": 2, "unixReviewTime is not a whole number": 2,
        "overall is not a number": 1}


def test_amazon_2023_keeps_milliseconds_for_the_order(tmp_path, take):
    review = {"user_id": "u", "asin": "x", "parent_asin": "P1", "rating": 4.0}
    lines(tmp_path / "r.jsonl", [{**review, "timestamp": 5999},
                                 {**review, "timestamp": 5001, "parent_asin": "P2"}])
    lines(tmp_path / "m.jsonl", [{"parent_asin": "P2", "title": "Pen", "store": "Bic",
                                  "categories": ["A"], "price": None}])
    log = amazon.read_amazon(tmp_path / "r.jsonl", tmp_path / "m.jsonl", take,
                             release=2023)
    assert events(log) == [("u", "P1"), ("u", "P2")]
    assert log.columns["time"].tolist() == [5, 5]
    assert log.clock.tolist() == [5999, 5001]
    assert log.items["text"].to_pylist() == [None, "Pen. Bic. A"]
    with pytest.raises(InputError, match="release 2014 is not known"):
        amazon.read_amazon(tmp_path / "r.jsonl", None, take, release=2014)


def movielens_folder(tmp_path, layout):
    if layout == "100k":
        flags = ["0"] * 19
        flags[3] = flags[5] = "1"
        lines(tmp_path / "u.data",
              ["7\t3\t5\t100", "7\t4\t1\t200", "8\t3\t4\t300", "x"])
        row = "|".join(["3", "Toy Story (1995)", "01-Jan-1995", "", "url", *flags])
        (tmp_path / "u.item").write_bytes((row + "\n4|Amélie|x\n").encode("latin-1"))
    elif layout == "1m":
        lines(tmp_path / "ratings.dat",
              ["7::3::5::100", "7::4::1::200", "8::3::4::300", "8::3::z::1"])
        (tmp_path / "movies.dat").write_bytes(
            "3::Toy Story (1995)::Animation|Comedy\n4::Amélie\n".encode("latin-1"))
    else:
        lines(tmp_path / "ratings.csv", [
            "userId,movieId,rating,timestamp", "7,3,5.0,100", "7,4,0.5,200",
            "8,3,4.5,300", "8,3,four,400"])
        lines(tmp_path / "movies.csv", ["movieId,title,genres",
                                        '3,"Toy Story (1995)",Animation|Comedy', "4,x"])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("layout", ["100k", "1m", "20m"])
def test_movielens_layouts_by_hand(tmp_path, take, layout, packed):
    folder = tmp_path / "ml"
    folder.mkdir()
    movielens_folder(folder, layout)
    if packed:
        with zipfile.ZipFile(tmp_path / "ml.zip", "w") as archive:
            for path in folder.iterdir():
                archive.write(path, f"ml/{path.name}")
        folder = tmp_path / "ml.zip"
    log = movielens.read_movielens(folder, take)
    assert events(log) == [("7", "3"), ("7", "4"), ("8", "3")]
    assert log.columns["time"].tolist() == [100, 200, 300] == log.clock.tolist()
    film = log.items.to_pylist()[0]
    assert (film["title"], film["category"], film["text"]) == (
        "Toy Story (1995)", "Animation, Comedy", "Toy Story (1995). Animation, Comedy")
    assert take.bad == 2  # one rating and one film of each layout
    high = movielens.read_movielens(folder, take, min_rating=4)
    assert events(high) == [("7", "3"), ("8", "3")]


def test_a_folder_without_a_movielens_layout_is_refused(tmp_path, take):
    with pytest.raises(InputError, match="none of ratings.csv, ratings.dat, u.data"):
        movielens.read_movielens(tmp_path, take)


def test_minionerec_official_layout_by_hand(tmp_path, take):
    head = "user_id,history_item_title,item_title,history_item_id,item_id"
    lines(tmp_path / "train.Toy_5.csv", [
        head, 'u1,"[\'a\nb\', \'c\']",c,"[0, 1]",2', 'u1,"[]",c,[],2',
        'u2,"[\'a\']",c,[9],2'])
    lines(tmp_path / "test.Toy_5.csv.gz", [head, 'u1,"[\'a\']",c,"[0, 1, 2]",0'])
    lines(tmp_path / "Toy.item.json", [
        {"0": {"title": "a", "description": "['x', 'y']"}, "1": {"title": "b"},
         "2": {"title": "c"}}])
    lines(tmp_path / "Toy.index.json", [
        {"0": ["<a_1>", "<b_2>"], "1": ["<a_3>", "<b_4>"], "2": ["<a_1>", "<b_2>"]}])
    log = minionerec.read_minionerec(tmp_path, take)
    assert events(log) == [("u1", "0"), ("u1", "1"), ("u1", "2"),
                           ("u1", "0"), ("u1", "1"), ("u1", "2"), ("u1", "0")]
    assert log.users == ["u1", "u1"]
    assert {name: rows.tolist() for name, rows in log.splits.items()} == {
        "train": [[0, 2, 3]], "valid": [], "test": [[1, 3, 4]]}
    assert log.items["text"].to_pylist() == ["a. x y", "b", "c"]
    assert log.items["sid"].to_pylist() == ["<a_1><b_2>", "<a_3><b_4>", "<a_1><b_2>"]
    assert dict(take.reasons) == {"history: no items": 1,
                                  "history: unknown item, there are 3": 1}


def test_minionerec_tab_layout_by_hand(tmp_path, take):
    lines(tmp_path / "items.jsonl", CATALOGUE)
    for name, rows in (("train_recovered", ["u\t0 1\t2", "u\t0\t1 2"]),
                       ("valid", ["u\t1\t0"]), ("test", ["u\t2\t2"])):
        lines(tmp_path / f"{name}.tsv", ["user\thistory\ttarget", *rows])
    log = minionerec.read_minionerec(tmp_path, take)
    assert [rows.tolist() for rows in log.splits.values()] == [
        [[0, 2, 3]], [[1, 1, 2]], [[2, 1, 2]]]
    assert dict(take.reasons) == {"no user or not one target": 1}


@pytest.mark.parametrize("change, message", [
    ({"Toy.item.json": [{"0": {}, "2": {}}]}, "without|no gap"),
    ({"Toy.item.json": ["{"]}, "is not valid JSON"),
    ({"Toy.index.json": [{"0": []}]}, "different releases"),
    ({"Toy.index.json": [{"0": [], "1": 3}]}, "item 1 is not an object"),
    ({"Other.item.json": [{"0": {}}]}, "which both fit"),
    ({"test.Toy.csv": ["user_id,item_id", "u,0"]}, "no column history_item_id; it has"),
])
def test_minionerec_files_that_do_not_fit_are_named(tmp_path, take, change, message):
    lines(tmp_path / "Toy.item.json", [{"0": {}, "1": {}}])
    lines(tmp_path / "Toy.index.json", [{"0": [], "1": []}])
    lines(tmp_path / "test.Toy.csv", ["user_id,history_item_id,item_id", "u,[0],1"])
    for name, rows in change.items():
        lines(tmp_path / name, rows)
    with pytest.raises(InputError, match=message):
        minionerec.read_minionerec(tmp_path, take)


def test_minionerec_needs_some_rows(tmp_path, take):
    lines(tmp_path / "items.jsonl", CATALOGUE)
    with pytest.raises(InputError, match="no rows of train, valid or test"):
        minionerec.read_minionerec(tmp_path, take)


@pytest.mark.parametrize("value, expected", [
    (None, None), ("", None), ("  a \n b ", "a b"), (["a", "b"], "a b"), ("[]", None),
    ("['a', \"b\"]", "a b"), ("[not a list]", "[not a list]"), ("a &amp; b", "a & b"),
    ("x<style>.y{color:red}</style>z<br>w", "x z w"), ("[" * 99 + "]", "[" * 99 + "]"),
    ("1 < 2", "1 < 2"), ("<!-- hidden -->shown", "shown"), ("['\\d']", "\\d"),
])
def test_clean_text(value, expected):
    found = items.clean(value)
    assert found == expected


@pytest.mark.parametrize("value, expected", [
    ("$12.50", 12.5), ("$1,234.5 - $9", 1234.5), ("", None), ("free", None), (3, 3.0),
    (None, None), (float("nan"), None), (-1.0, None)])
def test_prices(value, expected):
    assert items.price(value) == expected


def test_text_fields_choose_and_order_the_text():
    fields = items.ItemFields(["a", "b"], ("brand", "title"))
    fields.put(0, {"title": "T", "brand": "B", "description": "D"})
    assert fields.table()["text"].to_pylist() == ["B. T", None]
    assert "sid" not in fields.table().column_names
