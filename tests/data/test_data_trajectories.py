"""One sequence for a person, or one for each of the person's scenarios."""

import numpy as np
import pytest

from oxyrec_jax.data import dataset as datasets
from oxyrec_jax.data import pipeline, schema
from oxyrec_jax.data.trajectories import trajectories
from oxyrec_jax.errors import InputError

ITEMS = [0, 1, 2, 3, 4, 5, 1, 2, 3]   # six events of one person, three of another
WHERE = [0, 1, 0, 1, 1, 0, 1, 0, 0]


def write(folder, columns=("item", "scenario")):
    def fill(out):
        out.add_items(schema.item_table({"item_id": list("abcdef")}))
        values = {"item": np.array(ITEMS), "scenario": np.array(WHERE)}
        out.add_sequences({name: values[name] for name in columns}, np.array([6, 3]),
                          ["ann", "bob"])
        out.add_targets("train", np.array([[0, 1, 5], [1, 1, 2]]))
        out.add_targets("test", np.array([[0, 5, 6], [1, 2, 3]]))
    datasets.write_dataset(folder, fill, columns=columns,
                           facts={"scenarios": ["home", "cart"]})
    return datasets.load_dataset(folder)


def test_the_same_targets_stand_behind_both_histories(tmp_path):
    found = trajectories(write(tmp_path / "d"))
    # Of five training targets, ann's first in the cart and bob's first at home go.
    assert found.shares == {"train": 3 / 5, "test": 1.0}
    assert found.joined.targets("train").tolist() == [[0, 2], [0, 3], [0, 4]]
    # ann at home: items 0 2 5, in the cart 1 3 4; bob at home: 2 3, in the cart 1.
    assert found.apart.targets("train").tolist() == [[0, 1], [1, 1], [1, 2]]
    assert found.apart.column("item").tolist() == [0, 2, 5, 1, 3, 4, 2, 3, 1]
    assert found.apart.offsets().tolist() == [0, 3, 6, 8, 9]
    assert found.apart.num_sequences == 4


@pytest.mark.parametrize("split, histories", [
    ("train", ([[0, 1], [0, 1, 2], [0, 1, 2, 3]], [[0], [1], [1, 3]])),
    ("test", ([[0, 1, 2, 3, 4], [1, 2]], [[0, 2], [2]]))])
def test_batches_read_the_history_that_each_has(tmp_path, split, histories):
    found = trajectories(write(tmp_path / "d"))
    targets = []
    for data, expected in zip((found.joined, found.apart), histories):
        batch, = pipeline.eval_batches(data, split, batch=len(expected), history=6,
                                       columns=("scenario",))
        read = [row[kept > 0].tolist() for row, kept in
                zip(batch["items"], batch["segments"])]
        assert read == expected
        targets.append((batch["targets"].tolist(), batch["target_scenario"].tolist()))
        if data is found.apart:
            same = batch["scenario"] == batch["target_scenario"]
            assert same[batch["segments"] > 0].all()
    assert targets[0] == targets[1]


def test_events_without_scenarios_are_refused(tmp_path):
    with pytest.raises(InputError, match="no column 'scenario'"):
        trajectories(write(tmp_path / "d", columns=("item",)))
