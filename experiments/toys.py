"""Amazon Toys 2014, leave-one-out, file order: Recall@10 .1103 ± .0005 (3 seeds).

NDCG@10 .0686 ± .0002; in the same table Markov and nearest titles together have .1028 /
.0672, and nothing is learnt there. 3,000 steps; 4 to 5 min a seed on one CPU core.

    oxyrec prepare  experiments/toys.py --workdir runs/toys
    oxyrec tokenize --workdir runs/toys
    oxyrec train    --workdir runs/toys
    oxyrec evaluate --workdir runs/toys --json

Beauty's experiment on another category; only the number of steps was chosen for it.
Give the folder of the data with `--set data.path=FOLDER` where it lies elsewhere.
"""

import pathlib
import runpy

from oxyrec_jax import config

_BEAUTY = runpy.run_path(str(pathlib.Path(__file__).with_name("beauty.py")))
TOY = _BEAUTY["TOY"]
# docs/results.md; commit 4c4b162, JAX 0.10.2, one CPU core.
EXPECTED = {"test": """
| | item.recall@10 | item.ndcg@10 |
|---|---|---|
| model | .1103 ± .0005 | .0686 ± .0002 |
| decoder alone | .0521 ± .0004 | .0250 ± .0002 |
| markov_title | .1028 ~ .0002 | .0672 ~ .0002 |
| markov | .0894 ~ .0002 | .0567 ~ .0002 |
| title_knn | .0564 ~ .0002 | .0329 ~ .0002 |
| popularity | .0089 ~ .0001 | .0049 ~ .0001 |
"""}


def get_config() -> config.Experiment:
    return config.with_settings(_BEAUTY["get_config"](), [
        "name=Toys, leave-one-out", "data.path=../shared/data/amazon14_toys",
        "train.steps=3000", "train.evaluate_every=1000"])
