"""Every verb helps, speaks JSON, and answers bad input with one sentence."""

import contextlib
import json
import pathlib
import shutil
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

import oxyrec_jax
import tiny_workdir
from oxyrec_jax import cli, workflow, workspace
from oxyrec_jax.train.parameters import read_params


USER = "user-00000000"


@pytest.fixture
def oxyrec(capsys):
    """Runs a command in this process: its exit code, standard output and error."""
    def run(*words):
        capsys.readouterr()
        code = 0
        try:
            cli.main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return types.SimpleNamespace(code=code, out=out, err=err)
    return run


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of the trained work directory, beside its log, that a test may spoil."""
    for name in ("events.csv", "items.csv"):
        shutil.copy(trained.parent / name, tmp_path)
    with contextlib.chdir(tmp_path):
        yield shutil.copytree(trained, tmp_path / "work")


def refuses(found, *words):
    """Asserts exit code 2, nothing on standard output, one sentence with the words."""
    assert (found.code, found.out) == (2, "")
    last = found.err.splitlines()[-1]
    assert last.startswith("oxyrec: ") and "Traceback" not in found.err
    assert sum(line.startswith("oxyrec: ") for line in found.err.splitlines()) == 1
    for word in words:
        assert str(word) in last


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_shows_an_example_on_a_line_of_its_own(verb, oxyrec):
    found = oxyrec(verb, "--help")
    assert found.code == 0
    assert [line for line in found.out.splitlines()
            if line.startswith(f"$ oxyrec {verb} ")]
    assert all(option in found.out for option in ("--workdir", "--set", "--json"))


def test_help_lists_all_verbs_and_loads_no_network():
    found = subprocess.run(
        [sys.executable, "-c", "import sys; from oxyrec_jax import cli\n"
         "try: cli.main(['--help'])\nfinally: print('flax' in sys.modules)"],
        capture_output=True, text=True, check=True)
    assert all(f"• {verb} " in found.stdout for verb in cli.VERBS)
    assert found.stdout.splitlines()[-1] == "False"


def test_the_release_is_told(oxyrec):
    found = oxyrec("--version")
    assert (found.code, found.out) == (0, f"oxyrec_jax {oxyrec_jax.__version__}\n")


def test_json_is_all_of_standard_output(trained):
    found = subprocess.run(
        [sys.executable, "-c", "from oxyrec_jax import cli; cli.main()", "recommend",
         "--workdir", str(trained), "--user", "user-00000003", "--k", "2", "--json"],
        capture_output=True, text=True, check=True)
    assert found.stdout.count("\n") == 1
    assert len(json.loads(found.stdout)["recommendations"]) == 2


@pytest.mark.parametrize("words, expected", [
    (("prepare",), {"source", "protocol", "tie_policy", "counts"}),
    (("tokenize",), {"widths", "items", "perplexity"}),
    (("train",), {"metric", "runs"}),
    (("evaluate",), {"item.recall@10", "item.ndcg@10", "baselines", "tie_policy"}),
    (("recommend", "--user", USER), {"history", "recommendations"}),
    (("report",), {"report"}),
    (("inspect",), {"data", "semantic_ids", "model", "runs", "evaluations"}),
], ids=lambda value: value[0] if isinstance(value, tuple) else "")
def test_every_verb_speaks_one_line_of_json(words, expected, copied, oxyrec):
    found = oxyrec(*words, "--workdir", copied, "--json")
    assert found.code == 0 and found.out.count("\n") == 1
    assert expected <= json.loads(found.out).keys()


def test_what_is_printed_for_people(trained, oxyrec):
    found = oxyrec("recommend", "--workdir", trained, "--user", USER, "--k", 3)
    lines = [line.split() for line in found.out.splitlines() if line.strip()]
    assert [line[0] for line in lines if line[0] in "123"] == ["1", "2", "3"]
    assert sum(line[0] == "seen" for line in lines) == 5
    found = oxyrec("inspect", "--workdir", trained)
    assert "problem" not in found.out and "tie_policy: file order" in found.out


def test_the_report_is_where_it_says(trained, oxyrec):
    found = json.loads(oxyrec("report", "--workdir", trained, "--json").out)
    assert "sku" in pathlib.Path(found["report"]).read_text("utf-8")


def test_a_history_longer_than_the_maximum_works_and_says_so(trained, oxyrec):
    long = [f"sku{number}" for number in range(9)]  # train.pipeline.history is 6
    found = oxyrec("recommend", "--workdir", trained, "--items", *long, "--json")
    newest = oxyrec("recommend", "--workdir", trained, "--items", *long[3:], "--json")
    assert found.code == 0
    first, second = json.loads(found.out), json.loads(newest.out)
    assert first["recommendations"] == second["recommendations"]
    assert len(first["history"]) == 9
    assert "9 items" in first["note"] and "newest 6" in first["note"]
    assert second["note"] == ""


@pytest.mark.parametrize("words, expected", [
    (("prepare", "nowhere.py"), ["nowhere.py", "does not exist"]),
    (("train", "train.steps=5"), ["write --set train.steps=5"]),
    (("train", "--set", "train.stepps=5"), ["'stepps'", "steps", "patience"]),
    (("train", "--set", "train.steps=many"), ["train.steps", "'many'", "integer"]),
    (("train", "--set", "train.steps"), ["expected name=value"]),
    (("train", "--set", "train.steps=[1"), ["is not a value"]),
    (("train", "--set", "train.steps=0"), ["train.steps is 0", "at least 1"]),
    (("train", "--set", "train.steps=5"), ["train.steps is 4 there, 5 now"]),
    (("evaluate", "--split", "tset"), ["tset", "test or valid"]),
    (("evaluate", "--set", "model.width=32"), ["model.width is 16 there, 32 now"]),
    (("evaluate", "--set", "train.pipeline.history=5"), ["history is 6 there"]),
    (("evaluate", "--set", "evaluate.ks=[1,10,31]"), ["beams is 20", "31"]),
    (("evaluate", "--set", "beams=31"), ["beams is 31", "30 items", "--set beams=30"]),
    (("recommend", "--user", USER, "--k", "31"), ["--k 31", "30 items"]),
    (("recommend", "--user", "nobody"), ["nobody", "40", USER]),
    (("recommend", "--items", "sku1", "gone"), ["gone", "30", "sku"]),
    (("recommend",), ["--user", "--items"]),
    (("recommend", "--user", USER, "--items", "sku1"), ["either"]),
], ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_bad_input_ends_in_one_sentence(words, expected, trained, oxyrec):
    before = (trained / "experiment.json").read_bytes()
    refuses(oxyrec(*words, "--workdir", trained), *expected)
    assert (trained / "experiment.json").read_bytes() == before


@pytest.mark.parametrize("verb", ["tokenize", "train", "evaluate", "recommend",
                                  "report", "inspect"])
def test_a_missing_work_directory_is_named_and_not_made(verb, tmp_path, oxyrec):
    refuses(oxyrec(verb, "--workdir", tmp_path / "gone"), tmp_path / "gone",
            "does not exist", "oxyrec prepare")
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("verb, missing, step", [
    ("tokenize", "data", "prepare"), ("train", "data", "prepare"),
    ("train", "semantic_ids", "tokenize"), ("evaluate", "train", "train"),
    ("recommend", "train", "train")])
def test_a_step_too_early_names_the_step_before(verb, missing, step, copied, oxyrec):
    shutil.rmtree(copied / missing)
    more = ("--user", USER) if verb == "recommend" else ()
    refuses(oxyrec(verb, "--workdir", copied, *more), f"oxyrec {step}")


@pytest.mark.parametrize("name", [
    "data/sequences/00000/item.npy", "data/manifest.json", "semantic_ids/codes.npy",
    "train/seed0/best/code_vectors.npy", "train/seed0/run.json"])
def test_a_damaged_file_is_named(name, copied, oxyrec):
    path = copied / name
    path.write_bytes(path.read_bytes()[:-7])
    refuses(oxyrec("evaluate", "--workdir", copied), path)


@pytest.mark.parametrize("bundle, reads", [
    ("data", 1), ("semantic_ids", 2), ("train/seed0/best", 1)])
def test_another_schema_version_is_told(bundle, reads, copied, oxyrec):
    path = copied / bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"version": 99}))
    refuses(oxyrec("evaluate", "--workdir", copied), path.parent, "99",
            f"reads {reads}")


@pytest.mark.parametrize("setting", ["tokenizer.seed=5", "tokenizer.widths=[5,5]"])
@pytest.mark.parametrize("verb", ["evaluate", "train"])
def test_semantic_ids_newer_than_the_checkpoint_are_refused(setting, verb, copied,
                                                            oxyrec):
    assert oxyrec("tokenize", "--workdir", copied, "--set", setting).code == 0
    refuses(oxyrec(verb, "--workdir", copied), copied / "train" / "seed0",
            "other semantic IDs", "oxyrec train")


def test_semantic_ids_older_than_the_checkpoint_are_refused(copied, oxyrec):
    older = shutil.copytree(copied / "semantic_ids", copied.parent / "older")
    assert oxyrec("tokenize", "--workdir", copied, "--set", "tokenizer.seed=5"
                  ).code == 0
    space = workflow.open_workspace(copied, None)
    (copied / "train" / "seed0" / "semantic_ids.json").unlink()
    workspace.begin_run(space, 0, workflow.load(space).ids)  # as if trained on the new
    assert oxyrec("evaluate", "--workdir", copied).code == 0
    shutil.rmtree(copied / "semantic_ids")
    older.rename(copied / "semantic_ids")
    refuses(oxyrec("evaluate", "--workdir", copied), "other semantic IDs")


def test_a_data_set_newer_than_its_semantic_ids_is_refused(copied, oxyrec):
    changed = ("--set", "data.tie_policy=by id")
    assert oxyrec("prepare", "--workdir", copied, *changed).code == 0
    refuses(oxyrec("evaluate", "--workdir", copied), "another data set", "tokenize")
    found = json.loads(oxyrec("inspect", "--workdir", copied, "--json").out)
    assert "another data set" in found["semantic_ids"]["problem"]
    assert found["data"]["tie_policy"] == "by id"


def test_prepare_wants_to_know_the_log(tmp_path, oxyrec):
    refuses(oxyrec("prepare", "--workdir", tmp_path / "new"), "--source", "--path")
    refuses(oxyrec("prepare", "--workdir", tmp_path / "new", "--source", "taable",
                   "--path", "x.csv"), "taable", "table", "shop")
    log = tiny_workdir.write_csv(tmp_path)
    refuses(oxyrec("prepare", "--workdir", tmp_path / "new", "--source", "table",
                   "--path", log / "events.csv"),
            "events.csv", "no column user", "visitor, sku, at")
    assert not (tmp_path / "new").exists()  # nothing is left to be confused by


def test_quickstart_takes_no_experiment(oxyrec):
    refuses(oxyrec("quickstart", "experiments/quickstart.py"), "no experiment file")


@pytest.mark.slow
def test_quickstart_walks_the_whole_path_on_the_shop(tmp_path, oxyrec, load_file):
    small = tuple(setting for setting in load_file("experiments/quickstart.py").TOY
                  if not setting.startswith("text."))  # titles as people get them
    found = oxyrec("quickstart", "--workdir", tmp_path / "shop", "--json",
                   *[word for text in small for word in ("--set", text)])
    assert found.code == 0 and found.out.count("\n") == 1
    results = json.loads(found.out)
    assert 0 <= results["item.ndcg@10"] <= results["item.recall@10"] <= 1
    assert {"popularity", "markov", "title_knn"} <= results["baselines"].keys()
    assert results["training"]["runs"]["seed0"]["steps"] == 4
    page = pathlib.Path(results["report"]).read_text("utf-8")
    assert "Quickstart: the simulated shop" in page
    asked = oxyrec("recommend", "--workdir", tmp_path / "shop", "--k", 3, "--json",
                   "--user", "user-00000007")
    rows = json.loads(asked.out)["recommendations"]
    assert [row["rank"] for row in rows] == [1, 2, 3]
    assert all(row["title"] for row in rows)


def spoiled(folder, spoil):
    """Spoils the largest file of a checkpoint; returns which it is."""
    path = max((path for path in folder.rglob("*") if path.is_file()
                and path.name != "manifest.json"), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    path.unlink()
    if spoil != "missing":
        content[len(content) // 2] ^= 1
        path.write_bytes(content[:7] if spoil == "half" else content)
    return path


def test_training_goes_on_before_a_damaged_checkpoint_and_refuses_where_all_are(
        oxyrec, copied, caplog):
    run = copied / "train" / "seed0"
    before = read_params(run / "best")
    path = spoiled(run / "checkpoints" / "4", "bit")
    found = oxyrec("train", "--workdir", copied, "--json")
    assert found.code == 0
    assert f"checkpoint 4 is damaged: {path.absolute()} was changed" in caplog.text
    assert "4.damaged, and checkpoint 2 is used" in caplog.text
    after = read_params(run / "best")
    assert after[1] == before[1]
    for one, other in zip(*map(jax.tree.leaves, (after[0], before[0])), strict=True):
        np.testing.assert_array_equal(one, other)
    lost = spoiled(run / "checkpoints" / "4", "missing")
    half = spoiled(run / "checkpoints" / "2", "half")
    refuses(oxyrec("train", "--workdir", copied), "no checkpoint in", "is whole",
            f"{lost.absolute()} is missing", f"{half.absolute()} has 7 bytes",
            "to begin anew")
