"""Networks that make one vector of an item's source vectors, some of which may lack.

    late    each source is projected to a token; learnt queries attend to the tokens
            that are there; a small network makes the vector of what they found
    early   the sources are put side by side, zero where missing; one small network

Both end on the unit sphere, where the contrastive objective compares them.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from oxyrec_jax.base import Array, InputError
from oxyrec_jax.models import layers

KINDS = ("early", "late")
_FORBIDDEN = -1e30  # finite, so that an item without any source stays free of NaN


@dataclasses.dataclass(frozen=True)
class FusionConfig:
    """The size of a fusion network; numbers but the dimension are ours.

    Attributes:
      dimension: D, length of an item's vector (256: OxygenREC).
      width: of tokens and queries.
      queries: learnt queries.
      heads: of their attention; divides `width`.
      hidden: inner width of the feed-forward layers.
    """

    dimension: int = 256
    width: int = 128
    queries: int = 4
    heads: int = 4
    hidden: int = 256


class Fusion(nn.Module):
    """Item vectors from source vectors.

    Attributes:
      cfg: sizes.
      kind: "early" or "late".
      names: S names of sources, which name the parameters.
    """

    cfg: FusionConfig
    kind: str
    names: tuple[str, ...]

    @nn.compact
    def __call__(self, vectors: tuple[Array, ...], present: Array) -> Array:
        """Fuses.

        Args:
          vectors: for each source `[B, D_s]` float; what is missing may hold anything,
            NaN too, and has no influence.
          present: `[B, S]` bool, true = the item has this source.

        Returns:
          `[B, D]` float32 of length 1; zero where an item has no source at all.

        Source: learnt queries that attend to modality tokens, then an MLP, after the
        Q-Former of BLIP-2 (Li et al. 2023, https://arxiv.org/abs/2301.12597, section
        3.1) as OxygenREC (https://arxiv.org/abs/2512.22386) uses it; one block, as one
        vector is one token; the linear path beside the network is ours.
        """
        if present.shape != (*vectors[0].shape[:1], len(self.names)):
            raise ValueError(f"{present.shape=}, expected one column for each of "
                             f"{self.names}")
        known = [_unit(jnp.where(present[:, [place]], vector, 0).astype(jnp.float32))
                 for place, vector in enumerate(vectors)]
        if self.kind == "early":
            fused = self._early(known, present)
        else:
            fused = self._late(known, present)
        return jnp.where(present.any(axis=1, keepdims=True), _unit(fused), 0)

    def _early(self, known: list[Array], present: Array) -> Array:
        side_by_side = jnp.concatenate([*known, present.astype(jnp.float32)], axis=1)
        return self._head(side_by_side) + self._straight(known)

    def _late(self, known: list[Array], present: Array) -> Array:
        cfg = self.cfg
        init = layers.axes(nn.initializers.normal(1.0), "one", "embed")
        kinds = self.param("sources", init, (len(self.names), cfg.width), jnp.float32)
        tokens = jnp.stack([
            layers.RMSNorm(name=f"norm_{name}")(
                layers.Linear(cfg.width, ("features", "embed"), name=name)(vector))
            for name, vector in zip(self.names, known)], axis=1) + kinds
        tokens = jnp.where(present[:, :, None], tokens, 0)
        queries = self.param("queries", init, (cfg.queries, cfg.width), jnp.float32)
        found = queries + self._attend(queries, tokens, present)
        found = found + layers.SwiGLU(cfg.hidden, name="feed_forward")(
            layers.RMSNorm(name="norm_feed_forward")(found))
        return self._head(found.reshape(len(present), -1)) + self._straight(known)

    def _attend(self, queries: Array, tokens: Array, present: Array) -> Array:
        """Multi-head attention of the queries `[Q, W]` to tokens `[B, S, W]`.

        All items have the same queries: these meet the key kernel once, and the scores
        of all items are one product. On CPU the thousands of tiny products of the usual
        order take several times longer.
        """
        heads, width = self.cfg.heads, self.cfg.width
        query = layers.Linear(width, ("embed", "heads"), name="query")(
            layers.RMSNorm(name="norm_queries")(queries))
        init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
        kernel = self.param("key", layers.axes(init, "embed", "heads"), (width, width),
                            jnp.float32)
        keys = jnp.einsum("whd,qhd->wqh", kernel.reshape(width, heads, -1),
                          query.reshape(len(queries), heads, -1))
        scores = tokens.reshape(-1, width) @ keys.reshape(width, -1)
        scores = scores.reshape(*present.shape, len(queries), heads)
        scores = jnp.where(present[:, :, None, None],
                           scores * (width // heads) ** -0.5, _FORBIDDEN)
        weights = jax.nn.softmax(scores, axis=1)[..., None]
        values = layers.Linear(width, ("embed", "heads"), name="value")(tokens)
        met = jnp.sum(weights * values.reshape(*present.shape, 1, heads, -1), axis=1)
        return layers.Linear(width, ("heads", "embed"), name="out")(
            met.reshape(len(present), len(queries), width))

    def _head(self, x: Array) -> Array:
        x = layers.RMSNorm(name="norm_head")(x)
        inner = jax.nn.silu(layers.Linear(self.cfg.hidden, ("features", "mlp"),
                                          name="head_in")(x))
        return layers.Linear(self.cfg.dimension, ("mlp", "embed"),
                             name="head_out")(inner)

    def _straight(self, known: list[Array]) -> Array:
        """A linear map of each source, summed: keeps the neighbourhoods there are."""
        parts = [layers.Linear(self.cfg.dimension, ("features", "embed"),
                               name=f"straight_{name}")(vector) * vector.shape[1] ** 0.5
                 for name, vector in zip(self.names, known)]
        return sum(parts[1:], parts[0])


def make_fusion(kind: str, names: tuple[str, ...], cfg: FusionConfig) -> Fusion:
    """Builds a network.

    Raises:
      InputError: an unknown kind or a size that cannot be.
    """
    if kind not in KINDS:
        raise InputError(f"the fusion is {kind!r}, expected one of {', '.join(KINDS)}")
    sizes = dataclasses.asdict(cfg)
    low = {name: size for name, size in sizes.items() if size < 1}
    if low or cfg.width % cfg.heads:
        raise InputError(f"the fusion has {low or sizes}; expected sizes of at least 1 "
                         "and heads that divide the width")
    return Fusion(cfg, kind, names)


def apply(network: Fusion, params: Mapping[str, Array], vectors: tuple[Array, ...],
          present: Array) -> Array:
    """Fuses with flat parameters, as a bundle holds them ("value/kernel").

    Args:
      network: from `make_fusion`.
      params: name to array.
      vectors, present: as `Fusion` takes them.

    Returns:
      `[B, D]` float32.
    """
    tree = traverse_util.unflatten_dict(dict(params), sep="/")
    return jnp.asarray(network.apply({"params": tree}, vectors, present))


def _unit(x: Array) -> Array:
    """Rows scaled to length 1; a zero row stays zero and has gradient 0."""
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    some = square > 0
    return jnp.where(some, x * jax.lax.rsqrt(jnp.where(some, square, 1)), 0)
