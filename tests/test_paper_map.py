"""Every name of the paper map is in the code, and every row says how far it goes."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "oxyrec_jax"
PAGE = (ROOT / "docs" / "paper_map.md").read_text("utf-8")
HEAD = ["mechanism", "where", "tests", "experiment", "status",
        "source, and what is ours or missing"]


def rows_of(text):
    """Cells of every row of the page's tables of mechanisms."""
    lines = [[cell.strip() for cell in line.strip().strip("|").split("|")]
             for line in text.splitlines() if line.startswith("|")]
    return [row for row in lines if row != HEAD and set(row[0]) - {"-"}]


def module_of(parts):
    """(file of the longest dotted prefix that is a module, what is left)."""
    for length in range(len(parts), 0, -1):
        place = PACKAGE.joinpath(*parts[:length])
        for path in (place.with_suffix(".py"), place / "__init__.py"):
            if path.is_file():
                return path, parts[length:]
    return None, parts


def defined(path):
    """Names that a module defines or imports at its top."""
    found = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {ast.unparse(target) for target in node.targets}
        elif isinstance(node, ast.ImportFrom | ast.Import):
            found |= {alias.asname or alias.name for alias in node.names}
    return found


ROWS = rows_of(PAGE)


def test_the_page_has_the_mechanisms_of_both_papers():
    assert len(ROWS) > 40
    assert {len(row) for row in ROWS} == {len(HEAD)}
    assert len({row[0] for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_every_name_of_a_row_exists(row):
    _, where, tests, experiment, status, source = row
    assert status in ("done", "part", "not done") and source
    names = re.findall(r"`([^`]+)`", where)
    assert bool(names) == (status != "not done"), "code and status disagree"
    for name in names:
        path, rest = module_of(name.split("."))
        assert path is not None and len(rest) == 1, f"{name} is no name of a module"
        assert rest[0] in defined(path), f"{name}: {path.name} has no {rest[0]}"
    held = re.findall(r"`([^`]+)`", tests)
    assert held or status == "not done", "nothing tests it"
    for name in held:
        assert (ROOT / "tests" / name).is_file(), name
    for name in re.findall(r"`([^`]+)`", experiment):
        assert (ROOT / name).is_file(), name


@pytest.mark.parametrize("name, found", [
    ("losses.q2i_loss", True), ("metrics.ranks", True), ("models.layers.SwiGLU", True),
    ("losses.unheard_of", False), ("nothing.at.all", False)])
def test_a_wrong_name_is_seen(name, found):
    path, rest = module_of(name.split("."))
    assert found is (path is not None and len(rest) == 1 and rest[0] in defined(path))
