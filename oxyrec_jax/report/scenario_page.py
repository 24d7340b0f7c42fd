"""The page of a comparison of one model for every scenario with one model each."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from oxyrec_jax.report import words
from oxyrec_jax.report.figures import SERIES, ZERO_LINE, layout, whiskers
from oxyrec_jax.report.fragments import Html, chart, number, table, tag
from oxyrec_jax.report.page import write_page

_LEADS = {
    "verdict": ("Does one model serve them all?", "Each sentence compares the unified "
                "model with one other way on the same users, scenario by scenario."),
    "figures": ("Scenario by scenario", "Bars are means over seeds, whiskers one "
                "standard deviation over them."),
    "transfer": ("What unifying gives and takes", "Unified minus the other model, with "
                 "95 % bootstrap intervals over the scenario's users. Below zero is "
                 "negative transfer; an interval across zero decides nothing."),
    "compute": ("Compute", "Matrix products of all training steps, for one seed."),
}


def write_scenario_page(path: str | os.PathLike, found: Mapping[str, Any], *,
                        leads: Mapping[str, tuple[str, str]] = _LEADS
                        ) -> pathlib.Path:
    """Writes the page; it loads nothing from a network.

    Args:
      path: the HTML file; its folder must exist.
      found: "name", "seeds", "cells" (such as "item.ndcg@10", the last decides),
        "unified" (which row that is), "scenarios" to "targets", "users", "rows" (row to
        cell to "mean" and "sd") and "against" (row to cell to "mean", "low", "high" of
        unified minus row), "transfer" (row to "sentence", "clear_wins",
        "clear_losses") and "compute" (row to "steps", "targets", "flops").
      leads: heading and leading sentence of "verdict", "figures", "transfer" and
        "compute".

    Returns:
      The path.

    Raises:
      InputError: the file cannot be written.
    """
    cells = found["cells"]
    rivals = list(found["transfer"])
    content = {
        "verdict": [tag("p", part["sentence"], class_=f"verdict {_mood(part)}".strip())
                    for part in found["transfer"].values()],
        "figures": [tag("div", [chart(f"figures-{cell}", _bars(found, cell), "",
                                      title=words.cell(cell)) for cell in cells],
                        class_="grid"), _table(found)],
        "transfer": [tag("div", [chart(f"transfer-{place}", _gaps(found, row), "",
                                       title=f"{words.cell(cells[-1])}: "
                                       f"{found['unified']} minus {row}")
                                 for place, row in enumerate(rivals)],
                         class_="grid")],
        "compute": [_compute(found)],
    }
    return write_page(path, found["name"], content, leads, {
        "seeds": ", ".join(map(str, found["seeds"])),
        "scenarios": len(found["scenarios"])})


def _mood(part: Mapping[str, Any]) -> str:
    if part["clear_losses"]:
        return "bad"
    return "good" if part["clear_wins"] else ""


def _label(name: str, own: Mapping[str, Any]) -> str:
    return f"{name}<br>n={own['targets']:,}"


def _bars(found: Mapping[str, Any], cell: str) -> go.Figure:
    labels = [_label(name, own) for name, own in found["scenarios"].items()]
    figure = go.Figure(layout=layout(
        340, xaxis={"showgrid": False, "tickangle": 0}, yaxis_rangemode="tozero",
        bargap=0.3, bargroupgap=0.06))
    for place, row in enumerate(found["compute"]):
        figures = [own["rows"][row][cell] for own in found["scenarios"].values()]
        figure.add_bar(
            x=labels, y=[one["mean"] for one in figures], name=row,
            marker_color=SERIES[place % len(SERIES)],
            error_y={"type": "data", "array": [one["sd"] or 0 for one in figures],
                     "color": "var(--ink)", "thickness": 1.2, "width": 3},
            hovertemplate="%{y:.4f}<extra>%{fullData.name}</extra>")
    return figure


def _gaps(found: Mapping[str, Any], row: str) -> go.Figure:
    gaps = [own["against"][row][found["cells"][-1]]
            for own in found["scenarios"].values()]
    mean = [gap["mean"] for gap in gaps]
    figure = go.Figure(layout=layout(
        320, xaxis={"type": "category", "showgrid": False, "tickangle": 0},
        yaxis={"tickformat": "+.3~f", **ZERO_LINE}, showlegend=False))
    figure.add_scatter(
        x=[_label(name, own) for name, own in found["scenarios"].items()], y=mean,
        mode="markers", marker={"size": 9, "color": "var(--model)"},
        error_y=whiskers(gaps),
        customdata=[(gap["low"], gap["high"]) for gap in gaps], hovertemplate=(
            "%{y:+.4f} (%{customdata[0]:+.4f} to %{customdata[1]:+.4f})"
            "<extra></extra>"))
    return figure


def _table(found: Mapping[str, Any]) -> Html:
    body: list[list[Any]] = []
    marked: list[int] = []
    for name, own in found["scenarios"].items():
        best = {cell: max(cells[cell]["mean"] for cells in own["rows"].values())
                for cell in found["cells"]}
        for row, cells in own["rows"].items():
            if row == found["unified"]:
                marked.append(len(body))
            body.append([f"{name}: {row}", number(own["targets"]),
                         *[_cell(cells[cell], best[cell]) for cell in found["cells"]]])
    header = ["", "Targets", *[words.cell(cell) for cell in found["cells"]]]
    return table(header, body, marked=marked)


def _cell(figure: Mapping[str, Any], best: float) -> list[Html]:
    shown = number(figure["mean"])
    return [tag("b" if figure["mean"] == best else "span", shown),
            tag("small", "one seed" if figure["sd"] is None
                else f"± {figure['sd']:.4f}")]


def _compute(found: Mapping[str, Any]) -> Html:
    unit = found["compute"][found["unified"]]["flops"] or 1
    return table(["", "Steps", "Targets shown", "TFLOP",
                  f"Of {found['unified']}"], [
        [row, number(part["steps"]), number(part["targets"]),
         number(part["flops"] / 1e12, 3), f"{part['flops'] / unit:.1%}"]
        for row, part in found["compute"].items()])
