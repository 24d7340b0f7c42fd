"""Transition memory: what followed the last items in training, and what is like them.

A network needs many epochs to learn rare transitions by heart; a count table holds them
exactly. A few learned numbers weigh the table's candidates:

    P_memory(c) = softmax_c(a log n_c + b_d + e log p_codes(first code of c))

where c runs over the successors of the last items h_1, h_2, h_3, and n_c is the decayed
count of c after h_d. In training the target's own transition is taken out of the
counts first, so that the network learns from what the memory says of unseen events.
Where it is asked for (`ModelConfig.nearest`), the items whose text is nearest to the
last ones are candidates too, with a share lambda that depends on how much is known:

    P = (1 - lambda) P_memory + lambda P_nearest
    lambda = sigmoid(u + v log log(1 + n))
    P_nearest(c) = softmax_c(20 f cos(h_d, c) + g_d + k log p_codes(first code of c))

with n the summed counts. To begin with, u = 0 and v = -1, lambda is
1 / (1 + log(1 + n)): all where nothing followed the last items, as in
`evaluate.baselines.markov_title`. The generator mixes the distribution with its own
(`Generator.mixture`).

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
from oxyrec_jax.models.nearest import Nearest
from oxyrec_jax.models.transformer import visible

BACK = 3  # how many of the last items are asked; as the Markov baseline
_DISTANCE = np.arange(1, BACK + 1, dtype=np.float32)
_NEAR = 20.0  # ours: cosines that differ by 0.05 weigh 1 : e, to begin with
_SHARE = np.array([0, -1], np.float32)  # ours: u and v, to begin with


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


def earlier_items(batch: dict[str, Array]) -> Array:
    """All items of the history before each target.

    Args:
      batch: as for `recent_items`.

    Returns:
      `[B, J, L]` int32: the row's items where they stand before the target in its own
      history, -1 elsewhere.
    """
    seen = visible(batch["segments"], batch["target_positions"], causal=True)
    real = batch["segments"][:, None] > 0
    return jnp.where(seen & real, batch["items"][:, None], -1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pointer:
    """The say of the memory, or of own items, on each target.

    Attributes:
      items: `[B, J, C]` int32, candidates; the same item may stand more than once.
      weights: `[B, J, C]` float32, the probability of each; 0 where there is none.
      heard: `[B, J]` float32, log(1 + summed counts); 0 where nothing is known.
    """

    items: Array
    weights: Array
    heard: Array


def weigh(gate: Array, pointers: tuple[Pointer, ...]) -> Array:
    """Log-weights `[B, J, E]` from logits; none to a pointer that knows no item."""
    for place, pointer in enumerate(pointers, 1):
        knows = jnp.any(pointer.weights > 0, axis=-1, keepdims=True)
        gate = jnp.where(knows | (jnp.arange(gate.shape[-1]) != place), gate, -jnp.inf)
    return jax.nn.log_softmax(gate, axis=-1)


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


def candidate_weights(scores: Array, trust: Array, known: Array, codes: Array,
                      first_log_probs: Array) -> Array:
    """softmax(scores + e log p(first code)) over the candidates of each target.

    Behind a first code of probability 0 nothing may be recommended.

    Args:
      scores: `[B, J, C]` float32.
      trust: `[1]` float32, e.
      known: `[B, J, C]` bool, which candidates there are.
      codes: `[B, J, C]` int32, their first codes.
      first_log_probs: `[B, J, V_0]` float32, the decoder's; receives no gradient.

    Returns:
      `[B, J, C]` float32: sums to 1 over what is known, 0 elsewhere.
    """
    model = jnp.take_along_axis(jax.lax.stop_gradient(first_log_probs), codes, axis=-1)
    known = known & (model > -jnp.inf)
    scores = scores + trust * jnp.where(known, model, 0)
    weights = jax.nn.softmax(jnp.where(known, scores, layers.FORBIDDEN), axis=-1)
    return jnp.where(known, weights, 0)


class _Weighing(nn.Module):
    """The numbers that weigh candidates: softmax(a x + b_d + e log p(first code)).

    Attributes:
      scale: a factor on x, beside the learned one, which begins at 1.
    """

    scale: float = 1.0

    def setup(self) -> None:
        one = layers.axes(nn.initializers.ones_init(), "one")
        zero = layers.axes(nn.initializers.zeros_init(), "one")
        self.nearness = self.param("nearness", layers.axes(
            lambda *_: -jnp.log(_DISTANCE), "one"), (BACK,), jnp.float32)
        self.sharpness = self.param("sharpness", one, (1,), jnp.float32)
        self.trust = self.param("trust", zero, (1,), jnp.float32)

    def weigh(self, x: Array, known: Array, codes: Array, first_log_probs: Array
              ) -> Array:
        """`[B, J, BACK * M]` float32: sums to 1 over what is known, 0 elsewhere.

        Args:
          x: `[B, J, BACK, M]` float32, what is known of each candidate.
          known: `[B, J, BACK, M]` bool, which candidates there are.
          codes: `[B, J, BACK, M]` int32, their first codes.
          first_log_probs: `[B, J, V_0]` float32; receives no gradient.
        """
        flat = (*x.shape[:2], -1)
        scores = self.scale * self.sharpness * x + self.nearness[:, None]
        return candidate_weights(scores.reshape(flat), self.trust, known.reshape(flat),
                                 codes.reshape(flat), first_log_probs)


class TransitionMemory(_Weighing):
    """The few parameters that weigh the candidates.

    Attributes:
      near: the nearest items are candidates too.
    """

    near: bool = False

    def setup(self) -> None:
        super().setup()
        if self.near:
            self.nearest = _Weighing(scale=_NEAR)
            self.share = self.param("share", layers.axes(
                lambda *_: jnp.asarray(_SHARE), "one"), (2,), jnp.float32)

    def __call__(self, recent: Array, successors: Successors | None,
                 first_codes: Array, first_log_probs: Array, own: Array | None,
                 nearest: Nearest | None = None, earlier: Array | None = None
                 ) -> Pointer:
        """Asks the memory.

        Args:
          recent: `[B, J, BACK]` int32, the last items, newest first; -1 where none.
          successors: the table.
          first_codes: `[N]` int32, each item's first code.
          first_log_probs: `[B, J, V_0]` float32, the model's; receives no gradient.
          own: `[B, J]` int32, targets whose own transition is in the counts and is to
            be left out (training), or None.
          nearest: the table of nearest items, where they are candidates.
          earlier: `[B, J, L]` int32, items that are no candidates, -1 for none; None:
            all are.
        """
        if successors is None or self.near and nearest is None:
            raise ValueError("the memory misses what it asks in the item tables: "
                             f"{successors=}, {nearest=}")
        asked = jnp.maximum(recent, 0)
        items = successors.items[asked]
        counts = jnp.where(recent[..., None] >= 0, successors.counts[asked], 0)
        if own is not None:
            mine = items == own[..., None, None]
            # An item that stands at several distances was counted at each of them.
            same = recent[..., :, None] == recent[..., None, :]
            share = jnp.sum(jnp.where(same, 1 / _DISTANCE, 0), axis=-1)
            counts = counts - jnp.where(mine, share[..., None], 0)
        known = (items >= 0) & (counts > 1e-3) & ~_among(items, earlier)
        weights = self.weigh(jnp.log(jnp.maximum(counts, 1e-3)), known,
                             first_codes[jnp.maximum(items, 0)], first_log_probs)
        flat = (*recent.shape[:2], -1)
        total = jnp.sum(jnp.where(known, counts, 0).reshape(flat), axis=-1)
        found = Pointer(items.reshape(flat), weights, jnp.log1p(total))
        if not self.near or nearest is None:
            return found
        return self._with_nearest(found, asked, recent >= 0, first_codes,
                                  first_log_probs, nearest, earlier)

    def _with_nearest(self, found: Pointer, asked: Array, real: Array,
                      first_codes: Array, first_log_probs: Array, nearest: Nearest,
                      earlier: Array | None) -> Pointer:
        """Puts the nearest items behind the successors, each with its share."""
        items = nearest.items[asked]
        known = real[..., None] & (items >= 0) & ~_among(items, earlier)
        weights = self.nearest.weigh(nearest.cosines[asked], known,
                                     first_codes[jnp.maximum(items, 0)],
                                     first_log_probs)
        odds = self.share[0] + self.share[1] * jnp.log(jnp.maximum(found.heard, 1e-6))
        share = jnp.where(found.heard > 0, jax.nn.sigmoid(odds), 1)
        share = jnp.where(jnp.any(known, axis=(-2, -1)), share, 0)[..., None]
        return Pointer(
            jnp.concatenate([found.items, items.reshape(weights.shape)], axis=-1),
            jnp.concatenate([(1 - share) * found.weights, share * weights], axis=-1),
            found.heard)


def _among(items: Array, earlier: Array | None) -> Array:
    """Which of the candidates `[B, J, BACK, M]` stand in `[B, J, L]`."""
    if earlier is None:
        return jnp.zeros(items.shape, bool)
    return jnp.any(items[..., None] == earlier[..., None, None, :], axis=-1)
