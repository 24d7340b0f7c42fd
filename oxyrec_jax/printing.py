"""Results as tables for people; `--json` is the form for programs."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from oxyrec_jax.report import words
from oxyrec_jax.report.fragments import nested
from oxyrec_jax.tokenizer import quality_gate

_SEEN = 5  # newest items of a history that are shown
_CELLS = ("item.recall@10", "item.ndcg@10", "sid.recall@10", "sid.ndcg@10")


def show(found: Mapping[str, Any]) -> None:
    """Prints what a verb returned on standard output.

    Args:
      found: JSON values; figures of an evaluation become a table beside its baselines,
        recommendations a list, everything else indented lines.
    """
    console = Console(highlight=False)
    rest = dict(found)
    if "baselines" in found:
        console.print(_evaluation(found))
        console.print(*_uncertainty(found), *(
            f"Not trained to the end: {sentence}" for sentence in
            found.get("unfinished", ())), sep="\n", soft_wrap=True)
        if found.get("scenarios"):
            console.print(_scenarios(found["scenarios"]))
        if found.get("retrieval", {}).get("cells"):
            console.print(_retrieval(found["retrieval"]))
        rest = {name: found[name] for name in
                ("split", "protocol", "tie_policy", "training", "report", "story")
                if name in found}
    if "ranking" in found:
        console.print(_ranking(found["ranking"]))
        rest = {name: found["ranking"][name] for name in ("split", "protocol", "counts",
                                                          "notes")}
        rest |= {"truth": found["ranking"].get("truth", {}), "page": found["page"]}
    if "following" in found:
        console.print(*_following(found["following"], found["level"]), sep="\n",
                      soft_wrap=True)
        rest = {name: found[name] for name in ("split", "experts")}
    if "pair_auc_by_aspect" in found:
        console.print(_judge(found), *_trust(found), sep="\n", soft_wrap=True)
        paid = ("cost",) if found["cost"]["questions"] else ()
        rest = {name: found[name] for name in ("counts", *paid, "folder", "page")}
    if "mean_items_per_sid" in found:
        console.print(_semantic_ids(found))
        shown = {"items", "sids", *(key.split(".")[0] for key, *_ in words.TOKENIZER)}
        rest = {name: found[name] for name in found if name not in shown}
    if "gate" in found:
        rest["gate"] = quality_gate.describe(found["gate"])
    if "recommendations" in found:
        console.print(_recommendations(found))
        console.print(found["note"], soft_wrap=True)
        if "instruction" in found:
            console.print(Text(_instruction(found["instruction"])), soft_wrap=True)
        rest = {}
    if "abtest" in found:
        for name, own in found["treatments"].items():
            console.print(_lifts(name, found["control"], own))
            console.print(found["verdicts"][name], soft_wrap=True)
        rest = {key: found[key] for key in ("mode", "users", "days", "page")}
    if "verdict" in found:
        for name, rows in found["tables"].items():
            console.print(_reproduced(name, rows))
        rest = {key: found[key] for key in ("page", "verdict")}
    if "sharding" in found:
        console.print(*_sharding(found["sharding"]), sep="\n", soft_wrap=True)
        rest = {}
    if "training_speed" in found:
        console.print(*_training_speed(found["training_speed"]), sep="\n",
                      soft_wrap=True)
        rest = {}
    for line in _lines(rest, 0):
        console.print(Text(line), soft_wrap=True)


def _evaluation(found: Mapping[str, Any]) -> Table:
    cells = [cell for cell in _CELLS if cell in found]
    heads = (cell.replace(".", "\n") for cell in cells)
    table = Table("", *heads, box=box.SIMPLE)
    table.add_row("model", *(f"{found[cell]:.4f}" for cell in cells), style="bold")
    for name, baseline in found["baselines"].items():
        table.add_row(name, *(f"{baseline[cell]:.4f}" if cell in baseline else "–"
                              for cell in cells))
    return table


def _semantic_ids(found: Mapping[str, Any]) -> Table:
    """What tells good semantic IDs from bad ones, beside what is usual."""
    table = Table("", Column("by level, or of all", no_wrap=True), "good",
                  title=f"{found['items']:,} items, {found['sids']:,} semantic IDs",
                  title_style="", box=box.SIMPLE)
    figures = nested(found)
    for key, name, kind, good, _ in words.TOKENIZER:
        if key in figures:
            table.add_row(name, words.values(figures[key], kind), good)
    return table


def _ranking(found: Mapping[str, Any]) -> Table:
    """Figures of a ranking model, by head and way of asking, beside the truth."""
    names = ("auc", "gauc_user", "gauc_request", "log_loss", "ece")
    table = Table("", *names, box=box.SIMPLE)
    rows = [({"list": "in its list"}.get(mode, mode), cells)
            for mode, cells in found["cells"].items()]
    if "oracle" in found:
        rows.append(("the truth", found["oracle"]))
    for head in ("click", "cart", "order"):
        for name, cells in rows:
            values = (cells[f"{head}.{figure}"] for figure in names)
            table.add_row(f"{head}, {name}", *("–" if value is None else f"{value:.4f}"
                                               for value in values))
    return table


def _scenarios(found: Mapping[str, Any]) -> Table:
    """Each scenario's figures with their intervals, beside its best baseline."""
    cells = [cell for cell in _CELLS if all(cell in own for own in found.values())
             and cell.startswith("item.")]
    heads = [cell.replace(".", "\n") for cell in cells]
    table = Table("scenario", "targets", *heads, "best baseline", box=box.SIMPLE)
    for name, own in found.items():
        rival = own["differences"]["baseline"]
        figures = [f"{own[cell]:.4f}\n{own['intervals'][cell][0]:.4f} to "
                   f"{own['intervals'][cell][1]:.4f}" for cell in cells]
        table.add_row(name, f"{own['targets']:,}", *figures, f"{rival}\n" + "   ".join(
            f"{own['baselines'][rival][cell]:.4f}" for cell in cells))
    return table


def _retrieval(found: Mapping[str, Any]) -> Table:
    """What is retrieved beside the controls, on the same histories."""
    table = Table("retrieved", "model", "recent", "random", "ceiling", "minus recent",
                  "minus random", box=box.SIMPLE, title=f"{found['keep']} older events "
                  f"kept, {found['targets']:,} targets have any", title_style="")
    for name, cell in found["cells"].items():
        gaps = (cell[f"minus_{rule}"] for rule in ("recent", "random"))
        table.add_row(name.replace(".", " "), *(f"{cell[rule]:.3f}" for rule in
                      ("model", "recent", "random", "ceiling")),
                      *(f"{gap['low']:+.3f} to {gap['high']:+.3f}" for gap in gaps))
    return table


def _following(found: Mapping[str, Any], level: float) -> list[Table | str]:
    """Figures under each kind of text, what they change, and what is aimed at."""
    table = Table("texts", *(f"{group}\n{count:,} requests" for group, count in
                             found["counts"].items()), title="HR@10", title_style="",
                  box=box.SIMPLE)
    for kind, cells in found["kinds"].items():
        table.add_row(kind, *(f"{cells[group]['hr@10']['mean']:.4f}" if group in cells
                              else "–" for group in found["counts"]))
    for kind, cells in found["differences"].items():
        table.add_row(f"{kind} − none", *(
            f"{cell['mean']:+.4f}\n{cell['low']:+.4f} to {cell['high']:+.4f}"
            for cell in (cells[group]["hr@10"] for group in found["counts"]
                         if group in cells)))
    lines: list[Table | str] = [table, f"Intervals hold {level:.0%} of samples of "
                                "users, the same in both texts."]
    for name in ("controllability", "steering"):
        cell = found[name]["all"]
        lines.append(f"{name}: {cell['mean']:+.1%} of the first ten ({cell['low']:+.1%}"
                     f" to {cell['high']:+.1%}; at most {cell['ceiling']:.1%})")
    lines += [f"{'met' if row['met'] else 'MISSED'}: {row['kind']} texts change HR@10 "
              f"of {row['group']} requests by {row['relative']:+.1%}, aimed at "
              f"{row['expected']}" for row in found["targets"]]
    return lines


def _judge(found: Mapping[str, Any]) -> Table:
    """Each aspect of a judge: agreement with the reference, and what it weighs."""
    aspects = found["aspects"] or {}
    table = Table("aspect", "Spearman", "AUC", "PointAcc", "commoner\nside",
                  "PairAUC\nalone", "weight", box=box.SIMPLE)
    for name, alone in found["pair_auc_by_aspect"].items():
        own = aspects.get(name, {})
        cells = [own.get(key) for key in ("spearman", "auc", "point_acc", "base")]
        table.add_row(name, *("–" if cell is None else f"{cell:.3f}" for cell in (
            *cells, alone["value"], found["weights"]["all"][name])))
    return table


def _trust(found: Mapping[str, Any]) -> list[str]:
    """What a judge's scores are worth all in all."""
    lines = [f"{found['judge']}; reference: {found['reference']}, users that weights "
             "were not learnt from"]
    named = {"PairAUC": found["pair_auc"], "PairAUC of choices":
             found["pair_auc_of_choices"], **{
                 f"PairAUC, {name}": one for name, one in
                 found["pair_auc_by_method"].items()}}
    lines += [f"{name}: {one['value']:.4f} ({one['low']:.4f} to {one['high']:.4f})"
              for name, one in named.items() if one["value"] is not None]
    if found["point_acc"]:
        lines.append(f"PointAcc: {found['point_acc']['point_acc']:.4f} (commoner side "
                     f"alone {found['point_acc']['base']:.4f})")
    return lines + [f"rank correlation with {name}, within a group: {value:+.3f}"
                    for name, value in found["business"].items() if value is not None]


def _uncertainty(found: Mapping[str, Any]) -> list[str]:
    """What the figures can be trusted for: intervals over users."""
    level = f"{found['config']['level']:.0%} of samples of users"
    differences = found["differences"]
    rival = differences["baseline"]
    lines = [f"In {level}, the model lies within"]
    for cell in (cell for cell in _CELLS if cell in found["intervals"]):
        low, high = found["intervals"][cell]
        lines.append(f"  {cell} {low:.4f} to {high:.4f}")
    headline = found["config"]["headline"]
    lines.append(f"and model minus {rival}, the best baseline by {headline}, within")
    for cell in (cell for cell in _CELLS if cell in differences["cells"]):
        part = differences["cells"][cell]
        lines.append(f"  {cell} {part['low']:+.4f} to {part['high']:+.4f} "
                     f"(mean {part['mean']:+.4f})")
    if headline in differences["cells"]:
        verdict, _ = words.told_apart(differences["cells"][headline])
        lines.append(f"By {headline}, {verdict}")
    return lines


def _recommendations(found: Mapping[str, Any]) -> Table:
    title = Column("title", no_wrap=True, ratio=1)  # what the other columns leave
    by = [name for name in ("click", "cart", "order", "value")
          if found["recommendations"] and name in found["recommendations"][0]]
    table = Table("rank", "item", title, "semantic ID", "log p (nats)", *by,
                  box=box.SIMPLE, expand=True)
    for row in found["history"][-_SEEN:]:
        seen = Text(str(row["item_id"])), Text(row["title"] or "")
        table.add_row("seen", *seen, "", "", style="dim")
    for row in found["recommendations"]:
        table.add_row(str(row["rank"]), Text(str(row["item_id"])),
                      Text(row["title"] or ""), "-".join(map(str, row["semantic_id"])),
                      f"{row['log_prob']:.3f}", *(f"{row[name]:.4f}" for name in by))
    return table


def _lifts(name: str, control: str, found: Mapping[str, Any]) -> Table:
    """Headline lifts of one treatment; a star where they are significant."""
    figures = ("uctr", "uctcvr", "orders", "gmv")
    table = Table("lift", *figures, title=f"{name} against {control}", title_style="",
                  box=box.SIMPLE)
    for scope, cells in {"total": found["total"], **found["scenarios"]}.items():
        table.add_row(scope, *(
            "–" if cell["lift"] is None else
            f"{cell['lift']:+.1%}{'*' if cell['significant'] else ''}\n"
            f"{cell['low']:+.1%} to {cell['high']:+.1%}"
            for cell in (cells[figure] for figure in figures)))
    return table


def _reproduced(name: str, rows: Mapping[str, Any]) -> Table:
    """Figures of one table beside the stated ones."""
    from oxyrec_jax.reproduction import shown  # SciPy: not for other verbs
    table = Table("row", "figure", "stated", "found", "difference", "errors", "agrees",
                  title=name, title_style="", box=box.SIMPLE)
    for row, columns in rows.items():
        for column, cell in columns.items():
            table.add_row(row, column, *shown(cell))
    return table


def _instruction(told: Mapping[str, Any]) -> str:
    """Which instruction was used, or why none."""
    if told["source"] == "default":
        return f"No instruction ({told['why']})."
    if told["source"] == "asked":
        return f"Instruction, as asked: {told['text']}"
    return (f"Instruction from the store, {_short(told['age_seconds'])} s old, version "
            f"{told['version']}: {told['text']}")


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


def _sharding(found: Mapping[str, Any]) -> list[Table | str]:
    """Where parameters lie, what a device holds, and what a step sends."""
    lie = Table("parameter", "shape", "cut over", Column("bytes/device",
                                                         justify="right"),
                box=box.SIMPLE)
    for one in found["parameters"]:
        spec = ", ".join("–" if axis is None else str(axis) for axis in one["spec"])
        lie.add_row(one["name"], " x ".join(map(str, one["shape"])), spec or "–",
                    f"{one['bytes_per_device']:,}")
    held = Table("on each device", Column("bytes", justify="right"), box=box.SIMPLE)
    for name, size in found["bytes_per_device"].items():
        held.add_row(name, f"{size:,}", style="bold" if name == "total" else "")
    sent = Table("collective", "devices", "times", Column("bytes/device a step",
                                                          justify="right"),
                 box=box.SIMPLE)
    for one in found["collectives"]:
        sent.add_row(one["kind"], str(one["devices"]), str(one["count"]),
                     f"{one['bytes']:,}")
    axes = ", ".join(f"{axis}={size}" for axis, size in found["mesh"].items())
    head = (f"{found['experiment']}: {found['total_parameters']:,} parameters on "
            f"{found['devices']} devices ({axes or 'one'}), {found['rows']} rows")
    return [head, lie, held, sent, *found["notes"]]


def _training_speed(found: Mapping[str, Any]) -> list[Table | str]:
    """The figures with their meaning beside them."""
    seconds, meaning = found["step_seconds"], found["meaning"]
    table = Table("", "", "", box=box.SIMPLE, show_header=False)
    table.add_row("step", f"{seconds['median'] * 1e3:.1f} ms",
                  f"median of {found['steps']}; half of them {seconds['low'] * 1e3:.1f}"
                  f" to {seconds['high'] * 1e3:.1f} ms; compiled in "
                  f"{found['compile_seconds']:.1f} s")
    for name in ("mfu", "gemm_share", "hardware_flops_share", "padding_share",
                 "waiting_share"):
        table.add_row(name, f"{found[name]:.1%}", meaning[name])
    way = found["attention"]
    table.add_row("attention", way["name"], way["reason"])
    table.add_row("model FLOPs", f"{found['model_flops']['total'] / 1e9:.2f} G",
                  meaning["model_flops"])
    for name in ("peak_flops", "gemm_flops"):
        table.add_row(name, f"{found[name] / 1e9:,.0f} G/s", meaning[name])
    for name in ("tokens", "targets"):
        table.add_row(f"{name}/s", f"{found[f'{name}_per_second']:,.0f}",
                      meaning.get(f"{name}_per_second", "supervised"))
    table.add_row("embedding bytes/s", f"{found['embedding_bytes_per_second']:,.0f}",
                  meaning["embedding_bytes_per_second"])
    return [f"{found['experiment']}: {found['parameters']:,} parameters, "
            f"{found['dtype']}, {found['devices']}, {found['rows']} rows of "
            f"{found['row_length']}", table]
