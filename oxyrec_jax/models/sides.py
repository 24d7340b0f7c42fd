"""What else of a history event the encoder reads: behaviour, scenario, price, time.

Each becomes a row of a small table, added to the item's vector. Source: OxygenREC,
https://arxiv.org/abs/2512.22386, side features of the encoder; the buckets are ours.
"""

import jax.numpy as jnp
from flax import linen as nn

from oxyrec_jax.base import Array
from oxyrec_jax.models import layers

SIDES = ("behaviour", "scenario", "price", "gap")
_NAMES = 128   # behaviours and scenarios are int8 numbers
_STEPS = 32    # buckets of price and gap
_GAP_STEP = 1.0    # octaves of seconds: 2^31 s is 68 years
_PRICE_STEP = 0.5  # octaves of the log's currency, from a sixteenth of it


class SideVectors(nn.Module):
    """Sums one learned vector for each side feature.

    Attributes:
      names: some of `SIDES`.
      width: D.
    """

    names: tuple[str, ...]
    width: int

    @nn.compact
    def __call__(self, batch: dict[str, Array]) -> Array:
        """Maps columns `[B, L]` of the batch to `[B, L, D]` float32."""
        total = jnp.float32(0)
        init = layers.axes(nn.initializers.zeros_init(), "one", "embed")
        for name in self.names:
            rows = bucket(name, batch[name])
            size = _NAMES if name in ("behaviour", "scenario") else _STEPS
            table = self.param(f"{name}_vectors", init, (size, self.width), jnp.float32)
            total = total + table[rows]
        return total


def bucket(name: str, values: Array) -> Array:
    """Row of the table of a side feature for each value, int32.

    Args:
      name: one of `SIDES`.
      values: `[...]`: numbers of behaviours or scenarios; seconds; prices, NaN and
        anything not above 0 where unknown.

    Returns:
      For behaviour and scenario the number itself, for gap and price 0 where unknown
      and from 1 on the octave (gap: of seconds, from 1 s) or half octave (price: from
      1/16), the last bucket open.
    """
    if name in ("behaviour", "scenario"):
        return jnp.clip(values.astype(jnp.int32), 0, _NAMES - 1)
    wide = values.astype(jnp.float32)
    known = wide > 0
    logs = jnp.log2(jnp.where(known, wide, 1))
    steps = (logs / _GAP_STEP if name == "gap" else (logs + 4) / _PRICE_STEP)
    return jnp.where(known, 1 + jnp.clip(jnp.floor(steps), 0, _STEPS - 2), 0
                     ).astype(jnp.int32)
