"""Batches: every target once an epoch, honest histories, exact resume, exact shards."""

import json

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from oxyrec_jax.base import InputError
from oxyrec_jax.data import dataset, packing, pipeline, schema


def make(folder, lengths, rows, *, shard_events=1 << 20):
    """A data set whose items are all different, so that an item names its event."""
    lengths = np.asarray(lengths)
    events = int(lengths.sum())

    def fill(out):
        out.add_items(schema.item_table({"item_id": [str(i) for i in range(events)]}))
        done = 0
        for number, length in enumerate(lengths):
            event = done + np.arange(length)
            out.add_sequences({"item": event, "time": 1000 + event, "trigger": event},
                              [length], [f"u{number}"])
            done += length
        for split, chosen in rows.items():
            out.add_targets(split, np.asarray(chosen).reshape(-1, 3))
    dataset.write_dataset(folder, fill, columns=("item", "time", "trigger"), facts={},
                          shard_events=shard_events)
    return dataset.load_dataset(folder)


def whole(lengths):
    """Split rows that make every event with a history a target."""
    return [(s, 1, n) for s, n in enumerate(lengths) if n > 1]


def epoch(source, number=0):
    return [source[number * source.steps_per_epoch + step]
            for step in range(source.steps_per_epoch)]


def seen(batches):
    """(target event, event at its position, earliest event it sees) of each target."""
    found = []
    for batch in batches:
        for b, j in np.argwhere(batch["target_mask"]):
            position = batch["target_positions"][b, j]
            segment = batch["segments"][b, position]
            assert segment > 0
            visible = np.flatnonzero(batch["segments"][b, :position + 1] == segment)
            events = batch["items"][b, visible]
            assert (np.diff(visible) == 1).all() and (np.diff(events) == 1).all()
            found.append((int(batch["targets"][b, j]), int(events[-1]), int(events[0])))
    return found


LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=12).filter(
    lambda lengths: max(lengths) > 1)


@hypothesis.settings(deadline=None, max_examples=40)
@hypothesis.given(lengths=LENGTHS, history=st.integers(1, 12), extra=st.integers(0, 20),
                  batch=st.integers(1, 4), seed=st.integers(0, 99), data=st.data(),
                  mode=st.sampled_from(["packed", "last"]))
def test_every_target_once_an_epoch_with_its_own_history(
        tmp_path_factory, lengths, history, extra, batch, seed, data, mode):
    rows = []
    for number, length in enumerate(lengths):
        if length > 1:
            first = data.draw(st.integers(1, length - 1))
            rows.append((number, first, data.draw(st.integers(first + 1, length))))
    opened = make(tmp_path_factory.mktemp("d") / "d", lengths, {"train": rows},
                  shard_events=data.draw(st.sampled_from([1, 30, 1000])))
    cfg = pipeline.Pipeline(batch=batch, history=history, row_length=history + extra,
                            mode=mode)
    source = pipeline.TrainSource(opened, cfg, seed=seed)
    begins = opened.offsets()
    expected = [begins[s] + p for s, first, last in rows for p in range(first, last)]
    for number in (0, 1):
        found = seen(epoch(source, number))
        assert sorted(target for target, _, _ in found) == expected
        for target, newest, oldest in found:
            begin = begins[np.searchsorted(begins, target, side="right") - 1]
            assert newest == target - 1
            assert oldest >= begin
            depth = target - oldest
            full = min(history, target - begin)
            assert depth <= history
            assert depth >= (full if mode == "last" else min(full, history // 2 + 1))
    assert source.targets_per_epoch == len(expected)


def test_a_packed_batch_by_hand(tmp_path):
    # Sequences of 3 and 2 events, a row of 4 positions: windows of 2 and 1 positions.
    opened = make(tmp_path / "d", [3, 2], {"train": whole([3, 2])})
    cfg = pipeline.Pipeline(batch=2, history=2, row_length=4, columns=("trigger",))
    batch = pipeline.TrainSource(opened, cfg, seed=0)[0]
    row = int(np.flatnonzero(batch["segments"].any(axis=1))[0])
    assert batch["items"][row].tolist() == [0, 1, 3, 0]
    assert batch["segments"][row].tolist() == [1, 1, 2, 0]
    assert batch["targets"][row].tolist() == [1, 2, 4, 0]
    assert batch["target_mask"][row].tolist() == [True, True, True, False]
    assert batch["target_positions"][row].tolist() == [0, 1, 2, 3]
    assert batch["trigger"][row].tolist() == [0, 1, 3, -1]
    assert batch["target_trigger"][row].tolist() == [1, 2, 4, -1]
    empty = 1 - row
    assert not batch["segments"][empty].any() and not batch["target_mask"][empty].any()
    kinds = {name: values.dtype.name for name, values in batch.items()}
    assert kinds == {
        "items": "int32", "segments": "int32", "targets": "int32",
        "target_mask": "bool", "target_positions": "int32", "trigger": "int32",
        "target_trigger": "int32"}


def test_a_batch_of_mode_last_by_hand(tmp_path):
    # Targets at positions 1 and 3 of one sequence of 4; two events of history at most.
    opened = make(tmp_path / "d", [4], {"train": [(0, 1, 2), (0, 3, 4)]})
    cfg = pipeline.Pipeline(batch=3, history=2, mode="last", columns=("time",))
    batch = pipeline.TrainSource(opened, cfg, seed=0)[0]
    order = np.argsort(batch["targets"][:2, 0])
    assert batch["items"][order].tolist() == [[0, 0], [1, 2]]
    assert batch["segments"][order].tolist() == [[1, 0], [1, 1]]
    assert batch["targets"][order].tolist() == [[1], [3]]
    assert batch["target_positions"][order].tolist() == [[0], [1]]
    assert batch["time"][order].tolist() == [[1000, 0], [1001, 1002]]
    assert batch["target_time"][order].tolist() == [[1001], [1003]]
    assert batch["target_mask"].tolist() == [[True], [True], [False]]
    assert not batch["segments"][2].any()


def test_windows_of_a_long_sequence_by_hand():
    # Targets 1..10 need positions 0..9; history 4, so context 2 and stride 2.
    windows = packing.tile(np.array([[0, 1, 11]]), np.array([0, 11]), 4)
    assert windows.start.tolist() == [0, 2, 4, 6]
    assert windows.length.tolist() == [4, 4, 4, 4]
    assert windows.fresh.tolist() == [0, 2, 2, 2]
    # One target at position 9 of the second sequence reads the 4 events before it.
    windows = packing.tile(np.array([[1, 9, 10]]), np.array([0, 7, 17]), 4)
    assert (windows.start.tolist(), windows.length.tolist(), windows.fresh.tolist()
            ) == ([7 + 5], [4], [3])


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(lengths=st.lists(st.integers(1, 10), min_size=1, max_size=200),
                  extra=st.integers(0, 20), seed=st.integers(0, 9))
def test_packing_gives_each_window_one_slot_and_bounded_waste(lengths, extra, seed):
    lengths, row_length = np.array(lengths), 10 + extra
    rows = packing.pack(lengths, row_length)
    windows = packing.assign(rows, lengths, np.random.default_rng(seed))
    assert sorted(windows) == list(range(len(lengths)))
    assert (lengths[windows] == rows.lengths).all()
    for first, last in zip(rows.offsets[:-1], rows.offsets[1:]):
        used = rows.lengths[first:last].astype(int)
        assert used.sum() <= row_length
        assert rows.starts[first:last].tolist() == (np.cumsum(used) - used).tolist()
    fewest = -(-int(lengths.sum()) // row_length)
    # First-fit decreasing never leaves two rows half empty.
    assert len(rows.offsets) - 1 <= 2 * fewest
    assert packing.fill(rows, row_length) == pytest.approx(
        lengths.sum() / ((len(rows.offsets) - 1) * row_length))


def test_packing_wastes_little_on_lengths_like_those_of_a_log(tmp_path):
    rng = np.random.default_rng(0)
    lengths = np.minimum(20, 2 + rng.geometric(0.2, 20_000))
    assert packing.fill(packing.pack(lengths, 64), 64) > 0.98


@pytest.fixture
def opened(tmp_path):
    lengths = [2, 9, 4, 30, 7, 3, 5, 12, 2, 6]
    rows = {"train": whole(lengths),
            "test": [(s, n - 1, n) for s, n in enumerate(lengths)]}
    return make(tmp_path / "opened", lengths, rows, shard_events=20)


@pytest.mark.parametrize("mode", ["packed", "last"])
def test_resume_at_any_batch_gives_identical_batches(opened, mode):
    cfg = pipeline.Pipeline(batch=2, history=6, row_length=8, mode=mode)
    straight = pipeline.train_batches(opened, cfg, seed=3)
    steps = 2 * pipeline.TrainSource(opened, cfg, seed=3).steps_per_epoch + 1
    states, batches = [], []
    for _ in range(steps):
        states.append(json.dumps(straight.get_state()))
        batches.append(next(straight))
    for step in range(steps):
        resumed = pipeline.train_batches(opened, cfg, seed=3)
        resumed.set_state(json.loads(states[step]))
        started = pipeline.train_batches(opened, cfg, seed=3, start=step)
        for expected in batches[step:step + 3]:
            same(next(resumed), expected)
            same(next(started), expected)


def test_reading_ahead_with_threads_changes_nothing(opened):
    cfg = pipeline.Pipeline(batch=2, history=6, row_length=8)
    plain = pipeline.train_batches(opened, cfg, seed=3, start=1)
    ahead = pipeline.train_batches(opened, cfg, seed=3, start=1, threads=2)
    for _ in range(20):
        same(next(plain), next(ahead))
    state = json.loads(json.dumps(ahead.get_state()))
    resumed = pipeline.train_batches(opened, cfg, seed=3, threads=2)
    resumed.set_state(state)
    same(next(resumed), next(plain))


@pytest.mark.parametrize("mode", ["packed", "last"])
def test_two_processes_slices_make_up_the_one_process_batch(opened, mode):
    cfg = pipeline.Pipeline(batch=4, history=6, row_length=8, mode=mode)
    one = pipeline.TrainSource(opened, cfg, seed=1)
    two = [pipeline.TrainSource(opened, cfg, seed=1, process_index=i, process_count=2)
           for i in (0, 1)]
    for step in range(one.steps_per_epoch + 1):
        parts = [source[step] for source in two]
        whole_batch = {name: np.concatenate([part[name] for part in parts])
                       for name in parts[0]}
        same(whole_batch, one[step])


def test_order_depends_on_seed_and_epoch_alone(opened):
    cfg = pipeline.Pipeline(batch=2, history=6, row_length=8)
    first, again, other = (pipeline.TrainSource(opened, cfg, seed=s) for s in (5, 5, 6))
    late = epoch(again, 4)  # a fresh source may be asked for any epoch first
    for batch, expected in zip(late, epoch(first, 4)):
        same(batch, expected)

    def order(source, number):
        return np.concatenate([b["items"] for b in epoch(source, number)]).tolist()
    assert order(first, 0) != order(first, 1)
    assert order(first, 0) != order(other, 0)


def test_evaluation_batches_follow_the_split(opened):
    batches = pipeline.eval_batches(opened, "test", batch=4, history=5,
                                    columns=("time",))
    assert len(batches) == 3 == len(list(batches))
    begins, rows = opened.offsets(), []
    for batch in batches:
        assert batch["items"].shape == (4, 5) and batch["targets"].shape == (4, 1)
        for b in np.flatnonzero(batch["target_mask"][:, 0]):
            row = int(batch["rows"][b])
            rows.append(row)
            sequence, position, _ = opened.splits["test"][row]
            history = opened.history(sequence, position)[-5:]
            last = batch["target_positions"][b, 0]
            assert batch["items"][b, :last + 1].tolist() == history.tolist()
            assert batch["segments"][b].tolist() == (
                [1] * len(history) + [0] * (5 - len(history)))
            assert batch["targets"][b, 0] == begins[sequence] + position
            assert batch["target_time"][b, 0] == 1000 + begins[sequence] + position
    assert rows == list(range(10))
    final = list(batches)[-1]
    assert final["rows"].tolist() == [8, 9, -1, -1]
    assert final["target_mask"][:, 0].tolist() == [True, True, False, False]


def test_a_split_of_ranges_is_evaluated_target_by_target(opened):
    targets = opened.targets("train")
    for batch in pipeline.eval_batches(opened, "train", batch=7, history=3):
        live = batch["target_mask"][:, 0]
        sequence, position = targets[batch["rows"][live]].T
        expected = opened.offsets()[sequence] + position
        assert batch["targets"][live, 0].tolist() == expected.tolist()


def test_fill_is_the_share_of_positions_with_an_event(opened):
    for mode in ("packed", "last"):
        cfg = pipeline.Pipeline(batch=3, history=6, row_length=8, mode=mode)
        source = pipeline.TrainSource(opened, cfg, seed=0)
        held = np.concatenate([batch["segments"] for batch in epoch(source)]) > 0
        assert source.fill == pytest.approx(held.mean())


@pytest.mark.parametrize("settings, message", [
    ({"batch": 0}, "pipeline.batch is 0, expected 1"),
    ({"history": 70}, "row_length is 64, less than pipeline.history 70"),
    ({"row_length": 70_000}, "expected 1 to 65535"),
    ({"mode": "middle"}, "'middle', expected 'packed', 'last' or 'requests'"),
    ({"columns": ("colour",)}, "names colour, expected any of time"),
    ({"columns": ("item",)}, "names item"),
])
def test_wrong_settings_are_refused_in_a_sentence(settings, message):
    with pytest.raises(InputError, match=message):
        pipeline.Pipeline(**settings)


def test_what_the_data_set_lacks_is_named(opened, tmp_path):
    with pytest.raises(InputError, match="names 'price', which .* does not have"):
        pipeline.TrainSource(opened, pipeline.Pipeline(columns=("price",)), seed=0)
    four = pipeline.Pipeline(batch=4)
    with pytest.raises(InputError, match="3 processes .* cannot share"):
        pipeline.TrainSource(opened, four, seed=0, process_count=3)
    with pytest.raises(InputError, match="'valid' targets"):
        pipeline.eval_batches(opened, "valid", batch=2, history=3)
    only_test = make(tmp_path / "e", [3], {"test": [(0, 2, 3)]})
    with pytest.raises(InputError, match="'train' targets"):
        pipeline.TrainSource(only_test, pipeline.Pipeline(), seed=0)


def same(batch, expected):
    assert sorted(batch) == sorted(expected)
    for name in expected:
        np.testing.assert_array_equal(batch[name], expected[name])
