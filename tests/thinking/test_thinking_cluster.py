"""The run on Ray Data gives what the run in one process gives."""

import dataclasses
import functools
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import chat_server
import pytest
import think_process
from chat_server import completion
from think_process import WINDOW, check_sums, states, stored

from oxyrec_jax.data.shop import knowledge
from oxyrec_jax.thinking import cluster, pipeline
from oxyrec_jax.thinking.opening import StoreConfig, open_store
from oxyrec_jax.thinking.states import UserState, state_to_json

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install "
                          "'oxyrec_jax[cluster]' to run these")
# Ray's own: deprecated settings of its, files that it leaves to its processes.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module", autouse=True)
def one_cluster():
    here = str(pathlib.Path(__file__).parent)
    with pytest.MonkeyPatch.context() as patch:  # its processes find this folder
        patch.setenv("PYTHONPATH", os.pathsep.join(
            [here, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep))
        start()
    yield
    ray.shutdown()


def start():
    ray.init(num_cpus=2, include_dashboard=False, configure_logging=False,
             log_to_driver=False)


def job(folder, endpoint=None, rules=(), window=WINDOW, **options):
    cfg = pipeline.ThinkConfig(batch=4, **options)
    opening = functools.partial(open_store, StoreConfig(max_bytes=1 << 26),
                                folder / "store", dimension=think_process.DIMENSION)
    return cluster.Job(endpoint, rules, think_process.embed, opening,
                       str(folder / "think"), str(folder / "think"), cfg, window,
                       "lengths")


def same(one, other):
    return dataclasses.replace(one, seconds=0.0) == dataclasses.replace(other,
                                                                        seconds=0.0)


def test_rules_write_the_same_on_both_engines(tmp_path):
    rules = knowledge.load_knowledge().rules
    given = [UserState(f"u{n}", facts=rule.when) for n, rule in enumerate(rules)]
    given += [UserState("nobody"), UserState("dull", facts=("woman",)), given[0],
              UserState("x" * 500, facts=("cold",)),
              dataclasses.replace(given[1], window=WINDOW - 300)]
    (tmp_path / "process").mkdir()
    (tmp_path / "ray").mkdir()
    with open_store(StoreConfig(max_bytes=1 << 26), tmp_path / "process" / "store",
                    dimension=think_process.DIMENSION) as store:
        expected = pipeline.think_by_rules(
            given, rules, think_process.embed, store, tmp_path / "process" / "think",
            pipeline.ThinkConfig(batch=4), window=WINDOW, encoder="lengths")
    found = cluster.think_on_ray(given, job(tmp_path / "ray", rules=rules), len(given))
    check_sums(found)
    assert found.stored == len(rules) and found.repeated == found.bad_id == 1
    # Which of two windows is written first is up to the engine; the store is not.
    assert same(dataclasses.replace(found, stored=0, older=0),
                dataclasses.replace(expected, stored=0, older=0))
    names = [state.user for state in given]
    assert stored(tmp_path / "ray", names) == stored(tmp_path / "process", names)


def test_a_model_is_asked_the_same_and_once_on_both_engines(server, tmp_path):
    (tmp_path / "process").mkdir()
    (tmp_path / "ray").mkdir()
    endpoint = server.endpoint(concurrency=3, timeout=120.0)
    expected = think_process.think(endpoint, tmp_path / "process", states(10))
    questions = sorted(server.titles())
    server.requests.clear()
    found = cluster.think_on_ray(states(10), job(tmp_path / "ray", endpoint), 10)
    check_sums(found)
    assert sorted(server.titles()) == questions and same(found, expected)
    names = [f"u{n}" for n in range(10)]
    assert stored(tmp_path / "ray", names) == stored(tmp_path / "process", names)
    again = cluster.think_on_ray(states(10), job(tmp_path / "ray", endpoint), 10)
    assert (again.already, again.requests, len(server.requests)) == (10, 0, 10)
    # Answers that are none, in every row of a batch, are counted and change nothing.
    server.fails(500)
    later = functools.partial(job, tmp_path / "ray", endpoint, window=WINDOW + 300)
    lost = cluster.think_on_ray(states(4, first=20), later(), 4)
    check_sums(lost)
    assert (lost.errors, lost.stored) == ({"server": 4}, 0)
    # What one engine has done, the other knows.
    third = think_process.think(endpoint, tmp_path / "ray", states(10))
    assert (third.already, third.requests) == (10, 0)


def test_a_killed_run_bills_nobody_twice_and_loses_nobody(server, tmp_path):
    count, after, killed = 24, 9, threading.Event()

    def answer(request, number):
        if number > after:
            killed.wait(60)  # in flight when the process dies
        return 200, {}, completion(chat_server.good(request))
    server.answer = answer
    path, work = tmp_path / "users.jsonl", tmp_path / "work"
    path.write_text("\n".join(map(state_to_json, states(count))))
    words = ["think", "--workdir", str(work), "--states", str(path), "--json",
             "--now", str(WINDOW)]
    for setting in ("text.source=hashed", "text.dimension=16", "think.batch=4",
                    "think.engine=ray", "think.store.max_bytes=67108864",
                    "think.endpoint.concurrency=4", "think.endpoint.model=tiny",
                    f"think.endpoint.url={server.endpoint().url}",
                    "think.endpoint.retries=0"):
        words += ["--set", setting]
    process = subprocess.Popen([sys.executable, "-m", "oxyrec_jax", *words],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while len(server.requests) <= after and time.monotonic() < end:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    time.sleep(5)  # the run's own cluster ends with it
    killed.set()
    asked = len(server.requests)
    assert after < asked < count
    found = subprocess.run([sys.executable, "-m", "oxyrec_jax", *words], text=True,
                           capture_output=True, timeout=300)
    assert found.returncode == 0, found.stderr
    told = json.loads(found.stdout.splitlines()[-1])
    assert sorted(server.titles()) == sorted(f"Lantern {n}" for n in range(count))
    doubtful = told["errors"].get("in-doubt", 0)
    assert told["already"] + told["cached"] + doubtful == asked
    assert told["requests"] == count - asked and doubtful <= asked - after
