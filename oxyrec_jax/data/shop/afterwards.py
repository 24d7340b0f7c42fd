"""The days after the log: calendar and weather go on, and so do the visits.

A log is a year in which a person comes a few times. A test of a few days needs people
who come, so a day here is one in which everybody has a chance to visit, at the hours
at which that city visits the shop.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from oxyrec_jax.data.shop import contexts
from oxyrec_jax.data.shop.world import Shop, World


@dataclasses.dataclass(frozen=True)
class Afterwards:
    """The shop in the days that follow its log.

    Attributes:
      shop: as it was built.
      days: how many days follow.
      contexts: calendar and weather of the log and of those days. The days of the log
        are drawn anew with them, so that only the later ones are to be read.
    """

    shop: Shop
    days: int
    contexts: contexts.Contexts

    def world(self, day: int) -> World:
        """Returns the world of one day after the log, the first is 0.

        Its clock is that of the day alone: a visit at place p of it, 0 to 1, is made
        when that share of the city's visits of the day is made.
        """
        if not 0 <= day < self.days:
            raise ValueError(f"{day=}, expected 0 to {self.days - 1}")
        first = (self.shop.cfg.days + day) * contexts.SECONDS_A_DAY
        whole = self.contexts.clock.astype(np.float64)
        share = np.arange(whole.shape[1])
        clock = np.empty(whole.shape, np.int32)
        for city, seconds in enumerate(whole):
            low, high = (float(np.interp(end, seconds, share))
                         for end in (first, first + contexts.SECONDS_A_DAY))
            clock[city] = np.interp(np.linspace(low, high, whole.shape[1]), share,
                                    seconds)
        clock = np.clip(clock, first, first + contexts.SECONDS_A_DAY - 1)
        return dataclasses.replace(
            self.shop.world, clock=jnp.asarray(clock),
            day_facts=jnp.asarray(self.contexts.facts),
            day_season=jnp.asarray(self.contexts.season))


def days_after(shop: Shop, days: int) -> Afterwards:
    """Draws calendar and weather of the days after a shop's log.

    Args:
      shop: the shop.
      days: how many, at least 1.

    Raises:
      InputError: they reach beyond the years whose festivals are known.
    """
    cfg = dataclasses.replace(shop.cfg, days=shop.cfg.days + days)
    return Afterwards(shop, days, contexts.build_contexts(cfg, shop.known.cities))
