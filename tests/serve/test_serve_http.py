"""A real server process: its endpoints, and what people and networks do to it."""

import contextlib
import itertools
import resource
import shutil
import socket
import threading
import time

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import checks

from oxyrec_jax import answers, workflow, workspace
from server_process import Server  # tests/serve/server_process.py


@pytest.fixture(scope="module")
def space(shop_workdir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "work"
    shutil.copytree(shop_workdir.folder, folder)
    (folder / "sets").mkdir()
    (folder / "sets" / "stock.txt").write_text("item-0000003\nitem-0000004\n", "utf-8")
    return workspace.open_workspace(folder, None)


@pytest.fixture(scope="module")
def server(space):
    """Its instruction store is a server that nobody started."""
    made = Server(space.folder, "--idle", "2", "--deadline-ms", "30000",
                  "--set", "think.store.backend=redis",
                  "--set", "think.store.url=redis://127.0.0.1:1/0").start()
    yield made
    made.end()


def ids(found):
    return [item["item_id"] for item in found["items"]]


def test_recommend_answers_as_the_command_line_though_the_store_is_down(server, space):
    user = "user-00000007"
    status, found, _ = server.ask("/v1/recommend", {"user": user, "k": 5,
                                                    "explain": True})
    wanted = answers.recommend(space, user=user, k=5)
    assert status == 200
    assert ids(found) == [row["item_id"] for row in wanted["recommendations"]]
    assert [row["item_id"] for row in found["history"]] == [
        row["item_id"] for row in wanted["history"][-8:]]
    assert found["instruction"]["source"] == "default"
    assert found["instruction"]["why"] in ("failed", "late", "skipped")
    first = [node for node in found["tree"] if len(node["codes"]) == 1]
    last = [node for node in found["tree"] if len(node["codes"]) == 2]
    kept = [node for node in last if node["fate"] == "kept"]
    assert sum(node["beams"] for node in first) == len(kept) == 20
    assert [level["kept"] + level["cut"] for level in found["levels"]] == [
        level["legal"] for level in found["levels"]]
    text = server.ask("/metrics")[1]
    assert 'oxyrec_responses_total{endpoint="/v1/recommend",status="200"}' in text
    assert f'oxyrec_version{{version="{found["version"]}"}} 1.0' in text


def test_similar_items_and_sets(server):
    status, found, _ = server.ask("/v1/similar", {"item": "item-0000003", "k": 4})
    scores = [item["similarity"] for item in found["items"]]
    assert status == 200 and len(scores) == 4 and scores == sorted(scores, reverse=True)
    assert "item-0000003" not in ids(found)
    stock = {"filters": {"sets": ["stock"]}, "k": 10}
    found = server.ask("/v1/similar", {"item": "item-0000003", **stock})[1]
    assert ids(found) == ["item-0000004"]
    found = server.ask("/v1/recommend", {"user": "user-00000007", **stock})[1]
    assert set(ids(found)) == {"item-0000003", "item-0000004"}
    assert found["reason"] == "The filters and the catalogue allow 2 items."


def test_an_empty_legal_set_gives_an_empty_list_with_a_reason(server):
    status, found, _ = server.ask("/v1/recommend", {
        "user": "user-00000007", "filters": {"allow_items": []}})
    assert (status, found["items"]) == (200, [])
    assert found["reason"] == "The filters allow no item of this catalogue."


@pytest.mark.parametrize("body, status, words", [
    (b"{\"user\": ", 400, ["JSON"]),
    (b"\xff\xfe", 400, []),
    ({"user": "u", "kk": 3}, 422, ["kk"]),
    ({}, 422, ["give a user or a history"]),
    ({"user": "nobody"}, 422, ["'nobody'", "no user"]),
    ({"history": []}, 422, ["history"]),
    ({"history": ["item-0000003", "gone"]}, 422, ["gone", "unknown_items"]),
    ({"history": ["gone"], "unknown_items": "skip"}, 422, ["gone"]),
    ({"user": "user-00000007", "k": 21}, 422, ["k is 21", "20 beams"]),
    ({"user": "user-00000007", "k": 0}, 422, ["k"]),
    ({"user": "user-00000007", "scenario": "moon"}, 422, ["'moon'", "search"]),
    ({"user": "user-00000007", "trigger": "gone"}, 422, ["'gone'"]),
    ({"user": "user-00000007", "filters": {"where": {"size": ["9"]}}}, 422,
     ["'size'", "category"]),
    ({"user": "user-00000007", "filters": {"sets": ["shoes"]}}, 422, ["stock"]),
    ({"history": [{"item": "item-0000003", "time": 9},
                  {"item": "item-0000003", "time": 1}]}, 422, ["oldest first"]),
    ({"history": [f"item-{n:07}" for n in range(60_000)]}, 413, ["262144 bytes"]),
], ids=lambda value: str(value)[:40])
def test_what_is_wrong_is_said_in_one_sentence(body, status, words, server):
    found, value, _ = server.ask("/v1/recommend", body)
    assert found == status == value["error"]["status"]
    for word in words:
        assert word in value["error"]["message"]


def test_unknown_items_of_a_history_are_skipped_where_that_is_asked(server):
    known = {"history": ["item-0000003", "item-0000009"], "k": 5}
    found = server.ask("/v1/recommend", {
        "history": ["item-0000003", "gone", "item-0000009"], "k": 5,
        "unknown_items": "skip"})[1]
    assert found["skipped"] == ["gone"]
    assert ids(found) == ids(server.ask("/v1/recommend", known)[1])


def test_a_history_of_ten_thousand_events_is_cut_and_said(server):
    items = [f"item-{number % 50:07}" for number in range(10_000)]
    status, found, _ = server.ask("/v1/recommend", {"history": items, "k": 5})
    assert status == 200
    assert found["note"] == "The history has 10000 events, the network reads the " \
        "newest 8."
    last = server.ask("/v1/recommend", {"history": items[-8:], "k": 5})[1]
    assert ids(found) == ids(last) and not last["note"]
    status, found, _ = server.ask("/v1/recommend", {"history": [*items, items[0]]})
    assert (status, found["error"]["field"].partition(".")[0]) == (422, "history")


def test_a_deadline_that_nobody_could_meet_is_504(server):
    status, found, headers = server.ask("/v1/recommend", {
        "user": "user-00000007", "deadline_ms": 0.001})
    assert (status, found["error"]["reason"]) == (504, "deadline")


def test_a_swap_wants_the_admin_token(server):
    assert server.ask("/v1/swap", b"")[0] == 401
    assert server.ask("/v1/swap", b"", authorization="Bearer wrong")[0] == 401
    status, found, _ = server.admin("/v1/swap")
    assert status == 200 and found["version"] == found["before"]


def test_other_paths_methods_and_kinds_of_body(server):
    assert server.ask("/v1/recommend")[0] == 405
    assert server.ask("/nowhere")[0] == 404
    assert server.ask("/v1/recommend", b"user=7", content_type="text/plain")[0] == 415
    for path in ("/healthz", "/readyz", "/docs", "/", "/openapi.json"):
        assert server.ask(path)[0] == 200


def test_slow_clients_are_let_go(server):
    """A body that stops gets 408; a head that never ends is cut off."""
    begin = time.monotonic()
    slow = socket.create_connection(("127.0.0.1", server.port))
    slow.sendall(b"POST /v1/recommend HTTP/1.1\r\nhost: x\r\ncontent-type: "
                 b"application/json\r\ncontent-length: 99\r\n\r\n{\"user\":")
    slower = socket.create_connection(("127.0.0.1", server.port))
    slower.sendall(b"POST /v1/recommend HTT")
    for one in (slow, slower):
        one.settimeout(30)
    assert b" 408 " in slow.recv(65_536).partition(b"\r\n")[0]
    assert slower.recv(100) == b""
    assert time.monotonic() - begin < 20
    endless = socket.create_connection(("127.0.0.1", server.port), 30)
    with contextlib.suppress(ConnectionError):  # however it learns that it is over
        endless.sendall(b"GET /healthz HTTP/1.1\r\n" + b"x: y\r\n" * 20_000)
        assert not endless.recv(100)
    for one in (slow, slower, endless):
        one.close()


def test_thousands_of_connections_do_not_keep_others_out(server):
    count = min(10_000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 1_000)
    held = []
    try:
        for _ in range(count):
            held.append(socket.create_connection(("127.0.0.1", server.port), 30))
        status, found, _ = server.ask("/v1/recommend", {"user": "user-00000007"})
        assert (status, len(found["items"])) == (200, 10)
    finally:
        for one in held:
            one.close()
    assert server.ask("/healthz")[0] == 200


def test_every_answer_under_swaps_is_of_one_version(server, space, tmp_path):
    """Versions alternate while requests come; nothing is lost, mixed or compiled."""
    users = [f"user-{number:08}" for number in range(0, 40, 5)]
    lists = {}

    def note(found, user):
        return lists.setdefault((found["version"], user), ids(found))
    for user in users:
        first = server.ask("/v1/recommend", {"user": user, "k": 20})[1]
        note(first, user)
    gone = tmp_path / "gone.txt"
    gone.write_text("\n".join(ids(first)[:4]) + "\n", "utf-8")
    workflow.retire_items(space, gone)
    status, swapped, _ = server.admin("/v1/swap")
    assert status == 200 and swapped["version"] != swapped["before"]
    assert swapped["compiled"] == 0 and swapped["swap_ms"] < 50
    for user in users:
        note(server.ask("/v1/recommend", {"user": user, "k": 20})[1], user)
    wrong, stop = [], threading.Event()

    def keep_asking(mine):
        connection = server.connect()
        for user in itertools.cycle(mine):
            if stop.is_set():
                break
            status, found, _ = server.ask("/v1/recommend", {"user": user, "k": 20},
                                          connection=connection)
            if status != 200 or ids(found) != note(found, user):
                wrong.append((status, found))
        connection.close()
    threads = [threading.Thread(target=keep_asking, args=(users[n::4],))
               for n in range(4)]
    for thread in threads:
        thread.start()
    versions = [server.admin("/v1/rollback")[1]["version"] for _ in range(20)]
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong and len(set(versions)) == 2 and len(lists) == 2 * len(users)


def test_whatever_bytes_come_the_process_stays(server):
    @settings(max_examples=60, deadline=None,
              suppress_health_check=[HealthCheck.too_slow])
    @given(st.binary(max_size=200))
    def send(body):
        assert server.ask("/v1/recommend", body)[0] in (400, 422)
        with socket.create_connection(("127.0.0.1", server.port), 30) as raw:
            raw.sendall(body + b"\r\n\r\n")
    send()
    assert server.ask("/healthz")[0] == 200


@pytest.mark.filterwarnings("default")
def test_the_interface_is_what_its_document_says(server):
    """Requests made from the OpenAPI document, right ones and wrong ones."""
    schema = schemathesis.openapi.from_dict(server.ask("/openapi.json")[1])
    base, asked = f"http://127.0.0.1:{server.port}", []
    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in (schemathesis.GenerationMode.POSITIVE,
                     schemathesis.GenerationMode.NEGATIVE):
            if mode.is_negative and not list(operation.body):
                continue

            @settings(max_examples=25, deadline=None, database=None,
                      suppress_health_check=list(HealthCheck))
            @given(operation.as_strategy(generation_mode=mode))
            def call(case):
                response = case.call(base_url=base)
                asked.append(response.status_code)
                case.validate_response(response, checks=[
                    checks.not_a_server_error, checks.status_code_conformance,
                    checks.content_type_conformance,
                    checks.response_schema_conformance])
            call()
    assert len(asked) > 100 and 422 in asked
    assert server.ask("/healthz")[0] == 200
