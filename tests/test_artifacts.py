"""Files are whole or absent, and what was changed, lost or forged is named."""

import errno
import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from oxyrec_jax import artifacts
from oxyrec_jax.base import InputError

ROOT = pathlib.Path(__file__).resolve().parents[1]


def write(folder, value=1, **options):
    return artifacts.write_bundle(
        folder, kind="fruit", version=3, facts={"value": value},
        arrays={"a": np.full(5, value, np.int32), "deep/b": np.eye(3) * value},
        **options)


def read(folder, **options):
    return artifacts.read_manifest(folder, kind="fruit", version=3, **options)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class FullDisk:
    """A file on which only so many bytes have room."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        self.room -= memoryview(data).nbytes
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)


def test_a_file_appears_whole_and_leaves_nothing_beside(tmp_path):
    with artifacts.open_atomic(tmp_path / "a") as file:
        file.write(b"one")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a").read_bytes() == b"one" and names(tmp_path) == ["a"]


def test_text_is_utf8_whatever_the_locale(tmp_path):
    with artifacts.open_atomic(tmp_path / "a", "w") as file:
        file.write("é")
    assert (tmp_path / "a").read_bytes() == b"\xc3\xa9"


@pytest.mark.parametrize("error, raised, said", [
    (OSError(errno.ENOSPC, "x"), InputError, "the disk is full"),
    (OSError(errno.EDQUOT, "x"), InputError, "the disk is full"),
    (OSError(errno.EIO, "broken"), InputError, "could not be written: broken"),
    (KeyError("mine"), KeyError, "mine"),
    (KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
])
def test_a_failed_write_leaves_the_older_file(tmp_path, error, raised, said):
    (tmp_path / "a").write_text("old")
    with pytest.raises(raised, match=said):
        with artifacts.open_atomic(tmp_path / "a", "w") as file:
            file.write("new")
            raise error
    assert (tmp_path / "a").read_text() == "old" and names(tmp_path) == ["a"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere/a could not be written"):
        with artifacts.open_atomic(tmp_path / "nowhere" / "a"):
            pass


def test_json_refuses_nan_and_keeps_the_older_file(tmp_path):
    artifacts.write_json(tmp_path / "a", {"x": 1})
    with pytest.raises(ValueError):
        artifacts.write_json(tmp_path / "a", {"x": float("nan")})
    assert artifacts.read_json(tmp_path / "a") == {"x": 1}


@pytest.mark.parametrize("bytes_there", [b"", b'{"a": 1', b"\xff\xfe", b"[1,]"])
def test_damaged_json_is_named(tmp_path, bytes_there):
    (tmp_path / "a.json").write_bytes(bytes_there)
    with pytest.raises(InputError, match="a.json is not valid JSON"):
        artifacts.read_json(tmp_path / "a.json")


def test_json_that_is_missing_or_a_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="b.json does not exist"):
        artifacts.read_json(tmp_path / "b.json")
    (tmp_path / "c.json").mkdir()
    with pytest.raises(InputError, match="c.json could not be read"):
        artifacts.read_json(tmp_path / "c.json")


def test_digests_do_not_depend_on_key_order_and_match_sha256sum(tmp_path):
    assert artifacts.value_digest({"a": 1, "b": [2]}) == artifacts.value_digest(
        {"b": [2], "a": 1})
    (tmp_path / "a").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert artifacts.file_digest(tmp_path / "a") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")


DTYPES = st.sampled_from(["<i4", "<i8", "<f4", "<f8", "|b1", "|i1", "<U3", ">f4"])


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(shape=st.lists(st.integers(0, 4), max_size=3), dtype=DTYPES,
                  fortran=st.booleans(), seed=st.integers(0, 9))
def test_any_array_comes_back_bit_for_bit(tmp_path_factory, shape, dtype, fortran,
                                          seed):
    rng = np.random.default_rng(seed)
    array = rng.integers(-9, 9, shape).astype(dtype)
    array = np.asfortranarray(array) if fortran else array
    folder = tmp_path_factory.mktemp("x") / "f"
    artifacts.write_bundle(folder, kind="k", version=1, arrays={"a": array}, facts={})
    found = artifacts.read_array(folder, "a")
    assert found.dtype == array.dtype and found.shape == array.shape
    np.testing.assert_array_equal(found, array)
    assert not found.flags.writeable


def test_an_array_of_objects_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="[Oo]bject"):
        artifacts.write_bundle(tmp_path / "f", kind="k", version=1, facts={},
                               arrays={"a": np.array([{}])})
    assert names(tmp_path) == []


def test_a_pickled_array_is_never_loaded(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(InputError, match="a.npy is not a readable array"):
        artifacts.read_array(tmp_path, "a")


def test_a_bundle_takes_the_place_of_an_older_one(tmp_path):
    write(tmp_path / "f", 1)
    manifest = write(tmp_path / "f", 2, write_files=lambda folder: (
        folder / "note.txt").write_text("x") and None)
    assert read(tmp_path / "f") == manifest and manifest["value"] == 2
    assert sorted(manifest["files"]) == ["a.npy", "deep/b.npy", "note.txt"]
    assert names(tmp_path) == ["f"]


@pytest.mark.parametrize("fail", ["arrays", "files", "manifest", "swap", "rename"])
def test_a_full_disk_leaves_the_older_bundle(tmp_path, monkeypatch, fail):
    write(tmp_path / "f", 1)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def refuse(*_):
        raise full
    if fail == "arrays":
        monkeypatch.setattr(artifacts, "_Stream", lambda file: FullDisk(file, 150))
    if fail == "manifest":
        monkeypatch.setattr(artifacts, "write_json", refuse)
    if fail == "swap":
        monkeypatch.setattr(artifacts, "_exchange", refuse)
    if fail == "rename":  # on a system that cannot swap two folders in one step
        monkeypatch.setattr(artifacts, "_exchange", lambda *_: False)
        monkeypatch.setattr(artifacts.os, "rename", refuse)
    with pytest.raises(InputError, match="f could not be written: the disk is full"):
        write(tmp_path / "f", 2, write_files=refuse if fail == "files" else None)
    assert read(tmp_path / "f")["value"] == 1 and names(tmp_path) == ["f"]


FILL = """
    import pathlib, sys
    import numpy as np
    from oxyrec_jax import artifacts
    folder = pathlib.Path(sys.argv[1]) / "f"
    def write(rows):
        artifacts.write_bundle(folder, kind="k", version=1, facts={},
                               arrays={"a": np.ones(rows, np.float64)})
    write(10)
    try:
        write(400_000)  # 3.2 MB
    except artifacts.InputError as error:
        print(error)
    artifacts.read_manifest(folder, kind="k", version=1)
    print(sorted(path.name for path in folder.parent.iterdir()))
"""


def test_a_disk_that_is_really_full_says_so(tmp_path):
    script = tmp_path / "fill.py"
    script.write_text(textwrap.dedent(FILL))
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=1m none {disk}"
    found = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c",
         f"{mount} && echo mounted && exec {sys.executable} {script} {disk}"],
        capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)}) if _can_unshare() else None
    if found is None or not found.stdout.startswith("mounted"):
        pytest.skip("no private file system can be mounted here")
    assert found.returncode == 0, found.stderr
    assert "f could not be written: the disk is full" in found.stdout
    assert found.stdout.endswith("['f']\n")


def _can_unshare():
    return any((pathlib.Path(folder) / "unshare").exists()
               for folder in os.environ["PATH"].split(os.pathsep))


KILL = """
    import os, pathlib, signal, sys
    import numpy as np
    from oxyrec_jax import artifacts
    folder, call, number = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    if call == "rename":  # a system that cannot swap two folders in one step
        artifacts._exchange = lambda *_: False
    place = artifacts if call == "_exchange" else os
    real, seen = getattr(place, call), 0
    def die(*args):
        global seen
        seen += 1
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args)
    setattr(place, call, die)
    artifacts.write_bundle(folder, kind="fruit", version=3, facts={"value": 2},
                           arrays={"a": np.full(5, 2, np.int32)})
"""


@pytest.mark.parametrize("call, number, value", [
    ("fsync", 1, 1),    # after the array, before the manifest
    ("fsync", 2, 1),    # in the manifest
    ("_exchange", 1, 1),  # all written, nothing moved
    ("rename", 1, 1),   # the same
    ("rename", 2, None),  # between the two renames: the older one waits beside
    ("fsync", 5, 2),    # after the swap
])
def test_a_writer_killed_at_any_moment_loses_nothing(tmp_path, call, number, value):
    folder = tmp_path / "f"
    write(folder, 1)
    script = tmp_path / "kill.py"
    script.write_text(textwrap.dedent(KILL))
    found = subprocess.run([sys.executable, script, folder, call, str(number)],
                           cwd=ROOT, capture_output=True, text=True,
                           env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert found.returncode == -signal.SIGKILL, found.stderr
    script.unlink()
    if value is None:
        with pytest.raises(InputError, match="manifest.json is missing"):
            read(folder)
    else:
        assert read(folder)["value"] == value
    with pytest.raises(KeyError):  # a next writer that fails brings the older one back
        write(folder, 3, write_files=lambda _: {}["no"])
    assert read(folder)["value"] == (value or 1) and names(tmp_path) == ["f"]
    write(folder, 4)
    assert read(folder)["value"] == 4 and names(tmp_path) == ["f"]


@pytest.mark.parametrize("there", ["file", "folder"])
def test_what_is_no_bundle_is_never_replaced(tmp_path, there):
    if there == "file":
        (tmp_path / "f").write_text("precious")
    else:
        (tmp_path / "f").mkdir()
        (tmp_path / "f" / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="f exists and is no fruit"):
        write(tmp_path / "f")
    place = tmp_path / "f" if there == "file" else tmp_path / "f" / "thesis.tex"
    assert place.read_text() == "precious" and names(tmp_path) == ["f"]


def test_an_empty_folder_may_become_a_bundle(tmp_path):
    (tmp_path / "f").mkdir()
    write(tmp_path / "f")
    assert read(tmp_path / "f")["value"] == 1


@pytest.mark.parametrize("damage, said", [
    (lambda f: (f / "a.npy").unlink(), "a.npy is missing"),
    (lambda f: os.truncate(f / "a.npy", 7), "a.npy has 7 bytes, its manifest says 148"),
    (lambda f: flip(f / "deep/b.npy"), "deep/b.npy was changed"),
    (lambda f: (f / "manifest.json").unlink(), "manifest.json is missing"),
    (lambda f: os.truncate(f / "manifest.json", 30), "manifest.json is not valid JSON"),
    (lambda f: edit(f, kind="nut"), "holds 'nut', expected 'fruit'"),
    (lambda f: edit(f, version=4), "has schema version 4, this release reads 3"),
    (lambda f: edit(f, files=None), "manifest.json lists no files"),
    (lambda f: edit(f, files={"a.npy": {"bytes": 148}}), "size and digest of 'a.npy'"),
    (lambda f: edit(f, files={"../x": {"bytes": 1, "sha256": "0"}}), "outside"),
    (lambda f: edit(f, files={"/etc/passwd": {}}), "outside its folder"),
    (lambda f: edit(f, files={"d/../../x": {}}), "outside its folder"),
    (lambda f: (f / "manifest.json").write_text("[]"), r"holds \[\], expected 'fruit'"),
])
def test_a_damaged_or_foreign_bundle_is_named(tmp_path, damage, said):
    write(tmp_path / "f")
    damage(tmp_path / "f")
    with pytest.raises(InputError, match=said):
        read(tmp_path / "f")


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def edit(folder, **changes):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_without_verification_only_the_manifest_is_read(tmp_path):
    write(tmp_path / "f")
    flip(tmp_path / "f" / "a.npy")
    assert read(tmp_path / "f", verify=False)["value"] == 1


@pytest.mark.parametrize("name", ["../secret", "/tmp/secret", "a/../../secret"])
def test_an_array_outside_the_bundle_is_not_opened(tmp_path, name):
    np.save(tmp_path / "secret.npy", np.ones(3))
    (tmp_path / "f" / "a").mkdir(parents=True)
    with pytest.raises(InputError, match="outside its folder"):
        artifacts.read_array(tmp_path / "f", name)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"not an array at all"])
def test_a_damaged_array_is_named(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(InputError, match="a.npy is not a readable array"):
        artifacts.read_array(tmp_path, "a")
    with pytest.raises(InputError, match="b.npy does not exist"):
        artifacts.read_array(tmp_path, "b")


def test_arrays_are_made_once_and_kept(tmp_path, caplog):
    made = []

    def make():
        made.append(len(made))
        return {"one": np.arange(3), "two": np.float32([[0.5]])}

    def ask(folder, **options):
        found = artifacts.kept_arrays(folder, make, kind="toy", version=1, **options)
        assert sorted(found) == ["one", "two"] and found["one"].tolist() == [0, 1, 2]
        return found
    ask(tmp_path / "a", write=False)
    ask(tmp_path / "a")
    assert ask(tmp_path / "a")["two"].dtype == np.float32 and len(made) == 2
    (tmp_path / "a/one.npy").unlink()
    ask(tmp_path / "a")
    assert len(made) == 3 and "one.npy" in caplog.text and "made again" in caplog.text
    ask(tmp_path / "a/one.npy/below")  # no folder can be there
    assert len(made) == 4 and "what was made is not kept" in caplog.text
