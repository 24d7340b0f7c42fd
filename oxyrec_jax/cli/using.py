"""Verbs that use what was trained: figures, recommendations, reports, online tests."""

import dataclasses
import pathlib
from typing import Annotated, Any

from tyro.conf import FlagCreatePairsOff, Suppress, UseAppendAction, arg

from oxyrec_jax.cli.verb import Verb
from oxyrec_jax.errors import InputError


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
    $ oxyrec recommend --workdir runs/mine --user 17 --exclude-history
    $ oxyrec recommend --workdir runs/quickstart --items item-0000003 item-0000040
    $ oxyrec recommend --workdir runs/shop --user user-00000017 --rerank runs/ranker
    """

    user: Annotated[str | None, arg(
        metavar="USER", help_behavior_hint="", help="A user id of the log.")] = None
    items: Annotated[tuple[str, ...], arg(
        metavar="ITEM", help_behavior_hint="",
        help="Item ids of a history instead, oldest first.")] = ()
    k: Annotated[int, arg(help="How many items.")] = 10
    exclude_history: Annotated[FlagCreatePairsOff[bool], arg(
        help="Recommend nothing that stands in the history.")] = False
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
                                  k=self.k, asked=asked,
                                  exclude_history=self.exclude_history,
                                  rerank=self.rerank, by=self.by)


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

    experiment: Annotated[str, Suppress] = ""
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
            Design(self.name, self.paired, self.level, self.splits),
            (*self.set, *self.layout()))
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
