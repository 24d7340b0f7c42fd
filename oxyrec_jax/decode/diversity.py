"""Beams in groups that avoid each other's codes: a list that is less of one kind.

At every level the groups choose one after the other. A candidate ranks by its
log-probability less `strength` for each time that an earlier group of the request has
chosen its code at this level; what a group keeps is scored by the policy alone, so the
penalty is felt once and not inherited. Two groups never return one semantic ID.

Source: diverse beam search with Hamming diversity, Vijayakumar et al. 2018,
https://arxiv.org/abs/1610.02424, algorithm 1; that groups share no result is ours.
"""

import dataclasses

import jax
import jax.numpy as jnp

from oxyrec_jax.base import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Diversity:
    """How a search is split.

    Attributes:
      groups: of equal size; they must divide the beams. 1 is the plain search.
      strength: scalar, nats: what a code costs for each beam of an earlier group that
        has it at this level.
    """

    groups: int = dataclasses.field(metadata={"static": True})
    strength: Array | float = 1.0

    def __post_init__(self) -> None:
        if self.groups < 1:
            raise ValueError(f"{self.groups=}, expected at least 1")


def choose_apart(scores: Array, codes: Array, nodes: Array, diversity: Diversity, *,
                 most: int, last: bool, width: int, size: int
                 ) -> tuple[Array, Array, Array]:
    """Chooses the beams of one level, group by group.

    Args:
      scores: `[B, K', M]` float32, nats: log-probabilities of the candidates, -inf
        where dead. K' is 1 or the same number of beams for each group, theirs in turn.
      codes: `[B, K', M]` int32 codes of the candidates.
      nodes: `[B, K', M]` int32 nodes of the candidates.
      diversity: how many groups, and how far apart.
      most: K, of all groups together.
      last: these are the results: ranked over all groups, none twice. Otherwise each
        group's beams are laid out by node.
      width: codes of this level.
      size: no level has more nodes.

    Returns:
      Flat indices `[B, groups * k]` of the chosen, their log-probabilities, -inf where
      there was nothing left to choose, and the best log-probability `[B]` that is left
      behind.
    """
    batch, live, slots = scores.shape
    own = live // diversity.groups if live > 1 else 1
    keep = min(most // diversity.groups, own * slots, size)
    rows = jnp.arange(batch)[:, None]
    uses = jnp.zeros((batch, width), jnp.float32)
    taken = jnp.zeros((batch, size), bool)
    chosen, found = [], []
    for group in range(diversity.groups):
        begin = group * own if live > 1 else 0
        mine = (part[:, begin:begin + own].reshape(batch, own * slots)
                for part in (scores, codes, nodes))
        score, code, node = mine
        if last:
            score = jnp.where(taken[rows, jnp.maximum(node, 0)], -jnp.inf, score)
        rank = score - diversity.strength * uses[rows, code]
        _, best = jax.lax.top_k(rank, keep)
        if not last:
            best = jnp.sort(best, axis=-1)
        kept = jnp.take_along_axis(score, best, axis=1)
        alive = kept > -jnp.inf
        uses = uses.at[rows, jnp.take_along_axis(code, best, axis=1)].add(alive)
        place = jnp.where(alive, jnp.take_along_axis(node, best, axis=1), size)
        taken = taken.at[rows, place].set(True, mode="drop")
        chosen.append(best + begin * slots)
        found.append(kept)
    every, log_probs = jnp.concatenate(chosen, 1), jnp.concatenate(found, 1)
    left = left_behind(scores, every)
    if last:
        node = jnp.take_along_axis(nodes.reshape(batch, live * slots), every, axis=1)
        keys = (-log_probs, node, every)
        below, _, every = jax.lax.sort(keys, dimension=1, num_keys=2)
        log_probs = -below
    return every, log_probs, left


def left_behind(scores: Array, chosen: Array) -> Array:
    """`[B]`: the highest of `[B, K', M]` scores that `[B, K]` flat indices leave out.
    """
    flat = scores.reshape(scores.shape[0], scores.shape[1] * scores.shape[2])
    rows = jnp.arange(flat.shape[0])[:, None]
    return jnp.max(flat.at[rows, chosen].set(-jnp.inf), axis=1, initial=-jnp.inf)
