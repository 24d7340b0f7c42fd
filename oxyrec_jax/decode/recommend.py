"""From histories to ranked semantic IDs: the generator in the beam search."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from oxyrec_jax.base import Array
from oxyrec_jax.decode.beam import Beams, StepFn, beam_search
from oxyrec_jax.decode.diversity import Diversity
from oxyrec_jax.decode.sampling import Sampling
from oxyrec_jax.decode.scoring import parts_of
from oxyrec_jax.models.generator import Generator, Mixture
from oxyrec_jax.models.tables import ItemTables, Search
from oxyrec_jax.tokenizer import trie as trie_lib
from oxyrec_jax.tokenizer.catalogue import Catalogue
from oxyrec_jax.tokenizer.trie_filter import Filter


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Encoded:
    """What beams share of B histories, and of nothing else that a request says.

    Attributes:
      memory, allowed, state: as in `models.tables.Search`, B rows each.
    """

    memory: tuple[Any, ...]
    allowed: Array
    state: Array


@functools.partial(jax.jit, static_argnames=("model", "beams", "experts", "cut"))
def recommend(model: Generator, params: Any, batch: dict[str, Array],
              catalogue: Catalogue, *, beams: int, experts: bool = True,
              sampling: Sampling | None = None, allowed: Filter | None = None,
              prefix: Array | None = None, diversity: Diversity | None = None,
              cut: int = 0, encoded: Encoded | None = None) -> Beams:
    """Finds the best semantic IDs for each history; one compiled program.

    Args:
      model: the network (static).
      params: its parameters.
      batch: what `model.reads` names: `items`, `segments` `[B, L]` and
        `target_positions` `[B, 1]` int32, and its side features and instructions.
      catalogue: the items; another one of its size compiles nothing anew.
      beams: K, static.
      experts: without it a model that mixes experts answers with its decoder alone.
      sampling: draw without replacement instead of taking the best.
      allowed: what each request may get; the answer is that of a catalogue from which
        all other items were retired.
      prefix, diversity, cut: as `beam_search` takes them.
      encoded: what `encode` made of the same histories; the encoder is then not run.

    Returns:
      `Beams`: exact log-probabilities over the legal semantic IDs, best first or in
      the order of drawing.
    """
    used = {name: batch[name] for name in model.reads}
    size = used["items"].shape[0]

    def ask(*args: Any, **options: Any) -> Any:
        return model.apply({"params": params}, *args, **options)

    search = ask(used, catalogue.tables, method="start_search")
    if encoded is not None:  # what the encoder would give is read by nothing: not run
        search = dataclasses.replace(search, memory=encoded.memory,
                                     allowed=encoded.allowed, state=encoded.state)
    step = _plain_step(ask, search)
    if model.cfg.experts > 1 and experts:
        step = _mixed_step(ask, model, used, search, catalogue, allowed)
    # a beam costs nothing where one pass serves all
    parts = parts_of(beams) if len(model.passes) > 1 else 0
    return beam_search(step, (), catalogue.trie, beams=beams, batch=size,
                       sampling=sampling, allowed=allowed, prefix=prefix,
                       diversity=diversity, parts=parts, cut=cut)


def encode(model: Generator, params: Any, batch: dict[str, Array],
           catalogue: Catalogue) -> Encoded:
    """Runs the encoder alone, for `recommend` to search from later.

    Raises:
      ValueError: the network's decoder looks at the history before the search begins,
        so that searches cannot begin from the encoder's output.
    """
    if model.cfg.decoding != "sequential":
        raise ValueError(f"{model.cfg.decoding=}, expected 'sequential'")
    used = {name: batch[name] for name in model.reads}
    found: Any = model.apply({"params": params}, used, catalogue.tables,
                             method="start_search")
    return Encoded(found.memory, found.allowed, found.state)


def with_item_keys(model: Generator, params: Any, catalogue: Catalogue) -> Catalogue:
    """The catalogue with what retrieval compares items by, made once for many calls.

    A network that retrieves nothing gets its catalogue back. The keys belong to these
    parameters; others need theirs.
    """
    if not model.cfg.retrieval.events:
        return catalogue
    keys = _item_keys(model, params, catalogue.tables)
    return dataclasses.replace(catalogue, tables=dataclasses.replace(
        catalogue.tables, keys=keys))


@functools.partial(jax.jit, static_argnums=0)
def _item_keys(model: Generator, params: Any, tables: ItemTables) -> Array:
    found: Any = model.apply({"params": params}, tables, method="item_keys")
    return found


def _plain_step(ask: Callable[..., Any], search: Search) -> StepFn:
    """The decoder alone, as `beam_search` asks it."""
    def step(past: Any, codes: Array | None, level: int) -> tuple[Array, Any]:
        return ask(search, past, codes, level, method="search_step")
    return step


def _mixed_step(ask: Callable[..., Any], model: Generator, used: dict[str, Array],
                search: Search, catalogue: Catalogue, allowed: Filter | None) -> StepFn:
    """Decoder and the other experts together, as `beam_search` asks them.

    A beam's state is the decoder's own, its node, and the decoder's log-probability of
    its prefix with every code that may follow.
    """
    trie, size = catalogue.trie, search.state.shape[0]
    live = catalogue.tables.live  # [N], or [B, N] under a filter; None: all
    if allowed is not None:
        admitted = allowed.admitted(catalogue.tables.codes.shape[0])
        live = admitted if live is None else admitted & live
    shared: dict[str, Any] = {}  # made at level 0, read by later levels of a trace

    def step(state: Any, codes: Array | None, level: int) -> tuple[Array, Any]:
        past, nodes, before = state if level else (
            (), jnp.zeros((size, 1), jnp.int32), jnp.zeros((size, 1), jnp.float32))
        if level:
            # `before` holds every code of the level above; keep the chosen one's.
            chosen = jnp.asarray(codes)
            nodes = trie_lib.advance(trie, level - 1, nodes, chosen)
            before = jnp.take_along_axis(before, chosen[..., None], axis=-1)[..., 0]
        logits, past = ask(search, past, codes, level, method="search_step")
        legal = trie_lib.mask(trie, level, nodes, allowed=allowed)
        if level == 0:
            first = _legal_log_softmax(logits, legal)
            mixture = ask(used, search.state, catalogue.tables, first, own=False,
                          method="mixture")
            shared["mixture"] = mixture
            shared["others"] = _other_experts(ask, model, catalogue, search.state,
                                              mixture, live)
        mixture = shared["mixture"]
        own = _legal_log_softmax(mixture.sharpness[0] * logits, legal)
        sums = before[..., None] + own
        mass = _children_mass(trie, level, nodes, _mass_of_nodes(
            catalogue, shared["others"], level))
        weight = mixture.log_weights[:, :, :1]
        mixed = jnp.logaddexp(weight + sums, jnp.log(mass))
        return mixed, (past, nodes, sums)
    return step


def _legal_log_softmax(logits: Array, legal: Array) -> Array:
    """Log-softmax over the legal codes, -inf at the others and in dead beams."""
    own = jax.nn.log_softmax(jnp.where(legal, logits, -jnp.inf), axis=-1)
    return jnp.where(legal, own, -jnp.inf)


def _other_experts(ask: Any, model: Generator, catalogue: Catalogue, state: Array,
                   mixture: Mixture, live: Array | None) -> Array:
    """`[B, N]`: the weighted probability of every item under all experts but the
    decoder; of those that are not live none."""
    weights = jnp.exp(mixture.log_weights[:, 0])
    items = jnp.zeros((state.shape[0], catalogue.tables.codes.shape[0]), jnp.float32)
    rows = jnp.arange(state.shape[0])[:, None]
    for place, pointer in enumerate(mixture.pointers, 1):
        items = items.at[rows, jnp.maximum(pointer.items[:, 0], 0)].add(
            weights[:, place:place + 1] * pointer.weights[:, 0])
    if model.cfg.item_head:
        scores = ask(state, catalogue.tables, method="item_scores")[:, 0]
        if live is not None:
            scores = jnp.where(live, scores, -jnp.inf)
        items = items + weights[:, -1:] * jax.nn.softmax(
            mixture.sharpness[1] * scores, axis=-1)
    return items if live is None else jnp.where(live, items, 0)


def _mass_of_nodes(catalogue: Catalogue, items: Array, level: int) -> Array:
    """`[B, S]`: probability of the items below each node of a level."""
    nodes = catalogue.trie.codes[level].shape[0]
    return jax.ops.segment_sum(items.T, catalogue.paths[:, level], nodes).T


def _children_mass(trie: trie_lib.Trie, level: int, nodes: Array, mass: Array) -> Array:
    """`[B, K, V]`: probability behind each code that may follow each beam."""
    codes, below, legal = trie_lib.children(trie, level, nodes)
    batch, beams, slots = codes.shape
    found = jnp.take_along_axis(mass, jnp.maximum(below, 0).reshape(batch, -1), axis=1)
    found = jnp.where(legal, found.reshape(codes.shape), 0)
    place = jnp.where(legal, codes, trie.widths[level])
    rows = jnp.arange(batch)[:, None, None], jnp.arange(beams)[:, None]
    empty = jnp.zeros((batch, beams, trie.widths[level]), jnp.float32)
    return empty.at[*rows, place].set(found, mode="drop")
