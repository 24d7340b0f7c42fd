"""The layers of encoder and decoder: attention and feed-forward behind residuals.

Source: pre-RMSNorm, bias-free, SwiGLU, relative positions as in OxygenREC, arXiv
2512.22386; targets of a row and beams of a request as one axis Q is ours.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh

from oxyrec_jax.base import Array
from oxyrec_jax.models import attention, layers, moe
from oxyrec_jax.models.config import ModelConfig


REMAT = {"none": None, "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
         "full": jax.checkpoint_policies.nothing_saveable}


def rematerialised(layer: type[nn.Module], cfg: ModelConfig, train: int
                   ) -> type[nn.Module]:
    """The layer, computing again in the backward pass what `cfg.remat` does not keep.

    Args:
      layer: its class.
      cfg: of the network.
      train: place of the argument `train` of its call, `self` counted.
    """
    if cfg.remat == "none":
        return layer
    return nn.remat(layer, policy=REMAT[cfg.remat], static_argnums=(train,),
                    prevent_cse=not cfg.scan)  # a loop keeps passes apart by itself


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each behind an RMSNorm and a residual."""

    cfg: ModelConfig

    @nn.compact
    def __call__(self, x: Array, bias: Array, allowed: Array, train: bool, *,
                 attend: Callable[..., Array] | None = None) -> Array:
        """Runs the layer.

        Args:
          x: `[B, S, D]`.
          bias, allowed: as `attend` takes them.
          train: dropout on.
          attend: who looks at whom, with the arguments of `layers.attend`; None: as
            the configuration says.
        """
        cfg = self.cfg
        inner = cfg.heads * cfg.head_width
        normed = layers.RMSNorm(name="attention_norm")(x)
        qkv = layers.Linear(3 * inner, ("embed", "heads"), name="qkv")(normed)
        query, key, value = (layers.split_heads(part, cfg.heads)
                             for part in jnp.split(qkv, 3, axis=-1))
        if cfg.positions == "rotary":
            query, key = attention.rotate(query), attention.rotate(key)
        look = attend or attention.attend_of(cfg)
        mixed = layers.merge_heads(look(query, key, value, bias, allowed))
        mixed = layers.Linear(cfg.width, ("heads", "embed"), name="out")(mixed)
        x = x + layers.dropout(self, mixed, cfg.dropout, train=train)
        normed = layers.RMSNorm(name="mlp_norm")(x)
        mixed = layers.SwiGLU(cfg.mlp_width, name="mlp")(normed)
        return x + layers.dropout(self, mixed, cfg.dropout, train=train)


class DecoderLayer(nn.Module):
    """Attention over a target's own codes, over the history, and feed-forward.

    Attributes:
      cfg: the network.
      mesh: devices over which experts are cut, or None.
    """

    cfg: ModelConfig
    mesh: Mesh | None = None

    def setup(self) -> None:
        cfg = self.cfg
        inner = cfg.heads * cfg.head_width
        self.self_norm = layers.RMSNorm()
        self.qkv = layers.Linear(3 * inner, ("embed", "heads"))
        self.self_out = layers.Linear(cfg.width, ("heads", "embed"))
        self.cross_norm = layers.RMSNorm()
        self.cross_query = layers.Linear(inner, ("embed", "heads"))
        self.cross_key_value = layers.Linear(2 * inner, ("embed", "heads"))
        self.cross_out = layers.Linear(cfg.width, ("heads", "embed"))
        self.mlp_norm = layers.RMSNorm()
        self.mlp: Any = (moe.MoE(cfg.moe, cfg.mlp_width, self.mesh) if cfg.moe.experts
                         else layers.SwiGLU(cfg.mlp_width))

    def project(self, memory: Array) -> tuple[Array, Array]:
        """Keys and values `[B, H, L, D]` of the encoder's output, once per request."""
        key, value = jnp.split(self.cross_key_value(memory), 2, axis=-1)
        return (layers.split_heads(key, self.cfg.heads),
                layers.split_heads(value, self.cfg.heads))

    def __call__(self, x: Array, memory: tuple[Array, Array], allowed: Array,
                 past: Array | None, train: bool, *, real: Array | None = None
                 ) -> tuple[Array, Array]:
        """Runs the layer on new positions.

        Args:
          x: `[B, Q, T', D]` the new positions of each target or beam.
          memory: from `project`.
          allowed: `[B, Q or 1, L]` bool, history positions a target may see.
          past: `[B, Q, T'', 2 * inner]` keys and values of earlier positions, or None.
          train: dropout on, and experts take no more than their capacity.
          real: `[B, Q]` bool, targets that experts are to take; None: all.

        Returns:
          `x` after the layer, and `past` with the new positions appended.
        """
        cfg = self.cfg
        query, new = jnp.split(self.qkv(self.self_norm(x)),
                               [cfg.heads * cfg.head_width], axis=-1)
        present = new if past is None else jnp.concatenate([past, new], axis=2)
        mixed = self.self_out(_attend_codes(query, present, cfg.heads,
                                            causal=cfg.decoding != "masked"))
        x = x + layers.dropout(self, mixed, cfg.dropout, train=train)
        batch, targets, length, width = x.shape
        query = self.cross_query(self.cross_norm(x))
        query = query.reshape(batch, targets * length, -1)
        query = layers.split_heads(query, cfg.heads)
        look = layers.attend  # for the few queries of one target, and in a search
        if allowed.shape[1] > 1:
            allowed = jnp.repeat(allowed, length, axis=1)
            look = attention.attend_of(cfg) if train else look
        mixed = look(query, *memory, jnp.float32(0), allowed[:, None])
        mixed = self.cross_out(layers.merge_heads(mixed)).reshape(x.shape)
        x = x + layers.dropout(self, mixed, cfg.dropout, train=train)
        if cfg.moe.experts:
            mixed = self.mlp(self.mlp_norm(x), train=train,
                             real=None if real is None else real[:, :, None])
        else:
            mixed = self.mlp(self.mlp_norm(x))
        return x + layers.dropout(self, mixed, cfg.dropout, train=train), present


def visible(segments: Array, positions: Array, *, causal: bool) -> Array:
    """The history positions that each target may see.

    Args:
      segments: `[B, L]` int, one number for each history of a row.
      positions: `[B, J]` int, the position just before each target.
      causal: only up to that position; otherwise all of its segment.

    Returns:
      `[B, J, L]` bool.
    """
    own = jnp.take_along_axis(segments, positions, axis=1)
    same = segments[:, None, :] == own[:, :, None]
    if not causal:
        return same
    return same & (jnp.arange(segments.shape[1]) <= positions[:, :, None])


def _attend_codes(query: Array, past: Array, heads: int, *, causal: bool) -> Array:
    """Attention over the few codes of one target, as element-wise sums.

    T is 3 or 4: batched matrix products would be all overhead, and one array for each
    place fuses two to three times better on CPU than slices of one.

    Args:
      query: `[B, Q, T', inner]`, the newest T' positions.
      past: `[B, Q, T, 2 * inner]`, keys and values of all positions so far.
      heads: H.
      causal: a position sees those before it and itself, otherwise all.

    Returns:
      `[B, Q, T', inner]`.
    """
    new, length = query.shape[2], past.shape[2]
    shape = (*query.shape[:2], heads, query.shape[-1] // heads)
    keys, values = ([part[:, :, place].reshape(shape) for place in range(length)]
                    for part in jnp.split(past, 2, axis=-1))
    outputs = []
    for row in range(new):
        asked = query[:, :, row].reshape(shape)
        seen = length - new + row + 1 if causal else length
        scores = jnp.stack([jnp.sum(asked * key, axis=-1, dtype=jnp.float32)
                            for key in keys[:seen]], axis=-1)
        weights = jax.nn.softmax(scores * shape[-1] ** -0.5, axis=-1)
        # Without the barrier XLA computes the softmax anew for each element of a head.
        weights = jax.lax.optimization_barrier(weights.astype(past.dtype))
        outputs.append(sum(weights[..., place, None] * values[place]
                           for place in range(seen)))
    return jnp.stack(outputs, axis=2).reshape(query.shape)
