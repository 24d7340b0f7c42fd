"""The network: who sees what, packing, search against training, every option."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny_world
from oxyrec_jax.base import InputError
from oxyrec_jax.models.generator import ModelConfig

SEGMENTS = [[1, 1, 1, 1, 2, 2, 2, 0, 0], [1, 1, 2, 2, 2, 2, 3, 3, 3]]


def world(*, features=0, **options):
    model = tiny_world.make_model(**options)
    successors = None
    if model.cfg.memory:
        rng = np.random.default_rng(0)
        successors = tiny_world.count_successors(
            rng.integers(0, 30, 200), np.arange(0, 201, 10),
            np.array([(s, 1, 10) for s in range(20)]), num_items=30, most=6)
    catalogue, _ = tiny_world.make_items(features=features, successors=successors)
    params = tiny_world.make_params(model, catalogue.tables)
    return model, catalogue, params


def logits_of(model, params, batch, tables):
    logits, state = tiny_world.forward(model, params, batch, tables)
    return np.concatenate([np.asarray(level) for level in logits], -1), state


def test_a_later_item_never_changes_an_earlier_target():
    model, catalogue, params = world(encoder_layers=2)
    batch = tiny_world.make_batch(segments=SEGMENTS)
    before, _ = logits_of(model, params, batch, catalogue.tables)
    for place in range(9):
        changed = {name: rows.copy() for name, rows in batch.items()}
        changed["items"][:, place] = (changed["items"][:, place] + 7) % 30
        after, _ = logits_of(model, params, changed, catalogue.tables)
        np.testing.assert_array_equal(after[:, :place], before[:, :place])
        assert (after[:, place] != before[:, place]).any()


@pytest.mark.parametrize("causal", [True, False])
def test_a_packed_neighbour_and_padding_change_nothing(causal):
    model, catalogue, params = world(encoder_layers=2, causal=causal)
    batch = tiny_world.make_batch(segments=SEGMENTS)
    before, _ = logits_of(model, params, batch, catalogue.tables)
    for segment in range(4):
        changed = {name: rows.copy() for name, rows in batch.items()}
        here = batch["segments"] == segment
        changed["items"] = np.where(here, (batch["items"] + 11) % 30, batch["items"])
        after, _ = logits_of(model, params, changed, catalogue.tables)
        np.testing.assert_array_equal(after[~here], before[~here])
        assert (after[here] != before[here]).any()


@pytest.mark.parametrize("causal", [True, False])
def test_a_packed_history_scores_as_it_does_alone(causal):
    model, catalogue, params = world(encoder_layers=2, causal=causal, buckets=8)
    batch = tiny_world.make_batch(segments=SEGMENTS)
    packed, _ = logits_of(model, params, batch, catalogue.tables)
    for row, segment in ((0, 1), (0, 2), (1, 1), (1, 2), (1, 3)):
        here = np.flatnonzero(batch["segments"][row] == segment)
        alone = {name: np.zeros((1, 6), rows.dtype) for name, rows in batch.items()}
        for name in ("items", "targets"):
            alone[name][0, :len(here)] = batch[name][row, here]
        alone["segments"][0, :len(here)] = 1
        alone["target_positions"][0] = np.arange(6)
        found, _ = logits_of(model, params, alone, catalogue.tables)
        np.testing.assert_allclose(found[0, :len(here)], packed[row, here],
                                   rtol=2e-5, atol=2e-5)


def test_a_bidirectional_target_sees_the_whole_segment_and_a_causal_one_its_prefix():
    for causal, seen in ((False, [1, 1, 1, 1, 1, 0, 0]), (True, [1, 1, 1, 0, 0, 0, 0])):
        model, catalogue, params = world(causal=causal)
        batch = tiny_world.make_batch(segments=[[1, 1, 1, 1, 1, 2, 0]])
        batch = {**batch, "targets": batch["targets"][:, :1],
                 "target_positions": np.array([[2]], np.int32)}
        before, _ = logits_of(model, params, batch, catalogue.tables)
        for place in range(7):
            items = batch["items"].copy()
            items[0, place] = (items[0, place] + 3) % 30
            after, _ = logits_of(model, params, {**batch, "items": items},
                                 catalogue.tables)
            assert (after != before).any() == bool(seen[place]), (causal, place)


def test_a_row_of_padding_alone_is_finite_in_value_and_gradient():
    model, catalogue, params = world()
    batch = tiny_world.make_batch(segments=[[0] * 9, [1] * 9])

    def total(params):
        logits, _ = model.apply({"params": params}, batch, catalogue.tables)
        return sum(jnp.sum(level[1]) for level in logits), logits
    (_, logits), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
    for leaf in jax.tree.leaves((logits, gradient)):
        assert np.isfinite(leaf).all()


OPTIONS = {
    "plain": {},
    "untied": {"tied": False},
    "shared untied head": {"head": "shared", "tied": False},
    "codes alone": {"position_state": False, "item_embedding": False},
    "bidirectional": {"causal": False},
    "deep": {"encoder_layers": 2, "decoder_layers": 3},
    "without encoder layers": {"encoder_layers": 0},
    "memory and item head": {"memory": True, "item_head": True, "head": "shared"},
    "bfloat16": {"dtype": "bfloat16", "memory": True, "item_head": True},
    "features": {"features": 5},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_search_scores_as_training_does_and_logits_are_float32(options):
    model, catalogue, params = world(**options)
    rng = np.random.default_rng(3)
    segments = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32)
    last = np.array([[2], [4]], np.int32)
    beams = 4
    targets = rng.integers(0, 30, (2, beams)).astype(np.int32)
    batch = {"items": rng.integers(0, 30, (2, 5)).astype(np.int32),
             "segments": segments}

    @jax.jit
    def both(params):
        taught, _ = model.apply(
            {"params": params}, {**batch, "targets": targets, "target_positions":
                                 np.repeat(last, beams, axis=1)}, catalogue.tables)
        search = model.apply({"params": params}, {**batch, "target_positions": last},
                             catalogue.tables, method="start_search")
        past, searched = (), []
        for level in range(3):
            codes = catalogue.tables.codes[targets][..., level - 1] if level else None
            if level == 1:  # every beam begins from the one root
                past = jax.tree.map(lambda x: jnp.repeat(x, beams, axis=1), past)
            logits, past = model.apply({"params": params}, search, past, codes, level,
                                       method="search_step")
            searched.append(logits)
        return taught, searched
    taught, searched = both(params)
    loose = {"rtol": 0.1, "atol": 0.15} if model.cfg.dtype == "bfloat16" else {
        "rtol": 2e-5, "atol": 2e-5}
    for level, (one, other) in enumerate(zip(taught, searched, strict=True)):
        assert one.dtype == other.dtype == jnp.float32
        assert np.isfinite(one).all() and np.isfinite(other).all()
        if model.cfg.head == "shared":  # training sees all codes of all levels
            assert one.shape[-1] == sum(model.widths)
            start = model.starts[level]
            one = one[..., start:start + model.widths[level]]
        one = jnp.broadcast_to(one, (2, beams, model.widths[level]))
        np.testing.assert_allclose(one if level else one[:, :1], other, **loose)


def test_options_change_the_parameters_that_they_name():
    def names(**options):
        model, _, params = world(**options)
        return set(params)
    plain = names()
    assert names(tied=False) - plain == {"head_vectors"}
    assert plain - names(item_embedding=False) == {"item_vectors"}
    assert names(features=3) - plain == {"feature_in"}
    mixing = {"gate", "gate_bias", "sharpness"}
    assert names(item_head=True) - plain == mixing
    assert names(memory=True) - plain == mixing | {"gate_heard", "memory"}
    assert names(legal_softmax=False) == plain


def test_item_scores_are_products_with_the_input_vectors():
    model, catalogue, params = world(features=4, item_head=True)
    state = np.random.default_rng(0).normal(size=(2, 3, 16)).astype(np.float32)
    targets = np.array([[4, 0, 29], [7, 7, 1]])

    def ask(*args, method):
        return np.asarray(tiny_world.forward(model, params, *args, method=method))
    every = ask(state, catalogue.tables, method="item_scores")
    codes = np.asarray(catalogue.tables.codes) + np.array(model.starts)
    own = jax.tree.map(np.asarray, params)
    vectors = (own["code_vectors"][codes].sum(1) + own["item_vectors"]
               + np.asarray(catalogue.tables.features) @ own["feature_in"]["kernel"])
    np.testing.assert_allclose(every, state @ vectors.T, rtol=1e-4, atol=1e-4)
    some = ask(state, catalogue.tables, np.array([5, 2]), method="item_scores")
    np.testing.assert_allclose(some, every[..., [5, 2]], rtol=1e-5, atol=1e-5)
    own = ask(state, targets, catalogue.tables, method="own_scores")
    np.testing.assert_allclose(own, np.take_along_axis(every, targets[..., None], -1)[
        ..., 0], rtol=1e-4, atol=1e-4)


def test_own_scores_are_as_exact_as_item_scores_in_bfloat16():
    model, catalogue, params = world(item_head=True)
    state = jnp.asarray(np.random.default_rng(0).normal(size=(1, 30, 16)), jnp.bfloat16)
    every, own = (
        tiny_world.forward(model, params, *args, catalogue.tables, method=method)
        for args, method in (((state,), "item_scores"),
                             ((state, np.arange(30)[None]), "own_scores")))
    np.testing.assert_allclose(own[0], jnp.diagonal(every[0]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("option", [
    {"head": "Shared"}, {"dtype": "float16"}, {"width": 0}, {"heads": 0},
    {"dropout": 1.0}, {"dropout": -0.1}, {"buckets": 1}, {"encoder_layers": -1},
    {"max_distance": 16}, {"causal": False, "buckets": 2}])
def test_an_impossible_network_is_named(option):
    with pytest.raises(InputError, match=f"model.{next(reversed(option))} is "):
        dataclasses.replace(ModelConfig(), **option)


def test_dropout_needs_a_stream_and_changes_with_it():
    model, catalogue, params = world(dropout=0.5)
    batch = tiny_world.make_batch(segments=SEGMENTS)

    @jax.jit
    def state(seed):
        return model.apply({"params": params}, batch, catalogue.tables, train=True,
                           rngs={"dropout": jax.random.key(seed)})[1]
    assert (state(0) == state(0)).all() and (state(0) != state(1)).any()
