"""The likelihood of the targets' codes: of all targets at once, or of a few at a time.

Logits are the largest arrays of a step with a large codebook: `[B, J, V]` float32 for
each level, and as much again for their gradient. In chunks of a few targets of each row
only `[B, chunk, V]` are there at a time, and the backward pass makes them again. Rows
are not cut, so that a batch which lies on several devices stays where it is.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from oxyrec_jax import losses
from oxyrec_jax.base import Array, Weighted
from oxyrec_jax.models.generator import Generator
from oxyrec_jax.tokenizer import trie as trie_lib
from oxyrec_jax.tokenizer.catalogue import Catalogue

NEVER = -1e30  # as good as -inf, but its product with 0 is 0


def code_terms(scores: list[tuple[Array, Array]], given: dict[str, Array], *,
               z_loss: float) -> dict[str, Weighted]:
    """The likelihood of each level's codes; of a masked decoder that of hidden ones.

    Args:
      scores: of each level what `levelled` gives.
      given: `mask` `[B, J]` bool, supervised; `hidden` `[B, J, T]` bool of a masked
        decoder; `weights` `[B, J]` float of the targets where they are not 1 each.
      z_loss: as `ObjectiveConfig` has it.

    Returns:
      "level_<l>" to its loss in nats and the weight of its targets.
    """
    terms = {}
    for level, (row, code) in enumerate(scores):
        ways: dict[str, Any] = {"sample_weights": given.get("weights"),
                                "z_loss": z_loss}
        if "hidden" in given:
            term = losses.masked_code_loss(row, code, given["hidden"], given["mask"],
                                           level=level, **ways)
        else:
            term = losses.next_code_loss(row, code, given["mask"], **ways)
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
      given: as `code_terms` takes it, and `targets` `[B, J]` int32 items.
      z_loss: as `ObjectiveConfig` has it.
      chunk: how many, at least 1.

    Returns:
      As `code_terms`.
    """
    @jax.checkpoint
    def terms_of(piece: dict[str, Array]) -> dict[str, Weighted]:
        logits = ask(piece["states"], method="code_logits")
        return code_terms(levelled(model, catalogue, piece["targets"], logits), piece,
                          z_loss=z_loss)

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


def levelled(model: Generator, catalogue: Catalogue, targets: Array,
             logits: Sequence[Array]) -> list[tuple[Array, Array]]:
    """Scores of each level, illegal codes at -1e30, and the target among them.

    Args:
      model: the network.
      catalogue: the items.
      targets: `[B, J]` int32 items.
      logits: T times `[B, J, V]` float32.

    Returns:
      T times `[B, J, V_l]` float32 and `[B, J]` int32.
    """
    return [_legal(model, catalogue, targets, level, row)
            for level, row in enumerate(logits)]


def _legal(model: Generator, catalogue: Catalogue, targets: Array, level: int,
           scores: Array) -> tuple[Array, Array]:
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
