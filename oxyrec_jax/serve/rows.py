"""From requests to the rows of a batch."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from oxyrec_jax.data.event_rows import CALENDAR, calendar
from oxyrec_jax.data.schema import opens_request
from oxyrec_jax.models.generator import Generator


@dataclasses.dataclass(frozen=True)
class Row:
    """One request as the network reads it; what it does not read is left alone.

    Attributes:
      items: `[n]` int32 rows of the item table, n >= 1, oldest first.
      sides: `[n]` numbers by the names of `ModelConfig.told`; 0 is unknown.
      profile: `[C]` int32 as in `data.profiles`; None: of nobody known.
      scenario, behaviour: numbers of names of the log.
      trigger: row of the item table, -1 for none.
    """

    items: np.ndarray
    sides: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    profile: np.ndarray | None = None
    scenario: int = 0
    behaviour: int = 0
    trigger: int = -1


def lay(rows: Sequence[Row], vectors: np.ndarray | None, model: Generator, *,
        batch: int, length: int, profile: int = 0) -> dict[str, np.ndarray]:
    """Lays requests into a batch; the newest `length` events of each, left-aligned.

    Args:
      rows: at most `batch`; the rest of the batch is empty.
      vectors: `[len(rows), F]` float32 of the instructions' texts, zeros for none;
        None where the network reads none.
      model: what it reads of histories is made.
      batch, length: B and L.
      profile: C, places of a profile; 0: nothing is known of anybody.

    Returns:
      The arrays that `model.reads` names, and others of requests that it does not read.
    """
    shape, long = (batch, length), model.cfg.retrieval.events
    made: dict[str, np.ndarray] = {
        "items": np.zeros(shape, np.int32), "segments": np.zeros(shape, np.int32),
        "target_positions": np.zeros((batch, 1), np.int32),
        **{name: np.zeros(shape, np.float32) for name in model.cfg.told}}
    if long:
        made["long_items"] = np.full((batch, long), -1, np.int32)
    if profile:
        made["profile"] = np.full((*shape, profile), -1, np.int32)
    asked = {"target_scenario": np.int8, "target_trigger": np.int32,
             "target_behaviour": np.int8}
    for name, kind in asked.items():
        made[name] = np.zeros((batch, 1), kind)
    for place, row in enumerate(rows):
        recent = row.items[-length:]
        size = len(recent)
        made["items"][place, :size] = recent
        made["segments"][place, :size] = 1
        made["target_positions"][place] = size - 1
        for name in model.cfg.told:
            if name in row.sides:
                made[name][place, :size] = row.sides[name][-length:]
        if long:
            older = row.items[:-length][-long:]
            made["long_items"][place, :len(older)] = older
        if "profile" in made and row.profile is not None:
            made["profile"][place] = row.profile
        for name in asked:
            made[name][place] = getattr(row, name.removeprefix("target_"))
    if vectors is not None:
        made["target_instruction"] = np.zeros((batch, 1, vectors.shape[1]), np.float32)
        made["target_instruction"][:len(rows), 0] = vectors
    return made


def sides_of(times: np.ndarray | None, asked_at: int | None,
             columns: Mapping[str, np.ndarray], names: Sequence[str]
             ) -> dict[str, np.ndarray]:
    """Side features of a history.

    Args:
      times: `[n]` int64 seconds since 1970, ascending, of the events; None: unknown.
      asked_at: seconds since 1970 of the request; None: nobody has said, and what
        would follow from it stays unknown.
      columns: `[n]` stored columns of the events, by name.
      names: which the network reads; requests that no column tells are told by times,
        as events of one moment.
    """
    found = {}
    for name in names:
        if name == "opens":
            requests = columns.get("request", times)
            if requests is not None and len(requests):
                found[name] = opens_request(np.array([0, len(requests)]), requests
                                            ).astype(np.float32)
        elif name != "gap" and name not in CALENDAR:
            if name in columns:
                found[name] = np.asarray(columns[name], np.float32)
        elif times is not None and len(times):
            # What follows each event: the next one, or the request.
            after = np.append(times[1:], times[-1] if asked_at is None else asked_at)
            if name == "gap":
                found[name] = (after - times).astype(np.float32)
            else:
                found[name] = calendar(name, after)
                if asked_at is None:
                    found[name][-1] = 0
    return found
