"""The figures that an experiment file states, read without running it.

They stand in a constant of the file, as in docs/results.md:

    EXPECTED = {"test": '''
    | | item.recall@10 | item.ndcg@10 |
    |---|---|---|
    | model | .0851 ± .0001 | .0518 ± .0001 |
    | markov | .0781 ~ .0002 | .0476 ~ .0002 |
    '''}

A cell is "mean ± sd" over seeds, "value ~ tolerance" of what no seed moves, or "–".
"""

import ast
import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from oxyrec_jax.errors import InputError

EXPECTED = "EXPECTED"
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)"
_FIGURE = re.compile(rf"({_NUMBER}) (±|~) ({_NUMBER})")

Table = Mapping[str, Mapping[str, str]]  # row to column to figure as stated


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure as stated.

    Attributes:
      mean: the figure, or its mean over seeds.
      spread: standard deviation over seeds, or how far another run may be off.
      seeds: whether `spread` is that of seeds.
      unit: half a unit of the last digit that is stated.
    """

    mean: float
    spread: float
    seeds: bool
    unit: float


def parse(text: str, where: str) -> Figure:
    """Reads "mean ± sd" or "value ~ tolerance".

    Args:
      text: such as ".0851 ± .0001".
      where: what it stands for, of the error.

    Raises:
      InputError: it is neither.
    """
    found = _FIGURE.fullmatch(text)
    if found is None:
        raise InputError(f"{where} is {text!r}, expected a figure such as "
                         "'.0851 ± .0001' or '.0781 ~ .0002'")
    mean, kind, spread = found.groups()
    digits = len(mean.partition(".")[2])
    return Figure(float(mean), float(spread), kind == "±", 0.5 * 10.0 ** -digits)


def stated(path: pathlib.Path) -> dict[str, Table]:
    """The tables that an experiment file states; the file is read and not executed.

    Raises:
      InputError: no such file, no `EXPECTED`, or one that is not as above.
    """
    tables = _constant(path)
    if tables is None:
        raise InputError(f"{path} states no figures; give it a constant {EXPECTED}, as "
                         "docs/reproduce.md shows")
    if not isinstance(tables, dict) or not tables:
        raise InputError(f"{path}: {EXPECTED} is {type(tables).__name__}, expected one "
                         "or more tables by name")
    return {name: _table(text, f"{path}: {EXPECTED}[{name!r}]")
            for name, text in tables.items()}


def _table(text: Any, where: str) -> Table:
    """Row to column to figure of a Markdown table; "–" is no figure."""
    lines = [line.strip() for line in str(text).strip().splitlines()]
    cells = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
    if (len(cells) < 3 or len({len(row) for row in cells}) != 1
            or not all(line[:1] == line[-1:] == "|" for line in lines)
            or len({row[0] for row in cells[2:]}) != len(cells) - 2):
        raise InputError(f"{where} is no Markdown table: a head, a rule and rows of as "
                         "many cells, each row with a name of its own")
    found: dict[str, dict[str, str]] = {}
    for name, *figures in cells[2:]:
        found[name] = {column: figure for column, figure
                       in zip(cells[0][1:], figures, strict=True) if figure != "–"}
        for column, figure in found[name].items():
            parse(figure, f"{where}, {name}, {column}")
    return found


def _constant(path: pathlib.Path) -> Any:
    """The value of `EXPECTED`, a literal; None where there is none."""
    if not path.is_file():
        raise InputError(f"{path} does not exist; give the name of a file in "
                         "experiments, such as beauty, or its path")
    try:
        tree = ast.parse(path.read_text("utf-8"))
        for node in tree.body:
            if isinstance(node, ast.Assign) and [
                    ast.unparse(target) for target in node.targets] == [EXPECTED]:
                return ast.literal_eval(node.value)
    except (SyntaxError, ValueError) as error:
        raise InputError(f"{path}: {EXPECTED} could not be read ({error}); it has to "
                         "be written out, without calls or names") from error
    return None
