"""Codes one after the other, or all at once: quality and latency at equal compute.

    python experiments/parallel_decoder.py --workdir runs/parallel --json
    python experiments/parallel_decoder.py --workdir runs/toy --quick

The same encoder on the simulated shop with four decoders, three seeds each. A training
step of "parallel" costs what one of "sequential" costs: equal steps are equal compute.
"parallel, deep" has three decoder layers and as many steps fewer as they cost, and
still answers faster, because a request runs its decoder once and not once for each
beam. "masked" is a masked diffusion: one network, trained once with a random part of
the codes hidden, for as many steps fewer as its one position more costs, and asked in
one pass, in two, and in one for each code. Codes that are decoded at once depend on
each other through the trie alone; the search is the same and its probabilities are
exact for each.

Latency is that of a batch of 32 requests, histories encoded in it, after one warm-up:
wall time, which moves with the machine and what else runs there, and CPU time of the
process, which tells nothing where an accelerator does the work. A run that was stopped
continues with the same command.

The network by itself:

    oxyrec prepare experiments/parallel_decoder.py --workdir runs/ahead
    oxyrec tokenize --workdir runs/ahead
    oxyrec train --workdir runs/ahead --set model.decoding=parallel

With model.decoding=masked, `oxyrec evaluate --set model.passes=2` asks in two passes.
"""

import argparse
import dataclasses
import json
import logging
import pathlib
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from oxyrec_jax import artifacts, quickstart, workflow, workspace
from oxyrec_jax.config import Experiment
from oxyrec_jax.data import pipeline
from oxyrec_jax.decode.recommend import recommend
from oxyrec_jax.train.loop import TrainConfig

STEPS, SEEDS = 1200, (0, 1, 2)
BATCH, REPEATS = 32, 15
CELLS = {"item.recall@10": "HR@10", "item.ndcg@10": "NDCG@10"}
ROWS: dict[str, dict[str, Any]] = {
    "sequential": {}, "parallel": {"decoding": "parallel"},
    "parallel, deep": {"decoding": "parallel", "decoder_layers": 3},
    **{f"masked, {name}": {"decoding": "masked", "passes": passes} for name, passes in
       (("1 pass", 1), ("2 passes", 2), ("T passes", 0))}}
TRAINED = {row: "masked, T passes" if row.startswith("masked") else row for row in ROWS}


def get_config(row: str = "parallel", *, steps: int = STEPS,
               seeds: Sequence[int] = SEEDS, toy: bool = False) -> Experiment:
    """The experiment of one row; the steps are those of equal depth.

    Args:
      row: of `ROWS`.
      steps: of training.
      seeds: of training.
      toy: a small shop.
    """
    cfg = quickstart.tiny() if toy else quickstart.get_config()
    # Without memory and item head, which would answer beside either decoder.
    model = dataclasses.replace(cfg.model, memory=False, item_head=False, **ROWS[row])
    return dataclasses.replace(cfg, name=f"Decoding: {row}", model=model,
                               train=train_config(cfg, steps), seeds=tuple(seeds))


def train_config(cfg: Experiment, steps: int) -> TrainConfig:
    """How an experiment trains, for so many steps, judged at the end."""
    return dataclasses.replace(cfg.train, steps=steps, evaluate_every=steps,
                               checkpoint_every=max(1, min(steps, 200)))


def table_of(workdir: pathlib.Path, *, steps: int, seeds: Sequence[int], toy: bool,
             beams: Sequence[int]) -> dict[str, Any]:
    """Trains, evaluates and times every row, or what is left of it."""
    base = workflow.open_workspace(
        workdir / "base", get_config("sequential", steps=steps, seeds=seeds, toy=toy))
    workflow.prepare_and_tokenize(base)
    unit, found = 0.0, {}
    for row in ROWS:
        cfg = get_config(TRAINED[row], steps=steps, seeds=seeds, toy=toy)
        folder = workdir / TRAINED[row].replace(", ", "-").replace(" ", "-")
        space, each = as_dear(folder, base, cfg, unit)
        unit = unit or each
        # Of another experiment nothing is read back, and its folder refuses this one.
        kept = folder / f"{row} {artifacts.value_digest(repr(space.cfg))[:12]}.json"
        if not kept.exists():
            workflow.train(space)
            space = workflow.open_workspace(folder, dataclasses.replace(
                space.cfg, model=get_config(row, toy=toy).model))
            results = workflow.evaluate(space)
            artifacts.write_json(kept, {
                "steps": space.cfg.train.steps,
                "compute": space.cfg.train.steps * each / (steps * unit),
                "figures": {cell: results[cell] for cell in CELLS},
                "intervals": {cell: results["intervals"][cell] for cell in CELLS},
                **latency(space, beams)})
        found[row] = artifacts.read_json(kept)
    return {"name": "parallel_decoder", "seeds": list(seeds), "rows": found,
            "batch": BATCH, "versions": workflow.versions()}


def as_dear(folder: pathlib.Path, base: workspace.Workspace, cfg: Experiment,
            unit: float) -> tuple[workspace.Workspace, float]:
    """A decoder's work directory, its steps as many as cost what `cfg` says.

    Args:
      folder: where.
      base: with data set and semantic IDs.
      cfg: its experiment; a dearer step makes it shorter, a cheaper one not longer.
      unit: FLOPs of each target in a step of the first decoder; 0: this is the first.

    Returns:
      The work directory, and the FLOPs of each target in its steps.
    """
    space = workspace.share(workflow.open_workspace(folder, cfg), base)
    each = workflow.flops_per_target(space, workflow.load(space))
    if each > unit > 0:
        steps = max(1, round(cfg.train.steps * unit / each))
        cfg = dataclasses.replace(cfg, train=train_config(cfg, steps))
        space = workflow.open_workspace(folder, cfg)
    return space, each


def latency(space: workspace.Workspace, beams: Sequence[int]
            ) -> dict[str, dict[str, float]]:
    """Median milliseconds of a batch of test requests, by number of beams: "ms" by the
    wall clock, "cpu_ms" by the process's."""
    ready = workflow.load(space)
    params = jax.device_put(workflow.parameters(space, ready, space.cfg.seeds[0]))
    batches = pipeline.eval_batches(
        ready.dataset, "test", batch=BATCH, columns=ready.model.columns,
        history=space.cfg.train.pipeline.history)
    rows = batches.take(np.arange(BATCH) % batches.targets)
    batch = {name: rows[name] for name in ready.model.reads}
    found: dict[str, dict[str, float]] = {"ms": {}, "cpu_ms": {}}
    for width in beams:
        times = []
        for _ in range(REPEATS + 1):
            start = time.perf_counter(), time.process_time()
            jax.block_until_ready(recommend(ready.model, params, batch, ready.catalogue,
                                            beams=width))
            times.append((time.perf_counter() - start[0],
                          time.process_time() - start[1]))
        for name, own in zip(found, zip(*times[1:], strict=True), strict=True):
            found[name][str(width)] = round(1e3 * statistics.median(own), 3)
    return found


def show(found: Mapping[str, Any]) -> str:
    """The table in Markdown."""
    widths = sorted(next(iter(found["rows"].values()))["ms"], key=int)
    heads = [*CELLS.values(), "training compute",
             *(f"ms at K={width}, of CPU time" for width in widths)]
    lines = [f"| decoder | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for row, own in found["rows"].items():
        cells = [f"{own['figures'][cell]:.4f} ({own['intervals'][cell][0]:.4f} to "
                 f"{own['intervals'][cell][1]:.4f})" for cell in CELLS]
        times = [f"{own['ms'][width]:.1f}, {own['cpu_ms'][width]:.1f}"
                 for width in widths]
        cells += [f"{own['compute']:.2f}", *times]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the table and prints it."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="Example: python experiments/parallel_decoder.py --workdir runs/toy "
        "--quick")
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--steps", type=int, help=f"of training ({STEPS}; quick: 20)")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--quick", action="store_true", help="a toy, one seed")
    parser.add_argument("--json", action="store_true",
                        help="one JSON object as the last line")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    found = table_of(options.workdir, toy=options.quick,
                     steps=options.steps or (20 if options.quick else STEPS),
                     seeds=options.seeds or (SEEDS[:1] if options.quick else SEEDS),
                     beams=(10,) if options.quick else (20, 100))
    artifacts.write_json(options.workdir / "parallel_decoder.json", found)
    print(show(found))
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
