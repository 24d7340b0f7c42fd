"""The judge that is a language model, behind any server with the OpenAI protocol."""

import contextlib
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from oxyrec_jax import chat, llm
from oxyrec_jax.rewards.judge import prompts
from oxyrec_jax.rewards.judge.aspects import (ASPECTS, ItemTexts, Judged, JudgeRequest,
                                              Spent, given_aspects)
from oxyrec_jax.rewards.judge.prompts import JudgePrompt
from oxyrec_jax.rewards.judge.questions import Questions
from oxyrec_jax.rewards.judge.records import Record, RecordStore
from oxyrec_jax.thinking.reasoner import Budget

Place = tuple[int, int]  # row and column of a candidate


class LanguageJudge:
    """Asks a language model.

    Candidates of one request are asked about `cfg.together` at a time. What was judged
    once is a record and is not asked for again, by whichever call or run.

    Args:
      items: of the catalogue.
      endpoint: the model's server.
      talk: how it is asked.
      budget: where this object stops asking.
      cfg: of the prompts.
      folder: where records, answers and the journal lie.
    """

    def __init__(self, items: ItemTexts, endpoint: llm.Endpoint,
                 talk: chat.ChatConfig, budget: Budget, cfg: JudgePrompt,
                 folder: str | os.PathLike):
        self._items, self._cfg = items, cfg
        self.name = f"{endpoint.model}, {cfg.version('aspects')}"
        self._questions = Questions(endpoint, talk, budget, folder)
        self._path = pathlib.Path(folder) / "records.sqlite"

    def judge(self, requests: Sequence[JudgeRequest], items: np.ndarray, *,
              evidence: bool = False) -> Judged:
        """As `AspectJudge.judge`; candidates without a usable answer are not known."""
        items = np.asarray(items)
        places = {(requests[row].id, self._items.ids[items[row, column]]): (row, column)
                  for row, column in np.argwhere(items >= 0).tolist()}
        with contextlib.closing(RecordStore(self._path)) as store:
            known = store.get_many(self.name, list(places))
        spent = Spent(points=int((items >= 0).sum()), recorded=len(known))
        missing: list[list[int]] = [[] for _ in requests]
        for key, (row, column) in places.items():
            if key not in known:
                missing[row].append(column)
        fresh, used = self._ask(requests, items, missing)
        return self._table(requests, items, known | fresh, spent + used, evidence)

    def prefer(self, requests: Sequence[JudgeRequest], pairs: np.ndarray
               ) -> tuple[np.ndarray, Spent]:
        """As `AspectJudge.prefer`, by a question of its own for each pair."""
        asked = [prompts.pair_prompt(request, pair, self._items, self._cfg)
                 for request, pair in zip(requests, np.asarray(pairs).tolist())]
        if not asked:
            return np.zeros(0, np.float32), Spent()
        answers, spent = self._questions.ask(asked, self._cfg.version("pair"))
        found = np.array([np.nan if answer is None else prompts.read_pair(answer)
                          for answer in answers], np.float32)
        lost = sum(answer is not None and np.isnan(value)
                   for answer, value in zip(answers, found))
        return found, spent + Spent(refused=int(lost))

    def _ask(self, requests: Sequence[JudgeRequest], items: np.ndarray,
             missing: Sequence[Sequence[int]]
             ) -> tuple[dict[tuple[str, str], Record], Spent]:
        groups = [(row, columns[start:start + self._cfg.together])
                  for row, columns in enumerate(missing)
                  for start in range(0, len(columns), self._cfg.together)]
        if not groups:
            return {}, Spent()
        asked = [prompts.aspect_prompt(requests[row], items[row, columns].tolist(),
                                       self._items, self._cfg)
                 for row, columns in groups]
        answers, spent = self._questions.ask(asked, self._cfg.version("aspects"))
        found, refused = {}, 0
        for (row, columns), answer in zip(groups, answers):
            if answer is None:
                continue
            read = prompts.read_aspects(answer, len(columns), requests[row].has_context)
            refused += len(columns) - len(read)
            for place, told in read.items():
                item = self._items.ids[items[row, columns[place]]]
                found[requests[row].id, item] = Record(
                    requests[row].id, item, self.name,
                    {name: score for name, (score, _) in told.items()},
                    {name: ground for name, (_, ground) in told.items()})
        with contextlib.closing(RecordStore(self._path)) as store:
            store.put_many(found.values())
        return found, spent + Spent(refused=refused)

    def _table(self, requests: Sequence[JudgeRequest], items: np.ndarray,
               records: dict[tuple[str, str], Record], spent: Spent, evidence: bool
               ) -> Judged:
        given = given_aspects(requests)
        scores = np.zeros((*items.shape, len(ASPECTS)), np.float32)
        known = np.zeros(items.shape, bool)
        why = np.full(scores.shape, "", object)
        for row, column in np.argwhere(items >= 0).tolist():
            one = records.get((requests[row].id, self._items.ids[items[row, column]]))
            if one is None:
                continue
            known[row, column] = True
            scores[row, column] = [one.scores.get(name, 0.0) for name in ASPECTS]
            why[row, column] = [one.evidence.get(name, "") for name in ASPECTS]
        return Judged(scores, given, known, why if evidence else None, spent)
