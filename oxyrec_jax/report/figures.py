"""The report's charts of results and training, as plotly figures.

Colours are names of the page's own (`var(--model)`), so that the page draws them in the
reader's light or dark theme.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from oxyrec_jax.report import words
from oxyrec_jax.report.fragments import flatten

SERIES = ("var(--s1)", "var(--s2)", "var(--s3)", "var(--s4)", "var(--s5)", "var(--s6)")
ZERO_LINE = {"zeroline": True, "zerolinecolor": "var(--ink)", "zerolinewidth": 1.2}
"""Options of an axis on which the sign of a value is what counts."""

_FONT = ("system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, "
         "sans-serif")
_POINTS = 800  # of a curve; more cannot be seen


def layout(height: int, **options: Any) -> go.Layout:
    """The look that all charts share."""
    axis = {"gridcolor": "var(--line)", "zeroline": False, "automargin": True,
            "linecolor": "var(--line)", "tickfont": {"color": "var(--muted)"},
            "title": {"font": {"color": "var(--muted)", "size": 12}, "standoff": 8}}
    base = {
        "template": go.layout.Template(), "height": height,
        "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": _FONT, "size": 12.5, "color": "var(--ink)"},
        "margin": {"l": 8, "r": 14, "t": 10, "b": 8}, "xaxis": axis, "yaxis": axis,
        "hoverlabel": {"bgcolor": "var(--card)", "bordercolor": "var(--line)",
                       "font": {"color": "var(--ink)", "size": 12.5}, "align": "left"},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left",
                   "yanchor": "bottom", "font": {"size": 12}},
        "bargap": 0.35}
    made = go.Layout(base)
    made.update(options)
    return made


def whiskers(cells: Iterable[Mapping[str, Any]], middle: str = "mean", **look: Any
             ) -> dict[str, Any]:
    """Error bars from "low" to "high" of each cell around its value `middle`."""
    cells = list(cells)
    return {"type": "data", "symmetric": False, "thickness": 1.6, "width": 5,
            "array": [cell["high"] - cell[middle] for cell in cells],
            "arrayminus": [cell[middle] - cell["low"] for cell in cells], **look}


def comparison(results: Mapping[str, Any], cell: str, model: str) -> go.Figure:
    """Bars of one cell, model and baselines, with their intervals, best on top."""
    rows = [(model, results, "var(--model)")]
    for name, table in distinct(results["baselines"]).items():
        shuffled = name.endswith("_shuffled")
        rows.append((words.recommender(name), table,
                     "var(--faint)" if shuffled else "var(--rival)"))
    rows.sort(key=lambda row: row[1][cell])
    values = [row[1][cell] for row in rows]
    low, high = zip(*[row[1]["intervals"][cell] for row in rows])
    labels = [row[0] for row in rows]
    figure = go.Figure(layout=layout(
        46 + 34 * len(rows), xaxis_range=[0, max(high) * 1.22 or 1],
        xaxis_nticks=5, yaxis_showgrid=False, showlegend=False, bargap=0.32))
    figure.add_bar(
        x=values, y=labels, orientation="h", marker_color=[row[2] for row in rows],
        error_x={"type": "data", "symmetric": False, "color": "var(--ink)",
                 "thickness": 1.2, "width": 4,
                 "array": [b - v for b, v in zip(high, values)],
                 "arrayminus": [v - a for a, v in zip(low, values)]},
        customdata=list(zip(low, high)), hovertemplate=(
            "<b>%{y}</b><br>%{x:.4f} (%{customdata[0]:.4f} to %{customdata[1]:.4f})"
            "<extra></extra>"))
    figure.add_scatter(
        x=high, y=labels, mode="text", text=[f"  {value:.4f}" for value in values],
        textposition="middle right", hoverinfo="skip", cliponaxis=False,
        textfont={"color": "var(--ink)", "size": 12})
    return figure


def distinct(baselines: Mapping[str, Mapping[str, Any]]
             ) -> dict[str, Mapping[str, Any]]:
    """The baselines without shuffled ones that equal their unshuffled twin."""
    return {name: table for name, table in baselines.items()
            if not (name.endswith("_shuffled")
                    and table == baselines.get(name.removesuffix("_shuffled")))}


def by_cutoff(results: Mapping[str, Any], metric: str, model: str) -> go.Figure:
    """One metric at item level over K, for the model and every plain baseline."""
    ks = sorted(results["config"]["ks"])
    figure = go.Figure(layout=layout(
        320, xaxis={"title": {"text": "K, length of the list"}, "type": "log",
                    "tickvals": ks, "ticktext": [str(k) for k in ks],
                    "showgrid": False},
        yaxis_rangemode="tozero", hovermode="x unified", yaxis_tickformat=".3~f"))
    plain = {name: table for name, table in results["baselines"].items()
             if not name.endswith("_shuffled")}
    for index, (name, table) in enumerate([(model, results), *plain.items()]):
        figure.add_scatter(
            x=ks, y=[table[f"item.{metric}@{k}"] for k in ks],
            name=words.recommender(name), mode="lines+markers",
            line={"color": SERIES[0] if not index else SERIES[1 + (index - 1) % 5],
                  "width": 3 if not index else 1.8,
                  "dash": "solid" if not index else "dot"},
            marker={"size": 7 if not index else 5}, hovertemplate="%{y:.4f}")
    return figure


def differences(results: Mapping[str, Any]) -> go.Figure:
    """Model minus best baseline, each cell with its paired interval."""
    ks = sorted(results["config"]["ks"])
    cells = results["differences"]["cells"]
    figure = go.Figure(layout=layout(
        330, xaxis={"type": "category", "title": {"text": "K, length of the list"},
                    "showgrid": False},
        yaxis={"tickformat": "+.3~f", **ZERO_LINE}))
    for index, metric in enumerate(("recall", "ndcg")):
        gaps = [cells[f"item.{metric}@{k}"] for k in ks]
        mean = [gap["mean"] for gap in gaps]
        figure.add_scatter(
            x=[str(k) for k in ks], y=mean, mode="markers",
            name=words.METRICS[metric], offsetgroup=str(index),
            marker={"size": 9, "color": SERIES[index],
                    "symbol": ("circle", "diamond")[index]},
            error_y=whiskers(gaps),
            customdata=[(gap["low"], gap["high"]) for gap in gaps], hovertemplate=(
                "%{y:+.4f} (%{customdata[0]:+.4f} to %{customdata[1]:+.4f})"))
    figure.update_layout(scattermode="group", scattergap=0.35)
    return figure


def groups(results: Mapping[str, Any], axis: str, cell: str, model: str) -> go.Figure:
    """A cell by group of target: the model with intervals, and the best baseline."""
    rows = [group for group in results["strata"] if group["axis"] == axis]
    rival = results["differences"]["baseline"]
    labels = [f"{_short(group['name'])}<br>n={group['targets']:,}" for group in rows]
    own = [group[cell] for group in rows]
    low, high = zip(*[group["intervals"][cell] for group in rows])
    figure = go.Figure(layout=layout(
        330, xaxis={"showgrid": False, "tickangle": 0, "tickfont": {"size": 10.5}},
        yaxis_rangemode="tozero", bargap=0.3, bargroupgap=0.08))
    figure.add_bar(x=labels, y=own, name=model, marker_color="var(--model)", error_y={
        "type": "data", "symmetric": False, "color": "var(--ink)", "thickness": 1.2,
        "width": 4, "array": [b - v for b, v in zip(high, own)],
        "arrayminus": [v - a for a, v in zip(low, own)]},
        hovertemplate="%{y:.4f}<extra>%{fullData.name}</extra>")
    figure.add_bar(x=labels, y=[group["baselines"][rival][cell] for group in rows],
                   name=words.recommender(rival), marker_color="var(--rival)",
                   hovertemplate="%{y:.4f}<extra>%{fullData.name}</extra>")
    return figure


def curves(log: Sequence[Mapping[str, Any]], names: Sequence[str], *,
           logarithmic: bool = False) -> go.Figure:
    """Curves of a training log over its steps; long ones are averaged in bins."""
    figure = go.Figure(layout=layout(
        310, xaxis_title_text="step", hovermode="x unified",
        yaxis={"type": "log" if logarithmic else "linear", "tickformat": "~g"}))
    for index, name in enumerate(names):
        steps, values = series(log, name)
        few = len(steps) < 40
        label = words.cell(name) if "@" in name else name
        figure.add_scatter(x=steps, y=values, name=label, hovertemplate="%{y:.5~g}",
                           mode="lines+markers" if few else "lines",
                           line={"color": SERIES[index % len(SERIES)], "width": 2},
                           marker={"size": 5})
    figure.update_layout(showlegend=len(names) > 1)
    return figure


def series(log: Sequence[Mapping[str, Any]], name: str
           ) -> tuple[np.ndarray, np.ndarray]:
    """Steps and finite values of one figure, at most `_POINTS` bins of equal count."""
    pairs = []
    for index, entry in enumerate(log):
        value: Any = flatten(entry).get(name)
        if is_figure(value) and math.isfinite(value):
            pairs.append((entry.get("step", index), value))
    points = np.array(sorted(pairs, key=lambda pair: pair[0]), np.float64)
    points = points.reshape(-1, 2)
    if len(points) > _POINTS:
        points = np.array([part.mean(0) for part in np.array_split(points, _POINTS)])
    return points[:, 0], points[:, 1]


def is_figure(value: Any) -> bool:
    """Whether a logged value is a number to draw."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _short(name: str) -> str:
    """A group's name in few short lines, so that neighbours do not overlap."""
    name = re.sub(r"(\d+) to (\d+)", r"\1–\2", name)
    name = re.sub(r" (training events?|in training)$", "", name)
    lines = [""]
    for word in name.split():
        if lines[-1] and len(lines[-1]) + len(word) > 11:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "<br>".join(lines)
