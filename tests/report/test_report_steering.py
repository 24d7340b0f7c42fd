"""What the report tells of retrieval and of instruction following."""

from oxyrec_jax.report import steering

SPREAD = {"mean": 0.25, "low": 0.125, "high": 0.375}


def test_retrieval_is_shown_where_there_is_some():
    assert steering.retrieval({}) == []
    assert steering.retrieval({"retrieval": {"cells": {}}}) == []
    cell = {"model": 0.5, "interval": [0.4, 0.6], "recent": 0.3, "random": 0.2,
            "ceiling": 0.9, "minus_recent": SPREAD, "minus_random": SPREAD}
    text = "".join(steering.retrieval({"retrieval": {
        "keep": 16, "targets": 1_200, "with_choice": 900,
        "cells": {"category.recall": cell, "sid2.share": cell}}}))
    for told in ("16 older events", "1,200 targets", "0.500", "0.400–0.600", "0.900",
                 "+0.125 to +0.375", "first 2 of the codes: share of what was kept"):
        assert told in text, told


def test_following_shows_every_kind_of_text_and_leaves_out_empty_groups():
    group = {"hr@10": SPREAD, "ndcg@10": SPREAD}
    found = {"counts": {"all": 40, "deductive": 0},
             "kinds": {kind: {"all": group} for kind in ("none", "oracle")},
             "differences": {"oracle": {"all": group}},
             "controllability": {"all": {**SPREAD, "ceiling": 0.5}},
             "steering": {"all": {**SPREAD, "ceiling": 0.5}}}
    text = "".join(steering.following({"<test>": {"following": found}}))
    assert "&lt;test&gt;" in text and "HR@10, all (40)" in text
    assert "deductive" not in text
    assert "+0.1250 to +0.3750" in text and "+25.0% of the first ten" in text
    assert steering.following({}) == []
