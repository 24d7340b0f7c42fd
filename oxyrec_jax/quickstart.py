"""The experiment of `oxyrec quickstart`: the whole path on the simulated shop."""

import dataclasses

from oxyrec_jax.config import Experiment
from oxyrec_jax.data.pipeline import Pipeline
from oxyrec_jax.data.prepare import DataConfig
from oxyrec_jax.evaluate.evaluation import EvaluateConfig
from oxyrec_jax.models.config import ModelConfig
from oxyrec_jax.tokenizer.build import TokenizerConfig
from oxyrec_jax.tokenizer.sources import SourceConfig
from oxyrec_jax.train.loop import TrainConfig
from oxyrec_jax.train.objective import ObjectiveConfig
from oxyrec_jax.train.step import OptimizerConfig


def get_config() -> Experiment:
    """A shop of 2,000 people and 1,000 items, a small network, two minutes of CPU."""
    return Experiment(
        name="Quickstart: the simulated shop",
        data=DataConfig(source="shop"),
        tokenizer=TokenizerConfig(
            widths=(32, 32, 32), collisions="reassign",
            sources=SourceConfig(sources=("text", "co-engagement"))),
        model=ModelConfig(width=64, heads=2, head_width=32, mlp_width=128,
                          memory=True, nearest=24, item_head=True),
        train=TrainConfig(
            steps=600, evaluate_every=200, checkpoint_every=200,
            pipeline=Pipeline(batch=16, history=20, row_length=32),
            optimizer=OptimizerConfig(learning_rate=2e-3, warmup=50),
            objective=ObjectiveConfig(item_loss=1.0, negatives=256)),
        evaluate=EvaluateConfig(ks=(1, 5, 10, 20)),
        beams=20)


def tiny() -> Experiment:
    """The same in seconds, for tests."""
    cfg = get_config()
    shop = dataclasses.replace(cfg.data.shop, users=200, items=200)
    train = dataclasses.replace(cfg.train, steps=20, log_every=5, evaluate_every=10,
                                checkpoint_every=10)
    return dataclasses.replace(
        cfg, data=dataclasses.replace(cfg.data, shop=shop), train=train)
