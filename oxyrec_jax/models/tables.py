"""What the networks read of the items, and what its methods hand to each other."""

import dataclasses

import jax
import jax.numpy as jnp

from oxyrec_jax.base import Array
from oxyrec_jax.models import memory as memory_lib
from oxyrec_jax.models.nearest import Nearest


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ItemTables:
    """What is known of every item; an argument of compiled functions.

    Attributes:
      codes: `[N, T]` int32, the semantic ID of each item.
      features: `[N, F]` float32 side features such as text embeddings, or None.
      successors: what followed each item in training, or None.
      nearest: the items nearest by text to each item, or None.
      live: `[N]` bool, true on items that may be recommended; None: all.
      keys: `[N, R]` float32 retrieval keys, from `Generator.item_keys`, for serving;
        None: computed in every call.
      price: `[N]` float32 in the log's currency, 0 where unknown, for a ranking model;
        None: not read.
      kinds: `[N, M]` int32, what each item is of M kinds, such as its category and its
        brand, as rows of one table, a kind's first row standing for not known; for a
        ranking model; None: not read.
      queries: `[M, F]` float32, vectors of the queries' texts, for a ranking model;
        None: not read.
      held: `[U]` int32 ascending, the items whose own vectors the network has, where a
        training step hands it those that it reads; None: of all N.
    """

    codes: Array
    features: Array | None = None
    successors: memory_lib.Successors | None = None
    nearest: Nearest | None = None
    live: Array | None = None
    keys: Array | None = None
    price: Array | None = None
    kinds: Array | None = None
    queries: Array | None = None
    held: Array | None = None


def own_vectors(vectors: Array, items: Array, held: Array | None) -> Array:
    """Rows of a table of item vectors.

    Args:
      vectors: `[N, D]`, or `[U, D]` of the items held.
      items: int32, any shape.
      held: `ItemTables.held`.

    Returns:
      `[..., D]`; NaN for an item that is not held, so that no run goes on with the
      vector of another one.
    """
    if held is None:
        return vectors[items]
    rows = jnp.minimum(jnp.searchsorted(held, items), len(held) - 1)
    return jnp.where((held[rows] == items)[..., None], vectors[rows], jnp.nan)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Search:
    """What all beams of a request share.

    Attributes:
      memory: for each decoder layer, keys and values `[B, H, L, D]` of the history.
      allowed: `[B, 1, L]` bool, real history positions.
      state: `[B, 1, D]` encoder state at the newest history position.
      prefix: `[B, 1, P, D]` BOS and the instructions.
      ahead: `[B, 1, T, D]` the decoder's outputs at all levels before any code is
        known, of a network that decodes in parallel or behind masks; else None.
    """

    memory: tuple[tuple[Array, Array], ...]
    allowed: Array
    state: Array
    prefix: Array
    ahead: Array | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mixture:
    """How an item's probability is put together: sum over experts e of w_e P_e(y).

    Attributes:
      log_weights: `[B, J, E]` float32: log w of the decoder, then of the memory, of own
        items and of the item head, of each where there is one.
      pointers: the candidates of the memory and of own items, of those there are.
      sharpness: `[2]` float32: factors on the logits of the decoder and of the item
        head before their softmax; below 1 they answer less sure of themselves than
        they were on the targets that they learnt from.
    """

    log_weights: Array
    pointers: tuple[memory_lib.Pointer, ...]
    sharpness: Array
