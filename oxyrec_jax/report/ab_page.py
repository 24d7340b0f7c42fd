"""The page of an online test: verdict, days, scenarios, and what it is worth."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from oxyrec_jax.report import figures, page, words
from oxyrec_jax.report.fragments import Html, cards, chart, facts, number, table, tag

_NAMES = {**words.ONLINE, "ctr": "CTR", "diversity": "Categories per slate",
          "legality": "Legal items"}
_HEADLINE = tuple(words.ONLINE)
_MEANING = {
    "uctr": "Days on which a user clicked, of days on which the user was shown "
            "something: the user-level click-through rate. In a scenario, of users who "
            "came to it on that day.",
    "uctcvr": "The same of days with an order.",
    "orders": "Ordered items over the whole test for each user of the arm, also those "
              "who never came to the scenario.",
    "gmv": "US dollars of ordered items for each user of the arm.",
    "ctr": "Clicked items of those shown.",
    "diversity": "Different categories in a slate.",
    "legality": "Items of a slate that exist, are in stock and stand in it once."}
_LEADS = {
    "summary": ("Summary", "What the test says, once it was over."),
    "same": ("A/A first", "The control against itself. Where nothing differs, a sound "
             "test finds a difference as often as its level allows and no more."),
    "scenarios": ("Scenario by scenario", "Lift of the treatment over the control."),
    "days": ("Day by day", "To see that nothing broke. A test is judged once, after "
             "its last day: whoever looks every day and stops at the first good one "
             "finds differences that are not there."),
    "figures": ("All figures", "Values, intervals, and what could have been found."),
    "reading": ("How to read this page", "What the words mean here."),
    "provenance": ("Provenance", "Everything needed to run this test again."),
}


def write_ab_page(path: str | os.PathLike, found: Mapping[str, Any]) -> pathlib.Path:
    """Writes the page of a test.

    Args:
      path: the HTML file; its folder must exist.
      found: what `ab_test.run` returned.

    Returns:
      The path.
    """
    content = {
        "summary": _summary(found), "same": _same(found["same"]),
        "scenarios": [_forest(found, name) for name in _HEADLINE],
        "days": [tag("div", [_daily(found, name) for name in _HEADLINE],
                     class_="grid")],
        "figures": _tables(found), "reading": _reading(found),
        "provenance": [facts(found["config"])]}
    return page.write_page(path, f"Online test: {found['abtest']}", content, _LEADS, {
        "mode": found["mode"], "users": f"{found['users']:,}", "days": found["days"],
        "slate": found["slate"]})


def _summary(found: Mapping[str, Any]) -> list[Html]:
    parts: list[Html] = []
    for name, verdict in found["verdicts"].items():
        cells = found["treatments"][name]["total"]
        mood = "bad" if found["refused"] else ""
        parts.append(tag("p", tag("strong", f"{name} against {found['control']}. "),
                         verdict, class_=f"verdict {mood}".strip()))
        parts.append(cards([_card(figure, cells[figure]) for figure in _HEADLINE]))
    return parts


def _card(figure: str, cell: Mapping[str, Any]) -> tuple[str, str, str, str]:
    if cell["lift"] is None:
        return _NAMES[figure], "–", "nothing to divide by", ""
    mood = "" if not cell["significant"] else "good" if cell["lift"] > 0 else "bad"
    return (_NAMES[figure], f"{cell['lift']:+.1%}",
            f"{cell['low']:+.1%} to {cell['high']:+.1%}", mood)


def _same(same: Mapping[str, Any]) -> list[Html]:
    names = list(_NAMES)
    rows = [[scope, *(f"{shares[name]:.1%}" for name in names)]
            for scope, shares in same["shares"].items()]
    said = ("The test is sound: it may be read." if same["passed"] else
            f"The test is not sound, so nothing is concluded from it: {same['why']}.")
    return [tag("p", said, class_="verdict good" if same["passed"] else "verdict bad"),
            tag("p", f"Share of {same['splits']} A/A tests with a significant "
                f"difference; {same['expected']:.0%} are expected, and above "
                f"{same['allowed']:.1%} in a total headline figure the test is "
                "refused."),
            table(["", *(_NAMES[name] for name in names)], rows, marked=[0]),
            tag("p", _unsound(same["unsound"]), class_="small")]


def _unsound(cells: list[list[str]]) -> str:
    if not cells:
        return "No figure of any scenario finds more."
    told = ", ".join(f"{_NAMES[figure]} in {scope}" for scope, figure in cells)
    return (f"Too few events for their errors to be known: {told}. These are shown and "
            "never called significant.")


def _forest(found: Mapping[str, Any], name: str) -> Html:
    """Lifts of one figure with their intervals, total on top."""
    treatments = found["treatments"]
    scopes = ["total", *found["scenarios"]]
    figure = go.Figure(layout=figures.layout(
        90 + 34 * len(scopes) * len(treatments),
        xaxis={"tickformat": "+.0%", **figures.ZERO_LINE},
        yaxis={"showgrid": False, "autorange": "reversed", "type": "category"}))
    for place, (label, own) in enumerate(treatments.items()):
        cells = [own["total"][name] if scope == "total" else
                 own["scenarios"][scope][name] for scope in scopes]
        known = [(scope, cell) for scope, cell in zip(scopes, cells)
                 if cell["lift"] is not None]
        figure.add_scatter(
            x=[cell["lift"] for _, cell in known], y=[scope for scope, _ in known],
            mode="markers", name=label, offsetgroup=str(place),
            marker={"size": 9, "color": figures.SERIES[place % len(figures.SERIES)],
                    "symbol": ["diamond" if scope == "total" else "circle"
                               for scope, _ in known]},
            error_x=figures.whiskers((cell for _, cell in known), "lift"),
            customdata=[(cell["low"], cell["high"]) for _, cell in known],
            hovertemplate="%{x:+.2%} (%{customdata[0]:+.2%} to %{customdata[1]:+.2%})")
    figure.update_layout(scattermode="group", showlegend=len(treatments) > 1)
    return chart(f"forest-{name}", figure, f"{_MEANING[name]} Whiskers hold "
                 f"{found['level']:.0%}; they are not adjusted for the number of "
                 "scenarios, the significance in the table is.", title=_NAMES[name])


def _daily(found: Mapping[str, Any], name: str) -> Html:
    figure = go.Figure(layout=figures.layout(
        290, xaxis={"title": {"text": "day"}, "showgrid": False, "dtick": 1},
        yaxis_tickformat="~g", hovermode="x unified"))
    for place, (arm, own) in enumerate(found["daily"].items()):
        colour = figures.SERIES[place % len(figures.SERIES)]
        cells, axis = own[name], list(range(1, found["days"] + 1))
        figure.add_scatter(x=axis + axis[::-1], y=cells["high"] + cells["low"][::-1],
                           fill="toself", fillcolor=colour, opacity=0.16, mode="none",
                           hoverinfo="skip", showlegend=False)
        figure.add_scatter(x=axis, y=cells["value"], name=arm, mode="lines+markers",
                           line={"color": colour, "width": 2}, marker={"size": 5},
                           hovertemplate="%{y:.4~g}")
    return chart(f"daily-{name}", figure, f"Each arm's own figure of the day; bands "
                 f"hold {found['level']:.0%}.", title=_NAMES[name])


def _tables(found: Mapping[str, Any]) -> list[Html]:
    parts: list[Html] = []
    for name, own in found["treatments"].items():
        rows = []
        for scope, cells in {"total": own["total"], **own["scenarios"]}.items():
            rows += [[f"{scope}: {_NAMES[figure]}", *_row(cell)]
                     for figure, cell in cells.items()]
        parts += [tag("h3", f"{name} against {found['control']}"),
                  table(["", "Control", "Treatment", "Lift", "p, Holm", "Significant",
                         "Would be found from", "Users for +1 %"], rows,
                        marked=range(len(own["total"])))]
    return parts


def _row(cell: Mapping[str, Any]) -> list[Any]:
    known = cell["lift"] is not None
    return [number(cell["control"]), number(cell["treatment"]),
            [tag("span", f"{cell['lift']:+.1%}"),
             tag("small", f"{cell['low']:+.1%} to {cell['high']:+.1%}")]
            if known else "–",
            number(cell["p_holm"], 3), number(cell["significant"]),
            f"±{cell['detectable']:.1%}" if cell["detectable"] is not None else "–",
            number(cell["users_for_one_percent"])]


def _reading(found: Mapping[str, Any]) -> list[Html]:
    paired = ("Every user met every policy, with the same luck: possible in a "
              "simulation alone. What users have in common cancels out, so intervals "
              "are those of a far larger split test, and they speak of these users' "
              "visits, not of what an online test of this size would have found.")
    split = ("Each user met one policy, by a hash of the user and the test's name, as "
             "in an online test.")
    terms = {
        **{_NAMES[name]: meaning for name, meaning in _MEANING.items()},
        f"Mode: {found['mode']}": paired if found["mode"] == "paired" else split,
        "Lift": "Treatment / control - 1, with an interval by the delta method over "
                "users.",
        "p, Holm": "Adjusted for all treatments in the total, and for all scenarios of "
                   "all treatments in the scenarios.",
        "Would be found from": "The smallest true lift that a test of this size finds "
                               "four times out of five. A smaller one is not shown to "
                               "be absent by a result that is not significant.",
        "Users for +1 %": "How many users (of both arms together) in as many days "
                          "would find a lift of 1 % four times out of five.",
        "Simulated": "The shop and its people are made up. A lift here is a lift in "
                     "this shop."}
    return [tag("dl", [[tag("dt", word), tag("dd", told)]
                       for word, told in terms.items()])]
