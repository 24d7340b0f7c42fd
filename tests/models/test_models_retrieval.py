"""Instruction-guided retrieval: exact choices, one history for one target, no leaks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny_world
from oxyrec_jax import losses
from oxyrec_jax.base import InputError
from oxyrec_jax.data import pipeline
from oxyrec_jax.decode.recommend import recommend, with_item_keys
from oxyrec_jax.models import retrieval
from oxyrec_jax.models.instructions import InstructionConfig
from oxyrec_jax.train.objective import ObjectiveConfig, supervised_loss

KEEP, LONG = 3, 7


def world(**options):
    cfg = {"events": LONG, "keep": KEEP, "width": 6, "hidden": 8, **options}
    model = tiny_world.make_model(
        causal=False, retrieval=retrieval.RetrievalConfig(**cfg),
        instructions=InstructionConfig("right", scenarios=3, hidden=8))
    catalogue, _ = tiny_world.make_items(features=4)
    rng = np.random.default_rng(0)
    batch = {"items": rng.integers(0, 30, (4, 5)).astype(np.int32),
             "segments": np.ones((4, 5), np.int32),
             "long_items": rng.integers(0, 30, (4, LONG)).astype(np.int32),
             "targets": rng.integers(0, 30, (4, 1)).astype(np.int32),
             "target_mask": np.ones((4, 1), bool),
             "target_positions": np.full((4, 1), 4, np.int32),
             "target_scenario": rng.integers(0, 3, (4, 1)).astype(np.int8)}
    batch["long_items"][1, 2:] = -1
    batch["long_items"][2] = -1
    params = tiny_world.init_params(model, batch, catalogue.tables)
    return model, catalogue, params, batch


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 5), st.integers(0, 5),
       st.sampled_from(("instruction", "recent")))
def test_the_choice_is_that_of_a_sort(seed, length, keep, recent, choose):
    """Oracle: the latest `recent`, then by score, the later of equals first."""
    rng = np.random.default_rng(seed)
    keep = min(keep, length)
    recent = min(recent, keep)
    items = rng.integers(-1, 6, (2, length)).astype(np.int32)
    scores = rng.integers(0, 3, (2, 6)).astype(np.float32)
    cfg = retrieval.RetrievalConfig(events=length, keep=keep, recent=recent,
                                    choose=choose)
    found = np.asarray(retrieval.choose_events(cfg, jnp.asarray(scores),
                                               jnp.asarray(items)))
    for row in range(2):
        places = [place for place in range(length) if items[row, place] >= 0]
        latest = places[::-1][:recent]
        rest = [place for place in places if place not in latest]
        rest.sort(key=lambda place: (
            -scores[row, items[row, place]] if choose == "instruction" else 0, -place))
        chosen = sorted((latest + rest)[:keep])
        expected = [int(items[row, place]) for place in chosen]
        assert [item for item in found[row].tolist() if item >= 0] == expected


def test_random_choices_are_spread_over_the_history():
    cfg = retrieval.RetrievalConfig(events=40, keep=10, choose="random")
    items = np.tile(np.arange(40, dtype=np.int32), (200, 1))
    items[:, 0] = np.arange(200)  # histories that differ
    found = np.asarray(retrieval.choose_events(cfg, jnp.zeros((200, 200)),
                                               jnp.asarray(items)))
    share = np.array([(found == place).any(axis=1).mean() for place in range(1, 40)])
    assert abs(share.mean() - 0.25) < 0.02  # 10 of 40
    assert share.min() > 0.1 and share.max() < 0.4  # 200 draws: sd 0.03


def test_only_what_is_kept_is_read():
    model, catalogue, params, batch = world()

    def run(batch):
        logits, _ = tiny_world.forward(model, params, batch, catalogue.tables)
        kept = tiny_world.forward(model, params, batch, catalogue.tables,
                                  method="retrieve")
        return np.concatenate([np.asarray(level) for level in logits], -1), kept
    before, kept = run(batch)
    kept = np.asarray(kept)
    assert (kept[2] == -1).all() and (kept[1] >= 0).sum() == 2
    lost = [item for item in batch["long_items"][0].tolist() if item not in kept[0]]
    changed = batch["long_items"].copy()
    changed[0, batch["long_items"][0].tolist().index(lost[0])] = lost[-1]
    after, _ = run({**batch, "long_items": changed})
    np.testing.assert_array_equal(after, before)
    changed = batch["long_items"].copy()
    changed[0] = -1
    after, _ = run({**batch, "long_items": changed})
    assert (after[0] != before[0]).any()
    np.testing.assert_array_equal(after[1:], before[1:])


def test_keys_given_in_advance_are_those_computed():
    model, catalogue, params, batch = world()
    keys = tiny_world.forward(model, params, catalogue.tables, method="item_keys")
    np.testing.assert_allclose(np.linalg.norm(keys, axis=-1), 1, rtol=1e-5)
    ready = dataclasses.replace(catalogue.tables, keys=keys)
    one, other = (tiny_world.forward(model, params, batch, tables, method="retrieve")
                  for tables in (catalogue.tables, ready))
    np.testing.assert_array_equal(one, other)


def test_a_search_with_keys_made_once_finds_what_it_finds_without():
    model, catalogue, params, batch = world()
    ready = with_item_keys(model, params, catalogue)
    assert ready.tables.keys is not None and catalogue.tables.keys is None
    one, other = (recommend(model, params, batch, items, beams=4)
                  for items in (catalogue, ready))
    np.testing.assert_array_equal(one.leaves, other.leaves)
    np.testing.assert_array_equal(one.log_probs, other.log_probs)
    plain = tiny_world.make_model()
    assert with_item_keys(plain, None, catalogue) is catalogue


def test_the_likelihood_does_not_train_the_retriever_and_q2i_does():
    model, catalogue, params, batch = world()

    def slope(weight):
        cfg = ObjectiveConfig(q2i=weight)
        found = jax.jit(jax.grad(lambda p: supervised_loss(
            model, p, batch, catalogue, jax.random.key(0), cfg)[0].total))(params)
        return found["retriever"]
    for leaf in jax.tree.leaves(slope(0.0)):
        assert not np.asarray(leaf).any()
    for leaf in jax.tree.leaves(slope(0.5)):
        assert np.asarray(leaf).any()


def test_q2i_leaves_the_table_of_codes_on_the_side_of_the_target_alone():
    model, catalogue, params, batch = world()

    def key_of(params):
        return jnp.sum(model.apply({"params": params}, catalogue.tables,
                                   method="item_keys"))
    found = jax.jit(jax.grad(key_of))(params)
    assert not np.asarray(found["code_vectors"]).any()


@pytest.mark.parametrize("real", [2, 3, 5])
def test_a_masked_pair_is_as_if_it_were_not_there(real):
    rng = np.random.default_rng(real)
    q, t = (x / np.linalg.norm(x, axis=1, keepdims=True)
            for x in rng.normal(size=(2, 5, 4)))
    mask = np.arange(5) < real
    weights = {"variance_weight": 0.3, "decorrelation_weight": 0.7}
    alone = losses.q2i_loss(jnp.asarray(q[:real]), jnp.asarray(t[:real]), **weights)
    garbage = np.where(mask[:, None], q, np.nan)
    found = losses.q2i_loss(jnp.asarray(garbage), jnp.asarray(t), **weights,
                            mask=jnp.asarray(mask))
    np.testing.assert_allclose(found.total, alone.total, rtol=1e-5)
    assert float(found.weight) == real


def test_fewer_than_two_real_pairs_cost_nothing():
    x = jnp.eye(3)
    found = losses.q2i_loss(x, x, variance_weight=1.0, decorrelation_weight=1.0,
                            mask=jnp.array([True, False, False]))
    assert float(found.total) == 0


@pytest.mark.parametrize("options, words", [
    ({"choose": "best"}, "'best', expected one of instruction"),
    ({"events": 4, "keep": 9}, "keeps 9 of 4"),
    ({"events": 9, "keep": 3, "recent": 4}, "4 of them the latest"),
    ({"width": 0}, "at least 1"),
])
def test_settings_that_cannot_be_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        retrieval.RetrievalConfig(**options)


def test_retrieval_needs_instructions_to_ask_with():
    with pytest.raises(InputError, match="asks by instructions"):
        tiny_world.make_model(retrieval=retrieval.RetrievalConfig(events=20))


def test_a_batch_holds_the_events_before_the_recent_ones(tmp_path):
    log = tiny_world.make_dataset(tmp_path / "d", longest=9)
    batches = pipeline.eval_batches(log, "test", batch=24, history=3, long=4)
    batch = next(iter(batches))
    offsets, items = log.offsets(), log.column("item")
    for row in range(24):
        whole = items[offsets[row]:offsets[row + 1] - 1]
        older = whole[:-3][-4:] if len(whole) > 3 else []
        expected = [*older, *[-1] * (4 - len(older))]
        assert batch["long_items"][row].tolist() == expected


def test_a_long_history_is_of_mode_last(tmp_path):
    with pytest.raises(InputError, match="only in mode 'last'"):
        pipeline.Pipeline(long=10)
