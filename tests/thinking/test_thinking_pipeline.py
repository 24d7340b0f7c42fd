"""The near-line run against a real server, a real LMDB store and a real kill."""

import json
import logging
import multiprocessing
import signal
import time

import chat_server
import numpy as np
import pytest
import think_process
import writer_process
from chat_server import completion, instruction
from think_process import WINDOW, check_sums, states, stored, think

from oxyrec_jax import chat
from oxyrec_jax.base import InputError
from oxyrec_jax.thinking import gate, pipeline, prompts, reasoner
from oxyrec_jax.thinking.journal import Journal
from oxyrec_jax.thinking.states import Deed, UserState, shard_of

KEY = "sk-very-secret-0123456789"


def users(given):
    return [state.user for state in given]


def test_every_user_gets_an_instruction_and_every_token_is_counted(server, tmp_path):
    given = states(10)

    def answer(request, count):
        time.sleep(0.05)
        return 200, {}, completion(chat_server.good(request))
    server.answer = answer
    summary = think(server.endpoint(concurrency=3), tmp_path, given)
    check_sums(summary)
    assert (summary.users, summary.generated, summary.stored, summary.requests) == (
        10, 10, 10, 10)
    assert (summary.prompt_tokens, summary.answer_tokens) == (1_000, 200)
    assert summary.cost == pytest.approx(1_200 * 2.0 / 1e6)
    assert stored(tmp_path, users(given)) == [
        f"Has looked at Lantern {number} and will want a spare of it."
        for number in range(10)]
    assert server.most_in_flight == 3
    assert not any(user in json.dumps(request) for request in server.requests
                   for user in ('"u1"', '"u2"'))  # ids stay here


def test_a_second_run_of_the_window_asks_nobody_and_the_next_only_for_changes(
        server, tmp_path):
    think(server.endpoint(), tmp_path, states(6))
    again = think(server.endpoint(), tmp_path, states(6))
    assert (again.already, again.requests, again.stored) == (6, 0, 0)
    earlier = think(server.endpoint(), tmp_path, states(6), window=WINDOW - 300)
    assert (earlier.already, earlier.requests) == (6, 0)
    changed = [*states(5), UserState("u5", (Deed("Kettle"),))]
    later = think(server.endpoint(), tmp_path, changed, window=WINDOW + 300)
    for summary in (again, earlier, later):
        check_sums(summary)
    assert (later.cached, later.requests, later.stored) == (5, 1, 6)
    assert "Kettle" in stored(tmp_path, ["u5"])[0]


def test_a_user_given_twice_is_asked_for_once(server, tmp_path):
    summary = think(server.endpoint(), tmp_path, [*states(3), *states(3)], batch=2)
    check_sums(summary)
    assert (summary.repeated, summary.requests, summary.stored) == (3, 3, 3)


def test_a_user_without_data_or_with_an_impossible_id_costs_nothing(server, tmp_path):
    given = [UserState("nobody"), UserState("x" * 500, (Deed("Kettle"),)),
             UserState("\ud800", (Deed("Kettle"),)),
             UserState("new", place="Chengdu", profile={"life": "baby"})]
    server.says(instruction("A baby in Chengdu will need a warm sleeping sack.",
                            "Chengdu"))
    summary = think(server.endpoint(), tmp_path, given)
    check_sums(summary)
    assert (summary.no_data, summary.bad_id, summary.stored, summary.requests) == (
        1, 2, 1, 1)


def test_kinds_are_asked_and_stored_apart(server, tmp_path):
    server.says(lambda request: instruction(
        f"Wants a lantern, {request['messages'][0]['content'][-20:]}", "lantern"))
    given = [UserState("u0", (Deed("Lantern"),), ("lantern small",)),
             UserState("u1", (Deed("Lantern"),))]
    summary = think(server.endpoint(), tmp_path, given,
                    prompts=prompts.PromptConfig(kinds=prompts.KINDS))
    check_sums(summary, kinds=3)
    assert (summary.stored, summary.no_data) == (5, 1)  # u1 has nothing to rewrite
    for kind in prompts.KINDS:
        text = stored(tmp_path, ["u0"], kind)[0]
        assert text.endswith(prompts.TASKS[kind][-20:].strip())
    assert stored(tmp_path, ["u1"], "rewrite") == [None]


def test_shards_share_the_users_between_them(server, tmp_path):
    given = states(40)
    for shard in range(3):
        summary = think(server.endpoint(), tmp_path, given, shard=shard, shards=3)
        check_sums(summary)
        assert summary.stored == sum(shard_of(user, 3) == shard for user in
                                     users(given)) > 0
    assert sorted(server.titles()) == sorted(f"Lantern {n}" for n in range(40))
    assert None not in stored(tmp_path, users(given))
    with pytest.raises(InputError, match="journals of 3 shards, this run has 2"):
        think(server.endpoint(), tmp_path, given, shards=2)


def _run_and_be_killed(endpoint, folder, count, ask_again):
    think(endpoint, folder, states(count), batch=4, ask_again=ask_again)


@pytest.mark.parametrize("ask_again", [False, True])
@pytest.mark.parametrize("after", [2, 17])
def test_a_killed_run_bills_nobody_twice_and_loses_nobody(
        server, tmp_path, ask_again, after):
    count, killed = 30, multiprocessing.Event()

    def answer(request, number):
        if number > after:
            killed.wait(20)  # in flight when the process dies
        return 200, {}, completion(chat_server.good(request))
    server.answer = answer
    endpoint = server.endpoint(concurrency=4)
    process = writer_process.start(_run_and_be_killed, endpoint, tmp_path, count,
                                   ask_again)
    end = time.monotonic() + 20
    while len(server.requests) < after + 4 and time.monotonic() < end:
        time.sleep(0.01)
    process.kill()
    process.join()
    killed.set()
    assert process.exitcode == -signal.SIGKILL
    first = server.titles()
    summary = think(endpoint, tmp_path, states(count), ask_again=ask_again)
    check_sums(summary)
    names = users(states(count))
    if ask_again:  # lost questions again, each with the key of its first time
        assert len(server.requests) == count + 4
        assert len(set(server.once)) == count
    else:
        assert summary.errors == {"in-doubt": 4}
        assert sorted(server.titles()) == sorted(f"Lantern {n}" for n in range(count))
        lost = [name for name, text in zip(names, stored(tmp_path, names))
                if text is None]
        assert sorted(lost) == sorted(title.replace("Lantern ", "u")
                                      for title in first[-4:])
        with Journal(tmp_path / "think" / "shard-0-of-1.journal.sqlite") as journal:
            assert sorted(user for user, _, _ in journal.in_doubt()) == sorted(lost)
        later = think(endpoint, tmp_path, states(count), window=WINDOW + 300)
        assert (later.requests, later.cached) == (4, count - 4)
    assert None not in stored(tmp_path, names)


def test_answers_that_could_not_be_stored_are_stored_by_the_next_run(server, tmp_path):
    def broken(texts):
        raise InputError("the encoder's weights are damaged")
    with pytest.raises(InputError, match="weights are damaged"):
        think(server.endpoint(), tmp_path, states(6), embed=broken)
    asked = len(server.requests)
    assert asked >= 4
    summary = think(server.endpoint(), tmp_path, states(6))
    check_sums(summary)
    in_doubt = summary.errors.get("in-doubt", 0)  # were in flight at the failure
    assert summary.cached + summary.generated + in_doubt == 6
    assert len(server.requests) <= 6
    assert summary.stored == 6 - in_doubt


def test_two_runs_of_one_shard_do_not_pay_twice(server, tmp_path):
    with Journal(tmp_path / "journal"):
        with pytest.raises(InputError, match="in use by another run"):
            Journal(tmp_path / "journal")


def test_a_file_that_is_no_journal_is_named(tmp_path):
    (tmp_path / "journal").write_bytes(b"this is no database " * 100)
    with pytest.raises(InputError, match="journal cannot be used as a journal"):
        Journal(tmp_path / "journal")


@pytest.mark.parametrize("how", ["variable", "file"])
def test_the_key_reaches_the_server_and_nothing_else(
        server, tmp_path, monkeypatch, caplog, how):
    caplog.set_level(logging.DEBUG)
    options = {"key_variable": "OXYREC_TEST_KEY"}
    if how == "variable":
        monkeypatch.setenv("OXYREC_TEST_KEY", KEY)
    else:
        (tmp_path / "key").write_text(KEY)
        options = {"key_file": str(tmp_path / "key")}
    work = tmp_path / "work"

    def answer(request, count):  # a server that repeats the key in all that it says
        if count % 3 == 0:
            return 200, {}, completion(chat_server.good(request))
        return ((401 if count > 12 else 500), {"retry-after-ms": "1"},
                json.dumps({"error": {"message": f"bad {KEY}"}}))
    server.answer = answer
    told = ""
    for window in (WINDOW, WINDOW + 300):
        summary = think(server.endpoint(retries=1, **options), work, states(9),
                        window=window)
        told += json.dumps(pipeline.as_json(summary))
    assert summary.stopped and set(server.keys) == {f"Bearer {KEY}"}
    files = [path for path in work.rglob("*") if path.is_file()]
    assert len(files) >= 3
    for text in (told, caplog.text, *(path.read_bytes().decode("latin-1")
                                      for path in files)):
        assert KEY not in text


@pytest.mark.parametrize("options, words", [
    ({"shard": 2, "shards": 2}, "shard 2 of 2"),
    ({"prompts": prompts.PromptConfig(kinds=("poem",))}, "'poem', expected one"),
    ({"prompts": prompts.PromptConfig(language="xx")}, "language is 'xx'"),
    ({"gate": gate.GateConfig(language="xx")}, "language is 'xx'"),
    ({"gate": gate.GateConfig(shortest=9, longest=8)}, "takes 9 to 8"),
    ({"budget": reasoner.Budget(requests=0)}, "requests is 0"),
])
def test_settings_that_cannot_work_are_named(server, tmp_path, options, words):
    with pytest.raises(InputError, match=words):
        think(server.endpoint(), tmp_path, states(1), **options)
    assert not server.requests


def test_the_stages_are_plain_functions_of_a_batch(tmp_path):
    cfg = pipeline.ThinkConfig()
    prompt = prompts.build_prompt(states(1)[0], "intent", cfg.prompts)
    reply = reasoner.Reply(prompt, chat.Answer(
        text=instruction("Will want a second lantern.", "Lantern")))
    verdict, orders = pipeline.judge_reply(reply, cfg)
    assert verdict == ("Will want a second lantern.", "") and orders == 0
    np.testing.assert_array_equal(
        pipeline.store_instructions([], [], [], think_process.embed, None, cfg,
                                    model="", encoder="", window=1), [])
