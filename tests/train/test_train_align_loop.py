"""The aligner's loop: what it keeps, what stops it, and how it goes on."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny_align
import tiny_world
from oxyrec_jax import parallel
from oxyrec_jax.base import InputError
from oxyrec_jax.train.align_loop import read_outcome
from oxyrec_jax.train.align_settings import Alarms, AlignConfig
from oxyrec_jax.train.alarms import Watch
from oxyrec_jax.train.parameters import read_params
from oxyrec_jax.train.policy import PolicyConfig
from oxyrec_jax.train.run_log import read_log

HERE = pathlib.Path(__file__).resolve().parent
TIMES = ("rollouts/s", "share.rollout", "share.reward", "share.update")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_world.make_dataset(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run that nothing interrupted, and its outcome."""
    work = tmp_path_factory.mktemp("whole")
    return work, tiny_align.run(data, work)


def lines(work):
    """The log without times."""
    return [{name: value for name, value in line.items() if name not in TIMES}
            for line in read_log(work / "log.jsonl")]


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, read_params(one)[0],
                 read_params(other)[0])


def test_a_run_logs_windows_and_evaluations_from_the_start_on(whole):
    work, outcome = whole
    found = lines(work)
    assert [(line["step"], "valid.figure" in line) for line in found] == [
        (0, True), (2, False), (3, False), (3, True), (4, False), (6, False), (6, True)]
    assert {"reward", "kl_ref", "entropy", "legality", "silent.tokens", "part.tokens",
            "anchor",
            "threshold_share"} <= found[1].keys()
    timed = read_log(work / "log.jsonl")[2]
    assert sum(timed[name] for name in TIMES[1:]) == pytest.approx(1)
    values = [line["valid.figure"] for line in found if "valid.figure" in line]
    assert outcome.best == max(values) and outcome.start["figure"] == values[0]
    assert outcome.best_step == [0, 3, 6][values.index(max(values))]
    assert outcome.steps == 6 and not outcome.reason
    assert read_outcome(work) == dataclasses.asdict(outcome)
    assert read_params(work / "best")[1] == outcome.best_step
    assert read_params(work / "last")[1] == 6


def test_a_finished_run_is_not_done_again(data, whole):
    work, outcome = whole
    before = (work / "log.jsonl").read_bytes()

    def never(params):
        raise AssertionError("evaluated again")
    assert tiny_align.run(data, work, evaluate=never) == outcome
    assert (work / "log.jsonl").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("evaluation", [2, 3])
def test_killed_and_started_again_it_ends_with_the_same_bits(data, tmp_path, evaluation,
                                                             whole):
    # The second evaluation, after 3 experiences, comes before a checkpoint, with a
    # sampler that is one update old; the third at the very end.
    options = {"data": str(data.folder), "work": str(tmp_path)}
    path = os.pathsep.join([str(HERE.parents[1]), str(HERE.parent), str(HERE)])

    def start(**more):
        return subprocess.run(
            [sys.executable, str(HERE / "tiny_align.py"),
             json.dumps({**options, **more})], text=True, capture_output=True,
            timeout=300, env={**os.environ, "PYTHONPATH": path})
    found = start(kill={"evaluation": evaluation})
    assert found.returncode == -signal.SIGKILL, found.stderr
    found = start()
    assert found.returncode == 0, found.stderr
    work, outcome = whole
    assert json.loads(found.stdout.splitlines()[-1]) == dataclasses.asdict(outcome)
    same(tmp_path / "last", work / "last")
    same(tmp_path / "best", work / "best")
    assert lines(tmp_path) == lines(work)


def test_eight_devices_align_as_one_does(data, whole, tmp_path):
    tiny_align.run(data, tmp_path, mesh=parallel.make_mesh(
        parallel.MeshConfig(data=4, fsdp=2)))
    jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, atol=2e-5),
                 read_params(tmp_path / "last")[0], read_params(whole[0] / "last")[0])


def test_another_configuration_or_start_is_refused(data, whole):
    with pytest.raises(InputError, match="align.group: 4 there, 6 now"):
        tiny_align.run(data, whole[0], group=6)
    with pytest.raises(InputError, match="batch is 6, which 8 devices cannot share"):
        tiny_align.run(data, whole[0], batch=6, mesh=parallel.make_mesh())


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Poisoned:
    """Signals of which one request's is bad."""

    value: jax.Array

    def __call__(self, batch, items):
        fine = jnp.arange(items.size, dtype=jnp.float32).reshape(items.shape) / 64
        return {"tokens": fine.at[2, 1].set(self.value)}


@dataclasses.dataclass(frozen=True)
class Constant:
    def __call__(self, batch, items):
        return {"tokens": jnp.full(items.shape, 0.5)}


jax.tree_util.register_static(Constant)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_a_poisoned_signal_stops_before_any_update(data, tmp_path, value):
    with pytest.raises(InputError, match=(
            r"component 'tokens' is .* in scenario 'all', request training target \d+, "
            "candidate 1")):
        tiny_align.run(data, tmp_path, signals_of=Poisoned(jnp.float32(value)))
    assert [line["step"] for line in lines(tmp_path)] == [0]  # nothing was learnt


def test_a_signal_that_is_the_same_everywhere_stops_too(data, tmp_path):
    with pytest.raises(InputError, match="'tokens' is 0.5 for all 40 candidates"):
        tiny_align.run(data, tmp_path, signals_of=Constant())


def test_a_judge_is_asked_for_what_was_drawn_and_its_share_counts(data, tmp_path):
    asked = []

    def judge(rows, items):
        asked.append((rows.copy(), items.copy()))
        return np.float32(items % 2), np.arange(len(rows)) < 4
    with pytest.raises(InputError, match="a2po, which needs semantic rewards"):
        tiny_align.run(data, tmp_path, policy=PolicyConfig("a2po"))
    tiny_align.run(data, tmp_path, policy=PolicyConfig("a2po"), judge=judge, steps=2,
                   evaluate_every=2)
    requests = tiny_align.setting(data).requests
    assert len(asked) == 2
    for step, (rows, items) in enumerate(asked):
        np.testing.assert_array_equal(rows, requests[step]["rows"])
        assert items.shape == (8, 4)
    line = lines(tmp_path)[1]
    assert 0 < line["gate_agreement"] < 0.5  # half of the groups have no second stream

    def broken(rows, items):
        return np.full(items.shape, np.nan), np.arange(len(rows)) == 3
    with pytest.raises(InputError, match=f"'semantic' is nan for training target "
                                         f"{asked[0][0][3]}, candidate 0"):
        tiny_align.run(data, tmp_path / "broken", policy=PolicyConfig("a2po"),
                       judge=broken)


def test_patience_ends_a_run_that_no_longer_gets_better(data, tmp_path):
    values = iter([0.5, 0.4, 0.3, 0.9])
    outcome = tiny_align.run(
        data, tmp_path, patience=2, evaluate_every=1, checkpoint_every=1,
        evaluate=lambda params: {"figure": next(values), "reward@10": 0.0})
    assert (outcome.steps, outcome.best_step, outcome.best) == (2, 0, 0.5)


def test_an_alarm_stops_a_run_with_its_reason_and_stays(data, tmp_path):
    # The first update has a rate of 0; the second experience's is the first to move.
    options = {"alarms": Alarms(kl=1e-9), "log_every": 1, "evaluate_every": 6,
               "checkpoint_every": 6}
    outcome = tiny_align.run(data, tmp_path, **options)
    assert "divergence from the reference is" in outcome.reason
    assert outcome.steps == 3 and read_params(tmp_path / "last")[1] == 3
    assert lines(tmp_path)[-1]["valid.figure"] == outcome.last["figure"]
    assert tiny_align.run(data, tmp_path, **options) == outcome


LINE = {"kl_ref": 0.1, "entropy": 2.0, "legality": 0.4}


@pytest.mark.parametrize("normalise, change, said", [
    ("legal", {"kl_ref": 1.1}, "reference is 1.1 nats for each code, above"),
    ("legal", {"entropy": 0.39}, "entropy has collapsed to 0.39 from 2 nats"),
    ("legal", {"legality": 0.1}, ""),  # the search is legal in any case
    ("full", {"legality": 0.19}, "legal items hold 0.19 of their probability over the "
                                 "full codebooks, 0.4 at first"),
    ("full", {"kl_ref": 0.9, "entropy": 0.41, "legality": 0.21}, "")])
def test_a_window_is_compared_with_the_first(normalise, change, said):
    watch = Watch(AlignConfig(normalise=normalise))
    watch.window(LINE)
    again = Watch(AlignConfig(normalise=normalise))
    again.recall(json.loads(json.dumps(watch.remembered())))
    for each in (watch, again):
        each.window({**LINE, **change})
        assert each.reason.startswith("") and said in each.reason
        assert bool(each.reason) == bool(said)


@pytest.mark.parametrize("reward, guard, stops", [
    (0.6, 0.079, True), (0.6, 0.081, False), (0.5, 0.05, False), (0.4, 0.05, False)])
def test_a_reward_that_rises_while_the_guard_falls_is_an_alarm(reward, guard, stops):
    watch = Watch(AlignConfig())
    watch.evaluation({"reward@10": 0.5, "item.ndcg@10": 0.1},
                     {"reward@10": reward, "item.ndcg@10": guard})
    assert bool(watch.reason) == stops
    if stops:
        assert "item.ndcg@10 fell from 0.1 to 0.079" in watch.reason


def test_alarms_that_make_no_sense_are_refused():
    with pytest.raises(InputError, match="align.alarms.kl is -1"):
        Alarms(kl=-1.0)
