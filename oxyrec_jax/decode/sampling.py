"""Sampling of semantic IDs without replacement, inside the beam search.

A beam search whose ranks are perturbed log-probabilities draws K different sequences
exactly as if they were drawn one after the other without replacement, when the rank of
a node is conditioned on being the largest below it. The first drawn is an ordinary
sample of the policy. One search so serves requests and rollouts.

Source: stochastic beam search, Kool et al. 2019, https://arxiv.org/abs/1903.06059,
eqs. 7 to 10, with exponential times in the place of Gumbel noise (one is the other's
logarithm), which makes the condition a difference: ours; truncation by top-k and top-p
before drawing as in xGR, https://arxiv.org/abs/2512.11529.
"""

import dataclasses

import jax
import jax.numpy as jnp

from oxyrec_jax.base import Array

_LATEST = 3e38  # a time that is not infinite: what is that improbable still comes


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sampling:
    """Draw instead of taking the best.

    Attributes:
      keys: `[B]` random keys, one for each request: what a request draws does not
        depend on the others of its batch. See `request_keys`.
      temperature: scalar; logits are divided by it. Log-probabilities are those of the
        policy so sharpened (below 1) or flattened (above 1), which is what is drawn
        from.
      top_k: of each beam's children only so many most probable ones can be drawn;
        0: all. Equal ones at the edge stay in.
      top_p: of each beam's children only the most probable ones that together reach
        this probability; 1: all.
    """

    keys: Array
    temperature: Array | float = 1.0
    top_k: int = dataclasses.field(default=0, metadata={"static": True})
    top_p: float = dataclasses.field(default=1.0, metadata={"static": True})

    def __post_init__(self) -> None:
        if self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(f"{self.top_k=} {self.top_p=}, expected at least 0 and a "
                             "probability above 0")
        if isinstance(self.temperature, (int, float)) and not self.temperature > 0:
            raise ValueError(f"{self.temperature=}, expected above 0; for the best "
                             "without drawing leave sampling out")


def request_keys(rng: Array, batch: int) -> Array:
    """`[B]` keys, one for each request of a batch."""
    return jax.vmap(jax.random.fold_in, (None, 0))(rng, jnp.arange(batch))


def truncate(log_probs: Array, sampling: Sampling) -> Array:
    """Takes improbable children out and normalises the others again.

    Args:
      log_probs: `[B, K', M]` float32, -inf where illegal.
      sampling: top_k and top_p.
    """
    if not sampling.top_k and sampling.top_p == 1:
        return log_probs
    ranked = jnp.sort(log_probs, axis=-1, descending=True)
    least = jnp.full(log_probs.shape[:-1], -jnp.inf)
    if sampling.top_k:
        least = ranked[..., min(sampling.top_k, log_probs.shape[-1]) - 1]
    if sampling.top_p < 1:
        # kept while those before it have not reached top_p: always the first
        before = jnp.cumsum(jnp.exp(ranked), axis=-1) - jnp.exp(ranked)
        count = jnp.sum(before < sampling.top_p, axis=-1)
        edge = jnp.take_along_axis(ranked, jnp.maximum(count - 1, 0)[..., None], -1)
        least = jnp.maximum(least, edge[..., 0])
    kept = jnp.where(log_probs >= least[..., None], log_probs, -jnp.inf)
    total = jax.nn.logsumexp(kept, axis=-1, keepdims=True)
    return jnp.where(kept == -jnp.inf, -jnp.inf, kept - total)


def perturb(scores: Array, parents: Array, sampling: Sampling, level: int) -> Array:
    """Noisy ranks of all children, the largest below each beam equal to the beam's.

    The search is a race: a semantic ID of probability p arrives after a time of rate p,
    and the first K to arrive are K draws without replacement. A prefix arrives with the
    first of its children, and a race has no memory: the others follow as late after it
    as they would have followed the first of a new race. A rank is minus a time.

    Args:
      scores: `[B, K', M]` float32 log-probabilities of prefixes, -inf where dead.
      parents: `[B, K']` float32 noisy ranks of the beams.
      sampling: whose keys are used.
      level: of the children; each has noise of its own.

    Returns:
      `[B, K', M]` float32, -inf where dead.
    """
    def noise(key: Array) -> Array:
        return jax.random.exponential(jax.random.fold_in(key, level), scores.shape[1:])

    dead = scores == -jnp.inf
    times = jax.vmap(noise)(sampling.keys) * jnp.exp(-scores)
    times = jnp.where(dead, jnp.inf, jnp.minimum(times, _LATEST))
    first = jnp.min(times, axis=-1, keepdims=True)
    ranks = parents[..., None] - (times - first)
    return jnp.where(dead, -jnp.inf, jnp.maximum(ranks, -_LATEST))
