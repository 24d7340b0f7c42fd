"""Semantic IDs in words and charts: for the report of a run and for their own page."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from oxyrec_jax.report import fragments, semantic_map, words
from oxyrec_jax.report.fragments import Html, chart, cut, missing, number, table, tag
from oxyrec_jax.tokenizer import code_map, quality, quality_gate
from oxyrec_jax.tokenizer.sid_table import SemanticIds

_TITLE = 70  # characters of a title in a list


@dataclasses.dataclass(frozen=True)
class Names:
    """What readers know the N items by.

    Attributes:
      titles: a title each.
      categories: a category each, None where unknown.
    """

    titles: Sequence[str]
    categories: Sequence[str | None]


def section(sids: SemanticIds | None, names: Names | None) -> list[Html]:
    """Everything of `chapters` in one section of a report."""
    if sids is None:
        return [missing("the semantic IDs", "No semantic-ID bundle was given.")]
    parts = list(verdict(sids))
    for name, pieces in chapters(sids, names).items():
        if pieces:
            parts += [tag("h3", LEADS[name][0]), *pieces]
    return [*parts, tag("details", tag("summary", "Quality figures of the tokenizer"),
                        figures_table(sids))]


LEADS = {
    "maps": ("Maps", "Where the items and their first codes lie."),
    "use": ("Use of the codes", "Whether all codes work, and who has to share one."),
    "meaning": ("Do alike items share codes?", "Prefixes beside what people call the "
                "items and what they use together."),
    "samples": ("Items under the same prefix", "What the codes stand for, by "
                "example."),
}


def chapters(sids: SemanticIds, names: Names | None) -> dict[str, list[Html]]:
    """The pictures and examples, by the names of `LEADS`."""
    titles = None if names is None else names.titles
    shown = titles or [f"item {item}" for item in range(len(sids.codes))]
    typical = semantic_map.typical_words(np.asarray(sids.codes[:, 0]), titles
                                         ) if titles else {}
    return {"maps": _maps(sids, shown, typical,
                          None if names is None else names.categories),
            "use": _use(sids), "meaning": _meaning(sids.manifest["quality"]),
            "samples": _samples(sids, shown, typical) if titles else []}


def first_codes(sids: SemanticIds, categories: Sequence[str | None] | None
                ) -> code_map.CodeMap | None:
    """The first codes in the plane; None for imported IDs, which have no vectors."""
    if sids.embeddings is None:
        return None
    return code_map.code_map(np.asarray(sids.codes[:, 0]), sids.embeddings, categories)


def samples(sids: SemanticIds) -> list[list[dict[str, Any]]]:
    """Items under the same prefix that may be recommended: `code_map.prefix_samples`"""
    live = np.flatnonzero(sids.live)
    return [[{**step, "items": live[step["items"]].tolist()} for step in branch]
            for branch in code_map.prefix_samples(np.asarray(sids.codes)[live],
                                                  np.asarray(sids.priority)[live])]


def cards(sids: SemanticIds | None) -> list[tuple[str, str, str, str]]:
    """How many IDs, and how many items share one, for `fragments.cards`."""
    if sids is None:
        return []
    shared = _shared(sids)
    items = int(shared.sum())
    return [("Semantic IDs", number(len(shared)),
             f"for {number(items)} items, "
             f"{' × '.join(str(width) for width in sids.widths)} codes", ""),
            ("Items that share an ID", f"{int(shared[shared > 1].sum()) / items:.1%}",
             f"largest group {number(int(shared.max()))}", "")]


def verdict(sids: SemanticIds) -> list[Html]:
    """What the quality gate said, where it was asked."""
    gate = sids.manifest["gate"]
    if not gate["asked"]:
        return []
    sentence = quality_gate.describe(gate)
    return [tag("p", f"Quality gate: {sentence}.",
                class_=f"verdict {'good' if gate['passed'] else 'bad'}")]


def figures_table(sids: SemanticIds) -> Html:
    """Every figure with its values by level, its bound, and what it says."""
    figures = fragments.nested(sids.manifest["quality"])
    asked = sids.manifest["gate"]["asked"]
    rows = []
    for key, name, kind, good, meaning in words.TOKENIZER:
        if key not in figures:
            continue
        bounds = [entry for entry in asked if entry["figure"] == key.split(".")[0]
                  and (key.endswith("lift") or "." not in key)]
        rows.append([
            name, tag("span", words.values(figures[key], kind), class_="value"), good,
            [tag("span", _bound(entry), class_="badge good" if entry["ok"] else
                 "badge bad") for entry in _told_once(bounds)], meaning])
    return tag("div", table(
        ["Figure", "By level, or of all", "Good", "Gate", "What it says"], rows),
        class_="words explained")


def _told_once(asked: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """One entry for levels of one bound; where one of them fell, those that fell."""
    fallen = [entry for entry in asked if not entry["ok"]]
    kept: dict[float, Mapping[str, Any]] = {}
    for entry in fallen or asked:
        kept.setdefault(entry["bound"], entry)
    return list(kept.values())


def _bound(entry: Mapping[str, Any]) -> str:
    sign = "≤" if entry["limit"] == "at most" else "≥"
    place = "" if entry["ok"] or entry["level"] is None else f"level {entry['level']} "
    name = " of width" if entry["figure"] == "perplexity" else ""
    return f"{place}{sign} {entry['bound']:g}{name}"


def _shared(sids: SemanticIds) -> np.ndarray:
    return semantic_map.share_counts(np.asarray(sids.codes)[sids.live])


def _use(sids: SemanticIds) -> list[Html]:
    charts = []
    levels = len(sids.widths if sids.codebooks is None else sids.codebooks.widths)
    for level, width in enumerate(sids.widths):
        counts = np.bincount(np.asarray(sids.codes)[sids.live, level], minlength=width)
        used = int((counts > 0).sum())
        charts.append(chart(
            f"usage-{level}", semantic_map.usage(counts),
            f"{used:,} of {width:,} codes are used; perplexity "
            f"{quality.perplexity(counts):,.0f}. Dashed: all codes used equally."
            + ("" if level < levels else " This level only numbers items that share "
               "the codes before."), title=f"Level {level + 1}"))
    shared, items = _shared(sids), int(sids.live.sum())
    charts.append(chart(
        "collisions", semantic_map.collisions(shared),
        f"{int(shared[shared > 1].sum()):,} of {items:,} items share their "
        f"semantic ID with another; the largest group has {int(shared.max()):,}. The "
        "model cannot tell such items apart.", title="Collisions"))
    return [tag("div", charts, class_="grid narrow")]


def _meaning(figures: Mapping[str, Any]) -> list[Html]:
    charts = []
    if figures.get("purity"):
        charts.append(chart(
            "by-depth", semantic_map.by_depth(figures),
            "Purity: share of items of the commonest category under their prefix; it "
            "can only rise with more codes. Mutual information falls again once codes "
            "split categories for no reason. Dashed: purity if nothing was known.",
            title="Categories"))
    if figures.get("agreement"):
        found = figures["agreement"]
        charts.append(chart(
            "agreement", semantic_map.agreement(found),
            f"Of {found['pairs']:,} pairs that training users took close together, the "
            "share with the same prefix, beside partners drawn at random. Above the "
            "bars: how many times more often than by chance.",
            title="Items used together"))
    if not charts:
        return [missing("purity and agreement", "The items have no categories and "
                        "nothing was measured on training behaviour.")]
    return [tag("div", charts, class_="grid")]


def _maps(sids: SemanticIds, titles: Sequence[str], typical: Mapping[int, str],
          categories: Sequence[str | None] | None) -> list[Html]:
    found = first_codes(sids, categories)
    if sids.embeddings is None or found is None:
        return [missing("the map of the items", "The semantic IDs were imported "
                        "without the embeddings that they were made from.")]
    picture, shown, share = semantic_map.item_map(sids.codes, sids.embeddings, titles,
                                                  typical)
    some = "" if shown == len(titles) else f" {shown:,} of {len(titles):,} are drawn."
    items = chart("map", picture, "Every point is an item; neighbours have similar "
                  f"embeddings. The plane keeps {share:.0%} of their variance.{some} "
                  "The colour is that of the item's first code; labels are words "
                  "typical of the titles of the largest first codes. Point at an item "
                  "for its title and semantic ID.", title="Map of the items")
    known = np.isfinite(found.purity).any()
    codes = chart("code-map", semantic_map.bubbles(found, typical),
                  f"Every disc is one of {len(found.codes):,} first codes, its size "
                  "the number of its items, its place the mean of their embeddings; "
                  f"the plane keeps {found.kept:.0%} of these means' variance."
                  + (" The colour is the share of its commonest category: a dark disc "
                     "mixes kinds of items." if known else "")
                  + " Point at one for its typical words.",
                  title="Map of the first codes")
    return [items, codes]


def _samples(sids: SemanticIds, titles: Sequence[str], typical: Mapping[int, str]
             ) -> list[Html]:
    branches = samples(sids)
    if not branches:
        return [missing("items under one prefix", "No two items share a first code.")]
    return [tag("p", "From the largest first code to a small one, each followed to its "
                "most crowded end; of every prefix the items that stand first. Going "
                "down, items should become more and more alike.", class_="lead small"),
            tag("div", [_branch(branch, titles, typical) for branch in branches],
                class_="grid")]


def _branch(branch: Sequence[Mapping[str, Any]], titles: Sequence[str],
            typical: Mapping[int, str]) -> Html:
    steps = []
    for step in branch:
        rest = step["count"] - len(step["items"])
        more = [tag("li", f"and {rest:,} more", class_="more")] if rest else []
        steps.append(tag("li", tag("div", tag(
            "code", semantic_map.spell(step["prefix"])),
            f" {step['count']:,} items", class_="head"), tag(
            "ul", [tag("li", cut(titles[item], _TITLE), title=titles[item])
                   for item in step["items"]], more)))
    return tag("div", tag("h4", typical.get(branch[0]["prefix"][0], "")
                          or semantic_map.spell(branch[0]["prefix"])),
               tag("ol", steps), class_="branch")
