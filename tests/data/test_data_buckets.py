"""Batches by length of history: less padding, every target once, the same each time."""

import json

import numpy as np
import pytest

import tiny_world
from oxyrec_jax.base import InputError
from oxyrec_jax.data.pipeline import Pipeline, TrainSource, train_batches

CFG = Pipeline(batch=4, history=8, mode="last", buckets=(2, 5))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """40 histories, the last two events of each held out."""
    return tiny_world.make_dataset(tmp_path_factory.mktemp("buckets") / "d",
                                   sequences=41, shortest=4, longest=13)


def epoch(source, number=0):
    return [source[number * source.steps_per_epoch + step]
            for step in range(source.steps_per_epoch)]


def rows_of(batches):
    """(history, target) of every real row, sorted."""
    return sorted(
        (tuple(row[real].tolist()), int(target)) for batch in batches
        for row, real, target, there in zip(
            batch["items"], batch["segments"] > 0, batch["targets"][:, 0],
            batch["target_mask"][:, 0], strict=True) if there)


def test_an_epoch_holds_the_rows_of_one_without_buckets(data):
    plain = TrainSource(data, Pipeline(batch=4, history=8, mode="last"), seed=3)
    source = TrainSource(data, CFG, seed=3)
    assert source.steps_per_epoch == plain.steps_per_epoch
    assert source.targets_per_epoch == plain.targets_per_epoch
    for number in (0, 1):
        assert rows_of(epoch(source, number)) == rows_of(epoch(plain, number))


def test_rows_are_as_long_as_the_shortest_bucket_that_takes_them(data):
    source = TrainSource(data, CFG, seed=3)
    batches, mixed = epoch(source), 0
    assert {batch["items"].shape for batch in batches} == {(4, 2), (4, 5), (4, 8)}
    for batch in batches:
        lengths = (batch["segments"] > 0).sum(axis=1)[batch["target_mask"][:, 0]]
        width = batch["items"].shape[1]
        shorter = max([edge for edge in (0, 2, 5) if edge < width])
        assert lengths.max() > shorter
        mixed += lengths.min() <= shorter  # one at most where a bucket ends
        last = batch["target_positions"][:len(lengths), 0]
        assert (last == lengths - 1).all()
    assert mixed <= 2
    assert source[source.longest]["items"].shape == (4, 8)


def test_fill_is_the_share_of_positions_with_an_event_and_rises(data):
    source = TrainSource(data, CFG, seed=3)
    held = [batch["segments"] > 0 for batch in epoch(source)]
    share = sum(one.sum() for one in held) / sum(one.size for one in held)
    assert source.fill == pytest.approx(share)
    plain = TrainSource(data, Pipeline(batch=4, history=8, mode="last"), seed=3)
    assert source.fill > plain.fill + 0.1


def test_a_run_goes_on_in_the_middle_and_epochs_differ(data):
    steps = TrainSource(data, CFG, seed=3).steps_per_epoch + 3
    straight = train_batches(data, CFG, seed=3)
    seen = [next(straight) for _ in range(steps)]
    broken = train_batches(data, CFG, seed=3)
    for _ in range(5):
        next(broken)
    state = json.loads(json.dumps(broken.get_state()))
    again = train_batches(data, CFG, seed=3)
    again.set_state(state)
    for expected in seen[5:]:
        found = next(again)
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values)
    source = TrainSource(data, CFG, seed=3)
    assert [batch["items"].shape for batch in epoch(source, 0)] != [
        batch["items"].shape for batch in epoch(source, 1)]


def test_processes_share_each_batch(data):
    whole = TrainSource(data, CFG, seed=3)
    shares = [TrainSource(data, CFG, seed=3, process_index=number, process_count=2)
              for number in (0, 1)]
    for step in range(whole.steps_per_epoch):
        both = [share[step] for share in shares]
        for name, values in whole[step].items():
            np.testing.assert_array_equal(
                np.concatenate([one[name] for one in both]), values)


@pytest.mark.parametrize("options", [
    {"buckets": (5, 2)}, {"buckets": (8,)}, {"buckets": (0, 3)}, {"buckets": (3, 3)},
    {"buckets": (2,), "mode": "packed"}, {"buckets": (2,), "mode": "requests"}],
    ids=str)
def test_buckets_that_will_not_do_are_refused(options):
    with pytest.raises(InputError, match=r"pipeline.buckets is \[.*expected rising"):
        Pipeline(**{"history": 8, "mode": "last", **options})
