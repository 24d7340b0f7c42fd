"""The reader of an online path: in time, whatever the store does, and counted."""

import logging
import signal
import threading
import time

import numpy as np
import pytest
import redis_process
import slow_proxy
from writer_process import USERS, put, text

from oxyrec_jax.base import InputError
from oxyrec_jax.thinking.backend import Row
from oxyrec_jax.thinking.opening import StoreConfig, open_store
from oxyrec_jax.thinking.reading import ReadConfig, Reader
from oxyrec_jax.thinking.store import Source, Store

# A deadline is a promise about a machine that runs this process. Here others compete
# for two cores, so a test allows what the scheduler may take on top.
SLACK = 1.0


def timed(reader, users=USERS, **options):
    start = time.monotonic()
    got = reader.get_many(users, **options)
    return got, time.monotonic() - start


def names(got):
    return {Source(code).name for code in got.sources}


class Scripted:
    """A backend that does what the test says: waits, raises or has nothing."""

    def __init__(self):
        self.wait, self.error, self.asked = 0.0, None, 0
        self.free = threading.Event()

    def read(self, keys):
        self.asked += 1
        if self.wait:
            self.free.wait(self.wait)
        if self.error:
            raise self.error
        return [None] * len(keys)

    def close(self):
        self.free.set()


@pytest.fixture
def scripted():
    backend = Scripted()
    yield backend
    backend.close()


def test_a_reader_gives_what_the_store_gives(place):
    store = place.open()
    put(store, 7, USERS[:3])
    put(store, 8, USERS[:1])
    place.clock.now += 100
    with Reader(store, ReadConfig(deadline=30)) as reader:
        got = reader.get_many(["u2", "nobody", "u0"])
        assert got.texts.tolist() == [text(7), "", text(8)]
        np.testing.assert_array_equal(got.ages, [100, np.nan, 100])
        assert reader.get_many([]).vectors.shape == (0, 2)
        figures = reader.figures()
    assert (figures["requests"], figures["keys"]) == (2, 3)
    assert (figures["stored"], figures["missing"]) == (2, 1)
    assert figures["ages"]["5 min"] == 2


def test_every_reason_for_a_default_is_counted_once(place):
    put(place.open(ttl=50), 1, ["expired"])
    put(place.open(), 1, ["stored", "hurt"])
    place.backend.write([Row(b"reasoning:hurt", b"?", 0)], now=0, replace=True)
    place.clock.now += 50
    users = ["stored", "expired", "hurt", "nobody", "nobody"]
    with Reader(place.open(), ReadConfig(deadline=30)) as reader:
        assert len(reader.get_many(users).texts) == 5
        figures = reader.figures()
    figures.pop("ages")
    assert figures == {"requests": 1, "keys": 5, "stored": 1, "expired": 1,
                       "damaged": 1, "missing": 2, "mismatch": 0, "late": 0,
                       "failed": 0, "skipped": 0}
    with Reader(place.open(dimension=5), ReadConfig(deadline=30)) as reader:
        reader.get_many(users)
        assert reader.figures()["mismatch"] == 1  # what expired is so for all


@pytest.mark.parametrize("delay, drip", [(5.0, 0.0), (0.0, 0.01)],
                         ids=["late", "byte by byte"])
def test_a_slow_server_costs_the_deadline_and_no_more(redis_server, delay, drip):
    cfg = StoreConfig(backend="redis", prefix=f"slow{drip}", timeout=2.0)
    with slow_proxy.before(redis_server.port) as proxy, open_store(
            StoreConfig(**{**vars(cfg), "url": proxy.url}), "", dimension=2) as store:
        put(store, 1)
        with Reader(store, ReadConfig(deadline=0.1, failures=3, pause=60)) as reader:
            proxy.delay, proxy.drip = delay, drip
            for _ in range(3):
                got, seconds = timed(reader)
                assert names(got) == {"LATE"} and seconds < 0.1 + SLACK
                assert got.texts.tolist() == [""] * 200 and not got.vectors.any()
            got, seconds = timed(reader)  # by now it is left alone
            assert names(got) == {"SKIPPED"} and seconds < SLACK
            assert reader.figures()["late"] == 600
            assert reader.figures()["skipped"] == 200
            proxy.delay = proxy.drip = 0.0


def test_a_server_that_dies_and_returns_is_left_alone_between(tmp_path, caplog):
    with redis_process.running(tmp_path / "redis") as server, open_store(
            StoreConfig(backend="redis", url=server.url, timeout=10), "", dimension=2
            ) as store:
        put(store, 1)
        cfg = ReadConfig(deadline=20, failures=2, pause=2.0)
        with Reader(store, cfg) as reader, caplog.at_level(logging.WARNING):
            assert names(reader.get_many(USERS)) == {"STORED"}
            server.kill()
            assert names(reader.get_many(USERS)) == {"FAILED"}
            assert names(reader.get_many(USERS)) == {"FAILED"}
            assert names(reader.get_many(USERS)) == {"SKIPPED"}
            assert "failed 2 times in a row (the instruction store's Redis server " \
                "cannot be reached" in caplog.text
            server.start()
            put(store, 2)
            until = time.monotonic() + 20
            while names(got := reader.get_many(USERS)) != {"STORED"}:
                assert names(got) == {"SKIPPED"} and time.monotonic() < until
                time.sleep(0.02)
            assert got.texts[0] == text(2)
            assert "answers again" in caplog.text
            assert str(server.port) not in caplog.text


def test_a_server_that_stands_still_costs_the_deadline(tmp_path):
    with redis_process.running(tmp_path / "redis") as server, open_store(
            StoreConfig(backend="redis", url=server.url, timeout=1), "", dimension=2
            ) as store:
        put(store, 1)
        with Reader(store, ReadConfig(deadline=0.05)) as reader:
            server.process.send_signal(signal.SIGSTOP)
            got, seconds = timed(reader)
            assert names(got) == {"LATE"} and seconds < 0.05 + SLACK
            server.process.send_signal(signal.SIGCONT)


def test_reads_that_are_stuck_do_not_hold_up_those_after_them(scripted):
    scripted.wait = 60.0
    cfg = ReadConfig(deadline=0.05, threads=2, failures=1_000)
    reader = Reader(Store(scripted, dimension=2), cfg)
    for _ in range(6):  # more than there are threads
        got, seconds = timed(reader)
        assert names(got) == {"LATE"} and seconds < 0.05 + SLACK
    assert scripted.asked <= 2
    scripted.wait = 0.0
    scripted.free.set()
    until = time.monotonic() + 20
    while names(reader.get_many(USERS)) != {"MISSING"}:
        assert time.monotonic() < until
    # Those given up on while they waited for a thread were never asked.
    assert scripted.asked < 6 + 2
    reader.close()
    assert not any(thread.is_alive() for thread in reader._threads)


@pytest.mark.parametrize("error, words", [
    (InputError("the disk is on fire"), "the disk is on fire"),
    (RuntimeError("redis://user:secret@host"), "RuntimeError"),
])
def test_whatever_the_store_raises_the_default_is_served(
        scripted, caplog, error, words):
    scripted.error = error
    store = Store(scripted, dimension=2, default_text="anything",
                  default_vector=np.array([1.0, 2.0]))
    cfg = ReadConfig(deadline=20, failures=1, pause=60)
    with Reader(store, cfg) as reader, caplog.at_level(logging.WARNING):
        got = reader.get_many(["a", "b"])
        assert names(got) == {"FAILED"} and got.texts.tolist() == ["anything"] * 2
        assert got.vectors.tolist() == [[1, 2], [1, 2]]
        for _ in range(50):
            assert names(reader.get_many(["a"])) == {"SKIPPED"}
    assert words in caplog.text and "secret" not in caplog.text
    assert len(caplog.records) == 1  # one line for an outage, not one for a request
    assert scripted.asked == 1


def test_after_the_pause_one_read_tries_the_store(scripted):
    scripted.error = InputError("down")
    with Reader(Store(scripted, dimension=2),
                ReadConfig(deadline=20, failures=3, pause=1.0)) as reader:
        for _ in range(3):
            reader.get_many(["a"])
        assert names(reader.get_many(["a"])) == {"SKIPPED"}
        time.sleep(1.1)
        assert names(reader.get_many(["a"])) == {"FAILED"}  # the trial
        assert names(reader.get_many(["a"])) == {"SKIPPED"}  # asleep again
        scripted.error = None
        time.sleep(1.1)
        assert names(reader.get_many(["a"])) == {"MISSING"}
        assert names(reader.get_many(["a"])) == {"MISSING"}
        assert scripted.asked == 6


def test_many_threads_may_share_a_reader(place):
    put(place.open(), 1)
    wrong = []
    with Reader(place.open(), ReadConfig(deadline=60, threads=3)) as reader:
        def read(number):
            for _ in range(10):
                got = reader.get_many([f"u{number}", "nobody"])
                if got.texts.tolist() != [text(1), ""]:
                    wrong.append(got)
        threads = [threading.Thread(target=read, args=[n]) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        figures = reader.figures()
    assert wrong == []
    assert (figures["requests"], figures["stored"], figures["missing"]) == (80, 80, 80)


def test_a_callers_mistake_is_raised_not_served(scripted):
    with Reader(Store(scripted, dimension=2)) as reader:
        with pytest.raises(InputError, match="cannot name a kind"):
            reader.get_many(["a"], "no:kind")
        with pytest.raises(ValueError, match="kinds"):
            reader.get_many(["a"], ["x", "y"])
    for cfg in (ReadConfig(deadline=0), ReadConfig(threads=0), ReadConfig(failures=0),
                ReadConfig(pause=-1)):
        with pytest.raises(InputError, match="the instruction reader has deadline"):
            Reader(Store(scripted, dimension=2), cfg)
