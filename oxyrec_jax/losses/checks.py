"""What every loss asks of its arguments, checked while tracing.

A wrong shape or dtype is a programming error: it raises `ValueError` or `TypeError`
naming the argument, what was found and what was expected, before anything is compiled.
Values of arrays are never looked at; options are, where they are plain numbers.
"""

import jax
import jax.numpy as jnp
import numpy as np

from oxyrec_jax.base import Array

Shape = tuple[int, ...]


def as_float(name: str, array: Array, shape: Shape | None = None) -> Array:
    """Returns `array` in float32 (float64 stays), of `shape` where one is given.

    Sums, exponentials and logarithms outgrow 16 bits, so every loss casts at its door.

    Raises:
      TypeError: it is not a floating-point array.
      ValueError: its shape is not `shape`.
    """
    array = _shaped(name, array, shape)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{name} has dtype {array.dtype}, expected floating point")
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def as_mask(name: str, array: Array, shape: Shape | None = None) -> Array:
    """Returns `array`, which must be bool (true = real) and of `shape` where given.

    Raises:
      TypeError: it is not bool.
      ValueError: its shape is not `shape`.
    """
    array = _shaped(name, array, shape)
    if array.dtype != jnp.bool_:
        raise TypeError(f"{name} has dtype {array.dtype}, expected bool")
    return array


def optional_mask(mask: Array | None, shape: Shape) -> Array:
    """The argument `mask` of `shape`; None: all are real. Raises as `as_mask` does."""
    return as_mask("mask", jnp.ones(shape, bool) if mask is None else mask, shape)


def as_weights(weights: Array | None, mask: Array, dtype: jnp.dtype) -> Array:
    """Returns weights of examples, without a gradient and 0 where masked.

    Args:
      weights: `[...]` float, the argument `sample_weights`; None weighs all 1.
      mask: `[...]` bool.
      dtype: of the result where there are none.

    Raises:
      TypeError: they are not floating point.
      ValueError: their shape is not the mask's.
    """
    if weights is None:
        return mask.astype(dtype)
    weights = as_float("sample_weights", weights, mask.shape)
    return jnp.where(mask, jax.lax.stop_gradient(weights), 0)


def as_index(name: str, array: Array, shape: Shape | None = None) -> Array:
    """Returns `array`, which must hold integers and be of `shape` where one is given.

    Raises:
      TypeError: it does not hold integers.
      ValueError: its shape is not `shape`.
    """
    array = _shaped(name, array, shape)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{name} has dtype {array.dtype}, expected integers")
    return array


def check_rank(name: str, array: Array, letters: str) -> None:
    """Raises `ValueError` unless `array` has one axis, none empty, for each letter.

    Args:
      name: the argument's name, for the message.
      array: what was given.
      letters: the expected axes in shape letters, such as `"B G T"`.
    """
    shape = np.shape(array)
    expected = letters.split()
    if len(shape) != len(expected) or 0 in shape:
        axes = ", ".join(expected)
        raise ValueError(f"{name}.shape={shape}, expected [{axes}], none of them 0")


def check_option(name: str, value: float | Array, low: float, high: float = np.inf,
                 *, open_low: bool = False, open_high: bool = False) -> None:
    """Raises `ValueError` where a number lies outside its interval.

    Traced values pass: nothing is known of them while tracing.

    Args:
      name: the option's name, for the message.
      value: the number, or a scalar array.
      low: the smallest value allowed.
      high: the largest value allowed.
      open_low: `low` itself is not allowed.
      open_high: `high` itself is not allowed.

    Raises:
      TypeError: it is no number.
    """
    if not (isinstance(value, (int, float)) or hasattr(value, "dtype")):
        raise TypeError(f"{name}={value!r}, expected a number")
    if np.ndim(value):
        raise ValueError(f"{name}.shape={np.shape(value)}, expected a scalar")
    if isinstance(value, jax.core.Tracer):
        return
    above = value > low if open_low else value >= low
    below = value < high if open_high else value <= high
    if not (above and below):
        left, right = "(["[not open_low], ")]"[not open_high]
        raise ValueError(f"{name}={value}, expected in {left}{low}, {high}{right}")


def is_off(value: float | Array) -> bool:
    """Whether an option is a plain 0, so that nothing need be computed for it."""
    return isinstance(value, (int, float)) and value == 0


def rollouts(log_probs: Array, old_log_probs: Array, advantages: Array, mask: Array, *,
             name: str = "advantages") -> tuple[Array, Array, Array, Array]:
    """The four arguments checked, in float32, without gradient but the first.

    Args:
      log_probs: `[B, G, T]` float, nats.
      old_log_probs: `[B, G, T]` float, nats.
      advantages: `[B, G]` float, one figure for each rollout.
      mask: `[B, G, T]` bool.
      name: what the caller calls `advantages`, for the message.

    Returns:
      The same, what is masked being 0 in all of them, advantages as `[B, G, 1]`.

    Raises:
      ValueError: shapes disagree.
      TypeError: a dtype is wrong.
    """
    check_rank("log_probs", log_probs, "B G T")
    log_probs = as_float("log_probs", log_probs)
    shape = log_probs.shape
    old_log_probs = as_float("old_log_probs", old_log_probs, shape)
    advantages = as_float(name, advantages, shape[:2])
    mask = as_mask("mask", mask, shape)
    live = jnp.any(mask, axis=-1, keepdims=True)
    return (
        jnp.where(mask, log_probs, 0),
        jax.lax.stop_gradient(jnp.where(mask, old_log_probs, 0)),
        jax.lax.stop_gradient(jnp.where(live, advantages[..., None], 0)),
        mask,
    )


def check_clip(clip_low: float, clip_high: float) -> None:
    """Raises `ValueError` unless 0 <= clip_low <= 1 and 0 <= clip_high."""
    check_option("clip_low", clip_low, 0, 1)
    check_option("clip_high", clip_high, 0)


def check_temperatures(tau_pos: float, tau_neg: float) -> None:
    """Raises `ValueError` unless both are above 0."""
    check_option("tau_pos", tau_pos, 0, open_low=True)
    check_option("tau_neg", tau_neg, 0, open_low=True)


def _shaped(name: str, array: Array, shape: Shape | None) -> Array:
    array = jnp.asarray(array)
    if shape is not None and array.shape != shape:
        raise ValueError(f"{name}.shape={array.shape}, expected {shape}")
    return array
