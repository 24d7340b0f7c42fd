"""The Complete Journey (simulated by its publisher): the next basket, and its worth.

    python experiments/completejourney.py --workdir runs/journey --json
    python experiments/completejourney.py --workdir runs/toy --quick

Households' last baskets, each a set, told what was bought before them: Recall@10 and
NDCG@10 over the items of the basket, and the share of what was paid for it that was
paid for items in the list. Rows: a network that is told the part of the day of the
request, one that is not, and the first after an alignment whose reward is what was paid
for a hit; each also fused with the household's own frequency; beside untrained
baselines. Items and households of fewer than 20 purchases are left out: 9,430 items and
79 of 100 purchases stay. Every network mixes in the household's own items, fading
(model.own), with which all are level with own frequency, the recommender to beat;
without, they had half of its recall (docs/results.md). The shares are learnt by
likelihood (gate_power 0): the default trusts own items alone.

The whole table takes 13 minutes of one CPU core, a training of 0.4 epochs 1 to 2.

A run that was stopped continues with the same command. One of its networks by itself:

    oxyrec prepare experiments/completejourney.py --workdir runs/one
    oxyrec tokenize --workdir runs/one
    oxyrec train --workdir runs/one
    oxyrec evaluate --workdir runs/one --json
    oxyrec align --workdir runs/aligned --start-from runs/one
"""

import argparse
import dataclasses
import json
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from oxyrec_jax import aligning, artifacts, config, workflow, workspace
from oxyrec_jax.config import Experiment
from oxyrec_jax.data.baskets import of_split
from oxyrec_jax.data.pipeline import Pipeline
from oxyrec_jax.data.prepare import DataConfig
from oxyrec_jax.evaluate import baskets, fusion
from oxyrec_jax.evaluate.evaluation import EvaluateConfig
from oxyrec_jax.evaluate.generator import recommend_split
from oxyrec_jax.models.config import ModelConfig
from oxyrec_jax.models.instructions import InstructionConfig
from oxyrec_jax.rewards.mapping import Component
from oxyrec_jax.tokenizer.balanced import Balance
from oxyrec_jax.tokenizer.build import TokenizerConfig
from oxyrec_jax.tokenizer.quantiser import Quantiser
from oxyrec_jax.tokenizer.sources import SourceConfig
from oxyrec_jax.train.align_settings import AlignConfig
from oxyrec_jax.train.loop import TrainConfig
from oxyrec_jax.train.objective import ObjectiveConfig
from oxyrec_jax.train.step import OptimizerConfig

SEEDS, STEPS = (0, 1, 2), 1000
TOLD, UNTOLD = "told", "not told"
ALIGNED, OWN = "aligned", "own frequency, fading"
TABLE = (TOLD, UNTOLD, ALIGNED)
FUSED = "{} + own frequency"
OWN_WEIGHT = 0.7  # of .3, .5, .7, .9 the best on the validation baskets
LIST = 20  # of a list that is fused
CELLS = ("recall@10", "ndcg@10", "hr@10", "spend@10", "gmv@10")
TOY = ("seeds=[0]", "train.steps=2", "train.evaluate_every=2",
       "train.pipeline.batch=8", "train.pipeline.history=24",
       "train.pipeline.row_length=32",
       "train.checkpoint_every=2", "model.width=16", "model.head_width=8",
       "model.mlp_width=16", "model.encoder_layers=1", "tokenizer.widths=[8,8]",
       "text.source=hashed", "tokenizer.sources.sources=[text]", "beams=10",
       "evaluate.ks=[1,10]", "evaluate.samples=20", "align.steps=2", "align.batch=8",
       "align.group=4", "align.fit=8", "align.held_out=8", "align.evaluate_every=2",
       "align.checkpoint_every=2", "align.log_every=1")

# docs/results.md; commit 0c2e8c4, JAX 0.10.2, one busy CPU core.
EXPECTED = {"test": """
| | recall@10 | ndcg@10 | spend@10 |
|---|---|---|---|
| popularity | .1023 ~ .0002 | .0947 ~ .0002 | .0948 ~ .0002 |
| markov | .1156 ~ .0002 | .1093 ~ .0002 | .1115 ~ .0002 |
| own frequency | .1726 ~ .0002 | .1908 ~ .0002 | .1726 ~ .0002 |
| own frequency, fading | .1818 ~ .0002 | .1986 ~ .0002 | .1828 ~ .0002 |
| told | .1811 ± .0011 | .1957 ± .0009 | .1790 ± .0010 |
| told + own frequency | .1841 ± .0007 | .2003 ± .0003 | .1832 ± .0006 |
| not told | .1813 ± .0010 | .1960 ± .0010 | .1793 ± .0014 |
| not told + own frequency | .1852 ± .0016 | .2008 ± .0006 | .1844 ± .0014 |
| aligned | .1817 ± .0015 | .1960 ± .0012 | .1808 ± .0015 |
| aligned + own frequency | .1850 ± .0004 | .2008 ± .0002 | .1846 ± .0006 |
"""}


def get_config(row: str = TOLD, *, steps: int = STEPS, seeds: Sequence[int] = SEEDS
               ) -> Experiment:
    """The experiment of a network that is told the part of the day, or not."""
    told = InstructionConfig(placement="right", scenarios=5)
    return Experiment(
        name=f"The Complete Journey (simulated), next basket, {row}",
        data=DataConfig(source="completejourney", k_core=20,
                        path="../shared/data/completejourney", protocol="next-basket",
                        tie_policy="shuffled(0)"),
        tokenizer=TokenizerConfig(
            widths=(128, 128, 128), collisions="reassign",
            quantiser=Quantiser("balanced-kmeans", balance=Balance(
                levels="all", method="sinkhorn", slack=2.0)),
            sources=SourceConfig(sources=("text", "co-engagement"))),
        model=ModelConfig(width=64, heads=2, head_width=32, mlp_width=128,
                          item_features=True, dropout=0.1, own="requests",
                          instructions=told if row == TOLD else InstructionConfig()),
        train=TrainConfig(
            steps=steps, evaluate_every=steps, checkpoint_every=500,
            pipeline=Pipeline(batch=2, history=256, row_length=288),
            optimizer=OptimizerConfig(learning_rate=2e-3, warmup=100,
                                      weight_decay=0.1),
            objective=ObjectiveConfig(item_loss=1.0, negatives=512, gate_power=0.0)),
        evaluate=EvaluateConfig(ks=(1, 5, 10, 20)), align=alignment(),
        beams=20, quick_evaluations=2, seeds=tuple(seeds))


def alignment() -> AlignConfig:
    """What follows the training of the told network: 100 experiences, half drawn."""
    return AlignConfig(
        steps=100, batch=32, group=16, synthetic=0.5, anchor=0.5, fit=512,
        reward={"spend": Component("none", reach=100.0)},
        optimizer=OptimizerConfig(learning_rate=3e-4, warmup=10, schedule="cosine",
                                  weight_decay=0.0),
        evaluate_every=50, checkpoint_every=50, held_out=512)


def lists_of(space: workflow.Workspace, ready: workflow.Ready, split: str, seed: int
             ) -> np.ndarray:
    """What a trained run lists for each basket of a split, kept beside the run."""
    folder = space.run(seed) / f"lists-{split}-{space.cfg.beams}"
    if not folder.exists():
        found, _ = recommend_split(
            ready.model, workflow.parameters(space, ready, seed), ready.dataset, split,
            ready.catalogue, ready.leaves, beams=space.cfg.beams,
            history=space.cfg.train.pipeline.history,
            only=of_split(ready.dataset, split).asked,
            what=f"{space.folder.name}, seed {seed}")
        artifacts.write_bundle(folder, kind="lists", version=1, facts={},
                               arrays={"items": found.items})
    artifacts.read_manifest(folder, kind="lists", version=1)
    return np.array(artifacts.read_array(folder, "items"))


def spaces_of(workdir: pathlib.Path, rows: Sequence[str], settings: Sequence[str] = ()
              ) -> dict[str, workflow.Workspace]:
    """Trains what the rows need, or what is left of it; the work directory of each."""
    told = config.with_settings(get_config(), settings)
    base = workflow.open_workspace(workdir / "base", told)
    workflow.prepare_and_tokenize(base)
    found = {}
    for row in (TOLD, *(row for row in rows if row == UNTOLD)):
        cfg = config.with_settings(get_config(row), settings)
        found[row] = workspace.share(workflow.open_workspace(
            workdir / ("told" if row == TOLD else "untold"), cfg), base)
        workflow.train(found[row])
    if ALIGNED in rows:
        cfg = dataclasses.replace(told, name=told.name + ", aligned", train=(
            dataclasses.replace(told.train, start_from=str(
                found[TOLD].folder.resolve()))))
        found[ALIGNED] = workspace.share(workflow.open_workspace(
            workdir / "aligned", cfg), base)
        aligning.align(found[ALIGNED])
    return {row: found[row] for row in rows}


def table_of(workdir: pathlib.Path, rows: Sequence[str] = TABLE,
             settings: Sequence[str] = ()) -> dict[str, Any]:
    """Every row's figures on the test baskets, as `evaluate.baskets.evaluate` tells."""
    spaces, table = spaces_of(workdir, rows, settings), {}
    dataset = workflow.load(next(iter(spaces.values()))).dataset
    rivals = baskets.baseline_lists(dataset, "test", LIST)
    for row, space in spaces.items():
        ready, cfg = workflow.load(space), space.cfg
        own = {f"seed{seed}": lists_of(space, ready, "test", seed)
               for seed in cfg.seeds}
        fused = {name: fusion.fuse([items, rivals[OWN]],
                                   [1 - OWN_WEIGHT, OWN_WEIGHT], max(cfg.evaluate.ks))
                 for name, items in own.items()}
        for name, lists in ((row, own), (FUSED.format(row), fused)):
            table[name] = baskets.evaluate(
                dataset, "test", lists, ks=cfg.evaluate.ks, rivals=rivals,
                samples=cfg.evaluate.samples)
    return {"rows": table, "versions": workflow.versions()}


def reproduce(table: str, names: Sequence[str], workdir: pathlib.Path, *,
              settings: Sequence[str], toy: bool) -> dict[str, dict[str, list[float]]]:
    """Figures of rows and baselines, one for each seed, for `oxyrec reproduce`."""
    wanted = [row for row in TABLE if {row, FUSED.format(row)} & {*names}] or [TOLD]
    rows = table_of(workdir, wanted, (*(TOY if toy else ()), *settings))["rows"]
    first = next(iter(rows.values()))
    return {**{name: {cell: [first["baselines"][name][f"basket.{cell}"]]
                      for cell in CELLS} for name in first["baselines"]},
            **{name: {cell: [run[f"basket.{cell}"] for run in own["runs"].values()]
                      for cell in CELLS} for name, own in rows.items()}}


def show(found: Mapping[str, Any]) -> str:
    """The table in Markdown, best baseline and difference from it."""
    rows = found["rows"]
    first = next(iter(rows.values()))
    heads = ["", *CELLS, f"recall@10 minus {first['differences']['baseline']}"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, own in first["baselines"].items():
        cells = [f"{own[f'basket.{cell}']:.4f}" for cell in CELLS]
        lines.append(f"| {name} | {' | '.join(cells)} | |")
    for name, own in rows.items():
        spread = [own["seeds"][f"basket.{cell}"] for cell in CELLS]
        cells = [f"{one['mean']:.4f}" + ("" if one["sd"] is None else
                                         f" ± {one['sd']:.4f}") for one in spread]
        gap = own["differences"]["cells"]["basket.recall@10"]
        lines.append(f"| {name} | {' | '.join(cells)} | {gap['mean']:+.4f} "
                     f"({gap['low']:+.4f} to {gap['high']:+.4f}) |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the table and prints it."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="Example: python experiments/completejourney.py --workdir runs/journey")
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--data", help="folder of the data")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--quick", action="store_true", help="a toy, one seed")
    parser.add_argument("--json", action="store_true",
                        help="one JSON object as the last line")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    settings = [f"seeds={list(options.seeds)}", *(TOY if options.quick else ()),
                *([f"data.path={options.data}"] if options.data else [])]
    found = table_of(options.workdir, settings=settings)
    artifacts.write_json(options.workdir / "completejourney.json", found)
    print(show(found), flush=True)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
