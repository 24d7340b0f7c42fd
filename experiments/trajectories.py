"""One trajectory across scenarios, or a history for each: the shop, 3 seeds.

    python experiments/trajectories.py --workdir runs/trajectories --json
    python experiments/trajectories.py --workdir runs/toy --quick

A person comes to the home page, searches, fills a cart and checks out. Three ways to
read what happened before a request, which always tells its own scenario:

    same scenario     the events of the request's scenario alone
    joined, untold    the events of all scenarios in order
    joined, told      the same, and of each event which scenario it was made in
                      (`model.sides=[scenario]`)

All three learn the same targets with as many steps and the same length of history, and
answer the same test targets; those without an earlier event in their scenario, which
the first way could not answer, are left out and counted. Differences are paired over
people. The page `trajectories.html` of the work directory shows them; a run that was
stopped continues with the same command. The network is that of
`experiments/scenarios.py`.
"""

import argparse
import dataclasses
import json
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from oxyrec_jax import artifacts, config, metrics, quickstart, workflow, workspace
from oxyrec_jax.config import Experiment
from oxyrec_jax.data.dataset import Dataset
from oxyrec_jax.data.trajectories import Trajectories, trajectories
from oxyrec_jax.evaluate import rows, scenarios
from oxyrec_jax.evaluate.generator import recommend_split
from oxyrec_jax.models.instructions import InstructionConfig
from oxyrec_jax.ready import Ready
from oxyrec_jax.report import write_scenario_page
from oxyrec_jax.train import loop

SEEDS, STEPS, USERS = (0, 1, 2), 900, 3_000
CELLS = ("item.hr@1", "item.hr@10", "item.ndcg@10")
SAME, UNTOLD, TOLD = "same scenario", "joined, untold", "joined, told"
TABLE = (TOLD, UNTOLD, SAME)
TOY = ("data.shop.users=80", "data.shop.items=200", "text.source=hashed",
       "tokenizer.widths=[8,8]", "model.width=16", "model.head_width=8",
       "model.mlp_width=16", "model.encoder_layers=1", "train.steps=2",
       "train.evaluate_every=2", "train.checkpoint_every=2",
       "train.pipeline.batch=16", "seeds=[0]")
_LEADS = {
    "verdict": ("Does one trajectory help?", "Each sentence compares the joined "
                "trajectory whose events tell their scenario with another way to read "
                "history, on the same people, scenario by scenario."),
    "figures": ("Scenario by scenario", "Bars are means over seeds, whiskers one "
                "standard deviation over them."),
    "transfer": ("What the trajectory gives and takes", "Joined and told minus the "
                 "other way, with 95 % bootstrap intervals over the scenario's people; "
                 "an interval across zero decides nothing."),
    "compute": ("Compute", "Matrix products of all training steps, for one seed."),
}


def config_of(row: str, *, steps: int = STEPS, seeds: Sequence[int] = SEEDS
              ) -> Experiment:
    """The experiment of one way to read history."""
    cfg = quickstart.get_config()
    data = dataclasses.replace(cfg.data, protocol="P2", shop=dataclasses.replace(
        cfg.data.shop, users=USERS))
    pipeline = dataclasses.replace(cfg.train.pipeline, mode="last", batch=128)
    model = dataclasses.replace(
        cfg.model, memory=False, item_head=False,
        sides=("scenario",) if row == TOLD else (),
        instructions=InstructionConfig(placement="right", scenarios=6))
    train = dataclasses.replace(cfg.train, pipeline=pipeline, steps=steps,
                                evaluate_every=steps, checkpoint_every=300)
    return dataclasses.replace(cfg, name=f"Trajectories: {row}", data=data, model=model,
                               train=train, seeds=tuple(seeds))


def ranks_of(space: workflow.Workspace, ready: Ready, own: Dataset, seed: int
             ) -> np.ndarray:
    """Trains one network, or what is left; ranks of the test targets, `[R]` int32."""
    cfg, folder = space.cfg, space.run(seed)
    loop.check_folder(ready.model, cfg.train, folder, seed=seed)
    if not (folder / "ranks").exists():
        def asked(params: Any, split: str, beams: int) -> np.ndarray:
            lists, numbers = recommend_split(
                ready.model, params, own, split, ready.catalogue, ready.leaves,
                history=cfg.train.pipeline.history, beams=beams, what=split)
            wanted = rows.expand(rows.of_dataset(own), own.split(split)).item
            return metrics.ranks(lists.items, wanted[numbers])

        def validate(params: Any) -> Mapping[str, float]:
            found = asked(params, "valid", 10)
            return {cfg.train.metric: float(metrics.ndcg(found, 10).mean())}

        outcome = loop.train(ready.model, own, ready.catalogue, cfg.train, folder,
                             seed=seed, evaluate=validate)
        found = asked(outcome.params, "test", cfg.beams).astype(np.int32)
        artifacts.write_bundle(folder / "ranks", kind="ranks", version=1,
                               arrays={"item": found}, facts={})
    artifacts.read_manifest(folder / "ranks", kind="ranks", version=1)
    return np.array(artifacts.read_array(folder / "ranks", "item"))


def table_of(workdir: pathlib.Path, configs: Mapping[str, Experiment], *,
             samples: int = 1000) -> dict[str, Any]:
    """Runs every way and seed, or what is left of them.

    Returns:
      What `write_scenario_page` shows, and "shares" of the targets that were asked.
    """
    first = next(iter(configs.values()))
    base = workflow.open_workspace(workdir / "shop", first)
    workflow.prepare_and_tokenize(base)
    ranks, compute = {}, {}
    held: Trajectories | None = None
    for row, cfg in configs.items():
        space = workspace.share(workflow.open_workspace(
            workdir / row.replace(", ", "-").replace(" ", "-"), cfg), base)
        ready = workflow.load(space)
        held = held or trajectories(ready.dataset)
        own = held.apart if row == SAME else held.joined
        ranks[row] = np.stack([ranks_of(space, ready, own, seed) for seed in cfg.seeds])
        batch, targets = cfg.train.pipeline.batch, len(own.targets("train"))
        epochs, rest = divmod(cfg.train.steps, -(-targets // batch))
        shown = epochs * targets + min(rest * batch, targets)
        each = workflow.flops_per_target(space, dataclasses.replace(ready, dataset=own))
        compute[row] = {"steps": cfg.train.steps, "targets": shown,
                        "flops": shown * each}
        print(f"{row}: NDCG@10 {metrics.ndcg(ranks[row], 10).mean():.4f}", flush=True)
    joined = held.joined  # type: ignore[union-attr]
    targets = rows.expand(rows.of_dataset(joined), joined.split("test"))
    groups = {**scenarios.of_targets(joined, targets),
              "all": np.ones(len(targets.item), bool)}
    found = scenarios.compare(groups, ranks, TOLD, targets.sequence, CELLS,
                              samples=samples)
    return {"name": "One trajectory across scenarios", "seeds": list(first.seeds),
            "scenarios": found, "compute": compute, "unified": TOLD,
            "cells": list(CELLS), "transfer": {
                row: _verdict(found, row) for row in ranks if row != TOLD},
            "shares": held.shares,  # type: ignore[union-attr]
            "versions": workflow.versions()}


def _verdict(found: Mapping[str, Any], row: str) -> dict[str, Any]:
    gaps = {name: own["against"][row][CELLS[-1]] for name, own in found.items()}
    clear = [name for name, gap in gaps.items() if gap["low"] > 0]
    lost = [name for name, gap in gaps.items() if gap["high"] < 0]
    whole = gaps["all"]
    return {"clear_wins": clear, "clear_losses": lost, "sentence": (
        f"{TOLD!r} minus {row!r}: NDCG@10 {whole['mean']:+.4f} ({whole['low']:+.4f} to "
        f"{whole['high']:+.4f}) over all; clearly above in "
        f"{', '.join(clear) or 'none'}, clearly below in {', '.join(lost) or 'none'}.")}


def reproduce(table: str, names: Sequence[str], workdir: pathlib.Path, *,
              settings: Sequence[str], toy: bool) -> dict[str, dict[str, list[float]]]:
    """NDCG@10 of each scenario and way, one for each seed, for `oxyrec reproduce`."""
    configs = {row: config.with_settings(
        config_of(row), (*(TOY if toy else ()), *settings)) for row in TABLE}
    found = table_of(workdir, configs)["scenarios"]
    return {name: {row: found[name]["rows"][row][CELLS[-1]]["values"] for row in TABLE}
            for name in names}


def show(found: Mapping[str, Any]) -> str:
    """The table in Markdown, and what each comparison says."""
    heads = ["scenario", "targets", "history", "HR@1", "HR@10", "NDCG@10",
             f"NDCG@10: {TOLD} minus this"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, own in found["scenarios"].items():
        for row, cells in own["rows"].items():
            told = [f"{cells[cell]['mean']:.4f}" + (
                "" if cells[cell]["sd"] is None else f" ± {cells[cell]['sd']:.4f}")
                    for cell in CELLS]
            gap = own["against"].get(row, {}).get(CELLS[-1])
            told.append("–" if gap is None else f"{gap['mean']:+.4f} "
                        f"({gap['low']:+.4f} to {gap['high']:+.4f})")
            lines.append(f"| {name} | {own['targets']} | {row} | {' | '.join(told)} |")
    left = ", ".join(f"{name} {share:.1%}" for name, share in found["shares"].items())
    return "\n".join([*lines, "", *(part["sentence"] for part in
                                    found["transfer"].values()),
                      f"Targets with an earlier event in their scenario: {left}."])


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the table, prints it and writes its page."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="Example: python experiments/trajectories.py --workdir runs/toy --quick")
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS, help="of every network")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--quick", action="store_true", help="a toy, one seed")
    parser.add_argument("--json", action="store_true",
                        help="one JSON object as the last line")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    found = table_of(options.workdir, {row: config.with_settings(
        config_of(row, steps=options.steps, seeds=options.seeds),
        TOY if options.quick else ()) for row in TABLE})
    artifacts.write_json(options.workdir / "trajectories.json", found)
    path = write_scenario_page(options.workdir / "trajectories.html", found,
                               leads=_LEADS)
    print(show(found))
    print(f"page: {path}", flush=True)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
