"""Transition memory: what followed the last items in training.

A network needs many epochs to learn rare transitions by heart; a count table holds them
exactly. A few learned numbers weigh the table's candidates:

    P_memory(c) = softmax_c(a log n_c + b_d + e log p_codes(first code of c))

where c runs over the successors of the last items h_1, h_2, h_3, and n_c is the decayed
count of c after h_d. In training the target's own transition is taken out of the
counts first, so that the network learns from what the memory says of unseen events.
The generator mixes this distribution with its own (`Generator.mixture`).

Source: ours; a non-parametric memory beside a network as in kNN-LM, Khandelwal et al.
2020, https://arxiv.org/abs/1911.00172.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from scipy import sparse

from oxyrec_jax.base import Array
from oxyrec_jax.models import layers

BACK = 3  # how many of the last items are asked; as the Markov baseline


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Successors:
    """What followed each item in training.

    Attributes:
      items: `[N, M]` int32, the successors with the highest counts, -1 where none.
      counts: `[N, M]` float32, sum of 1/e over the training targets that stood e = 1,
        2, 3 events after the item; 0 where none.
    """

    items: Array
    counts: Array


def recent_items(batch: dict[str, Array]) -> Array:
    """The last items before each target.

    Args:
      batch: `items`, `segments` `[B, L]` and `target_positions` `[B, J]` int32.

    Returns:
      `[B, J, BACK]` int32: newest first, -1 where the history is shorter.
    """
    positions = batch["target_positions"][..., None] - jnp.arange(BACK)
    flat = jnp.maximum(positions, 0).reshape(positions.shape[0], -1)
    items, segments = (
        jnp.take_along_axis(batch[name], flat, axis=1).reshape(positions.shape)
        for name in ("items", "segments"))
    same = (positions >= 0) & (segments == segments[..., :1]) & (segments > 0)
    return jnp.where(same, items, -1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pointer:
    """The memory's say on each target.

    Attributes:
      items: `[B, J, C]` int32, candidates; the same item may stand more than once.
      weights: `[B, J, C]` float32, P_memory of each; 0 where there is no candidate.
      heard: `[B, J]` float32, log(1 + summed counts); 0 where nothing is known.
    """

    items: Array
    weights: Array
    heard: Array


def count_successors(items: np.ndarray, offsets: np.ndarray, targets: np.ndarray, *,
                     num_items: int, most: int) -> Successors:
    """Counts transitions of the training split.

    Args:
      items: `[E]` int, item of every event, sequence after sequence, oldest first.
      offsets: `[S + 1]` int, where each sequence starts.
      targets: `[R, 3]` int, training rows `(sequence, first, last)`; a transition
        counts when its later event is one of these targets.
      num_items: N.
      most: M, successors kept for each item; equal counts prefer the lower item id.

    Returns:
      The table, on the default device.
    """
    sequence, first, last = np.asarray(targets, np.int64).reshape(-1, 3).T
    lengths = np.maximum(last - first, 0)
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    position = np.repeat(first, lengths) + within
    event = np.repeat(np.asarray(offsets, np.int64)[sequence], lengths) + position
    total = sparse.csr_array((num_items, num_items), dtype=np.float64)
    for back in range(1, BACK + 1):
        later = event[position >= back]
        pair = (np.asarray(items)[later - back], np.asarray(items)[later])
        total = total + sparse.coo_array(
            (np.full(len(later), 1 / back), pair), shape=total.shape).tocsr()
    found = total.tocoo()
    (row, column), count = found.coords, found.data
    order = np.lexsort((column, -count, row))
    row, column, count = row[order], column[order], count[order]
    place = np.arange(len(row)) - np.searchsorted(row, row)
    kept = place < most
    table = np.full((num_items, most), -1, np.int32)
    counts = np.zeros((num_items, most), np.float32)
    table[row[kept], place[kept]] = column[kept]
    counts[row[kept], place[kept]] = count[kept]
    return Successors(jnp.asarray(table), jnp.asarray(counts))


class TransitionMemory(nn.Module):
    """The few parameters that weigh the candidates."""

    @nn.compact
    def __call__(self, recent: Array, successors: Successors, first_codes: Array,
                 first_log_probs: Array, own: Array | None) -> Pointer:
        """Asks the memory.

        Args:
          recent: `[B, J, BACK]` int32, the last items, newest first; -1 where none.
          successors: the table.
          first_codes: `[N]` int32, each item's first code.
          first_log_probs: `[B, J, V_0]` float32, the model's; receives no gradient.
          own: `[B, J]` int32, targets whose own transition is in the counts and is to
            be left out (training), or None.
        """
        asked = jnp.maximum(recent, 0)
        items = successors.items[asked]
        counts = jnp.where(recent[..., None] >= 0, successors.counts[asked], 0)
        distance = jnp.arange(1, BACK + 1, dtype=jnp.float32)
        if own is not None:
            mine = items == own[..., None, None]
            # An item that stands at several distances was counted at each of them.
            same = recent[..., :, None] == recent[..., None, :]
            share = jnp.sum(jnp.where(same, 1 / distance, 0), axis=-1)
            counts = counts - jnp.where(mine, share[..., None], 0)
        known = (items >= 0) & (counts > 1e-3)
        flat = (*recent.shape[:2], -1)
        items, known = items.reshape(flat), known.reshape(flat)
        one = layers.axes(nn.initializers.ones_init(), "one")
        zero = layers.axes(nn.initializers.zeros_init(), "one")
        nearness = self.param("nearness", layers.axes(
            lambda *_: -jnp.log(distance), "one"), (BACK,), jnp.float32)
        scores = self.param("sharpness", one, (1,), jnp.float32) * jnp.log(
            jnp.maximum(counts, 1e-3)) + nearness[:, None]
        codes = first_codes[jnp.maximum(items, 0)]
        model = jnp.take_along_axis(jax.lax.stop_gradient(first_log_probs), codes, -1)
        scores = scores.reshape(flat) + model * self.param("trust", zero, (1,),
                                                           jnp.float32)
        weights = jax.nn.softmax(jnp.where(known, scores, -1e30), axis=-1)
        total = jnp.sum(jnp.where(known, counts.reshape(flat), 0), axis=-1)
        return Pointer(items, jnp.where(known, weights, 0), jnp.log1p(total))
