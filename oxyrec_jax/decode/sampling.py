"""Sampling of semantic IDs without replacement, inside the beam search.

A beam search whose ranks are log-probabilities with Gumbel noise draws K different
sequences exactly as if they were drawn one after the other without replacement, when
the noise of a node is conditioned on being the largest below it. The first drawn is an
ordinary sample of the policy. One search so serves requests and rollouts.

Source: stochastic beam search, Kool et al. 2019, https://arxiv.org/abs/1903.06059,
eqs. 7 to 10 and appendix B.3 (the stable form); truncation by top-k and top-p before
drawing as in xGR, https://arxiv.org/abs/2512.11529.
"""

import dataclasses

import jax
import jax.numpy as jnp

from oxyrec_jax.base import Array


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

    Args:
      scores: `[B, K', M]` float32 log-probabilities of prefixes, -inf where dead.
      parents: `[B, K']` float32 noisy ranks of the beams.
      sampling: whose keys are used.
      level: of the children; each has noise of its own.

    Returns:
      `[B, K', M]` float32, -inf where dead.
    """
    def noise(key: Array) -> Array:
        return jax.random.gumbel(jax.random.fold_in(key, level), scores.shape[1:])

    dead = scores == -jnp.inf
    noisy = jnp.where(dead, -jnp.inf, scores + jax.vmap(noise)(sampling.keys))
    top = jnp.max(noisy, axis=-1, keepdims=True)
    # exp(-ranks) = exp(-parent) - exp(-top) + exp(-noisy), in a stable form
    gap = jnp.where(dead, -jnp.inf, noisy - jnp.where(top == -jnp.inf, 0, top))
    rest = parents[..., None] - noisy + _log_of_rest(gap)
    ranks = parents[..., None] - jax.nn.relu(rest) - jnp.log1p(jnp.exp(-jnp.abs(rest)))
    return jnp.where(dead, -jnp.inf, ranks)


def _log_of_rest(gap: Array) -> Array:
    """log(1 - exp(gap)) for gap <= 0, exact at both ends."""
    near = gap > -0.6931472
    close = jnp.log(-jnp.expm1(jnp.where(near, gap, -1.0)))  # -inf at 0
    return jnp.where(near, close, jnp.log1p(-jnp.exp(jnp.where(near, -1.0, gap))))
