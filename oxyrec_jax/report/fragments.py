"""HTML pieces that escape whatever comes from outside.

`tag` builds an element; its text children are escaped unless they are `Html`, which
only `tag` and `raw` make. So a title with markup in it is shown, never obeyed.
"""

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

_EMPTY = {"br", "meta", "hr"}


class Html(str):
    """Text that is markup already."""


def raw(markup: str) -> Html:
    """Marks text of this package as markup; never call it on what was read."""
    return Html(markup)


def tag(element: str, /, *children: Any, **attributes: Any) -> Html:
    """Builds `<element …>children</element>`.

    Args:
      element: its name.
      children: `Html` stays, lists are taken apart, None is left out, all else is
        escaped text.
      attributes: `class_` becomes `class`, `data_figure` `data-figure`; None is left
        out.
    """
    parts = [f" {key.rstrip('_').replace('_', '-')}=\"{html.escape(str(value))}\""
             for key, value in attributes.items() if value is not None]
    start = f"<{element}{''.join(parts)}>"
    if element in _EMPTY:
        return Html(start)
    return Html(f"{start}{_inside(children)}</{element}>")


def _inside(children: Iterable[Any]) -> str:
    pieces = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, Html):
            pieces.append(str(child))
        elif isinstance(child, (list, tuple)):
            pieces.append(_inside(child))
        else:
            pieces.append(html.escape(str(child)))
    return "".join(pieces)


def number(value: Any, digits: int = 4) -> str:
    """A figure as a reader wants it: `0.0648`, `12,101`, `3.2e-05`; "–" for none."""
    if value is None or isinstance(value, float) and not math.isfinite(value):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if value == 0 or 1e-3 <= abs(value) < 1e3:
            return f"{value:.{digits}f}" if abs(value) < 10 else f"{value:,.1f}"
        return f"{value:,.0f}" if abs(value) >= 1e3 else f"{value:.2g}"
    return str(value)


def table(header: Sequence[Any], rows: Iterable[Sequence[Any]], *,
          marked: Iterable[int] = ()) -> Html:
    """A table that scrolls sideways on narrow screens; `marked` rows stand out."""
    shown = set(marked)
    body = [tag("tr", [tag("th" if column == 0 else "td", cell,
                           scope="row" if column == 0 else None)
                       for column, cell in enumerate(row)],
                class_="marked" if index in shown else None)
            for index, row in enumerate(rows)]
    head = tag("tr", [tag("th", cell, scope="col") for cell in header])
    return tag("div", tag("table", tag("thead", head), tag("tbody", body)),
               class_="scroll")


def with_interval(value: float, interval: Sequence[float], *, best: bool = False,
                  digits: int = 4) -> list[Html]:
    """What a table's cell holds: a figure, bold where it is the best, its interval."""
    low, high = interval
    return [tag("b" if best else "span", number(value, digits)),
            tag("small", f"{number(low, digits)}–{number(high, digits)}")]


def cards(shown: Iterable[tuple[str, str, str, str]]) -> Html:
    """Large figures side by side: name, figure, a remark, and "good", "bad" or ""."""
    return tag("div", [tag("div", tag("div", name, class_="name"),
                           tag("div", figure, class_="figure"),
                           tag("div", more, class_="more") if more else None,
                           class_=f"card {mood}".strip())
                       for name, figure, more, mood in shown], class_="cards")


def facts(values: Mapping[str, Any]) -> Html:
    """A two-column table of nested facts, their names joined by dots."""
    rows = [(tag("code", name), tag("span", exact(value), class_="value"))
            for name, value in flatten(values).items()]
    return tag("div", table(("Name", "Value"), rows), class_="facts")


def exact(value: Any) -> str:
    """A fact as it was set: numbers to six digits, "–" for none."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return number(value)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, names joined by dots; lists of plain values as text."""
    return {name: ", ".join(exact(entry) for entry in value)
            if isinstance(value, (list, tuple)) else value
            for name, value in nested(values, prefix).items()}


def nested(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, names joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= nested(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def chart(name: str, figure: go.Figure, caption: str, *, title: str | None = None
          ) -> Html:
    """A figure drawn by the page's script from the JSON that stands beside it.

    Args:
      name: unique in the page.
      figure: its height is in its layout; its width follows the page.
      caption: what to see in it, in words.
      title: above it.
    """
    height = figure.layout.height or 320
    spec = json.dumps(json.loads(figure.to_json()), separators=(",", ":"))
    for character, code in (("&", "\\u0026"), ("<", "\\u003c"), (">", "\\u003e"),
                            ("\u2028", "\\u2028"), ("\u2029", "\\u2029")):
        spec = spec.replace(character, code)
    return tag("figure", tag("h4", title) if title else None,
               tag("div", class_="chart", data_figure=name, role="img",
                   aria_label=f"{title or ''}. {caption}",
                   style=f"height:{height}px"),
               tag("script", raw(spec), type="application/json", id=name),
               tag("figcaption", caption))


def cut(text: str, most: int) -> str:
    """A text of so many characters at most, its end told by "…"."""
    return text if len(text) <= most else f"{text[:most - 1]}…"


def missing(what: str, how: str) -> Html:
    """Says that a part is not there and what brings it."""
    return tag("p", tag("strong", f"Not in this report: {what}. "), how,
               class_="missing")
