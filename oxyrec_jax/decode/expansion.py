"""From ranked semantic IDs to ranked items where an ID stands for several; on the host.

    ranked = rank_items(beams, leaves, limit=10, policy="share", weights=popularity)

"nested": all items of a better ID come first (`beam.expand_items`). "turns": first the
preferred item of every ID, then the second of every ID, and so on: a collision does not
crowd out the IDs below it. "share": each item by its own probability, that of its ID
split among its items in proportion to a weight.

Source: ours.
"""

import dataclasses
from typing import Literal

import numpy as np

from oxyrec_jax.data.packing import count_up
from oxyrec_jax.decode.beam import Beams
from oxyrec_jax.tokenizer.trie import Leaves
from oxyrec_jax.tokenizer.trie_filter import Filter

Policy = Literal["nested", "turns", "share"]
POLICIES = ("nested", "turns", "share")


@dataclasses.dataclass(frozen=True)
class RankedItems:
    """The items of each of R requests, best first.

    Attributes:
      items: `[R, K]` int32: item ids; -1 from where a row has no more.
      places: `[R, K]` int32: which of the request's beams each comes from; -1 likewise.
      log_probs: `[R, K]` float64, nats: of the item under "share", else of its semantic
        ID; -inf likewise.
    """

    items: np.ndarray
    places: np.ndarray
    log_probs: np.ndarray


def rank_items(beams: Beams, leaves: Leaves, *, limit: int, policy: Policy = "nested",
               weights: np.ndarray | None = None, limit_per_sid: int = 50,
               allowed: Filter | None = None) -> RankedItems:
    """Turns ranked semantic IDs into ranked items.

    Args:
      beams: from `beam_search`.
      leaves: from the same `build_trie` as the trie of the search.
      limit: K: how many items a row may hold, at least 1.
      policy: see the module's docstring. Equal places go to the better ID.
      weights: `[N]` float, at least 0, of every item, for "share"; an ID whose items
        all weigh 0 is split evenly. None: evenly.
      limit_per_sid: how many items one ID may give, at least 1: the preferred ones, or
        under "share" the heaviest.
      allowed: the filter of the search: other items are left out before anything is
        counted or split. None: every item.

    Raises:
      ValueError: an unknown policy, a limit below 1, weights that are not of this
        catalogue or negative or not finite, or without "share"; beams or a filter of
        something else.
    """
    ranked = np.asarray(beams.leaves)
    _check(ranked, leaves, policy, weights, limit, limit_per_sid, allowed)
    log_probs = np.asarray(beams.log_probs, np.float64)
    shape = (len(ranked), limit)
    found = RankedItems(np.full(shape, -1, np.int32), np.full(shape, -1, np.int32),
                        np.full(shape, -np.inf))
    for row, own in enumerate(ranked):
        live = np.flatnonzero(own >= 0)
        first = leaves.offsets[own[live]]
        held = leaves.offsets[own[live] + 1] - first
        at = np.repeat(first, held) + count_up(held)
        beam = np.repeat(live, held)
        if allowed is not None:
            kept = allowed.admits(row, at)
            at, beam = at[kept], beam[kept]
        score = log_probs[row][beam]
        if policy == "share":
            score = score + _log_shares(beam, leaves.items[at], weights)
            order = np.lexsort((np.arange(len(at)), -score, beam))
            at, beam, score = at[order], beam[order], score[order]
        counts = np.bincount(beam, minlength=ranked.shape[1])
        within = count_up(counts)
        few = within < limit_per_sid
        at, beam, score, within = at[few], beam[few], score[few], within[few]
        if policy == "turns":
            order = np.lexsort((beam, within))
        elif policy == "share":
            order = np.lexsort((within, beam, -score))
        else:
            order = np.arange(len(at))
        order = order[:limit]
        found.items[row, :len(order)] = leaves.items[at[order]]
        found.places[row, :len(order)] = beam[order]
        found.log_probs[row, :len(order)] = score[order]
    return found


def _log_shares(beam: np.ndarray, items: np.ndarray, weights: np.ndarray | None
                ) -> np.ndarray:
    """`[n]`: log of each item's part of its beam; -inf where it weighs nothing."""
    own = np.ones(len(items)) if weights is None else np.asarray(
        weights, np.float64)[items]
    total = np.bincount(beam, own, minlength=1)[beam]
    own = np.where(total > 0, own, 1.0)
    total = np.where(total > 0, total, np.bincount(beam, minlength=1)[beam])
    with np.errstate(divide="ignore"):
        return np.log(own) - np.log(total)


def _check(ranked: np.ndarray, leaves: Leaves, policy: str,
           weights: np.ndarray | None, limit: int, limit_per_sid: int,
           allowed: Filter | None) -> None:
    if policy not in POLICIES:
        raise ValueError(f"{policy=}, expected one of {', '.join(POLICIES)}")
    if limit < 1 or limit_per_sid < 1:
        raise ValueError(f"{limit=} {limit_per_sid=}, expected at least 1")
    if ranked.size and not -1 <= ranked.min() <= ranked.max() < len(leaves):
        raise ValueError(f"leaves from {ranked.min()} to {ranked.max()}, expected -1 "
                         f"to {len(leaves) - 1}: the search used another catalogue")
    if allowed is not None and len(allowed.pool) != len(ranked):
        raise ValueError(f"a filter of {len(allowed.pool)} requests for {len(ranked)}")
    if weights is None:
        return
    if policy != "share":
        raise ValueError(f"weights with {policy=}, expected 'share'")
    known = np.asarray(weights)
    needed = int(leaves.items.max(initial=-1)) + 1
    if known.ndim != 1 or len(known) < needed or not (
            np.isfinite(known).all() and (known >= 0).all()):
        raise ValueError(f"{known.shape=}, expected [{needed}] finite weights of at "
                         "least 0")
