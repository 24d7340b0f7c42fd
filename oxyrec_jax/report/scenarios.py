"""The report's part on scenarios: the model and its baselines in each of them."""

from collections.abc import Mapping
from typing import Any

from oxyrec_jax.report import figures, words
from oxyrec_jax.report.fragments import Html, chart, number, table, tag, with_interval

_EXPLAINED = ("Targets grouped by where the request was made; {rival} is the best "
              "baseline over all of them. Whiskers are bootstrap intervals over the "
              "scenario's users: in a scenario of few targets they are wide.")


def section(key: str, result: Mapping[str, Any], model: str) -> list[Html]:
    """Charts and a table of an evaluation's scenarios; nothing where it has none.

    Args:
      key: begins the charts' names, unique in the page.
      result: what `evaluate` returned as results.
      model: the name that readers see.
    """
    found = result.get("scenarios") or {}
    if not found:
        return []
    k = result["config"]["headline"].rpartition("@")[2]
    rival = words.recommender(result["differences"]["baseline"])
    rows = {"strata": [{"axis": "scenario", "name": name, **cells}
                       for name, cells in found.items()],
            "differences": result["differences"]}
    charts = [chart(f"{key}-scenario-{cell}",
                    figures.groups(rows, "scenario", cell, model),
                    _EXPLAINED.format(rival=rival), title=f"{words.cell(cell)}")
              for cell in (f"item.recall@{k}", f"item.ndcg@{k}")]
    return [tag("h3", "Scenario by scenario"), tag("div", charts, class_="grid"),
            _table(found, sorted(result["config"]["ks"]), model)]


def _table(found: Mapping[str, Any], ks: list[int], model: str) -> Html:
    """Every scenario's recommenders, the model marked."""
    cells = [f"item.{metric}@{k}" for k in ks for metric in ("recall", "ndcg")]
    body: list[list[Any]] = []
    marked: list[int] = []
    for name, own in found.items():
        marked.append(len(body))
        for label, entry in [(model, own), *[
                (words.recommender(rival), entry) for rival, entry in
                figures.distinct(own["baselines"]).items()]]:
            first = marked[-1] == len(body)
            body.append([f"{name}: {label}", number(own["targets"]) if first else "",
                         *[with_interval(entry[cell], entry["intervals"][cell])
                           for cell in cells]])
    header = ["", "Targets", *[words.cell(cell) for cell in cells]]
    return tag("details", tag("summary", "Every scenario, all cutoffs"),
               table(header, body, marked=marked))
