"""Contexts: the calendar, its festivals, and each city's weather day by day."""

import dataclasses
import datetime

import numpy as np

from oxyrec_jax.data.shop import knowledge
from oxyrec_jax.data.shop.config import ShopConfig

SECONDS_A_DAY = 86_400
CLOCK_STEPS = 16_384  # ours: about 32 minutes a step in a log of a year

# Where a festival is kept, and how many days before it people shop for it.
_KEPT = {
    "new-year": ("china europe america asia-pacific", 6),
    "spring-festival": ("china", 14),
    "valentine": ("china europe america asia-pacific", 9),
    "womens-day": ("china europe", 7),
    "easter": ("europe america", 10),
    "childrens-day": ("china", 9),
    "midyear-sale": ("china asia-pacific", 10),
    "back-to-school": ("china europe america", 16),
    "mid-autumn": ("china asia-pacific", 12),
    "halloween": ("america europe", 10),
    "singles-day": ("china asia-pacific", 8),
    "black-friday": ("europe america", 5),
    "winter-solstice": ("china", 7),
    "christmas": ("europe america asia-pacific", 21),
}
_FIXED = {"new-year": (1, 1), "valentine": (2, 14), "womens-day": (3, 8),
          "childrens-day": (6, 1), "midyear-sale": (6, 18), "back-to-school": (9, 1),
          "halloween": (10, 31), "singles-day": (11, 11), "winter-solstice": (12, 21),
          "christmas": (12, 25)}
# Days of the Chinese lunar calendar.
_SPRING = {2023: (1, 22), 2024: (2, 10), 2025: (1, 29), 2026: (2, 17), 2027: (2, 6),
           2028: (1, 26), 2029: (2, 13), 2030: (2, 3)}
_AUTUMN = {2023: (9, 29), 2024: (9, 17), 2025: (10, 6), 2026: (9, 25), 2027: (9, 15),
           2028: (10, 3), 2029: (9, 22), 2030: (9, 12)}
# How much busier the shop is in the days before a festival than on others.
_RUSH = {"midyear-sale": 1.7, "singles-day": 2.2, "black-friday": 2.0,
         "christmas": 1.5, "spring-festival": 1.2}
# Visits in each hour of the day: asleep at four, busiest at nine in the evening.
_HOURS = np.array([9, 5, 3, 2, 2, 3, 7, 14, 20, 25, 28, 29, 32, 30, 28, 28, 28, 28, 30,
                   36, 46, 50, 40, 22], np.float64)


@dataclasses.dataclass(frozen=True)
class Contexts:
    """What holds in each city on each day.

    Attributes:
      facts: `[cities, days, DAY_FACTS]` bool.
      season: `[cities, days, SEASONS]` float32: logits that a leaf of that season
        gains, between -2 and 0.8.
      temperature: `[cities, days]` float32, degrees Celsius.
      humidity: `[cities, days]` float32, per cent.
      rain: `[cities, days]` bool: it rains, or snows where it is cold.
      clock: `[cities, CLOCK_STEPS + 1]` int32 seconds since the first midnight: the
        moment by which this share of the city's visits is made.
    """

    facts: np.ndarray
    season: np.ndarray
    temperature: np.ndarray
    humidity: np.ndarray
    rain: np.ndarray
    clock: np.ndarray


def build_contexts(cfg: ShopConfig, cities: tuple[knowledge.City, ...]) -> Contexts:
    """Draws the weather and works out what holds on each day in each city."""
    rng = np.random.Generator(np.random.Philox([cfg.seed, 1]))
    first = datetime.date.fromisoformat(cfg.start)
    days = [first + datetime.timedelta(day) for day in range(cfg.days)]
    temperature = np.stack([_swing(_normal(city.temperature, days), rng, 0.8, 2.0)
                            for city in cities])
    humidity = np.stack([_swing(_normal(city.humidity, days), rng, 0.6, 7.0)
                         for city in cities]).clip(10, 100)
    chance = np.stack([_normal(city.rain, days) for city in cities])
    rain = rng.random(chance.shape) < chance
    facts = np.zeros((len(cities), cfg.days, len(knowledge.DAY_FACTS)), bool)
    for name, holds in _weather(temperature, humidity, rain).items():
        facts[:, :, knowledge.DAY_FACTS.index(name)] = holds
    for index, city in enumerate(cities):
        south = city.temperature[6] < city.temperature[0]
        for name, holds in _calendar(days, city.region, south).items():
            facts[index, :, knowledge.DAY_FACTS.index(name)] = holds
    clock = np.stack([_clock(facts[index], days) for index in range(len(cities))])
    return Contexts(facts, _season(temperature, humidity, rain),
                    temperature.astype(np.float32), humidity.astype(np.float32), rain,
                    clock)


def festival_days(name: str, year: int) -> datetime.date:
    """Returns the day of a festival in a year that the lunar tables cover."""
    if name in _FIXED:
        return datetime.date(year, *_FIXED[name])
    if name == "spring-festival":
        return datetime.date(year, *_SPRING[year])
    if name == "mid-autumn":
        return datetime.date(year, *_AUTUMN[year])
    if name == "easter":
        return _easter(year)
    if name == "black-friday":  # the day after the fourth Thursday of November
        first = datetime.date(year, 11, 1)
        return first + datetime.timedelta((3 - first.weekday()) % 7 + 22)
    raise ValueError(f"{name=}, expected one of {knowledge.FESTIVALS}")


def _easter(year: int) -> datetime.date:
    """Returns Easter Sunday; valid from 1900 to 2099.

    Source: Gauss's rule for the Gregorian calendar, with its constants for those years.
    """
    moon = (19 * (year % 19) + 24) % 30
    sunday = (2 * (year % 4) + 4 * (year % 7) + 6 * moon + 5) % 7
    after = moon + sunday
    if moon == 29 and sunday == 6 or moon == 28 and sunday == 6 and year % 19 > 10:
        after -= 7
    return datetime.date(year, 3, 22) + datetime.timedelta(after)


def _normal(months: np.ndarray, days: list[datetime.date]) -> np.ndarray:
    """Interpolates monthly normals, taken as those of the fifteenth, to days."""
    place = np.array([day.month - 1 + (day.day - 15) / 30.4 for day in days])
    return np.interp(place, np.arange(-1, 13), months[np.arange(-1, 13) % 12])


def _swing(normal: np.ndarray, rng: np.random.Generator, keep: float,
           spread: float) -> np.ndarray:
    """Adds first-order autoregressive noise: warm and cold spells."""
    noise, value = rng.normal(0, spread, len(normal)), 0.0
    spells = np.empty(len(normal))
    for day in range(len(normal)):
        value = keep * value + noise[day]
        spells[day] = value
    return normal + spells


def _weather(temperature: np.ndarray, humidity: np.ndarray,
             rain: np.ndarray) -> dict[str, np.ndarray]:
    return {"freezing": temperature < 0, "cold": temperature < 9,
            "warm": (temperature >= 16) & (temperature <= 26), "hot": temperature > 26,
            "rain": rain & (temperature > 1), "snow": rain & (temperature <= 1),
            "damp": humidity > 76, "dry": humidity < 50}


def _season(temperature: np.ndarray, humidity: np.ndarray,
            rain: np.ndarray) -> np.ndarray:
    """Returns how well each season's leaves sell, in logits."""
    def rise(value: np.ndarray, middle: float, width: float) -> np.ndarray:
        return 1 / (1 + np.exp((middle - value) / width))
    cold = rise(-temperature, -10, 2.5)
    hot = rise(temperature, 24, 2)
    cool = rise(-temperature, -19, 2) * rise(temperature, 6, 2)
    warm = rise(temperature, 15, 2) * rise(-temperature, -29, 2)
    snow = rise(-temperature, -1, 2)
    fits = {"cold": cold, "cool": cool, "warm": warm, "hot": hot,
            "rain": np.where(rain, 1.0, 0.35), "snow": snow,
            "damp": rise(humidity, 76, 4), "dry": rise(-humidity, -52, 4)}
    logits = np.zeros((*temperature.shape, len(knowledge.SEASONS)), np.float32)
    for name, fit in fits.items():
        logits[..., knowledge.SEASONS.index(name)] = -2.0 + 2.8 * fit
    return logits


def _calendar(days: list[datetime.date], region: str,
              south: bool) -> dict[str, np.ndarray]:
    quarter = np.array([(day.month % 12 // 3 + (2 if south else 0)) % 4
                        for day in days])  # 0 winter, 1 spring, 2 summer, 3 autumn
    holds = {name: quarter == number
             for number, name in enumerate(("winter", "spring", "summer", "autumn"))}
    holds["weekend"] = np.array([day.weekday() >= 5 for day in days])
    for name in knowledge.FESTIVALS:
        regions, ahead = _KEPT[name]
        open_days = np.zeros(len(days), bool)
        if region in regions.split():
            for year in range(days[0].year, days[-1].year + 2):
                if name in ("spring-festival", "mid-autumn") and year not in _SPRING:
                    continue
                wait = (festival_days(name, year) - days[0]).days - np.arange(len(days))
                open_days |= (wait >= 0) & (wait <= ahead)
        holds[name] = open_days
    return holds


def _clock(facts: np.ndarray, days: list[datetime.date]) -> np.ndarray:
    """Returns the second by which each share of the visits is made."""
    busy = np.ones(len(days)) + 0.2 * facts[:, knowledge.DAY_FACTS.index("weekend")]
    for name, factor in _RUSH.items():
        busy = np.where(facts[:, knowledge.DAY_FACTS.index(name)], busy * factor, busy)
    share = np.concatenate([[0], np.cumsum(np.outer(busy, _HOURS))])
    hours = np.interp(np.linspace(0, share[-1], CLOCK_STEPS + 1), share,
                      np.arange(len(share)))
    seconds = np.floor(hours * 3600).astype(np.int64)
    return np.minimum(seconds, len(days) * SECONDS_A_DAY - 1).astype(np.int32)
