"""Verbs that reason about users and candidates, with language models or by rules."""

import dataclasses
import pathlib
from typing import Annotated, Any

from tyro.conf import arg

from oxyrec_jax.cli.verb import Verb
from oxyrec_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Think(Verb):
    """Write instructions near-line: reason about users and fill the instruction store.

    By the rules of the simulated shop, which are no language model, or by any server
    with the OpenAI protocol; its key comes from an environment variable or a file
    (think.endpoint.key_variable, think.endpoint.key_file). Without a choice all users
    of the log are reasoned about as of its end. Killed and started again, it continues.

    Examples:
    $ oxyrec think --workdir runs/quickstart
    $ oxyrec think --workdir runs/quickstart --since 2024-12-30 --now 2024-12-31
    $ oxyrec think --workdir runs/quickstart --before test
    $ oxyrec think --workdir runs/live --states users.jsonl
    $ oxyrec think --set think.endpoint.url=http://gpu/v1 --set think.endpoint.model=m
    """

    states: Annotated[pathlib.Path | None, arg(
        metavar="FILE", help_behavior_hint="", help="User states, one JSON object a "
        "line, in place of the log's (docs/thinking.md).")] = None
    since: Annotated[str | None, arg(
        metavar="TIME", help_behavior_hint="", help="Replay the log from then on: who "
        "changed, once for each window (think.window, 300 s).")] = None
    now: Annotated[str | None, arg(
        metavar="TIME", help_behavior_hint="(default: the end of the log; with "
        "--states the clock)", help="The moment that is taken for now; nothing later "
        "is read. Seconds since 1970, or a date such as 2024-12-30T18:00.")] = None
    before: Annotated[str | None, arg(
        metavar="SPLIT", help_behavior_hint="", help="For the requests of train, valid "
        "or test: their users, as of the window that ended before.")] = None
    shard: Annotated[int, arg(help="Which part of the users, from 0.")] = 0
    shards: Annotated[int, arg(help="How many parts there are; run one process for "
                               "each.")] = 1

    def begin(self) -> Any:
        from oxyrec_jax import config
        if self.states is None or (self.workdir / "experiment.json").exists():
            return None
        return config.Experiment()

    def work(self) -> dict[str, Any]:
        from oxyrec_jax import slow_thinking
        wanted = slow_thinking.Wanted(self.states, self.since, self.now, self.before,
                                      self.shard, self.shards)
        return slow_thinking.think(self.space(), wanted)


@dataclasses.dataclass(frozen=True)
class Judge(Verb):
    """Judge logged candidates by sense, learn how much each aspect counts, measure it.

    Four scores from 0 to 1 with their ground for each candidate (fit with the profile,
    with what is wanted next, novelty, fit with the situation), by a language model, by
    rules, or of a simulated shop by its truth or a judge that is wrong on purpose; then
    weights of the four for each request, learnt from pairs. What comes out is a reward
    for alignment, in judge/KIND of the work directory, with a page of its quality.
    Killed and started again, it asks nothing twice. docs/judge.md explains the figures.

    Examples:
    $ oxyrec judge --workdir runs/quickstart --judge truth
    $ oxyrec judge --workdir runs/quickstart --judge biased --set judge.prefer=cheap
    $ oxyrec judge --workdir runs/beauty --judge llm --set judge.requests=200 \\
        --set judge.endpoint.url=http://gpu/v1 --set judge.endpoint.model=m
    """

    judge: Annotated[str, arg(
        metavar="KIND", help_behavior_hint="(default: the experiment's)",
        help="rules, llm, or of a simulated shop truth, noisy, biased or conflicting. "
        "Short for --set judge.kind=KIND.")] = ""
    split: Annotated[str, arg(help="Whose requests: train, valid or test.")] = "valid"

    def work(self) -> dict[str, Any]:
        from oxyrec_jax import judging
        if self.split not in ("train", "valid", "test"):
            raise InputError(f"--split {self.split}: expected train, valid or test")
        # At once with the server's settings, without which llm is refused.
        short = (f"judge.kind={self.judge}",) if self.judge else ()
        return judging.judge(self.space(*short), self.split)
