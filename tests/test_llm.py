"""The client against a real server on a socket: cache, retries, failures, the key."""

import contextlib
import http.server
import json
import logging
import sqlite3
import threading
import time

import numpy as np
import pytest

from oxyrec_jax import llm
from oxyrec_jax.base import InputError

KEY = "sk-very-secret-0123456789"


def _vector(text, dimension):
    return [float(len(text)), *(float(ord(text[i % len(text)])) for i in
                                range(dimension - 1))]


def _good(request, dimension=4):
    """A right answer: entries in reverse, so that `index` must be heeded."""
    texts = request["input"]
    data = [{"object": "embedding", "index": i,
             "embedding": _vector(text, request.get("dimensions", dimension))}
            for i, text in enumerate(texts)]
    return {"object": "list", "data": data[::-1], "model": request["model"],
            "usage": {"prompt_tokens": 10 * len(texts), "total_tokens": 10}}


class Server:
    """Answers POSTs by `answer(request, count) -> (status, headers, bytes)`."""

    def __init__(self):
        self.requests, self.keys, self.paths = [], [], []
        self.in_flight = self.most_in_flight = 0
        self.lock = threading.Lock()
        self.answer = lambda request, count: (200, {}, json.dumps(_good(request)))
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                size = int(self.headers["Content-Length"])
                request = json.loads(self.rfile.read(size))
                with outer.lock:
                    outer.requests.append(request)
                    outer.paths.append(self.path)
                    outer.keys.append(self.headers["Authorization"])
                    count = len(outer.requests)
                    outer.in_flight += 1
                    outer.most_in_flight = max(outer.most_in_flight, outer.in_flight)
                status, headers, body = outer.answer(request, count)
                body = body.encode() if isinstance(body, str) else body
                with outer.lock:
                    outer.in_flight -= 1
                with contextlib.suppress(OSError):  # the client may have gone
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(body)))
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever,
                                       args=(0.01,), daemon=True)
        self.thread.start()

    @property
    def port(self):
        return self.server.server_address[1]

    def endpoint(self, **options):
        options = {"retries": 0, "timeout": 10.0} | options
        return llm.Endpoint(url=f"http://127.0.0.1:{self.port}/v1", model="tiny",
                            **options)

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def server():
    running = Server()
    yield running
    running.close()


def _fail(server, *, status=None, times=10**9, body="{}"):
    """The first `times` requests get `status`, with a retry delay of 1 ms."""
    def answer(request, count):
        if count <= times:
            return status, {"retry-after-ms": "1"}, body
        return 200, {}, json.dumps(_good(request))
    server.answer = answer


def test_vectors_come_back_in_order_with_tokens_and_cost(server):
    texts = [f"item {'x' * n}" for n in range(10)]
    vectors, usage = llm.embed(texts, server.endpoint(batch=4, price=2.0))
    np.testing.assert_array_equal(vectors, [_vector(text, 4) for text in texts])
    assert vectors.dtype == np.float32
    # Batches of 4, 4 and 2; 10 tokens a text at 2 per million.
    assert usage == llm.Usage(texts=10, cached=0, requests=3, retries=0, tokens=100,
                              cost=pytest.approx(2e-4))
    assert sorted(len(r["input"]) for r in server.requests) == [2, 4, 4]
    assert set(server.paths) == {"/v1/embeddings"}
    assert {r["model"] for r in server.requests} == {"tiny"}


def test_equal_texts_are_asked_for_once_and_empty_ones_never(server):
    vectors, usage = llm.embed(["a", "", "b", "a"], server.endpoint())
    assert [r["input"] for r in server.requests] == [["a", "b"]]
    np.testing.assert_array_equal(vectors[[0, 3]], [_vector("a", 4)] * 2)
    np.testing.assert_array_equal(vectors[1], np.zeros(4))
    assert usage.texts == 2


def test_no_texts_need_no_server(server):
    assert llm.embed([], server.endpoint())[0].shape == (0, 0)
    assert llm.embed(["", ""], server.endpoint(), dimension=3)[0].shape == (2, 3)
    assert not server.requests


def test_the_dimension_is_sent(server):
    vectors, _ = llm.embed(["a"], server.endpoint(), dimension=6)
    assert vectors.shape == (1, 6) and server.requests[0]["dimensions"] == 6


def test_the_cache_answers_the_second_time(server, tmp_path):
    cache = tmp_path / "llm.sqlite"
    first, _ = llm.embed(["a", "b"], server.endpoint(), cache=cache)
    again, usage = llm.embed(["b", "c", "a"], server.endpoint(), cache=cache)
    assert [r["input"] for r in server.requests] == [["a", "b"], ["c"]]
    np.testing.assert_array_equal(again[[2, 0]], first)
    assert (usage.texts, usage.cached, usage.requests) == (3, 2, 1)
    llm.embed(["a"], llm.Endpoint(server.endpoint().url, "other", retries=0),
              cache=cache)
    llm.embed(["a"], server.endpoint(), dimension=4, cache=cache)
    assert len(server.requests) == 4  # another model or dimension is another vector


def test_a_failed_call_keeps_what_was_answered(server, tmp_path):
    cache = tmp_path / "llm.sqlite"

    def answer(request, count):
        return ((200, {}, json.dumps(_good(request))) if count <= 2
                else (400, {}, "{}"))
    server.answer = answer
    with pytest.raises(InputError, match="status 400"):
        llm.embed(list("abcdef"), server.endpoint(batch=2, concurrency=1), cache=cache)
    server.answer = lambda request, count: (200, {}, json.dumps(_good(request)))
    _, usage = llm.embed(list("abcdef"), server.endpoint(batch=2), cache=cache)
    assert (usage.cached, usage.requests) == (4, 1)


def test_a_damaged_vector_is_asked_for_again(server, tmp_path):
    cache = tmp_path / "llm.sqlite"
    right, _ = llm.embed(["a", "b"], server.endpoint(), cache=cache)
    with contextlib.closing(sqlite3.connect(cache)) as database:
        database.execute("UPDATE vectors SET vector = zeroblob(16) WHERE key = "
                         "(SELECT min(key) FROM vectors)")
        database.commit()
    again, usage = llm.embed(["a", "b"], server.endpoint(), cache=cache)
    np.testing.assert_array_equal(again, right)
    assert usage.cached == 1


def test_a_cache_that_is_none_is_named(server, tmp_path):
    path = tmp_path / "llm.sqlite"
    path.write_bytes(b"this is no database " * 100)
    with pytest.raises(InputError, match="llm.sqlite cannot be used as a cache"):
        llm.embed(["a"], server.endpoint(), cache=path)
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version=99")
    with pytest.raises(InputError, match="schema version 99"):
        llm.embed(["a"], server.endpoint(), cache=path)


def test_concurrency_is_bounded_and_used(server):
    def answer(request, count):
        time.sleep(0.05)
        return 200, {}, json.dumps(_good(request))
    server.answer = answer
    llm.embed([str(n) for n in range(12)], server.endpoint(batch=1, concurrency=3))
    assert server.most_in_flight == 3


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_trouble_is_tried_again(server, status):
    _fail(server, status=status, times=2)
    vectors, usage = llm.embed(["a"], server.endpoint(retries=2))
    np.testing.assert_array_equal(vectors, [_vector("a", 4)])
    assert usage.retries == 2 and len(server.requests) == 3


@pytest.mark.parametrize("status, words, tries", [
    (429, "429.*after 3 tries; lower the concurrency", 3),
    (500, "failed with status 500 in 3 tries", 3),
    (401, "rejected the API key", 1),
    (404, "refused the request .status 404.; check the url", 1),
])
def test_lasting_trouble_is_named(server, status, words, tries):
    _fail(server, status=status)
    with pytest.raises(InputError, match=words):
        llm.embed(["a"], server.endpoint(retries=2))
    assert len(server.requests) == tries


def test_a_slow_server_is_given_up(server):
    release = threading.Event()

    def answer(request, count):
        release.wait(10)
        return 200, {}, json.dumps(_good(request))
    server.answer = answer
    start = time.monotonic()
    with pytest.raises(InputError, match="no answer within 0.3 s in 1 try"):
        llm.embed(["a"], server.endpoint(timeout=0.3))
    release.set()
    assert time.monotonic() - start < 5


def test_a_refused_connection_is_named_without_its_address():
    gone = Server()
    gone.close()
    with pytest.raises(InputError, match="refused the connection") as caught:
        llm.embed(["a"], gone.endpoint())
    assert "127.0.0.1" not in str(caught.value)
    assert str(gone.port) not in str(caught.value)


def test_a_dropped_connection_is_named(server):
    def answer(request, count):
        raise ConnectionResetError
    server.server.handle_error = lambda *args: None
    server.answer = answer
    with pytest.raises(InputError, match="could not be reached in 1 try"):
        llm.embed(["a"], server.endpoint())


def _with(change):
    def answer(request, count):
        body = _good(request)
        change(body)
        return 200, {}, json.dumps(body)
    return answer


@pytest.mark.parametrize("answer, words", [
    (lambda request, count: (200, {}, "<html>hello"), "not one embedding"),
    (lambda request, count: (200, {}, b"\xff\xfe\x00"), "not one embedding"),
    (lambda request, count: (200, {}, "[1, 2]"), "not one embedding"),
    (lambda request, count: (200, {}, "null"), "not one embedding"),
    (lambda request, count: (200, {}, '{"choices": []}'), "not one embedding"),
    (_with(lambda body: body["data"].pop()), "not one embedding"),
    (_with(lambda body: body["data"][0].update(index=7)), "not one embedding"),
    (_with(lambda body: body["data"][0].update(embedding="AAAA")), "not one embed"),
    (_with(lambda body: body["data"][0].update(embedding=[None, 1])), "NaN|not one"),
    (_with(lambda body: body["data"][0].update(embedding=[1.0])), "of one|one length"),
    (_with(lambda body: body["data"][0].update(embedding=[])), "vector of 0 numbers"),
    (_with(lambda body: body["data"][0].update(embedding=[1e999] * 4)), "infinity"),
], ids=["html", "bytes", "list", "null", "other protocol", "one missing", "index",
        "base64", "null number", "short", "empty", "infinite"])
def test_an_answer_that_is_none_is_named_and_not_cached(
        server, tmp_path, answer, words):
    server.answer = answer
    cache = tmp_path / "llm.sqlite"
    with pytest.raises(InputError, match=words):
        llm.embed(["a", "b"], server.endpoint(), cache=cache)
    server.answer = lambda request, count: (200, {}, json.dumps(_good(request)))
    assert llm.embed(["a", "b"], server.endpoint(), cache=cache)[1].cached == 0


def test_another_length_than_the_cache_holds_is_refused(server, tmp_path):
    cache = tmp_path / "llm.sqlite"
    llm.embed(["a"], server.endpoint(), cache=cache)
    server.answer = lambda request, count: (200, {}, json.dumps(_good(request, 5)))
    with pytest.raises(InputError, match="vectors of 5 and of 4 numbers"):
        llm.embed(["a", "b"], server.endpoint(), cache=cache)


def test_a_wrong_dimension_is_refused(server):
    def answer(request, count):
        return 200, {}, json.dumps(_good({**request, "dimensions": 4}))
    server.answer = answer
    with pytest.raises(InputError, match="vector of 4 numbers, expected 8"):
        llm.embed(["a"], server.endpoint(), dimension=8)


def _hold_key(how, tmp_path, monkeypatch):
    if how == "variable":
        monkeypatch.setenv("OXYREC_TEST_KEY", KEY + "\n")
        return {"key_variable": "OXYREC_TEST_KEY"}
    (tmp_path / "key").write_text(KEY + "\n")
    return {"key_file": str(tmp_path / "key")}


@pytest.mark.parametrize("how", ["variable", "file"])
def test_the_key_reaches_the_server_and_nothing_else(
        server, tmp_path, monkeypatch, caplog, how):
    caplog.set_level(logging.DEBUG)
    options = _hold_key(how, tmp_path, monkeypatch)
    cache = tmp_path / "llm.sqlite"
    endpoint = server.endpoint(retries=1, **options)
    _, usage = llm.embed(["a"], endpoint, cache=cache)
    # A server that repeats the key in its error, as some do.
    _fail(server, status=401, body=json.dumps({"error": {"message": f"bad {KEY}"}}))
    with pytest.raises(InputError) as caught:
        llm.embed(["b"], endpoint, cache=cache)
    assert set(server.keys) == {f"Bearer {KEY}"}
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("llm.sqlite*"))
    for text in (caplog.text, repr(endpoint), repr(usage), str(caught.value),
                 str(caught.getrepr(chain=True)), stored.decode("latin-1")):
        assert KEY not in text


@pytest.mark.parametrize("options, words", [
    ({"key_variable": "OXYREC_NO_SUCH_KEY"}, "OXYREC_NO_SUCH_KEY holds no API key"),
    ({"key_file": "/nonexistent/key"}, "/nonexistent/key cannot be read"),
    ({"batch": 0}, "batch is 0"),
    ({"timeout": 0.0}, "timeout of 0.0"),
])
def test_settings_that_cannot_work_are_named(server, options, words):
    with pytest.raises(InputError, match=words):
        llm.embed(["a"], server.endpoint(**options))
    assert not server.requests


def test_a_key_with_odd_characters_is_refused_unseen(server, tmp_path):
    (tmp_path / "key").write_text(f"{KEY}\nX-Other: header")
    with pytest.raises(InputError, match="characters that no API key has") as caught:
        llm.embed(["a"], server.endpoint(key_file=str(tmp_path / "key")))
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("url", [
    "localhost:8000", "ftp://host/v1", f"http://user:{KEY}@host/v1",
    f"http://host/v1?key={KEY}"])
def test_a_url_that_cannot_be_or_holds_a_secret_is_refused(url):
    with pytest.raises(InputError, match="url must") as caught:
        llm.embed(["a"], llm.Endpoint(url=url, model="tiny"))
    assert KEY not in str(caught.value)
