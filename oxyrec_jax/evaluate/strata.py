"""Groups of targets whose figures tell apart what one mean would mix.

*Popularity*: how often the target occurs in training. *Repeat*: whether the user has
met the target before. *Order*: whether the target's product id is above that of the
item before it. Logs whose times are days often list one day's events by product id, so
that a model can learn the file instead of the user; figures that differ much between
ascending and descending targets show it.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from oxyrec_jax.evaluate import rows as split_rows
from oxyrec_jax.evaluate.rows import Events, Targets


@dataclasses.dataclass(frozen=True)
class Stratum:
    """A group of targets.

    Attributes:
      axis: "popularity", "repeat" or "order".
      name: the group in words.
      rows: `[R]` bool, its targets.
    """

    axis: str
    name: str
    rows: np.ndarray


def strata(events: Events, targets: Targets, item_ids: Sequence[str], *,
           groups: int = 4) -> list[Stratum]:
    """All groups that hold at least one target; each axis covers every target once.

    Args:
      events: the data set's events and train split.
      targets: R targets of the split that is tested.
      item_ids: `[N]` the source's own product ids. Compared as numbers where all are
        decimal, as strings otherwise.
      groups: how many popularity groups of about equal size, beside the group of
        targets that training never saw.
    """
    found = [*_by_popularity(events, targets, groups), *_by_repeat(events, targets),
             *_by_order(events, targets, item_ids)]
    return [stratum for stratum in found if stratum.rows.any()]


def _by_popularity(events: Events, targets: Targets, groups: int) -> list[Stratum]:
    counts = split_rows.popularity(events)[targets.item]
    found = [Stratum("popularity", "never in training", counts == 0)]
    seen = counts[counts > 0]
    if not len(seen):
        return found
    shares = np.arange(1, groups) / groups
    edges = np.quantile(seen, shares, method="inverted_cdf")
    edges = np.unique([0, *edges, seen.max()])
    for low, high in zip(edges[:-1], edges[1:]):
        first, last = int(low) + 1, int(high)
        name = f"{first}" if first == last else f"{first} to {last}"
        name += " training event" if last == 1 else " training events"
        found.append(Stratum("popularity", name, (counts > low) & (counts <= high)))
    return found


def _by_repeat(events: Events, targets: Targets) -> list[Stratum]:
    met = split_rows.repeats(events, targets)
    return [Stratum("repeat", "new to the user", ~met),
            Stratum("repeat", "in the user's history", met)]


def _by_order(events: Events, targets: Targets, item_ids: Sequence[str]
              ) -> list[Stratum]:
    previous = split_rows.recent(events, targets, 1)[:, 0]
    has = previous >= 0
    decimal = all(name.isdecimal() for name in item_ids)
    # Of Python's own numbers where they are long: 64 bits would make them floats.
    long = decimal and max(map(len, item_ids), default=0) > 18
    ids = np.array([int(name) for name in item_ids] if decimal else list(item_ids),
                   object if long else None)
    _, place = np.unique(ids, return_inverse=True)
    step = np.where(has, place[targets.item] - place[np.where(has, previous, 0)], 0)
    same = has & (previous == targets.item)
    return [Stratum("order", "product id ascends", step > 0),
            Stratum("order", "product id descends", step < 0),
            Stratum("order", "same item again", same),
            Stratum("order", "no order", (step == 0) & ~same)]
