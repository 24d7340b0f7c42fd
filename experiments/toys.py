"""Amazon Toys 2014, leave-one-out, file order.

Not run at full size yet: no figures are stated.

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


def get_config() -> config.Experiment:
    return config.with_settings(_BEAUTY["get_config"](), [
        "name=Toys, leave-one-out", "data.path=../shared/data/amazon14_toys",
        "train.steps=3000", "train.evaluate_every=1000"])
