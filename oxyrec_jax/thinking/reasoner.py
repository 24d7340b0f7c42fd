"""Who answers the prompts: a language model, or the rules of a knowledge base."""

import asyncio
import contextlib
import dataclasses
import hashlib
import itertools
import json
from collections.abc import (AsyncGenerator, AsyncIterator, Callable, Collection,
                             Iterable, Iterator, Sequence)
from typing import Protocol

from oxyrec_jax import chat
from oxyrec_jax.base import InputError
from oxyrec_jax.thinking.gate import content_words
from oxyrec_jax.thinking.prompts import Prompt

RULES_NAME = "rules of a knowledge base, no language model"


@dataclasses.dataclass(frozen=True)
class Reply:
    """What became of one prompt.

    Attributes:
      prompt: which one.
      answer: what the model, the cache or the rules said; see `chat.Answer`. Further
        errors: "no-rule", "in-doubt" (asked before, answer unknown, not repeated),
        "over-budget", "stopped" (not asked, see `Reasoner.stopped`).
      asked: the server was asked in this run.
    """

    prompt: Prompt
    answer: chat.Answer
    asked: bool = False


class Reasoner(Protocol):
    """Answers prompts.

    Attributes:
      name: goes into the version of each instruction.
      knowledge: content words that its instructions may rest on beside the data.
      stopped: why it asks no more; empty while it does.
    """

    name: str
    knowledge: Collection[str]
    stopped: str

    def reason(self, prompts: Iterable[Prompt],
               asking: Callable[[Prompt, bytes], None]) -> AsyncGenerator[Reply, None]:
        """Yields one reply for each prompt, in any order.

        Takes prompts as it goes. Calls `asking(prompt, digest)` before a question
        leaves the process; the answer can be found under that digest later.
        """


class Rule(Protocol):
    """A row of a knowledge base, as `data.shop.Rule`: facts that must all hold, and
    the (product, feature or "") that follow."""

    @property
    def name(self) -> str: ...
    @property
    def when(self) -> Sequence[str]: ...
    @property
    def weight(self) -> float: ...
    @property
    def why(self) -> str: ...
    @property
    def needs(self) -> Sequence[tuple[str, str]]: ...


class RuleReasoner:
    """Fires the rules whose facts all hold: no language model, and it says so.

    Of the rules that fire the heaviest speaks, the one of more facts among equals, then
    the first by name. For a rewrite only needs that share a word with the last search
    count, for intent those that share one with the history.

    Args:
      rules: of the knowledge base.
    """

    def __init__(self, rules: Iterable[Rule]):
        order = sorted(rules, key=lambda rule: (-rule.weight, -len(rule.when),
                                                rule.name))
        self._rules = [(frozenset(rule.when), rule) for rule in order]
        digest = hashlib.sha256(repr([
            (rule.name, tuple(rule.when), rule.weight, rule.why, tuple(rule.needs))
            for rule in order]).encode()).hexdigest()
        self.name, self.stopped = f"{RULES_NAME} ({digest[:12]})", ""
        self.knowledge: Collection[str] = content_words(" ".join(
            text for rule in order for text in
            (rule.why, *(f"{feature} {product}" for product, feature in rule.needs))))

    async def reason(self, prompts: Iterable[Prompt],
                     asking: Callable[[Prompt, bytes], None]
                     ) -> AsyncGenerator[Reply, None]:
        """As `Reasoner.reason`; nothing leaves the process."""
        for prompt in prompts:
            text = self.say(prompt)
            yield Reply(prompt, chat.Answer(text=text) if text else
                        chat.Answer(error="no-rule", why="no rule fires"))

    def say(self, prompt: Prompt) -> str | None:
        """Returns the answer as the JSON that a model would give, None without rule."""
        state = prompt.state
        holds = frozenset(state.facts)
        wanted: frozenset[str] | None = None
        if prompt.kind == "rewrite":
            wanted = content_words(state.searches[-1])
        elif prompt.kind == "intent":
            wanted = content_words(" ".join(deed.title for deed in state.history))
        for when, rule in self._rules:
            if not when <= holds:
                continue
            needs = [f"{feature} {product.lower()}" if feature else product.lower()
                     for product, feature in rule.needs
                     if wanted is None or wanted & content_words(product)]
            if needs:
                why = f"{rule.why[0].upper()}{rule.why[1:]}"
                return json.dumps({"instruction": f"{why}: look for {_any_of(needs)}.",
                                   "evidence": list(rule.when)})
        return None


@dataclasses.dataclass(frozen=True)
class Budget:
    """Where a run stops asking. Defaults are ours.

    Attributes:
      requests: to the server at most; None: any number.
      tokens: of prompts and answers at most, known only after each answer, so that the
        requests in flight may go beyond; None: any number.
      failures: in a row after which the server is left alone.
    """

    requests: int | None = None
    tokens: int | None = None
    failures: int = 32


class LlmReasoner:
    """Asks a language model through `chat`; open it with `open_llm`.

    Args:
      talk: the open chat.
      budget: where it stops asking.
    """

    def __init__(self, talk: chat.Chat, budget: Budget):
        self.name, self.stopped = talk.endpoint.model, ""
        self.knowledge: Collection[str] = frozenset()
        self._chat, self._budget = talk, budget
        self._requests = self._tokens = self._failed = 0

    async def reason(self, prompts: Iterable[Prompt],
                     asking: Callable[[Prompt, bytes], None]
                     ) -> AsyncGenerator[Reply, None]:
        """As `Reasoner.reason`, with so many questions in flight as the endpoint
        allows."""
        waiting, most = iter(prompts), self._chat.endpoint.concurrency
        tasks: set[asyncio.Task[Reply]] = set()
        try:
            while True:
                while len(tasks) < most:
                    prompt = next(waiting, None)
                    if prompt is None:
                        break
                    reply = self._without_asking(prompt)
                    if reply is not None:
                        yield reply
                        continue
                    digest = self._chat.digest(prompt.system, prompt.question)
                    asking(prompt, digest)
                    self._requests += 1
                    tasks.add(asyncio.create_task(self._ask(prompt, digest)))
                if not tasks:
                    return
                done, tasks = await asyncio.wait(
                    tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _without_asking(self, prompt: Prompt) -> Reply | None:
        digests = {self._chat.digest(prompt.system, prompt.question), prompt.asked}
        for digest in digests - {None}:
            text = self._chat.recall(digest)  # type: ignore[arg-type]
            if text is not None:
                return Reply(prompt, chat.Answer(text=text, cached=True))
        error = why = ""
        if prompt.asked is not None and not self._chat.cfg.ask_again:
            error = "in-doubt"
            why = "asked by a run that did not end; its answer is not known"
        elif self.stopped:
            error, why = "stopped", self.stopped
        elif self._spent():
            error, why = "over-budget", "the run's budget is spent"
        return Reply(prompt, chat.Answer(error=error, why=why)) if error else None

    def _spent(self) -> bool:
        most = self._budget
        return (most.requests is not None and self._requests >= most.requests
                or most.tokens is not None and self._tokens >= most.tokens)

    async def _ask(self, prompt: Prompt, digest: bytes) -> Reply:
        once = hashlib.sha256(digest + prompt.state.user.encode(errors="replace"))
        answer = await self._chat.ask(prompt.system, prompt.question,
                                      once=once.hexdigest()[:40])
        self._tokens += answer.prompt_tokens + answer.answer_tokens
        self._failed = 0 if answer.text is not None else self._failed + 1
        if answer.error == "key" or self._failed >= self._budget.failures:
            self.stopped = answer.why
        return Reply(prompt, answer, asked=True)


@contextlib.asynccontextmanager
async def open_llm(endpoint: chat.llm.Endpoint, cfg: chat.ChatConfig, budget: Budget,
                   cache: str) -> AsyncIterator[LlmReasoner]:
    """Opens the reasoner of a language model; `cache` keeps what was paid for.

    Raises:
      InputError: a setting, the key or the cache is not usable.
    """
    for field in ("requests", "tokens", "failures"):
        value = getattr(budget, field)
        if value is not None and value < 1:
            raise InputError(f"the budget's {field} is {value}, expected at least 1")
    async with chat.open_chat(endpoint, cfg, cache=cache) as talk:
        yield LlmReasoner(talk, budget)


def _any_of(needs: Sequence[str]) -> str:
    *others, last = needs
    return f"{', '.join(others)} or {last}" if others else last


def batched(items: Iterable, count: int) -> Iterator[list]:
    """Yields lists of up to `count`; `itertools.batched` is of Python 3.12."""
    waiting = iter(items)
    while part := list(itertools.islice(waiting, count)):
        yield part
