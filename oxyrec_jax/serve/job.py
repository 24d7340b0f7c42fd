"""A request on its way through the engine, and what it gets."""

import dataclasses
from collections.abc import Callable

import numpy as np

from oxyrec_jax.decode.beam import Level
from oxyrec_jax.serve.programs import Warm
from oxyrec_jax.serve.refusal import Refusal
from oxyrec_jax.serve.rows import Row
from oxyrec_jax.serve.snapshot import Snapshot


@dataclasses.dataclass(frozen=True)
class Live:
    """A snapshot that answers, with its programs."""

    snapshot: Snapshot
    programs: Warm


@dataclasses.dataclass(frozen=True)
class Answer:
    """What one request gets.

    Attributes:
      items: `[n]` int32 rows of the snapshot's items, best first, n <= k.
      scores: `[n]` float: log-probability of the item's semantic ID, nats, or of
        similar items the cosine.
      levels: of each level of the search what was kept and cut, one row each, where
        the request wanted it explained.
      instruction: what was read for the user, or None.
      waited, computed: seconds.
      batch: how many requests were computed together.
    """

    items: np.ndarray
    scores: np.ndarray
    levels: tuple[Level, ...]
    instruction: dict[str, object] | None
    waited: float
    computed: float
    batch: int


@dataclasses.dataclass(eq=False)
class Job:
    """A request on its way.

    Attributes:
      live: what it came in under and is answered by.
      k: how many items.
      deadline: by the engine's clock; when it has passed, nothing is computed.
      done: called once, on a thread of the engine.
      row: what the network reads; None: items similar to `like` are asked for.
      like: row of an item.
      words: `[W]` uint32 bits of what is allowed; None: all.
      explain: whether the levels of the search are wanted.
      user, text: whose instruction is read, or which text was given.
      arrived: by the engine's clock; set by `Engine.submit`.
      abandoned: nobody waits for it any more.
    """

    live: Live
    k: int
    deadline: float
    done: Callable[[Answer | Refusal], None]
    row: Row | None = None
    like: int = -1
    words: np.ndarray | None = None
    explain: bool = False
    user: str | None = None
    text: str | None = None
    arrived: float = 0.0
    abandoned: bool = False
