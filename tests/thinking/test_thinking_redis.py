"""Faults of the server backend: killed, dead, slow, full, locked, and what it tells."""

import contextlib
import logging
import shutil
import signal
import threading
import time

import numpy as np
import pytest
import redis_process
import slow_proxy
import writer_process
from writer_process import USERS, put, text

from oxyrec_jax.base import InputError
from oxyrec_jax.thinking.backend import Unavailable
from oxyrec_jax.thinking.opening import StoreConfig, open_store
from oxyrec_jax.thinking.redis_store import RedisBackend
from oxyrec_jax.thinking.store import Source

SECRET = "s3cret-pass-word"


def config(url, **options):
    return StoreConfig(**{"backend": "redis", "url": url, "timeout": 20.0, **options})


def opened(url, **options):
    return open_store(config(url, **options), "unused", dimension=2)


def test_a_server_killed_mid_write_loses_no_batch_it_told_of(tmp_path):
    """With its log on disk before each answer, as the operator may ask of it."""
    options = ("--appendonly", "yes", "--appendfsync", "always")
    with redis_process.running(tmp_path / "redis", *options) as server:
        last = 0
        for _ in range(3):
            told = []

            def write():
                with opened(server.url) as store, contextlib.suppress(Unavailable):
                    for window in range(last + 1, 100_000):
                        put(store, window)
                        told.append(window)

            writer = threading.Thread(target=write)
            writer.start()
            while len(told) < 5:
                time.sleep(0.001)
            server.kill()
            writer.join()
            server.start()
            with opened(server.url) as store:
                got = store.get_many(USERS)
                windows = set(got.vectors[:, 0].astype(int).tolist())
                assert got.stored.all() and windows <= {told[-1], told[-1] + 1}
                assert got.texts.tolist() == [
                    text(window) for window in got.vectors[:, 0].astype(int)]
                put(store, told[-1] + 1)  # the interrupted batch again: no harm
                assert set(store.get_many(USERS).texts) == {text(told[-1] + 1)}
            last = told[-1] + 1


def test_two_writers_leave_the_newest_of_both(redis_server):
    cfg = config(redis_server.url, prefix="two-writers")
    writers = [writer_process.start_writer(cfg, "unused", range(first, 31, 2))
               for first in (2, 1)]
    for process, told in writers:
        with contextlib.closing(told):
            assert len(list(writer_process.messages(told))) == 15
        process.join()
    with opened(redis_server.url, prefix="two-writers") as store:
        assert set(store.get_many(USERS).texts) == {text(30)}


def test_stores_of_two_prefixes_are_strangers(redis_server):
    with (opened(redis_server.url, prefix="one") as one,
          opened(redis_server.url, prefix="one.more") as other):
        put(one, 1)
        put(other, 2, USERS[:3])
        assert one.summary()["records"] == 200
        assert other.summary()["records"] == 3
        assert one.roll_back(0) == 200
        assert other.get_many(USERS[:3]).stored.all()


def test_the_server_forgets_what_expired(redis_server):
    with opened(redis_server.url, prefix="ttl", ttl=100) as store:
        put(store, 1, ["a"])
        life = int(redis_server.send("PTTL", "ttl:reasoning:a")[1:])
        assert 50_000 < life <= 100_000
    with opened(redis_server.url, prefix="ttl", ttl=0.2) as store:
        put(store, 2, ["a"])
        time.sleep(0.3)
        assert redis_server.send("EXISTS", "ttl:reasoning:a") == ":0"
        assert store.get_many(["a"]).sources[0] == Source.MISSING
    with opened(redis_server.url, prefix="ttl", ttl=None) as store:
        put(store, 1, ["a"])
        assert redis_server.send("PTTL", "ttl:reasoning:a") == ":-1"


def test_a_dead_server_says_so_and_is_found_again(tmp_path):
    server = redis_process.Server(tmp_path / "redis")
    with opened(server.url) as store:  # opening needs no server
        for call in (lambda: store.get_many(["a"]), lambda: put(store, 1),
                     store.summary, store.sweep):
            with pytest.raises(Unavailable, match="cannot be reached; check that"):
                call()
        with redis_process.running(tmp_path / "redis") as server:
            pass
    with redis_process.running(tmp_path / "redis") as server:
        with opened(server.url) as store:
            put(store, 1)
            server.kill()
            with pytest.raises(Unavailable):
                store.get_many(USERS)
            server.start()
            assert put(store, 1) == [0] * 200  # the connection is made anew


def test_a_slow_server_is_given_up_after_the_timeout(redis_server):
    with slow_proxy.before(redis_server.port) as proxy:
        with opened(proxy.url, prefix="slow", timeout=1.5) as store:
            put(store, 1)
            proxy.delay = 20.0
            start = time.monotonic()
            with pytest.raises(Unavailable, match="no answer within 1.5 s"):
                store.get_many(USERS)
            assert time.monotonic() - start < 2.9  # one try, and not the 20 s
            proxy.delay = 0.0
            assert store.get_many(USERS).stored.all()


def test_a_put_whose_answer_was_lost_can_be_repeated(redis_server):
    with slow_proxy.before(redis_server.port) as proxy:
        with opened(proxy.url, prefix="lost", timeout=1.5) as store:
            put(store, 1, ["other"])
            proxy.delay = 4.0
            with pytest.raises(Unavailable):
                put(store, 1, ["a"])  # the server did it, the answer came too late
            proxy.delay = 0.0
            assert put(store, 1, ["a"]) == [1]  # unchanged
            assert store.get_many(["a"]).texts[0] == text(1)


def test_a_server_without_memory_says_so(tmp_path):
    with redis_process.running(tmp_path / "redis", "--maxmemory", "3mb",
                               "--maxmemory-policy", "noeviction") as server:
        with opened(server.url) as store:
            put(store, 1, USERS[:2])
            with pytest.raises(InputError, match="no memory left"):
                for number in range(200):
                    put(store, 1, [f"{number}-{user}" for user in USERS])
            assert store.get_many(USERS[:2]).stored.all()


def test_a_server_that_cannot_save_says_so(tmp_path):
    with redis_process.running(tmp_path / "redis", "--save", "3600", "1000000"
                               ) as server:
        with opened(server.url) as store:
            put(store, 1, ["a"])
            shutil.rmtree(tmp_path / "redis")
            server.send("BGSAVE")
            until = time.monotonic() + 30
            while "bgsave_status:err" not in server.send("INFO", "PERSISTENCE"):
                assert time.monotonic() < until
                time.sleep(0.05)
            with pytest.raises(InputError, match="cannot save to its disk"):
                put(store, 2, ["a"])
            assert store.get_many(["a"]).stored.all()


def test_a_replica_refuses_writes(tmp_path):
    with redis_process.running(tmp_path / "one") as server:
        server.send("REPLICAOF", "127.0.0.1", str(redis_process.free_port()))
        with opened(server.url) as store:
            with pytest.raises(InputError, match="is a read-only replica"):
                put(store, 1)


# ------------------------------------------------------------------------- secrets

@pytest.fixture(scope="module")
def locked_server(tmp_path_factory):
    with redis_process.running(tmp_path_factory.mktemp("locked"), "--requirepass",
                               SECRET) as server:
        yield server


def test_the_password_comes_from_a_variable_or_a_file(
        locked_server, monkeypatch, tmp_path):
    monkeypatch.setenv("STORE_PASSWORD", SECRET + "\n")
    with opened(locked_server.url, password_variable="STORE_PASSWORD") as store:
        assert put(store, 1, ["a"]) == [0]
    (tmp_path / "password").write_text(SECRET + "\n")
    with opened(locked_server.url, password_file=str(tmp_path / "password")) as store:
        assert store.get_many(["a"]).stored.all()


@pytest.mark.parametrize("given", [None, SECRET[:-1]])
def test_a_wrong_or_missing_password_is_refused_without_being_told(
        locked_server, monkeypatch, caplog, given):
    name = None
    if given is not None:
        monkeypatch.setenv("STORE_PASSWORD", given)
        name = "STORE_PASSWORD"
    with caplog.at_level(logging.DEBUG):
        with opened(locked_server.url, password_variable=name) as store:
            with pytest.raises(InputError, match="rejected the user or pass") as error:
                store.get_many(["a"])
    assert_nothing_told(locked_server, error, caplog)


def test_nothing_of_the_address_or_password_is_in_errors_or_logs(
        tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("STORE_PASSWORD", SECRET)
    with caplog.at_level(logging.DEBUG), redis_process.running(
            tmp_path / "redis", "--requirepass", SECRET) as server:
        with opened(server.url, password_variable="STORE_PASSWORD") as store:
            put(store, 1)
            server.kill()
            with pytest.raises(Unavailable) as error:
                store.get_many(USERS)
            assert SECRET not in repr(vars(store.backend))
        assert_nothing_told(server, error, caplog)


def assert_nothing_told(server, error, caplog):
    shown = str(error.getrepr(chain=True, style="long")) + caplog.text
    assert SECRET not in shown and SECRET[:-1] not in shown
    assert str(server.port) not in str(error.value) + caplog.text
    assert error.value.__cause__ is None and error.value.__suppress_context__


@pytest.mark.parametrize("url", [
    f"redis://user:{SECRET}@localhost:6379/0", f"redis://:{SECRET}@localhost",
    f"redis://{SECRET}@localhost", f"redis://localhost/0?password={SECRET}",
    f"http://localhost/{SECRET}", f"redis://[{SECRET}", f"redis://h:{SECRET}/0",
    f"redis:///{SECRET}", "", f"redis://localhost/{SECRET}",
])
def test_an_unusable_url_is_refused_and_not_repeated(url):
    with pytest.raises(InputError, match="the instruction store's url") as error:
        RedisBackend(url)
    assert SECRET not in str(error.value)


def test_the_servers_settings_are_checked(tmp_path):
    for options, words in [
            ({"prefix": "a*"}, "prefix is 'a\\*'"), ({"timeout": 0}, "timeout is 0"),
            ({"password_variable": "NO_SUCH_VARIABLE"}, "holds no password; set it"),
            ({"password_file": str(tmp_path / "none")}, "cannot be read as text")]:
        with pytest.raises(InputError, match=words):
            RedisBackend("redis://localhost", **options)
    with pytest.raises(InputError, match="backend is 'sqlite', expected lmdb or redis"):
        open_store(StoreConfig(backend="sqlite"), tmp_path, dimension=2)


def test_a_server_that_stands_still_is_given_up(tmp_path):
    with redis_process.running(tmp_path / "redis") as server:
        with opened(server.url, timeout=1.5) as store:
            put(store, 1)
            server.process.send_signal(signal.SIGSTOP)
            with pytest.raises(Unavailable, match="no answer within"):
                store.get_many(USERS)
            server.process.send_signal(signal.SIGCONT)
            assert np.all(store.get_many(USERS).stored)
