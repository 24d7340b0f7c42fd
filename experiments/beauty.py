"""Amazon Beauty 2014, leave-one-out, file order: Recall@10 .0989 ± .0002 (3 seeds).

NDCG@10 .0597 ± .0001; in the same table Markov and nearest titles together .0942 /
.0591, and nothing is learnt there. The decoder alone gets .0478 ± .0002 / .0230 ±
.0005: the memory of transitions and nearest items carries most of it (docs/results.md).
3,000 steps, 10 epochs; 4 to 6 min a seed on one CPU core.

    oxyrec prepare  experiments/beauty.py --workdir runs/beauty
    oxyrec tokenize --workdir runs/beauty
    oxyrec train    --workdir runs/beauty
    oxyrec evaluate --workdir runs/beauty --json

Every choice of a number here is ours; docs/results.md tells what else was tried. Give
the folder of the data with `--set data.path=FOLDER` where it lies elsewhere, and
`--set 'data.tie_policy=shuffled(0)'` for the shuffled-tie variant.
"""

from oxyrec_jax.config import Experiment
from oxyrec_jax.data.pipeline import Pipeline
from oxyrec_jax.data.prepare import DataConfig
from oxyrec_jax.models.config import ModelConfig
from oxyrec_jax.tokenizer.balanced import Balance
from oxyrec_jax.tokenizer.build import TokenizerConfig
from oxyrec_jax.tokenizer.quantiser import Quantiser
from oxyrec_jax.tokenizer.sources import SourceConfig
from oxyrec_jax.train.loop import TrainConfig
from oxyrec_jax.train.objective import ObjectiveConfig
from oxyrec_jax.train.step import OptimizerConfig

# docs/results.md; commit 785f516, JAX 0.10.2, one CPU core.
EXPECTED = {"test": """
| | item.recall@10 | item.ndcg@10 |
|---|---|---|
| model | .0989 ± .0002 | .0597 ± .0001 |
| decoder alone | .0478 ± .0002 | .0230 ± .0005 |
| markov_title | .0942 ~ .0002 | .0591 ~ .0002 |
| markov | .0781 ~ .0001 | .0476 ~ .0001 |
| title_knn | .0605 ~ .0002 | .0373 ~ .0002 |
| popularity | .0114 ~ .0001 | .0053 ~ .0001 |
"""}
TOY = ("seeds=[0]", "train.steps=4", "train.evaluate_every=4", "quick_evaluations=64",
       "train.checkpoint_every=4", "model.width=16", "model.head_width=8",
       "model.mlp_width=16", "model.encoder_layers=1", "tokenizer.widths=[8,8]",
       "tokenizer.sources.training.steps=10", "tokenizer.sources.training.warmup=2",
       "text.source=hashed", "beams=10", "evaluate.ks=[1,10]", "evaluate.samples=20")


def get_config() -> Experiment:
    return Experiment(
        name="Beauty, leave-one-out",
        data=DataConfig(source="sequences", path="../shared/data/amazon14_beauty"),
        tokenizer=TokenizerConfig(
            widths=(256, 256, 256), collisions="reassign",
            # The best of their tables in docs/results.md.
            quantiser=Quantiser("balanced-kmeans", balance=Balance(
                levels="all", method="sinkhorn", slack=2.0)),
            sources=SourceConfig(sources=("text", "co-engagement"),
                                 generation="multi-source")),
        model=ModelConfig(width=128, heads=2, head_width=64, mlp_width=256,
                          memory=True, nearest=24, repeats=False, item_features=True,
                          dropout=0.5),
        train=TrainConfig(
            steps=3000, evaluate_every=1000, checkpoint_every=500,
            pipeline=Pipeline(batch=16, history=20, row_length=32),
            optimizer=OptimizerConfig(learning_rate=1e-3, warmup=100, weight_decay=0.1),
            objective=ObjectiveConfig(item_loss=1.0, negatives=1024)),
        quick_evaluations=4,
        seeds=(0, 1, 2))
