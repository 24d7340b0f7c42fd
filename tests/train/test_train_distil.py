"""Learning from oneself, told more: what it reads, what it moves, what it is off by."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tiny_world
from oxyrec_jax.base import InputError
from oxyrec_jax.data.align_requests import AlignRequests
from oxyrec_jax.data.instruction_table import InstructionTable
from oxyrec_jax.decode import rollout
from oxyrec_jax.models.instructions import InstructionConfig
from oxyrec_jax.train.align import Experience, update
from oxyrec_jax.train.align_settings import AlignConfig, DistilConfig
from oxyrec_jax.train.policy import PolicyConfig

ITEMS, WIDTHS = 12, (3, 2, 4)


@functools.cache
def world():
    """A network that reads texts, and two requests that a teacher knows more about."""
    model = tiny_world.make_model(ITEMS, WIDTHS, instructions=InstructionConfig(
        placement="right", reasoning=True, hidden=8))
    catalogue, _ = tiny_world.make_items(ITEMS, WIDTHS)
    rng = np.random.default_rng(0)
    batch = {"items": np.array([[3, 1, 7], [5, 2, 0]], np.int32),
             "segments": np.array([[1, 1, 1], [1, 1, 0]], np.int32),
             "target_positions": np.array([[2], [1]], np.int32),
             "targets": np.array([[4], [9]], np.int32),
             "target_mask": np.ones((2, 1), bool),
             "target_instruction": np.zeros((2, 1, 6), np.float32),
             "told": rng.normal(size=(2, 1, 6)).astype(np.float32)}
    batch = jax.tree.map(jnp.asarray, batch)
    params = jax.tree.map(lambda leaf: leaf + jnp.asarray(
        rng.normal(0, 0.2, leaf.shape), jnp.float32),
        tiny_world.init_params(model, batch, catalogue.tables))
    return model, catalogue, params, batch


def experience(items, rewards):
    """One without a preference: equal rewards have no advantage."""
    shape = (*items.shape, len(WIDTHS))
    log = jnp.full(shape, -1.0)
    return Experience(
        rollout.Rollouts(items, jnp.ones(items.shape, bool)), log, log, {}, rewards,
        jnp.zeros(len(items)), None, None, jnp.zeros(0), jnp.zeros(0), jnp.float32(1))


def test_distributions_hold_the_probabilities_of_the_codes():
    model, catalogue, params, batch = world()
    items = jnp.array([[0, 5, 11], [4, 9, 2]])
    each, whole = (jax.jit(read, static_argnums=0)(
        model, params, batch, catalogue, items)
        for read in (rollout.code_log_probs, rollout.code_distributions))
    assert [level.shape[:2] for level in whole] == [(2, 1), (2, 3), (2, 3)]
    for level, found in enumerate(whole):
        np.testing.assert_allclose(np.exp(found).sum(-1), 1, rtol=1e-5)
        near = np.abs(np.asarray(found) - np.asarray(each)[..., level, None]).min(-1)
        assert near.max() < 1e-5


def test_it_moves_towards_itself_told_more_and_is_nothing_where_it_is_off():
    model, catalogue, params, batch = world()
    cfg = AlignConfig(group=2, anchor=0.0, policy=PolicyConfig("grpo"),
                      distil=DistilConfig(weight=1.0))
    seen = experience(jnp.array([[0, 5], [4, 9]]), jnp.zeros((2, 2)))
    optimizer = optax.sgd(0.05)
    learn = jax.jit(functools.partial(update, model, cfg, optimizer))
    moments, gaps = optimizer.init(params), []
    for _ in range(6):
        params, moments, figures = learn(params, moments, batch, catalogue, seen)
        gaps.append(float(figures["distil"]))
        assert float(figures["policy"]) == pytest.approx(0, abs=1e-6)
    assert gaps[-1] < 0.8 * gaps[0] and gaps[0] > 0.01
    off = jax.jit(functools.partial(update, model, dataclasses.replace(
        cfg, distil=DistilConfig()), optimizer))
    _, _, figures = off(params, moments, batch, catalogue, seen)
    assert "distil" not in figures and float(figures["loss"]) == pytest.approx(0)


def test_requests_hold_the_future_of_their_split_and_the_texts_of_the_teacher(tmp_path):
    data = tiny_world.make_dataset(tmp_path / "d")
    table = InstructionTable(np.arange(data.num_events, dtype=np.int32), np.arange(
        2 * data.num_events, dtype=np.float32).reshape(-1, 2), [""] * data.num_events)
    for split in ("train", "valid"):
        batch = AlignRequests(data, batch=8, logged=0, history=6, seed=0, split=split,
                              horizon=3, told=table)[0]
        ends = {int(row[0]): int(row[2]) for row in data.split(split)}
        for row, future, told in zip(batch["rows"], batch["future"], batch["told"]):
            sequence, position = data.targets(split)[row]
            first = int(data.offsets()[sequence]) + int(position)
            own = data.column("item")[first:first + min(3, ends[sequence] - position)]
            assert future.tolist() == [*own.tolist(), *[-1] * (3 - len(own))]
            assert told.tolist() == [[2.0 * first, 2.0 * first + 1]]
    assert (batch["future"][:, 1:] == -1).all()  # nobody is told the test split


@pytest.mark.parametrize("name, bad", [("weight", -1.0), ("of", "some"),
                                       ("certain", -0.1)])
def test_settings_that_make_no_sense_are_refused(name, bad):
    with pytest.raises(InputError, match=f"align.distil.{name} is"):
        DistilConfig(**{name: bad})
