"""What else the encoder reads: of a history event, of its person, of the calendar.

Each becomes a row of a small table, added to the item's vector. A person's profile is
added to every position of the person's history instead of standing before it: packed
rows hold windows of many people, and a position of its own would have to be found room
for in each. Source: OxygenREC, https://arxiv.org/abs/2512.22386, side features and
[profile ; recent behaviour ; retrieved] in the encoder; buckets and sums are ours.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from oxyrec_jax.base import Array
from oxyrec_jax.models import layers

SIDES = ("behaviour", "scenario", "price", "gap", "hour", "weekday")
_NAMES = 128   # behaviours and scenarios are int8 numbers
_STEPS = 32    # buckets of price and gap
_GAP_STEP = 1.0    # octaves of seconds: 2^31 s is 68 years
_PRICE_STEP = 0.5  # octaves of the log's currency, from a sixteenth of it
_HIDDEN = 0.1  # share of histories that training reads as of nobody known; ours


class SideVectors(nn.Module):
    """Sums one learned vector for each side feature and each part of the profile.

    Attributes:
      names: some of `SIDES`.
      width: D.
      profile: rows of the table of profiles; 0: they are not read.
    """

    names: tuple[str, ...]
    width: int
    profile: int = 0

    @nn.compact
    def __call__(self, batch: dict[str, Array], *, train: bool = False) -> Array:
        """Maps columns of the batch to `[B, L, D]` float32.

        Args:
          batch: `[B, L]` columns of `names`, and where profiles are read `profile`
            `[B, L, C]` int32, rows of the table with -1 for none, and `segments`.
          train: some histories are read without their profile, so that a person who is
            not known has a vector too; needs the "dropout" stream.
        """
        total = jnp.float32(0)
        init = layers.axes(nn.initializers.zeros_init(), "one", "embed")
        for name in self.names:
            rows = bucket(name, batch[name])
            size = _NAMES if name in ("behaviour", "scenario") else _STEPS
            table = self.param(f"{name}_vectors", init, (size, self.width), jnp.float32)
            total = total + table[rows]
        if self.profile:
            total = total + self._profiles(batch, init, train)
        return total

    def _profiles(self, batch: dict[str, Array], init: nn.initializers.Initializer,
                  train: bool) -> Array:
        table = self.param("profile_vectors", init, (self.profile, self.width),
                           jnp.float32)
        nobody = self.param("nobody", init, (1, self.width), jnp.float32)
        rows = batch["profile"]
        some = (rows >= 0).any(axis=-1)
        if train:
            chance = jax.random.uniform(self.make_rng("dropout"), some.shape)
            # One draw for each history of a row, at the place of its number.
            some &= jnp.take_along_axis(chance, batch["segments"], axis=1) >= _HIDDEN
        return jnp.where(some[..., None], sum_known(table, rows), nobody[0])


def sum_known(table: Array, rows: Array) -> Array:
    """Sums the rows of a table that are known.

    Args:
      table: `[R, D]` float32; receives a gradient.
      rows: `[..., C]` int32, -1 where unknown.

    Returns:
      `[..., D]` float32, 0 where none is known.
    """
    # One look-up after the other: all at once are stored before they are summed.
    parts = [jnp.where(rows[..., place, None] >= 0,
                       table[jnp.maximum(rows[..., place], 0)], 0)
             for place in range(rows.shape[-1])]
    return sum(parts[1:], parts[0])


def prepend(batch: dict[str, Array], items: Array, names: tuple[str, ...]
            ) -> dict[str, Array]:
    """A batch of one history a row with events of which little is known before it.

    Args:
      batch: with `items`, `segments` and the columns `names`, `[B, L]`, or `[B, L, C]`
        of the profile, and `target_positions`.
      items: `[B, K]` int32, of the events; -1 where there is none.
      names: some of `SIDES`, which are unknown of the events, and "profile", which is
        that of the person.
    """
    places = items.shape[1]
    real = (items >= 0).astype(jnp.int32)
    before = {"items": items * real, "segments": real}
    before |= {name: jnp.repeat(batch[name][:, :1], places, axis=1)
               if name == "profile" else
               jnp.zeros((len(items), places), batch[name].dtype) for name in names}
    return {**batch, "target_positions": batch["target_positions"] + places,
            **{name: jnp.concatenate([rows, batch[name]], axis=1)
               for name, rows in before.items()}}


def bucket(name: str, values: Array) -> Array:
    """Row of the table of a side feature for each value, int32.

    Args:
      name: one of `SIDES`.
      values: `[...]`: numbers of behaviours or scenarios; hours and weekdays from 1,
        0 unknown; seconds; prices, NaN and anything not above 0 where unknown.

    Returns:
      For behaviour, scenario, hour and weekday the number itself, for gap and price 0
      where unknown and from 1 on the octave (gap: of seconds, from 1 s) or half octave
      (price: from 1/16), the last bucket open.
    """
    if name in ("hour", "weekday"):
        return jnp.clip(values.astype(jnp.int32), 0, _STEPS - 1)
    if name in ("behaviour", "scenario"):
        return jnp.clip(values.astype(jnp.int32), 0, _NAMES - 1)
    wide = values.astype(jnp.float32)
    known = wide > 0
    logs = jnp.log2(jnp.where(known, wide, 1))
    steps = (logs / _GAP_STEP if name == "gap" else (logs + 4) / _PRICE_STEP)
    return jnp.where(known, 1 + jnp.clip(jnp.floor(steps), 0, _STEPS - 2), 0
                     ).astype(jnp.int32)
