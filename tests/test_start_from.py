"""Fine-tuning: a run starts from another run's parameters, if they fit."""

import contextlib
import json
import shutil

import jax
import numpy as np
import pytest

import tiny_workdir
from oxyrec_jax import cli, workflow, workspace
from oxyrec_jax.base import InputError
from oxyrec_jax.train.parameters import read_params


@pytest.fixture
def space(trained, tmp_path):
    """A copy of the tiny work directory whose own runs are gone."""
    folder = shutil.copytree(trained, tmp_path / "work")
    shutil.rmtree(folder / "train")
    return workflow.open_workspace(folder, None)


def started(space, start, *settings):
    return workflow.open_workspace(space.folder, None, [
        f"train.start_from={json.dumps(str(start))}", *settings])


def test_a_run_starts_from_the_checkpoint_and_says_from_which(trained, space, capsys):
    with contextlib.chdir(trained.parent):
        cli.main(["train", "--workdir", str(space.folder), "--start-from", "work",
                  *tiny_workdir.settings("train.optimizer.learning_rate=0.0",
                                         "train.optimizer.weight_decay=0.0",
                                         "train.steps=2")])
    found, _ = read_params(space.run(0) / "best")
    given, step = read_params(trained / "train" / "seed0" / "best")
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(given), strict=True):
        np.testing.assert_array_equal(one, other)
    told = json.loads((space.run(0) / "start.json").read_text())
    assert told["folder"] == "work/train/seed0/best" and told["step"] == step
    assert json.loads((space.run(0) / "run.json").read_text())["train"][
        "start_from"] == "work"


def test_a_run_or_its_best_may_be_named_instead(trained, space):
    best = trained / "train" / "seed0" / "best"
    ids = workflow.load(space).ids
    for start in (trained, best.parent, best):
        assert workspace.start_of(started(space, start), 0, ids) == best


def test_what_does_not_fit_is_refused_before_training(trained, space, tmp_path):
    with pytest.raises(InputError, match="no trained parameters lie for seed 0; give"):
        workflow.train(started(space, tmp_path))
    foreign = shutil.copytree(trained, tmp_path / "foreign")
    path = foreign / "train" / "seed0" / "semantic_ids.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"codes": "other"}))
    with pytest.raises(InputError, match="seed0/best learnt other items or semantic "
                                         "IDs than"):
        workflow.train(started(space, foreign))
    path.unlink()
    with pytest.raises(InputError, match="semantic_ids.json is missing, so that"):
        workflow.train(started(space, foreign))
    with pytest.raises(InputError, match=r"is \[.* in this experiment's network"):
        workflow.train(started(space, trained, "model.width=8"))
    assert not (space.run(0) / "best").exists()
