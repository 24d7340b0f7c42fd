"""When a run stops to evaluate and to save, and the best that it has seen so far."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from oxyrec_jax.base import InputError


class Schedule(Protocol):
    """What the configurations of runs have in common, counted in steps.

    Attributes:
      steps: of the whole run, after which it evaluates and saves.
      evaluate_every: steps between evaluations, which save too.
      checkpoint_every: steps between checkpoints.
    """

    @property
    def steps(self) -> int: ...

    @property
    def evaluate_every(self) -> int: ...

    @property
    def checkpoint_every(self) -> int: ...


def evaluates(cfg: Schedule, done: int) -> bool:
    """Whether a run evaluates after `done` steps."""
    return done == cfg.steps or done % cfg.evaluate_every == 0


def saves(cfg: Schedule, done: int) -> bool:
    """Whether a run saves a checkpoint after `done` steps."""
    return evaluates(cfg, done) or done % cfg.checkpoint_every == 0


def check_named(field: str, name: str, figures: Mapping[str, float]) -> None:
    """Raises `InputError` where a field names a figure that no evaluation gives."""
    if name not in figures:
        raise InputError(f"{field} is {name!r}, the evaluation gives "
                         f"{', '.join(sorted(figures))}")


@dataclasses.dataclass
class Best:
    """The best evaluation of a run, as far as it has come.

    Attributes:
      value: of the watched figure; minus infinity before the first evaluation.
      step: steps after which it stood.
      stale: evaluations since then.
      figures: the evaluation.
    """

    value: float = -math.inf
    step: int = 0
    stale: int = 0
    figures: dict[str, float] = dataclasses.field(default_factory=dict)

    def offer(self, figures: dict[str, float], metric: str, step: int) -> bool:
        """Takes an evaluation; whether it is the best."""
        if not figures[metric] > self.value:  # nor if it is NaN
            self.stale += 1
            return False
        self.value, self.step, self.stale = figures[metric], step, 0
        self.figures = figures
        return True

    def ends(self, patience: int) -> bool:
        """Whether a run of that patience stops here; 0: it never does."""
        return 0 < patience <= self.stale

    def remembered(self) -> dict[str, Any]:
        """JSON values for a checkpoint."""
        # JSON knows no infinity.
        return {"best": max(self.value, -1e300), "best_step": self.step,
                "stale": self.stale, "figures": self.figures}

    @classmethod
    def recalled(cls, facts: Mapping[str, Any]) -> "Best":
        """From what `remembered` gave."""
        return cls(facts["best"], facts["best_step"], facts["stale"], facts["figures"])


def ended(log: Sequence[Mapping[str, float]], steps: int, metric: str, patience: int
          ) -> bool:
    """Whether a training run has come to its end, by its log.

    Args:
      log: its lines; those of evaluations hold "valid.<metric>".
      steps, metric, patience: of its configuration.
    """
    best = Best()
    for line in log:
        if (value := line.get(f"valid.{metric}")) is not None:
            best.offer({metric: value}, metric, int(line["step"]))
            if line["step"] >= steps:
                return True
    return best.ends(patience)
