"""What a shop could know of its people at a moment, without knowing what they need.

Profiles are what people told (`people.parquet`), searches what they typed
(`requests.parquet`, without its column `need`), and place, weather and calendar what
any weather service and calendar says of that day. `needs.parquet` is not read.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from oxyrec_jax.base import InputError
from oxyrec_jax.data.dataset import Dataset
from oxyrec_jax.data.shop import contexts, knowledge
from oxyrec_jax.data.shop.config import ShopConfig
from oxyrec_jax.data.shop.prepare import SOURCE

_SPENDS = {"thrifty": "thrifty", "buys premium": "premium"}  # as the profile words it


@dataclasses.dataclass(frozen=True)
class Seen:
    """What is known of one person on one day; see `thinking.states.UserState`."""

    place: str
    weather: str
    holiday: str
    profile: Mapping[str, str]
    facts: tuple[str, ...]


class Observed:
    """People, places and days of a prepared shop, in memory.

    Args:
      dataset: made by the shop.

    Raises:
      InputError: the data set is no shop's.
    """

    def __init__(self, dataset: Dataset):
        if dataset.manifest.get("source") != SOURCE:
            raise InputError(f"{dataset.folder} was made from "
                             f"{dataset.manifest.get('source')!r}: only a simulated "
                             "shop tells of people, places and weather")
        cfg = ShopConfig(**dataset.manifest["config"])
        self._cities = knowledge.load_knowledge().cities
        self._days = contexts.build_contexts(cfg, self._cities)
        self._start = cfg.first_midnight
        self._people = _people(dataset)
        names = [city.name for city in self._cities]
        self._city = [names.index(person.pop("city")) for person, _ in self._people]
        self._on: dict[tuple[int, int], tuple[str, str, tuple[str, ...]]] = {}

    def at(self, sequence: int, time: int) -> Seen:
        """Returns what is known of a sequence's person at a time, seconds since 1970.

        Days outside the log count as its first or last.
        """
        city, (profile, facts) = self._city[sequence], self._people[sequence]
        day = (time - self._start) // contexts.SECONDS_A_DAY
        day = min(max(day, 0), self._days.facts.shape[1] - 1)
        weather, holiday, holds = self._on.get((city, day)) or self._look(city, day)
        return Seen(self._cities[city].name, weather, holiday, profile, facts + holds)

    def _look(self, city: int, day: int) -> tuple[str, str, tuple[str, ...]]:
        there = self._days.facts[city, day]
        holds = tuple(name for name, fact in zip(knowledge.DAY_FACTS, there) if fact)
        sky = [name for name in holds if name in knowledge.WEATHER]
        weather = ", ".join([f"{self._days.temperature[city, day]:.0f} degrees", *sky])
        holiday = ", ".join(name.replace("-", " ") for name in holds
                            if name in knowledge.FESTIVALS)
        self._on[city, day] = found = weather, holiday, holds
        return found


def searches(dataset: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reads what a shop's people typed, with or without a click after it.

    Returns:
      `[Q]` sequence, time in seconds since 1970, and row of `dataset.queries()`, in
      order of sequence and time.
    """
    table = pq.read_table(dataset.folder / "requests.parquet",
                          columns=["sequence", "time", "query"])
    sequence, time, query = (table[name].to_numpy() for name in
                             ("sequence", "time", "query"))
    typed = query >= 0
    return sequence[typed], time[typed], query[typed]


def _people(dataset: Dataset) -> list[tuple[dict[str, Any], tuple[str, ...]]]:
    """Returns each sequence's profile, with the city in it, and the person's facts."""
    table = pq.read_table(dataset.folder / "people.parquet", columns=[
        "city", "life", "gender", "pet", "hobbies", "profile"]).to_pydict()
    found = []
    for city, life, gender, pet, hobbies, told in zip(*table.values()):
        tier = _SPENDS.get(told.rsplit("; ", 1)[-1].rstrip("."))
        profile = {"city": city, "life": life, "gender": gender,
                   "hobbies": ", ".join(hobbies)}
        profile |= {name: value for name, value in (("pet", pet), ("spends", tier))
                    if value not in ("none", None)}
        holds = {life, gender, pet, tier, *hobbies}
        found.append((profile, tuple(name for name in knowledge.PERSON_FACTS
                                     if name in holds)))
    return found
