"""The page of a ranking model: does it order well, and do its chances come true?"""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from oxyrec_jax.report.figures import SERIES, layout
from oxyrec_jax.report.fragments import Html, chart, facts, number, table, tag
from oxyrec_jax.report.page import write_page

_LEADS = {
    "figures": ("Figures", "Every item shown is a row; cart and order ask whether it "
                "got at least so far. GAUC is the mean AUC within users or requests, "
                "weighted by items shown; ECE the mean gap between what was predicted "
                "and what came, over bins of equally many rows."),
    "reliability": ("Do the chances come true?", "Each point is a bin of equally many "
                    "items; on the line what was predicted came."),
    "scenarios": ("Scenario by scenario", "The same figures for the items shown in "
                  "each scenario."),
    "truth": ("Beside the truth", "A simulated shop knows how likely each item is "
              "chosen once somebody looks at it; scores are of the item as the first "
              "of its list."),
    "provenance": ("Calibration and counts", "Scale and shift of each logit, fitted on "
                   "the validation split."),
}
_HEADS = ("click", "cart", "order")
_MODES = {"list": "seeing the items before it", "alone": "seeing no other item"}
_CELLS = {"auc": "AUC", "gauc_user": "GAUC by user", "gauc_request": "GAUC by request",
          "log_loss": "log loss (nats)", "ece": "ECE", "predicted": "predicted",
          "rate": "came"}


def write_ranking_page(path: str | os.PathLike, results: Mapping[str, Any]
                       ) -> pathlib.Path:
    """Writes the page; it loads nothing from a network.

    Args:
      path: the HTML file; its folder must exist.
      results: as `ranking.evaluate` makes them.

    Returns:
      The path.

    Raises:
      InputError: the file cannot be written.
    """
    content = {
        "figures": [*(tag("p", note, class_="verdict") for note in results["notes"]),
                    _main(results)],
        "reliability": [tag("div", [chart(
            f"reliability-{head}", _reliability(results["reliability"], head),
            "Both axes are logarithmic.", title=head) for head in _HEADS],
            class_="grid")],
        "scenarios": [_scenarios(results["scenarios"])]}
    if "truth" in results:
        content["truth"] = [_truth(results["truth"])]
    content["provenance"] = [facts({name: results[name] for name in
                                    ("counts", "calibration")})]
    return write_page(path, results["name"], content, _LEADS, {
        "split": results["split"], "protocol": results["protocol"],
        "runs": len(results["runs"])})


def _row(name: str, cells: Mapping[str, Any], head: str) -> list[Any]:
    return [name, *(number(cells[f"{head}.{cell}"]) for cell in _CELLS)]


def _main(results: Mapping[str, Any]) -> Html:
    body: list[list[Any]] = []
    for head in _HEADS:
        for mode, told in _MODES.items():
            body += [_row(f"{head}, {told}", results["cells"][mode], head),
                     _row(f"{head}, {told}, not calibrated", results["raw"][mode],
                          head)]
        if "oracle" in results:
            body.append(_row(f"{head}, the shop's truth", results["oracle"], head))
    return table(["", *_CELLS.values()], body,
                 marked=[place for place, row in enumerate(body)
                         if row[0] in {f"{head}, {_MODES['list']}" for head in _HEADS}])


def _reliability(found: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]],
                 head: str) -> go.Figure:
    ticks = {"type": "log", "tickformat": "~g", "dtick": 1}
    figure = go.Figure(layout=layout(
        330, xaxis={**ticks, "title_text": "predicted"},
        yaxis={**ticks, "title_text": "came"}))
    rows = [row for heads in found.values() for row in heads[head]]
    values = [row[name] for row in rows for name in ("predicted", "observed")
              if row[name] > 0]
    if values:
        ends = [min(values), max(values)]
        figure.add_scatter(x=ends, y=ends, mode="lines", name="as predicted",
                           line={"color": "var(--rival)", "width": 1, "dash": "dot"})
    for place, (mode, heads) in enumerate(found.items()):
        some = [row for row in heads[head] if row["observed"] > 0]
        figure.add_scatter(
            x=[row["predicted"] for row in some], y=[row["observed"] for row in some],
            mode="markers+lines", name=_MODES[mode],
            marker={"size": 7, "color": SERIES[place]},
            line={"width": 1, "color": SERIES[place]},
            customdata=[row["count"] for row in some], hovertemplate=(
                "%{x:.4f} predicted, %{y:.4f} came of %{customdata}<extra></extra>"))
    return figure


def _scenarios(found: Mapping[str, Mapping[str, Any]]) -> Html:
    body = []
    for name, own in found.items():
        for head in _HEADS:
            body.append([f"{name}: {head}", number(own["shown"]),
                         *_row("", own["list"], head)[1:],
                         number(own["oracle"][f"{head}.auc"]) if "oracle" in own
                         else "–"])
    return table(["", "Shown", *_CELLS.values(), "AUC of the truth"], body)


def _truth(found: Mapping[str, Mapping[str, Any]]) -> Html:
    told = {"shown": "items shown", "drawn": "any items"}
    return table(["", "Correlation of log chances", "Pairs of a request in right order",
                  "Mean score / mean truth"],
                 [[f"{head}, {told[name]}", *(number(own[f"{head}.{figure}"]) for figure
                                              in ("correlation", "order", "ratio"))]
                  for head in _HEADS for name, own in found.items()])
