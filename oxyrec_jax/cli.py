"""The command line: thin verbs over `workflow`."""

import dataclasses
import json
import logging
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Annotated, Any

import tyro
from tyro.conf import Positional, UseAppendAction, arg

from oxyrec_jax.base import InputError

Settings = Annotated[
    UseAppendAction[tuple[str, ...]],
    arg(metavar="NAME=VALUE", help="Change a field of the experiment, such as "
        "train.steps=50; may be given again.")]
Json = Annotated[bool, arg(help="Print one JSON object as the last line of standard "
                           "output, and nothing else there.")]
Workdir = Annotated[pathlib.Path, arg(help="Where everything of this experiment lies.")]
File = Annotated[str | None, arg(
    metavar="EXPERIMENT",
    help="An experiment file. Without it: the one the work directory was made with.")]


@dataclasses.dataclass(frozen=True)
class Verb:
    """What all verbs share."""

    experiment: Positional[File] = None
    workdir: Workdir = pathlib.Path("runs/experiment")
    set: Settings = ()
    json: Json = False

    def work(self) -> dict[str, Any]:
        """Does the work and returns JSON values."""
        raise TypeError(f"{type(self).__name__} has no work")

    def space(self, *settings: str) -> Any:
        """The work directory, its experiment changed by `--set` and more settings."""
        from oxyrec_jax import config, workflow  # jax: not for --help
        cfg = config.load_experiment(self.experiment) if self.experiment else None
        return workflow.open_workspace(self.workdir, cfg, (*settings, *self.set))


@dataclasses.dataclass(frozen=True)
class Quickstart(Verb):
    """Run everything on the simulated shop, in minutes, and write a report.

    Example: oxyrec quickstart --workdir runs/quickstart
    """

    workdir: Workdir = pathlib.Path("runs/quickstart")

    def work(self) -> dict[str, Any]:
        from oxyrec_jax import quickstart, workflow
        cfg = quickstart.get_config()
        if self.experiment:
            raise InputError("quickstart takes no experiment file; use the verbs "
                             "prepare, tokenize, train, evaluate and report for one")
        space = workflow.open_workspace(self.workdir, cfg, self.set)
        workflow.prepare(space)
        workflow.tokenize(space)
        trained = workflow.train(space)
        return (_headline(workflow.evaluate(space)) | {"training": trained}
                | workflow.report(space))


@dataclasses.dataclass(frozen=True)
class Prepare(Verb):
    """Read a behaviour log into a prepared data set.

    Example: oxyrec prepare experiments/beauty.py --workdir runs/beauty
    Example: oxyrec prepare --source shop --workdir runs/shop
    """

    source: Annotated[str | None, arg(help="Short for --set data.source=…")] = None
    path: Annotated[str | None, arg(help="Short for --set data.path=…")] = None

    def work(self) -> dict[str, Any]:
        from oxyrec_jax import config, workflow
        short = [f"data.{name}={json.dumps(value)}" for name, value in
                 (("source", self.source), ("path", self.path)) if value is not None]
        if self.experiment is None and not (self.workdir / "experiment.json").exists():
            if self.source is None:
                raise InputError("give an experiment file, or --source and --path")
            return workflow.prepare(workflow.open_workspace(
                self.workdir, config.Experiment(), (*short, *self.set)))
        return workflow.prepare(self.space(*short))


@dataclasses.dataclass(frozen=True)
class Tokenize(Verb):
    """Give every item a semantic ID.

    Example: oxyrec tokenize --workdir runs/beauty --set tokenizer.widths=[256,256,256]
    """

    def work(self) -> dict[str, Any]:
        from oxyrec_jax import workflow
        return workflow.tokenize(self.space())


@dataclasses.dataclass(frozen=True)
class Train(Verb):
    """Train the generator; killed and started again, it continues.

    Example: oxyrec train --workdir runs/beauty --seed 0
    """

    seed: Annotated[int | None, arg(help="Train this seed only; else all of the "
                                    "experiment's.")] = None

    def work(self) -> dict[str, Any]:
        from oxyrec_jax import workflow
        return workflow.train(self.space(), None if self.seed is None else [self.seed])


@dataclasses.dataclass(frozen=True)
class Evaluate(Verb):
    """Judge the trained runs beside untrained baselines.

    Example: oxyrec evaluate --workdir runs/beauty --json
    """

    split: Annotated[str, arg(help="test or valid")] = "test"
    decoder_only: Annotated[bool, arg(help="Leave out the memory and the item head of "
                                      "a model that mixes them in.")] = False

    def work(self) -> dict[str, Any]:
        from oxyrec_jax import workflow
        if self.split not in ("test", "valid"):
            raise InputError(f"--split {self.split}: expected test or valid")
        return workflow.evaluate(self.space(), self.split,
                                 experts=not self.decoder_only)


@dataclasses.dataclass(frozen=True)
class Recommend(Verb):
    """Recommend for one user of the log, or for a history given by item ids.

    Example: oxyrec recommend --workdir runs/quickstart --user u17 --k 5
    """

    user: Annotated[str | None, arg(help="A user id of the log.")] = None
    items: Annotated[tuple[str, ...], arg(help="Item ids, oldest first.")] = ()
    k: Annotated[int, arg(help="How many items.")] = 10

    def work(self) -> dict[str, Any]:
        from oxyrec_jax import workflow
        return workflow.recommend(self.space(), user=self.user, items=self.items,
                                  k=self.k)


@dataclasses.dataclass(frozen=True)
class Report(Verb):
    """Write one HTML file: curves, tables, semantic IDs, examples.

    Example: oxyrec report --workdir runs/beauty
    """

    def work(self) -> dict[str, Any]:
        from oxyrec_jax import workflow
        return workflow.report(self.space())


@dataclasses.dataclass(frozen=True)
class Inspect(Verb):
    """Say what a work directory holds and check every file's digest.

    Example: oxyrec inspect --workdir runs/beauty
    """

    def work(self) -> dict[str, Any]:
        from oxyrec_jax import inspection
        return inspection.inspect(self.space())


VERBS: dict[str, Callable[..., Any]] = {
    "quickstart": Quickstart, "prepare": Prepare, "tokenize": Tokenize, "train": Train,
    "evaluate": Evaluate, "recommend": Recommend, "report": Report, "inspect": Inspect}


def main(arguments: list[str] | None = None) -> None:
    """Runs one verb; the entry point of the `oxyrec` command.

    Args:
      arguments: as on the command line; those of the process by default.

    Raises:
      SystemExit: with code 2 after one clear sentence on bad input, 130 when
        interrupted.
    """
    _set_up_logging()
    verb = tyro.extras.subcommand_cli_from_dict(
        VERBS, prog="oxyrec", args=arguments,
        description="Generative recommendation on JAX: from a behaviour log to a "
        "measured recommender.")
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


def _headline(results: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in results.items()
            if isinstance(value, float | int | str)}
    return kept | {"baselines": results["baselines"]}


def _set_up_logging() -> None:
    level = os.environ.get("OXYREC_LOG", "INFO").upper()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr,
                        format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("oxyrec_jax").setLevel(level)
