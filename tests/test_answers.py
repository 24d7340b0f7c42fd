"""A network that reads instructions, from its training to its answers."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from oxyrec_jax import (inspection, printing, quickstart, slow_thinking, workflow,
                        workspace)
from oxyrec_jax.base import InputError
from oxyrec_jax.models.instructions import InstructionConfig
from oxyrec_jax.models.retrieval import RetrievalConfig
from oxyrec_jax.thinking.reading import ReadConfig

ASKS = InstructionConfig("right", scenarios=6, trigger=True, reasoning=True,
                         behaviours=3, hidden=16)


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    cfg = quickstart.tiny()
    pipe = dataclasses.replace(cfg.train.pipeline, mode="last", history=8, batch=32)
    cfg = dataclasses.replace(
        cfg, model=dataclasses.replace(
            cfg.model, memory=False, item_head=False, width=32, mlp_width=32,
            heads=1, causal=False, encoder_layers=1, instructions=ASKS,
            sides=("behaviour", "gap"),
            retrieval=RetrievalConfig(events=24, keep=4, width=8, hidden=16)),
        train=dataclasses.replace(cfg.train, pipeline=pipe))
    space = workflow.open_workspace(tmp_path_factory.mktemp("asked"), cfg)
    workflow.prepare(space)
    workflow.tokenize(space)
    workflow.train(space)
    return space


def test_training_weighs_behaviours_and_logs_the_query_to_item_loss(space):
    lines = [json.loads(line) for line in
             (space.run(0) / "log.jsonl").read_text("utf-8").splitlines()]
    losses = [line["q2i"] for line in lines if "q2i" in line]
    assert losses and np.isfinite(losses).all() and losses[-1] < losses[0]


def test_each_kind_of_text_is_judged_apart_and_changes_the_lists(space):
    found = {kind: workflow.evaluate(space, instructions=kind)
             for kind in ("oracle", "none")}
    for kind in found:
        assert (space.evaluation(f"test_{kind}") / "manifest.json").exists()
        assert (space.instructions(kind) / "manifest.json").exists()
    assert found["oracle"]["runs"] != found["none"]["runs"]


def test_tables_of_texts_are_kept_until_their_settings_change(space):
    dataset = workflow.load(space, instructions="oracle").dataset
    stands = space.instructions("oracle") / "vectors.npy"
    before = stands.stat().st_mtime_ns
    workflow.load(space, instructions="oracle")
    assert stands.stat().st_mtime_ns == before
    assert dataset.instructions.vectors.shape[1] > 0
    other = dataclasses.replace(space, cfg=dataclasses.replace(
        space.cfg, instructions=dataclasses.replace(space.cfg.instructions, seed=9)))
    workflow.load(other, instructions="oracle")
    assert stands.stat().st_mtime_ns > before


def test_an_instruction_a_scenario_and_a_trigger_move_the_answer(space):
    user = workflow.load(space).dataset.user_ids()[3]

    def answer(**asked):
        found = workflow.recommend(space, user=user, k=5,
                                   asked=workflow.Asked(**asked))
        return [row["log_prob"] for row in found["recommendations"]]
    plain = answer()
    item = workflow.recommend(space, user=user, k=1)["recommendations"][0]["item_id"]
    for asked in ({"scenario": "search"}, {"trigger": item}, {"behaviour": "click"}):
        assert answer(**asked) != plain, asked
    assert answer(scenario="home") == plain  # the first is the default
    named = workflow.recommend(space, items=[item], k=5)
    assert len(named["recommendations"]) == 5


@pytest.fixture(scope="module")
def thought(space, tmp_path_factory):
    """The same after `oxyrec think`, before each test request and for the end."""
    folder = tmp_path_factory.mktemp("thought") / "work"
    shutil.copytree(space.folder, folder)
    think = dataclasses.replace(
        space.cfg.think, read=ReadConfig(deadline=10.0),
        store=dataclasses.replace(space.cfg.think.store, max_bytes=1 << 26))
    found = workspace.Workspace(folder, dataclasses.replace(space.cfg, think=think))
    slow_thinking.think(found, slow_thinking.Wanted(before="test"))
    slow_thinking.think(found)
    return found


def test_a_user_gets_what_the_store_holds_and_is_told_what_that_is(space, thought):
    user = workflow.load(space).dataset.user_ids()[3]
    plain, read = (workflow.recommend(where, user=user, k=5)
                   for where in (space, thought))
    assert plain["instruction"]["source"] == "default"
    assert "oxyrec think was not run" in plain["instruction"]["why"]
    told = read["instruction"]
    assert told["source"] == "store" and ": look for " in told["text"]
    assert told["version"] == 1 and told["age_seconds"] >= 0
    asked = workflow.recommend(thought, user=user, k=5,
                               asked=workflow.Asked(instruction=told["text"]))
    assert asked["instruction"] == {"source": "asked", "text": told["text"]}
    scores = [[row["log_prob"] for row in found["recommendations"]]
              for found in (plain, read, asked)]
    assert scores[0] != scores[1]
    np.testing.assert_allclose(scores[1], scores[2], atol=2e-3)  # stored as float16
    item = read["recommendations"][0]["item_id"]
    nobody = workflow.recommend(thought, items=[item], k=5)["instruction"]
    assert nobody["why"] == "a history of no user"


def test_what_was_thought_before_each_request_is_judged(space, thought, caplog):
    with pytest.raises(InputError, match="run oxyrec think --before test"):
        workflow.evaluate(space, instructions="store")
    with caplog.at_level("INFO", "oxyrec_jax"):
        found = workflow.evaluate(thought, instructions="store")
    assert found["runs"] != workflow.evaluate(thought, instructions="none")["runs"]
    assert (thought.evaluation("test_store") / "manifest.json").exists()
    assert "stored" in caplog.text
    dataset = workflow.load(thought, instructions="store").dataset
    targets = dataset.targets("test")
    rows = dataset.instructions.index[dataset.offsets()[targets[:, 0]] + targets[:, 1]]
    assert (rows >= 0).mean() > 0.8
    assert all(": look for " in dataset.instructions.texts[row] for row in
               rows[rows >= 0])


@pytest.mark.parametrize("asked, words", [
    ({"scenario": "moon"}, "--scenario moon: expected one of home, feed"),
    ({"trigger": "nothing"}, "--trigger nothing: no such item"),
    ({"behaviour": "theft"}, "expected one of click, cart, order"),
])
def test_what_the_log_does_not_know_is_refused(space, asked, words):
    with pytest.raises(InputError, match=words):
        workflow.recommend(space, user=workflow.load(space).dataset.user_ids()[0],
                           asked=workflow.Asked(**asked))


def test_the_network_is_inspected_by_what_it_reads(space):
    found = inspection.inspect(space)["model"]
    assert sum(found["by_part"].values()) == found["parameters"] > 0
    assert {"instructions", "retriever"} <= found["by_part"].keys()


def test_the_report_shows_examples_of_such_a_network(space):
    found = workflow.report(space, examples=2)
    assert space.report.exists() and found["report"] == str(space.report)


def test_a_network_that_reads_none_says_so(trained):
    space = workflow.open_workspace(trained, None)
    with pytest.raises(InputError, match="reads no instruction"):
        workflow.recommend(space, items=["sku1"],
                           asked=workflow.Asked(instruction="tea"))
    with pytest.raises(InputError, match="the network reads none"):
        workflow.evaluate(space, instructions="oracle")


def test_a_long_history_needs_one_target_for_each_row(space):
    pipe = dataclasses.replace(space.cfg.train.pipeline, mode="packed")
    cfg = dataclasses.replace(space.cfg, seeds=(7,), train=dataclasses.replace(
        space.cfg.train, pipeline=pipe))
    with pytest.raises(InputError, match="pipeline.mode=last"):
        workflow.train(dataclasses.replace(space, cfg=cfg))


def test_what_is_retrieved_is_judged_apart_from_what_is_generated(space, capsys):
    results = workflow.evaluate(space)
    found = results["retrieval"]
    assert found["keep"] == 4 and 0 < found["with_choice"] <= found["targets"]
    assert {"category.recall", "sid1.recall", "sid3.share"} <= found["cells"].keys()
    for cell in found["cells"].values():
        assert max(cell[rule] for rule in ("model", "recent", "random")) <= (
            cell["ceiling"] + 1e-9)
        assert cell["minus_recent"]["low"] <= cell["model"] - cell["recent"] + 1e-9
    printing.show(results)
    assert "4 older events kept" in capsys.readouterr().out


def test_following_asks_one_run_with_texts_of_all_kinds(space, capsys):
    found = workflow.follow(space)
    told = json.loads((space.folder / "following" / "test.json").read_text("utf-8"))
    assert told == json.loads(json.dumps(found))
    kinds = found["following"]["kinds"]
    # The figures are those of evaluations with these texts, one by one.
    for kind in ("oracle", "none"):
        judged = workflow.evaluate(space, instructions=kind)
        cell = kinds[kind]["all"]["hr@10"]["mean"]
        assert cell == pytest.approx(judged["item.hr@10"])
    printing.show(found)
    out = capsys.readouterr().out
    assert "controllability" in out and "oracle − none" in out


def test_a_network_without_texts_cannot_be_asked_to_follow(space):
    mute = dataclasses.replace(space, cfg=quickstart.tiny())
    with pytest.raises(InputError, match="reads no texts"):
        workflow.follow(mute)
