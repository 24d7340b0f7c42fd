"""What a work directory tells of its runs, and what it is called."""

import json
import shutil

import pytest

from oxyrec_jax import config, workflow, workspace


@pytest.fixture
def work(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "my work")


def cut(folder, step):
    """Leaves the log as a run that was stopped after a step left it."""
    log = folder / "train" / "seed0" / "log.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(line for line in lines if json.loads(line)["step"] <= step))


def test_a_run_that_was_cut_short_names_its_step_and_what_continues_it(work):
    space = workflow.open_workspace(work, None)
    assert workspace.unfinished(space) == []
    cut(work, 2)
    assert workspace.unfinished(space) == [
        "the run of seed 0 had come to step 2 of 4 (train.steps) when it was judged; "
        f"oxyrec train --workdir '{work}' continues it"]
    longer = workflow.open_workspace(work, None, ["train.steps=2"])
    assert workspace.unfinished(longer) != []  # what the run was made with counts
    (work / "train" / "seed0" / "log.jsonl").unlink()
    assert workspace.unfinished(space) == []


def test_an_alignment_ends_when_it_says_so(work):
    run = work / "train" / "seed0"
    settings = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(settings | {"align": {"steps": 9}}))
    space = workflow.open_workspace(work, None)
    found, = workspace.unfinished(space)
    assert "step 4 of 9 (align.steps)" in found and "oxyrec align --workdir" in found
    (run / "outcome.json").write_text("{}")
    assert workspace.unfinished(space) == []


def test_without_a_name_the_folder_and_the_log_tell_what_it_is(work, tmp_path):
    kept = workflow.open_workspace(work, None)  # as it was called when it was made
    assert kept.cfg.name == "work: events.csv"
    unnamed = workflow.open_workspace(work, None, ["name=experiment"])
    assert unnamed.cfg.name == "my work: events.csv"
    given = workflow.open_workspace(work, None, ["name=My shop"])
    assert given.cfg.name == "My shop"
    (tmp_path / "mine.py").write_text(
        "from oxyrec_jax.config import Experiment\n"
        "def get_config(name=Experiment.name):\n    return Experiment(name=name)\n")
    cfg = config.load_experiment(tmp_path / "mine.py")
    assert workflow.open_workspace(tmp_path / "new", cfg).cfg.name == "mine"
    assert workflow.open_workspace(tmp_path / "new", config.Experiment()
                                   ).cfg.name == "new"
