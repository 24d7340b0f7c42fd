"""A language model as a judge, against a real server and a real kill."""

import contextlib
import json
import multiprocessing
import signal
import time

import chat_server
import judge_world
import numpy as np
import pytest
from chat_server import completion
from judge_world import ITEMS, answer, judge, request

from oxyrec_jax.rewards.judge.records import RecordStore


def test_scores_and_grounds_are_read_and_every_token_is_counted(server, tmp_path):
    server.says(lambda asked: answer(2, profile=0.25, novelty=1, context=0))
    made = judge(server.endpoint(), tmp_path)
    found = made.judge([request()], np.array([[2, 1, -1]]), evidence=True)
    np.testing.assert_array_equal(found.scores[0, :2], [[0.25, 0.5, 1, 0]] * 2)
    assert found.known.tolist() == [[True, True, False]] and found.given.all()
    assert found.evidence[0, 1].tolist() == [
        "profile of 2", "future of 2", "novelty of 2", "context of 2"]
    spent = found.spent
    assert (spent.points, spent.questions, spent.requests) == (2, 1, 1)
    assert (spent.prompt_tokens, spent.answer_tokens) == (100, 20)
    assert spent.cost == pytest.approx(120 * 2.0 / 1e6)
    assert (found.scores[0, 2] == 0).all()


def test_the_question_quotes_what_is_known_and_nobody_s_id(server, tmp_path):
    judge(server.endpoint(), tmp_path).judge([request(7, trigger=0)],
                                             np.array([[1, 0]]))
    asked = server.requests[0]
    data = chat_server.data_of(asked)  # one pair of marks, though a title holds one
    assert data["items"][0]["title"] == ITEMS.titles[1]
    assert data["items"][1] == {"number": 2, "title": "Green Kettle", "category":
                                "Kitchen > Kettles", "brand": "Anfa", "price": 20.0}
    assert data["request"] == {"scenario": "search", "search": "camping tent",
                               "opened from": "Green Kettle"}
    assert data["person"]["history"] == [{"did": "click", "title": "Mug 7"}]
    assert "secret-user" not in json.dumps(asked)
    assert "context" in asked["messages"][0]["content"]


def test_a_request_without_a_situation_is_not_asked_about_it(server, tmp_path):
    made = judge(server.endpoint(), tmp_path)
    found = made.judge([request(scenario="", query="")], np.array([[0]]))
    assert found.given.tolist() == [[True, True, True, False]]
    assert found.known.all() and found.scores[0, 0, 3] == 0
    assert "context" not in server.requests[0]["messages"][0]["content"]


def test_what_was_judged_is_asked_for_by_no_later_call_or_run(server, tmp_path):
    made = judge(server.endpoint(), tmp_path)
    items = np.array([[0, 1], [0, 1]])
    first = made.judge([request(0), request(1)], items)
    again = made.judge([request(1), request(0)], items)
    later = judge(server.endpoint(), tmp_path).judge([request(1)], np.array([[1, 2]]))
    assert (first.spent.questions, again.spent.questions) == (2, 0)
    assert (again.spent.recorded, later.spent.recorded) == (4, 1)
    assert later.spent.requests == 1 and len(server.requests) == 3
    assert [item["title"] for item in chat_server.data_of(server.requests[-1])["items"]
            ] == ["Lamp"]


def test_candidates_are_asked_about_some_at_a_time(server, tmp_path):
    found = judge(server.endpoint(), tmp_path, together=2).judge(
        [request()], np.array([[0, 1, 2]]))
    assert found.known.all() and found.spent.questions == 2
    assert sorted(len(chat_server.data_of(asked)["items"])
                  for asked in server.requests) == [1, 2]


@pytest.mark.parametrize("text, known", [
    ("no idea", [False, False]), ('{"items": "none"}', [False, False]),
    ("```json\n" + answer(2) + "\n```", [True, True]),
    (answer(1), [True, False]), (answer(3), [True, True]),
    (answer(2, future=1.2), [False, False]), (answer(2, future=True), [False, False]),
    (answer(2).replace("0.5", '"high"'), [False, False]),
    (answer(2).replace('"number": 2', '"number": 1'), [False, False]),
    (answer(2).replace("0.5", "NaN"), [False, False])])
def test_an_answer_that_is_none_is_counted_and_not_paid_for_twice(
        server, tmp_path, text, known):
    server.says(text)
    made = judge(server.endpoint(), tmp_path)
    found = made.judge([request()], np.array([[0, 1]]))
    assert found.known[0].tolist() == known
    assert found.spent.refused == known.count(False)
    again = made.judge([request()], np.array([[0, 1]]))
    if not any(known):
        assert not again.known.any() and again.spent.cached == 1
        assert len(server.requests) == 1
    elif not all(known):  # the one that was left out is a question of its own
        titles = [item["title"] for item in chat_server.data_of(server.requests[-1])[
            "items"]]
        assert again.known.all() and titles == [ITEMS.titles[1]]


def test_a_body_that_is_no_completion_is_billed_once(server, tmp_path):
    server.answer = lambda asked, count: (200, {}, "<html>")
    made = judge(server.endpoint(), tmp_path)
    one, two = (made.judge([request()], np.array([[0]])).spent for _ in range(2))
    assert (one.errors, two.errors) == ({"garbage": 1}, {"useless": 1})
    assert len(server.requests) == 1


def test_a_question_that_nobody_billed_is_asked_again(server, tmp_path):
    server.fails(500)
    made = judge(server.endpoint(), tmp_path)
    assert made.judge([request()], np.array([[0]])).spent.errors == {"server": 1}
    server.says(answer(1))
    assert made.judge([request()], np.array([[0]])).known.all()


def test_the_budget_holds_over_all_calls(server, tmp_path):
    made = judge(server.endpoint(concurrency=1), tmp_path, requests=3)
    found = [made.judge([request(number), request(number + 1)], np.array([[0], [0]]))
             for number in (0, 2, 4)]
    assert [int(one.known.sum()) for one in found] == [2, 1, 0]
    assert found[2].spent.errors == {"over-budget": 2} and len(server.requests) == 3
    recalled = made.judge([request(0)], np.array([[0]]))  # what is known costs nothing
    assert recalled.known.all() and recalled.spent.recorded == 1


def test_a_killed_run_goes_on_and_nobody_is_billed_twice(server, tmp_path):
    def slowly(asked, count):
        time.sleep(0.2)
        return 200, {}, completion(answer(1))
    server.answer = slowly
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=judge_world.run_judge, args=(
        server.endpoint(concurrency=2), tmp_path, 8))
    process.start()
    while len(server.requests) < 5:
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    made = judge(server.endpoint(concurrency=2), tmp_path)
    found = made.judge([request(number) for number in range(8)],
                       np.zeros((8, 1), int))
    bodies = [asked["messages"][1]["content"] for asked in server.requests]
    assert len(bodies) == len(set(bodies)) == 8
    doubt = found.spent.errors.get("in-doubt", 0)
    assert doubt <= 2 and found.known.sum() == 8 - doubt
    assert found.spent.cached >= 2 and found.spent.requests <= 3


def test_pairs_are_asked_one_by_one(server, tmp_path):
    server.says(lambda asked: json.dumps({"better": {
        "Green Kettle": "A", "Lamp": "equal"}.get(
            chat_server.data_of(asked)["items"]["A"]["title"], "neither")}))
    made = judge(server.endpoint(), tmp_path)
    pairs = np.array([[0, 1], [2, 1], [1, 2]])
    found, spent = made.prefer([request(number) for number in range(3)], pairs)
    np.testing.assert_array_equal(found, [1, 0.5, np.nan])
    assert (spent.questions, spent.refused) == (3, 1)
    again, spent = made.prefer([request(number) for number in range(3)], pairs)
    np.testing.assert_array_equal(again, found)
    assert (spent.cached, spent.requests) == (3, 0)


def test_records_of_another_prompt_or_model_are_no_records(server, tmp_path):
    judge(server.endpoint(), tmp_path).judge([request()], np.array([[0]]))
    other = judge(server.endpoint(), tmp_path, together=4)
    assert other.judge([request()], np.array([[0]])).spent.recorded == 0
    with contextlib.closing(RecordStore(tmp_path / "records.sqlite")) as store:
        assert len(store.get_many(other.name, [("request-0", "i0")])) == 1
