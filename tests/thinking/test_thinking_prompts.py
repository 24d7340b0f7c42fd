"""Prompts quote what strangers wrote; states survive a file and refuse nonsense."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxyrec_jax.base import InputError
from oxyrec_jax.thinking import prompts
from oxyrec_jax.thinking.prompts import PromptConfig, build_prompt
from oxyrec_jax.thinking.states import (Deed, UserState, read_states, shard_of,
                                        state_from_json, state_to_json)

STATE = UserState(
    "u-4711", (Deed("Baby Wipes", "order", 5), Deed("Diapers")), ("warm sack",),
    time="2024-12-20 21:00", place="Chengdu", weather="4 degrees, damp",
    holiday="winter solstice in a day", profile={"life": "baby"},
    facts=("cold", "damp", "baby"))


def test_a_prompt_shows_the_state_but_not_who_it_is():
    prompt = build_prompt(STATE, "reasoning", PromptConfig())
    begin, data, end = prompt.question.split("\n")
    assert (begin, end) == ("<data>", "</data>")
    assert json.loads(data) == {
        "time": "2024-12-20 21:00", "place": "Chengdu", "weather": "4 degrees, damp",
        "holiday": "winter solstice in a day", "profile": {"life": "baby"},
        "facts": ["cold", "damp", "baby"],
        "history": [{"did": "order", "title": "Baby Wipes"},
                    {"did": "click", "title": "Diapers"}],
        "searches": ["warm sack"]}
    assert "4711" not in prompt.system + prompt.question
    assert "in English, at most 40 words" in prompt.system


@settings(deadline=None, max_examples=200)
@given(st.text(), st.text())
def test_no_text_can_close_the_quotation(title, query):
    state = UserState("u", (Deed(title + "</data>"),), (query + "<data>",),
                      profile={title: query}, place=title, facts=(query,))
    prompt = build_prompt(state, "reasoning", PromptConfig(characters=10_000))
    data = prompt.question.removeprefix("<data>\n").removesuffix("\n</data>")
    assert not set("<>\n\r\u2028\u202e\u200b") & set(data)
    assert json.loads(data)["searches"][0].endswith("<data>")
    data.encode()  # no half of a surrogate pair


def test_the_most_recent_is_shown_and_long_texts_are_cut():
    state = UserState("u", tuple(Deed(f"{n} " + "x" * 500) for n in range(50)))
    prompt = build_prompt(state, "intent", PromptConfig(history=3, characters=10))
    shown = json.loads(prompt.question.split("\n")[1])["history"]
    titles = [f"{n} xxxxxxx" for n in (47, 48, 49)]
    assert [deed["title"] for deed in shown] == list(prompt.shown) == titles


@pytest.mark.parametrize("state, kinds", [
    (UserState("u"), set()),
    (UserState("u", history=(Deed("  "),), searches=(" ",)), {"reasoning"}),
    (UserState("u", place="Chengdu"), {"reasoning"}),
    (UserState("u", searches=("tent",)), {"reasoning", "rewrite"}),
    (UserState("u", history=(Deed("Tent"),)), {"reasoning", "intent"})])
def test_there_is_a_prompt_where_there_is_something_to_reason_from(state, kinds):
    assert {kind for kind in prompts.KINDS
            if build_prompt(state, kind, PromptConfig())} == kinds


def test_the_version_names_the_kind_and_all_that_the_prompt_depends_on(monkeypatch):
    def version(**options):
        return prompts.prompt_version("intent", PromptConfig(**options))
    first = version()
    assert first == version() and first.startswith("intent-")
    assert len({first, version(words=41), version(history=2), version(language="de"),
                prompts.prompt_version("rewrite", PromptConfig())}) == 5
    monkeypatch.setattr(prompts, "SYSTEM", prompts.SYSTEM + " ")
    assert version() != first


def test_states_survive_a_file(tmp_path):
    path = tmp_path / "states.jsonl"
    other = UserState("ü", place="成都")
    path.write_text(f"{state_to_json(STATE)}\n\n{state_to_json(other)}\n", "utf-8")
    assert list(read_states(path)) == [STATE, other]


@pytest.mark.parametrize("line, words", [
    ("{", "is no JSON"), ("[" * 100_000, "is no JSON"), ("[]", "names no user"),
    ('{"user": 3}', "names no user"),
    ('{"user": "u", "age": 3}', "the field 'age', expected"),
    ('{"user": "u", "place": 3}', "field place of another type"),
    ('{"user": "u", "history": [{"time": 3}]}', "field history of another type"),
    ('{"user": "u", "history": [{"title": "a", "time": 0.5}]}', "field history"),
    ('{"user": "u", "searches": "tent"}', "field searches of another type"),
    ('{"user": "u", "profile": {"life": null}}', "field profile of another type")],
    ids=range(10))
def test_a_line_that_is_no_state_is_named(line, words):
    with pytest.raises(InputError, match=f"line 7, .*{words}"):
        state_from_json(line, "line 7,")


def test_a_file_of_states_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="none.jsonl could not be read"):
        list(read_states(tmp_path / "none.jsonl"))
    (tmp_path / "bad").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="bad is no UTF-8"):
        list(read_states(tmp_path / "bad"))


def test_shards_are_of_even_size_and_lasting():
    count = [0] * 4
    for number in range(4_000):
        count[shard_of(f"user{number}", 4)] += 1
    assert min(count) > 900
    # The check value of CRC-32: this must never change, or users change their shards.
    assert shard_of("123456789", 1_000) == 0xCBF43926 % 1_000
