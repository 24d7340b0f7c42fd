"""Runs an experiment's tables again and tells whether the figures come out as stated.

A table that takes more than one work directory has a function in its experiment file,

    def reproduce(table, rows, workdir, *, settings, toy): ...

that returns row → column → one number for each seed; without it the experiment of
`get_config()` is prepared, tokenized, trained and evaluated. `TOY` lists the settings
with which the experiment takes a minute. `oxyrec_jax.stated` reads what is stated.

A figure of seeds agrees where Welch's test does not tell its mean from the stated one,
Holm's adjustment over the figures of the table, at `LEVEL`; half a unit of the last
digit stated is left out of the difference, and is the least deviation. So few seeds
find large differences alone: the table shows every difference in standard errors.
"""

import importlib.util
import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from oxyrec_jax import artifacts, config, workflow
from oxyrec_jax.base import InputError
from oxyrec_jax.closed_loop.figures import holm
from oxyrec_jax.config import Experiment
from oxyrec_jax.stated import EXPECTED, Figure, Table, parse, stated

LEVEL = 0.05  # ours, of a whole table
TOY = "TOY"
DECODER = "decoder alone"  # a row of every experiment with `get_config`

Found = Mapping[str, Mapping[str, Sequence[float]]]


def reproduce(path: pathlib.Path, workdir: pathlib.Path, *, table: str = "",
              settings: Sequence[str] = (), toy: bool = False) -> dict[str, Any]:
    """Runs the tables of an experiment, or what is left of them, and compares.

    Args:
      path: the experiment file. It is executed: run only files that you trust.
      workdir: where runs lie, and `reproduction.json` and `reproduction.md` are put.
      table: the only one that is run; "": all.
      settings: "name=value" changes, of a folder of data or a mesh; figures of another
        experiment would not be comparable.
      toy: first two rows at toy size, which tries the code and compares nothing.

    Returns:
      "verdict", "reproduced" (None at toy size), "tables": name to row to column to
      what `compare` tells, and "page", the Markdown file.
    """
    tables = stated(path)
    if table and table not in tables:
        raise InputError(f"{path} states no table {table!r}; it has "
                         f"{', '.join(tables)}")
    module, chosen = _load(path), {table: tables[table]} if table else tables
    run = getattr(module, "reproduce", None)
    if toy and not hasattr(module, TOY):
        raise InputError(f"{path} has no toy size; run it without --toy")
    found = {}
    for name, rows in chosen.items():
        wanted = tuple(rows)[:2] if toy else tuple(rows)
        if run is None:
            values = _of_config(module.get_config(), wanted, workdir, (
                *(getattr(module, TOY) if toy else ()), *settings))
        else:
            values = run(name, wanted, workdir, settings=settings, toy=toy)
        found[name] = compare({row: rows[row] for row in wanted}, values)
    return _told(path, workdir, found, toy)


def compare(expected: Table, found: Found) -> dict[str, dict[str, dict[str, Any]]]:
    """Holds what was found beside what is stated.

    Args:
      expected: row to column to figure as stated.
      found: row to column to values, one for each seed.

    Returns:
      Row to column to "stated", "found" (mean), "sd", "seeds", "difference", "errors"
      (the difference in standard errors; None without seeds), "p" (adjusted) and
      "agrees".

    Raises:
      InputError: a figure that is stated was not found.
    """
    cells: list[dict[str, Any]] = []
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for row, columns in expected.items():
        for column, text in columns.items():
            values = found.get(row, {}).get(column)
            if not values:
                raise InputError(f"the run has no figure {column!r} of {row!r}, which "
                                 "the experiment states; correct its constant "
                                 f"{EXPECTED}")
            cells.append(_cell(text, parse(text, f"{row}, {column}"), values))
            table.setdefault(row, {})[column] = cells[-1]
    adjusted = holm(np.array([cell["p"] for cell in cells]))
    for cell, p in zip(cells, adjusted, strict=True):
        if not math.isnan(p):
            cell.update(p=float(p), agrees=bool(p >= LEVEL))
        else:
            cell["p"] = None
    return table


def _cell(text: str, figure: Figure, values: Sequence[float]) -> dict[str, Any]:
    """One figure; p is NaN where no test is made."""
    mean, count = statistics.fmean(values), len(values)
    gap = mean - figure.mean
    rest = max(abs(gap) - figure.unit, 0.0)
    cell: dict[str, Any] = {
        "stated": text, "found": mean, "seeds": count, "difference": gap,
        "sd": statistics.stdev(values) if count > 1 else None, "errors": None,
        "p": math.nan, "agrees": rest <= figure.spread}
    if figure.seeds and count > 1:
        own, other = (max(sd, figure.unit) ** 2 / count
                      for sd in (statistics.stdev(values), figure.spread))
        freedom = (own + other) ** 2 / ((own ** 2 + other ** 2) / (count - 1))
        cell["errors"] = math.copysign(rest / math.sqrt(own + other), gap)
        cell["p"] = float(2 * stats.t.sf(abs(cell["errors"]), freedom))
    return cell


def _of_config(cfg: Experiment, rows: Sequence[str], workdir: pathlib.Path,
               settings: Sequence[str]) -> Found:
    """Figures of one work directory: the model, its decoder alone, its baselines."""
    space = workflow.open_workspace(workdir, cfg, settings)
    workflow.prepare_and_tokenize(space)
    workflow.train(space)
    results = workflow.evaluate(space)
    found = {name: {column: [value] for column, value in cells.items()}
             for name, cells in results["baselines"].items()}
    found["model"] = _by_seed(results)
    if DECODER in rows:
        found[DECODER] = _by_seed(workflow.evaluate(space, experts=False))
    return found


def _by_seed(results: Mapping[str, Any]) -> dict[str, list[float]]:
    runs = list(results["runs"].values())
    return {column: [run[column] for run in runs] for column in runs[0]}


def _told(path: pathlib.Path, workdir: pathlib.Path, found: Mapping[str, Any],
          toy: bool) -> dict[str, Any]:
    cells = [(name, row, column, cell) for name, rows in found.items()
             for row, columns in rows.items() for column, cell in columns.items()]
    off = [each for each in cells if not each[3]["agrees"]]
    if toy:
        verdict = f"{len(cells)} figures at toy size, not compared"
    elif not off:
        verdict = f"reproduced: {len(cells)} of {len(cells)} figures agree"
    else:
        name, row, column, cell = max(off, key=lambda each: abs(
            each[3]["errors"] or each[3]["difference"]))
        far = ("" if cell["errors"] is None else
               f", {abs(cell['errors']):.1f} standard errors beyond rounding")
        verdict = (f"not reproduced: {len(off)} of {len(cells)} figures differ, most "
                   f"{name}, {row}, {column}: {cell['found']:.4f}, stated "
                   f"{cell['stated']} ({cell['difference']:+.4f}{far})")
    told = {"experiment": path.stem, "verdict": verdict,
            "reproduced": None if toy else not off, "tables": found,
            "page": str(workdir / "reproduction.md")}
    workdir.mkdir(parents=True, exist_ok=True)
    artifacts.write_json(workdir / "reproduction.json", told)
    with artifacts.open_atomic(workdir / "reproduction.md", "w") as file:
        file.write(_markdown(told))
    return told


def _markdown(told: Mapping[str, Any]) -> str:
    lines = [f"# {told['experiment']}", "", told["verdict"], ""]
    for name, rows in told["tables"].items():
        lines += [f"## {name}", "", "| row | figure | stated | found | difference | "
                  "standard errors | agrees |", "|---|---|---|---|---|---|---|"]
        lines += ["| " + " | ".join((row, column, *shown(cell))) + " |"
                  for row, columns in rows.items() for column, cell in columns.items()]
        lines.append("")
    return "\n".join(lines)


def shown(cell: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    """A figure as words: stated, found, difference, standard errors, agrees."""
    spread = "" if cell["sd"] is None else f" ± {cell['sd']:.4f}"
    return (cell["stated"], f"{cell['found']:.4f}{spread}",
            f"{cell['difference']:+.4f}",
            "–" if cell["errors"] is None else f"{cell['errors']:+.1f}",
            "yes" if cell["agrees"] else "no")


def _load(path: pathlib.Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"experiment_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is not a Python file; experiment files end in .py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "reproduce"):
        config.load_experiment(path)  # whose errors name what is missing
    return module
