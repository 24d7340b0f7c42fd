"""The quickstart's experiment, step by step: the simulated shop, 2 CPU minutes.

    oxyrec prepare experiments/quickstart.py --workdir runs/shop
    oxyrec tokenize --workdir runs/shop
    oxyrec train --workdir runs/shop       # faster: --set train.steps=50
    oxyrec evaluate --workdir runs/shop
    oxyrec report --workdir runs/shop

README.md shows what it prints.
"""

from oxyrec_jax import config, quickstart


def get_config() -> config.Experiment:
    return quickstart.get_config()
