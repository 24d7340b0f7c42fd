"""Programs are kept where XDG says, by their owner alone, and the log tells of it."""

import logging
import os
import subprocess
import sys

import pytest

from oxyrec_jax import compile_cache
from oxyrec_jax.compile_cache import default_folder, settings


def test_the_folder_is_that_of_xdg(tmp_path):
    home = tmp_path / "home"
    plain = {"HOME": str(home)}
    assert default_folder(plain) == home / ".cache" / "oxyrec_jax" / "xla"
    assert default_folder({**plain, "XDG_CACHE_HOME": "/fast"}).parts[:2] == ("/",
                                                                              "fast")
    for unset in ("", "not/absolute"):
        assert default_folder({**plain, "XDG_CACHE_HOME": unset}) == default_folder(
            plain)


def test_it_is_on_bounded_and_the_users_alone(tmp_path):
    found = settings({"XDG_CACHE_HOME": str(tmp_path)})
    folder = tmp_path / "oxyrec_jax" / "xla"
    assert found["JAX_COMPILATION_CACHE_DIR"] == str(folder)
    assert int(found["JAX_COMPILATION_CACHE_MAX_SIZE"]) == 2 << 30
    assert folder.stat().st_mode & 0o777 == 0o700


def test_it_moves_and_is_turned_off_and_jax_has_the_last_word(tmp_path):
    moved = settings({"OXYREC_COMPILE_CACHE": str(tmp_path / "there")})
    assert moved["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path / "there")
    home = {"HOME": str(tmp_path)}
    assert settings({**home, "OXYREC_COMPILE_CACHE": "off"}) == {}
    assert settings({**home, "JAX_COMPILATION_CACHE_DIR": "/own"}) == {}
    found = settings({**home, "JAX_COMPILATION_CACHE_MAX_SIZE": "7"})
    assert found["JAX_COMPILATION_CACHE_MAX_SIZE"] == "7"


@pytest.mark.parametrize("spoil, said", [
    (lambda folder: folder.mkdir(mode=0o700) or folder.chmod(0o777),
     "may be written by others"),
    (lambda folder: folder.write_text(""), "cannot be made (File exists)")],
    ids=["writable by all", "a file"])
def test_a_folder_that_will_not_do_is_named_once(tmp_path, caplog, spoil, said):
    folder = tmp_path / "there"
    spoil(folder)
    assert settings({"OXYREC_COMPILE_CACHE": str(folder)}) == {}
    (line,) = caplog.messages
    assert str(folder) in line and said in line and "set it to off" in line


def test_where_jax_is_imported_already_nothing_is_changed(monkeypatch):
    before = dict(os.environ)
    assert compile_cache.keep() is None
    assert dict(os.environ) == before


PROGRAM = """
import logging, sys, warnings
warnings.simplefilter("error")
logging.basicConfig(level=logging.INFO, format="%(message)s")
from oxyrec_jax import compile_cache
kept = compile_cache.keep()
import jax
print(jax.jit(lambda x: jax.numpy.sin(x) @ x)(jax.numpy.ones((8, 8)))[0, 0])
kept.tell()
"""


def test_two_processes_write_one_folder_and_a_third_only_reads(tmp_path):
    environment = {**os.environ, "OXYREC_COMPILE_CACHE": str(tmp_path / "kept"),
                   "JAX_COMPILATION_CACHE_DIR": "",
                   "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}

    told = []
    for count in (2, 1):
        for process in [subprocess.Popen(
                [sys.executable, "-c", PROGRAM], env=environment, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(count)]:
            out, err = process.communicate(timeout=120)
            assert process.returncode == 0, err
            told.append((out, err.splitlines()))
    assert len({out for out, _ in told}) == 1
    for _, lines in told:
        assert len(lines) == 1, lines  # no warning beside it
    assert f"read from the compile cache in {tmp_path / 'kept'}, 0 compiled" in (
        told[2][1][0])
    assert "programs: 0 read" not in told[2][1][0]


def test_what_was_not_asked_for_is_not_told(caplog):
    caplog.set_level(logging.INFO)
    compile_cache.Kept().tell()
    assert caplog.messages == []
