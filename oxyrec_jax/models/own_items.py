"""What a person took before: the own history as a distribution over items.

Where people take again what they took before, a network must learn for each of them
what its input says already. Each event i of the history, b_i requests (or events) back
from its newest, weighs

    P_own(i) = softmax_i(b_i log f + e log p_codes(first code of i's item))

and an item has the sum over its events; with e = 0, as to begin with, that is the
person's own frequency, fading, of `evaluate.basket_baselines`. The fade f in (0, 1) is
learnt and begins at .98. Beside the decoder the distribution is trusted by how many
events n it rests on, with odds exp(u + v log(1 + n)) where the decoder has 1: to begin
with .25 of 1 + .25 after 40 events, half after 400.

Source: ours; the personal frequency of next-basket recommendation, Li et al. 2023,
https://doi.org/10.1145/3587153, mixed in as a pointer network's copies are, See et al.
2017, https://arxiv.org/abs/1704.04368.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from oxyrec_jax.base import Array
from oxyrec_jax.models import layers
from oxyrec_jax.models.memory import Pointer, candidate_weights
from oxyrec_jax.models.transformer import visible

_FADE = 0.98  # to begin with; the best of six on the Complete Journey's validation
_SHARE = np.array([-3, 0.5], np.float32)  # ours: u and v, to begin with


class OwnItems(nn.Module):
    """The few numbers that weigh the events of a history.

    Attributes:
      by: what b counts: "events", or "requests", of which a batch tells in `opens`
        where each begins.
    """

    by: str

    def setup(self) -> None:
        self.fade = self.param("fade", layers.axes(nn.initializers.constant(
            float(np.log(_FADE / (1 - _FADE)))), "one"), (1,), jnp.float32)
        self.trust = self.param("trust", layers.axes(
            nn.initializers.zeros_init(), "one"), (1,), jnp.float32)
        self.share = self.param("share", layers.axes(
            lambda *_: jnp.asarray(_SHARE), "one"), (2,), jnp.float32)

    def __call__(self, batch: dict[str, Array], first_codes: Array,
                 first_log_probs: Array) -> tuple[Pointer, Array]:
        """Weighs the history before each target.

        Args:
          batch: `items`, `segments` `[B, L]`, `target_positions` `[B, J]` int32, and by
            requests `opens` `[B, L]`, 1 on the first event of each, else 0.
          first_codes: `[N]` int32, each item's first code.
          first_log_probs: `[B, J, V_0]` float32, the decoder's; receives no gradient.

        Returns:
          The events before each target with their weights, C = L, which sum to 1 or,
          without a history, to nothing; and `[B, J]` float32, the log-odds u + v
          log(1 + n) that the mixture begins with.
        """
        items, positions = batch["items"], batch["target_positions"]
        number = jnp.cumsum(batch["opens"].astype(jnp.int32) if self.by == "requests"
                            else jnp.ones_like(items), axis=1)
        newest = jnp.take_along_axis(number, positions, axis=1)
        back = newest[..., None] - number[:, None]
        seen = visible(batch["segments"], positions, causal=True)
        seen = seen & (batch["segments"][:, None] > 0) & (positions[..., None] >= 0)
        weights = candidate_weights(
            back * jax.nn.log_sigmoid(self.fade), self.trust, seen,
            jnp.broadcast_to(first_codes[items][:, None], back.shape), first_log_probs)
        heard = jnp.log1p(jnp.sum(seen, axis=-1, dtype=jnp.float32))
        found = Pointer(jnp.broadcast_to(items[:, None], back.shape), weights, heard)
        return found, self.share[0] + self.share[1] * heard
