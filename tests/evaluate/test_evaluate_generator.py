"""What the generator recommends for a split, row by row."""

import numpy as np
import pytest

import tiny_world
from oxyrec_jax.base import InputError
from oxyrec_jax.decode.recommend import recommend
from oxyrec_jax.evaluate.generator import recommend_split


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    data = tiny_world.make_dataset(tmp_path_factory.mktemp("d") / "d", sequences=11)
    model = tiny_world.make_model()
    catalogue, leaves = tiny_world.make_items()
    return model, tiny_world.make_params(model, catalogue.tables), data, catalogue, (
        leaves)


def ask(world, **options):
    model, params, data, catalogue, leaves = world
    return recommend_split(model, params, data, "test", catalogue, leaves,
                           **{"history": 5, "beams": 6, "batch": 4} | options)


def test_every_row_is_answered_in_order_and_by_its_own_history(world):
    model, params, data, catalogue, leaves = world
    lists, numbers = ask(world)
    assert numbers.tolist() == list(range(11)) and lists.items.shape == (11, 6)
    for row, (sequence, first, _) in enumerate(data.split("test")):
        history = np.asarray(data.history(sequence, first))[-5:]
        padded = np.zeros((1, 5), np.int32)
        padded[0, :len(history)] = history
        alone = recommend(model, params, {
            "items": padded, "segments": (np.arange(5) < len(history)).astype(np.int32)
            [None], "target_positions": np.array([[len(history) - 1]], np.int32)},
            catalogue, beams=6)
        assert lists.sids[row].tolist() == alone.leaves[0].tolist()
        expected = leaves.items[leaves.offsets[np.asarray(alone.leaves[0])]]
        assert lists.items[row].tolist() == expected.tolist()  # one item for each ID


def test_the_size_of_a_batch_changes_nothing(world):
    one, _ = ask(world, batch=4)
    other, _ = ask(world, batch=16)
    np.testing.assert_array_equal(one.items, other.items)


def test_a_quick_look_takes_every_second_batch(world):
    every, _ = ask(world)
    some, numbers = ask(world, every=2)
    assert numbers.tolist() == [0, 1, 2, 3, 8, 9, 10]  # batches 0 and 2 of 3
    np.testing.assert_array_equal(some.items, every.items[numbers])


def test_more_beams_than_items_are_refused(world):
    with pytest.raises(InputError, match="31 beams for a catalogue of 30 items"):
        ask(world, beams=31)
