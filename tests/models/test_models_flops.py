"""Closed-form FLOPs beside what XLA counts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import tiny_world
from oxyrec_jax.models import layers, moe
from oxyrec_jax.models.flops import batch_flops, forward_flops

WIDTHS = (256, 256, 256)
LENGTH = 24
WIDTH = 512  # wide, so that norms, softmax and masks are a fraction of a per cent


def counted_by_xla(model, tables, batch):
    """FLOPs of the program as it is handed to XLA: nothing is compiled or allocated."""
    params = nn.meta.unbox(jax.eval_shape(lambda: model.init(
        jax.random.key(0), batch, tables)["params"]))
    lowered = jax.jit(lambda params, batch: model.apply(
        {"params": params}, batch, tables)[0]).lower(params, batch)
    return lowered.cost_analysis()["flops"]


@pytest.mark.parametrize("options", [
    {"causal": False}, {"causal": True}, {"causal": True, "head": "shared"},
    {"causal": False, "encoder_layers": 3, "decoder_layers": 2},
    {"causal": True, "features": 40}, {"causal": True, "decoding": "masked"}], ids=str)
def test_flops_are_what_xla_counts_within_two_per_cent(monkeypatch, options):
    monkeypatch.setattr(layers, "_ONE_HOT_ROWS", 0)  # look-ups, which cost no FLOPs
    options = dict(options)
    features = options.pop("features", 0)
    model = tiny_world.make_model(30, WIDTHS, width=WIDTH, heads=4,
                                  head_width=WIDTH // 4, mlp_width=2 * WIDTH, **options)
    catalogue, _ = tiny_world.make_items(30, WIDTHS, features=features)
    rows, targets = 3, LENGTH if model.cfg.causal else 1
    batch = tiny_world.make_batch(segments=np.ones((rows, LENGTH)))
    if not model.cfg.causal:
        batch |= {"targets": batch["targets"][:, :1],
                  "target_positions": batch["target_positions"][:, -1:]}
    ours = forward_flops(model.cfg, WIDTHS, lengths=[LENGTH] * rows,
                         targets=[targets] * rows, features=features)
    unseen = 0.0
    if model.cfg.causal:  # XLA multiplies the scores above the diagonal too
        half = LENGTH * (LENGTH - 1) / 2
        positions = len(WIDTHS) + (model.cfg.decoding == "masked")
        unseen = rows * 4 * WIDTH * half * (
            model.cfg.encoder_layers + positions * model.cfg.decoder_layers)
    share = counted_by_xla(model, catalogue.tables, batch) / (ours.total + unseen)
    assert 1.0 <= share < 1.02, (share, ours)


def test_flops_by_hand():
    cfg = tiny_world.make_model(encoder_layers=1, decoder_layers=1).cfg
    # D 16, inner 16, mlp 24: 8 D inner + 6 D mlp = 2048 + 2304 for each position.
    found = forward_flops(cfg, (4, 3, 5), lengths=[3], targets=[2], features=7)
    # Scores 3 * 4 / 2 = 6 pairs at 4 inner; features 3 positions * 2 * 7 * 16.
    assert found.encoder == 3 * 4352 + 4 * 6 * 16 + 3 * 2 * 7 * 16
    # 2 targets * 3 codes * (4352 + cross query and out 4 D inner), 3 positions' keys
    # and values 4 D inner, own scores 2 * 6 pairs, cross scores 3 codes * (2 + 3).
    assert found.decoder == (6 * (4352 + 1024) + 3 * 1024 + 4 * 2 * 6 * 16
                             + 4 * 3 * 5 * 16)
    assert found.head == 2 * 2 * 16 * 12
    assert found.total == found.encoder + found.decoder + found.head


def test_active_experts_alone_count():
    cfg = tiny_world.make_model().cfg
    experts = dataclasses.replace(cfg, moe=moe.MoEConfig(8, 2, mlp_width=10, shared=1))
    found, dense = (forward_flops(one, (4, 3, 5), lengths=[3], targets=[2])
                    for one in (experts, cfg))
    # 2 targets * 3 codes: 3 experts of width 10 in place of 24, and a router to 8.
    assert found.decoder - dense.decoder == 6 * (6 * 16 * (30 - 24) + 2 * 16 * 8)
    assert found.encoder == dense.encoder


@pytest.mark.parametrize("shared", [0, 1])
def test_experts_have_the_flops_that_xla_counts(shared):
    # One expert takes every position, which XLA counts as it is; groups of several it
    # multiplies as zeros on CPU.
    cfg = moe.MoEConfig(1, 1, mlp_width=128, shared=shared)
    layer = moe.MoE(cfg, 0)
    x = jnp.ones((2, 64, 64))
    params = jax.eval_shape(lambda: layer.init(jax.random.key(0), x, train=False))
    counted = jax.jit(lambda params: layer.apply(params, x, train=False)).lower(
        nn.meta.unbox(params)).compile().cost_analysis()["flops"]
    ours = 2 * 64 * (6 * 64 * 128 * (1 + shared) + 2 * 64)
    assert 1.0 <= counted / ours < 1.08, (counted, ours)


def test_histories_add_up():
    cfg = tiny_world.make_model(causal=True).cfg
    apart = [forward_flops(cfg, (4, 3, 5), lengths=[length], targets=[length]).total
             for length in (2, 5)]
    both = forward_flops(cfg, (4, 3, 5), lengths=[2, 5], targets=[2, 5]).total
    assert both == sum(apart)


def test_flops_of_a_batch_are_those_of_its_histories():
    cfg = tiny_world.make_model(encoder_layers=1, decoder_layers=1).cfg
    segments = np.array([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 0]])
    mask = np.array([[0, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 0]], bool)
    found = batch_flops(cfg, (4, 3, 5), {"segments": segments, "target_mask": mask})
    assert found == forward_flops(cfg, (4, 3, 5), lengths=[3, 2, 5], targets=[2, 2, 3])


def test_a_row_with_one_target_counts_one():
    cfg = tiny_world.make_model(causal=False).cfg
    segments = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    mask = np.array([[1], [1], [0]], bool)  # the last row fills the batch
    found = batch_flops(cfg, (4, 3, 5), {"segments": segments, "target_mask": mask})
    assert found == forward_flops(cfg, (4, 3, 5), lengths=[3, 1], targets=[1, 1])
