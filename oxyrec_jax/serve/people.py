"""Users of the log, with what the network reads of them."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from oxyrec_jax.data.dataset import Dataset


@dataclasses.dataclass(frozen=True)
class People:
    """See the module's docstring.

    Attributes:
      dataset: the log, with profiles where the network reads them.
      rows: the sequence of each user id.
      offsets: `[S + 1]` where each sequence begins among all events.
      columns: of the log, opened, by name.
      scenarios, behaviours: the log's names.
      asked: number of the behaviour that requests ask for unless they say so.
    """

    dataset: Dataset
    rows: Mapping[str, int]
    offsets: np.ndarray
    columns: Mapping[str, np.ndarray]
    scenarios: Sequence[str]
    behaviours: Sequence[str]
    asked: int

    def events(self, user: int, most: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The newest `most` items of a user and the columns of these events."""
        first, last = self.offsets[user:user + 2]
        first = max(first, last - most)
        columns = {name: np.asarray(column[first:last])
                   for name, column in self.columns.items()}
        return columns.pop("item"), columns

    def profile(self, user: int | None) -> np.ndarray | None:
        """`[C]` the profile of a user, None where there is none."""
        known = self.dataset.profiles
        return None if known is None or user is None else known.rows[user]


def open_people(dataset: Dataset, asked: int | None) -> People:
    """Opens the users of a log.

    Args:
      dataset: the log.
      asked: number of the behaviour that requests ask for, as
        `data.pipeline.asked_behaviour` tells.
    """
    facts = dataset.manifest
    names = [name for name in ("item", "time", "behaviour", "scenario", "price",
                               "request") if name in dataset.columns]
    return People(
        dataset, {name: row for row, name in enumerate(dataset.user_ids())},
        dataset.offsets(), {name: dataset.column(name) for name in names},
        tuple(facts.get("scenarios") or ()), tuple(facts.get("behaviours") or ()),
        asked or 0)
