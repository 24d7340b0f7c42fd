"""The report's sections, each from its own input; what is not given is said so."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from oxyrec_jax.data.prepare import in_use
from oxyrec_jax.report import (figures, fragments, scenarios, semantic_ids,
                               semantic_map, steering, words)
from oxyrec_jax.report.fragments import (Html, chart, missing, number, table, tag,
                                         with_interval)
from oxyrec_jax.tokenizer.sid_table import SemanticIds

MODEL = "This model"
_HISTORY = 8  # events shown of an example's history
_LISTED = 10  # recommendations shown of an example


@dataclasses.dataclass(frozen=True)
class Example:
    """One user, what was recommended, and what came.

    Attributes:
      user: a name to show.
      history: item ids, oldest first.
      items: recommended item ids, best first; -1 = none.
      scores: one figure a recommendation, such as its log-probability in nats.
      target: the item that came next; None where it is not known.
    """

    user: str
    history: Sequence[int]
    items: Sequence[int]
    scores: Sequence[float] = ()
    target: int | None = None


def summary(results: Mapping[str, Mapping[str, Any]],
            sids: SemanticIds | None,
            facts: Mapping[str, Any]) -> list[Html]:
    """The verdict and the cards."""
    if not results:
        return [missing("the model's figures", "Evaluate a trained model and give its "
                        "results to the report."),
                fragments.cards(semantic_ids.cards(sids))]
    first = next(iter(results.values()))
    sentence, mood = words.verdict(first)
    headline = first["config"]["headline"]
    k = headline.rpartition("@")[2]
    cards = [_figure_card(first, headline), _figure_card(first, f"item.recall@{k}")]
    gap = first["differences"]["cells"][headline]
    rival = words.recommender(first["differences"]["baseline"])
    cards.append((f"{words.cell(headline)} against {rival}", f"{gap['mean']:+.4f}",
                  f"interval {gap['low']:+.4f} to {gap['high']:+.4f}, same users",
                  mood))
    cards.append((f"Coverage@{k}", f"{first[f'coverage@{k}']:.1%}",
                  "of the catalogue is in somebody's list", ""))
    cards.append((f"Validity@{k}", f"{first[f'validity@{k}']:.1%}",
                  "of the places hold an existing item", ""))
    cards.append(("Targets tested", number(first["counts"]["targets"]),
                  f"of {number(first['counts']['users'])} users, ranking all "
                  f"{number(first['counts']['items'])} items", ""))
    cards += semantic_ids.cards(sids)
    for name, value in (facts.get("timings") or {}).items():
        cards.append((_spoken(name), number(value, 1), "", ""))
    return [tag("p", sentence, class_=f"verdict {mood}".strip()),
            *_unfinished(first), fragments.cards(cards)]


def evaluation(results: Mapping[str, Mapping[str, Any]],
               following: Mapping[str, Mapping[str, Any]]) -> list[Html]:
    """Tables and charts of every result, the first one in full; what was followed."""
    if not results:
        return [missing("results", "Run the evaluation: it writes the figures, their "
                        "intervals and the baselines.")]
    parts: list[Html] = []
    for index, (name, result) in enumerate(results.items()):
        parts.append(tag("h3", name))
        parts += _result(f"r{index}", result)
    return parts + steering.following(following)


def training(log: Sequence[Mapping[str, Any]] | None) -> list[Html]:
    """Curves of every figure that the training log holds."""
    if not log:
        return [missing("training curves", "No training log was given.")]
    flat = [fragments.flatten(entry) for entry in log]
    names = sorted({name for entry in flat for name, value in entry.items()
                    if figures.is_figure(value) and name != "step"})
    rest = [name for name in names
            if "loss" not in name and "@" not in name and name != "epoch"]
    losses = [name for name in names if "loss" in name]
    charts = []
    if losses:
        charts.append(chart("loss", figures.curves(log, losses), "Nats for each "
                            "supervised target. A validation loss that turns up while "
                            "the training loss still falls is over-fitting.",
                            title="Loss"))
    for metric in sorted({name.rpartition("@")[0] for name in names if "@" in name}):
        cells = [name for name in names if name.rpartition("@")[0] == metric]
        cells.sort(key=lambda name: (len(name), name))
        charts.append(chart(f"metric-{metric}", figures.curves(log, cells),
                            "Measured while training, on the validation split.",
                            title=words.cell(metric)))
    for name in rest:
        charts.append(chart(f"log-{name}", figures.curves(log, [name]),
                            "As logged, averaged in bins where the log is long.",
                            title=_spoken(name)))
    main, others = charts[:-len(rest) or None], charts[len(charts) - len(rest):]
    more = tag("details", tag("summary", f"{len(others)} more curves"),
               tag("div", others, class_="grid")) if others else None
    last = max(entry.get("step", 0) for entry in log)
    return [tag("p", f"{len(log):,} log entries, up to step {number(last)}.",
                class_="lead"),
            tag("div", main, class_="grid"), *([more] if more else [])]


def examples(shown: Sequence[Example], titles: Sequence[str] | None,
             sids: SemanticIds | None) -> list[Html]:
    """Histories beside recommendations, the hit marked."""
    if not shown:
        return [missing("examples", "No example users were given.")]
    if titles is None:
        return [missing("examples", "The data set, which holds the items' titles, was "
                        "not given.")]
    hits = sum(example.target in list(example.items)[:_LISTED] for example in shown)
    return [tag("p", "Left: the end of a user's history, latest last. Right: what the "
                "model recommends, with its score. A green line is the item that "
                f"really came next; {hits} of these {len(shown)} lists hold it.",
                class_="lead"),
            *[_example(example, titles, sids) for example in shown]]


def provenance(facts: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]],
               dataset: Mapping[str, Any] | None) -> list[Html]:
    """Everything needed to make the figures again."""
    parts: list[Html] = []
    plain = {name: value for name, value in facts.items()
             if not isinstance(value, Mapping)}
    blocks: dict[str, Mapping[str, Any]] = {"Run": plain} if plain else {}
    blocks |= {_spoken(name): value
               for name, value in facts.items() if isinstance(value, Mapping)}
    if dataset is not None:
        blocks["Data set"] = facts_of(dataset)
    for name, result in results.items():
        blocks[f"Evaluation: {name}"] = {
            key: result.get(key) for key in ("protocol", "tie_policy", "split",
                                             "dataset", "counts", "config")}
    if not facts:
        parts.append(missing("configuration and versions", "No facts were given."))
    for index, (name, values) in enumerate(blocks.items()):
        parts.append(tag("details", tag("summary", name), fragments.facts(values),
                         open="" if not index else None))
    return parts


def facts_of(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """What readers want to know of a data set's manifest: no file by file, and of its
    configuration only what its source read."""
    found = {name: value for name, value in dataset.items()
             if name not in ("files", "shards")}
    if "source" in found.get("config", {}):  # a shop's is that of the shop alone
        found["config"] = in_use(found["config"])
    return found


def glossary() -> list[Html]:
    """The terms used above."""
    return [tag("dl", [(tag("dt", term), tag("dd", meaning))
                       for term, meaning in words.GLOSSARY])]


def _unfinished(result: Mapping[str, Any]) -> list[Html]:
    """What says that a run was judged before its end."""
    return [tag("p", f"Not trained to the end: {sentence}.", class_="verdict bad")
            for sentence in result.get("unfinished", ())]


def _spoken(name: str) -> str:
    """`gradient_norm` → `Gradient norm`."""
    words_of = name.replace("_", " ")
    return words_of[:1].upper() + words_of[1:]


def _figure_card(result: Mapping[str, Any], cell: str) -> tuple[str, str, str, str]:
    low, high = result["intervals"][cell]
    sd = result["seeds"][cell]["sd"]
    runs = result["counts"]["runs"]
    spread = f"; ± {sd:.4f} over {runs} seeds" if sd is not None else "; one seed"
    return (words.cell(cell), number(result[cell]),
            f"interval {number(low)} to {number(high)}{spread}", "")


def _result(key: str, result: Mapping[str, Any]) -> list[Html]:
    headline = result["config"]["headline"]
    k = headline.rpartition("@")[2]
    level = result["config"]["level"]
    rival = words.recommender(result["differences"]["baseline"])
    bars = [chart(f"{key}-{cell}", figures.comparison(result, cell, MODEL),
                  f"Bars are means over {result['counts']['targets']:,} targets, "
                  f"whiskers {level:.0%} bootstrap intervals over users.",
                  title=f"{words.cell(cell)}, item level")
            for cell in (f"item.recall@{k}", f"item.ndcg@{k}")]
    lines = [chart(f"{key}-{metric}-k", figures.by_cutoff(result, metric, MODEL),
                   "Longer lists find more; a model that ranks well rises early.",
                   title=f"{words.METRICS[metric]} by length of the list")
             for metric in ("recall", "ndcg")]
    gap = chart(f"{key}-gap", figures.differences(result),
                f"Model minus {rival} on the same users, with paired intervals. An "
                "interval that crosses the zero line decides nothing.",
                title=f"Difference from {rival}")
    facts = tag("ul", [tag("li", tag("b", label), f" {result[name]}")
                       for label, name in (("Protocol", "protocol"),
                                           ("Ties", "tie_policy"), ("Split", "split"))
                       if result.get(name)], class_="pills")
    grouped = [chart(f"{key}-{axis}", figures.groups(result, axis, headline, MODEL),
                     explained, title=title)
               for axis, (title, explained) in words.AXES.items()
               if any(group["axis"] == axis for group in result["strata"])]
    twins = [words.recommender(name) for name in result["baselines"]
             if name not in figures.distinct(result["baselines"])]
    same = tag("p", f"Not shown, because equal without shuffling: {'; '.join(twins)}. "
               "They do not read the order of training histories.",
               class_="lead small") if twins else None
    return [*_unfinished(result), facts, tag("div", bars, class_="grid"),
            _main_table(result, k),
            *([same] if same else []),
            tag("div", [*lines, gap], class_="grid"),
            tag("h3", f"For which targets? {words.cell(headline)} by group"),
            tag("div", grouped, class_="grid"),
            *scenarios.section(key, result, MODEL), *steering.retrieval(result),
            *_details(result),
            tag("details", tag("summary", "Notes on these figures"), tag(
                "ul", [tag("li", note) for note in result["notes"]]))]


def _main_table(result: Mapping[str, Any], k: str) -> Html:
    ks = sorted(result["config"]["ks"])
    lower = [other for other in ks if other < int(k)][-1:]
    cells = [f"item.{name}@{other}" for other in [*lower, k]
             for name in ("recall", "ndcg")]
    if f"sid.recall@{k}" in result:
        cells += [f"sid.recall@{k}", f"sid.ndcg@{k}"]
    plain = [f"coverage@{k}", f"gini@{k}"]
    rows = _rows(result)
    best = {cell: max(entry[cell] for _, entry in rows) for cell in cells}
    body = [[name, *[with_interval(entry[cell], entry["intervals"][cell],
                                   best=entry[cell] == best[cell]) for cell in cells],
             *[number(entry[cell], 3) for cell in plain]] for name, entry in rows]
    header = ["", *[words.cell(cell) for cell in [*cells, *plain]]]
    return table(header, body, marked=[0])


def _rows(result: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The model and the baselines that differ, with the names that readers see."""
    return [(MODEL, result), *[(words.recommender(name), entry) for name, entry
                               in figures.distinct(result["baselines"]).items()]]


def _details(result: Mapping[str, Any]) -> list[Html]:
    ks = sorted(result["config"]["ks"])
    rows = _rows(result)
    levels = [level for level in ("item", "sid") if f"{level}.hr@{ks[0]}" in result]
    parts = []
    for level in levels:
        cells = [f"{level}.{name}@{k}" for name in ("recall", "ndcg", "mrr")
                 for k in ks]
        parts.append(tag("details", tag("summary", f"All cutoffs, {_LEVELS[level]}"),
                         table(["", *[words.cell(cell) for cell in cells]],
                               [[name, *[number(entry[cell]) for cell in cells]]
                                for name, entry in rows], marked=[0])))
    lists = [f"{name}@{k}" for name in ("coverage", "gini", "validity") for k in ks]
    parts.append(tag("details", tag("summary", "Coverage, Gini, validity"), table(
        ["", *[words.cell(cell) for cell in lists]],
        [[name, *[number(entry[cell], 3) for cell in lists]] for name, entry in rows],
        marked=[0])))
    if len(result["runs"]) > 1:
        cells = [f"item.{name}@{k}" for name in ("recall", "ndcg") for k in ks]
        spread = [f"{number(result['seeds'][cell]['mean'])} ± "
                  f"{result['seeds'][cell]['sd']:.4f}" for cell in cells]
        parts.append(tag("details", tag("summary", "Every seed"), table(
            ["", *[words.cell(cell) for cell in cells]],
            [["Mean ± sd", *spread], *[[name, *[number(run[cell]) for cell in cells]]
                                       for name, run in result["runs"].items()]],
            marked=[0])))
    return parts


_LEVELS = {"item": "item level", "sid": "SID level"}


def _example(example: Example, titles: Sequence[str],
             sids: SemanticIds | None) -> Html:
    items = [item for item in list(example.items)[:_LISTED] if item >= 0]
    if example.target is None:
        badge = tag("span", "what came next is not known", class_="badge")
    elif example.target in items:
        badge = tag("span", f"hit at {items.index(example.target) + 1}",
                    class_="badge good")
    else:
        badge = tag("span", f"came next: {titles[example.target]}", class_="badge bad",
                    style="white-space:normal")

    def line(place: int, item: int, score: Any, hit: bool) -> Html:
        code = None if sids is None else tag("code", semantic_map.spell(
            np.asarray(sids.codes[item]).tolist()))
        return tag("li", tag("span", place, class_="place"),
                   tag("span", tag("span", titles[item], class_="name",
                                   title=titles[item]), code, class_="title"),
                   tag("span", score, class_="score"), class_="hit" if hit else None)
    recent = list(example.history)[-_HISTORY:]
    start = len(example.history) - len(recent) + 1
    scores = [number(float(score), 2) for score in example.scores]
    scores += [""] * (len(items) - len(scores))
    left = [line(start + index, item, "", False) for index, item in enumerate(recent)]
    right = [line(index + 1, item, scores[index], item == example.target)
             for index, item in enumerate(items)]
    of = "" if start == 1 else f", last {len(recent)} of {len(example.history)}"
    return tag("div", tag("div", tag("b", example.user), badge, class_="head"),
               tag("div", tag("h4", f"History{of}"), tag("ol", left, class_="items")),
               tag("div", tag("h4", "Recommended"), tag("ol", right, class_="items")),
               class_="example")
