"""3.0B, 0.8B active, with a vector for each of 100 million items: planned, not trained.

    oxyrec inspect sharding experiments/large.py --workdir runs/large --items 100000000

(with JAX_PLATFORMS=cpu before it) plans a step on 128 devices in a minute or two of one
CPU core and allocates nothing; docs/scale.md has its table. The network is the
published 3.0B with item vectors of its width, which row-wise Adagrad moves where a step
reads them. 32 parts of the table and 4 of the experts share the batch's 1,024 rows: 8
on each device. Layers run as loops and are computed again in the backward pass. All
choices but the network's are ours. Another number of devices wants another --mesh.
"""

import dataclasses

from oxyrec_jax.config import Experiment
from oxyrec_jax.data.pipeline import Pipeline
from oxyrec_jax.models.sizes import CODES, SIZES
from oxyrec_jax.parallel import MeshConfig
from oxyrec_jax.tokenizer.build import TokenizerConfig
from oxyrec_jax.train.loop import TrainConfig
from oxyrec_jax.train.sparse import RowsConfig
from oxyrec_jax.train.step import OptimizerConfig


def get_config() -> Experiment:
    return Experiment(
        name="3.0B with 100 million items",
        tokenizer=TokenizerConfig(widths=CODES),
        model=dataclasses.replace(SIZES["3.0B"].model, item_embedding=True,
                                  remat="full", scan=True),
        train=TrainConfig(
            pipeline=Pipeline(batch=1024, history=256, mode="last"),
            optimizer=OptimizerConfig(rows=RowsConfig("adagrad"))),
        mesh=MeshConfig(data=1, expert=4, table=32))
