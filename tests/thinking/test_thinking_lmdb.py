"""Faults of the embedded backend: killed, full, cut short, changed, shared."""

import contextlib
import os
import random

import numpy as np
import pytest
import writer_process
from writer_process import USERS, text

from oxyrec_jax.base import InputError
from oxyrec_jax.thinking.lmdb_store import LmdbBackend, check
from oxyrec_jax.thinking.opening import StoreConfig, open_store
from oxyrec_jax.thinking.records import Version
from oxyrec_jax.thinking.store import Source


def opened(folder, **options):
    return open_store(StoreConfig(**options), folder, dimension=2)


def fill(folder, count=2_000, **options):
    with opened(folder, **options) as store:
        put(store, [f"u{number}" for number in range(count)])


def put(store, users, window=1):
    return store.put_many(users, [f"for {user} " * 50 for user in users],
                          np.ones((len(users), 2)), version=Version(1), window=window)


def write(folder, windows, **options):
    """Writes in another process and returns what it told."""
    process, told = writer_process.start_writer(StoreConfig(), folder, windows,
                                                **options)
    with contextlib.closing(told):
        messages = list(writer_process.messages(told))
    process.join()
    return messages


def test_a_writer_killed_mid_write_loses_no_batch_it_told_of(tmp_path):
    last = 0
    for _ in range(3):  # killed, reopened, killed again
        process, told = writer_process.start_writer(
            StoreConfig(), tmp_path / "s", range(last + 1, 100_000))
        with contextlib.closing(told):
            for window in map(int, writer_process.messages(told)):
                if window == last + 7:
                    process.kill()
        process.join()
        with opened(tmp_path / "s") as store:
            got = store.get_many(USERS)
        assert got.stored.all()
        last = int(got.vectors[0, 0])
        assert last in (window, window + 1)  # the one in flight: whole or not at all
        assert set(got.texts) == {text(last)}


def test_two_writers_leave_the_newest_of_both(tmp_path):
    writers = [writer_process.start_writer(StoreConfig(), tmp_path / "s",
                                           range(first, 41, 2)) for first in (2, 1)]
    for process, told in writers:
        with contextlib.closing(told):
            assert len(list(writer_process.messages(told))) == 20
        process.join()
    with opened(tmp_path / "s", ttl=None) as store:
        assert set(store.get_many(USERS).texts) == {text(40)}
        assert store.summary()["records"] == 200


def test_a_reader_sees_what_another_process_writes(tmp_path):
    fill(tmp_path / "s", 1)
    with open_store(StoreConfig(), tmp_path / "s", dimension=2,
                    readonly=True) as store:
        assert store.get_many(["u1"]).sources[0] == Source.MISSING
        assert write(tmp_path / "s", [1]) == ["1"]
        assert store.get_many(["u1"]).sources[0] == Source.STORED
        with pytest.raises(InputError, match="opened to read"):
            put(store, ["a"])
        with pytest.raises(InputError, match="opened to read"):
            store.roll_back(0)


@pytest.mark.parametrize("share", [0, 100, 4_096, 8_192, 0.3, 0.99])
def test_a_file_cut_short_is_named_when_opened(tmp_path, share):
    fill(tmp_path / "s")
    path = tmp_path / "s" / "data.mdb"
    size = path.stat().st_size
    os.truncate(path, share if isinstance(share, int) else int(size * share))
    with pytest.raises(InputError, match="data.mdb (was cut short|is damaged)"):
        opened(tmp_path / "s")


def read_all(folder):
    """Run in another process, which may be ended by what it meets."""
    with opened(folder) as store:
        users = [f"u{number}" for number in range(2_000)]
        got = store.get_many(users)
        for user, served, stored in zip(users, got.texts, got.stored):
            if served != (f"for {user} " * 50 if stored else ""):
                os._exit(77)
        if not 1_000 < got.stored.sum() < 2_000:
            os._exit(78)


def flip(path, seed, share, reach):
    rng = random.Random(seed)
    with open(path, "r+b") as file:
        for page in range(2, path.stat().st_size // 4_096):
            if rng.random() < share:
                file.seek(4_096 * page + rng.randrange(*reach))
                file.write(rng.randbytes(1))


@pytest.mark.parametrize("share, reach", [
    (0.02, (2_000, 4_096)),  # mostly records
    (0.05, (0, 4_096)), (0.02, (0, 80)), (0.5, (0, 80)),  # the pages' own headers
])
def test_flipped_bytes_of_the_file_are_never_served(tmp_path, share, reach):
    fill(tmp_path / "s")
    assert check(tmp_path / "s") == 2_000
    flip(tmp_path / "s" / "data.mdb", 0, share, reach)
    try:
        whole = check(tmp_path / "s") > 0
    except InputError as error:
        assert "data.mdb is damaged" in str(error)
        whole = False
    reader = writer_process.start(read_all, tmp_path / "s")
    reader.join()
    assert reader.exitcode != 77, "a wrong text was served"
    if whole:  # what passed the check can be read without harm
        assert reader.exitcode == 0
    assert whole or reach[0] == 0


def test_a_file_of_something_else_is_named(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "data.mdb").write_bytes(b"not a store" * 2_000)
    with pytest.raises(InputError, match="data.mdb is damaged or no instruction store"):
        opened(tmp_path / "s")


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "s").write_text("x")
    with pytest.raises(InputError, match="s cannot be used as an instruction store"):
        opened(tmp_path / "s")


def test_reading_what_was_never_written_says_what_to_do(tmp_path):
    with pytest.raises(InputError, match="holds no instruction store; run the step"):
        LmdbBackend(tmp_path / "s", readonly=True)


def test_a_full_store_says_so_keeps_what_it_has_and_may_grow(tmp_path):
    with opened(tmp_path / "s", max_bytes=1 << 20) as store:
        put(store, USERS)
        with pytest.raises(InputError, match="full: it may have 1,048,576 bytes; "
                                             "nothing of this batch was written"):
            put(store, [f"v{number}" for number in range(2_000)])
        assert store.get_many(USERS).stored.all()
        assert not store.get_many(["v0"]).stored.any()
    with opened(tmp_path / "s", max_bytes=1 << 24) as store:
        put(store, [f"v{number}" for number in range(2_000)])
        assert store.get_many([*USERS, "v0", "v1999"]).stored.all()


def test_a_process_that_set_aside_too_little_says_so(tmp_path):
    with opened(tmp_path / "s", max_bytes=1 << 20) as store:
        put(store, USERS[:1])
        writer = writer_process.start(fill, tmp_path / "s")
        writer.join()
        assert writer.exitcode == 0
        with pytest.raises(InputError, match="more than the 1,048,576 bytes"):
            store.get_many(USERS)
    fill(tmp_path / "s", 3_000)


def test_a_full_disk_says_so_and_keeps_what_it_has(tmp_path):
    fill(tmp_path / "s", 200)
    assert write(tmp_path / "s", [2, 3], file_bytes=2_000_000) == ["2", "3"]
    told = write(tmp_path / "s", range(4, 50), file_bytes=200_000)
    assert "the disk or quota is full; nothing of this batch was written" in told[-1]
    last = int(told[-2]) if len(told) > 1 else 3
    with opened(tmp_path / "s") as store:
        assert set(store.get_many(USERS).texts) == {text(last)}
        assert put(store, ["more"]).tolist() == [0]


def test_one_process_opens_a_folder_once(tmp_path):
    with opened(tmp_path / "s"):
        with pytest.raises(InputError, match="already open in this process"):
            opened(tmp_path / "s")
    opened(tmp_path / "s").close()
