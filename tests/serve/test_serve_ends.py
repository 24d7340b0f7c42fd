"""How a server ends: gently under load, by force, and what limits it lives within."""

import http.client
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from oxyrec_jax import cli
from oxyrec_jax.base import InputError
from oxyrec_jax.serve.process import Listening, listen, read_token
from server_process import Server  # tests/serve/server_process.py

TOKEN = "a-token-of-the-tests"


@pytest.fixture(scope="module")
def server(shop_workdir):
    made = Server(shop_workdir.folder, "--grace", "0.5", "--deadline-ms", "30000",
                  OXYREC_SERVE_TOKEN=TOKEN).start()
    yield made
    if made.process.poll() is None:
        made.end()


def headers(**more):
    return {"authorization": f"Bearer {TOKEN}", **more}


def test_a_token_is_wanted_and_never_told(server):
    body = {"user": "user-00000007"}
    assert server.ask("/v1/recommend", body)[0] == 401
    assert server.ask("/metrics")[0] == 401
    wrong = server.ask("/v1/recommend", body, authorization=f"Bearer {TOKEN}x")
    assert wrong[0] == 401 and wrong[2]["www-authenticate"] == "Bearer"
    assert server.ask("/v1/recommend", body, **headers())[0] == 200
    assert server.ask("/healthz")[0] == 200
    assert not any(TOKEN in line for line in server.lines)


def test_killed_and_started_again_it_answers_the_same_on_its_port(server):
    body, port = {"user": "user-00000009", "k": 5}, server.port
    before = server.ask("/v1/recommend", body, **headers())[1]
    server.kill()
    server.start()
    after = server.ask("/v1/recommend", body, **headers())[1]
    assert server.port == port
    assert (after["version"], after["items"]) == (before["version"], before["items"])


def test_sigterm_under_load_loses_nothing(server):
    """Everything asked before the signal is answered; what is asked after it gets an
    answer or 503 for the grace period; then the process ends with 0."""
    found, lock, told = [], threading.Lock(), threading.Event()

    def keep_asking(number):
        connection = server.connect()
        while True:
            sent = time.monotonic()
            try:
                status, value, _ = server.ask(
                    "/v1/recommend", {"user": f"user-{number:08}"},
                    connection=connection, **headers())
            except (OSError, http.client.HTTPException):
                status, value = 0, {}
            with lock:
                found.append((sent, time.monotonic(), status, value))
            if status != 200:
                return
    threads = [threading.Thread(target=keep_asking, args=(number,))
               for number in range(8)]
    for thread in threads:
        thread.start()
    server.wait_for(lambda: len(found) > 40)
    told.set()
    signalled = time.monotonic()
    server.signal(signal.SIGTERM)
    for thread in threads:
        thread.join(60)
    assert server.end() == 0
    odd = [(status, value) for sent, _, status, value in found
           if sent < signalled - 0.05 and status != 200]
    assert not odd
    late = [(status, value) for _, end, status, value in found if status != 200]
    assert len(late) == 8
    assert {status for status, _ in late} <= {503, 0}
    assert all(value["error"]["reason"] == "draining" for status, value in late
               if status == 503)
    assert sum(status == 503 for status, _ in late) >= 4
    assert any(end > signalled and status == 200 for _, end, status, _ in found)


def test_tokens_come_from_files_that_only_their_owner_reads(tmp_path, monkeypatch):
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n", "utf-8")
    path.chmod(0o600)
    assert read_token("NOT_SET", path) == TOKEN
    assert read_token("NOT_SET", None) is None
    path.chmod(0o644)
    with pytest.raises(InputError, match="chmod 600"):
        read_token("NOT_SET", path)
    with pytest.raises(InputError, match="cannot be read: FileNotFoundError"):
        read_token("NOT_SET", tmp_path / "none")
    monkeypatch.setenv("A_TOKEN", "short")
    with pytest.raises(InputError, match="A_TOKEN holds no token of 16") as refused:
        read_token("A_TOKEN", None)
    assert "short" not in str(refused.value).replace("openssl", "")


def test_a_port_that_is_taken_is_said_before_anything_is_loaded():
    with listen(Listening(port=0)) as sock:
        sock.listen()
        port = sock.getsockname()[1]
        with pytest.raises(InputError, match=f"--port {port} cannot be listened on"):
            with listen(Listening(port=port)):
                pass


@pytest.mark.parametrize("words, expected", [
    (["--batches", "4", "1"], "--batches 4 1: expected ascending"),
    (["--queue", "0"], "--queue 0: expected at least 1"),
    (["--lengths", "4"], "the last must be 8"),
    (["--port", "70000"], "--port 70000 cannot be listened on"),
])
def test_bad_options_end_in_one_sentence(words, expected, shop_workdir, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["serve", "--workdir", str(shop_workdir.folder), "--port", "0",
                  *words])
    assert stop.value.code == 2
    assert expected in capsys.readouterr().err


def test_help_teaches_without_jax():
    found = subprocess.run(
        [sys.executable, "-c", "import sys; from oxyrec_jax import cli\n"
         "try: cli.main(['serve', '--help'])\nfinally: print('jax' in sys.modules)"],
        capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "False"
    for words in ("$ oxyrec serve --workdir", "OXYREC_SERVE_TOKEN", "/v1/recommend"):
        assert words in found.stdout


def test_the_pages_of_this_folder_need_no_other_file():
    source = (pathlib.Path(cli.__file__).parents[1] / "serve" / "page_script.py")
    assert "innerHTML" not in source.read_text("utf-8")
