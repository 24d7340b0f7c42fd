"""Ways to read history: they differ in nothing else; a toy of one of them."""

import dataclasses

import numpy as np
import pytest

from oxyrec_jax import metrics, workspace
from oxyrec_jax.evaluate import scenarios
from oxyrec_jax.report import write_scenario_page


@pytest.fixture(scope="module")
def lib(load_file):
    return load_file("experiments/trajectories.py")


def test_ways_differ_in_what_is_read_of_the_history_alone(lib):
    configs = [lib.config_of(row) for row in lib.TABLE]
    assert [cfg.model.sides for cfg in configs] == [("scenario",), (), ()]
    for cfg in configs[1:]:
        model = dataclasses.replace(cfg.model, sides=configs[0].model.sides)
        assert dataclasses.replace(cfg, name=configs[0].name,
                                   model=model) == configs[0]
    assert all(cfg.model.instructions.scenarios == 6 for cfg in configs)


def test_the_verdict_is_of_paired_differences_by_hand(lib, tmp_path):
    miss, groups = metrics.MISS, {"cart": np.array([True, True, False]),
                                  "all": np.ones(3, bool)}
    ranks = {lib.TOLD: np.array([[0, 0, miss]]), lib.UNTOLD: np.array([[1, 1, miss]]),
             lib.SAME: np.array([[0, 0, 0]])}
    found = scenarios.compare(groups, ranks, lib.TOLD, np.arange(3), lib.CELLS,
                              samples=50)
    gap = 1 - 1 / np.log2(3)  # the second place in place of the first
    assert found["cart"]["against"][lib.UNTOLD]["item.ndcg@10"] == pytest.approx(
        {"mean": gap, "low": gap, "high": gap})
    assert found["all"]["against"][lib.SAME]["item.hr@1"]["mean"] == pytest.approx(
        -1 / 3)
    verdict = lib._verdict(found, lib.UNTOLD)
    assert "cart" in verdict["clear_wins"] and not verdict["clear_losses"]
    whole = {"name": "It", "seeds": [0], "scenarios": found, "unified": lib.TOLD,
             "cells": list(lib.CELLS), "shares": {"test": 0.75},
             "compute": dict.fromkeys(lib.TABLE, {"steps": 1, "targets": 2,
                                                  "flops": 3.0}),
             "transfer": {lib.UNTOLD: verdict}}
    text = lib.show(whole)
    assert f"| cart | 2 | {lib.UNTOLD} | 0.0000 | 1.0000 |" in text
    assert "test 75.0%" in text
    page = write_scenario_page(tmp_path / "page.html", whole, leads=lib._LEADS)
    assert "Does one trajectory help?" in page.read_text("utf-8")


def test_a_toy_is_trained_asked_and_not_done_again(lib, tmp_path, monkeypatch,
                                                   shop_workdir):
    workspace.share(workspace.open_workspace(tmp_path / "shop", shop_workdir.cfg),
                    shop_workdir)
    settings = ("beams=10", "evaluate.ks=[1,10]")
    cfg = lib.config.with_settings(lib.config_of(lib.TOLD), (*lib.TOY, *settings))
    found = lib.table_of(tmp_path, {lib.TOLD: cfg}, samples=5)
    assert 0 < found["shares"]["train"] < 1 and not found["transfer"]
    assert 0 <= found["scenarios"]["all"]["rows"][lib.TOLD]["item.hr@10"]["mean"] <= 1
    monkeypatch.setattr(lib.loop, "train", None)
    assert lib.table_of(tmp_path, {lib.TOLD: cfg}, samples=5) == found
