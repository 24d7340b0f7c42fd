"""Questions to a language model that are billed once, however often a run is killed.

The same machinery as slow thinking's: an answer is in the cache before anything else
happens to it, a question is noted in a journal before it is sent. A question that was
under way when a process died is left alone, unless the chat's `ask_again` says so.
"""

import asyncio
import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from oxyrec_jax import chat, llm, progress
from oxyrec_jax.base import InputError
from oxyrec_jax.rewards.judge.aspects import Spent
from oxyrec_jax.thinking import reasoner
from oxyrec_jax.thinking.journal import Journal
from oxyrec_jax.thinking.prompts import Prompt

_WINDOW = 1  # a judge's questions belong to no window of time
_NEVER = b"not asked again"  # the digest of no question


class Questions:
    """A language model's server, its cache of answers and its journal.

    Args:
      endpoint: the server.
      cfg: how it is asked.
      budget: where this object stops asking; of all its calls together.
      folder: of cache and journal; made where it is not.

    Raises:
      InputError: a setting or the folder is not usable.
    """

    def __init__(self, endpoint: llm.Endpoint, cfg: chat.ChatConfig,
                 budget: reasoner.Budget, folder: str | os.PathLike):
        llm.check_endpoint(endpoint)
        self.endpoint, self._cfg, self._budget = endpoint, cfg, budget
        self._folder, self._stopped = pathlib.Path(folder), ""
        self._requests = self._tokens = 0
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder} cannot be used: {error.strerror}") from None

    def ask(self, prompts: Sequence[Prompt], kind: str
            ) -> tuple[list[str | None], Spent]:
        """Gets the answers; must not run inside an event loop.

        Args:
          prompts: Q questions; equal ones are asked once.
          kind: version of the prompts, of which the journal keeps notes.

        Returns:
          Q answers, None where there is none, and what it took.
        """
        keys = [_key(prompt, kind, self.endpoint.model) for prompt in prompts]
        with Journal(self._folder / "journal.sqlite") as journal:
            replies, spent = asyncio.run(self._ask(
                dict(zip(keys, prompts)), kind, journal))
        return [replies.get(key) for key in keys], spent

    async def _ask(self, waiting: dict[str, Prompt], kind: str, journal: Journal
                   ) -> tuple[dict[str, str], Spent]:
        notes = journal.notes([(key, kind) for key in waiting])
        budget, over = self._left()
        asked = []
        for key, prompt in waiting.items():
            note = notes.get((key, kind))
            finished = note is not None and note.asked is None
            before = (_NEVER if finished or over else
                      note.asked if note is not None else None)
            asked.append(dataclasses.replace(
                prompt, state=dataclasses.replace(prompt.state, user=key),
                asked=before))
        # What ended without an answer that can be used was billed: not once more.
        ended = {key for key in waiting if (key, kind) in notes
                 and notes[key, kind].asked is None}
        cfg = dataclasses.replace(self._cfg, ask_again=self._cfg.ask_again
                                  and not over)
        found: dict[str, str] = {}
        spent = Spent(questions=len(asked))
        async with reasoner.open_llm(self.endpoint, cfg, budget,
                                     str(self._folder / "answers.sqlite")) as who:
            replies = who.reason(asked, lambda prompt, digest: journal.ask(
                prompt.state.user, kind, _WINDOW, digest))
            with progress.bar("asking the judge", len(asked)) as advance:
                async for reply in replies:
                    advance(1)
                    key, answer = reply.prompt.state.user, reply.answer
                    if answer.text is not None:
                        found[key] = answer.text
                    spent += _spent(reply, self.endpoint, key in ended, over)
                    if reply.asked and (answer.billed or answer.text is not None):
                        journal.finish([(key, kind, _WINDOW)])
                    elif reply.asked and answer.billed is False:
                        journal.forget([(key, kind, _WINDOW)])
            self._stopped = who.stopped or self._stopped
        self._requests += spent.requests
        self._tokens += spent.prompt_tokens + spent.answer_tokens
        return found, spent

    def _left(self) -> tuple[reasoner.Budget, str]:
        """What is left of the budget, and why nothing more is asked, "" if it is."""
        left: dict[str, Any] = {
            name: None if most is None else most - used for name, most, used in (
                ("requests", self._budget.requests, self._requests),
                ("tokens", self._budget.tokens, self._tokens))}
        used_up = any(value is not None and value < 1 for value in left.values())
        if self._stopped or (used_up and self._requests):
            over = "stopped" if self._stopped else "over-budget"
            return dataclasses.replace(self._budget, requests=1, tokens=None), over
        return dataclasses.replace(self._budget, **left), ""


def _key(prompt: Prompt, kind: str, model: str) -> str:
    words = "\0".join((model, kind, prompt.state.user, prompt.system, prompt.question))
    return hashlib.sha256(words.encode(errors="replace")).hexdigest()[:32]


def _spent(reply: reasoner.Reply, endpoint: llm.Endpoint, ended: bool, over: str
           ) -> Spent:
    answer = reply.answer
    error = answer.error
    if error == "in-doubt" and (ended or over):
        error = "useless" if ended else over
    return Spent(
        cached=int(answer.cached), requests=int(reply.asked), retries=answer.retries,
        prompt_tokens=answer.prompt_tokens, answer_tokens=answer.answer_tokens,
        cost=(answer.prompt_tokens + answer.answer_tokens) * endpoint.price / 1e6,
        errors={error: 1} if error else {})
