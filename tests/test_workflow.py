"""Steps can be done again, and what they return is what they promise."""

import contextlib
import dataclasses
import hashlib
import json
import shutil

import numpy as np
import pytest

from oxyrec_jax import printing, workflow, workspace
from oxyrec_jax.base import InputError
from oxyrec_jax.evaluate import rows
from oxyrec_jax.evaluate.generator import recommend_split


@pytest.fixture
def space(trained, tmp_path):
    """A copy of the tiny work directory, opened, beside the log that it came from."""
    folder = shutil.copytree(trained, tmp_path / "work")
    for name in ("events.csv", "items.csv"):
        shutil.copy(trained.parent / name, tmp_path)
    with contextlib.chdir(tmp_path):
        yield workflow.open_workspace(folder, None)


@pytest.fixture(scope="module")
def opened(trained):
    """The tiny work directory, its model on the device, and its parameters."""
    space = workflow.open_workspace(trained, None)
    ready = workflow.load(space)
    return space, ready


def digests(folder):
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file()}


@pytest.mark.parametrize("step, folder", [
    ("prepare", "data"), ("tokenize", "semantic_ids"), ("evaluate", "evaluation")])
def test_a_step_done_again_writes_the_same_bytes(step, folder, space):
    before = digests(space.folder / folder)
    getattr(workflow, step)(space)
    assert before and digests(space.folder / folder) == before


def test_the_whole_chain_again_trains_nothing_and_still_agrees(space):
    before = digests(space.run(0) / "best")
    logged = (space.run(0) / "log.jsonl").read_text()
    workflow.prepare(space)
    workflow.tokenize(space)
    found = workflow.train(space)["runs"]["seed0"]  # the same semantic IDs: it fits
    assert found["steps"] == space.cfg.train.steps == 4
    assert found["best_step"] in (2, 4)
    assert (space.run(0) / "log.jsonl").read_text() == logged
    assert before and digests(space.run(0) / "best") == before
    assert workflow.evaluate(space)["tie_policy"] == "file order"


def test_evaluation_returns_the_promised_keys(opened):
    space, ready = opened
    results = json.loads(
        (space.evaluation("test") / "manifest.json").read_text())["results"]
    flat = [f"{level}.{name}@{k}" for level in ("item", "sid")
            for name in ("hr", "recall", "ndcg", "mrr") for k in space.cfg.evaluate.ks]
    assert all(isinstance(results[cell], float) for cell in flat)
    assert results["item.ndcg@10"] <= results["item.recall@10"]
    assert {"popularity", "markov", "title_knn"} <= results["baselines"].keys()
    assert all(cell in results["baselines"]["markov"] for cell in flat)
    assert (results["tie_policy"], results["protocol"]) == ("file order", "P1")
    assert results["counts"]["targets"] == len(ready.dataset.split("test")) == 40
    assert results["config"]["ks"] == list(space.cfg.evaluate.ks)


def test_recommend_gives_the_very_list_that_evaluate_judges(opened):
    space, ready = opened
    params = workflow.parameters(space, ready, 0)
    lists, _ = recommend_split(
        ready.model, params, ready.dataset, "test", ready.catalogue, ready.leaves,
        history=space.cfg.train.pipeline.history, beams=space.cfg.beams)
    targets = rows.expand(rows.of_dataset(ready.dataset), ready.dataset.split("test"))
    names = ready.dataset.item_table()["item_id"].to_pylist()
    for row in (0, 17, 39):
        sequence = int(targets.sequence[row])
        first = int(ready.dataset.offsets()[sequence])
        history = ready.dataset.history(sequence, int(targets.place[row]) - first)
        found = workflow.recommend(space, items=[names[item] for item in history], k=10)
        assert [answer["item_id"] for answer in found["recommendations"]] == [
            names[item] for item in lists.items[row, :10]]
        scores = [answer["log_prob"] for answer in found["recommendations"]]
        assert scores == sorted(scores, reverse=True) and scores[0] <= 0


def test_a_user_stands_for_the_whole_sequence(opened):
    space, ready = opened
    user = ready.dataset.user_ids()[4]
    by_user = workflow.recommend(space, user=user, k=5)
    first, last = ready.dataset.offsets()[4:6]
    names = ready.dataset.item_table()["item_id"].to_pylist()
    history = [names[item] for item in ready.dataset.column("item")[first:last]]
    assert [row["item_id"] for row in by_user["history"]] == history
    assert workflow.recommend(space, items=history, k=5) == by_user


def test_probabilities_of_the_whole_catalogue_are_at_most_one(opened):
    space, ready = opened
    wide = dataclasses.replace(space, cfg=dataclasses.replace(
        space.cfg, beams=ready.dataset.num_items))
    found = workflow.recommend(wide, items=["sku1"], k=ready.dataset.num_items)
    answers = found["recommendations"]
    assert sorted(row["item_id"] for row in answers) == sorted(
        ready.dataset.item_table()["item_id"].to_pylist())
    by_id = {tuple(row["semantic_id"]): row["log_prob"] for row in answers}
    np.testing.assert_allclose(np.exp(list(by_id.values())).sum(), 1, atol=2e-3)


def test_nothing_of_the_history_is_recommended_where_it_is_left_out(opened):
    space, ready = opened
    user = ready.dataset.user_ids()[4]
    had = {row["item_id"] for row in workflow.recommend(space, user=user)["history"]}
    rest = set(ready.dataset.item_table()["item_id"].to_pylist()) - had
    found = workflow.recommend(space, user=user, k=len(rest), exclude_history=True)
    answers = [row["item_id"] for row in found["recommendations"]]
    assert len(answers) == len(rest) and set(answers) == rest
    few = workflow.recommend(space, user=user, k=3, exclude_history=True)
    assert [row["item_id"] for row in few["recommendations"]] == answers[:3]
    with pytest.raises(InputError, match=f"{len(rest)} items that are not in the hist"):
        workflow.recommend(space, user=user, k=len(rest) + 1, exclude_history=True)


def test_settings_are_kept_by_steps_that_make_something_and_by_no_other(space):
    def kept():
        return json.loads((space.folder / "experiment.json").read_text())
    changed = workflow.open_workspace(space.folder, None, ["beams=12"])
    workflow.recommend(changed, items=["sku1"], k=3)
    workflow.report(changed)
    assert kept()["beams"] == 20
    workflow.tokenize(changed)
    assert kept()["beams"] == 12
    with pytest.raises(InputError, match="model.width is 16 there, 24 now"):
        workflow.train(workflow.open_workspace(space.folder, None, ["model.width=24"]))
    assert kept()["model"]["width"] == 16


def test_what_was_judged_too_early_is_said_wherever_figures_stand(space, capsys):
    log = space.run(0) / "log.jsonl"
    log.write_text("".join(line for line in log.read_text().splitlines(keepends=True)
                           if json.loads(line)["step"] <= 2))
    found = workflow.evaluate(space)
    sentence, = found["unfinished"]
    assert "step 2 of 4" in sentence and "oxyrec train --workdir" in sentence
    capsys.readouterr()
    printing.show(found)
    assert capsys.readouterr().out.count(f"Not trained to the end: {sentence}\n") == 1
    workflow.report(space)
    page = space.report.read_text("utf-8")
    assert page.count("Not trained to the end: the run of seed 0 had come to st") == 2


def test_the_report_of_a_table_is_called_by_it_and_lists_no_other_source(space):
    workflow.report(space)
    page = space.report.read_text("utf-8")
    assert "<h1>work: events.csv</h1>" in page
    assert "<code>data.columns.user</code>" in page
    assert "<code>config.columns.user</code>" in page  # of the data set's manifest
    assert "data.shop." not in page and "config.shop." not in page


def test_prepare_tells_repeats_and_hints_where_there_are_none(space):
    # Nobody takes an item twice in this log.
    told = workflow.prepare(space)["repeats"]
    assert told.startswith("0.0% of the training targets repeat an item")
    assert "--set model.repeats=false" in told
    off = workflow.open_workspace(space.folder, None, ["model.repeats=false"])
    assert "model.repeats" not in workflow.prepare(off)["repeats"]
    log = space.folder.parent / "events.csv"
    again = "user-00000000,sku7,2024-04-01\n" * 40
    log.write_text(log.read_text() + again)
    some = workflow.open_workspace(space.folder, None, ["data.duplicates=keep"])
    told = workflow.prepare(some)["repeats"]
    assert float(told.partition("%")[0]) > 10 and "model.repeats" not in told


def test_ids_that_many_items_share_are_told_and_no_gate_is_claimed(space, capsys):
    few = workflow.open_workspace(space.folder, None, [
        "tokenizer.collisions=list", "tokenizer.widths=[6,6]"])
    found = workflow.tokenize(few)
    assert found["duplicates"] > 0.1  # 30 items on 36 codes
    assert "tokenizer.collisions=reassign" in found["crowded"]
    capsys.readouterr()
    printing.show(found)
    lines = capsys.readouterr().out.splitlines()
    assert "gate: no bounds were asked of the semantic IDs" in lines
    assert f"crowded: {found['crowded']}" in lines
    assert "crowded" not in workflow.tokenize(workflow.open_workspace(
        space.folder, None, ["tokenizer.widths=[8,8]", "tokenizer.collisions=reassign"
                             ]))


def test_a_run_of_another_model_does_not_answer(space):
    ready = workflow.load(space)
    path = space.run(0) / "run.json"
    run = json.loads(path.read_text())
    run["model"]["head"] = "shared"
    path.write_text(json.dumps(run))
    with pytest.raises(InputError, match="model.head is 'shared' there, 'level' now"):
        workspace.check_run(space, 0, ready.ids)
