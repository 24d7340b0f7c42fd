"""Which quantiser and which item vectors serve the generator: one table, 3 seeds.

Every setting changes one thing of the base experiment (the simulated shop of the
quickstart, or Beauty with `--base beauty`) and is trained for the same number of steps.
"decoder" is the generator alone, which is what feels the semantic IDs; "all" mixes in
the transition memory and the item head where the base has them.

    python experiments/semantic_ids.py --workdir runs/sids --json
    python experiments/semantic_ids.py --base beauty --steps 800 --decoder-only \
        --workdir runs/sids-beauty

A run that was stopped continues with the same command; a setting that is done is read
back. The tables that were run stand in docs/results.md with device and time. One
setting by itself, here the first:

    oxyrec prepare experiments/semantic_ids.py --workdir runs/one
    oxyrec tokenize --workdir runs/one
    oxyrec train --workdir runs/one
    oxyrec evaluate --workdir runs/one --decoder-only
"""

import argparse
import dataclasses
import json
import logging
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

from oxyrec_jax import config, quickstart, workflow
from oxyrec_jax.config import Experiment, load_experiment
from oxyrec_jax.tokenizer.balanced import Balance
from oxyrec_jax.tokenizer.build import TokenizerConfig
from oxyrec_jax.tokenizer.quantiser import Quantiser
from oxyrec_jax.tokenizer.sources import SourceConfig

SEEDS = (0, 1, 2)
BOTH = SourceConfig(sources=("text", "co-engagement"))

# What each row of the table changes: quantisers on the same vectors, then vectors under
# the same quantiser. Items that share an ID are listed, so that no remedy hides them.
SETTINGS: dict[str, dict[str, Any]] = {
    "residual-kmeans": {"sources": BOTH},
    "residual-kmeans, reassign": {"sources": BOTH, "collisions": "reassign"},
    "balanced-kmeans": {"sources": BOTH, "quantiser": Quantiser("balanced-kmeans")},
    "balanced-kmeans, all levels": {
        "sources": BOTH, "quantiser": Quantiser("balanced-kmeans", balance=Balance(
            levels="all", method="sinkhorn", slack=2.0))},
    "rq-vae": {"sources": BOTH, "quantiser": Quantiser("rq-vae")},
    "product": {"sources": BOTH, "quantiser": Quantiser("product")},
    "fsq": {"sources": BOTH, "quantiser": Quantiser("fsq")},
    "vectors: text": {"sources": SourceConfig(generation="text")},
    **{f"vectors: {name}": {"sources": dataclasses.replace(BOTH, generation=name)}
       for name in ("early-fusion", "late-fusion", "multi-source")},
}

# docs/results.md; commits 682a203 and bdb6779, JAX 0.10.2: Beauty, 800 steps.
EXPECTED = {"beauty": """
| | decoder.item.recall@10 | decoder.item.ndcg@10 |
|---|---|---|
| residual-kmeans | .0270 ± .0011 | .0131 ± .0004 |
| residual-kmeans, reassign | .0269 ± .0012 | .0130 ± .0008 |
| balanced-kmeans | .0271 ± .0010 | .0129 ± .0007 |
| balanced-kmeans, all levels | .0319 ± .0012 | .0148 ± .0003 |
| rq-vae | .0267 ± .0011 | .0132 ± .0007 |
| product | .0189 ± .0004 | .0089 ± .0003 |
| fsq | .0221 ± .0005 | .0105 ± .0004 |
| vectors: text | .0126 ± .0010 | .0062 ± .0008 |
| vectors: early-fusion | .0283 ± .0011 | .0137 ± .0006 |
| vectors: late-fusion | .0268 ± .0010 | .0131 ± .0005 |
| vectors: multi-source | .0294 ± .0007 | .0140 ± .0005 |
"""}
TOY = ("seeds=[0]", "train.steps=4", "train.evaluate_every=4", "quick_evaluations=64",
       "train.checkpoint_every=4", "model.width=16", "model.head_width=8",
       "model.mlp_width=16", "tokenizer.widths=[8,8]", "text.source=hashed",
       "beams=10", "evaluate.ks=[1,10]", "evaluate.samples=20")


def get_config(setting: str = "residual-kmeans", base: str = "shop",
               steps: int | None = None, seeds: Sequence[int] = SEEDS) -> Experiment:
    """The experiment of one row.

    Args:
      setting: a key of `SETTINGS`.
      base: "shop" or "beauty".
      steps: of training; None: the base's.
      seeds: of training.
    """
    cfg = (quickstart.get_config() if base == "shop" else
           load_experiment(pathlib.Path(__file__).with_name("beauty.py")))
    steps = steps or cfg.train.steps
    train = dataclasses.replace(cfg.train, steps=steps, evaluate_every=steps,
                                checkpoint_every=steps)
    # Without the nearest items, which answer the same beside any semantic IDs.
    model = dataclasses.replace(cfg.model, nearest=0, repeats=True)
    return dataclasses.replace(
        cfg, name=f"{cfg.name}, {setting}", seeds=tuple(seeds), train=train,
        model=model,
        tokenizer=TokenizerConfig(widths=cfg.tokenizer.widths, **SETTINGS[setting]))


def main() -> None:
    """Runs the rows that are asked for and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--base", choices=("shop", "beauty"), default="shop")
    parser.add_argument("--steps", type=int, help="of training (the base's)")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--only", nargs="+", metavar="ROW", choices=SETTINGS,
                        default=tuple(SETTINGS))
    parser.add_argument("--decoder-only", action="store_true",
                        help="leave out the columns of the whole mixture")
    parser.add_argument("--json", action="store_true",
                        help="one JSON object as the last line")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    rows = {}
    for name in options.only:
        cfg = get_config(name, options.base, options.steps, options.seeds)
        rows[name] = row(folder_of(options.workdir, name), cfg,
                         mixture=not options.decoder_only)
        print(line(name, rows[name]), flush=True)
    if options.json:
        print(json.dumps(rows))


def reproduce(table: str, names: Sequence[str], workdir: pathlib.Path, *,
              settings: Sequence[str], toy: bool) -> dict[str, dict[str, Any]]:
    """Figures of rows of a table, one for each seed, for `oxyrec reproduce`."""
    found = {}
    for name in names:
        cfg = config.with_settings(get_config(name, table, 800),
                                   (*(TOY if toy else ()), *settings))
        found[name] = row(folder_of(workdir, name), cfg, mixture=False)
    return found


def folder_of(workdir: pathlib.Path, name: str) -> pathlib.Path:
    """Where a row's run lies."""
    return workdir / name.replace(", ", "-").replace(": ", "-")


def row(folder: pathlib.Path, cfg: Experiment, *, mixture: bool = True
        ) -> dict[str, Any]:
    """Runs one setting, or what is left of it, and gathers its figures.

    Args:
      folder: of its run.
      cfg: the experiment.
      mixture: evaluate the mixture with the experts too, not the decoder alone.
    """
    space = workflow.open_workspace(folder, cfg)
    workflow.prepare_and_tokenize(space)
    workflow.train(space)
    quality = workflow.load(space).ids.manifest["quality"]
    figures = {name: quality.get(name) for name in
               ("duplicates", "coverage", "perplexity", "purity", "reconstruction")}
    for name, experts in [("decoder", False), ("all", True)][:1 + mixture]:
        found = workflow.evaluate(space, experts=experts)
        for metric in ("item.recall@10", "item.ndcg@10"):
            figures[f"{name}.{metric}"] = [
                run[metric] for run in found["runs"].values()]
    return figures


def line(name: str, figures: dict[str, Any]) -> str:
    """One row of the Markdown table."""
    def spread(key: str) -> str:
        values = figures[key]
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        return f"{statistics.mean(values):.4f} ± {deviation:.4f}"
    purity = figures["purity"]
    cells = [name, f"{figures['duplicates']:.1%}", f"{min(figures['coverage']):.0%}",
             "–" if not purity else f"{purity[0]:.1%}",
             f"{figures['reconstruction'][-1]:.3f}",
             *(spread(key) for part in ("decoder", "all")
               for metric in ("recall@10", "ndcg@10")
               if (key := f"{part}.item.{metric}") in figures)]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
