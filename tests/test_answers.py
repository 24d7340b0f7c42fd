"""A network that reads instructions, from its training to its answers."""

import dataclasses
import json

import numpy as np
import pytest

from oxyrec_jax import quickstart, workflow
from oxyrec_jax.base import InputError
from oxyrec_jax.models.instructions import InstructionConfig
from oxyrec_jax.models.retrieval import RetrievalConfig

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


@pytest.mark.parametrize("asked, words", [
    ({"scenario": "moon"}, "--scenario moon: expected one of home, feed"),
    ({"trigger": "nothing"}, "--trigger nothing: no such item"),
    ({"behaviour": "theft"}, "expected one of click, cart, order"),
])
def test_what_the_log_does_not_know_is_refused(space, asked, words):
    with pytest.raises(InputError, match=words):
        workflow.recommend(space, user=workflow.load(space).dataset.user_ids()[0],
                           asked=workflow.Asked(**asked))


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
