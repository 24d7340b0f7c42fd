"""What README.md and docs/ tell people to type works.

Python blocks run from top to bottom of each page, but for those opened with
"python fragment"; one whose first line is a comment such as `# my_experiment.py` is
also saved under that name. Console blocks of `oxyrec`
commands run too, each page in a folder of its own that holds a small log, with the
settings of the tiny work directory in place of the page's, which are checked apart,
and with its parameters in place of training.
"""

import ast
import contextlib
import json
import pathlib
import re
import shlex
import shutil
from unittest import mock

import pytest

from oxyrec_jax import cli, config, quickstart
from oxyrec_jax.data import shop
from oxyrec_jax.train import loop
from oxyrec_jax.train.parameters import read_params

ROOT = pathlib.Path(__file__).resolve().parents[1]
ELSEWHERE = ("losses.md", "losses_with_optax.md")  # tests/losses runs them
PAGES = sorted([*(ROOT / f"{name}.md" for name in (
    "README", "CONTRIBUTING", "CHANGELOG", "SECURITY")), *(ROOT / "docs").glob("*.md")])
EXPERIMENTS = sorted(path for path in (ROOT / "experiments").glob("*.py")
                     if "def get_config(" in path.read_text("utf-8"))
MADE = ("prepare", "tokenize", "train", "quickstart")  # verbs that keep their settings


def blocks(page):
    """(what stands behind the fence, text) of each fenced block."""
    return re.findall(r"^```([^\n]*)\n(.*?)^```$", page.read_text("utf-8"),
                      re.MULTILINE | re.DOTALL)


def commands(text):
    """The commands of a console block as words, comments left out."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def runnable(language, text):
    return language == "console" and all(words[0] == "oxyrec" for words
                                         in commands(text))


def values_of(words, option):
    return [words[place + 1] for place, word in enumerate(words) if word == option]


def flat(values, prefix=""):
    """Every field of a configuration as "name=value"."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}={json.dumps(value)}"


def done_before(model, dataset, catalogue, cfg, folder, **options):
    """In place of training, which other tests do: what stands there already."""
    params, step = read_params(folder / "best")
    return loop.Outcome(params, 0.0, step, cfg.steps, {})


@pytest.fixture
def home(trained, tmp_path, monkeypatch):
    """A folder with a log; the quickstart is done there, training and the shop, which
    other tests try, are not done again."""
    for name in ("events.csv", "items.csv"):
        shutil.copy(trained.parent / name, tmp_path)
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    tiny = config.from_dict(json.loads((trained / "experiment.json").read_text()), "")
    monkeypatch.setattr(quickstart, "get_config", lambda: tiny)
    monkeypatch.setattr(loop, "train", done_before)
    monkeypatch.setattr(shop, "prepare_shop", mock.create_autospec(shop.prepare_shop))
    shutil.copytree(trained, tmp_path / "runs" / "quickstart")
    with contextlib.chdir(tmp_path):
        yield tmp_path


def run(words, tiny, trained):
    verb = words[1]
    work = pathlib.Path(next(iter(values_of(words, "--workdir"))))
    named = [word for word in words[2:3] if word.endswith(".py")]
    base = config.load_experiment(named[0]) if named else config.Experiment()
    config.with_settings(base, values_of(words, "--set"))
    if not (work / "train").exists():
        shutil.copytree(trained / "train", work / "train")
    small = [word for setting in flat(tiny) for word in ("--set", setting)]
    cli.main([*words[1:], *(small if verb in MADE else ())])


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in ELSEWHERE],
                         ids=lambda path: path.name)
def test_every_block_of_a_page_runs(page, home, trained, capsys):
    tiny = json.loads((trained / "experiment.json").read_text())
    names = {"__name__": "page"}
    for language, text in blocks(page):
        if language == "python":
            if found := re.match(r"# (\w+\.py)\n", text):
                (home / found[1]).write_text(text)
            exec(compile(text, str(page), "exec"), names)
        elif runnable(language, text):
            for words in commands(text):
                run(words, tiny, trained)
    assert "Traceback" not in capsys.readouterr().err


def test_the_convention_finds_the_commands():
    found = {page.name: sum(runnable(*block) for block in blocks(page))
             for page in PAGES}
    assert found["README.md"] >= 2 and found["getting_started.md"] >= 4
    assert not runnable("console", "make test\n") and not runnable("text", "oxyrec x")
    assert runnable("console", "oxyrec train \\\n    --workdir a  # a remark\n")


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.name)
def test_every_experiment_loads_and_says_how_it_is_run(path):
    cfg = config.load_experiment(path)
    assert config.from_dict(json.loads(json.dumps(config.to_dict(cfg))), "") == cfg
    told = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    assert f"experiments/{path.name} --workdir" in told


def test_every_make_target_that_is_named_exists():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    for page in PAGES:
        told = set(re.findall(r"(?:^|`)make ([\w-]+)", page.read_text("utf-8"),
                              re.MULTILINE))
        assert told <= targets, page.name
    first = blocks(ROOT / "README.md")[0][1]
    assert [line.split("#")[0].strip() for line in first.splitlines()] == [
        "make quickstart", "make test"]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_link_within_the_project_leads_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8"))
    for link in links:
        if not re.match(r"https?:|#", link):
            assert (page.parent / link.split("#")[0]).exists(), link


def test_commands_in_experiments_name_verbs_and_fields_that_exist():
    for path in EXPERIMENTS:
        cfg = config.load_experiment(path)
        told = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        found = [words for line in told.splitlines() if line.startswith("    oxyrec ")
                 for words in commands(line)]
        assert found and all(words[1] in cli.VERBS for words in found)
        for words in found:
            config.with_settings(cfg, values_of(words, "--set"))
