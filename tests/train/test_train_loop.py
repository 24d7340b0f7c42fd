"""The loop: what it logs, keeps and refuses, and how it goes on."""

import json

import jax
import numpy as np
import pytest

import tiny_run
import tiny_world
from oxyrec_jax.base import InputError
from oxyrec_jax.train import loop
from oxyrec_jax.train.parameters import read_params, write_params
from oxyrec_jax.train.run_log import read_log
from oxyrec_jax.train.step import OptimizerConfig


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_world.make_dataset(tmp_path_factory.mktemp("data") / "d")


def run(data, work, **options):
    return tiny_run.run(data, work, mesh=tiny_world.one_device(), **options)


class Figures:
    """An evaluation that gives figures from a list, one after the other."""

    def __init__(self, *values):
        self.values, self.params = list(values), []

    def __call__(self, params):
        self.params.append(jax.tree.map(np.array, params))
        return {"figure": self.values[len(self.params) - 1]}


def test_the_best_parameters_are_kept_and_patience_ends_the_run(data, tmp_path):
    evaluate = Figures(0.3, 0.5, 0.4, 0.5, 9.0)
    outcome = run(data, tmp_path, evaluate=evaluate, steps=15, evaluate_every=3,
                  patience=2)
    # Two evaluations in a row, at 9 and 12, are not above that of step 6.
    assert (outcome.best, outcome.best_step, outcome.steps) == (0.5, 6, 12)
    assert outcome.figures == {"figure": 0.5} and len(evaluate.params) == 4
    for one, other in zip(jax.tree.leaves(outcome.params),
                          jax.tree.leaves(evaluate.params[1]), strict=True):
        np.testing.assert_array_equal(one, other)
    again = run(data, tmp_path, evaluate=Figures(), steps=15, evaluate_every=3,
                patience=2)  # an ended run ends at once
    assert (again.best, again.best_step, again.steps) == (0.5, 6, 12)


def test_the_log_tells_every_window_and_every_evaluation(data, tmp_path, caplog):
    caplog.set_level("INFO", "oxyrec_jax")
    run(data, tmp_path, evaluate=Figures(0.1, 0.2))
    said = [record.getMessage() for record in caplog.records]
    assert said.count("compiling the training step for batches of 8 x 8") == 1
    assert sum(line.startswith("training: 12/12 in ") for line in said) == 1
    lines = read_log(tmp_path / "log.jsonl")
    assert [(line["step"], "loss" in line) for line in lines] == [
        (3, True), (5, True), (6, True), (6, False), (9, True), (10, True), (12, True),
        (12, False)]
    for line in lines:
        if "loss" in line:
            assert {"loss", "level_0", "gradient_norm", "targets/s", "fill", "epoch",
                    "gflops", "mfu"} <= line.keys()
            total = sum(line[f"level_{level}"] for level in range(3))
            np.testing.assert_allclose(line["loss"], total + 0.3 * line["item"],
                                       rtol=1e-5)
            assert 0 < line["targets/s"] < 1e7
        else:
            assert line.keys() == {"step", "valid.figure"}
    assert any((tmp_path / "tensorboard").iterdir())


@pytest.mark.parametrize("change, said", [
    ({"seed": 1}, "seed: 0 there, 1 now"),
    ({"model": {"dropout": 0.1}}, "model.dropout: 0.2 there, 0.1 now"),
    ({"steps": 13}, "train.steps: 12 there, 13 now")])
def test_another_configuration_in_the_folder_is_refused(data, tmp_path, change, said):
    settings = {"train": loop.dataclasses.asdict(tiny_run.CONFIG),
                "model": loop.dataclasses.asdict(
                    tiny_world.make_model(**tiny_run.MODEL).cfg),
                "widths": list(tiny_world.WIDTHS), "seed": 0}
    (tmp_path / "run.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match=f"another configuration .*{said}"):
        run(data, tmp_path, **change)
    assert not (tmp_path / "checkpoints").exists()


def test_a_loss_that_is_not_finite_stops_and_is_never_saved(data, tmp_path):
    wild = OptimizerConfig(learning_rate=1e30, warmup=4, clip_norm=0.0,
                           schedule="constant")
    with pytest.raises(InputError, match=r"is not finite at step \d+ \(window \d+ to"):
        run(data, tmp_path, optimizer=wild, evaluate=Figures(*np.arange(4.0)),
            checkpoint_every=1, log_every=5)
    assert all("loss" not in line or np.isfinite(line["loss"])
               for line in read_log(tmp_path / "log.jsonl"))
    # The checkpoint before is still there and the same command starts from it.
    saved = [int(path.name) for path in (tmp_path / "checkpoints").iterdir()]
    assert saved
    with pytest.raises(InputError, match=f"not finite at step {max(saved) + 1} "):
        run(data, tmp_path, optimizer=wild, evaluate=Figures(*np.arange(4.0)),
            checkpoint_every=1, log_every=5)


def test_an_unknown_metric_is_named(data, tmp_path):
    with pytest.raises(InputError, match="train.metric is .other., the .* figure"):
        run(data, tmp_path, metric="other", steps=1)


@pytest.mark.parametrize("name", ["steps", "log_every", "evaluate_every",
                                  "checkpoint_every"])
def test_a_count_below_one_is_refused(name):
    with pytest.raises(InputError, match=f"train.{name} is 0"):
        loop.TrainConfig(**{name: 0})


def test_a_log_line_cut_by_a_kill_is_left_out(tmp_path):
    path = tmp_path / "log.jsonl"
    assert read_log(path) == []
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_log(path) == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize("text, named", [
    ('{"step": 1}\nnot json\n{"step": 2}\n', "line 2 is 'not json', expected"),
    ("[1]\n", "line 1 is '\\[1\\]'"), ('{"loss": 1.0}\n', "with a step")])
def test_a_broken_log_names_its_line(tmp_path, text, named):
    (tmp_path / "log.jsonl").write_text(text)
    with pytest.raises(InputError, match=named):
        read_log(tmp_path / "log.jsonl")


def test_parameters_of_another_run_are_named(tmp_path):
    with pytest.raises(InputError, match="holds no parameters"):
        read_params(tmp_path / "best")


def test_a_manifest_cannot_lead_out_of_the_parameters(data, tmp_path):
    write_params(tmp_path / "best", {"a": {"b": np.ones(2)}}, 5)
    params, step = read_params(tmp_path / "best")
    assert step == 5 and params["a"]["b"].tolist() == [1, 1]
    manifest = json.loads((tmp_path / "best" / "manifest.json").read_text())
    np.save(tmp_path / "secret.npy", np.ones(1))
    manifest["names"] = ["../secret"]
    (tmp_path / "best" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="outside its folder"):
        read_params(tmp_path / "best")
