"""Every compiled program also lowers for GPUs and TPUs, from a machine with neither."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo

import tiny_world
from oxyrec_jax import parallel
from oxyrec_jax.decode.recommend import recommend
from oxyrec_jax.decode.rollout import first_items
from oxyrec_jax.models import attention
from oxyrec_jax.models.moe import MoEConfig
from oxyrec_jax.rewards import mapping as rewards
from oxyrec_jax.train import align
from oxyrec_jax.train import step as steps
from oxyrec_jax.train.align_settings import AlignConfig
from oxyrec_jax.train.objective import ObjectiveConfig
from oxyrec_jax.train.policy import PolicyConfig

PLATFORMS = ("cuda", "tpu")
MODELS = {"causal": {}, "bidirectional": {"causal": False},
          "bfloat16": {"dtype": "bfloat16", "remat": "dots"},
          "loop": {"scan": True, "decoder_layers": 2, "encoder_layers": 2,
                   "moe": MoEConfig(4, 2), "positions": "rotary"},
          "experts": {"moe": MoEConfig(4, 2)},
          "masked": {"decoding": "masked", "passes": 2}}


def lowers(function, *arguments, **options):
    """Traces once and lowers for each platform; the text of both."""
    traced = function.trace(*arguments, **options)
    return [traced.lower(lowering_platforms=(platform,)).as_text()
            for platform in PLATFORMS]


def training_step(options):
    """The step of a network, and what it takes as shapes."""
    model = tiny_world.make_model(**options)
    catalogue, _ = tiny_world.make_items()
    batch = tiny_world.make_batch()
    if not model.cfg.causal:
        batch |= {key: batch[key][:, :1] for key in
                  ("targets", "target_positions", "target_mask")}
    mesh = parallel.make_mesh(devices=jax.devices()[:1])
    cfg = steps.OptimizerConfig()
    rule = steps.make_optimizer(cfg, 10)
    state, shardings = steps.planned_state(model, rule, batch, catalogue, mesh,
                                           ema=False)
    step = steps.make_train_step(model, rule, cfg, ObjectiveConfig(), mesh, shardings,
                                 seed=0)
    return step, (state, batch, catalogue)


@pytest.mark.parametrize("name", MODELS)
def test_a_training_step_lowers(name):
    step, given = training_step(MODELS[name])
    for text in lowers(step, *given):
        assert "stablehlo.dot_general" in text


@pytest.mark.parametrize("options, kernels", [
    # Of encoder and of cross-attention, each once for both layers of a loop.
    ({"scan": True, "decoder_layers": 2}, 2),
    ({"causal": False}, 2),  # of the encoder; a row has one target
    ({"positions": "relative"}, 0)],
    ids=["loop", "bidirectional", "learned bias"])
def test_attention_is_the_fused_kernel_on_a_gpu(options, kernels, monkeypatch):
    monkeypatch.setattr(attention, "platform", lambda: "gpu")
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version",
                        lambda: 91000)  # there is none here
    step, given = training_step({"dtype": "bfloat16", "positions": "rotary",
                                 "encoder_layers": 2, **options})
    text = step.trace(*given).lower(lowering_platforms=("cuda",)).as_text()
    for kernel in ("Softmax", "SoftmaxBackward"):
        assert text.count(f"custom_call @__cudnn$fmhaScaleBias{kernel}(") == kernels


@pytest.mark.parametrize("name", ["causal", "experts", "masked"])
def test_the_search_lowers(name):
    model = tiny_world.make_model(**MODELS[name])
    catalogue, _ = tiny_world.make_items()
    params = tiny_world.make_params(model, catalogue.tables)
    for text in lowers(recommend, model, params, asked(tiny_world.make_batch()),
                       catalogue, beams=5):
        assert "top_k" in text


def asked(batch):
    return {**batch, "target_positions": batch["target_positions"][:, -1:]}


def test_the_three_programs_of_alignment_lower():
    model = tiny_world.make_model()
    catalogue, leaves = tiny_world.make_items()
    params = tiny_world.make_params(model, catalogue.tables)
    cfg = AlignConfig(group=4, policy=PolicyConfig("sa-gcpo"))
    batch = asked(tiny_world.make_batch())
    count = len(batch["items"])
    batch |= {"targets": batch["targets"][:, :1],
              "logged": np.full((count, cfg.logged), -1, np.int32),
              "asked_scenario": np.zeros(count, np.int32)}
    mapping = rewards.fit_mapping({"near": np.arange(30.0)},
                                  {"near": rewards.Component("quantile")}, ("home",))
    near = jax.tree_util.Partial(lambda batch, items: {"near": -items * 1.0})
    preferred = first_items(leaves)
    draw = jax.jit(functools.partial(align.draw, model, cfg))
    given = (params, batch, catalogue, preferred, jax.random.key(0))
    lowers(draw, *given)
    found = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
                         jax.eval_shape(draw, *given))
    appraise = jax.jit(functools.partial(align.appraise, model, cfg))
    given = (params, params, batch, catalogue, found, near, mapping)
    lowers(appraise, *given)
    seen = jax.eval_shape(appraise, *given)
    rule = steps.make_optimizer(cfg.optimizer, 10)
    update = jax.jit(functools.partial(align.update, model, cfg, rule))
    for text in lowers(update, params, rule.init(params), batch, catalogue, seen):
        assert "stablehlo.dot_general" in text
