"""Off-policy tables: known answers in the shop and on real logs."""

import gzip
import json

import numpy as np
import pytest

from oxyrec_jax.base import InputError


@pytest.fixture(scope="module")
def table(load_file):
    return load_file("experiments/off_policy.py")


@pytest.fixture(scope="module")
def logs(table):
    return table.ShopLogs(60, 200, 3)


def test_the_exact_value_is_what_the_target_earns_when_it_logs(table, logs):
    """Weighed by exact propensities, and by exact value: the same but for sampling."""
    found = logs.draw(4_000, 0)
    assert found.policy.shape == (4_000, 3, 66)
    np.testing.assert_allclose(found.policy.sum(axis=2), 1, rtol=1e-5)
    rows, places = np.arange(4_000)[:, None], np.arange(3)
    np.testing.assert_allclose(found.policy[rows, places, found.actions], found.target)
    weights = found.target / found.propensities
    error = (weights * found.clicks).sum(axis=1).std() / np.sqrt(4_000)
    assert (weights * found.clicks).sum(axis=1).mean() == pytest.approx(
        found.truth.mean(), abs=4 * error)
    # The weights of a place have mean 1, whatever the requests.
    np.testing.assert_allclose(weights.mean(axis=0), 1,
                               atol=4 * weights.std() / np.sqrt(4_000))


def test_the_shop_table_tells_bias_and_coverage(table, logs):
    found = table.shop_table(logs, requests=4_000, replicates=6, samples=60)
    assert set(found["estimators"]) == set(table.ESTIMATORS)
    for name in ("IPS, position", "SNIPS, position", "DR, position"):
        row = found["estimators"][name]
        assert abs(row["bias"]) < 5 * row["error"]
        assert 0 < row["ess"] < 4_000
    sd = {name: row["sd"] for name, row in found["estimators"].items()}
    assert sd["IPS, position"] < sd["IPS, slate"]


def test_two_logs_of_a_bandit_that_is_known_agree(table, tmp_path, monkeypatch):
    """Item 3 earns half of the time; one policy shows it a quarter of the time."""
    monkeypatch.setattr(table, "ITEMS", 4)
    rng = np.random.default_rng(0)
    policy = np.array([0.4, 0.25, 0.1, 0.25])
    for name, chances in (("random", np.full(4, 0.25)), ("bts", policy)):
        item = rng.choice(4, 6_000, p=chances)
        click = (item == 3) & (rng.random(6_000) < 0.5)
        lines = zip(item, rng.integers(1, 4, 6_000), click.astype(int), chances[item])
        text = "item_id,position,click,propensity_score\n" + "\n".join(
            ",".join(map(str, row)) for row in lines)
        (tmp_path / f"{name}.all.csv.gz").write_bytes(
            gzip.compress(text.encode()))
    found = table.bandit_table(tmp_path, samples=100)
    for part in found.values():
        assert part["own"]["value"] == pytest.approx(0.125, abs=0.015)
        for row in part["estimators"].values():
            assert row["value"] == pytest.approx(0.125, abs=0.02)
            assert row["low"] < 0.125 < row["high"]


def test_real_logs_estimate_each_other(table, shared_data):
    found = table.bandit_table(shared_data / "obd_all" / "orig", samples=200)
    assert found["random to bts"]["own"]["value"] == pytest.approx(0.0042)
    assert found["bts to random"]["own"]["value"] == pytest.approx(0.0038)
    for part in found.values():
        for row in part["estimators"].values():
            assert row["low"] <= part["own"]["high"]
            assert row["high"] >= part["own"]["low"]
            assert row["weight"] == pytest.approx(1, abs=0.1)


def test_a_log_that_is_not_there_is_named(table, tmp_path):
    with pytest.raises(InputError, match="nowhere.csv cannot be read"):
        table.read_bandit(tmp_path / "nowhere.csv")


def test_the_command_prints_tables_and_json(table, logs, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(table, "ShopLogs", lambda *_: logs)
    table.main(["--replicates", "2", "--requests", "4000", "--json", "--data",
                str(tmp_path)])
    out = capsys.readouterr().out
    found = json.loads(out.splitlines()[-1])
    assert found["open_bandit"] is None and "| IPS, position |" in out
    assert found["shop"]["replicates"] == 2
