"""A part imports itself and the parts of rows before its own, and nothing else."""

import ast
import pathlib

import pytest

import oxyrec_jax

PACKAGE = pathlib.Path(oxyrec_jax.__file__).parent
NAME = PACKAGE.name

# Every part stands in one row and may import all rows above. Parts of one row are
# strangers: where two of them must meet, one moves down a row.
ROWS = (
    ("errors",),  # all that the command line needs before a verb runs
    ("base", "stated"),
    ("artifacts", "progress", "huge_pages",  # wanted from the next row on
     "compile_cache", "transaction"),
    ("answer_cache",),
    ("parallel", "profiling", "losses", "metrics", "llm"),
    ("chat",),
    ("data", "models", "thinking", "checkpoint"),
    ("tokenizer", "user_states", "rewards"),
    ("decode", "judge_requests"),
    ("train", "evaluate", "closed_loop"),
    ("report", "config"),
    ("serve",),  # its pages look as the report does
    ("workspace",),
    ("instruction_store",),
    ("ready", "quickstart"),  # what a configuration names; one configuration
    ("ranking",),
    ("answers", "steering", "ab_test", "slow_thinking", "judging", "validation",
     "serving", "export", "sharding_plan", "training_speed"),
    ("aligning",),
    ("workflow",),
    ("reproduction",),
    ("inspection", "printing"),  # what the command line shows
    ("cli",),
    ("__main__",),
)
RANK = {part: rank for rank, row in enumerate(ROWS) for part in row}
ANYWHERE = {"__version__"}  # of the package itself


def imported(source, package):
    """Dotted names of the package's own modules that a source file imports.

    Args:
      source: Python text; imports inside functions and `if` blocks count too.
      package: dotted name of the package that holds the file, for relative imports.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[:-(node.level - 1) or None]
            module = ".".join([*(parents if node.level else []),
                               *([node.module] if node.module else [])])
            if module == NAME:
                found += [f"{NAME}.{alias.name}" for alias in node.names]
            else:
                found.append(module)
        elif (isinstance(node, ast.Call) and node.args
              and isinstance(node.args[0], ast.Constant)
              and isinstance(node.args[0].value, str)
              and ast.unparse(node.func).endswith("import_module")):
            found.append(node.args[0].value)
    return [name for name in found if name.split(".")[0] == NAME and name != NAME]


def part_of(dotted):
    return dotted.split(".")[1]


def breaches(part, source, package):
    """What a file of a part imports and may not."""
    others = {part_of(name) for name in imported(source, package)} - ANYWHERE - {part}
    return sorted(other for other in others
                  if RANK.get(other, len(ROWS)) >= RANK[part])


FILES = sorted(path for path in PACKAGE.rglob("*.py")
               if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_to_earlier_rows_only(path):
    inside = path.relative_to(PACKAGE)
    part = inside.parts[0].removesuffix(".py")
    assert part in RANK, f"{part} stands in no row: give it one"
    package = ".".join([NAME, *inside.parts[:-1]])
    assert breaches(part, path.read_text("utf-8"), package) == []


def test_importing_the_package_imports_no_part():
    assert imported((PACKAGE / "__init__.py").read_text("utf-8"), NAME) == []


@pytest.mark.parametrize("line, found", [
    ("from oxyrec_jax import decode", ["decode"]),
    ("from oxyrec_jax import losses, decode, artifacts", ["decode"]),
    ("from oxyrec_jax.train.loop import train", ["train"]),
    ("import oxyrec_jax.models.layers", ["models"]),
    ("def f():\n  from oxyrec_jax import cli", ["cli"]),
    ("from ..serve import engine", ["serve"]),
    ("from .. import report", ["report"]),
    ("import importlib\nimportlib.import_module('oxyrec_jax.models')", ["models"]),
    ("from oxyrec_jax import unheard_of", ["unheard_of"]),
    ("from . import schema\nfrom .schema import x\nimport oxyrec_jax", []),
    ("from oxyrec_jax.data import schema\nimport numpy.data", []),
    ("from oxyrec_jax import __version__, base, progress, llm", []),
])
def test_a_breach_in_a_data_file_is_seen(line, found):
    assert breaches("data", line, f"{NAME}.data") == found
