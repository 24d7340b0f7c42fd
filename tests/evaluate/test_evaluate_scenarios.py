"""Figures by scenario are those of an evaluation of that scenario's targets alone."""

import numpy as np
import pytest

from oxyrec_jax import printing
from oxyrec_jax.data import dataset as datasets
from oxyrec_jax.data import schema
from oxyrec_jax.evaluate import evaluation, rows, scenarios
from oxyrec_jax.report import write_report

CFG = evaluation.EvaluateConfig(ks=(1, 3), headline="item.ndcg@3", samples=40)
USERS, ITEMS = 30, 12
NAMES = ("home", "till", "cart")  # nobody buys at the till


def make(folder, *, only=None, scenario=True):
    """Histories of 5, leave-one-out; tested are all users, or those of one scenario."""
    rng = np.random.default_rng(3)
    items = rng.integers(0, ITEMS, (USERS, 5))
    where = rng.choice([0, 2], (USERS, 5), p=[0.7, 0.3])
    tested = np.flatnonzero(where[:, -1] == only) if only is not None else range(USERS)
    columns = {"item": items.reshape(-1)}
    if scenario:
        columns["scenario"] = where.reshape(-1)

    def fill(out):
        out.add_items(schema.item_table({"item_id": [str(n) for n in range(ITEMS)]}))
        out.add_sequences(columns, np.full(USERS, 5),  # three sequences are one user's
                          [f"u{n // 3}" for n in range(USERS)])
        out.add_targets("train", np.array([[n, 1, 4] for n in range(USERS)]))
        out.add_targets("test", np.array([[n, 4, 5] for n in tested]))
    datasets.write_dataset(folder, fill, columns=tuple(columns), facts={
        "scenarios": list(NAMES) if scenario else [], "source": "toy",
        "protocol": "leave-one-out", "tie_policy": "file order"})
    return datasets.load_dataset(folder), where[:, -1]


def recommendations(chosen=slice(None)):
    rng = np.random.default_rng(5)
    leaves = np.arange(ITEMS) // 2
    lists = [np.stack([rng.permutation(ITEMS)[:3] for _ in range(USERS)])
             for _ in range(2)]
    return {f"seed{n}": evaluation.Recommendations(found[chosen], None, leaves)
            for n, found in enumerate(lists)}


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    data, where = make(tmp_path_factory.mktemp("d") / "d")
    return evaluation.evaluate(data, "test", recommendations(), cfg=CFG,
                               embeddings=np.eye(ITEMS)), where


@pytest.mark.parametrize("number", [0, 2])
def test_a_scenario_is_judged_as_if_it_were_the_whole_split(judged, number, tmp_path):
    whole, where = judged
    data, _ = make(tmp_path / "d", only=number)
    alone = evaluation.evaluate(data, "test", recommendations(where == number), cfg=CFG,
                                embeddings=np.eye(ITEMS)).results
    found = whole.results["scenarios"][NAMES[number]]
    assert found["targets"] == (where == number).sum() == alone["counts"]["targets"]
    assert found["users"] == alone["counts"]["users"]
    cells = [f"{level}.{name}@{k}" for level in ("item", "sid")
             for name in ("hr", "recall", "ndcg", "mrr") for k in (1, 3)]
    for cell in cells:
        assert found[cell] == pytest.approx(alone[cell], abs=1e-12)
        assert found["seeds"][cell] == pytest.approx(alone["seeds"][cell])
        np.testing.assert_allclose(found["intervals"][cell], alone["intervals"][cell])
    assert found["baselines"].keys() == alone["baselines"].keys()
    for name, table in found["baselines"].items():
        for cell in cells:
            assert table[cell] == pytest.approx(alone["baselines"][name][cell])
            np.testing.assert_allclose(table["intervals"][cell],
                                       alone["baselines"][name]["intervals"][cell])
    assert found["differences"]["baseline"] == alone["differences"]["baseline"]
    for cell, gap in found["differences"]["cells"].items():
        assert gap == pytest.approx(alone["differences"]["cells"][cell])


def test_scenarios_in_the_order_of_the_data_set_and_only_those_that_are_asked(judged):
    whole, where = judged
    assert list(whole.results["scenarios"]) == ["home", "cart"]
    counts = [own["targets"] for own in whole.results["scenarios"].values()]
    assert sum(counts) == len(where) == whole.results["counts"]["targets"]


def test_page_and_print_show_every_scenario(judged, tmp_path, capsys):
    results = judged[0].results
    page = write_report(tmp_path / "page.html", title="t", results={"r": results})
    text = page.read_text()
    assert "Scenario by scenario" in text and "cart: This model" in text
    printing.show(results)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    for name, own in results["scenarios"].items():
        line, = (line for line in lines if line[:1] == [name])
        assert int(line[1]) == own["targets"]
        assert own["differences"]["baseline"] in line


def test_a_log_without_scenarios_has_none(tmp_path):
    data, _ = make(tmp_path / "d", scenario=False)
    targets = rows.expand(rows.of_dataset(data), data.split("test"))
    assert scenarios.of_targets(data, targets) == {}
    found = evaluation.evaluate(data, "test", recommendations(), cfg=CFG).results
    assert found["scenarios"] == {}
    page = write_report(tmp_path / "page.html", title="t", results={"r": found})
    assert "Scenario by scenario" not in page.read_text()
