"""The stages over columns: each takes a batch and gives a batch, and keeps nothing.

A batch is a dict of equally long arrays, as engines for large tables pass them to
functions (Ray Data's `map_batches` among them; no such engine is used or tested here).
They are the same stages as `pipeline` runs, without its journal: an engine that repeats
a batch asks again for what is not in the cache of answers.

    state     one JSON line, see `states`
    prompt_batch → user, kind, system, question, state
    (the caller adds answer: str, or None where there is none)
    judge_batch  → user, kind, text, refused
    store_batch  → user, kind, outcome
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from oxyrec_jax.chat import Answer
from oxyrec_jax.thinking import pipeline, prompts
from oxyrec_jax.thinking.pipeline import ThinkConfig
from oxyrec_jax.thinking.reasoner import Reply
from oxyrec_jax.thinking.states import state_from_json
from oxyrec_jax.thinking.store import Store

Batch = dict[str, np.ndarray]


def prompt_batch(batch: Mapping[str, Sequence[Any]], cfg: ThinkConfig) -> Batch:
    """Gives a row for each user and kind that there is something to reason from."""
    rows = []
    for line in batch["state"]:
        state = state_from_json(line, "a row of the column state")
        for kind in cfg.prompts.kinds:
            prompt = prompts.build_prompt(state, kind, cfg.prompts)
            if prompt is not None:
                rows.append((state.user, kind, prompt.system, prompt.question, line))
    return _columns(("user", "kind", "system", "question", "state"), rows)


def judge_batch(batch: Mapping[str, Sequence[Any]], cfg: ThinkConfig,
                knowledge: Collection[str] = frozenset()) -> Batch:
    """Judges the column answer; `refused` is the reason, "" where `text` passed and
    "no-answer" where there was none."""
    rows = []
    for user, kind, line, answer in zip(batch["user"], batch["kind"], batch["state"],
                                        batch["answer"]):
        state = state_from_json(line, "a row of the column state")
        prompt = prompts.build_prompt(state, kind, cfg.prompts)
        if prompt is None:
            raise ValueError(f"{user!r} has an answer of kind {kind!r} without prompt")
        reply = Reply(prompt, Answer(text=answer))
        verdict, _ = pipeline.judge_reply(reply, cfg, knowledge)
        refused = verdict.reason or ("" if verdict.text else "no-answer")
        rows.append((user, kind, verdict.text, refused))
    return _columns(("user", "kind", "text", "refused"), rows)


def store_batch(batch: Mapping[str, Sequence[Any]], cfg: ThinkConfig, *,
                embed: Callable[[Sequence[str]], np.ndarray], store: Store, model: str,
                encoder: str, window: int) -> Batch:
    """Embeds and stores the rows that passed; `outcome` is a `backend.Outcome`."""
    kept = [row for row, text in enumerate(batch["text"]) if text is not None]
    users, kinds, texts = ([batch[name][row] for row in kept]
                           for name in ("user", "kind", "text"))
    outcomes = pipeline.store_instructions(
        users, kinds, texts, embed, store, cfg, model=model, encoder=encoder,
        window=window)
    return _columns(("user", "kind"), list(zip(users, kinds))) | {"outcome": outcomes}


def _columns(names: Sequence[str], rows: Sequence[tuple]) -> Batch:
    out = {}
    for place, name in enumerate(names):
        out[name] = np.empty(len(rows), object)
        out[name][:] = [row[place] for row in rows]
    return out
