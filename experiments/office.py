"""Amazon Office 2014, leave-one-out, file order: Recall@10 .1081 ± .0016 (3 seeds).

NDCG@10 .0626 ± .0004; in the same table Markov and nearest titles together have .1072 /
.0657, and nothing is learnt there. 1,200 steps; 2 min a seed on one CPU core.

    oxyrec prepare  experiments/office.py --workdir runs/office
    oxyrec tokenize --workdir runs/office
    oxyrec train    --workdir runs/office
    oxyrec evaluate --workdir runs/office --json

Beauty's experiment on another category; the number of steps was chosen for it, and that
of successors: an item of this log has more of them.
Give the folder of the data with `--set data.path=FOLDER` where it lies elsewhere.
"""

import pathlib
import runpy

from oxyrec_jax import config

_BEAUTY = runpy.run_path(str(pathlib.Path(__file__).with_name("beauty.py")))
TOY = _BEAUTY["TOY"]
# docs/results.md; commit 785f516, JAX 0.10.2, one CPU core.
EXPECTED = {"test": """
| | item.recall@10 | item.ndcg@10 |
|---|---|---|
| model | .1081 ± .0016 | .0626 ± .0004 |
| decoder alone | .0593 ± .0043 | .0299 ± .0021 |
| markov_title | .1072 ~ .0002 | .0657 ~ .0002 |
| markov | .0883 ~ .0002 | .0524 ~ .0002 |
| title_knn | .0709 ~ .0002 | .0410 ~ .0002 |
| popularity | .0006 ~ .0001 | .0002 ~ .0001 |
"""}


def get_config() -> config.Experiment:
    return config.with_settings(_BEAUTY["get_config"](), [
        "name=Office, leave-one-out", "data.path=../shared/data/amazon14_office",
        "model.successors=96", "train.steps=1200", "train.evaluate_every=400"])
