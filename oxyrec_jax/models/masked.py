"""Codes behind masks: which are hidden in training, and the passes of a search.

A masked decoder sees all T places of a semantic ID at once. Each holds its code or,
where it is hidden, the learnt vector of its place, and all look at each other. A search
that knows the first codes of every beam runs the decoder with the others hidden and
takes from that pass as many levels as it is told: one pass for each level is the chain
rule, one pass for all of them is the parallel decoder, whose step this is too. Each way
is a distribution over the semantic IDs of the trie, and its probabilities are exact.

Source: absorbing-state discrete diffusion, Sahoo et al. 2024 (MDLM),
https://arxiv.org/abs/2406.07524, section 3, Nie et al. 2025 (LLaDA),
https://arxiv.org/abs/2502.09992, eq. 3. They unmask in any order; ours is that of the
levels, because a trie tells what is legal after a prefix.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from oxyrec_jax.base import Array, InputError


def draw_hidden(rng: Array, shape: tuple[int, ...], depth: int) -> Array:
    """Draws which codes of each target are hidden: 1 to T of them, any as likely, and
    any set of that size as likely.

    It is the law of masking each code with a probability t uniform in (0, 1), weighted
    by 1 / t, once `losses.masked_code_loss` weighs n hidden codes by T / n.

    Args:
      rng: key, consumed.
      shape: of the targets.
      depth: T.

    Returns:
      `[*shape, T]` bool.
    """
    order, count = jax.random.split(rng)
    ranks = jnp.argsort(jax.random.uniform(order, (*shape, depth)), axis=-1)
    return ranks < jax.random.randint(count, (*shape, 1), 1, depth + 1)


def first_levels(passes: int, depth: int) -> tuple[int, ...]:
    """The level at which each pass of a search begins.

    Passes take about as many levels, later ones more: what follows a longer prefix
    hangs more on the trie and less on the network (ours).

    Args:
      passes: 1 to T; 0 is T.
      depth: T.

    Raises:
      InputError: more passes than levels.
    """
    if passes > depth:
        raise InputError(f"model.passes is {passes} and semantic IDs have {depth} "
                         f"codes; take at most {depth}, or 0 for one of each level")
    passes = passes or depth
    return tuple(number * depth // passes for number in range(passes))


def fill_places(places: Array, codes: list[Array], hidden: Array | None,
                shape: tuple[int, ...]) -> list[Array]:
    """What stands in the place of each code.

    Args:
      places: `[n, D]`, the vector of each place.
      codes: `[..., D]` each, vectors of the codes that are there, of the first places.
      hidden: `[..., n]` bool: take the place's vector instead; None: of none.
      shape: of `...`.

    Returns:
      n times `[..., D]`.
    """
    filled = [jnp.broadcast_to(place, (*shape, len(place))) for place in places]
    for level, code in enumerate(codes):
        filled[level] = code if hidden is None else jnp.where(
            hidden[..., level, None], filled[level], code)
    return filled


def next_outputs(ahead: Array, begins: tuple[int, ...], past: tuple[Array, ...],
                 codes: Array | None, level: int, run: Callable[[Array], Array]
                 ) -> tuple[Array, tuple[Array, ...]]:
    """The decoder's outputs at one level of a search, from the pass that gives it.

    Args:
      ahead: `[B, 1, T, D]`, of the pass in which every code is hidden.
      begins: from `first_levels`.
      past: empty at level 0; then what this function returned.
      codes: `[B, K]` int32, chosen at the level before; None at level 0.
      level: which.
      run: from the first codes `[B, K, l]` of every beam to `[B, K, T, D]`.

    Returns:
      `[B, K or 1, D]`, and of each beam what later levels need: its codes, and the
      outputs of this pass that are still to be scored.
    """
    if len(begins) == 1:
        return ahead[:, :, level], ()
    if codes is None:
        return ahead[:, :, 0], (jnp.zeros((len(ahead), 1, 0), jnp.int32),)
    known = jnp.concatenate([past[0], codes[..., None]], axis=-1)
    if level < begins[1]:
        return ahead[:, :, level], (known,)
    if level in begins:
        end = min((begin for begin in begins if begin > level), default=ahead.shape[2])
        left = run(known)[:, :, level:end]
    else:
        left = past[1]
    return left[:, :, 0], (known, left[:, :, 1:])
