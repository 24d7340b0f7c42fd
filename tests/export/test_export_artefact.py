"""An exported recommender answers as this package does, where only JAX is installed."""

import importlib.metadata
import json
import pathlib
import re
import shutil
import subprocess
import venv

import numpy as np
import pytest

from oxyrec_jax import answers, cli, workflow
from oxyrec_jax.base import InputError
from oxyrec_jax.export import artefact, run

HISTORIES = [["sku1", "sku5", "sku9"], ["sku29"],
             [f"sku{number}" for number in range(12)]]


@pytest.fixture(scope="module")
def space(trained):
    return workflow.open_workspace(trained, None)


@pytest.fixture(scope="module")
def folder(space, tmp_path_factory):
    place = tmp_path_factory.mktemp("export") / "artefact"
    found = artefact.export(space, place, batches=(2,), examples=3)
    assert found["largest_difference"] <= 1e-5 and found["bytes"] > 1000
    assert found["platforms"] == ["cpu", "cuda", "tpu"]
    return place


def test_answers_are_those_of_the_package(space, folder):
    engine = run.load(folder)
    found = engine.recommend(HISTORIES, k=7)  # three requests in programs of two
    for history, own in zip(HISTORIES, found, strict=True):
        expected = answers.recommend(space, items=history, k=7)["recommendations"]
        assert [one["item_id"] for one in own] == [one["item_id"] for one in expected]
        assert [one["semantic_id"] for one in own] == [
            one["semantic_id"] for one in expected]
        np.testing.assert_allclose([one["log_prob"] for one in own],
                                   [one["log_prob"] for one in expected], atol=2e-4)
        assert [one["rank"] for one in own] == list(range(1, 8))


def test_requests_that_cannot_be_answered_are_named(folder):
    engine = run.load(folder, verify=False)
    for history, k, word in ((["sku1", "nothing"], 3, "nothing"), ([], 3, "empty"),
                             (["sku1"], 0, "expected 1 to"), (["sku1"], 99, "k is 99")):
        with pytest.raises(run.ArtefactError, match=word):
            engine.recommend([history], k=k)


@pytest.mark.parametrize("name", ["search_2.mlirbc", "arguments/0003.npy", "items.json",
                                  "run.py", "examples/log_probs.npy"])
def test_a_damaged_file_is_refused_by_name(folder, tmp_path, name):
    copy = shutil.copytree(folder, tmp_path / "copy")
    content = bytearray((copy / name).read_bytes())
    content[-3] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(run.ArtefactError, match=f"{re.escape(name)} was changed"):
        run.load(copy)
    (copy / name).write_bytes(content[:-1])
    with pytest.raises(run.ArtefactError, match=f"{re.escape(name)} has .* bytes"):
        run.load(copy)
    (copy / name).unlink()
    with pytest.raises(run.ArtefactError, match=f"{re.escape(name)} is missing"):
        run.load(copy)


@pytest.mark.parametrize("change, word", [
    ({"kind": "dataset"}, "holds 'dataset'"), ({"version": 99}, "version 99"),
    ({"platforms": ["tpu"]}, "made for tpu")])
def test_another_artefact_is_refused(folder, tmp_path, change, word):
    copy = shutil.copytree(folder, tmp_path / "copy")
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | change))
    with pytest.raises(run.ArtefactError, match=word):
        run.load(copy)
    (copy / "manifest.json").write_text("{")
    with pytest.raises(run.ArtefactError, match="manifest.json cannot be read"):
        run.load(copy)


def test_other_answers_than_the_stored_ones_are_seen(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    path = copy / "examples" / "log_probs.npy"
    np.save(path, np.load(path) - 0.01)
    with pytest.raises(run.ArtefactError, match="come out otherwise"):
        run.load(copy, verify=False).check()


def test_what_cannot_be_exported_is_refused(space, tmp_path):
    with pytest.raises(InputError, match="--platforms abacus"):
        artefact.export(space, tmp_path / "a", platforms=("abacus",))
    with pytest.raises(InputError, match="--batches"):
        artefact.export(space, tmp_path / "a", batches=(0,))


def jax_alone(place: pathlib.Path) -> pathlib.Path:
    """A virtual environment with JAX, what JAX requires, and nothing else."""
    venv.create(place, symlinks=True)
    own = next(place.glob("lib/python*/site-packages"))
    wanted, seen = ["jax"], set()
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        found = importlib.metadata.distribution(name)
        wanted += [re.split(r"[^\w.-]", need)[0] for need in found.requires or ()
                   if "extra ==" not in need]
        tops = {file.parts[0] for file in found.files or ()}
        for top in tops - {"..", "__pycache__"}:
            (own / top).symlink_to(pathlib.Path(str(found.locate_file(top))))
    assert seen == {"jax", "jaxlib", "numpy", "scipy", "ml_dtypes", "opt_einsum"}
    return place / "bin" / "python"


@pytest.mark.slow
def test_jax_alone_runs_it(space, folder, tmp_path):
    python = jax_alone(tmp_path / "venv")

    def ask(*words):
        return subprocess.run([python, *words], cwd=tmp_path, capture_output=True,
                              text=True, timeout=300)
    for package in ("oxyrec_jax", "flax", "flatbuffers", "pyarrow"):
        assert "ModuleNotFoundError" in ask("-c", f"import {package}").stderr
    done = ask(folder / "run.py", "--check", "--items", *HISTORIES[0], "--k", "7")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["check"]["largest_difference"] <= 1e-5
    expected = answers.recommend(space, items=HISTORIES[0], k=7)["recommendations"]
    assert [one["item_id"] for one in found["recommendations"]] == [
        one["item_id"] for one in expected]
    bad = ask(folder / "run.py", "--items", "nothing")
    assert bad.returncode == 2 and "nothing" in bad.stderr


def test_the_verb_names_what_it_wrote(trained, tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.main(["export", "--workdir", str(trained), "--platforms", "abacus"])
    assert "expected some of cpu" in capsys.readouterr().err
