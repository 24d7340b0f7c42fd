"""A real `oxyrec serve` for tests, started and ended by them."""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

ADMIN = "an-admin-token-of-tests"


class Server:
    """One process; `start` again after its end for a restart on the same port."""

    def __init__(self, workdir, *options, **environment):
        self.options = ["--workdir", str(workdir), "--batches", "4", "--lengths", "8",
                        *options]
        self.environment = {
            # All programs, in the folder of this run of the tests (conftest.py).
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "OXYREC_SERVE_ADMIN_TOKEN": ADMIN, **environment}
        self.port, self.lines, self.process = 0, [], None

    def start(self, seconds=240):
        self.lines = []
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from oxyrec_jax import cli; cli.main()", "serve",
             *self.options, "--port", str(self.port)],
            env={**os.environ, **self.environment}, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True)
        found = threading.Event()

        def read():
            with self.process.stderr as lines:
                for line in lines:
                    self.lines.append(line)
                    if match := re.search(r"serving http://127.0.0.1:(\d+)", line):
                        self.port = int(match[1])
                        found.set()
            found.set()
        self._reader = threading.Thread(target=read, daemon=True)
        self._reader.start()
        assert found.wait(seconds) and self.process.poll() is None, "".join(self.lines)
        return self

    def connect(self, timeout=60):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def ask(self, path, body=None, *, connection=None, **headers):
        """Status, JSON value (or text) and headers of a response."""
        own = connection or self.connect()
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body)
        with contextlib.suppress(BrokenPipeError):  # refused before all of it was sent
            own.request("GET" if body is None else "POST", path, data, {
                "content-type": "application/json",
                **{name.replace("_", "-"): value for name, value in headers.items()}})
        response = own.getresponse()
        text = response.read().decode()
        if connection is None:
            own.close()
        kind = response.headers.get("content-type", "")
        return (response.status, json.loads(text) if "json" in kind else text,
                response.headers)

    def admin(self, path):
        return self.ask(path, b"", authorization=f"Bearer {ADMIN}")

    def signal(self, which):
        os.kill(self.process.pid, which)

    def kill(self):
        """Ends it by force."""
        self.process.kill()
        self.process.wait(60)
        self._reader.join(60)

    def end(self, seconds=60):
        """Ends it gently; the exit code."""
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGTERM)
        code = self.process.wait(seconds)
        self._reader.join(seconds)
        return code

    def wait_for(self, condition, seconds=30):
        stop = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < stop
            time.sleep(0.05)
