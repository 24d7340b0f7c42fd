"""The rule-based reasoner against facts picked by hand, and the stages as columns."""

import asyncio
import json

import pytest
from think_process import embed

from oxyrec_jax.data.shop import knowledge
from oxyrec_jax.thinking import batches, pipeline, prompts
from oxyrec_jax.thinking.journal import Journal
from oxyrec_jax.thinking.opening import StoreConfig, open_store
from oxyrec_jax.thinking.pipeline import ThinkConfig
from oxyrec_jax.thinking.prompts import PromptConfig
from oxyrec_jax.thinking.reasoner import RuleReasoner
from oxyrec_jax.thinking.states import Deed, UserState, state_to_json

WINDOW = 1_790_000_100


@pytest.fixture(scope="module")
def rules():
    return knowledge.load_knowledge().rules


def say(rules, kind="reasoning", **state):
    prompt = prompts.build_prompt(UserState("u", **state), kind, PromptConfig())
    told = RuleReasoner(rules).say(prompt)
    return told and json.loads(told)


def test_the_heaviest_rule_whose_facts_all_hold_speaks(rules):
    # cold-damp-baby has weight 6; baby-supplies (4) and cold-damp-home (3) hold too.
    assert say(rules, facts=("cold", "damp", "baby")) == {
        "instruction": "A baby sleeps restlessly in damp cold and sweats under thick "
                       "covers: look for moisture-wicking baby sleepwear, breathable "
                       "sleeping sack or quiet dehumidifier.",
        "evidence": ["cold", "damp", "baby"]}
    assert say(rules, facts=("rain", "cycling"))["instruction"] == (
        "Rides end on wet roads at dusk: look for ultra-bright bike lights or "
        "breathable rain jacket.")


def test_one_fact_less_and_the_rule_is_silent(rules):
    told = say(rules, facts=("damp", "baby"))["instruction"]
    assert "restlessly" not in told
    assert say(rules, facts=("snow",))["instruction"].startswith("Snow and ice lie")
    assert say(rules, facts=("no such fact",)) is None


def test_a_rewrite_and_an_intent_keep_to_the_words_given(rules):
    facts = ("cold", "damp", "baby")
    assert say(rules, "rewrite", facts=facts, searches=("tent", "baby sleeping bag"))[
        "instruction"].endswith("look for moisture-wicking baby sleepwear or "
                                "breathable sleeping sack.")
    assert say(rules, "rewrite", facts=facts, searches=("violin",)) is None
    told = say(rules, "intent", facts=facts, history=(Deed("Big Dehumidifier"),))
    assert told["instruction"].endswith("look for quiet dehumidifier.")


def test_a_need_of_one_is_worded_as_the_shop_words_it(rules):
    known = knowledge.load_knowledge()
    texts = {need.text for need in known.needs if need.kind == "context"}
    for rule in rules:
        for need in rule.needs:
            one = knowledge.Rule(rule.name, rule.when, rule.weight, rule.why, (need,))
            assert say([one], facts=rule.when)["instruction"] in texts


def think(rules, folder, given, **options):
    cfg = ThinkConfig(prompts=PromptConfig(**options))
    with open_store(StoreConfig(max_bytes=1 << 26), folder / "store", dimension=2
                    ) as store:
        summary = pipeline.think_by_rules(given, rules, embed, store, folder / "think",
                                          cfg, window=WINDOW)
        return summary, store.get_many([state.user for state in given])


def test_every_rule_passes_the_gate_and_is_stored_under_its_true_name(rules, tmp_path):
    given = [UserState(rule.name, facts=rule.when) for rule in rules]
    given += [UserState("nobody"), UserState("silent", facts=("none",))]
    summary, found = think(rules, tmp_path, given)
    assert summary.refused == {} and summary.errors == {"no-rule": 1}
    assert (summary.stored, summary.no_data, summary.requests) == (len(rules), 1, 0)
    assert summary.model.startswith("rules of a knowledge base, no language model")
    assert found.stored.tolist() == [True] * len(rules) + [False] * 2
    again, _ = think(rules, tmp_path, given)
    assert again.already == len(rules) and again.stored == 0


def test_the_stages_over_columns_do_what_the_run_does(rules, tmp_path):
    given = [UserState(rule.name, facts=rule.when) for rule in rules[:20]]
    given += [UserState("nobody"), UserState("x" * 500, facts=("cold",)),
              UserState("dull", facts=("woman",))]
    summary, expected = think(rules, tmp_path, given)
    cfg, who, window = ThinkConfig(), RuleReasoner(rules), WINDOW
    lines = {"state": [state_to_json(one) for one in given]}
    with (open_store(StoreConfig(max_bytes=1 << 26), tmp_path / "other", dimension=2
                     ) as store, Journal(tmp_path / "journal") as journal):
        for turn in range(2):
            asked = batches.prompt_batch(lines, cfg, window)
            assert asked["status"].tolist()[-3:] == ["no_data", "bad_id", ""]
            assert asked["question"][0].startswith("<data>")
            answered = asyncio.run(batches.answer_batch(asked, who, journal))
            judged = batches.judge_batch(answered, cfg, who.knowledge)
            put = batches.store_batch(judged, cfg, embed=embed, store=store,
                                      model=who.name, encoder="", journal=journal)
            counted = pipeline.Summary(window=window, model=who.name, users=len(given))
            batches.count_batch(put, counted)
            if turn == 0:
                counted.seconds = summary.seconds
                assert counted == summary
        found = store.get_many([state.user for state in given])
    assert (counted.already, counted.stored) == (20, 0)
    assert found.texts.tolist() == expected.texts.tolist()
    assert found.stored.tolist() == [True] * 20 + [False] * 3


def test_rules_need_no_event_loop_of_the_caller(rules):
    async def replies():
        prompt = prompts.build_prompt(UserState("u", facts=("snow",)), "reasoning",
                                      PromptConfig())

        def nobody(prompt, digest):
            raise AssertionError("rules leave nothing to be noted")
        return [reply async for reply in RuleReasoner(rules).reason([prompt], nobody)]
    (reply,) = asyncio.run(replies())
    assert reply.answer.text and not reply.asked and reply.answer.billed is False
