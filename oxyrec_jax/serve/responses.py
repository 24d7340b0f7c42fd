"""From an engine's answer to the JSON body of a response."""

from typing import Any

import numpy as np

from oxyrec_jax.serve.engine import Answer
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
        "items": [{"rank": place + 1, **_item(row, snapshot), score: round(value, 6)}
                  for place, (row, value) in enumerate(
                      zip(answer.items.tolist(), answer.scores.tolist()))],
        "reason": why_fewer(len(answer.items), k, allowed), "note": note,
        "skipped": skipped,
        "timing": {"queue_ms": round(1e3 * answer.waited, 3),
                   "compute_ms": round(1e3 * answer.computed, 3),
                   "batch": answer.batch}}


def nothing(snapshot: Snapshot, skipped: list[str], note: str) -> dict[str, Any]:
    """The response where nothing is allowed."""
    none = np.zeros(0)
    return told(Answer(none, none, none, none, None, 0.0, 0.0, 0), snapshot, k=1,
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
    return {"history": [_item(row, snapshot) for row in history.tolist()],
            "tree": tree(answer.codes, answer.log_probs)}


def tree(codes: np.ndarray, log_probs: np.ndarray) -> list[dict[str, Any]]:
    """The beams that the search ended with, as the nodes of their tree.

    Args:
      codes: `[K, T]` int32, -1 where dead.
      log_probs: `[K]` float, nats.

    Returns:
      The nodes, level by level, the likelier first: `codes` from the root, `log_prob`
      of all beams below it together, nats, and `beams`, how many these are.
    """
    found = []
    live = np.isfinite(log_probs)
    codes, log_probs = codes[live], log_probs[live].astype(np.float64)
    for level in range(codes.shape[1] if codes.ndim == 2 else 0):
        nodes, which = np.unique(codes[:, :level + 1], axis=0, return_inverse=True)
        sums = np.full(len(nodes), -np.inf)
        np.logaddexp.at(sums, which.ravel(), log_probs)
        sizes = np.bincount(which.ravel(), minlength=len(nodes))
        found += [{"codes": nodes[node].tolist(),
                   "log_prob": round(float(sums[node]), 6), "beams": int(sizes[node])}
                  for node in np.argsort(-sums, kind="stable")]
    return found


def _item(row: int, snapshot: Snapshot) -> dict[str, Any]:
    return {"item_id": snapshot.item_ids[row], "title": snapshot.titles[row],
            "semantic_id": snapshot.codes[row].tolist()}
