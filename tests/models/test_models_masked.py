"""Which codes are hidden, what a masked decoder sees of the others, and its passes."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny_world
from oxyrec_jax.base import InputError
from oxyrec_jax.models import masked
from oxyrec_jax.models.config import ModelConfig


@pytest.mark.parametrize("depth", [1, 3, 4])
def test_any_number_of_codes_is_hidden_as_often_and_any_of_them(depth):
    draws = 60_000
    hidden = np.asarray(masked.draw_hidden(jax.random.key(0), (draws // 100, 100),
                                           depth)).reshape(draws, depth)
    for chosen in itertools.product([False, True], repeat=depth):
        count = sum(chosen)
        chance = 1 / (depth * math.comb(depth, count)) if count else 0
        found = (hidden == np.array(chosen)).all(1).mean()
        assert abs(found - chance) <= 5 * math.sqrt(chance * (1 - chance) / draws)


def test_passes_begin_where_they_are_said_to():
    assert masked.first_levels(1, 3) == (0,)
    assert masked.first_levels(2, 3) == (0, 1)  # one level, then two
    assert masked.first_levels(0, 3) == masked.first_levels(3, 3) == (0, 1, 2)
    assert masked.first_levels(3, 8) == (0, 2, 5)
    with pytest.raises(InputError, match="passes is 4 and semantic IDs have 3 codes"):
        masked.first_levels(4, 3)


@pytest.mark.parametrize("options", [{"decoding": "parallel", "passes": 1},
                                     {"passes": 2}, {"passes": -1}], ids=str)
def test_passes_are_of_a_masked_decoder(options):
    with pytest.raises(InputError, match="model.passes"):
        ModelConfig(**options)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_code_is_seen_from_both_sides_and_a_hidden_one_by_nobody(layers):
    model = tiny_world.make_model(decoding="masked", decoder_layers=layers)
    catalogue, _ = tiny_world.make_items()
    params = jax.tree.map(lambda leaf: leaf * 2,
                          tiny_world.make_params(model, catalogue.tables))
    batch = tiny_world.make_batch()
    shape = batch["targets"].shape
    codes = np.asarray(catalogue.tables.codes)
    # a target that differs in the middle code alone, as a table of two items
    pair = np.array([[1, 0, 3], [1, 2, 3]])
    tables = tiny_world.ItemTables(jnp.asarray(np.concatenate([codes, pair])))
    batch["items"] = np.minimum(batch["items"], len(codes) - 1)

    def scores(target, hidden):
        own = {**batch, "targets": np.full(shape, len(codes) + target, np.int32),
               "hidden": np.broadcast_to(np.array(hidden), (*shape, 3))}
        logits, _ = apply(own)
        return [np.asarray(level) for level in logits]

    wide = model.clone(items=len(codes) + 2)
    apply = jax.jit(lambda own: wide.apply({"params": {
        **params, "item_vectors": jnp.zeros((len(codes) + 2, 16))}}, own, tables))
    for hidden, seen in (([True, True, True], False), ([False, True, False], False),
                         ([True, False, True], True)):
        one, other = scores(0, hidden), scores(1, hidden)
        for level in range(3):
            moved = np.abs(one[level] - other[level]).max()
            assert (moved > 0.01) == seen, (hidden, level, moved)
