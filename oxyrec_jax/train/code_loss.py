"""The likelihood of the targets' codes: of all targets at once, or of a few at a time.

Logits are the largest arrays of a step with a large codebook: `[B, J, V]` float32 for
each level, and as much again for their gradient. In chunks of a few targets of each row
only `[B, chunk, V]` are there at a time, and the backward pass makes them again. Rows
are not cut, so that a batch which lies on several devices stays where it is.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from oxyrec_jax import losses
from oxyrec_jax.base import Array, Weighted
from oxyrec_jax.models.generator import Generator
from oxyrec_jax.tokenizer import trie as trie_lib
from oxyrec_jax.tokenizer.catalogue import Catalogue

NEVER = -1e30  # as good as -inf, but its product with 0 is 0


def code_terms(scores: list[tuple[Array, Array]], hidden: Array | None, mask: Array,
               weights: Array | None, z_loss: float) -> dict[str, Weighted]:
    """The likelihood of each level's codes; of a masked decoder that of hidden ones.

    Args:
      scores: of each level what `levelled` gives.
      hidden: `[B, J, T]` bool of a masked decoder, or None.
      mask: `[B, J]` bool, supervised.
      weights: `[B, J]` float of the targets; None: 1 each.
      z_loss: as `ObjectiveConfig` has it.

    Returns:
      "level_<l>" to its loss in nats and the weight of its targets.
    """
    terms = {}
    for level, (row, code) in enumerate(scores):
        if hidden is None:
            term = losses.next_code_loss(row, code, mask, sample_weights=weights,
                                         z_loss=z_loss)
        else:
            term = losses.masked_code_loss(row, code, hidden, mask, level=level,
                                           sample_weights=weights, z_loss=z_loss)
        terms[f"level_{level}"] = term
    return terms


def chunked_code_terms(ask: Callable[..., Any], model: Generator, catalogue: Catalogue,
                       states: Array, given: dict[str, Array], *, z_loss: float,
                       chunk: int) -> dict[str, Weighted]:
    """`code_terms` of the codes' states, a few targets of each row at a time.

    The sum is that of all targets at once, added in another order.

    Args:
      ask: applies the network, `model.apply` with its parameters.
      model: the network.
      catalogue: the items.
      states: `[B, J, T, D]`, from `Generator.code_states`.
      given: `targets` and `mask` `[B, J]`, and of what there is `hidden` `[B, J, T]`
        and `weights` `[B, J]`.
      z_loss: as `ObjectiveConfig` has it.
      chunk: how many, at least 1.

    Returns:
      As `code_terms`.
    """
    @jax.checkpoint
    def terms_of(piece: dict[str, Array]) -> dict[str, Weighted]:
        logits = ask(piece["states"], method="code_logits")
        scores = [levelled(model, catalogue, piece["targets"], level, row)
                  for level, row in enumerate(logits)]
        return code_terms(scores, piece.get("hidden"), piece["mask"],
                          piece.get("weights"), z_loss)

    def add(total: dict[str, Weighted], piece: dict[str, Array]
            ) -> tuple[dict[str, Weighted], None]:
        return jax.tree.map(jnp.add, total, terms_of(piece)), None

    pieces = {name: _cut(value, chunk)
              for name, value in {"states": states, **given}.items()}
    first = {name: value[0] for name, value in pieces.items()}
    empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
                         jax.eval_shape(terms_of, first))
    return jax.lax.scan(add, empty, pieces)[0]


def _cut(values: Array, chunk: int) -> Array:
    """`[B, J, ...]` as `[P, B, chunk, ...]`, filled up with zeros."""
    rows, count = values.shape[:2]
    more = -count % chunk
    values = jnp.pad(values, ((0, 0), (0, more), *((0, 0),) * (values.ndim - 2)))
    return jnp.moveaxis(values.reshape(rows, -1, chunk, *values.shape[2:]), 1, 0)


def levelled(model: Generator, catalogue: Catalogue, targets: Array, level: int,
             scores: Array) -> tuple[Array, Array]:
    """Scores of one level, illegal codes at -1e30, and the target among them.

    Args:
      model: the network.
      catalogue: the items.
      targets: `[B, J]` int32 items.
      level: in `[0, T)`.
      scores: `[B, J, V]` float32, the level's logits.

    Returns:
      `[B, J, V_l]` float32 and `[B, J]` int32.
    """
    code = catalogue.tables.codes[targets][..., level]
    start, width = model.starts[level], model.widths[level]
    if not model.cfg.legal_softmax:
        return scores, code + (start if model.cfg.head == "shared" else 0)
    if model.cfg.head == "shared":
        scores = scores[..., start:start + width]
    if level == 0:  # the root's children are looked up once, not for each target
        legal = trie_lib.mask(catalogue.trie, 0, jnp.zeros((), jnp.int32))
    else:
        legal = trie_lib.mask(catalogue.trie, level,
                              catalogue.paths[targets][..., level - 1])
    return jnp.where(legal, scores, NEVER), code
