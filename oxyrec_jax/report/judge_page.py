"""The page of a judge: does it agree, what does it weigh, what do its scores mean."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from oxyrec_jax.report import fragments
from oxyrec_jax.report.figures import SERIES, ZERO_LINE, layout
from oxyrec_jax.report.fragments import Html, chart, number, table, tag
from oxyrec_jax.report.page import write_page

_LEADS = {
    "summary": ("Can this judge be trusted?", "Figures are of users that the weights "
                "were not learnt from."),
    "agreement": ("Agreement, aspect by aspect", "Each aspect's scores beside the "
                  "reference's, over all candidates."),
    "weights": ("What counts for whom", "Mean weights of the aspects by scenario. They "
                "depend on the request alone, never on a candidate."),
    "reliability": ("What a score means", "Candidates in ten groups by the judge's "
                    "score. On the diagonal a score says what it claims."),
    "learning": ("Ways to weigh", "The same scores under weights learnt in two ways, "
                 "and under equal ones. Bradley-Terry is a variant of what is "
                 "published."),
    "cost": ("Cost", "What judging took. Points are candidates of a request; hits were "
             "known from an earlier call."),
}
_SPOKEN = {"profile": "Profile", "future": "Wanted next", "novelty": "Novelty",
           "context": "Context"}


def write_judge_page(path: str | os.PathLike, found: Mapping[str, Any], *, title: str
                     ) -> pathlib.Path:
    """Writes the page; it loads nothing from a network.

    Args:
      path: the HTML file; its folder must exist.
      found: what `judging.judge` measured.
      title: of the page.

    Returns:
      The path.

    Raises:
      InputError: the file cannot be written.
    """
    content = {"summary": [fragments.cards(_cards(found)), *_business(found)],
               "agreement": _agreement(found),
               "weights": [chart("weights", _weights(found["weights"]), "",
                                 title="Weight of each aspect"),
                           _weight_table(found["weights"])],
               "reliability": _reliability(found),
               "learning": [_methods(found)],
               "cost": [fragments.facts(found["cost"])]}
    return write_page(path, title, content, _LEADS, {
        "judge": found["judge"], "split": found["split"],
        "reference": found["reference"],
        "requests": f"{found['counts']['requests']:,}"})


def _cards(found: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    auc, points = found["pair_auc"], found["point_acc"]
    shown = [("PairAUC", number(auc["value"]), "of pairs in the reference's order" + (
        "" if auc["value"] is None else f"; {auc['low']:.3f} to {auc['high']:.3f}"),
        _mood(auc, 0.5))]
    if points:
        shown.append(("PointAcc", number(points["point_acc"]),
                      f"of scores on the right side of 0.5; {number(points['base'])} "
                      "by the commoner side alone", ""))
    choices = found["pair_auc_of_choices"]
    shown.append(("PairAUC of choices", number(choices["value"]),
                  "chosen items before those that were not", _mood(choices, 0.5)))
    shown.append(("Groups without a signal", f"{found['silent_groups']:.1%}",
                  "all candidates alike", ""))
    return shown


def _mood(auc: Mapping[str, Any], level: float) -> str:
    if auc["value"] is None:
        return ""
    return "good" if auc["low"] > level else "bad" if auc["high"] < level else ""


def _business(found: Mapping[str, Any]) -> list[Html]:
    told = {name: value for name, value in found["business"].items()
            if value is not None}
    if not told:
        return []
    rows = [[name, f"{value:+.3f}", "pulls against it" if value < -0.1 else
             "pulls with it" if value > 0.1 else "neither"]
            for name, value in told.items()]
    return [tag("h3", "With the business rewards or against them"),
            table(["Reward", "Mean rank correlation within a group", ""], rows)]


def _agreement(found: Mapping[str, Any]) -> list[Html]:
    by_pair = found["pair_auc_by_aspect"]
    if not found["aspects"]:
        return [fragments.missing("agreement of single aspects", "Only a simulated "
                                  "shop knows them; below is how well each orders "
                                  "pairs by what was chosen."),
                table(["Aspect", "PairAUC"], [
                    [_SPOKEN[name], number(one["value"])]
                    for name, one in by_pair.items()])]
    names = list(found["aspects"])
    figure = go.Figure(layout=layout(
        320, yaxis={"range": [-1, 1], **ZERO_LINE},
        xaxis={"showgrid": False, "tickangle": 0}, bargap=0.35, bargroupgap=0.08))
    for place, (key, label) in enumerate((("spearman", "Spearman"),
                                          ("auc", "AUC, 0.5 is chance"))):
        figure.add_bar(x=[_SPOKEN[name] for name in names], name=label,
                       y=[found["aspects"][name][key] for name in names],
                       marker_color=SERIES[place],
                       hovertemplate="%{y:.3f}<extra>%{fullData.name}</extra>")
    rows = [[_SPOKEN[name], *(number(one[key], 3) for key in
             ("spearman", "auc", "point_acc", "base")), number(one["points"]),
             number(by_pair[name]["value"], 3)]
            for name, one in found["aspects"].items()]
    return [chart("agreement", figure, "", title="Agreement with the shop's truth"),
            table(["Aspect", "Spearman", "AUC", "PointAcc", "Commoner side", "Points",
                   "PairAUC alone"], rows)]


def _weights(weights: Mapping[str, Mapping[str, float]]) -> go.Figure:
    groups = list(weights)
    figure = go.Figure(layout=layout(
        320, barmode="stack", yaxis={"range": [0, 1], "tickformat": ".0%"},
        xaxis={"showgrid": False, "tickangle": 0}, bargap=0.4))
    for place, name in enumerate(_SPOKEN):
        figure.add_bar(x=groups, y=[weights[group][name] for group in groups],
                       name=_SPOKEN[name], marker_color=SERIES[place],
                       hovertemplate="%{y:.1%}<extra>%{fullData.name}</extra>")
    return figure


def _weight_table(weights: Mapping[str, Mapping[str, float]]) -> Html:
    return table(["Scenario", *_SPOKEN.values()], [
        [group, *(number(own[name], 3) for name in _SPOKEN)]
        for group, own in weights.items()], marked=[0])


def _reliability(found: Mapping[str, Any]) -> list[Html]:
    charts = []
    if found["aspects"]:
        figure = go.Figure(layout=_square())
        figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", hoverinfo="skip",
                           line={"color": "var(--faint)", "dash": "dot"},
                           showlegend=False)
        for place, (name, one) in enumerate(found["aspects"].items()):
            _curve(figure, one["reliability"], _SPOKEN[name], SERIES[place])
        charts.append(chart("reliability-aspects", figure, "",
                            title="Aspects: true score by judged score"))
    figure = go.Figure(layout=_square(yaxis_range=None, yaxis_rangemode="tozero"))
    what = ("Probability of a click" if found["reference"] == "truth"
            else "Share of candidates chosen")
    _curve(figure, found["reliability"], what, SERIES[0])
    charts.append(chart("reliability", figure, "",
                        title=f"All in all: {what.lower()} by the judge's score"))
    return [tag("div", charts, class_="grid")]


def _square(**options: Any) -> go.Layout:
    made = {"xaxis": {"range": [0, 1], "title": {"text": "the judge's score"}},
            "yaxis_range": [0, 1]} | options
    return layout(320, **made)


def _curve(figure: go.Figure, bins: Any, name: str, colour: str) -> None:
    figure.add_scatter(
        x=[one["score"] for one in bins], y=[one["reference"] for one in bins],
        name=name, mode="lines+markers", line={"color": colour},
        customdata=[one["points"] for one in bins],
        hovertemplate="%{y:.3f} at %{x:.2f}, %{customdata:,} candidates"
                      "<extra>%{fullData.name}</extra>")


def _methods(found: Mapping[str, Any]) -> Html:
    ways = found["pair_auc_by_method"]
    learnt = found["learning"]
    rows = [[name, number(one["value"]),
             "–" if one["value"] is None else f"{one['low']:.4f} to {one['high']:.4f}",
             *(number(learnt.get(name, {}).get(key), 3) for key in ("first", "last"))]
            for name, one in ways.items()]
    return table(["Weights", "PairAUC", "95 % interval", "Objective at first",
                  "At last"], rows, marked=[list(ways).index(found["method"])])
