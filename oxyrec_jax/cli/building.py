"""Verbs that make something: a data set, semantic IDs, a trained or aligned network."""

import contextlib
import dataclasses
import json
import os
import pathlib
from typing import Annotated, Any

from tyro.conf import FlagCreatePairsOff, arg

from oxyrec_jax.cli.verb import ManyHosts, Verb, Workdir
from oxyrec_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Quickstart(Verb):
    """Run everything on the simulated shop, in minutes, and write a report.

    Example:
    $ oxyrec quickstart --workdir runs/quickstart
    $ oxyrec quickstart --workdir runs/quickstart --whole
    """

    workdir: Workdir = pathlib.Path("runs/quickstart")
    whole: Annotated[FlagCreatePairsOff[bool], arg(
        help="Go on after the report: think, align, and test both networks with users "
        "of the shop; story.html tells all of it. A few minutes more; needs the extra "
        "store.")] = False

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
        found = (_headline(workflow.evaluate(space)) | {"training": trained}
                 | workflow.report(space))
        return found | (workflow.story(space) if self.whole else {})


@dataclasses.dataclass(frozen=True)
class Prepare(Verb):
    """Read a behaviour log into a prepared data set.

    Of a table, data.columns names the columns of events (user, item, time, behaviour,
    scenario, trigger, query, price, request, rating), data.item_columns those of items
    (item, title, brand, category, description, price), and data.time_unit tells what
    its times are in: s, ms, us, ns or iso.

    Examples:
    $ oxyrec prepare experiments/beauty.py --workdir runs/beauty
    $ oxyrec prepare --source table --path events.csv --items items.csv \\
        --set data.columns.user=visitor --set data.columns.time=at \\
        --set data.time_unit=iso --set data.item_columns.title=name
    """

    source: Annotated[str, arg(
        metavar="KIND", help_behavior_hint="(default: the experiment's)",
        help="Kind of the log: shop, table (CSV, Parquet), sequences, amazon2018, "
        "amazon2023, movielens, minionerec or completejourney. Short for --set "
        "data.source=KIND.")] = ""
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
        space = self.space(*short)
        try:
            return workflow.prepare(space)
        except InputError:
            with contextlib.suppress(OSError):  # it holds something: rows left out
                space.folder.rmdir()
            raise


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
class Train(ManyHosts):
    """Train the generator or a ranking model; killed and started again, it continues.

    Ctrl-C finishes the step and saves. A step reads train.pipeline.batch rows of
    row_length events; on a CPU 16 or 32 rows learn as much in less time than the 128
    that suit an accelerator.

    Examples:
    $ oxyrec train --workdir runs/beauty --seed 0
    $ oxyrec train --workdir runs/mine --set train.pipeline.batch=32
    $ oxyrec train --workdir runs/cart --start-from runs/all
    $ oxyrec train --workdir runs/beauty --mesh data=4,fsdp=2
    $ oxyrec train --workdir runs/beauty --coordinator node0:9876 --processes 2 \\
        --process 1
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
        self.join()
        short = ([f"train.start_from={json.dumps(self.start_from)}"]
                 if self.start_from else [])
        return workflow.train(self.space(*short),
                              None if self.seed is None else [self.seed])


@dataclasses.dataclass(frozen=True)
class Align(ManyHosts):
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
        self.join()
        short = [f"align.{name}={json.dumps(os.path.abspath(folder))}" for name, folder
                 in (("ranker", self.ranker), ("judge", self.judge)) if folder]
        return workflow.align(self.space(*short),
                              None if self.seed is None else [self.seed])


def _headline(results: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in results.items()
            if isinstance(value, float | int | str)}
    return kept | {name: results[name] for name in
                   ("intervals", "baselines", "differences", "config")}
