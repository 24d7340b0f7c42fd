"""What each idea gives on Beauty: one thing changed at a time, and lists fused.

    python experiments/beauty_ideas.py --workdir runs/ideas --json
    python experiments/beauty_ideas.py --workdir runs/ideas --rows base "4 levels"
    python experiments/beauty_ideas.py --workdir runs/toy --quick

Validation split, seed 0, every row from the experiment of beauty.py: "all" is the whole
mixture, which the memory decides, "decoder" the generator alone, which is what most
ideas touch. Differences are from "base" on the same users; their intervals are over
users and do not know that seeds differ, which "another seed" shows. The rows of
`FUSIONS` train nothing: they fuse the lists of two runs by reciprocal ranks.

6 to 10 minutes of one CPU core a row, 15 for the wide one. Each row prints when it is
done; a run that was stopped continues with the same command. docs/results.md has the
table.
"""

import argparse
import functools
import json
import logging
import pathlib
import runpy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from oxyrec_jax import artifacts, config, metrics, workflow, workspace
from oxyrec_jax.config import Experiment
from oxyrec_jax.evaluate import evaluation, rows
from oxyrec_jax.evaluate.fusion import fuse
from oxyrec_jax.evaluate.generator import recommend_split

_BEAUTY = runpy.run_path(str(pathlib.Path(__file__).with_name("beauty.py")))
BASE = "base"
IDEAS: dict[str, tuple[str, ...]] = {
    BASE: (),
    "another seed": ("seeds=[1]",),
    "averaged parameters (EMA .999)": ("train.optimizer.ema=0.999",),
    "no item softmax": ("train.objective.item_loss=0",),
    "four times the negatives": ("train.objective.negatives=4096",),
    "softmax over all codes": ("model.legal_softmax=false",),
    "bidirectional encoder": ("model.causal=false",),
    "item head in the mixture": ("model.item_head=true",),
    "4 levels": ("tokenizer.widths=[256,256,256,256]",),
    "another table of semantic IDs": ("tokenizer.seed=1",),
    "twice as wide": ("model.width=256", "model.heads=4", "model.mlp_width=512"),
    "twice as deep": ("model.encoder_layers=4", "model.decoder_layers=2"),
    "twice as long": ("train.steps=6000",),
}
FUSIONS = {"two seeds, fused": (BASE, "another seed"),
           "two tables of semantic IDs, fused": (BASE, "another table of semantic IDs")}
TABLE = (*IDEAS, *FUSIONS)
QUICK = (BASE, "another seed", "two seeds, fused")
PARTS = {"all": True, "decoder": False}
CELLS = ("recall@10", "ndcg@10")


def config_of(row: str = BASE, settings: Sequence[str] = ()) -> Experiment:
    """The experiment of one idea; `settings` are for all rows, before what is its own.
    """
    return config.with_settings(config.with_settings(
        _BEAUTY["get_config"](), ("seeds=[0]", f"name=Beauty, {row}")),
        (*settings, *IDEAS[row]))


class Runs:
    """Trains what is asked for, or what is left of it, and ranks the valid targets."""

    def __init__(self, workdir: pathlib.Path, settings: Sequence[str] = ()):
        self.workdir, self.settings = workdir, settings

    @functools.cache
    def space(self, row: str) -> workflow.Workspace:
        """The work directory of an idea, trained."""
        cfg = config_of(row, self.settings)
        folder = "".join(letter if letter.isalnum() else "-" for letter in row)
        space = workflow.open_workspace(self.workdir / folder, cfg)
        if row != BASE and cfg.tokenizer == self.space(BASE).cfg.tokenizer:
            space = workspace.share(space, self.space(BASE))
        workflow.prepare_and_tokenize(space)
        workflow.train(space)
        return space

    def ranks(self, row: str, part: str) -> np.ndarray:
        """`[R]` int32: the place of every valid target in a row's lists."""
        if row in FUSIONS:
            return self._fused_ranks(row, part)
        space = self.space(row)
        name = "valid" if PARTS[part] else "valid_decoder_only"
        if not space.evaluation(name).exists():
            workflow.evaluate(space, "valid", experts=PARTS[part])
        found = evaluation.read_evaluation(space.evaluation(name))
        return found.ranks[f"seed{space.cfg.seeds[0]}.item"]

    def users(self) -> np.ndarray:
        """`[R]`: whose target it is."""
        self.ranks(BASE, "all")
        return evaluation.read_evaluation(self.space(BASE).evaluation("valid")).users

    def _fused_ranks(self, row: str, part: str) -> np.ndarray:
        folder = self.workdir / f"fused-{TABLE.index(row)}-{part}"
        if not folder.exists():
            lists = [self._lists(member, part) for member in FUSIONS[row]]
            dataset = workflow.load(self.space(BASE)).dataset
            wanted = rows.expand(rows.of_dataset(dataset), dataset.split("valid")).item
            both = fuse(lists, [1.0] * len(lists), lists[0].shape[1])
            artifacts.write_bundle(folder, kind="ranks", version=1, facts={}, arrays={
                "item": metrics.ranks(both, wanted).astype(np.int32)})
        artifacts.read_manifest(folder, kind="ranks", version=1)
        return np.array(artifacts.read_array(folder, "item"))

    def _lists(self, row: str, part: str) -> np.ndarray:
        space = self.space(row)
        opened, cfg = workflow.load(space), space.cfg
        found, _ = recommend_split(
            opened.model, workflow.parameters(space, opened, cfg.seeds[0]),
            opened.dataset, "valid", opened.catalogue, opened.leaves, beams=cfg.beams,
            history=cfg.train.pipeline.history, experts=PARTS[part],
            what=f"{row}, {part}")
        return found.items


def figures_of(runs: Runs, row: str, *, samples: int) -> dict[str, Any]:
    """A row's figures, and their differences from those of the base."""
    found: dict[str, Any] = {}
    for part in PARTS:
        own, base = (_values(runs.ranks(name, part)) for name in (row, BASE))
        gap = metrics.bootstrap(own - base, runs.users(), samples=samples)
        for place, cell in enumerate(CELLS):
            found[f"{part}.{cell}"] = float(own[:, place].mean())
            found[f"{part}.{cell} minus base"] = [
                float(side[place]) for side in (gap.mean, gap.low, gap.high)]
    return found


def _values(ranks: np.ndarray) -> np.ndarray:
    return np.stack([metrics.recall(ranks, 10), metrics.ndcg(ranks, 10)], axis=1)


def line(row: str, found: Mapping[str, Any]) -> str:
    """One row of the Markdown table."""
    cells = []
    for part in PARTS:
        recall, ndcg = (f"{found[f'{part}.{cell}']:.4f}"[1:] for cell in CELLS)
        mean, low, high = found[f"{part}.{CELLS[1]} minus base"]
        cells += [f"{recall} / {ndcg}", "" if row == BASE else
                  f"{mean:+.4f} ({low:+.4f} to {high:+.4f})"]
    return f"| {row} | {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the rows that are asked for and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--rows", nargs="+", metavar="ROW", choices=TABLE,
                        help=f"some of the table ({', '.join(TABLE)})")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE",
                        dest="settings", help="for all rows, such as data.path=FOLDER")
    parser.add_argument("--quick", action="store_true", help="a toy")
    parser.add_argument("--json", action="store_true",
                        help="one JSON object as the last line")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    runs = Runs(options.workdir, (*(_BEAUTY["TOY"] if options.quick else ()),
                                  *options.settings))
    print("| | all: Recall@10 / NDCG@10 | NDCG@10 minus base | decoder | NDCG@10 minus "
          "base |\n|---|---|---|---|---|")
    found = {}
    for row in options.rows or (QUICK if options.quick else TABLE):
        found[row] = figures_of(runs, row, samples=100 if options.quick else 1000)
        print(line(row, found[row]), flush=True)
    artifacts.write_json(options.workdir / "beauty_ideas.json", found)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
