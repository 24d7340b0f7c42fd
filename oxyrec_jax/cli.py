"""The command line: thin verbs over `workflow`."""

import dataclasses
import inspect
import json
import logging
import os
import pathlib
import sys
from typing import Annotated, Any, Union

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, UseAppendAction, arg, subcommand

from oxyrec_jax.base import InputError

Settings = Annotated[
    UseAppendAction[tuple[str, ...]],
    arg(metavar="NAME=VALUE", help="Change one field of the experiment, such as "
        "train.steps=50; for more fields give --set again.")]
Json = Annotated[FlagCreatePairsOff[bool], arg(
    help="Print one JSON object as the last line of standard output, and nothing else "
    "there.")]
Workdir = Annotated[pathlib.Path, arg(
    metavar="FOLDER", help="Where everything of this experiment lies.")]
File = Annotated[str, arg(
    metavar="[EXPERIMENT]", help_behavior_hint="(optional)",
    help="An experiment file. Without it: the experiment of the work directory.")]


@dataclasses.dataclass(frozen=True)
class Verb:
    """What all verbs share."""

    experiment: Positional[File] = ""
    workdir: Workdir = pathlib.Path("runs/experiment")
    set: Settings = ()
    json: Json = False

    def work(self) -> dict[str, Any]:
        """Does the work and returns JSON values."""
        raise TypeError(f"{type(self).__name__} has no work")

    def begin(self) -> Any:
        """The experiment where no file is given; None: that of the work directory."""

    def space(self, *settings: str) -> Any:
        """The work directory, its experiment changed by `--set` and more settings."""
        from oxyrec_jax import config, workflow  # jax: not for --help
        if "=" in self.experiment:
            raise InputError(f"{self.experiment}: write --set {self.experiment}, with "
                             "one --set for each change")
        cfg = (config.load_experiment(self.experiment) if self.experiment else
               self.begin())
        return workflow.open_workspace(self.workdir, cfg, (*settings, *self.set))


@dataclasses.dataclass(frozen=True)
class Quickstart(Verb):
    """Run everything on the simulated shop, in minutes, and write a report.

    Example:
    $ oxyrec quickstart --workdir runs/quickstart
    """

    workdir: Workdir = pathlib.Path("runs/quickstart")

    def begin(self) -> Any:
        from oxyrec_jax import quickstart
        return quickstart.get_config()

    def work(self) -> dict[str, Any]:
        from oxyrec_jax import workflow
        if self.experiment and "=" not in self.experiment:
            raise InputError("quickstart takes no experiment file; use the verbs "
                             "prepare, tokenize, train, evaluate and report for one")
        space = self.space()
        workflow.prepare(space)
        workflow.tokenize(space)
        trained = workflow.train(space)
        return (_headline(workflow.evaluate(space)) | {"training": trained}
                | workflow.report(space))


@dataclasses.dataclass(frozen=True)
class Prepare(Verb):
    """Read a behaviour log into a prepared data set.

    Examples:
    $ oxyrec prepare experiments/beauty.py --workdir runs/beauty
    $ oxyrec prepare --source table --path events.csv --items items.csv
    """

    source: Annotated[str, arg(
        metavar="KIND", help_behavior_hint="(default: the experiment's)",
        help="Kind of the log: shop, table (CSV, Parquet), sequences, amazon2018, "
        "amazon2023, movielens or minionerec. Short for --set data.source=KIND.")] = ""
    path: Annotated[str, arg(
        metavar="PATH", help_behavior_hint="(default: the experiment's)",
        help="Where the log lies. Short for --set data.path=PATH.")] = ""
    items: Annotated[str, arg(
        metavar="PATH", help_behavior_hint="(default: the experiment's)",
        help="Where the item table lies. Short for --set data.items=PATH.")] = ""

    def begin(self) -> Any:
        from oxyrec_jax import config
        if (self.workdir / "experiment.json").exists():
            return None
        if not self.source:
            raise InputError("give an experiment file, or --source and --path of a log")
        return config.Experiment()

    def work(self) -> dict[str, Any]:
        from oxyrec_jax import workflow
        short = [f"data.{name}={json.dumps(value)}" for name, value in
                 (("source", self.source), ("path", self.path), ("items", self.items))
                 if value]
        return workflow.prepare(self.space(*short))


@dataclasses.dataclass(frozen=True)
class Tokenize(Verb):
    """Give every item a semantic ID, or keep the table of them up to date.

    Examples:
    $ oxyrec tokenize --workdir runs/beauty --set tokenizer.widths=[256,256,256]
    $ oxyrec tokenize --workdir runs/beauty --add new_items.csv
    $ oxyrec tokenize --workdir runs/beauty --retire sold_out.txt
    $ oxyrec tokenize --workdir runs/beauty --refit
    """

    add: Annotated[pathlib.Path | None, arg(
        metavar="FILE", help_behavior_hint="", help="New items (Parquet, CSV, TSV or "
        "JSON lines; item_id, title, …) get IDs; no other item moves.")] = None
    retire: Annotated[pathlib.Path | None, arg(
        metavar="FILE", help_behavior_hint="", help="Items whose ids stand in this "
        "file, one a line, are no longer recommended.")] = None
    refit: Annotated[FlagCreatePairsOff[bool], arg(
        help="Fit the codebooks again from where they stand and tell which items "
        "moved. Trained runs then need training anew.")] = False

    def work(self) -> dict[str, Any]:
        from oxyrec_jax import workflow
        if sum((self.add is not None, self.retire is not None, self.refit)) > 1:
            raise InputError("--add, --retire and --refit are steps of their own; give "
                             "one at a time")
        if self.add is not None:
            return workflow.add_items(self.space(), self.add)
        if self.retire is not None:
            return workflow.retire_items(self.space(), self.retire)
        if self.refit:
            return workflow.refit(self.space())
        return workflow.tokenize(self.space())


@dataclasses.dataclass(frozen=True)
class Train(Verb):
    """Train the generator or a ranking model; killed and started again, it continues.

    Examples:
    $ oxyrec train --workdir runs/beauty --seed 0
    $ oxyrec train --workdir runs/cart --start-from runs/all
    """

    seed: Annotated[int | None, arg(
        metavar="INT", help_behavior_hint="(default: all of the experiment's)",
        help="Train this seed only.")] = None
    start_from: Annotated[str, arg(
        metavar="FOLDER", help_behavior_hint="(default: the experiment's)",
        help="Begin with the parameters of another work directory or run on the same "
        "semantic IDs. Short for --set train.start_from=FOLDER.")] = ""

    def work(self) -> dict[str, Any]:
        from oxyrec_jax import workflow
        short = ([f"train.start_from={json.dumps(self.start_from)}"]
                 if self.start_from else [])
        return workflow.train(self.space(*short),
                              None if self.seed is None else [self.seed])


@dataclasses.dataclass(frozen=True)
class Align(Verb):
    """Train a generator further by reward: with candidates that its own search draws.

    The work directory shares data and semantic IDs with the one that it starts from,
    and every verb that reads trained runs reads its runs too. Killed and started again,
    it continues. What the reward is made of stands in align.reward; train.signals of
    the documentation lists the components.

    Examples:
    $ oxyrec align --workdir runs/aligned --start-from runs/beauty
    $ oxyrec align --workdir runs/grpo --start-from runs/beauty \\
        --set align.policy.method=grpo --set align.synthetic=0.5
    $ oxyrec align --workdir runs/orders --start-from runs/shop --ranker runs/ranker \\
        --set 'align.reward={conversion: {weight: 2}, value: {}, diversity: {}}'
    $ oxyrec evaluate --workdir runs/aligned
    """

    workdir: Workdir = pathlib.Path("runs/aligned")
    start_from: Annotated[str, arg(
        metavar="FOLDER", help_behavior_hint="(default: the experiment's)",
        help="The work directory whose trained runs are aligned.")] = ""
    ranker: Annotated[str, arg(
        metavar="FOLDER", help_behavior_hint="(default: the experiment's)",
        help="Work directory of a trained ranking model, for rewards click, conversion "
        "and value. Short for --set align.ranker=FOLDER.")] = ""
    judge: Annotated[str, arg(
        metavar="FOLDER", help_behavior_hint="(default: the experiment's)",
        help="Work directory with a judge (oxyrec judge), for a2po, reward-sum and "
        "advantage-sum; judge.kind says which. Short for --set align.judge=FOLDER."
        )] = ""
    seed: Annotated[int | None, arg(
        metavar="INT", help_behavior_hint="(default: all of the experiment's)",
        help="Align this seed only.")] = None

    def begin(self) -> Any:
        from oxyrec_jax import aligning
        if (self.workdir / "experiment.json").exists() or not self.start_from:
            return None
        return aligning.begin(self.workdir, self.start_from)

    def work(self) -> dict[str, Any]:
        from oxyrec_jax import workflow
        short = [f"align.{name}={json.dumps(os.path.abspath(folder))}" for name, folder
                 in (("ranker", self.ranker), ("judge", self.judge)) if folder]
        return workflow.align(self.space(*short),
                              None if self.seed is None else [self.seed])


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


@dataclasses.dataclass(frozen=True)
class Evaluate(Verb):
    """Judge the trained runs beside untrained baselines; a ranking model beside the
    truth of a simulated shop.

    Examples:
    $ oxyrec evaluate --workdir runs/beauty --json
    $ oxyrec evaluate --workdir runs/texts --following
    """

    split: Annotated[str, arg(help="test or valid")] = "test"
    decoder_only: Annotated[FlagCreatePairsOff[bool], arg(
        help="Leave out the memory and the item head of "
        "a model that mixes them in.")] = False
    instructions: Annotated[str | None, arg(
        metavar="KIND", help_behavior_hint="(default: the experiment's)",
        help="Texts that the requests carry, for a network that reads them: store "
        "(what oxyrec think wrote), or of a simulated shop oracle, noisy, wrong, query "
        "or none.")] = None

    following: Annotated[FlagCreatePairsOff[bool], arg(
        help="Instead ask the same requests of a simulated shop with right, noisy, "
        "swapped and no texts, and tell whether the network follows them.")] = False

    def work(self) -> dict[str, Any]:
        from oxyrec_jax import workflow
        if self.split not in ("test", "valid"):
            raise InputError(f"--split {self.split}: expected test or valid")
        if self.following:
            if self.instructions is not None:
                raise InputError("--following asks with texts of all kinds; give it "
                                 "without --instructions")
            return workflow.follow(self.space(), self.split,
                                   experts=not self.decoder_only)
        return workflow.evaluate(self.space(), self.split,
                                 experts=not self.decoder_only,
                                 instructions=self.instructions)


@dataclasses.dataclass(frozen=True)
class Recommend(Verb):
    """Recommend for one user of the log, or for a history given by item ids.

    Examples:
    $ oxyrec recommend --workdir runs/quickstart --user user-00000017 --k 5
    $ oxyrec recommend --workdir runs/quickstart --items item-0000003 item-0000040
    $ oxyrec recommend --workdir runs/shop --user user-00000017 --rerank runs/ranker
    """

    user: Annotated[str | None, arg(
        metavar="USER", help_behavior_hint="", help="A user id of the log.")] = None
    items: Annotated[tuple[str, ...], arg(
        metavar="ITEM", help_behavior_hint="",
        help="Item ids of a history instead, oldest first.")] = ()
    k: Annotated[int, arg(help="How many items.")] = 10
    scenario: Annotated[str | None, arg(
        metavar="NAME", help_behavior_hint="",
        help="Where the request is made, such as search.")] = None
    trigger: Annotated[str | None, arg(
        metavar="ITEM", help_behavior_hint="",
        help="Item id of what opened the scenario.")] = None
    instruction: Annotated[str | None, arg(
        metavar="TEXT", help_behavior_hint="",
        help="What is wanted, in words. These three are for a network that reads "
        "instructions.")] = None
    rerank: Annotated[str, arg(
        metavar="FOLDER", help_behavior_hint="", help="Work directory of a ranking "
        "model (docs/ranking.md) that orders the beam's items anew.")] = ""
    by: Annotated[str, arg(help="What it orders by: click, cart, order or value (price "
                           "times the chance of an order).")] = "value"

    def work(self) -> dict[str, Any]:
        from oxyrec_jax import workflow
        asked = workflow.Asked(self.scenario, self.trigger, self.instruction)
        return workflow.recommend(self.space(), user=self.user, items=self.items,
                                  k=self.k, asked=asked, rerank=self.rerank,
                                  by=self.by)


@dataclasses.dataclass(frozen=True)
class Report(Verb):
    """Write one HTML file: curves, tables, semantic IDs, examples.

    Example:
    $ oxyrec report --workdir runs/beauty
    """

    def work(self) -> dict[str, Any]:
        from oxyrec_jax import workflow
        return workflow.report(self.space())


@dataclasses.dataclass(frozen=True)
class ABTest(Verb):
    """Compare policies in the simulated shop as in an online test: A/A, then A/B.

    An arm is a work directory (its first seed), FOLDER:1 for another seed, FOLDER:RUN
    for a folder in it that holds parameters, or a rule: old (the recommender that wrote
    the log; it knows the needs), truth (the best there is; it knows everything) or
    popularity. People of the log go on from where it ended, for a fixed number of days.
    By default each meets one arm, split by a hash; with --paired everybody meets all,
    with the same luck. Killed and started again, it continues. docs/abtest.md tells how
    to read the figures and the page.

    Examples:
    $ oxyrec abtest --control old --treatment runs/quickstart --days 5 --users 500
    $ oxyrec abtest --control runs/a --treatment runs/a:1 --treatment runs/b --paired
    """

    experiment: Annotated[str, tyro.conf.Suppress] = ""
    workdir: Annotated[pathlib.Path, arg(
        metavar="FOLDER", help="Where the test lies: days done, results, page. One "
        "folder for one test.")] = pathlib.Path("runs/abtest")
    control: Annotated[str, arg(metavar="ARM", help="What is served now.")] = "old"
    treatment: Annotated[UseAppendAction[tuple[str, ...]], arg(
        metavar="ARM", help_behavior_hint="(required; repeat for more)",
        help="What might be served instead.")] = ()
    shop: Annotated[pathlib.Path | None, arg(
        metavar="FOLDER", help_behavior_hint="(default: that of the first work "
        "directory)", help="The shop: a work directory or prepared data.")] = None
    days: Annotated[int, arg(help="Length of the test; fixed when it begins.")] = 7
    users: Annotated[int | None, arg(
        metavar="INT", help_behavior_hint="(default: all)",
        help="How many people of the log take part.")] = None
    slate: Annotated[int | None, arg(
        metavar="INT", help_behavior_hint="(default: as in the log)",
        help="Items in a list.")] = None
    paired: Annotated[FlagCreatePairsOff[bool], arg(
        help="Everybody meets all arms, with the same luck: far smaller intervals, "
        "possible in a simulation alone.")] = False
    name: Annotated[str, arg(
        help="Salt of the split; another name splits people anew.")] = "test"
    comes: Annotated[float, arg(
        help="Chance that a person visits the shop on a day.")] = 0.5
    requests: Annotated[int, arg(help="The most requests of a visit.")] = 8
    seed: Annotated[int, arg(help="Of the people's luck.")] = 0
    level: Annotated[float, arg(help="Of intervals and significance.")] = 0.95
    splits: Annotated[int, arg(help="A/A tests before the A/B test.")] = 200

    def work(self) -> dict[str, Any]:
        from oxyrec_jax import ab_test
        from oxyrec_jax.closed_loop.days import Visiting
        from oxyrec_jax.closed_loop.trial import Design
        plan = ab_test.Plan(
            self.control, self.treatment, self.shop, self.days, self.users, self.slate,
            Visiting(self.comes, self.requests, self.seed),
            Design(self.name, self.paired, self.level, self.splits), self.set)
        return ab_test.run(plan, self.workdir)


@dataclasses.dataclass(frozen=True)
class Inspect(Verb):
    """Say what a work directory holds and check every file's digest.

    Example:
    $ oxyrec inspect --workdir runs/beauty
    """

    def work(self) -> dict[str, Any]:
        from oxyrec_jax import inspection
        return inspection.inspect(self.space())


VERBS: dict[str, type[Verb]] = {
    "quickstart": Quickstart, "prepare": Prepare, "tokenize": Tokenize, "train": Train,
    "align": Align,
    "think": Think, "judge": Judge, "evaluate": Evaluate, "recommend": Recommend,
    "report": Report,
    "abtest": ABTest, "inspect": Inspect}


def main(arguments: list[str] | None = None) -> None:
    """Runs one verb; the entry point of the `oxyrec` command.

    Args:
      arguments: as on the command line; those of the process by default.

    Raises:
      SystemExit: with code 2 after one clear sentence on bad input, 130 when
        interrupted.
    """
    _set_up_logging()
    verb = _parse(sys.argv[1:] if arguments is None else arguments)
    try:
        found = verb.work()
    except InputError as error:
        print(f"oxyrec: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("oxyrec: stopped; the same command continues", file=sys.stderr)
        raise SystemExit(130) from None
    if verb.json:
        print(json.dumps(found, allow_nan=False))
    else:
        from oxyrec_jax import printing
        printing.show(found)


def _parse(arguments: list[str]) -> Verb:
    """The verb with its options; a verb's examples show in its own help only."""
    name = arguments[0] if arguments else ""
    if name in VERBS:
        return tyro.cli(VERBS[name], prog=f"oxyrec {name}", args=arguments[1:],
                        description=inspect.cleandoc(str(VERBS[name].__doc__)))
    choices = tuple(Annotated[verb, subcommand(
        name=name, description=str(verb.__doc__).splitlines()[0])]
        for name, verb in VERBS.items())
    return tyro.cli(
        Union[choices], prog="oxyrec", args=arguments,  # type: ignore
        description="Generative recommendation on JAX: from a behaviour log to a "
        "measured recommender.\n\nBegin with `oxyrec quickstart`; `oxyrec VERB "
        "--help` shows a verb's options and examples.")


def _headline(results: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in results.items()
            if isinstance(value, float | int | str)}
    return kept | {name: results[name] for name in
                   ("intervals", "baselines", "differences", "config")}


def _set_up_logging() -> None:
    level = os.environ.get("OXYREC_LOG", "INFO").upper()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr,
                        format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("oxyrec_jax").setLevel(level)
