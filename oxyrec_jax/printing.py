"""Results as tables for people; `--json` is the form for programs."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

_CELLS = ("item.recall@10", "item.ndcg@10", "sid.recall@10", "sid.ndcg@10")


def show(found: Mapping[str, Any]) -> None:
    """Prints what a verb returned on standard output.

    Args:
      found: JSON values; figures of an evaluation become a table beside its baselines,
        recommendations a list, everything else indented lines.
    """
    console = Console(highlight=False, soft_wrap=True)
    rest = dict(found)
    if "item.recall@10" in found and "baselines" in found:
        console.print(_evaluation(found))
        rest = {name: found[name] for name in
                ("tie_policy", "protocol", "split", "training", "report")
                if name in found}
    if "recommendations" in found:
        console.print(_recommendations(found))
        rest = {}
    for line in _lines(rest, 0):
        console.print(Text(line))


def _evaluation(found: Mapping[str, Any]) -> Table:
    cells = [cell for cell in _CELLS if cell in found]
    table = Table("", *cells, box=box.SIMPLE)
    intervals = found.get("intervals", {})
    own = [_with_interval(found, intervals, cell) for cell in cells]
    table.add_row("model", *own, style="bold")
    for name, baseline in found["baselines"].items():
        bands = baseline.get("intervals", {})
        table.add_row(name, *(_with_interval(baseline, bands, cell) for cell in cells))
    return table


def _with_interval(figures: Mapping[str, Any], intervals: Mapping[str, Any],
                   cell: str) -> str:
    if cell not in figures:
        return "–"
    value = f"{figures[cell]:.4f}"
    if cell in intervals:
        low, high = intervals[cell]
        value += f" [{low:.4f}, {high:.4f}]"
    return value


def _recommendations(found: Mapping[str, Any]) -> Table:
    table = Table("rank", "item", "title", "semantic ID", "log p (nats)",
                  box=box.SIMPLE)
    for row in found["history"][-5:]:
        seen = Text(str(row["item_id"])), Text(row["title"] or "")
        table.add_row("seen", *seen, "", "", style="dim")
    for row in found["recommendations"]:
        table.add_row(str(row["rank"]), Text(str(row["item_id"])),
                      Text(row["title"] or ""), "-".join(map(str, row["semantic_id"])),
                      f"{row['log_prob']:.3f}")
    return table


def _lines(value: Any, depth: int) -> list[str]:
    lines = []
    for name, part in value.items():
        if isinstance(part, Mapping):
            lines += [f"{'  ' * depth}{name}", *_lines(part, depth + 1)]
        else:
            lines.append(f"{'  ' * depth}{name}: {_short(part)}")
    return lines


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list) and len(value) <= 8:
        return "[" + ", ".join(_short(part) for part in value) + "]"
    if isinstance(value, list):
        return f"{len(value)} values"
    return str(value)
