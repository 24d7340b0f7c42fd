"""Instruction-guided retrieval (IGR): which of a long history's events to read.

    q    = psi_q([I_s ; I_r])                     the query
    h_v  = psi_i([sg(codes of v) ; features of v])   an item, whatever the event
    kept = the K events of the long history whose items have the highest q · h

The kept events stand before the recent ones in the encoder, oldest first. Choosing is
discrete: the likelihood does not train psi, the query-to-item loss does, on q and the
target's h.

An event's key is its item's: the scores of all N items are one product `[B, N]`, and
scoring a history of M events is a look-up of M numbers, whatever M.

Source: OxygenREC, https://arxiv.org/abs/2512.22386, section on instruction-guided
retrieval; vectors of length 1, keys of items instead of events, and the share of most
recent events are ours.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from oxyrec_jax.base import Array, InputError
from oxyrec_jax.models.instructions import Adapter

CHOICES = ("instruction", "recent", "random")
_NEVER = -1e30


@dataclasses.dataclass(frozen=True)
class RetrievalConfig:
    """What is retrieved from events older than the recent history.

    Attributes:
      events: M, how far back: events before the recent ones; 0 retrieves nothing.
      keep: K, how many of them are read.
      recent: how many of the K are simply the latest.
      choose: by "instruction"; or "recent" or "random", to compare with.
      width: of queries and keys.
      hidden: inner width of the two networks.
    """

    events: int = 0
    keep: int = 16
    recent: int = 0
    choose: str = "instruction"
    width: int = 64
    hidden: int = 128

    def __post_init__(self) -> None:
        if self.choose not in CHOICES:
            raise InputError(f"model.retrieval.choose is {self.choose!r}, expected one "
                             f"of {', '.join(CHOICES)}")
        for name in ("keep", "width", "hidden"):
            if getattr(self, name) < 1:
                raise InputError(f"model.retrieval.{name} is {getattr(self, name)}, "
                                 "expected at least 1")
        if self.events and not 0 <= self.recent <= self.keep <= self.events:
            raise InputError(
                f"model.retrieval keeps {self.keep} of {self.events} events, "
                f"{self.recent} of them the latest; expected recent <= keep <= events")


class Retriever(nn.Module):
    """The two networks psi_q and psi_i.

    Attributes:
      cfg: their sizes.
    """

    cfg: RetrievalConfig

    def setup(self) -> None:
        self.query_net = Adapter(self.cfg.hidden, self.cfg.width)
        self.item_net = Adapter(self.cfg.hidden, self.cfg.width)

    def queries(self, instructions: Array) -> Array:
        """Queries `[..., R]` of length 1 from instruction tokens `[..., D]`, float32.
        """
        return _unit(self.query_net(instructions.astype(jnp.float32)))

    def keys(self, inputs: Array) -> Array:
        """Keys `[..., R]` of length 1 from what is known of items `[..., F]`; the
        inputs receive no gradient."""
        return _unit(self.item_net(jax.lax.stop_gradient(inputs).astype(jnp.float32)))


def choose_events(cfg: RetrievalConfig, scores: Array, items: Array) -> Array:
    """Picks K events of each long history.

    Args:
      cfg: how many, and how many of them the latest.
      scores: `[B, N]` float32 of every item.
      items: `[B, M]` int32, oldest first, -1 where the history is shorter; the padding
        may stand anywhere.

    Returns:
      `[B, K]` int32 items, in the order of the history, -1 where it has fewer than K.
      Among equal scores the later event is taken.
    """
    batch, length = items.shape
    real = items >= 0
    order = jnp.where(real, jnp.arange(length, dtype=jnp.float32), -1)
    if cfg.choose == "recent":
        found = order
    elif cfg.choose == "random":
        found = _noise(items)
    else:
        found = jnp.take_along_axis(scores, jnp.maximum(items, 0), axis=1)
    if cfg.recent:
        # Reversed, as a rising row is the slowest to pick from; the least of the few
        # and not the last, as XLA makes a slice of them a sort of the whole row.
        latest = jax.lax.top_k(order[:, ::-1], cfg.recent)[0].min(1, keepdims=True)
        found = jnp.where(order >= latest, -_NEVER, found)
    found = jnp.where(real, found, _NEVER)
    # `top_k` prefers the first of equals: reversed, that is the latest.
    _, places = jax.lax.top_k(found[:, ::-1], cfg.keep)
    places = jnp.sort(length - 1 - places, axis=1)
    kept = jnp.take_along_axis(items, places, axis=1)
    return jnp.where(jnp.take_along_axis(real, places, axis=1), kept, -1)


def _noise(items: Array) -> Array:
    """`[B, M]` float32 in [0, 1): a hash of the history and the place."""
    place = jnp.arange(items.shape[1], dtype=jnp.uint32)
    row = jnp.sum((items.astype(jnp.uint32) + 1) * (2 * place + 1), axis=1,
                  dtype=jnp.uint32)
    bits = (row[:, None] ^ (place * jnp.uint32(0x9E3779B1))) * jnp.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
    bits = bits ^ (bits >> 16)
    return (bits >> 8).astype(jnp.float32) * 2.0**-24


def _unit(x: Array) -> Array:
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-12)
