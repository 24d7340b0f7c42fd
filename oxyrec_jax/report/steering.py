"""The report's parts on instructions: what they retrieve, and whether they count."""

from collections.abc import Mapping
from typing import Any

from oxyrec_jax.report.fragments import Html, number, table, tag, with_interval

_RULES = {"model": "This model", "recent": "Latest events", "random": "Random events",
          "ceiling": "Ideal retriever"}
_GAPS = {"minus_recent": "Model − latest", "minus_random": "Model − random"}
_FIGURES = {"recall": "kept at least once", "share": "share of what was kept"}


def retrieval(result: Mapping[str, Any]) -> list[Html]:
    """A table of what an evaluated network retrieves; nothing where it does not."""
    found = result.get("retrieval") or {}
    if not found.get("cells"):
        return []
    rows = []
    for name, cell in found["cells"].items():
        label, _, figure = name.partition(".")
        spoken = "category" if label == "category" else (
            f"first {label.removeprefix('sid')} of the codes")
        rows.append([
            f"Target's {spoken}: {_FIGURES[figure]}",
            with_interval(cell["model"], cell["interval"], digits=3),
            *(number(cell[rule], 3) for rule in list(_RULES)[1:]),
            *(f"{cell[gap]['low']:+.3f} to {cell[gap]['high']:+.3f}" for gap in _GAPS)])
    lead = (f"Of each history longer than the recent one {found['keep']} older events "
            f"are read. {found['targets']:,} targets have older events, "
            f"{found['with_choice']:,} of them more than that. The ideal retriever "
            "knows the target; differences are intervals over the same users.")
    return [tag("h3", "What is retrieved"), tag("p", lead, class_="lead"),
            table(["", *_RULES.values(), *_GAPS.values()], rows)]


def following(results: Mapping[str, Mapping[str, Any]]) -> list[Html]:
    """Figures under texts of several kinds, of each `workflow.follow` by name."""
    parts: list[Html] = []
    for name, result in results.items():
        found = result["following"]
        groups = [group for group in found["counts"] if group in
                  found["kinds"]["none"]]
        rows = []
        for kind, cells in found["kinds"].items():
            gaps = found["differences"].get(kind, {})
            rows.append([
                kind, *(number(cells[group]["hr@10"]["mean"]) for group in groups),
                *(f"{gap['low']:+.4f} to {gap['high']:+.4f}" if (gap := gaps.get(
                    group, {}).get("hr@10")) else "–" for group in groups)])
        heads = [*(f"HR@10, {group} ({found['counts'][group]:,})"
                   for group in groups),
                 *(f"{group}: minus none" for group in groups)]
        moved = [tag("li", tag("b", f"{word} "), f"{cell['mean']:+.1%} of the first "
                     f"ten ({cell['low']:+.1%} to {cell['high']:+.1%}, at most "
                     f"{cell['ceiling']:.1%})")
                 for word in ("controllability", "steering")
                 for cell in [found[word]["all"]]]
        parts += [tag("h3", f"Instruction following: {name}"),
                  tag("p", "The same requests with no text, the need's own (oracle), "
                      "one that is sometimes wrong or vague (noisy) and another need's "
                      "(wrong). Controllability is the share of the list that moves to "
                      "the leaf which the wrong text names; steering, to the leaf of "
                      "the need under the oracle's.", class_="lead"),
                  table(["Texts", *heads], rows), tag("ul", moved, class_="pills")]
    return parts
