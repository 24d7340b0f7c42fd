"""Shows the statistics of one or more logs side by side: HTML page, Markdown table."""

import html
import itertools
import os
from collections.abc import Callable, Mapping
from typing import Any

from oxyrec_jax import artifacts
from oxyrec_jax.data import returns

Statistics = Mapping[str, Any]
_COLOURS = ("#2f6fde", "#e07b39", "#3a9d6e", "#9a5fc4", "#c9463d", "#6b7a8f")
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2733; margin: 2rem auto;
       max-width: 1080px; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; }
p.note { color: #5a6878; } table { border-collapse: collapse; width: 100%; }
td, th { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #e3e8ee; }
td:first-child, th:first-child { text-align: left; }
.grid { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }
@media (max-width: 800px) { .grid { grid-template-columns: 1fr; } }
"""


def write_statistics(path: str | os.PathLike, logs: Mapping[str, Statistics]) -> None:
    """Writes the statistics of several logs as one JSON object, by name."""
    artifacts.write_json(path, dict(logs))


def write_statistics_page(path: str | os.PathLike, logs: Mapping[str, Statistics], *,
                          title: str = "Logs side by side") -> None:
    """Writes one self-contained HTML file; it opens from disk without a network.

    Args:
      path: where it shall stand; its folder must exist.
      logs: name to what `statistics.log_statistics` gave, in order of appearance.
      title: the page's heading.

    Raises:
      InputError: the file cannot be written.
      ValueError: no log is given.
    """
    if not logs:
        raise ValueError("expected at least one log")
    body = "\n".join(f"<div>{figure}</div>" for figure in _figures(logs))
    heading = html.escape(title)
    page = (f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
            f"<title>{heading}</title><style>{_STYLE}</style></head><body>"
            f"<h1>{heading}</h1>\n<p class='note'>– where a log cannot tell. Shares "
            "are of events. A basket is what is ordered in one request, in the log's "
            f"own currency.</p>\n{_html_table(logs)}\n<div class='grid'>{body}</div>"
            "</body></html>\n")
    with artifacts.open_atomic(path, "w") as file:
        file.write(page)


def markdown_table(logs: Mapping[str, Statistics]) -> str:
    """Returns the figures as a Markdown table, a column for each log."""
    lines = ["| | " + " | ".join(name.replace("|", "/") for name in logs) + " |",
             "|---" * (1 + len(logs)) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in _rows(logs)]
    return "\n".join(lines)


def _rows(logs: Mapping[str, Statistics]) -> list[list[str]]:
    whole, share = "{:,.0f}".format, "{:.1%}".format
    two, fixed = "{:.2f}".format, "{:,.1f}".format
    lines: list[tuple[str, Callable[[Statistics], Any], Callable[..., str]]] = [
        ("users", lambda log: log["users"], whole),
        ("items", lambda log: log["items"], whole),
        ("events", lambda log: log["events"], whole),
        ("popularity: Gini", lambda log: log["popularity"]["gini"], two),
        ("popularity: events on the top 1 % of items",
         lambda log: log["popularity"]["top_1_percent"], share),
        ("popularity: Zipf slope", lambda log: log["popularity"]["zipf_slope"], two),
        ("items without an event", lambda log: log["popularity"]["never"], share),
        ("sequence length: mean", lambda log: log["lengths"]["mean"], fixed),
        *((f"sequence length: {label}", _quantile("lengths", level), whole)
          for label, level in (("quartile 1", "0.25"), ("median", "0.5"),
                               ("quartile 3", "0.75"), ("99 %", "0.99"),
                               ("longest", "1"))),
        ("repeated items", lambda log: log["repeat_rate"], share),
        ("neighbours of one category",
         lambda log: (log["same_category"] or {}).get("neighbours"), share),
        ("the same if shuffled",
         lambda log: (log["same_category"] or {}).get("shuffled"), share),
        *_last_seen_rows(logs),
        *((f"scenario: {name}", _share("scenarios", name), share)
          for name in _names(logs, "scenarios")),
        *((f"reaches {name}", _share("funnel", name), share)
          for name in _names(logs, "funnel")),
        ("events of a request: mean", lambda log: (log["requests"] or {}).get("mean"),
         fixed),
        ("basket: median price", _quantile("baskets", "0.5"), fixed),
        ("basket: mean price", lambda log: (log["baskets"] or {}).get("mean"), fixed),
    ]
    table = []
    for label, get, show in lines:
        values = [get(log) for log in logs.values()]
        table.append([label, *("–" if value is None else show(value)
                               for value in values)])
    return table


def _quantile(part: str, level: str) -> Callable[[Statistics], Any]:
    return lambda log: log[part]["quantiles"][level] if log[part] else None


def _last_seen_rows(logs: Mapping[str, Statistics]
                    ) -> list[tuple[str, Callable[[Statistics], Any],
                                    Callable[..., str]]]:
    """Rows of `last_seen`: of all test requests, and of those after a pause."""
    def get(name: str, paused: bool, *keys: str) -> Callable[[Statistics], Any]:
        def find(log: Statistics) -> Any:
            found = (log["last_seen"] or {}).get(name)
            if paused:
                found = (found or {}).get("after_pause")
            for key in keys:
                found = (found or {}).get(key)
            return found
        return find
    rows = []
    for name in _names(logs, "last_seen"):
        for paused, where in ((False, ""), (True, ", after an hour's pause")):
            label = f"test request{where}: {name}"
            rows += [(f"{label} last seen > {k} events ago",
                      get(name, paused, "beyond", str(k)), "{:.1%}".format)
                     for k in returns.BEYOND]
            rows.append((f"{label} never seen", get(name, paused, "never"),
                         "{:.1%}".format))
    return rows


def _share(part: str, name: str) -> Callable[[Statistics], Any]:
    return lambda log: (log[part] or {}).get(name)


def _names(logs: Mapping[str, Statistics], part: str) -> list[str]:
    return list(dict.fromkeys(name for log in logs.values()
                              for name in log[part] or {}))


def _html_table(logs: Mapping[str, Statistics]) -> str:
    def line(cells: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>"
                                for cell in cells) + "</tr>"
    rows = [line(["", *logs], "th"), *(line(row, "td") for row in _rows(logs))]
    return "<table>" + "\n".join(rows) + "</table>"


def _figures(logs: Mapping[str, Statistics]) -> list[str]:
    """Returns the figures as HTML; the first carries the plotting library itself."""
    from plotly import io  # 0.5 s of import that only a page needs
    figures = [
        _lines("Popularity tail", "rank of the item", "share of events",
               {name: (log["popularity"]["curve"]["rank"],
                       log["popularity"]["curve"]["share"])
                for name, log in logs.items()}),
        _lines("Sequence length", "events", "share of sequences at least so long",
               {name: (log["lengths"]["curve"]["length"],
                       log["lengths"]["curve"]["share"])
                for name, log in logs.items()})]
    beyond = {name: _beyond(log) for name, log in logs.items()}
    if any(beyond.values()):
        figures.append(_bars("Test requests after a pause whose category was last seen "
                             "long ago", beyond, "share of these requests"))
    figures += [_bars(heading, {name: log[part] or {} for name, log in logs.items()})
                for heading, part in (("Scenario mix", "scenarios"),
                                      ("Behaviour funnel", "funnel"))
                if any(log[part] for log in logs.values())]
    return [io.to_html(figure, full_html=False, include_plotlyjs=number == 0,
                       div_id=f"figure-{number}", config={"displaylogo": False})
            for number, figure in enumerate(figures)]


def _lines(heading: str, across: str, up: str,
           lines: Mapping[str, tuple[list, list]]) -> Any:
    from plotly import graph_objects
    figure = graph_objects.Figure([
        graph_objects.Scatter(x=x, y=y, name=html.escape(name), mode="lines",
                              line={"color": colour, "width": 2.5})
        for (name, (x, y)), colour in zip(lines.items(), itertools.cycle(_COLOURS))])
    figure.update_xaxes(type="log", title=across)
    figure.update_yaxes(type="log", title=up, exponentformat="power")
    return _laid_out(figure, heading)


def _beyond(log: Statistics) -> dict[str, float]:
    """Shares of requests by how far back their category was last seen, as bars."""
    found = (log["last_seen"] or {}).get("category") or {}
    found = found.get("after_pause") or found
    if not found.get("targets"):
        return {}
    bars = {f"> {k} events": share for k, share in found["beyond"].items()}
    return {**bars, "never": found["never"]}


def _bars(heading: str, shares: Mapping[str, Mapping[str, float]],
          up: str = "share of events") -> Any:
    from plotly import graph_objects
    figure = graph_objects.Figure([
        graph_objects.Bar(x=[html.escape(label) for label in bars],
                          y=list(bars.values()), name=html.escape(name),
                          marker_color=colour, showlegend=bool(bars))
        for (name, bars), colour in zip(shares.items(), itertools.cycle(_COLOURS))])
    figure.update_yaxes(tickformat=".0%", title=up)
    return _laid_out(figure, heading)


def _laid_out(figure: Any, heading: str) -> Any:
    return figure.update_layout(
        title=heading, template="plotly_white", height=380,
        margin={"l": 60, "r": 20, "t": 50, "b": 50}, showlegend=True,
        legend={"orientation": "h", "y": -0.2})
