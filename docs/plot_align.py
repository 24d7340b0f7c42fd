"""Draws the picture of docs/align.md into docs/images: every method on one bandit.

    python docs/plot_align.py          # a minute; needs the extras `plots` and `test`

The curves are those that tests/train/test_train_policy.py holds against their optimum:
36 items of two codes, groups of items drawn without replacement from the exact policy,
a reward that falls with the distance from the one item that was chosen.
"""

import importlib.util
import pathlib

import matplotlib
import matplotlib.pyplot as plt

from plot_losses import IMAGES, STYLE, save

TEST = pathlib.Path(__file__).parents[1] / "tests" / "train" / "test_train_policy.py"


def main() -> None:
    spec = importlib.util.spec_from_file_location("bandit", TEST)
    bandit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bandit)
    matplotlib.use("svg")
    with plt.rc_context({**STYLE, "svg.hashsalt": "align"}):
        figure, axis = plt.subplots(figsize=(8, 4.2))
        for number, method in enumerate(sorted(bandit.METHODS)):
            axis.plot(bandit.optimum_curve(method), label=method,
                      linestyle=("-", "--", ":")[number // 5],
                      color=plt.cm.tab10(2 * (number % 5)))
        axis.set_xlabel("experiences, two updates on each")
        axis.set_ylabel("probability of the best item")
        axis.set_ylim(0, 1)
        axis.legend(ncols=3, fontsize=8, loc="lower right")
        IMAGES.mkdir(exist_ok=True)
        save("align_bandit", figure)


if __name__ == "__main__":
    main()
