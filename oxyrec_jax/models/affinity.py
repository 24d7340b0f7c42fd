"""What tells whether an item suits a person, beside attention.

`met_last` says how far back in the history an item, or one of its kind, was met.
`Crossing` multiplies what is known of the person with what is known of the item: for
each head h of a ranking model it adds

    <u_h, v_h>    u = W_c c + sum of rows of the profile    v = W_i e

to the logit, c being the context's last state and e the item's input. Attention learns
such a product only by way of its softmax and MLP, from many more impressions.

Source: factors of pairs of features, Rendle 2010 (factorization machines),
https://doi.org/10.1109/ICDM.2010.127; crossing state and profile with the item, and
`met_last`: ours.
"""

import jax.numpy as jnp
from flax import linen as nn

from oxyrec_jax.base import Array
from oxyrec_jax.models import layers, sides

DISTANCES = 12  # octaves of how far back an item was met; 0: never
_FAR = 1 << 20  # events back: not there
_SPREAD = 0.3   # of a profile's factors at the start, so that items learn at once; ours


def events_back(seen: Array, last: Array) -> Array:
    """How many events back each position of a history lies.

    Args:
      seen: `[B, L]` bool, positions of the request's history.
      last: `[B, 1]` int32, position of its latest event.

    Returns:
      `[B, L]` int32: 1 for the latest event; very far where nothing is seen.
    """
    return jnp.where(seen, last - jnp.arange(seen.shape[1]) + 1, _FAR)


def met_last(back: Array, history: Array, items: Array) -> Array:
    """How far back in the history a kind was met last, in octaves of events.

    Args:
      back: `[B, L]` int32, from `events_back`.
      history: `[B, L]` int32, the kind of each event's item.
      items: `[B, G]` int32, the kind of each item asked for.

    Returns:
      `[B, G]` int32 below `DISTANCES`: 0 never, 1 the latest event.
    """
    same = items[:, :, None] == history[:, None]
    nearest = jnp.min(jnp.where(same, back[:, None], _FAR), axis=-1)
    octave = jnp.floor(jnp.log2(nearest.astype(jnp.float32))).astype(jnp.int32)
    return jnp.where(nearest < _FAR, jnp.minimum(1 + octave, DISTANCES - 1), 0)


class Crossing(nn.Module):
    """Products of the person's and the item's factors, one for each head.

    Attributes:
      heads: H.
      rank: factors of each head.
      profile: rows of the table of profiles.
    """

    heads: int
    rank: int
    profile: int = 0

    @nn.compact
    def __call__(self, state: Array, item: Array, profile: Array | None = None
                 ) -> Array:
        """Multiplies each request with each of its items.

        Args:
          state: `[B, D]`, what the context knows.
          item: `[B, G, D]`, what is known of the items.
          profile: `[B, C]` int32 rows, -1 for none; None: they are not read.

        Returns:
          `[B, G, H]` float32.
        """
        size = self.heads * self.rank
        own = layers.Linear(size, ("embed", "one"), name="context")(state)
        if profile is not None:
            table = self.param(
                "profile", layers.axes(nn.initializers.normal(_SPREAD), "one", "one"),
                (self.profile, size), jnp.float32)
            own = own + sides.sum_known(table, profile)
        other = layers.Linear(size, ("embed", "one"), name="item")(item)
        return jnp.einsum(
            "bhr,bghr->bgh", own.reshape(-1, self.heads, self.rank),
            other.reshape(*item.shape[:2], self.heads, self.rank)).astype(jnp.float32)
