"""From an engine's answer to the JSON body of a response."""

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np

from oxyrec_jax.decode.beam import Level
from oxyrec_jax.serve.job import Answer
from oxyrec_jax.serve.snapshot import Snapshot


def told(answer: Answer, snapshot: Snapshot, *, k: int, allowed: int,
         score: str = "log_prob", skipped: list[str], note: str = "") -> dict[str, Any]:
    """A response's body.

    Args:
      answer: of the engine.
      snapshot: whose items these are.
      k: how many were asked for.
      allowed: how many items might have come.
      score: "log_prob" or "similarity".
      skipped, note: of what was left out.
    """
    return {
        "version": snapshot.version,
        "items": [{"rank": place, **item, score: round(value, 6)}
                  for place, (item, value) in enumerate(zip(
                      _items(answer.items, snapshot), answer.scores.tolist()), 1)],
        "reason": why_fewer(len(answer.items), k, allowed), "note": note,
        "skipped": skipped,
        "timing": {"queue_ms": round(1e3 * answer.waited, 3),
                   "compute_ms": round(1e3 * answer.computed, 3),
                   "batch": answer.batch}}


def nothing(snapshot: Snapshot, skipped: list[str], note: str) -> dict[str, Any]:
    """The response where nothing is allowed."""
    none = np.zeros(0)
    return told(Answer(none, none, (), None, 0.0, 0.0, 0), snapshot, k=1,
                allowed=0, skipped=skipped, note=note)


def why_fewer(found: int, k: int, allowed: int) -> str:
    """Why there are fewer items than asked for, or ""."""
    if found >= k:
        return ""
    if not allowed:
        return "The filters allow no item of this catalogue."
    return f"The filters and the catalogue allow {allowed} items."


def explained(answer: Answer, snapshot: Snapshot, history: np.ndarray
              ) -> dict[str, Any]:
    """The history and the tree, for `explain`."""
    counts = [(int(level.legal), int(np.isfinite(level.log_probs[:level.kept]).sum()))
              for level in answer.levels]
    return {"history": _items(history, snapshot), "tree": tree(answer.levels),
            "levels": [{"legal": legal, "kept": kept, "cut": legal - kept}
                       for legal, kept in counts]}


def tree(levels: Sequence[Level]) -> list[dict[str, Any]]:
    """The search as the nodes of a tree.

    Args:
      levels: what each kept and cut, one row of each.

    Returns:
      The nodes, level by level, the likelier first: `codes` from the root, `log_prob`
      of the prefix, nats, `fate`, and `beams`, how many of the results begin so. The
      fate is "kept" where results begin so, "ended" where the search went on from the
      prefix and kept none of what follows, "cut" where it did not go on from it.
    """
    found = []
    ends = (levels[-1].codes[:levels[-1].kept].tolist() if levels else [])
    for depth, level in enumerate(levels, 1):
        beams = collections.Counter(tuple(codes[:depth]) for codes in ends)
        for place, (codes, log_prob) in enumerate(zip(
                level.codes.tolist(), level.log_probs.tolist())):
            if log_prob == -np.inf:
                continue
            count = beams[tuple(codes)] if place < level.kept else 0
            fate = "cut" if place >= level.kept else "kept" if count else "ended"
            found.append({"codes": codes, "log_prob": round(log_prob, 6), "fate": fate,
                          "beams": count})
    return found


def _items(rows: np.ndarray, snapshot: Snapshot) -> list[dict[str, Any]]:
    rows = rows.astype(np.int64)
    return [{"item_id": snapshot.item_ids[row], "title": snapshot.titles[row],
             "semantic_id": codes}
            for row, codes in zip(rows.tolist(), snapshot.codes[rows].tolist())]
