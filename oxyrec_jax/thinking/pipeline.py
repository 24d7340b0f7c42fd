"""The near-line run: states of users → prompts → answers → gate → vectors → store.

A run works off one window. It can be killed at any moment and started again: what was
answered is in the cache of answers, what is done is in the journal, and what is in
neither is asked for. Users whose question was under way when the process died may have
been billed; they are left to the next window, or asked again where the chat's
`ask_again` says so.
"""

import asyncio
import collections
import dataclasses
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from oxyrec_jax import llm, progress
from oxyrec_jax.base import InputError
from oxyrec_jax.chat import ChatConfig
from oxyrec_jax.thinking import gate, prompts, reasoner
from oxyrec_jax.thinking.backend import Outcome
from oxyrec_jax.thinking.gate import GateConfig
from oxyrec_jax.thinking.journal import Journal
from oxyrec_jax.thinking.prompts import Prompt, PromptConfig
from oxyrec_jax.thinking.reasoner import Budget, Reply
from oxyrec_jax.thinking.recording import Sink
from oxyrec_jax.thinking.records import Version, make_key
from oxyrec_jax.thinking.states import UserState, shard_of

Embed = Callable[[Sequence[str]], np.ndarray]  # N texts to [N, D]


@dataclasses.dataclass(frozen=True)
class ThinkConfig:
    """A near-line run. Defaults are ours.

    Attributes:
      prompts, gate, chat, budget: of the stages.
      version: number of the instructions written, raised with every change of model,
        prompt or encoder.
      batch: users looked up, and instructions embedded and stored, at once.
      shard, shards: which part of the users this run takes, by a hash of their ids.
    """

    prompts: PromptConfig = PromptConfig()
    gate: GateConfig = GateConfig()
    chat: ChatConfig = ChatConfig()
    budget: Budget = Budget()
    version: int = 1
    batch: int = 1_024
    shard: int = 0
    shards: int = 1


@dataclasses.dataclass
class Summary:
    """Every count of a run; `dataclasses.asdict` gives JSON.

    users = other_shard + repeated + the users of this shard. For these, each of the
    kinds is one of: bad_id, already, no_data, passed, refused, errors. passed =
    stored + unchanged + older.

    Attributes:
      window: its end, seconds since 1970.
      model: who answered.
      users: states given.
      other_shard: left to other shards.
      repeated: a user given before in this run, of the same window.
      bad_id: the id cannot be a key of the store.
      already: done in this window, or in a later one, by an earlier run.
      no_data: nothing to reason from.
      cached: answers that an earlier question had paid for.
      generated: answers made in this run.
      passed: through the gate.
      refused: by the gate, by reason.
      errors: no answer, by kind; "in-doubt", "over-budget", "stopped" and "no-rule"
        were not asked, all others were.
      orders: titles and searches that look like orders to a language model.
      stored, unchanged, older: what the store did with those that passed.
      requests, retries: to the server.
      prompt_tokens, answer_tokens: as the server counts.
      cost: by the endpoint's price.
      stopped: why the server was left alone before the end; empty if it was not.
      seconds: of the whole run.
    """

    window: int = 0
    model: str = ""
    users: int = 0
    other_shard: int = 0
    repeated: int = 0
    bad_id: int = 0
    already: int = 0
    no_data: int = 0
    cached: int = 0
    generated: int = 0
    passed: int = 0
    refused: dict[str, int] = dataclasses.field(default_factory=dict)
    errors: dict[str, int] = dataclasses.field(default_factory=dict)
    orders: int = 0
    stored: int = 0
    unchanged: int = 0
    older: int = 0
    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    cost: float = 0.0
    stopped: str = ""
    seconds: float = 0.0


def think_by_llm(
    states: Iterable[UserState], endpoint: llm.Endpoint, embed: Embed, store: Sink,
    folder: str | os.PathLike, cfg: ThinkConfig = ThinkConfig(), *, window: int,
    encoder: str = "", total: int | None = None,
    answers: str | os.PathLike | None = None,
) -> Summary:
    """Writes the instructions of one window with a language model.

    Must not run inside an event loop. Prompts go to the endpoint: they hold titles,
    searches and profiles, but no user ids.

    Args:
      states: of the users that are due; read once, as it goes.
      endpoint: the model's server.
      embed: gives the vectors of N texts; called from another thread.
      store: gets the instructions, by kind of prompt.
      folder: of the journal and the cache of answers; the same for all windows, its
        own for each store. Each shard has its own files in it.
      cfg: the run.
      window: end of the window that the states have seen, seconds since 1970.
      encoder: name of what `embed` is.
      total: how many states there are, for the progress shown.
      answers: folder of the cache of answers, where that is another one; journals may
        then be begun anew and nothing is paid twice.

    Returns:
      What happened.

    Raises:
      InputError: a setting, the key, the folder or the store is not usable, or another
        run of this shard is at work. A model that does not answer is counted instead.
    """
    place = shard_place(folder, cfg)
    cache = f"{place if answers is None else shard_place(answers, cfg)}.answers.sqlite"

    async def run() -> Summary:
        async with reasoner.open_llm(endpoint, cfg.chat, cfg.budget, cache) as who:
            return await think(states, who, embed, store, journal, cfg, window=window,
                               encoder=encoder, price=endpoint.price, total=total)
    with Journal(f"{place}.journal.sqlite") as journal:
        return asyncio.run(run())


def think_by_rules(
    states: Iterable[UserState], rules: Iterable[reasoner.Rule], embed: Embed,
    store: Sink, folder: str | os.PathLike, cfg: ThinkConfig = ThinkConfig(), *,
    window: int, encoder: str = "", total: int | None = None,
) -> Summary:
    """As `think_by_llm`, by the rules of a knowledge base: no model, nothing is paid.

    Args:
      rules: such as those of `data.shop.load_knowledge()`.
    """
    place = shard_place(folder, cfg)
    with Journal(f"{place}.journal.sqlite") as journal:
        return asyncio.run(think(
            states, reasoner.RuleReasoner(rules), embed, store, journal, cfg,
            window=window, encoder=encoder, total=total))


async def think(
    states: Iterable[UserState], who: reasoner.Reasoner, embed: Embed, store: Sink,
    journal: Journal, cfg: ThinkConfig, *, window: int, encoder: str = "",
    price: float = 0.0, total: int | None = None,
) -> Summary:
    """As `think_by_llm`, with any reasoner and an open journal.

    Args:
      price: of a million tokens.
    """
    return await _Run(who, embed, store, journal, cfg, window, encoder, price
                      ).work(states, total)


def judge_reply(reply: Reply, cfg: ThinkConfig, knowledge=frozenset()
                ) -> tuple[gate.Verdict, int]:
    """Returns the gate's decision about an answer, and how many shown texts look like
    orders."""
    data = gate.given(reply.prompt.shown)
    if reply.answer.text is None:
        return gate.Verdict(None, ""), data.orders
    return gate.judge(reply.answer.text, data, cfg.gate, knowledge), data.orders


def store_instructions(
    users: Sequence[str], kinds: Sequence[str], texts: Sequence[str], embed: Embed,
    store: Sink, cfg: ThinkConfig, *, model: str, encoder: str,
    window: int | Sequence[int],
) -> np.ndarray:
    """Embeds and stores N instructions; safe to repeat.

    Args:
      window: of all, or one for each.

    Returns:
      `[N]` int8, an `Outcome` each.
    """
    outcomes = np.zeros(len(users), np.int8)
    if not len(users):
        return outcomes
    vectors = np.asarray(embed(list(texts)))
    of_kind, windows = np.array(kinds, object), np.broadcast_to(window, len(users))
    for kind in dict.fromkeys(kinds):
        rows = np.flatnonzero(of_kind == kind).tolist()
        name = prompts.prompt_version(kind, cfg.prompts)
        outcomes[rows] = store.put_many(
            [users[row] for row in rows], [texts[row] for row in rows], vectors[rows],
            version=Version(cfg.version, model, name, encoder), window=windows[rows],
            kind=kind)
    return outcomes


class _Run:
    """One run over one shard of one window."""

    def __init__(self, who: reasoner.Reasoner, embed: Embed, store: Sink,
                 journal: Journal, cfg: ThinkConfig, window: int, encoder: str,
                 price: float):
        self.who, self.embed, self.store, self.journal = who, embed, store, journal
        self.cfg, self.window, self.encoder, self.price = cfg, window, encoder, price
        self.summary = Summary(window=window, model=who.name)
        self.refused: collections.Counter = collections.Counter()
        self.errors: collections.Counter = collections.Counter()
        self.seen: set[tuple[str, int]] = set()

    async def work(self, states: Iterable[UserState], total: int | None) -> Summary:
        begun, out = time.monotonic(), self.summary
        held: list[Reply] = []
        storing: asyncio.Task | None = None
        with progress.bar("thinking", total) as advance:
            replies = self.who.reason(self.due(states, advance), self.asking)
            try:
                async for reply in replies:
                    held.append(reply)
                    if len(held) >= self.cfg.batch:
                        if storing is not None:
                            await storing
                        storing = asyncio.create_task(
                            asyncio.to_thread(self.finish, held))
                        held = []
            finally:  # what was paid for is stored whatever happens
                await replies.aclose()
                if storing is not None:
                    await storing
                await asyncio.to_thread(self.finish, held)
        out.refused, out.errors = dict(self.refused), dict(self.errors)
        out.cost = (out.prompt_tokens + out.answer_tokens) * self.price / 1e6
        out.stopped, out.seconds = self.who.stopped, time.monotonic() - begun
        return out

    def due(self, states: Iterable[UserState], advance: progress.Advance
            ) -> Iterator[Prompt]:
        """Yields the prompts of this shard that no run has done."""
        cfg, out = self.cfg, self.summary
        for batch in reasoner.batched(states, cfg.batch):
            out.users += len(batch)
            ours = self.ours(batch)
            pairs = [(state.user, state.kind_at(kind)) for state in ours
                     for kind in cfg.prompts.kinds]
            notes = self.journal.notes([pair for pair in pairs if make_key(*pair)])
            for state in ours:
                window = state.window or self.window
                for kind in cfg.prompts.kinds:
                    pair = state.user, state.kind_at(kind)
                    note, asked = notes.get(pair), None
                    if note is not None and note.window >= window:
                        if note.asked is None or note.window > window:
                            out.already += 1
                            continue
                        asked = note.asked
                    prompt = prompts.build_prompt(state, kind, cfg.prompts)
                    if make_key(*pair) is None:
                        out.bad_id += 1
                    elif prompt is None:
                        out.no_data += 1
                    elif asked is None:
                        yield prompt
                    else:
                        yield dataclasses.replace(prompt, asked=asked)
            advance(len(batch))

    def ours(self, batch: Iterable[UserState]) -> list[UserState]:
        taken = []
        for state in batch:
            if shard_of(state.user, self.cfg.shards) != self.cfg.shard:
                self.summary.other_shard += 1
            elif (state.user, state.window) in self.seen:
                self.summary.repeated += 1
            else:
                self.seen.add((state.user, state.window))
                taken.append(state)
        return taken

    def asking(self, prompt: Prompt, digest: bytes) -> None:
        self.journal.ask(*self.job(prompt), digest)

    def job(self, prompt: Prompt) -> tuple[str, str, int]:
        """Returns how the journal notes a prompt."""
        state = prompt.state
        return (state.user, state.kind_at(prompt.kind), state.window or self.window)

    def finish(self, replies: Sequence[Reply]) -> None:
        """Judges, embeds and stores a batch, then notes it as done."""
        done, free, good = [], [], []
        for reply in replies:
            job = self.job(reply.prompt)
            verdict, orders = judge_reply(reply, self.cfg, self.who.knowledge)
            self.count(reply, orders)
            if verdict.text is not None:
                good.append((job[0], reply.prompt.kind, verdict.text, job[2]))
                done.append(job)
            elif verdict.reason:
                self.refused[verdict.reason] += 1
                done.append(job)
            elif reply.asked and reply.answer.billed:
                done.append(job)
            elif reply.asked and reply.answer.billed is False:
                free.append(job)
        if good:
            users, kinds, texts, windows = zip(*good)
            outcomes = store_instructions(
                users, kinds, texts, self.embed, self.store, self.cfg,
                model=self.who.name, encoder=self.encoder, window=windows)
            out = self.summary
            out.passed += len(good)
            out.stored += int((outcomes == Outcome.WRITTEN).sum())
            out.unchanged += int((outcomes == Outcome.UNCHANGED).sum())
            out.older += int((outcomes == Outcome.OLDER).sum())
        self.journal.finish(done)
        if free:
            self.journal.forget(free)

    def count(self, reply: Reply, orders: int) -> None:
        out, answer = self.summary, reply.answer
        out.orders += orders
        out.cached += answer.cached
        out.generated += answer.text is not None and not answer.cached
        out.requests += reply.asked
        out.retries += answer.retries
        out.prompt_tokens += answer.prompt_tokens
        out.answer_tokens += answer.answer_tokens
        if answer.error:
            self.errors[answer.error] += 1


def shard_place(folder: str | os.PathLike, cfg: ThinkConfig) -> str:
    """Returns how the names of this shard's files begin, and makes their folder.

    Raises:
      InputError: a setting of the run, or the folder, cannot be used.
    """
    prompts.check_prompts(cfg.prompts)
    gate.check_gate(cfg.gate)
    if cfg.batch < 1 or not 0 <= cfg.shard < cfg.shards:
        raise InputError(f"the run has batches of {cfg.batch} and is shard {cfg.shard} "
                         f"of {cfg.shards}, expected at least 1 and a shard from 0")
    folder = pathlib.Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        others = {path.name.split(".")[0].split("-of-")[1]
                  for path in folder.glob("shard-*-of-*.journal.sqlite")}
    except OSError as error:
        raise InputError(f"{folder} cannot be used: {error.strerror}") from None
    if others - {str(cfg.shards)}:
        raise InputError(f"{folder} holds journals of {min(others)} shards, this run "
                         f"has {cfg.shards}; keep the number of shards, or take "
                         "another folder after a window has ended")
    return str(folder / f"shard-{cfg.shard}-of-{cfg.shards}")


def as_json(summary: Summary) -> dict[str, Any]:
    """Returns a summary as JSON values."""
    return dataclasses.asdict(summary)
