"""Objectives as pure functions on arrays; none knows a model or a config."""

from oxyrec_jax.losses.likelihood import chunked_next_code_loss, next_code_loss

__all__ = [
    "chunked_next_code_loss",
    "next_code_loss",
]
