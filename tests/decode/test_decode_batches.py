"""Who else is in a batch, its size and its padding change no answer."""

import jax
import numpy as np
import pytest

import tiny_world
from oxyrec_jax.decode.recommend import recommend

ITEMS, LENGTH, BATCH = 30, 8, 4


@pytest.fixture(scope="module")
def world():
    model = tiny_world.make_model(ITEMS, decoder_layers=2)
    catalogue, leaves = tiny_world.make_items(ITEMS)
    return model, catalogue, leaves, tiny_world.make_params(model, catalogue.tables)


def requests(histories, length=LENGTH, fill=0):
    rows = len(histories)
    batch = {"items": np.full((rows, length), fill, np.int32),
             "segments": np.zeros((rows, length), np.int32),
             "target_positions": np.array([[len(h) - 1] for h in histories], np.int32)}
    for row, history in enumerate(histories):
        batch["items"][row, :len(history)] = history
        batch["segments"][row, :len(history)] = 1
    return batch


def draw(rng, count):
    return [rng.integers(0, ITEMS, rng.integers(1, LENGTH + 1)) for _ in range(count)]


def answer(world, batch, beams=9):
    model, catalogue, _, params = world
    return jax.tree.map(np.asarray,
                        recommend(model, params, batch, catalogue, beams=beams))


def test_the_others_of_a_batch_and_the_place_in_it_change_no_bit(world):
    rng = np.random.default_rng(0)
    mine = draw(rng, 1)[0]
    first = None
    for _ in range(6):
        place = int(rng.integers(BATCH))
        others = draw(rng, BATCH - 1)
        found = answer(world, requests([*others[:place], mine, *others[place:]]))
        row = jax.tree.map(lambda values: values[place], found)
        first = first or row
        jax.tree.map(np.testing.assert_array_equal, row, first)


def test_what_stands_in_the_padding_changes_no_bit(world):
    histories = draw(np.random.default_rng(1), BATCH)
    jax.tree.map(np.testing.assert_array_equal, answer(world, requests(histories)),
                 answer(world, requests(histories, fill=ITEMS - 1)))


def test_size_and_length_of_a_batch_change_rounding_at_most(world):
    histories = draw(np.random.default_rng(2), BATCH)
    together = answer(world, requests(histories))
    longer = answer(world, requests(histories, LENGTH + 5))
    np.testing.assert_array_equal(longer.leaves, together.leaves)
    np.testing.assert_allclose(longer.log_probs, together.log_probs, rtol=1e-5,
                               atol=1e-5)
    for row, history in enumerate(histories):
        alone = answer(world, requests([history]))
        np.testing.assert_array_equal(alone.leaves[0], together.leaves[row])
        np.testing.assert_allclose(alone.log_probs[0], together.log_probs[row],
                                   rtol=1e-5, atol=1e-5)


def test_as_many_beams_as_items_return_all_in_order(world):
    _, _, leaves, _ = world
    found = answer(world, requests(draw(np.random.default_rng(3), BATCH)), beams=40)
    for row in range(BATCH):
        live = found.leaves[row] >= 0
        assert sorted(found.leaves[row][live].tolist()) == list(range(len(leaves)))
        assert (np.diff(found.log_probs[row][live]) <= 0).all()
        assert found.bound[row] == -np.inf
    np.testing.assert_allclose(np.exp(found.log_probs).sum(1), 1, rtol=1e-5)


def test_float32_ranks_as_float64_but_for_near_ties(world):
    """Scores of float32 logits, normalised and summed once more in float64."""
    model, catalogue, leaves, params = world
    batch = requests(draw(np.random.default_rng(4), BATCH))
    found = answer(world, batch, beams=ITEMS)
    asked = {**batch, "targets": np.tile(np.arange(ITEMS, dtype=np.int32), (BATCH, 1)),
             "target_positions": np.repeat(batch["target_positions"], ITEMS, 1)}
    logits, _ = jax.jit(model.apply)({"params": params}, asked, catalogue.tables)
    codes = np.asarray(catalogue.tables.codes)
    exact = np.zeros((BATCH, ITEMS))
    for item in range(ITEMS):
        for level in range(codes.shape[1]):
            same = (codes[:, :level] == codes[item, :level]).all(1)
            legal = np.unique(codes[same, level])
            own = np.asarray(logits[level][:, item], np.float64)
            exact[:, item] += own[:, codes[item, level]] - np.log(
                np.exp(own[:, legal]).sum(1))
    by_leaf = exact[:, np.asarray(leaves.items)]
    for row in range(BATCH):
        ranked = by_leaf[row][found.leaves[row]]
        np.testing.assert_allclose(found.log_probs[row], ranked, rtol=1e-5, atol=1e-5)
        assert (np.diff(ranked) <= 1e-5).all()  # a swap is of scores that close
