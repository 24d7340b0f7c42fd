"""An experiment is run again, and its figures agree or are told apart."""

import contextlib
import json
import pathlib
import shutil

import numpy as np
import pytest
from scipy import stats

from oxyrec_jax import cli, reproduction
from oxyrec_jax.errors import InputError
from oxyrec_jax.evaluate import evaluation

FAKE = '''
import json, pathlib

EXPECTED = {"first": """
| | hits | time |
|---|---|---|
| model | .50 ± .02 | – |
| rule | .30 ~ .01 | 4 ~ 1 |
| other | .10 ± .01 | – |
""", "second": """
| | hits |
|---|---|
| model | .50 ± .02 |
"""}
TOY = ()


def get_config():
    raise AssertionError("not asked")


def reproduce(table, rows, workdir, *, settings, toy):
    (pathlib.Path(__file__).parent / "asked.json").write_text(json.dumps(
        [table, list(rows), str(workdir), list(settings), toy]))
    return {"model": {"hits": [MODEL, .52, .49]}, "other": {"hits": [.1, .11, .09]},
            "rule": {"hits": [.309], "time": [4.0]}}
'''


@pytest.fixture
def experiment(tmp_path):
    """Writes an experiment whose model's first seed has the given figure."""
    def write(first=0.5):
        path = tmp_path / "fake.py"
        path.write_text(FAKE.replace("MODEL", str(first)))
        return path
    return write


def test_the_test_is_welchs_beyond_the_rounding():
    values = [0.62, 0.60, 0.59]
    found = reproduction.compare({"a": {"x": ".50 ± .02"}}, {"a": {"x": values}})
    cell = found["a"]["x"]
    # Half a unit of the last digit, 0.005, is left out of the difference.
    expected = stats.ttest_ind_from_stats(
        np.mean(values) - 0.005, np.std(values, ddof=1), 3, 0.5, 0.02, 3,
        equal_var=False)
    assert cell["errors"] == pytest.approx(expected.statistic)
    assert cell["p"] == pytest.approx(expected.pvalue)
    assert not cell["agrees"] and cell["difference"] == pytest.approx(0.1 + 0.01 / 3)


def test_two_figures_need_more_to_differ_than_one():
    one = {"a": {"x": ".50 ± .02"}}
    values = {"x": [0.58, 0.55, 0.54]}  # p = 0.046 alone
    alone = reproduction.compare(one, {"a": values})["a"]["x"]
    both = reproduction.compare({**one, "b": {"x": ".50 ± .02"}},
                                {"a": values, "b": {"x": [0.5, 0.52, 0.48]}})["a"]["x"]
    assert both["p"] == pytest.approx(2 * alone["p"])
    assert (alone["agrees"], both["agrees"]) == (alone["p"] >= 0.05, True)
    assert alone["p"] < 0.05


@pytest.mark.parametrize("value, agrees", [
    (0.3, True), (0.3149, True), (0.2851, True), (0.3151, False), (0.284, False)])
def test_a_tolerance_has_the_rounding_on_top(value, agrees):
    found = reproduction.compare({"a": {"x": ".30 ~ .01"}}, {"a": {"x": [value]}})
    assert found["a"]["x"]["agrees"] is agrees
    assert found["a"]["x"]["p"] is None and found["a"]["x"]["errors"] is None


def test_equal_runs_agree_whatever_their_spread():
    found = reproduction.compare({"a": {"x": ".50 ± .00"}}, {"a": {"x": [0.5] * 3}})
    assert found["a"]["x"]["agrees"] and found["a"]["x"]["p"] == 1


def test_a_stated_figure_that_was_not_found_is_named():
    with pytest.raises(InputError, match="no figure 'x' of 'a'"):
        reproduction.compare({"a": {"x": ".5 ± .1"}}, {"a": {"y": [0.5]}})


def test_figures_that_agree_are_reproduced(experiment, tmp_path):
    path = experiment()
    found = reproduction.reproduce(path, tmp_path / "out", table="first",
                                   settings=("a=1",))
    assert found["reproduced"] is True
    assert found["verdict"] == "reproduced: 4 of 4 figures agree"
    assert json.loads((tmp_path / "asked.json").read_text()) == [
        "first", ["model", "rule", "other"], str(tmp_path / "out"), ["a=1"], False]
    page = pathlib.Path(found["page"]).read_text("utf-8")
    assert "| rule | hits | .30 ~ .01 | 0.3090 | +0.0090 | – | yes |" in page
    rounded = "| model | hits | .50 ± .02 | 0.5033 ± 0.0153 | +0.0033 | +0.0 | yes |"
    assert rounded in page
    stored = json.loads((tmp_path / "out" / "reproduction.json").read_text())
    assert stored == found


def test_the_worst_of_the_figures_that_differ_is_told(experiment, tmp_path):
    found = reproduction.reproduce(experiment(), tmp_path / "out")
    assert found["reproduced"] and list(found["tables"]) == ["first", "second"]
    text = experiment().read_text().replace("[.1, .11, .09]", "[.2, .21, .19]")
    (tmp_path / "fake.py").write_text(text.replace(".309", ".32"))
    found = reproduction.reproduce(tmp_path / "fake.py", tmp_path / "out")
    assert found["reproduced"] is False
    assert found["verdict"].startswith(
        "not reproduced: 2 of 5 figures differ, most first, other, hits: 0.2000, "
        "stated .10 ± .01 (+0.1000, 11.6 standard errors beyond rounding)")


def test_a_toy_tries_two_rows_and_compares_nothing(experiment, tmp_path):
    found = reproduction.reproduce(experiment(0.9), tmp_path / "out", toy=True)
    assert found["reproduced"] is None and "not compared" in found["verdict"]
    assert json.loads((tmp_path / "asked.json").read_text())[1:] == [
        ["model"], str(tmp_path / "out"), [], True]
    path = experiment()
    path.write_text(path.read_text().replace("TOY = ()", ""))
    with pytest.raises(InputError, match="has no toy size"):
        reproduction.reproduce(path, tmp_path / "out", toy=True)


def test_the_command_says_by_its_exit_code_whether(experiment, tmp_path, capsys):
    path = experiment()
    with contextlib.chdir(tmp_path):
        cli.main(["reproduce", str(path), "--table", "first"])
        told = capsys.readouterr().out
        assert "reproduced: 4 of 4 figures agree" in told and ".50 ± .02" in told
        assert (tmp_path / "runs" / "reproduce" / "fake" / "reproduction.md").exists()
        path.write_text(path.read_text().replace(".309", ".5"))
        with pytest.raises(SystemExit) as stop:
            cli.main(["reproduce", str(path), "--table", "first", "--json"])
        assert stop.value.code == 1
        assert json.loads(capsys.readouterr().out)["reproduced"] is False
        for words, message in ((["reproduce", "nothing"], "nothing.py does not exist"),
                               (["reproduce", str(path), "--table", "third"],
                                "states no table 'third'; it has first, second")):
            with pytest.raises(SystemExit) as stop:
                cli.main(words)
            assert stop.value.code == 2 and message in capsys.readouterr().err


def test_without_a_name_the_experiments_are_listed(experiment, tmp_path, capsys):
    with contextlib.chdir(tmp_path):
        with pytest.raises(SystemExit):
            cli.main(["reproduce"])
        assert "no folder experiments here" in capsys.readouterr().err
        (tmp_path / "experiments").mkdir()
        shutil.copy(experiment(), tmp_path / "experiments")
        cli.main(["reproduce", "--json"])
    assert json.loads(capsys.readouterr().out) == {"experiments": {"fake": {
        "first": "3 rows, 4 figures", "second": "1 rows, 1 figures"}}}


def test_an_experiment_of_one_work_directory_needs_no_function(trained, tmp_path):
    """All is done there already; figures are those of an evaluation, by seed."""
    for name in ("events.csv", "items.csv"):
        shutil.copy(trained.parent / name, tmp_path)
    work = shutil.copytree(trained, tmp_path / "work")
    (tmp_path / "mine.py").write_text(f"""
import json
import pathlib
from oxyrec_jax import config

EXPECTED = {{"test": '''
| | item.recall@10 |
|---|---|
| model | 9 ~ .1 |
| decoder alone | 9 ± 9 |
| popularity | 0.5 ~ .5 |
'''}}


def get_config():
    text = pathlib.Path({str(work / 'experiment.json')!r}).read_text()
    return config.from_dict(json.loads(text), "")
""")
    with contextlib.chdir(tmp_path):
        found = reproduction.reproduce(tmp_path / "mine.py", work)
    rows = found["tables"]["test"]
    results = evaluation.read_evaluation(work / "evaluation" / "test").results
    assert rows["model"]["item.recall@10"]["found"] == results["item.recall@10"]
    assert not rows["model"]["item.recall@10"]["agrees"]
    assert rows["popularity"]["item.recall@10"]["found"] == (
        results["baselines"]["popularity"]["item.recall@10"])
    assert 0 <= rows["decoder alone"]["item.recall@10"]["found"] <= 1
