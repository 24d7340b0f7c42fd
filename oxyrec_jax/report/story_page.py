"""One page for the whole path: shop, semantic IDs, training, thinking, alignment, test.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from oxyrec_jax.report import figures, page, words
from oxyrec_jax.report.fragments import Html, chart, number, table, tag

_LEADS = {
    "shop": ("1. A shop", "A simulated one, so that what its people want is known."),
    "ids": ("2. Semantic IDs", "Each item becomes a few codes; like items share the "
            "first of them."),
    "training": ("3. Pre-training", "A network learns to write the codes of what a "
                 "person takes next."),
    "thinking": ("4. Slow thinking", "What a person may want is put into words before "
                 "the person asks. Here the rules of a knowledge base write, no "
                 "language model; the quickstart's network does not read the words."),
    "alignment": ("5. Alignment", "The network draws candidates, a reward says what "
                  "each is worth, and it moves towards the better ones."),
    "test": ("6. A test with users", "The pre-trained and the aligned network serve "
             "the same people of the shop, day by day, with the same luck."),
}


def write_story_page(path: str | os.PathLike, told: Mapping[str, Any], *, title: str
                     ) -> pathlib.Path:
    """Writes the page; it loads nothing from a network.

    Args:
      path: the HTML file; its folder must exist.
      told: "counts" (of the data set), "quality" (figure of the semantic IDs to value),
        "results" (figure of the test split to value), "log" and "aligned_log" (entries
        of both runs), "thought" ("user" and "text" of some people), "written" (how many
        instructions the store holds), "alignment" (metric at "start" and "best"),
        "test" (what `ab_test.run` returned) and "links" (part to the page that has more
        of it, relative).
      title: of the page.

    Returns:
      The path.
    """
    content: dict[str, list[Html]] = {
        "shop": [_facts(told["counts"])],
        "ids": [_facts(told["quality"])],
        "training": [_curve("loss", told["log"], ["loss"], "Nats for each target."),
                     _facts(told["results"])],
        "thinking": [tag("p", f"{told['written']:,} instructions were written."),
                     table(["Person", "What was written"],
                           [[row["user"], row["text"]] for row in told["thought"]])],
        "alignment": [
            _curve("reward", told["aligned_log"], ["reward", "target_reward"],
                   "Mean reward of what was drawn, and of what people chose."),
            table(["", "Before", "After"], [
                [name, number(value), number(told["alignment"]["best"][name])]
                for name, value in told["alignment"]["start"].items()])],
        "test": _test(told["test"])}
    for part, link in told["links"].items():
        content[part].append(tag("p", tag("a", "More of this part", href=link)))
    return page.write_page(path, title, content, _LEADS)


def _facts(values: Mapping[str, Any]) -> Html:
    return table(["", ""], [[name, number(value)] for name, value in values.items()])


def _curve(name: str, log: Sequence[Mapping[str, Any]], names: Sequence[str],
           caption: str) -> Html:
    return chart(f"story-{name}", figures.curves(log, names), caption)


def _test(found: Mapping[str, Any]) -> list[Html]:
    cells = {label: found["total"][name] for name, label in words.ONLINE.items()
             if found["total"][name]["lift"] is not None}
    figure = go.Figure(layout=figures.layout(
        90 + 34 * max(len(cells), 1), showlegend=False,
        xaxis={"tickformat": "+.0%", **figures.ZERO_LINE},
        yaxis={"showgrid": False, "autorange": "reversed", "type": "category"}))
    figure.add_scatter(
        x=[cell["lift"] for cell in cells.values()], y=list(cells), mode="markers",
        marker={"size": 9, "color": "var(--model)"},
        error_x=figures.whiskers(cells.values(), "lift"))
    said = [tag("p", verdict, class_="verdict bad" if found["refused"] else "verdict")
            for verdict in found["verdicts"].values()]
    return [*said, chart("story-test", figure, f"Lift of the aligned network over the "
                         f"other; whiskers hold {found['level']:.0%}. So few people "
                         "and days find large lifts alone.")]
