"""Chance by counting: every draw is a hash of seed, stream, person, step and slot.

No state is carried, so a draw does not depend on who else is simulated or in which
order. JAX's own generator would do as well, but measured on a CPU it made the compiled
program of the simulation several times slower to build and its draws to make.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from oxyrec_jax.base import Array

_GOLDEN, _OTHER = np.uint32(0x9E3779B9), np.uint32(0x85EBCA6B)


def uniform(seed: Array, stream: int, number: Array, step: Array | int,
            count: int) -> Array:
    """Returns `[B, count]` float32 uniform draws in (0, 1): odd multiples of 2**-24.

    Args:
      seed: scalar uint32.
      stream: which use the draws are for; uses of one seed must differ in it.
      number: `[B]` int32, the person.
      step: `[B]` int32 or int, the person's request.
      count: draws of each.

    Source: ours; the 32-bit mixer is "lowbias32" of Wellons 2018,
    https://nullprogram.com/blog/2018/07/31/. Two of them, keyed apart, make 64 bits of
    state for each person and step.
    """
    number, step = number.astype(jnp.uint32), jnp.asarray(step).astype(jnp.uint32)
    slots = jnp.arange(count, dtype=jnp.uint32)
    words = []
    for salt in (_GOLDEN, _OTHER):
        word = _mix(seed * salt + np.uint32(stream))
        word = _mix(word ^ (number * salt))
        words.append(_mix(word + step * _OTHER)[:, None])
    bits = _mix(_mix(words[0] + slots * _GOLDEN) ^ (words[1] + slots))
    # 23 bits and a half: never 0, never 1, exact in float32.
    return ((bits >> 9).astype(jnp.float32) + 0.5) * np.float32(2 ** -23)


def normal(draws: Array) -> Array:
    """Turns uniform draws into standard normal ones by the inverse error function."""
    return math.sqrt(2) * jax.lax.erf_inv(2 * draws - 1)


def gumbel(draws: Array) -> Array:
    """Turns uniform draws into standard Gumbel ones."""
    return -jnp.log(-jnp.log(draws))


def _mix(word: Array) -> Array:
    word = (word ^ (word >> 16)) * np.uint32(0x7FEB352D)
    word = (word ^ (word >> 15)) * np.uint32(0x846CA68B)
    return word ^ (word >> 16)
