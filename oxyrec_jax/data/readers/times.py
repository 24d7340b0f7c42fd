"""Times of a table in any unit, and what is likely wrong where they cannot be right."""

import datetime

import numpy as np
import pyarrow as pa

from oxyrec_jax.base import InputError
from oxyrec_jax.data.intake import Place
from oxyrec_jax.data.readers import columns as text_columns

PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000,
              "iso": 1_000_000}
"""What a second has of each unit; dates are read as microseconds."""

_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds",
          "ns": "nanoseconds"}
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
# Ours: nearly every log lies between 1980 and 2100, 13 times as late; units differ by
# 1,000, so that no number is a likely time in two of them.
_LIKELY = (315_532_800, 4_102_444_800)
_FAR = 32_503_680_000  # the year 3000; nobody counts seconds of their own so far
_MOST = 0.05  # share of times at either end that may be odd


def read(values: pa.Array, unit: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns (`[n]` int64 in the unit, dates in microseconds; `[n]` bool good)."""
    if unit != "iso":
        return text_columns.whole_numbers(values)
    parsed = [_iso(text) for text in values.to_pylist()]
    good = np.array([time is not None for time in parsed])
    return np.array([time or 0 for time in parsed], np.int64), good


def advice(text: str | None, unit: str, column: str) -> str:
    """What a text that is no time in a unit is likely to be, and what mends it.

    Args:
      text: the text.
      unit: the unit that it was read in.
      column: where it stands.
    """
    if not text:
        return (f"column {column!r} is empty there; name another with --set "
                "data.columns.time=NAME")
    if unit != "iso" and _iso(text) is not None:
        return (f"column {column!r} holds dates such as {text!r} and data.time_unit is "
                f"{unit}; add --set data.time_unit=iso")
    number = text.partition(".")[0]
    if unit == "iso" and number.isdecimal() and len(number) < 20:
        fits = _fitting(int(number), int(number)) or "s"
        return (f"column {column!r} holds numbers such as {text} and data.time_unit is "
                f"iso, for dates as text; {text} looks like {_NAMES[fits]} since 1970: "
                f"add --set data.time_unit={fits}")
    return (f"column {column!r} holds {text[:40]!r}, neither a whole number nor a date "
            "such as 2024-03-01 10:00:00; write it so and add --set data.time_unit=iso,"
            " or give no data.columns.time, and the order of the file counts")


def check(clock: np.ndarray, unit: str, column: str, place: Place) -> None:
    """Refuses numbers that were read in a unit that they are not of.

    Numbers that are likely times in no unit may count anything and are left alone; only
    those beyond the year 3000 are not.

    Args:
      clock: `[E]` int64, as `read` gives them.
      unit: which they were read in.
      column, place: named in the error.

    Raises:
      InputError: nearly all times are unlikely in this unit, and likely ones in
        another; or they lie beyond any time.
    """
    if unit == "iso" or not len(clock):
        return
    low, high = (int(np.quantile(clock, share, method="nearest"))
                 for share in (_MOST, 1 - _MOST))
    own = [end / PER_SECOND[unit] for end in (low, high)]
    if any(_LIKELY[0] <= end <= _LIKELY[1] for end in own):
        return
    found = (f"{place}: column {column!r} holds times such as {low}, which "
             f"data.time_unit={unit} puts {_when(own[0])}")
    fits = _fitting(low, high)
    if fits is not None:
        raise InputError(f"{found}; in {_NAMES[fits]} it is "
                         f"{_when(low / PER_SECOND[fits])}: add --set "
                         f"data.time_unit={fits}")
    if all(len(str(end)) == 8 and _iso(str(end)) is not None for end in (low, high)):
        raise InputError(f"{found}; it looks like a date without hyphens: add --set "
                         "data.time_unit=iso")
    if own[0] > _FAR:
        raise InputError(f"{found}, and no unit makes it likely; name the column of "
                         "times with --set data.columns.time=NAME, or leave it out")


def _fitting(low: int, high: int) -> str | None:
    """The unit in which both are likely times."""
    return next((unit for unit in _NAMES
                 if _LIKELY[0] <= low / PER_SECOND[unit]
                 and high / PER_SECOND[unit] <= _LIKELY[1]), None)


def _when(seconds: float) -> str:
    try:
        return f"on {(_EPOCH + datetime.timedelta(seconds=seconds)).date()}"
    except OverflowError:
        return f"into the year {1970 + seconds / 31_556_952:.0f}"


def _iso(text: str | None) -> int | None:
    """Microseconds since 1970 of a date as text, None where it is none."""
    if not text or text.isdecimal() and len(text) != 8:
        return None  # of longer numbers Python reads some as dates
    try:
        time = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    if time.tzinfo is None:
        time = time.replace(tzinfo=datetime.UTC)
    return (time - _EPOCH) // datetime.timedelta(microseconds=1)
