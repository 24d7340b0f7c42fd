"""The quality gate: bounds that the figures of a tokenizer build must keep.

A build that falls through ends with one sentence that names every figure that fell, so
that bad semantic IDs are seen before anything is trained on them.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from oxyrec_jax.base import InputError

GOOD_DUPLICATES = 0.02
"""Ours: more items than this share should not share their semantic ID."""

PerLevel = float | tuple[float, ...] | None


@dataclasses.dataclass(frozen=True)
class GateConfig:
    """Bounds of the figures of `quality.measure`; None: not asked, and so by default.

    Those of a level are one number for every level, or one number each.

    Attributes:
      max_duplicates: share of items that share their semantic ID, 0 to 1.
      max_items_per_sid: items of the most crowded semantic ID.
      max_p99, max_p999: items of a semantic ID, 99 % and 99.9 % quantile.
      min_coverage: share of a level's codes in use, 0 to 1.
      min_perplexity: of a level, as a share of its width, 0 to 1.
      max_gini: inequality of a level's loads, 0 to 1.
      min_purity: category purity under the first code, 0 to 1.
      min_agreement: lift of items used together under the first code; 1 is chance.
      max_reconstruction: share of the variance left over after the last level.
    """

    max_duplicates: float | None = None
    max_items_per_sid: int | None = None
    max_p99: float | None = None
    max_p999: float | None = None
    min_coverage: PerLevel = None
    min_perplexity: PerLevel = None
    max_gini: PerLevel = None
    min_purity: float | None = None
    min_agreement: float | None = None
    max_reconstruction: float | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            share = field.name in _SHARES
            for bound in _numbers(getattr(self, field.name)):
                if not 0 <= bound < math.inf or share and bound > 1:
                    limits = "from 0 to 1" if share else "of 0 or more"
                    raise InputError(f"the gate's {field.name} is {bound}, expected a "
                                     f"number {limits}")


_SHARES = {"max_duplicates", "min_coverage", "min_perplexity", "max_gini",
           "min_purity"}
_REMEDIES = {
    "duplicates": "wider or more levels, balanced k-means, or the collision policy "
                  "reassign or dedup",
    "max_items_per_sid": "the collision policy reassign or dedup, or titles that tell "
                         "such items apart",
    "p99": "wider or more levels, or the collision policy reassign",
    "p999": "wider or more levels, or the collision policy reassign",
    "coverage": "fewer codes on that level, more k-means iterations, a larger restart "
                "share, or balanced k-means",
    "perplexity": "balanced k-means, or fewer codes on that level",
    "gini": "balanced k-means, or fewer codes on that level",
    "purity": "text that names the category, the category as a source, or more codes "
              "on the first level",
    "agreement": "co-engagement as a source, or more weight for it",
    "reconstruction": "more levels or codes, or another quantiser",
}


def check(figures: Mapping[str, Any], cfg: GateConfig, *, levels: int | None = None
          ) -> dict[str, Any]:
    """Holds the figures of a build against their bounds.

    Args:
      figures: what `quality.measure` returned.
      cfg: the bounds.
      levels: how many levels, from the first, are judged; a level that only numbers
        the items of a list is left out so. None: all.

    Returns:
      JSON values: `passed`, true where nothing is asked, and `asked`, a list with one
      entry for each figure and level: `figure`, `level` (from 1, None where the figure
      is of the whole build), `value` (None where it was not measured), `bound`,
      `limit` ("at most" or "at least") and `ok`. A figure that was asked and not
      measured, or that is not a number, is not ok.

    Raises:
      InputError: another number of bounds than levels.
    """
    widths = list(figures["widths"])[:levels]
    asked = []
    for field in dataclasses.fields(cfg):
        bound = getattr(cfg, field.name)
        if bound is None:
            continue
        kind, _, figure = field.name.partition("_")
        if field.name == "max_items_per_sid":
            figure = field.name
        if figure in ("coverage", "perplexity", "gini"):
            values = [value / width if figure == "perplexity" else value
                      for value, width in zip(figures[figure], widths)]
            bounds = _numbers(bound) * (1 if isinstance(bound, tuple) else len(widths))
            if len(bounds) != len(widths):
                raise InputError(f"the gate's {field.name} has {len(bounds)} numbers "
                                 f"for {len(widths)} levels; give one for each, or one "
                                 "number for all")
            asked += [_judge(figure, level, value, limit, kind)
                      for level, (value, limit) in enumerate(zip(values, bounds), 1)]
        else:
            level, value = _of_build(figures, figure, len(widths))
            asked.append(_judge(figure, level, value, bound, kind))
    return {"passed": all(entry["ok"] for entry in asked), "asked": asked}


def require(figures: Mapping[str, Any], cfg: GateConfig, *, levels: int | None = None
            ) -> dict[str, Any]:
    """Returns what `check` does, and raises where a figure fell.

    Raises:
      InputError: one sentence with every figure that fell, its value, its bound and
        what to try.
    """
    verdict = check(figures, cfg, levels=levels)
    if not verdict["passed"]:
        raise InputError(describe(verdict))
    return verdict


def describe(verdict: Mapping[str, Any]) -> str:
    """One sentence on what `check` found."""
    fallen = [entry for entry in verdict["asked"] if not entry["ok"]]
    if not verdict["asked"]:
        return "no bounds were asked of the semantic IDs"
    if not fallen:
        return f"the semantic IDs keep all {len(verdict['asked'])} bounds"
    named = "; ".join(f"{name_of(entry)} {_shown(entry['value'])}, expected "
                      f"{entry['limit']} {_shown(entry['bound'])}" for entry in fallen)
    remedies = dict.fromkeys(f"{entry['figure']}: {_REMEDIES[entry['figure']]}"
                             for entry in fallen)
    return (f"the semantic IDs fall through the quality gate: {named}; try, for "
            f"{'; for '.join(remedies)}")


def crowded(figures: Mapping[str, Any], policy: str) -> str:
    """One sentence where many items share their semantic ID, else "".

    Args:
      figures: what `quality.measure` returned.
      policy: what was done about such items, see `collisions`.
    """
    share = figures["duplicates"]
    if share <= GOOD_DUPLICATES:
        return ""
    room = math.prod(figures["widths"])
    if room < figures["items"]:
        mend = (f"tokenizer.widths has room for {room:,} IDs of {figures['items']:,} "
                "items: take more or wider levels")
    elif policy == "list":
        mend = "--set tokenizer.collisions=reassign moves them to IDs that are free"
    else:
        mend = "more or wider levels in tokenizer.widths leave room for each"
    return (f"{share:.1%} of the items share their semantic ID with others, and the "
            f"model cannot tell such items apart; {mend}")


def name_of(entry: Mapping[str, Any]) -> str:
    """The figure of one entry of `asked` in words, with its level."""
    name = {"perplexity": "perplexity / width", "purity": "purity at depth 1",
            "agreement": "agreement lift at depth 1"}.get(
                entry["figure"], entry["figure"].replace("_per_sid", " per SID"))
    name = name.replace("max_", "most ")
    per_level = entry["figure"] in ("coverage", "perplexity", "gini")
    return f"{name} of level {entry['level']}" if per_level else name


def _of_build(figures: Mapping[str, Any], figure: str, levels: int
              ) -> tuple[int | None, Any]:
    """The level and value of a figure that is asked once."""
    found = figures.get(figure)
    if figure == "purity":
        return 1, found[0] if found else None
    if figure == "agreement":
        return 1, found["lift"][0] if found else None
    if figure == "reconstruction":
        return levels, found[levels - 1] if found else None
    return None, found


def _judge(figure: str, level: int | None, value: Any, bound: float, kind: str
           ) -> dict[str, Any]:
    measured = value is not None and math.isfinite(value)
    ok = measured and (value <= bound if kind == "max" else value >= bound)
    return {"figure": figure, "level": level, "value": value if measured else None,
            "bound": bound, "limit": "at most" if kind == "max" else "at least",
            "ok": bool(ok)}


def _numbers(bound: Any) -> tuple[float, ...]:
    return () if bound is None else bound if isinstance(bound, tuple) else (bound,)


def _shown(value: float | None) -> str:
    return "was not measured" if value is None else f"{value:.4g}"
