"""Groups of candidates for the aligner: drawn by the serving search, joined by logged
items, with the policy's log-probability of every code.

Sampler and policy are one program: both run `start_search` and `search_step` and
normalise over the same set of codes, so that a ratio of the two is exactly 1 where the
parameters are the same.

Source: constrained rollouts mixed with real items, OxygenREC, arXiv 2512.22386; how
they are mixed is ours.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from oxyrec_jax.base import Array
from oxyrec_jax.decode.recommend import recommend
from oxyrec_jax.decode.sampling import Sampling
from oxyrec_jax.models.generator import Generator
from oxyrec_jax.tokenizer import trie as trie_lib
from oxyrec_jax.tokenizer.catalogue import Catalogue
from oxyrec_jax.tokenizer.trie import Leaves

Normalise = Literal["legal", "full"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rollouts:
    """G candidates for each of B requests; all are real, no two have one semantic ID.

    Attributes:
      items: `[B, G]` int32.
      synthetic: `[B, G]` bool: drawn by the policy, not taken from the log.
    """

    items: Array
    synthetic: Array


def first_items(leaves: Leaves) -> Array:
    """`[S]` int32: the preferred item of each semantic ID."""
    return jnp.asarray(np.asarray(leaves.items)[leaves.offsets[:-1]], jnp.int32)


def roll_out(model: Generator, params: Any, batch: dict[str, Array],
             catalogue: Catalogue, preferred: Array, logged: Array, *, group: int,
             sampling: Sampling | None) -> Rollouts:
    """Draws candidates and puts logged items in the places of the last drawn.

    Args:
      model: the network; one that mixes experts draws from its decoder alone.
      params: of the sampling policy.
      batch: as `recommend` reads it.
      catalogue: the items; at least G semantic IDs.
      preferred: from `first_items`.
      logged: `[B, R]` int32 items that were really shown, R <= G, -1 where there are
        fewer. One that is drawn too stands in the group once, as logged.
      group: G.
      sampling: how candidates are drawn; None: the best G.
    """
    if logged.shape[1] > group:
        raise ValueError(f"{logged.shape[1]} logged items, expected at most {group=}")
    found = recommend(model, params, batch, catalogue, beams=group, experts=False,
                      sampling=sampling)
    return join_logged(found.leaves, logged, catalogue.paths[:, -1], preferred)


def join_logged(leaves: Array, logged: Array, leaf_of: Array, preferred: Array
                ) -> Rollouts:
    """As `roll_out`, from the drawn leaves `[B, G]` and the leaf `[N]` of each item."""
    group = leaves.shape[1]
    own = jnp.where(logged >= 0, leaf_of[jnp.maximum(logged, 0)], -1)
    # A logged semantic ID that stands there already is not taken twice.
    earlier = jnp.tril(jnp.ones((logged.shape[1],) * 2, bool), -1)
    again = jnp.any((own[:, :, None] == own[:, None]) & earlier, axis=-1)
    taken = (own >= 0) & ~again
    twice = jnp.any((leaves[..., None] == own[:, None]) & taken[:, None], axis=-1)
    drawn = preferred[_first(~twice, leaves)]
    # The real ones first among the logged, then into the last places of the group.
    count = jnp.sum(taken, axis=1, keepdims=True)
    real = _first(taken, logged)
    place = jnp.arange(group) - (group - count)
    if logged.shape[1]:
        put = jnp.take_along_axis(real, jnp.clip(place, 0, logged.shape[1] - 1), axis=1)
        drawn = jnp.where(place >= 0, put, drawn)
    return Rollouts(drawn.astype(jnp.int32), place < 0)


def _first(chosen: Array, values: Array) -> Array:
    """The values `[B, G]` with the chosen ones before the others, each in their order.
    """
    count = jnp.sum(chosen, axis=1, keepdims=True)
    place = jnp.where(chosen, jnp.cumsum(chosen, axis=1) - 1,
                      count + jnp.cumsum(~chosen, axis=1) - 1)
    rows = jnp.arange(len(values))[:, None]
    return jnp.zeros_like(values).at[rows, place].set(values, unique_indices=True)


def code_log_probs(model: Generator, params: Any, batch: dict[str, Array],
                   catalogue: Catalogue, items: Array, *,
                   temperature: Array | float = 1.0, normalise: Normalise = "legal"
                   ) -> Array:
    """The policy's log-probability of every code of given items.

    Args:
      model: the network; of one that mixes experts its decoder alone.
      params: of the policy; receives a gradient.
      batch: as `recommend` reads it; dropout is off.
      catalogue: the items.
      items: `[B, G]` int32, in the trie.
      temperature: logits are divided by it, as the sampler does.
      normalise: over the legal children of each prefix, as the search does, or over
        the level's whole codebook.

    Returns:
      `[B, G, T]` float32, nats.
    """
    if normalise not in ("legal", "full"):
        raise ValueError(f"{normalise=}, expected 'legal' or 'full'")

    codes, found = catalogue.tables.codes[items], []
    for level, (logits, children, legal) in enumerate(_scored(
            model, params, batch, catalogue, items, temperature)):
        over = logits
        if normalise == "legal":
            over = jnp.where(legal, jnp.take_along_axis(logits, children, axis=-1),
                             -jnp.inf)
        total = jax.nn.logsumexp(over, axis=-1)
        if level == 0:  # one row for all candidates
            chosen = jnp.take_along_axis(logits[:, 0], codes[..., 0], axis=-1)
        else:
            chosen = jnp.take_along_axis(logits, codes[..., level, None], -1)[..., 0]
        found.append(chosen - total)
    return jnp.stack(found, axis=-1)


def code_distributions(model: Generator, params: Any, batch: dict[str, Array],
                       catalogue: Catalogue, items: Array, *,
                       temperature: Array | float = 1.0) -> list[Array]:
    """What the policy thinks of every legal code along the codes of given items.

    Args:
      model, params, batch, catalogue, items, temperature: as of `code_log_probs`.

    Returns:
      For each level `[B, G, M]` float32, nats: the log-probabilities of the children of
      each item's prefix, -inf where there are fewer than M. G is 1 on the first level,
      which all items share.
    """
    return [jax.nn.log_softmax(jnp.where(
        legal, jnp.take_along_axis(logits, children, axis=-1), -jnp.inf), axis=-1)
        for logits, children, legal in _scored(model, params, batch, catalogue, items,
                                               temperature)]


def _scored(model: Generator, params: Any, batch: dict[str, Array],
            catalogue: Catalogue, items: Array, temperature: Array | float
            ) -> Iterator[tuple[Array, Array, Array]]:
    """Each level's logits `[B, G, V]` (G is 1 on the first), and of each prefix the
    children `[B, G, M]` and which of them there are."""
    def ask(*args: Any, **options: Any) -> Any:
        return model.apply({"params": params}, *args, **options)

    used = {name: batch[name] for name in model.reads}
    search = ask(used, catalogue.tables, method="start_search")
    codes, paths = catalogue.tables.codes[items], catalogue.paths[items]
    size, group = items.shape
    past: Any = ()
    for level in range(len(model.widths)):
        before = codes[..., level - 1] if level else None
        nodes = paths[..., level - 1] if level else jnp.zeros((size, 1), jnp.int32)
        logits, past = ask(search, past, before, level, method="search_step")
        children, _, legal = trie_lib.children(catalogue.trie, level, nodes)
        yield logits.astype(jnp.float32) / temperature, children, legal
        if level == 0:
            past = jax.tree.map(lambda leaf: jnp.broadcast_to(
                leaf, (size, group, *leaf.shape[2:])), past)
