"""Beam search over semantic IDs, held to the trie on the device.

One search serves training rollouts, evaluation and requests. It knows no network: it is
given a step function, and the catalogue's trie as an argument, so that one compiled
program serves every catalogue of about the same size:

    @jax.jit
    def recommend(params, trie, history):
        memory = encode(params, history)           # shared by all beams: in the closure

        def step(cache, codes, level):             # codes [B, K'] -> logits [B, K', V]
            return decode(params, memory, cache, codes, level)

        return beam_search(step, empty_cache, trie, beams=50, batch=len(history))

The levels are unrolled, level 0 has one row for each request and not K, and only the
legal children of each beam are candidates.

Order. Prefixes of one length are ranked by log-probability, higher first; equal ones by
node, lower first, which is the lexicographic order of their codes. Each level keeps the
first K of that order, so the result is a function of the scores alone. Kept beams are
laid out in the order of their nodes: then the flat index of a candidate (beam, slot)
rises with its node, and `lax.top_k`, which prefers the lower index among equals, ranks
exactly so.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from oxyrec_jax.base import Array
from oxyrec_jax.data.packing import count_up
from oxyrec_jax.decode.diversity import Diversity, choose_apart, left_behind
from oxyrec_jax.decode.sampling import Sampling, perturb, truncate
from oxyrec_jax.decode.scoring import legal_log_softmax, open_nodes, score_open
from oxyrec_jax.tokenizer.trie import Leaves, Trie, children
from oxyrec_jax.tokenizer.trie_filter import Filter

StepFn = Callable[[Any, Array | None, int], tuple[Array, Any]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Level:
    """What one level of a search kept and what it cut, best first.

    Attributes:
      codes: `[B, M + C, l + 1]` int32: prefixes in their order; -1 where there is none.
      log_probs: `[B, M + C]` float32, nats, of the prefixes; -inf where there is none.
      legal: `[B]` int32: how many there were to choose from.
      kept: M, of how many the search went on; the others were cut.
    """

    codes: Array
    log_probs: Array
    legal: Array
    kept: int = dataclasses.field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Beams:
    """The best semantic IDs of each request, best first; a dead place holds -1.

    Attributes:
      codes: `[B, K, T]` int32: the semantic IDs; -1 where dead.
      leaves: `[B, K]` int32: their ranks among all semantic IDs; -1 where dead.
      log_probs: `[B, K]` float32, nats: descending, equal ones by ascending leaf; -inf
        where dead.
      bound: `[B]` float32, nats: no semantic ID that is missing here is more probable;
        -inf where nothing is missing. So the places above it hold the best of all, in
        their order, proven, whatever the width of the search.
      levels: of each level what was kept and cut, where that was asked for.
    """

    codes: Array
    leaves: Array
    log_probs: Array
    bound: Array
    levels: tuple[Level, ...] = ()


def beam_search(
    step_fn: StepFn,
    state: Any,
    trie: Trie,
    *,
    beams: int,
    batch: int,
    normalise: Literal["legal", "full"] = "legal",
    allowed: Filter | None = None,
    sampling: Sampling | None = None,
    prefix: Array | None = None,
    diversity: Diversity | None = None,
    parts: int = 0,
    cut: int = 0,
) -> Beams:
    """Finds the K semantic IDs of highest log-probability, level by level.

    Exact whenever no level holds more than `beams` prefixes; beyond that it is the beam
    search defined in the module's docstring. A candidate whose log-probability is -inf
    is dead, as if it were not in the trie. A NaN from the step function is not hidden:
    it ranks first and shows in `log_probs`.

    Args:
      step_fn: `(state, codes, level) -> (logits, state)`. `level` is a Python int;
        `codes` int32 `[B, K']` are the codes chosen at level - 1, None at level 0 where
        K' = 1; a dead beam carries code 0. `logits` is `[B, K', V]` with V =
        trie.widths[level], any float dtype, used in float32.
      state: pytree of arrays `[B, 1, ...]`; whatever step_fn returns has leading axes
        `[B, K']` and is gathered along K' by parent. `()` where there is none.
      trie: from `build_trie`.
      beams: K, static, at least 1; it may exceed the number of semantic IDs.
      batch: B, static.
      normalise: "legal": each step's softmax runs over the legal children alone, so
        that the probabilities of all semantic IDs sum to 1. "full": it runs over the
        level's whole codebook, and illegal codes keep their share.
      allowed: what each request may get: the search goes as if the trie held nothing
        else, and finds nothing where nothing is allowed. None: everything.
      sampling: draw K different semantic IDs without replacement instead, in the order
        in which they are drawn; log-probabilities are those of the policy drawn from.
        None: the best.
      prefix: `[B, P]` int32, P <= T: the codes that each request's results begin with;
        a row may be shorter and ends with -1. The search goes as if the trie held
        nothing else, so that with "legal" log-probabilities are those given the prefix.
        A prefix that no item has finds nothing. None: any.
      diversity: search in groups that avoid each other's codes. None: in one.
      parts: from the third level on leave out beams of which only one semantic ID can
        come, whose children have probability 1 with "legal" wherever logits are finite,
        and run the others in so many parts (`scoring`). 0: run all.
      cut: tell of each level what was kept and, at most so many, the best of what was
        cut, in `levels`. 0: tell nothing.

    Returns:
      `Beams` of exactly K places.

    Raises:
      ValueError: beams, batch or normalise make no sense, a shape is not as above, a
        level has 2**31 candidates (seen while tracing), groups do not divide the beams,
        or there is both sampling and diversity, or `cut` with one of them.

    Source: ours; scores over the legal set as in xGR, https://arxiv.org/abs/2512.11529.
    """
    _check_search(beams, batch, normalise, sampling, diversity, parts, cut)
    _check_prefix(prefix, batch, trie.depth)
    _check_state(state, batch, 1)
    bound = jnp.full(batch, -jnp.inf, jnp.float32)
    nodes = jnp.zeros((batch, 1), jnp.int32)
    log_probs = ranks = jnp.zeros((batch, 1), jnp.float32)
    paths = jnp.zeros((batch, 1, 0), jnp.int32)
    parents, levels = nodes, []
    for level, width in enumerate(trie.widths):
        live = nodes.shape[1]
        next_codes, next_nodes, legal = children(trie, level, nodes, allowed=allowed)
        if prefix is not None and level < prefix.shape[1]:
            legal &= _follows(prefix[:, :level + 1], next_codes)
        run = functools.partial(_run, step_fn, level, width, normalise, sampling)
        if parts and level > 1:
            step, state = score_open(run, state, parents, paths[..., -1], next_codes,
                                     legal, open_nodes(trie, level, nodes), parts)
        else:
            if level:
                state = jax.tree.map(lambda leaf: _gather(leaf, parents), state)
            codes = paths[..., -1] if level else None
            step, state = run(state, codes, next_codes, legal)
        scores = jnp.where(legal, log_probs[..., None] + step, -jnp.inf)
        # A NaN that was computed may be negative, and a negative one would rank last.
        scores = order = jnp.where(jnp.isnan(scores), jnp.nan, scores)
        if sampling is not None:
            order = perturb(scores, ranks, sampling, level)
        slots = scores.shape[-1]
        if live * slots >= 2**31:
            raise ValueError(f"level {level} has {live} beams of {slots} children, "
                             "expected less than 2**31 together; take fewer beams")
        last = level + 1 == trie.depth
        most = min(beams, live * slots, len(trie.codes[level]))
        if diversity is None:
            ranked, left = _choose(order, scores, most, cut, exact=sampling is None)
            if cut:
                levels.append(_tell(scores, next_codes, paths, ranked, most))
            chosen = ranked[:, :most]
            if not last:
                chosen = jnp.sort(chosen, axis=-1)  # by node: see Order above
            log_probs = _pick(scores, chosen)
        else:
            chosen, log_probs, left = choose_apart(
                scores, next_codes, next_nodes, diversity, most=beams, last=last,
                width=width, size=len(trie.codes[level]))
        bound, ranks = jnp.maximum(bound, left), _pick(order, chosen)
        dead = log_probs == -jnp.inf
        nodes = jnp.where(dead, -1, _pick(next_nodes, chosen))
        newest = jnp.where(dead, 0, _pick(next_codes, chosen))
        parents = chosen // slots
        paths = jnp.concatenate([_gather(paths, parents), newest[..., None]], axis=-1)
    return _padded(paths, nodes, log_probs, bound, levels, beams)


def expand_items(
    beams: Beams | np.ndarray,
    leaves: Leaves,
    *,
    limit: int,
    limit_per_sid: int = 50,
    allowed: Filter | None = None,
) -> np.ndarray:
    """Turns ranked semantic IDs into ranked items, on the host.

    The items of a better semantic ID come first; within one they keep the order of
    `leaves`, the preferred first.

    Args:
      beams: from `beam_search`, or its leaves `[R, K']` integers, -1 where dead.
      leaves: from the same `build_trie` as the trie of the search.
      limit: K: how many items a row may hold, at least 1.
      limit_per_sid: how many items one semantic ID may give, at least 1 (ours: bounds
        the share of a large collision).
      allowed: the filter of the search, row by row: other items are left out before
        anything is counted. None: every item.

    Returns:
      `[R, K]` int32: item ids; -1 from where a row has no more. Items do not repeat
      unless leaves do.

    Raises:
      ValueError: a limit below 1, leaves that are not of this catalogue, or a filter
        of another number of rows.
    """
    ranked = np.asarray(beams.leaves if isinstance(beams, Beams) else beams)
    if ranked.ndim != 2 or not np.issubdtype(ranked.dtype, np.integer):
        raise ValueError(f"{ranked.shape=} {ranked.dtype=}, expected [R, K] integers")
    if limit < 1 or limit_per_sid < 1:
        raise ValueError(f"{limit=} {limit_per_sid=}, expected at least 1")
    if ranked.size and not -1 <= ranked.min() <= ranked.max() < len(leaves):
        raise ValueError(
            f"leaves from {ranked.min()} to {ranked.max()}, expected -1 to "
            f"{len(leaves) - 1}: the search used another catalogue"
        )
    if allowed is not None and len(allowed.pool) != len(ranked):
        raise ValueError(f"a filter of {len(allowed.pool)} requests for {len(ranked)}")
    safe = np.maximum(ranked, 0)
    first = leaves.offsets[safe]
    held = np.where(ranked < 0, 0, leaves.offsets[safe + 1] - first)
    items = np.full((len(ranked), limit), -1, np.int32)
    if allowed is None:
        held = np.minimum(held, limit_per_sid)
        place = np.cumsum(held, axis=1) - held  # where the first item of a beam goes
        taken = np.clip(limit - place, 0, held).ravel()
        row = np.repeat(np.arange(len(ranked)).repeat(ranked.shape[1]), taken)
        within = count_up(taken)
        column = np.repeat(place.ravel(), taken) + within
        items[row, column] = leaves.items[np.repeat(first.ravel(), taken) + within]
        return items
    # a request at a time: which items a list gives is known after looking at all of it
    for request in range(len(ranked)):
        places = np.repeat(first[request], held[request]) + count_up(held[request])
        kept = allowed.admits(request, places)
        beam = np.repeat(np.arange(ranked.shape[1]), held[request])[kept]
        within = count_up(np.bincount(beam, minlength=ranked.shape[1]))
        chosen = places[kept][within < limit_per_sid][:limit]
        items[request, : len(chosen)] = leaves.items[chosen]
    return items


def _run(step_fn: StepFn, level: int, width: int, normalise: str,
         sampling: Sampling | None, state: Any, codes: Array | None, next_codes: Array,
         legal: Array) -> tuple[Array, Any]:
    """One call of the step function, and the log-probabilities of the children."""
    logits, state = step_fn(state, codes, level)
    if logits.shape != (*legal.shape[:2], width):
        raise ValueError(f"{logits.shape=}, expected {(*legal.shape[:2], width)}")
    _check_state(state, *legal.shape[:2])
    if sampling is not None:
        logits = logits.astype(jnp.float32) / sampling.temperature
    step = legal_log_softmax(logits, next_codes, legal, normalise)
    return (step if sampling is None else truncate(step, sampling)), state


def _choose(order: Array, scores: Array, most: int, cut: int, *, exact: bool
            ) -> tuple[Array, Array]:
    """The flat indices `[B, most + cut]` of the highest in order, fewer where there are
    no more, and the best score `[B]` of all but the first `most`; `exact` where order
    and scores are the same.

    One flat selection: choosing within each beam first is 2 to 40 times slower on a CPU
    core (32 requests, K 10 to 256, 256 slots), because top_k of a row costs little more
    than reading it.
    """
    flat = order.reshape(order.shape[0], math.prod(order.shape[1:]))
    if exact:
        values, ranked = jax.lax.top_k(flat, min(most + max(cut, 1), flat.shape[1]))
        left = jnp.max(values[:, most:], axis=1, initial=-jnp.inf)
        return ranked[:, :most + cut], left
    _, chosen = jax.lax.top_k(flat, most)
    return chosen, left_behind(scores, chosen)


def _tell(scores: Array, codes: Array, paths: Array, ranked: Array, most: int) -> Level:
    """What a level kept and cut, from flat indices `[B, M + C]` in order."""
    log_probs = _pick(scores, ranked)
    found = jnp.concatenate([_gather(paths, ranked // scores.shape[-1]),
                             _pick(codes, ranked)[..., None]], axis=-1)
    dead = log_probs == -jnp.inf
    return Level(jnp.where(dead[..., None], -1, found), log_probs,
                 jnp.sum(scores > -jnp.inf, axis=(1, 2), dtype=jnp.int32), most)


def _padded(paths: Array, nodes: Array, log_probs: Array, bound: Array,
            levels: Sequence[Level], beams: int) -> Beams:
    """The last level's beams, at most K, in exactly K places."""
    missing = [(0, 0), (0, beams - nodes.shape[1])]
    paths = jnp.where(nodes[..., None] < 0, -1, paths)
    return Beams(
        jnp.pad(paths, [*missing, (0, 0)], constant_values=-1),
        jnp.pad(nodes, missing, constant_values=-1),
        jnp.pad(log_probs, missing, constant_values=-jnp.inf),
        bound, tuple(levels),
    )


def _follows(prefix: Array, codes: Array) -> Array:
    """Whether codes `[B, K', M]` are what `[B, l + 1]` prefixes ask for at level l."""
    wanted = jnp.where(jnp.all(prefix >= 0, axis=1), prefix[:, -1], -1)[:, None, None]
    return (wanted < 0) | (codes == wanted)


def _pick(values: Array, chosen: Array) -> Array:
    """`[B, K', M]` and `[B, K]` flat indices to `[B, K]`."""
    flat = values.reshape(values.shape[0], math.prod(values.shape[1:]))
    return jnp.take_along_axis(flat, chosen, axis=1)


def _gather(values: Array, parents: Array) -> Array:
    """`[B, K', ...]` and `[B, K]` to `[B, K, ...]`: each beam gets its parent's row."""
    if values.shape[1] == 1:
        return jnp.broadcast_to(values, (*parents.shape, *values.shape[2:]))
    rows = jnp.arange(parents.shape[0], dtype=jnp.int32)[:, None]
    return values.at[rows, parents].get(mode="promise_in_bounds")


def _check_search(beams: int, batch: int, normalise: str, sampling: Sampling | None,
                  diversity: Diversity | None, parts: int, cut: int) -> None:
    if beams < 1 or batch < 0:
        raise ValueError(f"{beams=} {batch=}, expected beams >= 1 and batch >= 0")
    if normalise not in ("legal", "full"):
        raise ValueError(f"{normalise=}, expected 'legal' or 'full'")
    if diversity is not None and beams % diversity.groups:
        raise ValueError(f"{beams=} for {diversity.groups} groups of one size")
    if diversity is not None and sampling is not None:
        raise ValueError("both sampling and diversity; draws differ by themselves")
    if parts < 0 or parts and normalise != "legal":
        raise ValueError(f"{parts=} with {normalise=}, expected 0, or 'legal'")
    if cut < 0 or cut and (sampling is not None or diversity is not None):
        raise ValueError(f"{cut=}, expected 0, or more in a plain search")


def _check_prefix(prefix: Array | None, batch: int, depth: int) -> None:
    if prefix is not None and (prefix.shape[:-1] != (batch,)
                               or prefix.shape[1] > depth):
        raise ValueError(f"{prefix.shape=}, expected ({batch}, at most {depth})")


def _check_state(state: Any, batch: int, live: int) -> None:
    for leaf in jax.tree.leaves(state):
        if jnp.shape(leaf)[:2] != (batch, live):
            raise ValueError(
                f"{jnp.shape(leaf)=} in the state, expected to begin {(batch, live)}"
            )
