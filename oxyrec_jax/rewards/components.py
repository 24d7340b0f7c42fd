"""Raw signals of each candidate of a group; `mapping` makes one reward of them.

Every function takes arrays of G candidates for each of B prompts and gives `[B, G]`
float32, in a unit of its own that its docstring states. None knows a model.

Source of the families (format, relevance, ranking, diversity): OxygenREC, arXiv
2512.22386, unified reward mapping; the formulas are ours where no equation is named.
"""

import jax.numpy as jnp

from oxyrec_jax.base import Array


def format_reward(legal: Array) -> Array:
    """1 where a semantic ID belongs to an item, 0 where it does not.

    Args:
      legal: `[B, G]` bool.
    """
    return legal.astype(jnp.float32)


def hit_reward(items: Array, wanted: Array) -> Array:
    """1 where a candidate is what the user chose, 0 elsewhere.

    Args:
      items: `[B, G]` int, a candidate each.
      wanted: `[B]` int.
    """
    return (items == wanted[:, None]).astype(jnp.float32)


def token_hit_reward(codes: Array, wanted: Array, *, discount: float = 0.5) -> Array:
    """Weighted share of a semantic ID's codes that are right, in [0, 1].

    R = sum_t g^(t-1) 1[c_t = w_t] / sum_t g^(t-1)

    Args:
      codes: `[B, G, T]` int.
      wanted: `[B, T]` int.
      discount: g, in (0, 1].

    Source: OxygenREC-v2, arXiv 2607.24255, geometric token-hit reward; g is ours.
    """
    return _share(codes == wanted[:, None], discount)


def trajectory_reward(codes: Array, future: Array, real: Array, *,
                      discount: float = 0.5, fade: float = 0.8) -> Array:
    """How much of what the person went on to take a candidate tells, in [0, 1].

    R = max_h f^h · sum_t g^(t-1) 1[c_t = w_ht] / sum_t g^(t-1)

    over the H events from the request on, h from 0: the log itself can check it.

    Args:
      codes: `[B, G, T]` int, of the candidates.
      future: `[B, H, T]` int: the chosen item first, then what was taken later.
      real: `[B, H]` bool: where there is such an event.
      discount: g, in (0, 1].
      fade: f, in (0, 1]: what an event is worth beside the one before it.

    Source: verifiable reward of a trajectory of items, OxygenREC-v2, arXiv 2607.24255,
    with its token-hit reward; one candidate against all later events, the best of them
    counting, and f are ours.
    """
    hits = _share(codes[:, :, None] == future[:, None], discount)  # [B, G, H]
    worth = fade ** jnp.arange(future.shape[1], dtype=jnp.float32)
    return jnp.max(jnp.where(real[:, None], hits * worth, 0), axis=-1)


def spend_reward(items: Array, bought: Array, paid: Array) -> Array:
    """What was paid for a candidate in the basket that was bought, 0 where it was not:
    a hit weighted by its price, in the log's own currency.

    Args:
      items: `[B, G]` int, a candidate each.
      bought: `[B, H]` int, the items of the basket, each once; -1 where there are
        fewer.
      paid: `[B, H]` float.

    Source: turnover (GMV) of what is really bought, ours.
    """
    hit = (items[:, :, None] == bought[:, None]) & (bought >= 0)[:, None]
    return jnp.sum(jnp.where(hit, paid[:, None], 0), axis=-1).astype(jnp.float32)


def relevance_reward(candidates: Array, context: Array) -> Array:
    """Cosine of each candidate and what was asked for, in [-1, 1].

    Args:
      candidates: `[B, G, D]` float vectors of the candidates.
      context: `[B, D]` float: a vector of the query, the instruction or the target.
        A zero vector on either side gives 0.
    """
    cosines = jnp.einsum("bgd,bd->bg", _unit(candidates), _unit(context))
    return jnp.clip(cosines, -1, 1)  # but for rounding


def conversion_reward(click: Array, cart: Array, order: Array, *,
                      weights: tuple[float, float, float] = (1.2, 1.5, 2.0)) -> Array:
    """Weighted mean of what the ranking model expects, in [0, 1].

    Args:
      click, cart, order: `[B, G]` float probabilities.
      weights: of the three; those of OxygenREC-v2's targets, arXiv 2607.24255.
    """
    total = weights[0] * click + weights[1] * cart + weights[2] * order
    return total / sum(weights)


def value_reward(order: Array, price: Array) -> Array:
    """Expected turnover (GMV), in the unit of the price, at least 0.

    Args:
      order: `[B, G]` float, probability of an order.
      price: `[B, G]` float, of the candidates.
    """
    return order * price


def diversity_reward(candidates: Array, real: Array) -> Array:
    """How little a candidate resembles the rest of its group, in [0, 2].

    1 - the mean cosine to the other real candidates. 0 where a candidate is not real,
    and 0 for one that has no others.

    Args:
      candidates: `[B, G, D]` float vectors.
      real: `[B, G]` bool.
    """
    unit = _unit(candidates) * real[..., None]
    others = jnp.sum(real, axis=1, keepdims=True) - real
    cosines = (jnp.einsum("bgd,bd->bg", unit, jnp.sum(unit, axis=1))
               - jnp.sum(unit * unit, axis=-1))
    found = jnp.clip(1 - cosines / jnp.maximum(others, 1), 0, 2)  # but for rounding
    return jnp.where(real & (others > 0), found, 0)


def _share(right: Array, discount: float) -> Array:
    """`[...]` float32: the share of `right` `[..., T]`, earlier codes counting more."""
    weights = discount ** jnp.arange(right.shape[-1], dtype=jnp.float32)
    return right.astype(jnp.float32) @ weights / jnp.sum(weights)


def _unit(vectors: Array) -> Array:
    vectors = vectors.astype(jnp.float32)
    square = jnp.sum(vectors * vectors, axis=-1, keepdims=True)
    some = square > 0
    return jnp.where(some, vectors / jnp.sqrt(jnp.where(some, square, 1)), 0)
