"""Closed-form FLOPs beside what XLA counts in the compiled program."""

import jax
import numpy as np
import pytest

import tiny_world
from oxyrec_jax.models import layers
from oxyrec_jax.models.flops import forward_flops

WIDTHS = (50, 60, 70)
LENGTH = 24


def counted_by_xla(model, tables, batch):
    params = tiny_world.make_params(model, tables)
    compiled = jax.jit(lambda params, batch: model.apply(
        {"params": params}, batch, tables)[0]).lower(params, batch).compile()
    return compiled.cost_analysis()["flops"]


@pytest.mark.parametrize("options", [
    {"causal": False}, {"causal": True}, {"causal": True, "head": "shared"},
    {"causal": False, "encoder_layers": 3, "decoder_layers": 2},
    {"causal": True, "features": 40}], ids=str)
def test_flops_are_what_xla_counts(monkeypatch, options):
    monkeypatch.setattr(layers, "_ONE_HOT_ROWS", 0)  # look-ups, which cost no FLOPs
    options = dict(options)
    features = options.pop("features", 0)
    model = tiny_world.make_model(30, WIDTHS, width=64, heads=4, head_width=16,
                                  mlp_width=128, **options)
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
        inner, half = 64, LENGTH * (LENGTH - 1) / 2
        unseen = rows * 4 * inner * half * (
            model.cfg.encoder_layers + len(WIDTHS) * model.cfg.decoder_layers)
    # XLA also counts norms, softmax and masks: a few per cent at this width.
    share = counted_by_xla(model, catalogue.tables, batch) / (ours.total + unseen)
    assert 1.0 <= share < 1.08, (share, ours)


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


def test_histories_add_up():
    cfg = tiny_world.make_model(causal=True).cfg
    apart = [forward_flops(cfg, (4, 3, 5), lengths=[length], targets=[length]).total
             for length in (2, 5)]
    both = forward_flops(cfg, (4, 3, 5), lengths=[2, 5], targets=[2, 5]).total
    assert both == sum(apart)
