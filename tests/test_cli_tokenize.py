"""`oxyrec tokenize` keeps a table up to date: items come, go, and are recommended."""

import json

import numpy as np
import pytest

from oxyrec_jax import artifacts
from oxyrec_jax.decode.recommend import recommend
from test_cli import USER, copied, oxyrec, refuses  # noqa: F401 (fixtures)

FIGURES = {"duplicates", "p999", "max_items_per_sid", "coverage", "perplexity", "gini",
           "reconstruction", "gate"}


@pytest.fixture
def tokenize(copied, oxyrec):  # noqa: F811
    """Runs `oxyrec tokenize` on the copied work directory: what `--json` tells."""
    def run(*words):
        found = oxyrec("tokenize", "--workdir", copied, "--json", *words)
        assert found.code == 0, found.err
        return json.loads(found.out)
    return run


@pytest.fixture
def answers(copied, oxyrec):  # noqa: F811
    """Item ids of all that a user may get, best first."""
    def ask(k):
        found = oxyrec("recommend", "--workdir", copied, "--user", USER, "--k", k,
                       "--json")
        assert found.code == 0, found.err
        return [row["item_id"] for row in json.loads(found.out)["recommendations"]]
    return ask


def test_items_come_and_go_and_the_run_stays(copied, tokenize, answers,  # noqa: F811
                                             oxyrec):  # noqa: F811
    codes = np.load(copied / "semantic_ids" / "codes.npy")
    judged = json.loads(oxyrec("evaluate", "--workdir", copied, "--json").out)
    before = answers(30)
    compiled = recommend._cache_size()
    (copied / "new.csv").write_text("sku,name,price\nnew1,red tea,3.5\nnew2,a spoon,\n")
    words = oxyrec("tokenize", "--workdir", copied).out  # for people
    assert "30 items" in words and "Items that share an ID" in words
    told = tokenize("--add", copied / "new.csv")
    assert FIGURES <= told.keys()
    assert (told["added"], told["items"], told["generation"]) == (2, 32, 1)
    assert {"ratio", "p", "alarm"} <= told["drift"].keys()
    np.testing.assert_array_equal(
        np.load(copied / "semantic_ids" / "codes.npy")[:30], codes)
    assert set(answers(32)) == {*before, "new1", "new2"}
    (copied / "gone.txt").write_text("sku3\nnew2\n")
    told = tokenize("--retire", copied / "gone.txt")
    assert (told["retired"], told["items"], told["generation"]) == (2, 30, 2)
    assert set(answers(30)) == {*before, "new1"} - {"sku3"}
    assert recommend._cache_size() <= compiled + 1  # 32 beams are another program
    read = oxyrec("recommend", "--workdir", copied, "--items", "sku3", "new1", "new2",
                  "--k", 1, "--json")
    assert [row["title"] for row in json.loads(read.out)["history"]] == [
        "red tin", "red tea", "a spoon"]
    refuses(oxyrec("recommend", "--workdir", copied, "--user", USER, "--k", 31),
            "catalogue has 30 items")
    again = json.loads(oxyrec("evaluate", "--workdir", copied, "--json").out)
    assert again["item.ndcg@10"] == judged["item.ndcg@10"]


def test_a_refit_tells_what_moved_and_wants_a_new_run(copied, tokenize,  # noqa: F811
                                                      oxyrec):  # noqa: F811
    told = tokenize("--refit")
    assert FIGURES <= told.keys() and told["step"] == "refit"
    assert told["compared"] == 30 and 0 <= told["moved"] <= 30
    assert len(told["moved_share"]) == 2 and told["kept_mean"] <= 2
    if told["moved"]:
        refuses(oxyrec("evaluate", "--workdir", copied), "other semantic IDs")


@pytest.mark.parametrize("words, expected", [
    (("--add", "new.csv", "--refit"), ["one at a time"]),
    (("--add", "gone.csv"), ["gone.csv does not exist"]),
    (("--add", "empty.csv"), ["empty.csv is empty"]),
    (("--add", "old.csv"), ["in the catalogue already", "sku3"]),
    (("--retire", "unknown.txt"), ["line 1", "no item nobody"]),
    (("--set", "tokenizer.gate.max_reconstruction=0.0"),
     ["quality gate", "reconstruction", "at most 0"]),
    (("--set", "tokenizer.gate.min_coverage=[1.0]"), ["min_coverage", "2 levels"]),
    (("--set", "tokenizer.collisions=spread"), ["'spread'", "reassign"]),
], ids=lambda value: " ".join(value))
def test_what_cannot_be_is_refused_and_the_table_stays(
        words, expected, copied, oxyrec, monkeypatch):  # noqa: F811
    for name, text in (("new.csv", "sku,name\nn,cup\n"), ("empty.csv", ""),
                       ("old.csv", "sku,name\nsku3,cup\n"), ("unknown.txt", "nobody")):
        (copied.parent / name).write_text(text)
    before = (copied / "semantic_ids" / "manifest.json").read_bytes()
    monkeypatch.setattr(artifacts, "write_bundle", None)  # nothing may be written
    kept = (copied / "experiment.json").read_bytes()
    refuses(oxyrec("tokenize", "--workdir", copied, *words), *expected)
    assert (copied / "semantic_ids" / "manifest.json").read_bytes() == before
    assert (copied / "experiment.json").read_bytes() == kept
