"""`oxyrec align` in work directories: what it shares, makes, continues and refuses."""

import contextlib
import json
import re
import shutil
import types

import jax.numpy as jnp
import numpy as np
import pytest

from oxyrec_jax import aligning, cli, ready, workflow
from oxyrec_jax.base import InputError
from oxyrec_jax.data.align_requests import AlignRequests
from oxyrec_jax.data.dataset import load_dataset
from oxyrec_jax.decode.beam import Beams
from oxyrec_jax.rewards.mapping import Component, fit_mapping, load_mapping
from oxyrec_jax.tokenizer import sid_table
from oxyrec_jax.tokenizer.trie import Leaves
from oxyrec_jax.train import align_loop
from oxyrec_jax.train.parameters import read_params
from oxyrec_jax.train.signals import SignalSources

SETTINGS = ("align.steps=4", "align.batch=8", "align.group=6", "align.log_every=2",
            "align.evaluate_every=2", "align.checkpoint_every=2", "align.fit=16",
            "align.optimizer.warmup=1", "align.optimizer.learning_rate=0.01",
            "align.reward={tokens: {normalise: none, weight: 2.0}}",
            "align.reward.hit.normalise=none", "align.reward.hit.may_be_constant=true")


def options(*more):
    return [word for setting in (*SETTINGS, *more) for word in ("--set", setting)]


@pytest.fixture(scope="module")
def folders(trained, tmp_path_factory):
    """The trained work directory, copied, and one that is aligned from there."""
    home = tmp_path_factory.mktemp("align")
    base = shutil.copytree(trained, home / "base")
    cli.main(["align", "--workdir", str(home / "aligned"), "--start-from", str(base),
              *options()])
    return base, home / "aligned"


def test_an_aligned_model_is_a_work_directory_like_any_other(folders, capsys):
    base, folder = folders
    assert not (folder / "data").readlink().is_absolute()
    assert (folder / "data").resolve() == (base / "data").resolve()
    cli.main(["evaluate", "--workdir", str(folder), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert 0 <= found["item.ndcg@10"] <= 1
    cli.main(["recommend", "--workdir", str(folder), "--items", "sku1", "sku2",
              "--json"])
    assert len(json.loads(capsys.readouterr().out)["recommendations"]) == 10
    cli.main(["report", "--workdir", str(folder)])
    assert "reward" in (folder / "report.html").read_text()


def test_parameters_moved_and_the_reward_is_kept(folders):
    base, folder = folders
    last, step = read_params(folder / "train/seed0/last")
    first, _ = read_params(base / "train/seed0/best")
    assert step == 4 and np.abs(last["code_vectors"] - first["code_vectors"]).max() > 0
    mapping = load_mapping(folder / "train/seed0/reward")
    assert mapping.names == ("tokens", "hit") and mapping.scenarios == ("all",)
    np.testing.assert_allclose(mapping.weights, [[2 / 3, 1 / 3]], rtol=1e-6)
    assert json.loads((folder / "train/seed0/start.json").read_text())["folder"] == str(
        base.resolve() / "train/seed0/best")


def test_a_finished_alignment_is_read_back(folders, capsys):
    _, folder = folders
    log = (folder / "train/seed0/log.jsonl").read_bytes()
    cli.main(["align", "--workdir", str(folder), "--json"])
    found = json.loads(capsys.readouterr().out)["runs"]["seed0"]
    assert found["steps"] == 4 and found["stopped"] == ""
    assert (folder / "train/seed0/log.jsonl").read_bytes() == log
    assert {"item.ndcg@10", "reward@1", "reward@10", "reward.hit@10"} <= set(
        found["last"])


def test_what_lists_are_worth_can_be_compared(folders):
    base, folder = (workflow.open_workspace(one, None) for one in folders)
    opened = ready.load(base)
    params = ready.parameters(base, opened, 0)
    found = aligning.worth(folder, {"one": params, "same": params},
                           folder.run(0) / "reward")
    assert found["one"] == found["same"] and 0 <= found["one"]["reward@10"] <= 1


@pytest.mark.parametrize("more, said", [
    ((), "an alignment begins with trained parameters; give --start-from"),
    (("align.reward.value.weight=1",), "align.reward.value needs a ranking model"),
    (("align.reward.taste.weight=1",), "has a component 'taste', expected any of"),
    (("align.policy.method=a2po",), "a2po, which needs semantic rewards; give a judge"),
    (("align.policy.method=ppo",), "policy.method is 'ppo', expected one of grpo"),
    (("align.judge=somewhere",), "align.judge is set, and sa-gcpo takes no semantic")])
def test_what_cannot_be_aligned_is_said_in_a_sentence(folders, tmp_path, capsys,
                                                      more, said):
    base, _ = folders
    start = ["--start-from", str(base)] if more else []
    folder = tmp_path / "new"
    if not more:  # an experiment that says nothing of a start
        shutil.copytree(base, folder)
    with pytest.raises(SystemExit):
        cli.main(["align", "--workdir", str(folder), *start, *options(*more)])
    assert said in capsys.readouterr().err


def test_a_start_that_changed_is_refused(folders, tmp_path):
    base, folder = folders
    moved = shutil.copytree(base, tmp_path / "base")
    copy = shutil.copytree(folder, tmp_path / "aligned", symlinks=True)
    for path in (copy / "experiment.json", copy / "train/seed0/run.json"):
        path.write_text(path.read_text().replace(str(base.resolve()), str(moved)))
    space = workflow.open_workspace(copy, None)
    assert workflow.align(space)["runs"]["seed0"]["steps"] == 4  # the same elsewhere
    path = moved / "train/seed0/best/manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"step": 99}))
    with pytest.raises(InputError, match="seed0 began with the parameters of step"):
        workflow.align(space)


@pytest.fixture
def judged(folders, tmp_path, monkeypatch):
    """A command to begin or continue an alignment under a judge, of which nothing is
    computed, and one that makes the judge."""
    class Begun:  # once it is sure that the run may go on
        def __init__(self, setting, *args):
            self.checkpoints = contextlib.nullcontext()

        def until_done(self):
            return align_loop.AlignOutcome(0.0, 0, 0, {}, {}, {}, "")
    monkeypatch.setattr(align_loop, "_Run", Begun)
    base = shutil.copytree(folders[0], tmp_path / "base")
    folder = tmp_path / "aligned"
    shutil.copytree(folders[1] / "train/seed0/reward", folder / "train/seed0/reward")

    def make(seed):
        cli.main(["judge", "--workdir", str(base), *[
            word for one in ("steps=5", "batch=8") for word in
            ("--set", f"judge.weighting.{one}")],
            "--set", "judge.requests=20", "--set", f"judge.seed={seed}"])

    def go(*more):
        cli.main(["align", "--workdir", str(folder), "--start-from", str(base),
                  "--judge", str(base), *options("align.policy.method=a2po", *more)])
    make(0)
    return go, make, base


def test_an_alignment_is_continued_under_the_judge_that_it_began_with(judged, capsys):
    go, make, base = judged
    go()
    told = json.loads((base.parent / "aligned/train/seed0/run.json").read_text())
    assert told["judge"]["name"] == "rules on item text, no language model"
    go()
    make(0)  # the same again
    go()
    make(1)
    with pytest.raises(SystemExit):
        go("judge.share=0.5")
    assert re.search("holds a run with another configuration .judge.seed: 0 there, 1 "
                     "now, judge.share: 0.05 there, 0.5 now, judge.weighting: ",
                     capsys.readouterr().err)
    kept = json.loads((base.parent / "aligned/experiment.json").read_text())
    assert kept["judge"]["share"] == 0.05  # what was refused is not kept


def test_a_judge_of_another_data_set_is_refused(judged, folders):
    base = judged[2]
    path = base / "data/manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"source": "other"}))
    path = base / "judge/rules/manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {
        "dataset": sid_table.dataset_digest(load_dataset(base / "data"))}))
    space = workflow.open_workspace(folders[1], None, (
        "align.policy.method=a2po", f"align.judge={base}"))
    with pytest.raises(InputError, match="was made from another data set"):
        workflow.align(space)


def test_dead_places_of_a_short_list_are_worth_nothing(monkeypatch):
    """Codes 00, 01, 11; the first request chose item 2 and gets [2, 0], the second
    chose 1 and gets [0]; the last is given nothing."""
    codes = jnp.array([[0, 0], [0, 1], [1, 1]])
    vectors = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    names = ("hit", "tokens", "diversity", "format")
    leaves = jnp.array([[2, 0, -1, -1], [0, -1, -1, -1], [-1, -1, -1, -1]])
    monkeypatch.setattr(aligning, "recommend", lambda *args, **options: Beams(
        None, leaves, None, None))
    opened = types.SimpleNamespace(
        model=None, catalogue=None, dataset=types.SimpleNamespace(num_items=3),
        leaves=Leaves(np.arange(4), np.arange(3)))
    plain = Component("none", may_be_constant=True)
    mapping = fit_mapping({name: np.array([0.0, 1.0]) for name in names},
                          dict.fromkeys(names, plain), ["all"])
    found = aligning.rewards_of_lists(
        opened, SignalSources(codes, vectors, None, names), mapping, None, [{
            "rows": np.arange(3), "targets": np.array([[2], [1], [2]]),
            "asked_scenario": np.zeros(3, np.int32)}])
    # tokens: g = 1/2, so the first code weighs 2/3; diversity: 1 - 0.6 = 0.4 twice
    parts = {"hit": 1 / 2, "tokens": 1 / 2 + 2 / 3, "diversity": 0.4, "format": 1 + 1}
    assert found == pytest.approx({
        "reward@1": (1 + 1 + 0.4 + 1 + 0 + 2 / 3 + 0 + 1) / 4 / 3,
        "reward@10": sum(parts.values()) / 4 / 3,
        **{f"reward.{name}@10": part / 3 for name, part in parts.items()}})


def test_requests_are_asked_once_an_epoch_and_hold_what_was_chosen(folders):
    dataset = ready.load(workflow.open_workspace(folders[0], None)).dataset
    requests = AlignRequests(dataset, batch=8, logged=3, history=6, seed=1)
    count = len(dataset.targets("train"))
    assert requests.steps_per_epoch == count // 8
    rows = np.concatenate([requests[step]["rows"] for step in
                           range(requests.steps_per_epoch)])
    assert len(np.unique(rows)) == len(rows) == count // 8 * 8
    again = AlignRequests(dataset, batch=8, logged=3, history=6, seed=1)
    np.testing.assert_array_equal(again[5]["rows"], requests[5]["rows"])
    halves = [AlignRequests(dataset, batch=8, logged=3, history=6, seed=1,
                            process_index=place, process_count=2)[5]["rows"]
              for place in range(2)]
    np.testing.assert_array_equal(np.concatenate(halves), requests[5]["rows"])
    batch = requests[0]
    np.testing.assert_array_equal(batch["logged"][:, 0], batch["targets"][:, 0])
    assert (batch["logged"][:, 1:] == -1).all()  # nobody knows what was shown
    with pytest.raises(InputError, match="align.batch is 9, which 2 processes"):
        AlignRequests(dataset, batch=9, logged=3, history=6, seed=1, process_count=2)
