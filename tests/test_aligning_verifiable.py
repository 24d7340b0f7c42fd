"""`oxyrec align` paid by what people really took, and learning from itself, told more.
"""

import jax
import numpy as np
import pytest

from oxyrec_jax import cli
from oxyrec_jax.train.parameters import read_params
from oxyrec_jax.train.run_log import read_log

SETTINGS = ("align.steps=4", "align.batch=8", "align.group=6", "align.log_every=1",
            "align.evaluate_every=4", "align.checkpoint_every=4", "align.fit=16",
            "align.held_out=16", "align.optimizer.warmup=1", "align.updates=1",
            "align.optimizer.learning_rate=0.01", "quick_evaluations=1", "beams=10",
            "evaluate.ks=[1,10]", "align.reward={trajectory: {normalise: none}}")


@pytest.fixture(scope="module")
def runs(shop_workdir, tmp_path_factory):
    """By weight of the distillation: the log's windows and the last parameters."""
    found = {}
    for weight in (0, 0.5):
        folder = tmp_path_factory.mktemp("align") / "aligned"
        settings = (*SETTINGS, f"align.distil.weight={weight}")
        cli.main(["align", "--workdir", str(folder), "--start-from",
                  str(shop_workdir.folder), *(word for setting in settings
                                              for word in ("--set", setting))])
        run = folder / "train/seed0"
        found[weight] = ([line for line in read_log(run / "log.jsonl")
                          if "reward" in line], read_params(run / "last")[0])
    return found


def test_the_reward_is_the_trajectorys_share_of_right_codes(runs):
    for windows, _ in runs.values():
        paid = [line["part.trajectory"] for line in windows]
        assert len(paid) == 4 and len(set(paid)) > 1
        assert all(0 < value < 1 for value in paid)
        # A group holds what was chosen too, which is paid in full.
        assert all(line["part.trajectory"] > line["reward"] > 0 for line in windows)


def test_what_it_is_told_more_moves_it_elsewhere(runs):
    (plain, without), (windows, told) = runs[0], runs[0.5]
    assert not any("distil" in line for line in plain)
    gaps = [line["distil"] for line in windows]
    assert len(gaps) == 4 and np.isfinite(gaps).all() and min(gaps) > 0
    first, same = (lines[0]["reward"] for lines in (plain, windows))
    assert first == same  # nothing had been learnt yet
    apart = jax.tree.map(lambda one, other: float(np.abs(one - other).max()),
                         without, told)
    assert apart["code_vectors"] > 1e-4
