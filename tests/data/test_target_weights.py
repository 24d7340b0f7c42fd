"""Scenarios as training targets: which are supervised, and how much each counts."""

import json

import numpy as np
import pytest

from oxyrec_jax.base import InputError
from oxyrec_jax.data import dataset, pipeline, schema
from oxyrec_jax.data.target_weights import (scenario_counts, target_events,
                                            target_weights, targets_in)

A, B, C = 0, 1, 2
NAMES = ("home", "cart", "search")
# Two people; an item names its event. Targets are the events 1 to 5 and 7 to 9.
SCENARIO = (A, A, B, A, B, A, C, A, A, B)
BEHAVIOUR = (0, 1, 0, 0, 1, 0, 0, 0, 1, 0)
LENGTHS = (6, 4)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return make(tmp_path_factory.mktemp("log") / "d")


def make(folder, *, scenarios=True):
    columns = {"item": np.arange(10), "behaviour": np.array(BEHAVIOUR)}
    if scenarios:
        columns["scenario"] = np.array(SCENARIO)

    def fill(out):
        out.add_items(schema.item_table({"item_id": [str(n) for n in range(10)]}))
        out.add_sequences(columns, LENGTHS, ["u0", "u1"])
        out.add_targets("train", np.array([[0, 1, 6], [1, 1, 4]]))
    dataset.write_dataset(folder, fill, columns=tuple(columns), facts={
        "behaviours": ["click", "order"], "scenarios": list(NAMES)})
    return dataset.load_dataset(folder)


def weights(log, **options):
    return target_weights(log, behaviours={}, **({"scenarios": {}} | options))


def supervised(batch):
    return sorted(batch["targets"][batch["target_mask"]].tolist())


def epoch(source):
    return [source[step] for step in range(source.steps_per_epoch)]


def test_targets_are_counted_by_scenario(log):
    assert target_events(log, "train").tolist() == [1, 2, 3, 4, 5, 7, 8, 9]
    assert scenario_counts(log, "train").tolist() == [5, 3, 0]


def test_weights_by_hand(log):
    found = weights(log, scenarios={"cart": 2.0})
    np.testing.assert_array_equal(found.tables["scenario"], [1, 2, 1])
    assert not found.even and weights(log).even and found.kept is None
    # n = 5, 3, 0 and T = 2: sqrt(5) / 5 and sqrt(3) / 3, times 8 / (sqrt(5) + sqrt(3)).
    root, total = np.sqrt([5, 3]), np.sqrt(5) + np.sqrt(3)
    found = weights(log, temperature=2.0).tables["scenario"]
    np.testing.assert_allclose(found[:2], root / [5, 3] * 8 / total, rtol=1e-6)
    assert found[2] == 1  # no target to weigh
    np.testing.assert_allclose(found[:2] @ [5, 3], 8, rtol=1e-6)
    np.testing.assert_allclose(  # in sum each scenario counts the same
        weights(log, temperature=1e9).tables["scenario"][:2] * [5, 3], 4, rtol=1e-6)
    both = weights(log, temperature=1e9, scenarios={"cart": 3.0}).tables["scenario"]
    np.testing.assert_allclose(both[:2] * [5, 3], [4, 12], rtol=1e-6)


@pytest.mark.parametrize("mode", ["packed", "last"])
def test_a_target_weighs_its_behaviour_times_its_scenario(log, mode):
    cfg = pipeline.Pipeline(batch=8, history=6, row_length=6, mode=mode,
                            columns=("weight",), behaviour_weights={"order": 3.0},
                            scenario_weights={"cart": 2.0})
    for batch in epoch(pipeline.TrainSource(log, cfg, seed=0)):
        mask = batch["target_mask"]
        assert supervised(batch) == [1, 2, 3, 4, 5, 7, 8, 9]
        of = dict(zip(batch["targets"][mask].tolist(), batch["target_weight"][mask]))
        # orders are the events 1, 4 and 8, carts 2, 4 and 9
        assert of == {1: 3, 2: 2, 3: 1, 4: 6, 5: 1, 7: 1, 8: 3, 9: 2}
        assert (batch["target_weight"][~mask] == 1).all()


@pytest.mark.parametrize("mode", ["packed", "last"])
def test_targets_of_one_scenario_keep_the_history_of_all(log, mode):
    cfg = pipeline.Pipeline(batch=2, history=6, row_length=6, mode=mode,
                            scenarios=("cart",))
    source = pipeline.TrainSource(log, cfg, seed=0)
    assert source.targets_per_epoch == 3
    found = []
    for batch in epoch(source):
        for b, j in np.argwhere(batch["target_mask"]):
            place = batch["target_positions"][b, j]
            same = batch["segments"][b] == batch["segments"][b, place]
            seen = batch["items"][b][same & (np.arange(same.size) <= place)]
            found.append((int(batch["targets"][b, j]), seen.tolist()))
    assert sorted(found) == [(2, [0, 1]), (4, [0, 1, 2, 3]), (9, [6, 7, 8])]


def test_windows_without_a_wanted_target_are_left_out(log):
    # History 2: windows at events (0, 1), (1, 2), (2, 3), (3, 4) and (6, 7), (7, 8),
    # whose new targets are 1 and 2, 3, 4, 5, 7 and 8, 9.
    cfg = pipeline.Pipeline(batch=1, history=2, row_length=2, scenarios=("cart",))
    batches = epoch(pipeline.TrainSource(log, cfg, seed=0))
    kept = sorted((batch["items"][0].tolist(), supervised(batch)) for batch in batches)
    assert kept == [([0, 1], [2]), ([2, 3], [4]), ([7, 8], [9])]


@pytest.mark.parametrize("mode", ["packed", "last"])
def test_fill_and_resume_hold_for_one_scenario_too(log, mode):
    cfg = pipeline.Pipeline(batch=2, history=3, row_length=3, mode=mode,
                            scenarios=("home",), scenario_temperature=2.0,
                            columns=("weight",))
    source = pipeline.TrainSource(log, cfg, seed=1)
    held = np.concatenate([batch["segments"] for batch in epoch(source)]) > 0
    assert source.fill == pytest.approx(held.mean())
    straight = pipeline.train_batches(log, cfg, seed=1)
    states = []
    for step in range(2 * source.steps_per_epoch):
        states.append(json.dumps(straight.get_state()))
        expected = next(straight)
        resumed = pipeline.train_batches(log, cfg, seed=1)
        resumed.set_state(json.loads(states[step]))
        found = next(resumed)
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values)


def test_evaluation_asks_for_every_target_whatever_training_does(log):
    batch = next(iter(pipeline.eval_batches(log, "train", batch=8, history=6)))
    assert supervised(batch) == [1, 2, 3, 4, 5, 7, 8, 9]


@pytest.mark.parametrize("settings, message", [
    ({"scenarios": ("till",)}, "pipeline.scenarios names 'till', .* home, cart, sea"),
    ({"scenario_weights": {"till": 2.0}}, "scenario_weights names 'till'"),
    ({"scenarios": ("search",)}, "no training targets in the scenarios search"),
])
def test_scenarios_that_are_not_there_are_named(log, settings, message):
    with pytest.raises(InputError, match=message):
        pipeline.TrainSource(log, pipeline.Pipeline(**settings), seed=0)


@pytest.mark.parametrize("settings, message", [
    ({"scenario_weights": {"cart": 0.0}}, "gives 'cart' 0.0, expected above 0"),
    ({"scenario_temperature": 0.0}, "scenario_temperature is 0.0, expected above 0"),
])
def test_weights_that_are_none_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        pipeline.Pipeline(**settings)


def test_a_log_without_scenarios_says_so(tmp_path):
    log = make(tmp_path / "d", scenarios=False)
    assert weights(log).even
    for settings in ({"scenarios": ("home",)}, {"scenario_temperature": 2.0},
                     {"scenario_weights": {"home": 2.0}}):
        with pytest.raises(InputError, match=f"{next(iter(settings))} is set, and .* "
                                             "have no scenario"):
            pipeline.TrainSource(log, pipeline.Pipeline(**settings), seed=0)


def test_a_scenario_s_targets_can_be_asked_alone(log):
    only = targets_in(log, "train", ["cart"])
    assert only.tolist() == [1, 3, 7] and targets_in(log, "train", []) is None
    batches = pipeline.eval_batches(log, "train", batch=2, history=6, only=only)
    found = list(batches)
    assert len(batches) == len(found) == 2
    assert [batch["rows"].tolist() for batch in found] == [[1, 3], [7, -1]]
    assert [supervised(batch) for batch in found] == [[2, 4], [9]]
    with pytest.raises(InputError, match="no 'train' targets in the scenarios search"):
        targets_in(log, "train", ["search"])
