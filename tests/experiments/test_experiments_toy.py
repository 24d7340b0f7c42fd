"""Every experiment that states figures runs at toy size, as `oxyrec reproduce` runs it.

`align` and `scenarios` have no toy size; their parts are tried in
test_experiments_align.py and test_experiment_scenarios.py.
"""

import contextlib
import gzip
import itertools
import json
import pathlib
import re

import pytest

from oxyrec_jax import reproduction

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "experiments"

pytestmark = pytest.mark.slow


def ran(name, workdir, *settings, table=""):
    """The figures of the toy; two rows of a table at most."""
    with contextlib.chdir(FOLDER.parent):
        found = reproduction.reproduce(FOLDER / f"{name}.py", workdir, table=table,
                                       settings=settings, toy=True)
    assert found["reproduced"] is None
    for rows in found["tables"].values():
        assert 1 <= len(rows) <= 2
        for columns in rows.values():
            for cell in columns.values():
                assert -1 <= cell["found"] <= 1
    return found["tables"]


def test_the_quickstart(tmp_path):
    assert list(ran("quickstart", tmp_path)["test"]) == ["model", "markov"]


def test_instructions(tmp_path):
    found = ran("instructions", tmp_path, table="placement")
    assert list(found["placement"]) == ["none", "replace"]


def test_off_policy_in_the_shop(tmp_path):
    found = ran("off_policy", tmp_path, table="shop")["shop"]
    assert found["IPS, position"]["mean"]["found"] > 0


def first_rows(folder, logs, rows, part):
    """The first rows of a public data set's logs in `part`, and the items up to the
    last one there: items have numbers."""
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    part.mkdir()
    last = 0
    for file in logs:
        with gzip.open(folder / file, "rt") as log:
            lines = list(itertools.islice(log, rows))
        with gzip.open(part / file, "wt") as first:
            first.writelines(lines)
        last = max(last, *(int(item) for line in lines for item in
                           re.findall(r"(?<=[\t ])\d+", line)))
    with (gzip.open(folder / "items.jsonl.gz", "rt") as items,
          gzip.open(part / "items.jsonl.gz", "wt") as kept):
        kept.writelines(itertools.islice(items, last + 1))


@pytest.mark.parametrize("name, data, logs, rows", [
    ("beauty", "amazon14_beauty", ("sequences.tsv.gz",), 300),
    ("toys", "amazon14_toys", ("sequences.tsv.gz",), 300),
    ("office", "amazon14_office", ("sequences.tsv.gz",), 300),
    ("minionerec_office", "minionerec_office",
     ("train_recovered.tsv.gz", "valid.tsv.gz", "test.tsv.gz"), 400)],
    ids=lambda value: value if isinstance(value, str) else "")
def test_public_logs(name, data, logs, rows, tmp_path, shared_data):
    """On the first rows of their files; all of Beauty takes two minutes."""
    part = tmp_path / "part"
    first_rows(shared_data / data, logs, rows, part)
    found = ran(name, tmp_path / "work", f"data.path={part}", "seeds=[0]")
    assert list(found["test"]) == ["model", "decoder alone"]


def test_ideas_on_beauty(tmp_path, shared_data, load_file, capsys):
    """The base, another seed, and both fused; then read back."""
    part = tmp_path / "part"
    first_rows(shared_data / "amazon14_beauty", ("sequences.tsv.gz",), 300, part)
    ideas = load_file(FOLDER / "beauty_ideas.py")
    asked = ["--workdir", str(tmp_path / "work"), "--quick", "--json",
             "--set", f"data.path={part}"]
    ideas.main(asked)
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(first) == list(ideas.QUICK)
    base, other, both = first.values()
    assert base["all.ndcg@10 minus base"] == [0, 0, 0]
    for name in ("all", "decoder"):
        gap, low, high = other[f"{name}.ndcg@10 minus base"]
        assert gap == pytest.approx(other[f"{name}.ndcg@10"] - base[f"{name}.ndcg@10"])
        assert low <= gap <= high
        assert 0 <= both[f"{name}.recall@10"] <= 1
    assert base["decoder.ndcg@10"] != other["decoder.ndcg@10"]
    ideas.main(asked)
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == first
