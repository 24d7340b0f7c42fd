"""A chat server on a socket, which a test makes as bad as it likes."""

import contextlib
import http.server
import json
import threading

from oxyrec_jax import llm


def completion(text, *, prompt_tokens=100, answer_tokens=20):
    """The body of a right answer."""
    return json.dumps({
        "id": "1", "object": "chat.completion", "created": 1, "model": "tiny",
        "choices": [{"index": 0, "finish_reason": "stop",
                     "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": answer_tokens}})


def data_of(request):
    """The data that a question holds between its marks."""
    asked = request["messages"][1]["content"]
    assert asked.count("<data>") == asked.count("</data>") == 1
    return json.loads(asked.removeprefix("<data>\n").removesuffix("\n</data>"))


def instruction(text, evidence):
    return json.dumps({"instruction": text, "evidence": [evidence]})


def good(request):
    """An answer about the first title of the data."""
    title = data_of(request)["history"][0]["title"]
    return instruction(f"Has looked at {title} and will want a spare of it.", title)


class ChatServer:
    """Answers by `answer(request, count) -> (status, headers, body)`."""

    def __init__(self):
        self.requests, self.keys, self.once = [], [], []
        self.in_flight = self.most_in_flight = 0
        self.lock = threading.Lock()
        self.answer = lambda request, count: (200, {}, completion(good(request)))
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self):
                request = json.loads(
                    self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    outer.requests.append(request)
                    outer.keys.append(self.headers["Authorization"])
                    outer.once.append(self.headers["Idempotency-Key"])
                    count = len(outer.requests)
                    outer.in_flight += 1
                    outer.most_in_flight = max(outer.most_in_flight, outer.in_flight)
                status, headers, body = outer.answer(request, count)
                with outer.lock:
                    outer.in_flight -= 1
                body = body.encode() if isinstance(body, str) else body
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
        self.server.handle_error = lambda *args: None
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,),
                                       daemon=True)
        self.thread.start()

    def says(self, text):
        """Every answer is this text, or what `text(request)` gives."""
        self.answer = lambda request, count: (
            200, {}, completion(text(request) if callable(text) else text))

    def fails(self, status, times=10**9, headers=None, body="{}"):
        """The first `times` requests get a status, then all are answered well."""
        self.answer = lambda request, count: (
            (status, headers or {"retry-after-ms": "1"}, body) if count <= times
            else (200, {}, completion(good(request))))

    def titles(self):
        """The first title of each question, in the order of their coming."""
        return [data_of(request)["history"][0]["title"] for request in self.requests]

    def endpoint(self, **options):
        options = {"retries": 0, "timeout": 10.0, "price": 2.0} | options
        port = self.server.server_address[1]
        return llm.Endpoint(url=f"http://127.0.0.1:{port}/v1", model="tiny", **options)

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
