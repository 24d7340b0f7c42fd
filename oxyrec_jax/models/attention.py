"""How attention is computed, and what tells it of positions.

    plain    products, a softmax and products (`layers.attend`): every device, every
             configuration, scores stored
    xla      `jax.nn.dot_product_attention` as XLA compiles it: the same on any device
    cudnn    the same as cuDNN's fused kernel, which stores no scores: NVIDIA GPUs,
             bfloat16, no learned bias

cuDNN gives no gradient of a bias beside a mask of each row, without saying so; a
learned bias on relative positions (T5's) therefore never takes that path, rotary
positions do. Masks are boolean, not lengths: rows may hold several histories.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from oxyrec_jax.base import Array, InputError
from oxyrec_jax.models import layers
from oxyrec_jax.models.config import ModelConfig

_WIDEST = 128  # of a head; cuDNN on cards before Hopper takes no more
_ROTARY_BASE = 10_000.0  # Su et al.'s


@dataclasses.dataclass(frozen=True)
class Path:
    """How attention is computed.

    Attributes:
      name: "plain", "xla" or "cudnn".
      reason: why, for people.
    """

    name: str
    reason: str


def attention_path(cfg: ModelConfig, platform: str) -> Path:
    """How a network computes the attention over histories.

    Args:
      cfg: the network.
      platform: of its devices: "cpu", "gpu" or "tpu".

    Raises:
      InputError: `cfg.attention` is "cudnn" and cannot be.
    """
    if cfg.attention in ("plain", "xla"):
        return Path(cfg.attention, "model.attention asks for it")
    against = _against_cudnn(cfg)
    if not against and platform != "gpu":
        against = f"cuDNN runs on NVIDIA GPUs, and the devices are {platform}"
    if not against:
        return Path("cudnn", f"{cfg.dtype}, heads of {cfg.head_width}, "
                             f"{cfg.positions} positions")
    if cfg.attention == "cudnn":
        raise InputError(f"model.attention is 'cudnn', which cannot be: {against}; set "
                         "model.attention=auto")
    return Path("plain", against)


def platform() -> str:
    """Where programs run that are traced now; "rocm" for the GPUs without cuDNN."""
    name = jax.default_backend()
    if name == "gpu" and "cuda" not in jax.devices()[0].client.platform_version:
        return "rocm"
    return name


def attend_of(cfg: ModelConfig) -> Callable[..., Array]:
    """A function of the arguments of `layers.attend` for programs traced now."""
    path = attention_path(cfg, platform())
    if path.name == "plain":
        return layers.attend
    return functools.partial(
        attend_fused, implementation="cudnn" if path.name == "cudnn" else "xla")


def attend_fused(query: Array, key: Array, value: Array, bias: Array, allowed: Array, *,
                 implementation: Literal["xla", "cudnn"]) -> Array:
    """As `layers.attend`, by `jax.nn.dot_product_attention`.

    Args:
      query: `[B, H, Q, D]`.
      key, value: `[B, H, S, D]`.
      bias: broadcastable to `[B, H, Q, S]`, float32; of no axis (nothing) for "cudnn".
      allowed: bool, `[B or 1, 1, Q or 1, S]`.
      implementation: "xla" or "cudnn".

    Returns:
      `[B, H, Q, D]` in the dtype of `value`.

    Raises:
      ValueError: a bias for "cudnn", whose gradient would silently be zero.
    """
    if implementation == "cudnn" and bias.ndim:
        raise ValueError("cuDNN gives no gradient of a bias beside a mask")
    queries, keys = query.shape[2], key.shape[2]
    allowed = jnp.broadcast_to(allowed, (*allowed.shape[:2], queries, keys))
    if implementation == "cudnn":  # whose backward pass takes even lengths alone
        more = (queries % 2, keys % 2)
        query = _longer(query, more[0])
        key, value = _longer(key, more[1]), _longer(value, more[1])
        allowed = jnp.pad(allowed, ((0, 0), (0, 0), (0, more[0]), (0, 0)), "edge")
        allowed = jnp.pad(allowed, ((0, 0), (0, 0), (0, 0), (0, more[1])))
    query, key, value = (part.swapaxes(1, 2) for part in (query, key, value))
    mixed = jax.nn.dot_product_attention(
        query, key, value, bias=bias if bias.ndim else None, mask=allowed,
        implementation=implementation)
    return mixed[:, :queries].swapaxes(1, 2)


def rotate(x: Array) -> Array:
    """Turns pairs of numbers by angles that grow with their position.

    The product of a turned query and a turned key depends on their distance alone.

    Args:
      x: `[..., S, D]`, D even; numbers d and d + D / 2 are a pair.

    Returns:
      The same shape and dtype, computed in float32.

    Source: Su et al. 2021, https://arxiv.org/abs/2104.09864, eq. 34, pairs by halves.
    """
    length, width = x.shape[-2:]
    rates = _ROTARY_BASE ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    angles = jnp.arange(length, dtype=jnp.float32)[:, None] * rates
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    left, right = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = (left * cos - right * sin, right * cos + left * sin)
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def position_bias(cfg: ModelConfig) -> nn.Module | None:
    """The encoder's learned bias, where positions are told by one."""
    if cfg.positions == "rotary":
        return None
    return layers.RelativeBias(cfg.heads, cfg.buckets, cfg.max_distance,
                               bidirectional=not cfg.causal)


def _against_cudnn(cfg: ModelConfig) -> str:
    """What keeps a network from cuDNN's kernel; empty where nothing does."""
    if cfg.positions != "rotary":
        return (f"model.positions is {cfg.positions!r}, a learned bias, whose gradient "
                "cuDNN does not give beside a mask")
    if cfg.dtype != "bfloat16":
        return f"model.dtype is {cfg.dtype!r} and cuDNN takes bfloat16"
    if cfg.head_width % 8 or cfg.head_width > _WIDEST:
        return (f"model.head_width is {cfg.head_width} and cuDNN takes multiples of 8 "
                f"up to {_WIDEST}")
    return ""


def _longer(x: Array, more: int) -> Array:
    """`[B, H, S, D]` with so many positions of zeros behind."""
    return jnp.pad(x, ((0, 0), (0, 0), (0, more), (0, 0)))
