"""The stages over columns: each takes a batch and gives a batch, and keeps nothing.

A batch is a dict of equally long arrays, as engines for large tables pass them to
functions; `cluster` runs them on Ray Data's `map_batches`. They are the same stages as
`pipeline` runs, and share its journal and its store, so that an engine may repeat a
batch.

    state         one JSON line, see `states`
    prompt_batch  → user, kind, window, status, system, question, state
    answer_batch  → the same, answer, error, cached, asked … (see `ANSWERED`)
    judge_batch   → the same without the question and the state, text, refused, orders
    store_batch   → the same, outcome
    count_batch   adds all that to a `Summary`

A row is one kind of one user. `status` is "" for those that take part, else "bad_id",
"no_data" or "already". What is not there is "", never None, which engines turn into
numbers: an answer is one where status and error are empty, a text where it passed.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from oxyrec_jax.chat import Answer
from oxyrec_jax.thinking import pipeline, prompts
from oxyrec_jax.thinking.backend import Outcome
from oxyrec_jax.thinking.journal import Note
from oxyrec_jax.thinking.pipeline import Summary, ThinkConfig
from oxyrec_jax.thinking.prompts import Prompt
from oxyrec_jax.thinking.reasoner import Reasoner, Reply
from oxyrec_jax.thinking.recording import Sink
from oxyrec_jax.thinking.records import make_key
from oxyrec_jax.thinking.states import state_from_json

Batch = dict[str, np.ndarray]
Columns = Mapping[str, Any]  # arrays or lists
# What a reply adds to its row; billed is 1, 0, or -1 where only the server knows.
ANSWERED = ("answer", "error", "billed", "cached", "asked", "retries", "prompt_tokens",
            "answer_tokens", "stopped")
_PROMPTED = ("user", "kind", "at", "window", "status", "system", "question", "state")
_NOBODY = ("", "", 0, False, False, 0, 0, 0, "")


class Notes(Protocol):
    """A journal, wherever it is kept; see `journal.Journal`."""

    def notes(self, pairs: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], Note]:
        """Returns what is noted of these (user, kind)."""

    def ask(self, user: str, kind: str, window: int, digest: bytes) -> None:
        """Notes that a question is about to be sent."""

    def finish(self, done: Iterable[tuple[str, str, int]]) -> None:
        """Notes that these (user, kind, window) are done."""

    def forget(self, jobs: Iterable[tuple[str, str, int]]) -> None:
        """Takes back that these were asked."""


def prompt_batch(batch: Columns, cfg: ThinkConfig, window: int = 0) -> Batch:
    """Gives a row for each user and kind.

    Args:
      batch: with `state`.
      cfg: the run.
      window: of states that have none of their own; `at` is how the journal names the
        kind (`UserState.kind_at`).
    """
    rows = []
    for line in batch["state"]:
        state = state_from_json(line, "a row of the column state")
        for kind in cfg.prompts.kinds:
            at = state.kind_at(kind)
            prompt = prompts.build_prompt(state, kind, cfg.prompts)
            status = ("bad_id" if make_key(state.user, at) is None else
                      "no_data" if prompt is None else "")
            asks = (prompt.system, prompt.question) if prompt else ("", "")
            rows.append((state.user, kind, at, state.window or window, status, *asks,
                         line))
    return _columns(_PROMPTED, rows)


async def answer_batch(batch: Columns, who: Reasoner, journal: Notes) -> Batch:
    """Asks for the rows that no run has done; what is asked is noted first."""
    prompted = {name: np.asarray(values) for name, values in batch.items()}
    status, waiting = list(batch["status"]), {}
    open_ = [row for row, why in enumerate(status) if not why]
    pairs = {row: (str(batch["user"][row]), str(batch["at"][row])) for row in open_}
    notes = journal.notes(list(pairs.values()))
    for row in open_:
        note, window, asked = notes.get(pairs[row]), int(batch["window"][row]), None
        if note is not None and note.window >= window:
            if note.asked is None or note.window > window:
                status[row] = "already"
                continue
            asked = note.asked
        state = state_from_json(batch["state"][row], "a row of the column state")
        waiting[pairs[row]] = row, Prompt(state, batch["kind"][row],
                                          batch["system"][row], batch["question"][row],
                                          asked=asked)

    def asking(prompt: Prompt, digest: bytes) -> None:
        pair = prompt.state.user, prompt.state.kind_at(prompt.kind)
        journal.ask(*pair, int(batch["window"][waiting[pair][0]]), digest)
    found: list[tuple] = [_NOBODY] * len(status)
    replies = who.reason([prompt for _, prompt in waiting.values()], asking)
    async for reply in replies:
        pair = reply.prompt.state.user, reply.prompt.state.kind_at(reply.prompt.kind)
        answer = reply.answer
        found[waiting[pair][0]] = (
            answer.text or "", answer.error, -1 if answer.billed is None else
            int(answer.billed), answer.cached, reply.asked, answer.retries,
            answer.prompt_tokens, answer.answer_tokens, who.stopped)
    return prompted | {"status": _objects(status)} | _columns(ANSWERED, found)


def judge_batch(batch: Columns, cfg: ThinkConfig,
                knowledge: Collection[str] = frozenset()) -> Batch:
    """Judges the answers; `text` is what passed, `refused` the reason where one did
    not, `orders` how many texts of the prompt look like orders."""
    rows: list[tuple] = []
    for line, kind, status, answer, error in zip(*(batch[name] for name in (
            "state", "kind", "status", "answer", "error"))):
        prompt = None if status else prompts.build_prompt(
            state_from_json(line, "a row of the column state"), kind, cfg.prompts)
        if prompt is None:
            rows.append(("", "", 0))
            continue
        said = Answer(text=None if error else answer)
        verdict, orders = pipeline.judge_reply(Reply(prompt, said), cfg, knowledge)
        rows.append((verdict.text or "", verdict.reason, orders))
    kept = {name: np.asarray(values) for name, values in batch.items()
            if name not in ("system", "question", "state", "answer")}
    return kept | _columns(("text", "refused", "orders"), rows)


def store_batch(batch: Columns, cfg: ThinkConfig, *,
                embed: Callable[[Sequence[str]], np.ndarray], store: Sink, model: str,
                encoder: str, journal: Notes) -> Batch:
    """Embeds and stores what passed, then notes what is done; `outcome` is a
    `backend.Outcome`, -1 where there was nothing to store."""
    outcome = np.full(len(batch["text"]), -1, np.int8)
    good = [row for row, text in enumerate(batch["text"]) if text]
    users, kinds, texts, windows = ([batch[name][row] for row in good] for name in
                                    ("user", "kind", "text", "window"))
    outcome[good] = pipeline.store_instructions(
        users, kinds, texts, embed, store, cfg, model=model, encoder=encoder,
        window=[int(window) for window in windows])
    done, free = [], []
    for row, job in enumerate(zip(batch["user"], batch["at"],
                                  map(int, batch["window"]))):
        if batch["text"][row] or batch["refused"][row] or (
                batch["asked"][row] and batch["billed"][row] > 0):
            done.append(job)
        elif batch["asked"][row] and batch["billed"][row] == 0:
            free.append(job)
    journal.finish(done)
    if free:
        journal.forget(free)
    return {name: np.asarray(values) for name, values in batch.items()} | {
        "outcome": outcome}


def count_batch(batch: Columns, out: Summary) -> None:
    """Adds the rows of a batch to the counts of a run."""
    took = [not why for why in batch["status"]]
    for name in ("bad_id", "no_data", "already"):
        setattr(out, name, getattr(out, name) + list(batch["status"]).count(name))
    for name in ("retries", "prompt_tokens", "answer_tokens", "orders", "cached"):
        setattr(out, name, getattr(out, name) + int(sum(batch[name])))
    out.requests += int(sum(batch["asked"]))
    for outcome, name in ((Outcome.WRITTEN, "stored"), (Outcome.UNCHANGED, "unchanged"),
                          (Outcome.OLDER, "older")):
        count = list(batch["outcome"]).count(outcome)
        setattr(out, name, getattr(out, name) + count)
        out.passed += count
    for row, there in enumerate(took):
        error, refused = batch["error"][row], batch["refused"][row]
        if error:
            out.errors[error] = out.errors.get(error, 0) + 1
        if refused:
            out.refused[refused] = out.refused.get(refused, 0) + 1
        out.generated += bool(there and not error and not batch["cached"][row])
        out.stopped = batch["stopped"][row] or out.stopped


def _columns(names: Sequence[str], rows: Sequence[tuple]) -> Batch:
    return {name: _objects([row[place] for row in rows])
            for place, name in enumerate(names)}


def _objects(values: Sequence[Any]) -> np.ndarray:
    if values and isinstance(values[0], bool | int):
        return np.array(values)
    out = np.empty(len(values), object)
    out[:] = values
    return out
