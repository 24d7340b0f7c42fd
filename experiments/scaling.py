"""How the loss falls with the network and with what it learns from: 5 sizes × 3 logs.

    python experiments/scaling.py --workdir runs/scaling --json
    python experiments/scaling.py --workdir runs/toy --quick

One simulated shop of people who are kept apart: those of the largest log, a sixteenth
and a quarter of them, people to choose parameters by, and people whose every event but
the first is a held-out target. Every cell answers the same held-out targets; nobody of
theirs is in any log. Semantic IDs come from texts alone, so that they are the same
whatever is learnt from.

Every cell trains for the same number of steps, so that the small logs are seen many
times over; the parameters (their running mean) that are best on the people to choose by
count. All cells have the default depth, widths are 16 to 128 and N counts every
parameter: the network reads items by their codes alone. The rate falls with the square
root of the width; it and dropout were not searched for each cell, so the law is one of
this recipe.

`L = E + A / N^alpha + B / D^beta` is fitted to the means over seeds, by squares of
logarithms. Its intervals are of 200 samples of seeds and of groups of held-out people.
The page `scaling.html` of the work directory draws both; a run that was stopped
continues with the same command, cell by cell.
"""

import argparse
import dataclasses
import functools
import json
import logging
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import plotly.graph_objects as go

from oxyrec_jax import artifacts, config, quickstart, workflow, workspace
from oxyrec_jax.config import Experiment
from oxyrec_jax.data.dataset import Dataset
from oxyrec_jax.data.pipeline import Pipeline, TrainSource
from oxyrec_jax.evaluate import scaling_law
from oxyrec_jax.models.generator import Generator
from oxyrec_jax.ready import Ready
from oxyrec_jax.report import figures, fragments, page
from oxyrec_jax.tokenizer.catalogue import Catalogue
from oxyrec_jax.tokenizer.sources import SourceConfig
from oxyrec_jax.train import loop
from oxyrec_jax.train.objective import ObjectiveConfig, supervised_loss

WIDTHS = (16, 32, 48, 80, 128)
SHARES = {"1/16 of the people": 1 / 16, "1/4 of the people": 1 / 4, "all people": 1.0}
LEARN, CHOOSE, ASK = 8_000, 400, 2_000  # people
GROUPS, SAMPLES = 40, 200  # of held-out people; of the bootstrap
STEPS, SEEDS = 2_000, (0,)
RATE = 2e-3  # of width 64
TOY = ("data.shop.users=90", "data.shop.items=200", "text.source=hashed",
       "tokenizer.widths=[8,8]", "train.steps=2", "train.evaluate_every=2",
       "train.checkpoint_every=2", "model.encoder_layers=1")


@dataclasses.dataclass(frozen=True)
class People:
    """Training rows `[R, 3]` of people who learn, choose and are asked, as `Dataset`.

    Attributes:
      learn: name of a log to its rows, each in the next.
      choose: rows that parameters are chosen by.
      ask: rows of each group of held-out people.
    """

    learn: dict[str, np.ndarray]
    choose: np.ndarray
    ask: list[np.ndarray]


def config_of(width: int, *, steps: int = STEPS) -> Experiment:
    """The experiment of one size."""
    cfg = quickstart.get_config()
    shop = dataclasses.replace(cfg.data.shop, users=LEARN + CHOOSE + ASK)
    model = dataclasses.replace(
        cfg.model, width=width, heads=max(1, width // 16), head_width=16,
        mlp_width=2 * width, memory=False, item_head=False, item_embedding=False,
        dropout=0.1)
    optimizer = dataclasses.replace(
        cfg.train.optimizer, learning_rate=RATE * (64 / width) ** 0.5,
        schedule="constant", ema=0.98)
    return dataclasses.replace(
        cfg, name=f"Scaling: width {width}", model=model,
        data=dataclasses.replace(cfg.data, shop=shop),
        tokenizer=dataclasses.replace(cfg.tokenizer,
                                      sources=SourceConfig(sources=("text",))),
        train=dataclasses.replace(
            cfg.train, steps=steps, evaluate_every=200, checkpoint_every=1_000,
            metric="log p", optimizer=optimizer, objective=ObjectiveConfig()))


def people_of(dataset: Dataset) -> People:
    """Draws who learns, chooses and is asked; the shares are those of the full shop."""
    ends = np.diff(dataset.offsets())
    order = np.random.default_rng(0).permutation(len(ends))
    rows = np.stack([order, np.ones_like(order), ends[order]], axis=1)
    rows = rows[rows[:, 2] > 1]
    parts = np.cumsum([LEARN, CHOOSE, ASK]) / (LEARN + CHOOSE + ASK) * len(rows)
    learn, choose, _ = (int(part) for part in parts)
    asked = rows[choose:]
    return People({name: rows[:max(1, int(share * learn))]
                   for name, share in SHARES.items()},
                  rows[learn:choose],
                  np.array_split(asked, min(GROUPS, len(asked))))


def losses_of(ready: Ready, rows: Sequence[np.ndarray], pipeline: Pipeline, params: Any
              ) -> tuple[np.ndarray, np.ndarray]:
    """Nats and targets of each group of rows, dropout off, `[groups]` float64."""
    pipeline = dataclasses.replace(pipeline, batch=64)
    params = jax.device_put(params)
    nats, counts = np.zeros(len(rows)), np.zeros(len(rows))
    for group, own in enumerate(rows):
        source = TrainSource(_of(ready.dataset, own), pipeline, seed=0)
        for step in range(source.steps_per_epoch):
            total, count = _loss(ready.model, params, source[step], ready.catalogue)
            nats[group] += float(total)
            counts[group] += float(count)
    return nats, counts


def _of(dataset: Dataset, rows: np.ndarray) -> Dataset:
    return dataclasses.replace(dataset, splits={"train": rows})


@functools.partial(jax.jit, static_argnums=0)
def _loss(model: Generator, params: Any, batch: Any, catalogue: Catalogue) -> Any:
    quiet = model.clone(cfg=dataclasses.replace(model.cfg, dropout=0.0))
    found, _ = supervised_loss(quiet, params, batch, catalogue, jax.random.key(0),
                               ObjectiveConfig())
    return found.total, found.weight


def cell(folder: pathlib.Path, ready: Ready, cfg: Experiment, rows: np.ndarray,
         people: People, seed: int) -> dict[str, Any]:
    """Trains and asks one network, or reads what it said.

    Returns:
      "parameters", "targets" (of the log), "nats" and "counts" (of each group),
      "best_step", "steps" and "cpu_seconds".
    """
    kept, pipeline = folder / "cell.json", cfg.train.pipeline
    loop.check_folder(ready.model, cfg.train, folder, seed=seed)
    if kept.exists():
        return artifacts.read_json(kept)
    begun = time.process_time()

    def choose(params: Any) -> Mapping[str, float]:
        nats, counts = losses_of(ready, [people.choose], pipeline, params)
        return {"log p": -float(nats[0] / counts[0])}

    outcome = loop.train(ready.model, _of(ready.dataset, rows), ready.catalogue,
                         cfg.train, folder, seed=seed, evaluate=choose)
    nats, counts = losses_of(ready, people.ask, pipeline, outcome.params)
    found = {"parameters": int(sum(leaf.size for leaf in
                                   jax.tree.leaves(outcome.params))),
             "targets": int((rows[:, 2] - rows[:, 1]).sum()), "nats": nats.tolist(),
             "counts": counts.tolist(), "best_step": outcome.best_step,
             "steps": outcome.steps,
             "cpu_seconds": round(time.process_time() - begun, 1)}
    artifacts.write_json(kept, found)
    return found


def table_of(workdir: pathlib.Path, widths: Sequence[int], *, steps: int,
             seeds: Sequence[int], settings: Sequence[str] = ()) -> dict[str, Any]:
    """Runs every cell, or what is left of them; returns the table and its law.

    Returns:
      "cells": "<width>" to log to a list of `cell`, one for each seed; "law", or None
      of fewer cells than it needs; "seeds" and "versions".
    """
    configs = {width: config.with_settings(config_of(width, steps=steps), settings)
               for width in widths}
    base = workflow.open_workspace(workdir / "shop", configs[widths[0]])
    workflow.prepare_and_tokenize(base)
    cells: dict[str, dict[str, list[Any]]] = {}
    for width, cfg in configs.items():
        space = workspace.share(workflow.open_workspace(workdir / f"width{width}", cfg),
                                base)
        ready = workflow.load(space)
        people = people_of(ready.dataset)
        for place, (name, rows) in enumerate(people.learn.items()):
            cells.setdefault(str(width), {})[name] = found = [
                cell(space.folder / f"log{place}-seed{seed}", ready, cfg, rows, people,
                     seed) for seed in seeds]
            print(f"width {width}, {name}: {_told(found)}", flush=True)
    return {"cells": cells, "law": law_of(cells), "seeds": list(seeds),
            "versions": workflow.versions()}


def _mean(cells: Sequence[Mapping[str, Any]]) -> list[float]:
    return [sum(one["nats"]) / sum(one["counts"]) for one in cells]


def _told(cells: Sequence[Mapping[str, Any]]) -> str:
    return (f"N {cells[0]['parameters']:,}, D {cells[0]['targets']:,}: "
            f"{np.mean(_mean(cells)):.4f} nats, best at step "
            f"{cells[0]['best_step']} of {cells[0]['steps']}, "
            f"{sum(one['cpu_seconds'] for one in cells):.0f} s")


def law_of(cells: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
           ) -> dict[str, Any] | None:
    """The law of the cells with 95 % intervals; None where they are too few."""
    every = [one for row in cells.values() for one in row.values()]
    if len(every) < scaling_law.FEWEST or len(cells) < 2:
        return None
    sizes, data = (np.array([one[0][name] for one in every], float)
                   for name in ("parameters", "targets"))
    # [cells, seeds, groups]
    nats, counts = (np.array([[run[name] for run in one] for one in every])
                    for name in ("nats", "counts"))

    def losses(runs: np.ndarray, groups: np.ndarray) -> np.ndarray:
        chosen = np.take_along_axis(nats, runs[..., None], axis=1)[..., groups]
        weights = np.take_along_axis(counts, runs[..., None], axis=1)[..., groups]
        return (chosen.sum(-1) / weights.sum(-1)).mean(-1)

    seeds, groups = nats.shape[1:]
    plain = np.broadcast_to(np.arange(seeds), nats.shape[:2])
    law = scaling_law.fit(sizes, data, losses(plain, np.arange(groups)))
    rng = np.random.default_rng(0)
    again = [dataclasses.asdict(scaling_law.fit(sizes, data, losses(
        rng.integers(seeds, size=plain.shape), rng.integers(groups, size=groups)), law))
        for _ in range(SAMPLES)]
    return {name: {"value": value, "low": float(low), "high": float(high)}
            for name, value in dataclasses.asdict(law).items()
            for low, high in [np.quantile([one[name] for one in again],
                                          [0.025, 0.975])]}


def reproduce(table: str, names: Sequence[str], workdir: pathlib.Path, *,
              settings: Sequence[str], toy: bool) -> dict[str, dict[str, list[float]]]:
    """Losses of widths and logs, one for each seed, for `oxyrec reproduce`."""
    widths = [int(name.removeprefix("width ")) for name in names]
    found = table_of(workdir, widths, steps=STEPS, seeds=SEEDS,
                     settings=(*(TOY if toy else ()), *settings))
    return {f"width {width}": {name: _mean(own) for name, own in row.items()}
            for width, row in found["cells"].items()}


def show(found: Mapping[str, Any]) -> str:
    """The table in Markdown, and the law below it."""
    first = next(iter(found["cells"].values()))
    heads = [f"{name}, D = {own[0]['targets']:,}" for name, own in first.items()]
    lines = [f"| width | N | {' | '.join(heads)} |", "|---" * (2 + len(heads)) + "|"]
    for width, row in found["cells"].items():
        size = next(iter(row.values()))[0]["parameters"]
        told = [f"{np.mean(_mean(own)):.4f}" + (
            f" ± {np.std(_mean(own), ddof=1):.4f}" if len(own) > 1 else "")
            for own in row.values()]
        lines.append(f"| {width} | {size:,} | {' | '.join(told)} |")
    return "\n".join([*lines, "", law_words(found["law"])])


def law_words(law: Mapping[str, Any] | None) -> str:
    """The law as a sentence with its intervals."""
    if law is None:
        return f"No law of fewer than {scaling_law.FEWEST} cells."
    told = {name: f"{own['value']:.3g} ({own['low']:.3g} to {own['high']:.3g})"
            for name, own in law.items()}
    return (f"L = E + A / N^alpha + B / D^beta with E {told['floor']}, A "
            f"{told['size_factor']}, alpha {told['size_power']}, B "
            f"{told['data_factor']}, beta {told['data_power']}; error of a cell "
            f"{law['error']['value']:.2%} (root mean square)."
            + "".join(f" {name} stands at the end of its search: a law of this form "
                      "does not describe these cells along that side."
                      for name, power in (("alpha", "size_power"),
                                          ("beta", "data_power"))
                      if law[power]["value"] > 0.999 * scaling_law.STEEPEST))


def write_page(path: pathlib.Path, found: Mapping[str, Any]) -> pathlib.Path:
    """A self-contained page: the loss over sizes and over logs, and the table."""
    charts = [fragments.chart(name, _curves(found, name), caption)
              for name, caption in (
                  ("parameters", "Points were trained, lines are the law; a colour for "
                   "each log."),
                  ("targets", "The same over what was learnt from; a colour for each "
                   "width."))]
    rows = [line.strip("| ").split(" | ") for line in show(found).splitlines()
            if line.startswith("|")]
    content = {"law": [fragments.tag("p", law_words(found["law"]), class_="verdict")],
               "figures": [*charts, fragments.table(rows[0], rows[2:])]}
    leads = {"law": ("The law", "Nats of a target's semantic ID, on the same held-out "
                     "people for every cell."),
             "figures": ("Sizes and logs", "Equal steps for every cell.")}
    return page.write_page(path, "Scaling on the simulated shop", content, leads)


def _curves(found: Mapping[str, Any], axis: str) -> go.Figure:
    """Losses over "parameters" or "targets", one series for each of the other."""
    other = "targets" if axis == "parameters" else "parameters"
    points = [(own[0][axis], own[0][other], float(np.mean(_mean(own))),
               name if axis == "parameters" else f"width {width}")
              for width, row in found["cells"].items() for name, own in row.items()]
    law = found["law"] and scaling_law.Law(
        **{name: own["value"] for name, own in found["law"].items()})
    figure = go.Figure(layout=figures.layout(
        380, xaxis={"type": "log", "title": axis}, yaxis_title="nats"))
    for place, name in enumerate(dict.fromkeys(point[3] for point in points)):
        own = sorted(point for point in points if point[3] == name)
        colour = figures.SERIES[place % len(figures.SERIES)]
        figure.add_scatter(
            x=[point[0] for point in own], y=[point[2] for point in own], name=name,
            mode="markers", marker={"size": 9, "color": colour})
        if law is not None:
            x = np.geomspace(own[0][0], own[-1][0], 40)
            rest = np.full(40, own[0][1])
            y = law(x, rest) if axis == "parameters" else law(rest, x)
            figure.add_scatter(x=x, y=y, mode="lines", showlegend=False,
                               line={"color": colour}, hoverinfo="skip")
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the table, prints it and writes its page."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="Example: python experiments/scaling.py --workdir runs/toy --quick")
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS, help="of every cell")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--widths", type=int, nargs="+", help="of the networks")
    parser.add_argument("--quick", action="store_true", help="two sizes, a toy")
    parser.add_argument("--json", action="store_true",
                        help="one JSON object as the last line")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    found = table_of(options.workdir,
                     options.widths or (WIDTHS[:2] if options.quick else WIDTHS),
                     steps=options.steps, seeds=options.seeds,
                     settings=TOY if options.quick else ())
    artifacts.write_json(options.workdir / "scaling.json", found)
    path = write_page(options.workdir / "scaling.html", found)
    print(show(found))
    print(f"page: {path}", flush=True)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
