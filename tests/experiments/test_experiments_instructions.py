"""The tables of instructions: rows that can be compared, lines and pages of them."""

import dataclasses

import pytest


@pytest.fixture(scope="module")
def lib(load_file):
    return load_file("experiments/instructions.py")


def test_the_rows_of_a_table_differ_in_the_network_or_what_it_learns_from(lib):
    for table, rows in lib.MODELS.items():
        found = [lib.get_config(table, row, seeds=(4,)) for row in rows]
        assert len({repr(dataclasses.replace(cfg, name="")) for cfg in found}) == len(
            found), table
        assert len({(cfg.train.steps, repr(cfg.train.pipeline), repr(cfg.data),
                     cfg.beams) for cfg in found}) == 1, table
        assert not any(cfg.model.memory or cfg.model.item_head for cfg in found)


def test_only_the_last_rows_of_the_long_table_train_their_retriever(lib):
    weights = {row: lib.get_config("igr", row).train.objective.q2i
               for row in lib.MODELS["igr"]}
    trained = [row for row, weight in weights.items() if weight]
    assert trained == ["+ IGR + Q2I", "+ IGR + Q2I (.01, .01)"]
    assert [lib.get_config("igr", row).train.objective.q2i_decorrelation
            for row in trained] == [5.0, 0.01]


def test_texts_are_of_the_kind_that_is_asked_for_but_where_the_row_says(lib):
    for kind in ("noisy", "oracle"):
        texts = lib.get_config("igr", "+ IGR", kind=kind).instructions
        assert (texts.train, texts.evaluate) == (kind, kind)
        for row in lib.MODELS["following"]:
            assert lib.get_config("following", row, kind=kind).instructions.train == row
    shared = [dataclasses.replace(lib.get_config(*row), name="") for row in
              (("placement", "right"), ("following", "noisy"))]
    assert shared[0] == shared[1]  # trained once for both tables


def spread(mean):
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "relative": 0.5}


def judged(lib, table):
    if table == "following":
        groups = lib.following.GROUPS
        figures = {group: {"hr@10": spread(0.4)} for group in groups}
        return {"kinds": dict.fromkeys(lib.following.KINDS, figures),
                "differences": dict.fromkeys(("oracle", "noisy", "wrong"), figures),
                "controllability": {"all": {**spread(0.3), "ceiling": 0.5}}}
    kept = {"cells": dict.fromkeys(
        ("category.recall", "category.share"),
        {"model": 0.5, "recent": 0.25, "random": 0.125, "ceiling": 0.75})}
    return {"cells": {cell: [0.25, 0.75] for cell in lib.CELLS},
            "differences": {cell: spread(0.2) for cell in lib.CELLS},
            "retrieval": kept if table == "igr" else None}


@pytest.mark.parametrize("table", ["placement", "scenario", "igr", "following"])
def test_every_line_is_as_wide_as_the_head_and_the_page_shows_it(lib, table, tmp_path):
    rows = {row: judged(lib, table) for row in lib.MODELS[table]}
    lines = [line for row, found in rows.items()
             for line in lib.body(table, row, found)]
    assert {len(line) for line in lines} == {len(lib.header(table))}
    path = lib.write_page(tmp_path / "page.html", table, rows)
    text = path.read_text("utf-8")
    for cell in {cell for line in lines for cell in line if cell != "–"}:
        assert cell in text, cell
    assert "http-equiv" in text and "<script src" not in text


def test_a_line_says_what_was_measured(lib):
    line, = lib.body("igr", "+ IGR", judged(lib, "igr"))
    assert line[:5] == ["+ IGR", "0.5000 ± 0.3536", "0.5000 ± 0.3536",
                        "0.5000 ± 0.3536", "+0.2000 [+0.1000, +0.3000]"]
    assert line[5:] == ["0.500 / 0.500", "0.250 / 0.250", "0.125 / 0.125",
                        "0.750 / 0.750"]
    lines = lib.body("following", "oracle", judged(lib, "following"))
    assert [line[1] for line in lines] == ["none", "oracle", "noisy", "wrong"]
    assert lines[1][5] == "+0.4000 [+0.3000, +0.5000], +50%" and lines[0][5] == "–"
    assert lines[3][-1].endswith("of at most 0.500")
