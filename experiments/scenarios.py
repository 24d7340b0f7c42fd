"""One model for every scenario, or one model each, at equal compute: 3 seeds.

    python experiments/scenarios.py --workdir runs/scenarios --json
    python experiments/scenarios.py --workdir runs/toy --quick

On one CPU core the table takes 20 to 28 minutes of CPU time, 10 of them training and
most of the rest compiling its 45 models; the toy a few minutes.

Every row reads one target a row with its history from all scenarios, so that a target
costs the same whoever learns it, and equal compute is an equal number of targets. The
models of one scenario share the unified model's targets by the scenario's own share,
in whole batches, rounded up; the fine-tuned ones give half of them to pre-training on
all scenarios, counted once. `compute` in the result holds what each row really did.
The page `scenarios.html` of the work directory shows the table; docs/scenarios.md tells
the method. A run that was stopped continues with the same command.

`--base channels` takes the category channels of Amazon 2014 instead, each user's
reviews in a channel as a history of its own: what happened first across channels is
not known, and joining them would show a model events that lie after its target.

The unified model by itself:

    oxyrec prepare experiments/scenarios.py --workdir runs/one
    oxyrec tokenize --workdir runs/one
    oxyrec train --workdir runs/one
    oxyrec evaluate --workdir runs/one
"""

import argparse
import csv
import dataclasses
import gzip
import json
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from oxyrec_jax import artifacts, config, metrics, quickstart, workflow, workspace
from oxyrec_jax.config import Experiment
from oxyrec_jax.data.dataset import Dataset, load_dataset
from oxyrec_jax.data.prepare import DataConfig
from oxyrec_jax.data.readers.tables import ItemColumns, TableColumns
from oxyrec_jax.data.target_weights import scenario_counts, targets_in
from oxyrec_jax.evaluate import rows, scenarios
from oxyrec_jax.evaluate.generator import recommend_split
from oxyrec_jax.models.instructions import InstructionConfig
from oxyrec_jax.report import write_scenario_page

SEEDS = (0, 1, 2)
STEPS = 1800  # of the unified model: 230,000 targets, over four epochs of the shop
CELLS = ("item.hr@1", "item.hr@10", "item.ndcg@10")
UNIFIED, UNTOLD = "unified", "unified, not told the scenario"
SCRATCH, TUNED = "one each, from scratch", "one each, pre-trained and tuned"
TABLE = (UNIFIED, UNTOLD, SCRATCH, TUNED)
SHORT = ("unified", "untold", "scratch", "tuned")  # of the stated figures
CHANNELS = ("beauty", "toys", "office")
SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
TUNING_RATE = 0.5  # of the peak learning rate; ours
_UNASKED = -1  # in place of a rank where a row has no model

# docs/results.md: NDCG@10 after 1,200 steps; commit bdb6779, JAX 0.10.2.
EXPECTED = {"shop": """
| | unified | untold | scratch | tuned |
|---|---|---|---|---|
| home | .1488 ± .0005 | .1510 ± .0006 | .1079 ± .0072 | .1335 ± .0006 |
| feed | .2220 ± .0039 | .2235 ± .0036 | .1977 ± .0048 | .2133 ± .0005 |
| channel | .1709 ± .0014 | .1712 ± .0021 | .1048 ± .0065 | .1517 ± .0061 |
| cart | .2596 ± .0083 | .2643 ± .0045 | .1020 ± .0164 | .2429 ± .0039 |
| checkout | .2186 ± .0093 | .2345 ± .0025 | .0547 ± .0164 | .2194 ± .0100 |
| search | .2215 ± .0007 | .2187 ± .0012 | .2069 ± .0053 | .2204 ± .0029 |
"""}


def get_config(base: str = "shop", *, users: int = 3000, items: int = 1000,
               steps: int = STEPS, seeds: Sequence[int] = SEEDS,
               events: pathlib.Path = pathlib.Path("events.csv")) -> Experiment:
    """The unified model's experiment.

    Args:
      base: "shop" or "channels".
      users, items: of the simulated shop.
      steps: of training.
      seeds: of training.
      events: of the channels, as `merge_channels` wrote them beside `items.csv`.
    """
    cfg = quickstart.get_config()
    # Targets of the last tenth of time: rare scenarios have more of them than one
    # target a user would give.
    data = dataclasses.replace(
        cfg.data, protocol="P2",
        shop=dataclasses.replace(cfg.data.shop, users=users, items=items))
    known = 6
    if base == "channels":
        known = len(CHANNELS)
        data = DataConfig(source="table", path=str(events),
                          items=str(events.with_name("items.csv")),
                          columns=TableColumns(scenario="scenario"),
                          item_columns=ItemColumns())
    pipeline = dataclasses.replace(cfg.train.pipeline, mode="last", batch=128,
                                   history=10)
    # Without memory and item head: they would be the same counts in every row.
    model = dataclasses.replace(
        cfg.model, memory=False, item_head=False,
        instructions=InstructionConfig(placement="right", scenarios=known))
    tokenizer = (cfg.tokenizer if base == "shop" else
                 dataclasses.replace(cfg.tokenizer, widths=(128, 128, 128)))
    return dataclasses.replace(
        cfg, name="Scenarios: one model for all", data=data, model=model,
        tokenizer=tokenizer, seeds=tuple(seeds),
        train=with_steps(dataclasses.replace(cfg.train, pipeline=pipeline), steps))


def with_steps(train: Any, steps: int) -> Any:
    """The training with another length, evaluated at its end alone."""
    return dataclasses.replace(train, steps=steps, evaluate_every=steps,
                               checkpoint_every=max(1, min(steps, 500)))


def presented(steps: int, targets: int, batch: int) -> int:
    """Targets that some steps show, of an epoch whose last batch is not full."""
    epochs, rest = divmod(steps, -(-targets // batch))
    return epochs * targets + min(rest * batch, targets)


def steps_for(wanted: int, targets: int, batch: int) -> int:
    """The fewest steps that show at least so many targets."""
    epochs, rest = divmod(wanted, targets)
    return max(1, epochs * -(-targets // batch) + -(-rest // batch))


def plan(cfg: Experiment, dataset: Dataset) -> dict[str, tuple[str, str, Experiment]]:
    """Every training of the table: name to (row, scenario or "", experiment).

    The row of the shared pre-training is that of the fine-tuned models. Scenarios
    without targets to validate or test are left out.
    """
    batch = cfg.train.pipeline.batch
    counts = scenario_counts(dataset, "train")
    asked = np.minimum(scenario_counts(dataset, "valid"),
                       scenario_counts(dataset, "test"))
    total, steps = int(counts.sum()), cfg.train.steps
    untold = dataclasses.replace(cfg.model, instructions=InstructionConfig())
    half = dataclasses.replace(cfg, train=with_steps(cfg.train, max(1, steps // 2)))
    found = {"unified": (UNIFIED, "", cfg),
             "untold": (UNTOLD, "", dataclasses.replace(cfg, model=untold)),
             "pre-trained": (TUNED, "", half)}
    everything = presented(steps, total, batch)
    first = presented(half.train.steps, total, batch)
    for number, name in enumerate(dataset.manifest["scenarios"]):
        if not counts[number] or not asked[number]:
            continue
        own = int(counts[number])
        pipeline = dataclasses.replace(cfg.train.pipeline, scenarios=(name,))
        alone = dataclasses.replace(cfg.train, pipeline=pipeline)
        slower = dataclasses.replace(
            cfg.train.optimizer,
            learning_rate=TUNING_RATE * cfg.train.optimizer.learning_rate)
        for kind, budget, train in (
                ("scratch", everything, alone),
                ("tuned", everything - first,
                 dataclasses.replace(alone, optimizer=slower))):
            share = steps_for(-(-budget * own // total), own, batch)
            found[f"{kind}-{name}"] = (
                SCRATCH if kind == "scratch" else TUNED, name,
                dataclasses.replace(cfg, train=with_steps(train, share)))
    return found


def run(workdir: pathlib.Path, base: workflow.Workspace, name: str, scenario: str,
        cfg: Experiment) -> tuple[np.ndarray, dict[str, float]]:
    """Trains every seed of one model, or what is left, and ranks the test targets.

    Returns:
      `[seeds, R]` int32 ranks of the scenario's targets (all where it is ""), and the
      "targets" and "flops" of one seed's training.
    """
    folder = workdir / name
    if name.startswith("tuned-"):
        cfg = dataclasses.replace(cfg, train=dataclasses.replace(
            cfg.train, start_from=str(workdir.resolve() / "pre-trained")))
    space = workspace.share(workflow.open_workspace(folder, cfg), base)
    workflow.train(space)
    ready = workflow.load(space)
    asked = targets_in(ready.dataset, "train", [scenario] if scenario else [])
    own = len(ready.dataset.targets("train")) if asked is None else len(asked)
    shown = presented(cfg.train.steps, own, cfg.train.pipeline.batch)
    cost = {"steps": cfg.train.steps, "targets": shown,
            "flops": shown * workflow.flops_per_target(space, ready)}
    if name == "pre-trained":
        return np.zeros((0, 0), np.int32), cost
    return np.stack([_ranks(space, ready, scenario, seed) for seed in cfg.seeds]), cost


def _ranks(space: workflow.Workspace, ready: workflow.Ready, scenario: str, seed: int
           ) -> np.ndarray:
    """Ranks of the test targets of one seed, kept beside its run."""
    folder = space.run(seed) / "ranks"
    if folder.exists():
        artifacts.read_manifest(folder, kind="ranks", version=1)
        return np.array(artifacts.read_array(folder, "item"))
    dataset, wanted = ready.dataset, [scenario] if scenario else []
    lists, numbers = recommend_split(
        ready.model, workflow.parameters(space, ready, seed), dataset, "test",
        ready.catalogue, ready.leaves, history=space.cfg.train.pipeline.history,
        beams=space.cfg.beams, only=targets_in(dataset, "test", wanted),
        what=f"{space.folder.name}, seed {seed}")
    targets = rows.expand(rows.of_dataset(dataset), dataset.split("test"))
    found = metrics.ranks(lists.items, targets.item[numbers]).astype(np.int32)
    artifacts.write_bundle(folder, kind="ranks", version=1, arrays={"item": found},
                           facts={"scenario": scenario})
    return found


def summary(dataset: Dataset, ranks: Mapping[str, np.ndarray], *, samples: int = 1000,
            seed: int = 0) -> dict[str, Any]:
    """The table and the report of negative transfer.

    Args:
      dataset: whose test targets were ranked.
      ranks: row of the table to `[seeds, R]` ranks of all test targets.
      samples: bootstrap samples of users.
      seed: of the bootstrap.

    Returns:
      "scenarios": name to "targets", "users", "rows" (row to cell to mean and sd over
      seeds) and "against" (row to cell to mean, low and high of unified minus row on
      the same users); "transfer": row to "wins", "losses" (scenarios by the mean
      difference of the last of `CELLS`), "clear_wins", "clear_losses" (whose interval
      leaves out 0) and "sentence".
    """
    targets = rows.expand(rows.of_dataset(dataset), dataset.split("test"))
    _, user = np.unique(np.array(dataset.user_ids()), return_inverse=True)
    found = scenarios.compare(scenarios.of_targets(dataset, targets), ranks, UNIFIED,
                              user[targets.sequence], CELLS, samples=samples, seed=seed)
    return {"scenarios": found,
            "transfer": {row: _transfer(found, row) for row in ranks if row != UNIFIED}}


def _transfer(found: Mapping[str, Any], row: str) -> dict[str, Any]:
    gaps = {name: own["against"][row][CELLS[-1]] for name, own in found.items()}
    wins = [name for name, gap in gaps.items() if gap["mean"] > 0]
    losses = [name for name, gap in gaps.items() if gap["mean"] < 0]
    clear = [name for name, gap in gaps.items() if gap["low"] > 0]
    harmed = [name for name, gap in gaps.items() if gap["high"] < 0]
    told = "; ".join(f"{name} {gaps[name]['mean']:+.4f} ({gaps[name]['low']:+.4f} to "
                     f"{gaps[name]['high']:+.4f})" for name in losses)
    lost = "lower figure" if row == UNTOLD else "negative transfer"
    sentence = (f"Against {row!r}, unified wins on {len(wins)} of {len(gaps)} "
                f"scenarios by NDCG@10 ({len(clear)} with an interval above zero); "
                + (f"{lost} on {told}." if told else f"no {lost}."))
    return {"wins": wins, "losses": losses, "clear_wins": clear,
            "clear_losses": harmed, "sentence": sentence}


def table_of(workdir: pathlib.Path, cfg: Experiment, *, samples: int = 1000
             ) -> dict[str, Any]:
    """Runs everything, or what is left of it; returns `summary` with the compute."""
    base = workflow.open_workspace(workdir / "base", cfg)
    workflow.prepare_and_tokenize(base)
    dataset = load_dataset(base.data)
    tested = len(dataset.targets("test"))
    ranks = {row: np.full((len(cfg.seeds), tested), _UNASKED, np.int32)
             for row in TABLE}
    compute = {row: {"steps": 0, "targets": 0, "flops": 0.0} for row in TABLE}
    for name, (row, scenario, own) in plan(cfg, dataset).items():
        found, cost = run(workdir, base, name, scenario, own)
        for key, value in cost.items():
            compute[row][key] += value
        if found.size:
            asked = targets_in(dataset, "test", [scenario] if scenario else [])
            ranks[row][:, slice(None) if asked is None else asked] = found
    return {"name": cfg.name, "seeds": list(cfg.seeds),
            **summary(dataset, ranks, samples=samples), "compute": compute,
            "unified": UNIFIED, "cells": list(CELLS)}


def reproduce(table: str, names: Sequence[str], workdir: pathlib.Path, *,
              settings: Sequence[str], toy: bool) -> dict[str, dict[str, list[float]]]:
    """NDCG@10 of each scenario and row, one for each seed, for `oxyrec reproduce`."""
    cfg = config.with_settings(get_config(table, steps=1200), settings)
    found = table_of(workdir, cfg)["scenarios"]
    return {name: {told: found[name]["rows"][row][CELLS[-1]]["values"] for told, row
                   in zip(SHORT, TABLE, strict=True)} for name in names}


def merge_channels(data: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """Writes the channels of Amazon 2014 as one event table with its items.

    A user is one for each channel, "A1…/toys": the order of events across channels is
    not known. Items are told apart by channel, "toys/17".

    Args:
      data: folder of `amazon14_<channel>` folders.
      folder: where `events.csv` and `items.csv` are written.

    Returns:
      The event table.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (artifacts.open_atomic(folder / "events.csv", "w") as events,
          artifacts.open_atomic(folder / "items.csv", "w") as items):
        write_event = csv.writer(events).writerow
        write_item = csv.writer(items).writerow
        write_event(["user", "item", "scenario"])
        write_item(["item_id", "title"])
        for channel in CHANNELS:
            source = data / f"amazon14_{channel}"
            with gzip.open(source / "items.jsonl.gz", "rt", encoding="utf-8") as file:
                for line in file:
                    row = json.loads(line)
                    text = row.get("title") or row.get("keywords") or ""
                    write_item([f"{channel}/{row['item']}", text])
            with gzip.open(source / "sequences.tsv.gz", "rt", encoding="utf-8") as file:
                for line in file:
                    user, _, history = line.rstrip("\n").partition("\t")
                    for item in history.split():
                        write_event([f"{user}/{channel}", f"{channel}/{item}", channel])
    return folder / "events.csv"


def show(found: Mapping[str, Any]) -> str:
    """The table in Markdown, and what was gained and lost."""
    lines = ["| scenario | targets | row | HR@1 | HR@10 | NDCG@10 |",
             "|---|---|---|---|---|---|"]
    for name, own in found["scenarios"].items():
        for row, cells in own["rows"].items():
            shown = [f"{cells[cell]['mean']:.4f}" + (
                "" if cells[cell]["sd"] is None else f" ± {cells[cell]['sd']:.4f}")
                     for cell in CELLS]
            lines.append(f"| {name} | {own['targets']} | {row} | "
                         f"{' | '.join(shown)} |")
    unit = found["compute"][UNIFIED]["flops"] or 1
    lines += ["", *(part["sentence"] for part in found["transfer"].values()), "",
              *(f"{row}: {part['steps']} steps, {part['targets']} targets, "
                f"{part['flops'] / 1e12:.3f} TFLOP, {part['flops'] / unit:.1%} of "
                "unified" for row, part in found["compute"].items())]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the table and prints it."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="Example: python experiments/scenarios.py --workdir runs/toy --quick")
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--base", choices=("shop", "channels"), default="shop")
    parser.add_argument("--data", type=pathlib.Path, default=SHARED, help="of Amazon")
    parser.add_argument("--users", type=int, default=3000, help="of the shop")
    parser.add_argument("--steps", type=int, help=f"of the unified model ({STEPS})")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--quick", action="store_true", help="400 users, 40 steps")
    parser.add_argument("--json", action="store_true", help="one object at the end")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    events = pathlib.Path("events.csv")
    if options.base == "channels":
        events = options.workdir / "events.csv"
        if not events.exists():
            merge_channels(options.data, options.workdir)
    cfg = get_config(options.base, users=400 if options.quick else options.users,
                     items=200 if options.quick else 1000,
                     steps=options.steps or (40 if options.quick else STEPS),
                     seeds=options.seeds or (SEEDS[:1] if options.quick else SEEDS),
                     events=events)
    found = table_of(options.workdir, cfg)
    artifacts.write_json(options.workdir / "scenarios.json", found)
    page = write_scenario_page(options.workdir / "scenarios.html", found)
    print(show(found))
    print(f"page: {page}", flush=True)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
