"""The moments of a shop's requests, put together again from the log that it wrote.

What a person remembers are the latest events before the request. Short lists of
standing intents leave no trace in a log: these moments have none.
"""

import numpy as np
import pyarrow.parquet as pq

from oxyrec_jax.data.dataset import Dataset
from oxyrec_jax.data.impressions import TABLE
from oxyrec_jax.data.shop.config import ShopConfig
from oxyrec_jax.data.shop.response import MEMORY, Moment
from oxyrec_jax.data.shop.world import SCENARIOS


class LogMoments:
    """The moments of a log's R requests, and whose they are.

    Attributes:
      person: `[R]` int32, whose request, by the person's number in the shop.
      need: `[R]`, number in `Knowledge.needs`.

    Args:
      dataset: made by the shop.
      cfg: of the shop.
    """

    def __init__(self, dataset: Dataset, cfg: ShopConfig):
        table = pq.read_table(dataset.folder / TABLE, columns=[
            "time", "scenario", "trigger", "need", "sequence"])
        self.need, self._time, self._trigger, self._sequence = (
            table[name].to_numpy() for name in ("need", "time", "trigger", "sequence"))
        self._scenario = np.array([SCENARIOS.index(name) for name in
                                   table["scenario"].to_pylist()], np.int32)
        people = np.array([int(name.rsplit("-", 1)[1]) for name in dataset.user_ids()],
                          np.int32)
        self.person = people[self._sequence]
        self._offsets = dataset.offsets()
        self._item, self._kind, self._request = (
            dataset.column(name) for name in ("item", "behaviour", "request"))
        self._start = cfg.first_midnight

    def of(self, rows: np.ndarray) -> Moment:
        """Moments of some requests.

        Args:
          rows: `[B]` int, rows of the table of requests.

        Returns:
          B moments, NumPy arrays, without intents.
        """
        # Requests stand person by person, as events do, so that all numbers rise.
        before = np.searchsorted(self._request, rows)
        event = before[:, None] - np.arange(1, MEMORY + 1)  # the newest first
        known = event >= self._offsets[self._sequence[rows]][:, None]
        event = np.maximum(event, 0)
        when = self._time[self._request[event]]
        found = {
            "second": self._time[rows] - self._start, "scenario": self._scenario[rows],
            "trigger": self._trigger[rows], "need": self.need[rows],
            "items": np.where(known, self._item[event], -1),
            "kinds": np.where(known, self._kind[event] + 1, 0),
            "seconds": np.where(known, when - self._start, 0)}
        return Moment(**{name: values.astype(np.int32)
                         for name, values in found.items()})
