"""The near-line run on Ray Data: prompts and judgements in parallel, one who asks.

    states → prompt_batch → answer_batch → judge_batch → store_batch → counts
             tasks          one actor      tasks         one actor

The journal is an actor too, so that what is asked and what is done is known wherever
the stages run. The result is that of `pipeline`, record for record.
"""

import asyncio
import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import Any

from oxyrec_jax import llm, progress
from oxyrec_jax.base import InputError
from oxyrec_jax.thinking import batches, pipeline, reasoner
from oxyrec_jax.thinking.journal import Journal
from oxyrec_jax.thinking.pipeline import Embed, Summary, ThinkConfig
from oxyrec_jax.thinking.recording import Sink
from oxyrec_jax.thinking.states import UserState, shard_of, state_to_json

_BATCHES_TOGETHER = 64  # of states given to Ray at once, which holds them in memory


@dataclasses.dataclass(frozen=True)
class Job:
    """What every stage needs to know; it travels to the processes of the cluster.

    Attributes:
      endpoint: the model's server; None: `rules` answer.
      rules: of a knowledge base.
      embed: gives the vectors of N texts.
      open_sink: opens where instructions go, in the process that writes. On a cluster
        of machines that is a server, or a folder that all of them see.
      folder, answers: of the journal and of the cache of answers.
      cfg: the run.
      window: of states that have none of their own.
      encoder: name of what `embed` is.
    """

    endpoint: llm.Endpoint | None
    rules: Sequence[Any]
    embed: Embed
    open_sink: Callable[[], contextlib.AbstractContextManager[Sink]]
    folder: str
    answers: str
    cfg: ThinkConfig
    window: int
    encoder: str

    @property
    def model(self) -> str:
        """Who answers."""
        return (reasoner.RuleReasoner(self.rules).name if self.endpoint is None
                else self.endpoint.model)

    @contextlib.asynccontextmanager
    async def open_reasoner(self) -> AsyncIterator[reasoner.Reasoner]:
        """Opens who answers, in the process that asks."""
        if self.endpoint is None:
            yield reasoner.RuleReasoner(self.rules)
            return
        cache = f"{pipeline.shard_place(self.answers, self.cfg)}.answers.sqlite"
        async with reasoner.open_llm(self.endpoint, self.cfg.chat, self.cfg.budget,
                                     cache) as who:
            yield who


def think_on_ray(states: Iterable[UserState], job: Job, total: int | None = None
                 ) -> Summary:
    """Writes the instructions of the states that are due, on Ray Data.

    Joins the cluster of RAY_ADDRESS, or starts one on this machine for the run.

    Args:
      states: read as it goes, some at a time.
      job: the run.
      total: how many states there are, for the progress shown.

    Returns:
      The counts, as `pipeline.think_by_llm` gives them.

    Raises:
      InputError: Ray is not installed, or what `pipeline` raises.
    """
    ray = _ray()
    begun, cfg = time.monotonic(), job.cfg
    out = Summary(window=job.window, model=job.model)
    place = f"{pipeline.shard_place(job.folder, cfg)}.journal.sqlite"
    with Journal(place):
        pass  # one that cannot be had is named here and not by an actor
    ours = _ours(states, cfg, out)
    with _cluster(ray), _named(), progress.bar("thinking", total) as advance:
        keeper, told = ray.remote(num_cpus=0)(Journal).remote(place), 0
        try:
            while part := _take(ours, cfg.batch * _BATCHES_TOGETHER):
                for batch in _stages(ray, part, job, keeper):
                    batches.count_batch(batch, out)
                advance(out.users - told)
                told = out.users
        finally:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(keeper.close.remote())
            ray.kill(keeper)
    price = 0.0 if job.endpoint is None else job.endpoint.price
    out.cost = (out.prompt_tokens + out.answer_tokens) * price / 1e6
    out.seconds = time.monotonic() - begun
    return out


def _stages(ray: Any, part: list[str], job: Job, keeper: Any
            ) -> Iterator[batches.Batch]:
    """Runs one dataset of states through all stages."""
    knowledge = (frozenset() if job.endpoint is not None else
                 reasoner.RuleReasoner(job.rules).knowledge)
    size: dict[str, Any] = {"batch_size": job.cfg.batch, "batch_format": "numpy"}
    alone: dict[str, Any] = {**size, "concurrency": 1, "num_cpus": 0}
    told = {"fn_constructor_kwargs": {"job": job, "keeper": keeper}}
    blocks = max(1, min(len(part) // job.cfg.batch, 64))
    rows = ray.data.from_items([{"state": line} for line in part],
                               override_num_blocks=blocks)
    found = (rows.map_batches(batches.prompt_batch, fn_kwargs={
        "cfg": job.cfg, "window": job.window}, **size)
        .map_batches(_Answering, **told, **alone)
        .map_batches(batches.judge_batch, fn_kwargs={
            "cfg": job.cfg, "knowledge": knowledge}, **size)
        .map_batches(_Storing, **told, **alone))
    yield from found.iter_batches(batch_size=None, batch_format="numpy")


class _Answering:
    """The stage that asks; the connection and the budget live as long as it does."""

    def __init__(self, job: Job, keeper: Any):
        self._journal = _Kept(keeper)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._open = job.open_reasoner()
        self._who = self._wait(self._open.__aenter__())

    def __call__(self, batch: batches.Batch) -> batches.Batch:
        return self._wait(batches.answer_batch(batch, self._who, self._journal))

    def _wait(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


class _Storing:
    """The stage that writes."""

    def __init__(self, job: Job, keeper: Any):
        self._job, self._journal = job, _Kept(keeper)
        self._open = contextlib.ExitStack()  # kept, or the store would be closed here
        self._sink = self._open.enter_context(job.open_sink())

    def __call__(self, batch: batches.Batch) -> batches.Batch:
        job = self._job
        return batches.store_batch(batch, job.cfg, embed=job.embed, store=self._sink,
                                   model=job.model, encoder=job.encoder,
                                   journal=self._journal)


class _Kept:
    """A journal that an actor keeps."""

    def __init__(self, keeper: Any):
        self._keeper = keeper

    def notes(self, pairs: Sequence[tuple[str, str]]) -> Any:
        return self._call("notes", pairs)

    def ask(self, *job: Any) -> None:
        self._call("ask", *job)

    def finish(self, done: Iterable[tuple[str, str, int]]) -> None:
        self._call("finish", list(done))

    def forget(self, jobs: Iterable[tuple[str, str, int]]) -> None:
        self._call("forget", list(jobs))

    def _call(self, name: str, *values: Any) -> Any:
        import ray
        return ray.get(getattr(self._keeper, name).remote(*values))


def _ours(states: Iterable[UserState], cfg: ThinkConfig, out: Summary) -> Iterator[str]:
    """Yields this shard's states as lines, each user and window once."""
    seen: set[tuple[str, int]] = set()
    for state in states:
        out.users += 1
        if shard_of(state.user, cfg.shards) != cfg.shard:
            out.other_shard += 1
        elif (state.user, state.window) in seen:
            out.repeated += 1
        else:
            seen.add((state.user, state.window))
            yield state_to_json(state)


def _take(lines: Iterator[str], count: int) -> list[str]:
    return [line for _, line in zip(range(count), lines)]


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would call home
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InputError("think.engine is \"ray\", and Ray Data is not installed; "
                         "pip install 'oxyrec_jax[cluster]', or leave the engine at "
                         "\"process\"") from error
    return ray


@contextlib.contextmanager
def _named() -> Iterator[None]:
    """Gives the sentence that a stage ended with, instead of the engine's report."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not type(cause) is InputError:
            cause = getattr(cause, "cause", None) or cause.__cause__
        if cause is None:
            raise
        raise InputError(str(cause)) from error


@contextlib.contextmanager
def _cluster(ray: Any) -> Iterator[None]:
    """Joins a cluster or starts one, and ends what it started."""
    if ray.is_initialized():
        yield
        return
    alone = {} if os.environ.get("RAY_ADDRESS") else {"include_dashboard": False}
    ray.init(configure_logging=False, log_to_driver=False, **alone)
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        yield
    finally:
        ray.shutdown()
