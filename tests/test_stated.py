"""Figures that experiments state: read strictly, without running the file."""

import pathlib

import pytest

from oxyrec_jax.errors import InputError
from oxyrec_jax.stated import EXPECTED, Figure, parse, stated

EXPERIMENTS = pathlib.Path(__file__).resolve().parents[1] / "experiments"
STATING = [path for path in sorted(EXPERIMENTS.glob("*.py"))
           if f"\n{EXPECTED} = " in path.read_text("utf-8")]
TABLE = '''
| | hits | ranks |
|---|---|---|
| model | .12 ± .01 | – |
| rule, plain | 0.1 ~ .02 | 7 ~ 1 |
'''


def write(folder, text):
    path = folder / "it.py"
    path.write_text(text)
    return path


@pytest.mark.parametrize("text, expected", [
    (".0851 ± .0001", Figure(0.0851, 0.0001, True, 0.00005)),
    ("-0.5 ~ .02", Figure(-0.5, 0.02, False, 0.05)),
    ("12 ± 1", Figure(12.0, 1.0, True, 0.5))])
def test_a_figure_by_hand(text, expected):
    found = parse(text, "here")
    assert (found.mean, found.spread, found.seeds) == (
        expected.mean, expected.spread, expected.seeds)
    assert found.unit == pytest.approx(expected.unit, rel=1e-12)


@pytest.mark.parametrize("text", ["", ".1", ".1±.2", ".1 ± ", ".1 ± .2 ± .3", "a ± b",
                                  ".1 +- .2", ". ± .1", "nan ± 1"])
def test_anything_else_is_refused_with_its_place(text):
    with pytest.raises(InputError, match="here is .* expected a figure such as"):
        parse(text, "here")


def test_a_table_is_rows_of_columns_and_a_dash_is_nothing(tmp_path):
    path = write(tmp_path, f'{EXPECTED} = {{"all": """{TABLE}"""}}\nraise SystemExit\n')
    assert stated(path) == {"all": {"model": {"hits": ".12 ± .01"}, "rule, plain": {
        "hits": "0.1 ~ .02", "ranks": "7 ~ 1"}}}


@pytest.mark.parametrize("text, words", [
    ("x = 1", "states no figures"),
    (f"{EXPECTED} = 3", "is int, expected one or more tables"),
    (f"{EXPECTED} = {{}}", "is dict, expected one or more tables"),
    (f"{EXPECTED} = dict(a=1)", "without calls or names"),
    (f"{EXPECTED} = (", "could not be read"),
    (f"{EXPECTED} = {{'t': 5}}", r"\['t'\] is no Markdown table"),
    (f"{EXPECTED} = {{'t': '''{TABLE}| odd | 1 ± 1 |'''}}", "is no Markdown table"),
    (f"{EXPECTED} = {{'t': '''{TABLE}| model | 1 ± 1 | – |'''}}", "a name of its own"),
    (f"{EXPECTED} = {{'t': '''{TABLE}| new | 1 | – |'''}}", "new, hits is '1'"),
])
def test_what_is_wrong_is_said(tmp_path, text, words):
    with pytest.raises(InputError, match=words):
        stated(write(tmp_path, text))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="nothing.py does not exist"):
        stated(tmp_path / "nothing.py")


@pytest.mark.parametrize("path", STATING, ids=lambda path: path.stem)
def test_every_stated_figure_stands_in_the_docs(path):
    """With its digits, so that the two cannot drift apart; `~` is not in the docs."""
    docs = EXPERIMENTS.parent / "docs"
    text = "\n".join((docs / name).read_text("utf-8")
                     for name in ("results.md", "abtest.md"))
    for table, rows in stated(path).items():
        for row, columns in rows.items():
            for column, figure in columns.items():
                mean, kind, spread = figure.split()
                wanted = figure if kind == "±" else mean
                # A rate may stand as a percentage.
                assert wanted in text or f"{float(mean):.1%}" in text, (
                    table, row, column, figure)


def test_enough_experiments_state_figures():
    assert {path.stem for path in STATING} >= {
        "beauty", "instructions", "off_policy", "quickstart", "scenarios",
        "semantic_ids"}
