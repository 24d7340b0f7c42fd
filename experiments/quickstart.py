"""The quickstart's experiment, step by step: the simulated shop, 2 CPU minutes.

    oxyrec prepare experiments/quickstart.py --workdir runs/shop
    oxyrec tokenize --workdir runs/shop
    oxyrec train --workdir runs/shop       # faster: --set train.steps=50
    oxyrec evaluate --workdir runs/shop
    oxyrec report --workdir runs/shop

README.md shows what it prints.
"""

from oxyrec_jax import config, quickstart

# docs/results.md; commit 785f516, JAX 0.10.2. One seed: how far another machine may be
# off is ours, about a third of the interval over users.
EXPECTED = {"test": """
| | item.recall@10 | item.ndcg@10 |
|---|---|---|
| model | .4835 ~ .0075 | .2609 ~ .0050 |
| markov | .4430 ~ .0005 | .2432 ~ .0005 |
| title_knn | .4475 ~ .0010 | .2117 ~ .0010 |
| markov_title | .4710 ~ .0010 | .2388 ~ .0010 |
| popularity | .0695 ~ .0005 | .0310 ~ .0005 |
"""}
TOY = ("data.shop.users=60", "data.shop.items=200", "train.steps=4", "model.width=16",
       "train.evaluate_every=4", "train.checkpoint_every=4", "model.head_width=8",
       "model.mlp_width=16", "model.encoder_layers=1", "tokenizer.widths=[8,8]",
       "text.source=hashed", "evaluate.samples=20")


def get_config() -> config.Experiment:
    return quickstart.get_config()
