"""From a network's logits to the log-probabilities of the legal children.

Over the legal children alone a prefix of one item needs no network: whatever follows
has probability 1. Catalogues are sparse, so below the first two codes most prefixes are
such chains: of 12,000 items with 4 codes of 256, 81 % at the third level and 99.6 % at
the fourth. `score_open` runs the network on the others, a fixed part of the beams at a
time and as often as one of the requests needs, so that the work follows the legal
children and not K times V.

Source: ours.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from oxyrec_jax.base import Array
from oxyrec_jax.tokenizer.trie import Trie

Scored = tuple[Array, Any]


def parts_of(beams: int) -> int:
    """Into how many parts so many beams are cut: eight, and of wide searches parts of
    sixteen beams.

    Of sparse catalogues one or two parts have to be run at all, of dense ones all, each
    still a product of some height. On a CPU core a request of 256 beams takes 48.6 ms
    in parts of 32 beams, 44.8 of 16 and 41.5 of 8, one of 50 beams 8.9 ms of 7 and 9.9
    of 4; smaller parts cost accelerators more launches.
    """
    return max(8, -(-beams // 16))


def legal_log_softmax(logits: Array, codes: Array, legal: Array, normalise: str
                      ) -> Array:
    """Log-probabilities `[B, K', M]` float32 of the children; -inf where impossible.

    Written out because a row without any possible child must give -inf and not NaN.

    Args:
      logits: `[B, K', V]` float.
      codes: `[B, K', M]` int32 codes of the children.
      legal: `[B, K', M]` bool: where there is a child.
      normalise: "legal" or "full", as `beam_search` takes it.
    """
    logits = logits.astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, codes, axis=-1)
    chosen = jnp.where(legal, chosen, -jnp.inf)
    over = chosen if normalise == "legal" else logits
    peak = jnp.max(over, axis=-1, keepdims=True, initial=-jnp.inf)
    peak = jnp.where(peak == -jnp.inf, 0, peak)
    total = jnp.log(jnp.sum(jnp.exp(over - peak), axis=-1, keepdims=True))
    return jnp.where(chosen == -jnp.inf, -jnp.inf, chosen - peak - total)


def open_nodes(trie: Trie, level: int, nodes: Array) -> Array:
    """Tells which nodes have more than one leaf below them.

    What a filter leaves of the others is not looked at, so that a node may count as
    open without need.

    Args:
      trie: from `build_trie`.
      level: static: the level below the nodes, at least 1.
      nodes: `[...]` int32 nodes of `level - 1`; -1 is not open.
    """
    first, end = jnp.maximum(nodes, 0), jnp.maximum(nodes, 0) + 1
    for below in range(level, trie.depth):
        first, end = (trie.starts[below].at[edge].get(mode="clip")
                      for edge in (first, end))
    return (nodes >= 0) & (end - first > 1)


def score_open(run: Callable[[Any, Array, Array, Array], Scored], state: Any,
               parents: Array, codes: Array, next_codes: Array, legal: Array,
               open_: Array, parts: int) -> Scored:
    """Scores the children of the open beams; the child of a chain has probability 1.

    A request's result does not depend on the others of its batch: parts are of one
    size, and what is run because another request needs it is not looked at.

    Args:
      run: `(state, codes, next_codes, legal) -> (step, state)` of `[B, c]` beams, where
        step is `[B, c, M]`.
      state: pytree of arrays `[B, K'', ...]`, of the beams of the level before.
      parents: `[B, K']` int32: which of those each beam continues.
      codes: `[B, K']` int32: the newest code of each beam.
      next_codes, legal: `[B, K', M]`: the children.
      open_: `[B, K']` bool, from `open_nodes`.
      parts: into how many parts the beams are cut, at least 1.

    Returns:
      The log-probabilities `[B, K', M]` float32, and the state `[B, K', ...]`, zero
      where nothing was run.
    """
    batch, live = codes.shape
    size = -(-live // parts)
    rows = jnp.arange(batch, dtype=jnp.int32)[:, None]
    turn = jnp.argsort(~open_, axis=1, stable=True)
    turn = jnp.pad(turn, [(0, 0), (0, parts * size - live)], constant_values=live)
    needed = jnp.max(jnp.sum(open_, axis=1), initial=0)

    def ask(index: Array) -> Scored:
        safe = jnp.minimum(index, live - 1)

        def pick(values: Array, at: Array) -> Array:
            return values.at[rows, at].get(mode="promise_in_bounds")
        above = pick(parents, safe)
        return run(jax.tree.map(lambda leaf: pick(leaf, above), state),
                   pick(codes, safe), pick(next_codes, safe), pick(legal, safe))

    _, made = jax.eval_shape(ask, turn[:, :size])
    empty = jax.tree.map(
        lambda leaf: jnp.zeros((batch, live, *leaf.shape[2:]), leaf.dtype), made)
    certain = jnp.where(legal, jnp.float32(0), -jnp.inf)

    def more(carry: tuple[Array, Array, Any]) -> Array:
        return carry[0] * size < needed

    def part(carry: tuple[Array, Array, Any]) -> tuple[Array, Array, Any]:
        number, step, kept = carry
        index = jax.lax.dynamic_slice_in_dim(turn, number * size, size, axis=1)
        found, new = ask(index)
        wanted = open_[rows, jnp.minimum(index, live - 1)]
        place = jnp.where(wanted & (index < live), index, live)

        def put(old: Array, values: Array) -> Array:
            return old.at[rows, place].set(values, mode="drop")
        return number + 1, put(step, found), jax.tree.map(put, kept, new)

    _, step, state = jax.lax.while_loop(more, part, (jnp.int32(0), certain, empty))
    return step, state
