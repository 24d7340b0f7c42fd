"""Texts that are left out in training, and behaviours that no request gives away."""

import numpy as np
import pytest

from oxyrec_jax.base import InputError
from oxyrec_jax.data import dataset, pipeline, schema
from oxyrec_jax.data.instruction_table import InstructionTable
from oxyrec_jax.data.shop.instructions import InstructionSource


def table(events=6_000):
    index = np.arange(events, dtype=np.int32) % 5
    return InstructionTable(index, np.eye(5, 3, dtype=np.float32), list("abcde"))


def test_a_share_of_the_requests_loses_its_text_and_the_others_keep_theirs():
    full, requests = table(), np.repeat(np.arange(2_000), 3)
    thin = full.thinned(0.3, requests, seed=1)
    gone = (thin.index < 0).reshape(2_000, 3)
    assert (gone.all(axis=1) == gone.any(axis=1)).all()  # whole requests
    assert abs(gone.mean() - 0.3) < 0.05  # sd 0.01
    np.testing.assert_array_equal(thin.index[thin.index >= 0],
                                  full.index[thin.index >= 0])
    assert not full.take(np.flatnonzero(gone.reshape(-1))[:1]).all()
    assert not thin.take(np.flatnonzero(gone.reshape(-1))).any()


def test_the_same_seed_leaves_out_the_same_requests_whatever_they_are_called():
    full, requests = table(), np.repeat(np.arange(2_000), 3)
    one = full.thinned(0.3, requests, seed=1).index
    np.testing.assert_array_equal(full.thinned(0.3, 7 + 2 * requests, seed=1).index,
                                  one)
    assert (full.thinned(0.3, requests, seed=2).index != one).any()
    np.testing.assert_array_equal(full.thinned(0.0, requests, seed=1).index, full.index)
    empty = InstructionTable(np.zeros(0, np.int32), np.zeros((0, 3)), [])
    assert not len(empty.thinned(0.5, np.zeros(0, np.int64), seed=0).index)


def test_a_share_that_cannot_be_is_refused():
    with pytest.raises(InputError, match="instructions.dropout is 1.0"):
        InstructionSource(dropout=1.0)
    with pytest.raises(ValueError, match="requests.shape"):
        table().thinned(0.5, np.zeros(4), seed=0)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """One user of eight events; what was done with the targets differs."""
    def fill(out):
        out.add_items(schema.item_table({"item_id": [f"i{n}" for n in range(8)]}))
        out.add_sequences({"item": np.arange(8), "behaviour": np.arange(8) % 3}, [8],
                          ["u"])
        out.add_targets("train", np.array([[0, 1, 5]]))
        out.add_targets("test", np.array([[0, 5, 8]]))
    folder = tmp_path_factory.mktemp("behaviours") / "d"
    dataset.write_dataset(folder, fill, columns=("item", "behaviour"),
                          facts={"behaviours": ["click", "cart", "order"]})
    return dataset.load_dataset(folder)


@pytest.mark.parametrize("name, number", [("", 2), ("click", 0), ("order", 2)])
def test_a_request_asks_for_one_behaviour_and_hides_what_was_done(log, name, number):
    batches = pipeline.eval_batches(log, "test", batch=2, history=4, behaviour=name,
                                    columns=("behaviour",))
    shown = [batch["target_behaviour"] for batch in [*batches, batches.take([0, 2])]]
    assert all((asked == number).all() for asked in shown)
    # What was done before the request is history, and shown as it was.
    assert batches.take([0])["behaviour"].tolist() == [[1, 2, 0, 1]]


def test_training_is_told_what_was_done(log):
    cfg = pipeline.Pipeline(batch=4, history=4, mode="last", columns=("behaviour",))
    batch = pipeline.TrainSource(log, cfg, seed=0)[0]
    assert sorted(batch["target_behaviour"][:, 0].tolist()) == [0, 1, 1, 2]


def test_a_behaviour_that_the_log_does_not_know_is_named(log):
    with pytest.raises(InputError, match="'theft'.* has click, cart, order"):
        pipeline.eval_batches(log, "test", batch=2, history=4, behaviour="theft")
