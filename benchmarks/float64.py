"""The generator's loss in float64 on the CPU, written once more, to check devices by.

Of a dense network with one bidirectional history and one target in a row, a head for
each level and tied vectors (`CONFIG` and what differs from it in size). NumPy's and
`jax.numpy`'s plain products alone: no layer of the package is called.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from oxyrec_jax.models.config import ModelConfig

CONFIG = ModelConfig(width=128, heads=2, head_width=64, mlp_width=128, encoder_layers=2,
                     decoder_layers=2, causal=False, item_embedding=False,
                     position_state=False, legal_softmax=False, dropout=0.0,
                     positions="rotary")


def loss_and_gradient(cfg: ModelConfig, widths: tuple[int, ...], params: Any,
                      batch: dict[str, np.ndarray], codes: np.ndarray
                      ) -> tuple[float, Any]:
    """Mean nats of a target's codes, and the gradient of every parameter.

    Args:
      cfg: the network, as the module's docstring says.
      widths: codes on each level, T numbers.
      params: of the `Generator`, in any dtype.
      batch: `items`, `segments` `[B, L]`, `targets` `[B, 1]`.
      codes: `[N, T]`, the semantic ID of each item.
    """
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        wide = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)),
                            params)
        starts = np.concatenate([[0], np.cumsum(widths)[:-1]])
        rows = codes[batch["items"]] + starts, codes[batch["targets"][:, 0]] + starts
        real = batch["segments"][:, :, None] == batch["segments"][:, None, :]

        def loss(wide: Any) -> jax.Array:
            return _loss(cfg, widths, wide, *rows, real)
        value, slope = jax.jit(jax.value_and_grad(loss))(wide)
        assert value.dtype == np.float64
        return float(value), jax.device_get(slope)


def _loss(cfg: ModelConfig, widths: tuple[int, ...], params: Any, read: np.ndarray,
          asked: np.ndarray, real: np.ndarray) -> jax.Array:
    vectors, count = params["code_vectors"], read.shape[0]
    x = vectors[read].sum(axis=2)
    for number in range(cfg.encoder_layers):
        own = params[f"encoder_{number}"]
        query, key, value = jnp.split(_norm(x, own["attention_norm"])
                                      @ own["qkv"]["kernel"], 3, axis=-1)
        x = x + _attend(cfg, query, key, value, real, turn=True) @ own["out"]["kernel"]
        x = x + _gated(_norm(x, own["mlp_norm"]), own["mlp"])
    memory = _norm(x, params["encoder_norm"])
    x = jnp.concatenate([jnp.broadcast_to(params["begin"], (count, 1, cfg.width)),
                         vectors[asked[:, :-1]]], axis=1)
    before = np.tril(np.ones((len(widths), len(widths)), bool))[None]
    seen = np.repeat(real[:, -1:], len(widths), axis=1)  # targets stand at the end
    for number in range(cfg.decoder_layers):
        own = params[f"decoder_{number}"]
        parts = jnp.split(_norm(x, own["self_norm"]) @ own["qkv"]["kernel"], 3, axis=-1)
        x = x + _attend(cfg, *parts, before, turn=False) @ own["self_out"]["kernel"]
        query = _norm(x, own["cross_norm"]) @ own["cross_query"]["kernel"]
        parts = jnp.split(memory @ own["cross_key_value"]["kernel"], 2, axis=-1)
        x = x + (_attend(cfg, query, *parts, seen, turn=False)
                 @ own["cross_out"]["kernel"])
        x = x + _gated(_norm(x, own["mlp_norm"]), own["mlp"])
    x, total, start = _norm(x, params["decoder_norm"]), jnp.zeros(()), 0
    for level, width in enumerate(widths):
        scores = x[:, level] @ vectors[start:start + width].T
        code = (asked[:, level] - start)[:, None]
        total += jnp.sum(jax.nn.logsumexp(scores, axis=-1)
                         - jnp.take_along_axis(scores, code, axis=1)[:, 0])
        start += width
    return total / count


def _norm(x: jax.Array, own: Any) -> jax.Array:
    return x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6) * own["scale"]


def _gated(x: jax.Array, own: Any) -> jax.Array:
    gate = x @ own["gate"]["kernel"]
    return (gate / (1 + jnp.exp(-gate)) * (x @ own["up"]["kernel"])
            ) @ own["down"]["kernel"]


def _attend(cfg: ModelConfig, query: jax.Array, key: jax.Array, value: jax.Array,
            allowed: np.ndarray, *, turn: bool) -> jax.Array:
    """`[B, Q, H * D]` from the same and two of `[B, S, H * D]`, head by head."""
    mixed = []
    for head in range(cfg.heads):
        one = slice(head * cfg.head_width, (head + 1) * cfg.head_width)
        asked, held = query[..., one], key[..., one]
        if turn:
            asked, held = _turned(asked), _turned(held)
        scores = jnp.einsum("bqd,bsd->bqs", asked, held) / np.sqrt(cfg.head_width)
        weights = jnp.exp(jnp.where(allowed, scores, -jnp.inf))
        mixed.append(jnp.einsum("bqs,bsd->bqd", weights, value[..., one])
                     / weights.sum(axis=-1, keepdims=True))
    return jnp.concatenate(mixed, axis=-1)


def _turned(x: jax.Array) -> jax.Array:
    """Rotary positions as products of complex numbers."""
    length, width = x.shape[-2:]
    rates = 10_000.0 ** (-np.arange(0, width, 2) / width)
    pairs = x[..., :width // 2] + 1j * x[..., width // 2:]
    turned = pairs * np.exp(1j * np.arange(length)[:, None] * rates)
    return jnp.concatenate([turned.real, turned.imag], axis=-1)
