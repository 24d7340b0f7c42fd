"""The building blocks of every network here: pure Linen modules, bias-free.

Weights are float32. Matrix products run in the dtype of their input; softmax, norms
and sums run in float32. Each parameter names its logical axes, which
`parallel.rules` maps to mesh axes. Products are taken on flattened 2-D operands and
attention in `[B, H, S, D]` order: both are two to three times faster on CPU than the
3-D forms and the same on accelerators.
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from oxyrec_jax.base import Array

_ONE_HOT_ROWS = 64  # ours: above, a look-up and its scatter are cheaper on CPU
FORBIDDEN = -1e30  # finite, so that a row without any allowed key stays free of NaN


def axes(init: nn.initializers.Initializer, *names: str) -> nn.initializers.Initializer:
    """Attaches logical axis names to a parameter's initializer."""
    return nn.with_logical_partitioning(init, names)


class Linear(nn.Module):
    """`x @ kernel`, without bias.

    Attributes:
      features: width of the output.
      names: logical axes of the kernel `[in, out]`.
      scale: variance scale of the initial kernel, divided by the input width.
    """

    features: int
    names: tuple[str, str]
    scale: float = 1.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `[..., D_in]` to `[..., features]` in the dtype of `x`."""
        init = nn.initializers.variance_scaling(self.scale, "fan_in", "normal")
        kernel = self.param("kernel", axes(init, *self.names),
                            (x.shape[-1], self.features), jnp.float32)
        flat = x.reshape(-1, x.shape[-1]) @ kernel.astype(x.dtype)
        return flat.reshape(*x.shape[:-1], self.features)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation with a learned scale (Zhang & Sennrich 2019)."""

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Normalises the last axis in float32; returns the dtype of `x`."""
        scale = self.param("scale", axes(nn.initializers.ones_init(), "embed"),
                           (x.shape[-1],), jnp.float32)
        wide = x.astype(jnp.float32)
        mean_square = jnp.mean(wide * wide, axis=-1, keepdims=True)
        normed = wide * jax.lax.rsqrt(mean_square + self.epsilon)
        return (normed * scale).astype(x.dtype)


class SwiGLU(nn.Module):
    """Gated feed-forward `(silu(x W_g) * x W_u) W_d` (Shazeer 2020, eq. 6).

    Attributes:
      hidden: inner width.
      scale: variance scale of the output kernel.
    """

    hidden: int
    scale: float = 1.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `[..., D]` to `[..., D]`."""
        gate = Linear(self.hidden, ("embed", "mlp"), name="gate")(x)
        up = Linear(self.hidden, ("embed", "mlp"), name="up")(x)
        inner = jax.nn.silu(gate) * up
        return Linear(x.shape[-1], ("mlp", "embed"), self.scale, name="down")(inner)


def products(x: Array, vectors: Array) -> Array:
    """Products of every vector `[..., D]` with `[M, D]` vectors: `[..., M]` float32."""
    flat = x.reshape(-1, x.shape[-1])
    scores = jnp.matmul(flat, vectors.astype(x.dtype).T,
                        preferred_element_type=jnp.float32)
    return scores.reshape(*x.shape[:-1], len(vectors))


def sum_rows(table: Array, columns: Array, starts: tuple[int, ...]) -> Array:
    """Sums one row of a table for each column of indices.

    A table of very few rows is multiplied by a 0/1 matrix, a larger one is looked up,
    one column after the other, as look-ups of several columns at once are stored
    before they are summed. On CPU 2048 rows of 3 look-ups in 768 rows and the gradient,
    a scatter, take 0.5 ms, where the two matrix products take 9 ms.

    Args:
      table: `[R, D]` float32; receives a gradient.
      columns: `[..., C]` int32.
      starts: C numbers added to the columns, where each one's rows begin.

    Returns:
      `[..., D]` float32: the sum over c of table[columns[..., c] + starts[c]].
    """
    rows = columns + jnp.asarray(starts, jnp.int32)
    if table.shape[0] > _ONE_HOT_ROWS:
        return functools.reduce(
            jnp.add, [table[rows[..., column]] for column in range(len(starts))])
    flat = rows.reshape(-1, rows.shape[-1])
    numbers = jnp.arange(table.shape[0], dtype=jnp.int32)
    chosen = functools.reduce(
        jnp.logical_or,
        [flat[:, column, None] == numbers for column in range(flat.shape[1])])
    return (chosen.astype(table.dtype) @ table).reshape(*columns.shape[:-1], -1)


class RelativeBias(nn.Module):
    """Learned bias on attention scores for each bucket of relative distance (T5).

    Attributes:
      heads: number of attention heads.
      buckets: number of distance buckets.
      max_distance: distances from here on share the last bucket.
      bidirectional: half of the buckets for keys after the query.
    """

    heads: int
    buckets: int
    max_distance: int
    bidirectional: bool

    @nn.compact
    def __call__(self, queries: int, keys: int) -> Array:
        """Returns `[1, H, queries, keys]` float32; both count from the same start."""
        init = axes(nn.initializers.zeros_init(), "buckets", "one")
        table = self.param("table", init, (self.buckets, self.heads), jnp.float32)
        distance = jnp.arange(keys)[None, :] - jnp.arange(queries)[:, None]
        bucket = relative_bucket(distance, self.buckets, self.max_distance,
                                 bidirectional=self.bidirectional)
        return table[bucket].transpose(2, 0, 1)[None]


def relative_bucket(distance: Array, buckets: int, max_distance: int, *,
                    bidirectional: bool) -> Array:
    """Buckets key-minus-query distances: exact when near, logarithmic when far.

    Args:
      distance: int array, key position minus query position.
      buckets: number of buckets.
      max_distance: distances from here on share the last bucket.
      bidirectional: keys after the query get the upper half of the buckets; otherwise
        they share bucket 0.

    Returns:
      int32 array of the same shape, in `[0, buckets)`.

    Source: Raffel et al. 2020, https://arxiv.org/abs/1910.10683, section 2.1.
    """
    if bidirectional:
        buckets //= 2
        side = jnp.where(distance > 0, buckets, 0)
        distance = jnp.abs(distance)
    else:
        side = jnp.zeros_like(distance)
        distance = jnp.maximum(-distance, 0)
    exact = buckets // 2
    far = jnp.log(jnp.maximum(distance, 1) / exact) / math.log(max_distance / exact)
    far_bucket = jnp.minimum(exact + (far * (buckets - exact)).astype(int), buckets - 1)
    return (side + jnp.where(distance < exact, distance, far_bucket)).astype(jnp.int32)


def attend(query: Array, key: Array, value: Array, bias: Array,
           allowed: Array) -> Array:
    """Scaled dot-product attention with a bias and a mask.

    Args:
      query: `[B, H, Q, D]`.
      key: `[B, H, S, D]`.
      value: `[B, H, S, D]`.
      bias: broadcastable to `[B, H, Q, S]`, float32.
      allowed: bool, broadcastable to `[B, H, Q, S]`; a query with no allowed key
        gets the mean of the values, finite and meaningless.

    Returns:
      `[B, H, Q, D]` in the dtype of `value`.
    """
    scores = jnp.matmul(query, key.swapaxes(-1, -2)).astype(jnp.float32)
    scores = scores * (query.shape[-1] ** -0.5) + bias
    weights = jax.nn.softmax(jnp.where(allowed, scores, FORBIDDEN), axis=-1)
    return jnp.matmul(weights.astype(value.dtype), value)


def split_heads(x: Array, heads: int) -> Array:
    """Maps `[B, S, H * D]` to `[B, H, S, D]`."""
    batch, length, width = x.shape
    return x.reshape(batch, length, heads, width // heads).swapaxes(1, 2)


def merge_heads(x: Array) -> Array:
    """Maps `[B, H, S, D]` to `[B, S, H * D]`."""
    batch, heads, length, width = x.shape
    return x.swapaxes(1, 2).reshape(batch, length, heads * width)


def dropout(module: nn.Module, x: Array, rate: float, *, train: bool) -> Array:
    """Inverted dropout whose mask is a hash of the element's number (ours).

    A counter hash fuses into the neighbouring operation and needs no stored mask; on
    CPU it is about fifty times cheaper than `jax.random.bernoulli`.

    Args:
      module: the calling module; its "dropout" stream gives the key.
      x: any float array.
      rate: share of elements set to zero, in `[0, 1)`.
      train: without it `x` is returned as it is.

    Returns:
      `x` with dropped elements zero and the others divided by `1 - rate`.
    """
    if not train or rate == 0.0:
        return x
    seed = jax.random.bits(module.make_rng("dropout"), (2,), jnp.uint32)
    count = jax.lax.iota(jnp.uint32, x.size).reshape(x.shape)
    bits = (count ^ seed[0]) * jnp.uint32(0x9E3779B1) + seed[1]
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
    bits = bits ^ (bits >> 16)
    keep = bits >= jnp.uint32(round(rate * 2**32))
    return jnp.where(keep, x / (1.0 - rate), 0).astype(x.dtype)
