"""What a judge is asked and what it answers: requests, items, aspects."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from oxyrec_jax.thinking.states import UserState

ASPECTS = ("profile", "future", "novelty", "context")
"""s0 fit with the person's profile, s1 with what is likely wanted next, s2 how new it
is to the person, s3 fit with the situation; the last is dropped where there is none."""


@dataclasses.dataclass(frozen=True)
class JudgeRequest:
    """One request: all that a judge may know of it.

    `judge_requests.LogRequests` makes it from events of a data set.

    Attributes:
      id: its name, the same in every run; sampling and records go by it.
      state: the person as of then: history with titles, searches, profile, place,
        weather, time.
      scenario: where it was made, such as "search"; "" if not known.
      trigger: item that opened the scenario, -1 none.
      query: the words typed in it.
      history: items before it, oldest first.
      number: of the request in the log, -1 where requests have none.
      second: seconds since 1970, 0 if not known.
    """

    id: str
    state: UserState
    scenario: str = ""
    trigger: int = -1
    query: str = ""
    history: tuple[int, ...] = ()
    number: int = -1
    second: int = 0

    @property
    def has_context(self) -> bool:
        """Whether anything is known of the situation; a time alone is not enough."""
        state = self.state
        return bool(self.scenario or self.trigger >= 0 or self.query or state.place
                    or state.weather or state.holiday)


@dataclasses.dataclass(frozen=True)
class ItemTexts:
    """What is known of the N items in words.

    Attributes:
      ids: their names in the log.
      titles, categories, brands: "" where there is none.
      prices: `[N]` float32, NaN where there is none.
    """

    ids: Sequence[str]
    titles: Sequence[str]
    categories: Sequence[str]
    brands: Sequence[str]
    prices: np.ndarray


@dataclasses.dataclass(frozen=True)
class Spent:
    """What judging took; sums add field by field.

    Attributes:
      points: candidates judged, of these `recorded` by an earlier call.
      questions: put to a language model, of these `cached` answered before.
      requests: that went to the server; `retries` beside them.
      prompt_tokens, answer_tokens: as the server counts.
      cost: by the endpoint's price.
      refused: answers that were none, or lacked a candidate.
      errors: questions without an answer, by kind (`chat.Answer.error`).
    """

    points: int = 0
    recorded: int = 0
    questions: int = 0
    cached: int = 0
    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    cost: float = 0.0
    refused: int = 0
    errors: dict[str, int] = dataclasses.field(default_factory=dict)

    def __add__(self, other: "Spent") -> "Spent":
        values: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            values[field.name] = ({name: mine.get(name, 0) + theirs.get(name, 0)
                                   for name in (*mine, *theirs)}
                                  if isinstance(mine, dict) else mine + theirs)
        return Spent(**values)


@dataclasses.dataclass(frozen=True)
class Judged:
    """Stage A of B requests with G candidates each.

    Attributes:
      scores: `[B, G, 4]` float32 in [0, 1], in the order of `ASPECTS`; 0 where not
        `given` or not `known`.
      given: `[B, 4]` bool: false for the context of a request without one.
      known: `[B, G]` bool: the candidate is an item and was judged.
      evidence: `[B, G, 4]` object, strings; None where not asked for.
      spent: what it took.
    """

    scores: np.ndarray
    given: np.ndarray
    known: np.ndarray
    evidence: np.ndarray | None = None
    spent: Spent = Spent()


class AspectJudge(Protocol):
    """Stage A.

    Attributes:
      name: of the judge, its model and prompts; part of every record.
    """

    name: str

    def judge(self, requests: Sequence[JudgeRequest], items: np.ndarray, *,
              evidence: bool = False) -> Judged:
        """Scores candidates.

        Args:
          requests: B of them.
          items: `[B, G]` int, -1 where there is no candidate.
          evidence: also say why.
        """

    def prefer(self, requests: Sequence[JudgeRequest], pairs: np.ndarray
               ) -> tuple[np.ndarray, Spent] | None:
        """Says which of two items suits the person better, all in all.

        Args:
          requests: P of them.
          pairs: `[P, 2]` int items.

        Returns:
          `[P]` float32: 1 the first, 0 the second, 0.5 neither, NaN not known; and
          what it took. None from a judge without opinions of its own.
        """


def given_aspects(requests: Sequence[JudgeRequest]) -> np.ndarray:
    """`[B, 4]` bool, false where a request has no context."""
    given = np.ones((len(requests), len(ASPECTS)), bool)
    given[:, -1] = [request.has_context for request in requests]
    return given
