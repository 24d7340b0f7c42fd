"""The command line: thin verbs over `workflow`."""

import inspect
import json
import logging
import os
import sys
from typing import Annotated, Union

import tyro
from tyro.conf import subcommand

from oxyrec_jax import __version__, compile_cache
from oxyrec_jax.cli import extras
from oxyrec_jax.cli.building import Align, Prepare, Quickstart, Tokenize, Train
from oxyrec_jax.cli.exporting import Export
from oxyrec_jax.cli.measuring import BenchTrain, InspectSharding
from oxyrec_jax.cli.reasoning import Judge, Think
from oxyrec_jax.cli.reproducing import Reproduce
from oxyrec_jax.cli.serving import Serve
from oxyrec_jax.cli.using import ABTest, Evaluate, Inspect, Recommend, Report
from oxyrec_jax.cli.verb import Verb
from oxyrec_jax.errors import InputError

VERBS: dict[str, type[Verb]] = {
    "quickstart": Quickstart, "prepare": Prepare, "tokenize": Tokenize, "train": Train,
    "align": Align, "think": Think, "judge": Judge, "evaluate": Evaluate,
    "recommend": Recommend, "report": Report, "abtest": ABTest, "inspect": Inspect,
    "inspect sharding": InspectSharding, "bench train": BenchTrain,
    "reproduce": Reproduce, "serve": Serve, "export": Export}


def main(arguments: list[str] | None = None) -> None:
    """Runs one verb; the entry point of the `oxyrec` command.

    Args:
      arguments: as on the command line; those of the process by default.

    Raises:
      SystemExit: with code 2 after one clear sentence on bad input, 130 when
        interrupted, 1 where a verb says so of what it found.
    """
    _set_up_logging()
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["--version"]:
        print(f"oxyrec_jax {__version__}")
        return
    verb = _parse(arguments)
    kept = compile_cache.keep()
    try:
        found = verb.work()
    except InputError as error:
        print(f"oxyrec: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    except ModuleNotFoundError as error:
        extra = extras.extra_of(error)
        if extra is None:
            raise
        print(f"oxyrec: {error.name} is not installed; `pip install "
              f"'oxyrec_jax[{extra}]'` installs it and what belongs to it",
              file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("oxyrec: stopped; the same command continues", file=sys.stderr)
        raise SystemExit(130) from None
    finally:
        if kept is not None:
            kept.tell()
    if not verb.speaks():
        return
    if verb.json:
        print(json.dumps(found, allow_nan=False))
    else:
        from oxyrec_jax import printing
        printing.show(found)
    if code := verb.code(found):
        raise SystemExit(code)


def _parse(arguments: list[str]) -> Verb:
    """The verb with its options; a verb's examples show in its own help only."""
    for words in (2, 1):
        name = " ".join(arguments[:words])
        if name not in VERBS:
            continue
        return tyro.cli(VERBS[name], prog=f"oxyrec {name}", args=arguments[words:],
                        description=inspect.cleandoc(str(VERBS[name].__doc__)))
    choices = tuple(Annotated[verb, subcommand(
        name=name, description=str(verb.__doc__).splitlines()[0])]
        for name, verb in VERBS.items())
    return tyro.cli(
        Union[choices], prog="oxyrec", args=arguments,  # type: ignore
        description="Generative recommendation on JAX: from a behaviour log to a "
        "measured recommender.\n\nBegin with `oxyrec quickstart`; `oxyrec VERB "
        "--help` shows a verb's options and examples, `oxyrec --version` the release.")


def _set_up_logging() -> None:
    level = os.environ.get("OXYREC_LOG", "INFO").upper()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr,
                        format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("oxyrec_jax").setLevel(level)
