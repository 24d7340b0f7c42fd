"""The evaluator on a small data set whose every figure can be worked out."""

import json
import math

import numpy as np
import pytest

from oxyrec_jax import metrics
from oxyrec_jax.base import InputError
from oxyrec_jax.data import dataset as datasets
from oxyrec_jax.data import schema
from oxyrec_jax.evaluate import evaluation, tables

CFG = evaluation.EvaluateConfig(ks=(1, 3), headline="item.ndcg@3", samples=50)
# Items 0 1 | 2 3 | 4 5 share a semantic ID.
LEAVES = np.array([0, 0, 1, 1, 2, 2])
# The four test targets are 3, 0, 5, 1.
LISTS = np.array([[3, 1, 2], [1, 0, 4], [0, 1, 2], [4, 5, 1]])


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Four users, six items; the second and the third sequence are one user's."""
    folder = tmp_path_factory.mktemp("shop") / "data"

    def fill(out):
        out.add_items(schema.item_table({"item_id": list("abcdef")}))
        sequences = [[0, 1, 2, 4, 3], [1, 2, 3, 4, 0], [2, 4, 1, 3, 5], [0, 1, 3, 2, 1]]
        out.add_sequences({"item": np.concatenate(sequences)}, np.full(4, 5),
                          ["ann", "bob", "bob", "cid"])
        for split, first, last in (("train", 1, 3), ("valid", 3, 4), ("test", 4, 5)):
            out.add_targets(split, np.array([[s, first, last] for s in range(4)]))
    datasets.write_dataset(folder, fill, facts={
        "source": "toy", "protocol": "leave-one-out", "tie_policy": "file order"})
    return datasets.load_dataset(folder)


@pytest.fixture(scope="module")
def judged(shop):
    runs = {"seed0": evaluation.Recommendations(LISTS, None, LEAVES),
            "seed1": evaluation.Recommendations(LISTS[:, ::-1], None, LEAVES)}
    return evaluation.evaluate(shop, "test", runs, cfg=CFG, embeddings=np.eye(6))


def test_cells_by_hand(judged):
    # Ranks of 3, 0, 5, 1 in the lists: 0, 1, none, 2; reversed: 2, 1, none, 0.
    run = judged.results["runs"]["seed0"]
    assert run["item.hr@1"] == 1 / 4 and run["item.hr@3"] == 3 / 4
    assert run["item.recall@3"] == run["item.hr@3"]
    assert run["item.ndcg@3"] == pytest.approx((1 + 1 / math.log2(3) + 1 / 2) / 4)
    assert run["item.mrr@3"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 4)
    # As semantic IDs the lists are 1 0, 0 2, 0 1, 2 0: ranks 0, 0, none, 1.
    assert run["sid.hr@1"] == 1 / 2 and run["sid.hr@3"] == 3 / 4
    assert run["sid.mrr@3"] == pytest.approx((1 + 1 + 1 / 2) / 4)
    assert run["coverage@1"] == 4 / 6 and run["validity@3"] == 1.0
    np.testing.assert_array_equal(judged.ranks["seed0.item"], [0, 1, metrics.MISS, 2])
    np.testing.assert_array_equal(judged.ranks["seed0.sid"], [0, 0, metrics.MISS, 1])
    assert judged.ranks["seed0.item"].dtype == np.int32


def test_top_level_cells_are_the_mean_over_runs(judged):
    results = judged.results
    values = [results["runs"][name]["item.mrr@3"] for name in ("seed0", "seed1")]
    assert results["item.mrr@3"] == pytest.approx(sum(values) / 2)
    assert results["seeds"]["item.mrr@3"]["sd"] == pytest.approx(
        abs(values[0] - values[1]) / math.sqrt(2))
    assert results["seeds"]["item.hr@3"] == {"mean": 0.75, "sd": 0.0, "runs": 2}
    low, high = results["intervals"]["item.mrr@3"]
    assert low <= results["item.mrr@3"] <= high


def test_facts_tell_how_the_figures_came_about(judged):
    results = judged.results
    assert results["tie_policy"] == "file order"
    assert results["protocol"] == "leave-one-out"
    assert results["counts"] == {"targets": 4, "users": 3, "items": 6, "runs": 2}
    assert results["config"]["ks"] == [1, 3]
    assert json.loads(json.dumps(results, allow_nan=False)) == results


def test_baselines_have_the_same_cells_and_the_best_is_compared(judged):
    results = judged.results
    assert set(results["baselines"]) == {
        "popularity", "markov", "title_knn", "markov_title", "popularity_shuffled",
        "markov_shuffled", "title_knn_shuffled"}
    for table in results["baselines"].values():
        assert set(table) - {"intervals"} == set(results["runs"]["seed0"])
    best = results["differences"]["baseline"]
    headline = {name: table["item.ndcg@3"]
                for name, table in results["baselines"].items()}
    assert headline[best] == max(headline.values())
    cell = results["differences"]["cells"]["item.ndcg@3"]
    assert cell["mean"] == pytest.approx(results["item.ndcg@3"] - headline[best])
    assert cell["low"] <= cell["mean"] <= cell["high"]


def test_groups_add_up_to_the_whole(judged):
    results = judged.results
    for axis in ("popularity", "repeat", "order"):
        groups = [group for group in results["strata"] if group["axis"] == axis]
        assert sum(group["targets"] for group in groups) == 4
        total = sum(group["targets"] * group["item.ndcg@3"] for group in groups)
        assert total / 4 == pytest.approx(results["item.ndcg@3"])
        markov = sum(group["targets"] * group["baselines"]["markov"]["item.ndcg@3"]
                     for group in groups)
        whole = results["baselines"]["markov"]["item.ndcg@3"]
        assert markov / 4 == pytest.approx(whole)


def test_given_semantic_ids_are_ranked_as_given(shop):
    sids = np.array([[2, 1], [0, 1], [2, 0], [1, 0]])  # may be shorter than the items
    found = evaluation.evaluate(
        shop, "test", {"run": evaluation.Recommendations(LISTS, sids, LEAVES)}, cfg=CFG)
    # Targets' semantic IDs: 1, 0, 2, 0.
    np.testing.assert_array_equal(found.ranks["run.sid"], [1, 0, 0, 1])
    assert "title_knn" not in found.results["baselines"]
    assert any("nearest titles" in note for note in found.results["notes"])


def test_without_semantic_ids_there_are_no_sid_cells(shop):
    runs = {"run": evaluation.Recommendations(LISTS)}
    found = evaluation.evaluate(shop, "test", runs, cfg=CFG)
    assert not any(key.startswith("sid.") for key in found.results)
    assert found.results["seeds"]["item.hr@3"]["sd"] is None


def test_a_repeated_semantic_id_takes_no_place():
    # Items 0 1 are one semantic ID: the list 0 1 4 is 0 2, so item 5's stands second.
    found = tables.ranks(np.array([[0, 1, 4]]), None, LEAVES, np.array([5]))
    np.testing.assert_array_equal(found["sid"], [1])
    assert found["item"][0] == metrics.MISS


def test_a_written_evaluation_comes_back(judged, tmp_path):
    evaluation.write_evaluation(tmp_path / "e", judged)
    back = evaluation.read_evaluation(tmp_path / "e")
    assert back.results == judged.results
    assert set(back.ranks) == set(judged.ranks)
    for name in judged.ranks:
        np.testing.assert_array_equal(back.ranks[name], judged.ranks[name])
    np.testing.assert_array_equal(back.targets, judged.targets)
    path = tmp_path / "e" / "ranks" / "markov.item.npy"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InputError, match=r"markov\.item\.npy"):
        evaluation.read_evaluation(tmp_path / "e")


def test_compare_pairs_two_evaluations(judged, shop):
    found = evaluation.compare(judged, judged, ("seed0", "seed1"), cfg=CFG)
    # Reciprocal ranks 1, 1/2, 0, 1/3 against 1/3, 1/2, 0, 1.
    assert found["item.mrr@3"]["mean"] == pytest.approx(0)
    assert found["item.mrr@3"]["low"] < 0 < found["item.mrr@3"]["high"]
    best = judged.results["differences"]["baseline"]
    single = {"run": evaluation.Recommendations(LISTS, None, LEAVES)}
    alone = evaluation.evaluate(shop, "test", single, cfg=CFG, embeddings=np.eye(6))
    assert alone.results["differences"]["cells"] == evaluation.compare(
        alone, alone, ("run", best), cfg=CFG)
    with pytest.raises(InputError, match="no run 'seed9'; there are markov"):
        evaluation.compare(judged, judged, ("seed9", "markov"), cfg=CFG)
    other = evaluation.evaluate(shop, "valid", single, cfg=CFG)
    with pytest.raises(InputError, match="same split"):
        evaluation.compare(judged, other, ("seed0", "run"), cfg=CFG)


@pytest.mark.parametrize("runs, error, named", [
    ({"a": evaluation.Recommendations(LISTS[:3])}, ValueError, r"\(3, 3\)"),
    ({"a": evaluation.Recommendations(LISTS[:, :2])}, InputError, "2 items a row"),
    ({"a": evaluation.Recommendations(LISTS + 5)}, ValueError, "expected -1 to 5"),
    ({"a": evaluation.Recommendations(LISTS, LISTS)}, ValueError, "without item_sids"),
    ({"a": evaluation.Recommendations(LISTS, None, LEAVES[:4])}, ValueError, r"\(4,\)"),
    ({"../a": evaluation.Recommendations(LISTS)}, InputError, "'../a'"),
    ({"markov": evaluation.Recommendations(LISTS)}, InputError, "'markov'"),
    ({}, ValueError, "no runs"),
])
def test_what_cannot_be_judged_is_named(shop, runs, error, named):
    with pytest.raises(error, match=named):
        evaluation.evaluate(shop, "test", runs, cfg=CFG)


def test_a_cutoff_above_the_catalogue_is_one_clear_sentence(shop):
    cfg = evaluation.EvaluateConfig(ks=(10,), headline="item.ndcg@10")
    lists = {"a": evaluation.Recommendations(np.tile(np.arange(6), (4, 2)))}
    with pytest.raises(InputError, match="10, but the catalogue has only 6 items"):
        evaluation.evaluate(shop, "test", lists, cfg=cfg)


@pytest.mark.parametrize("options", [
    {"ks": ()}, {"ks": (0, 10)}, {"ks": (10, 10)}, {"headline": "item.ndcg@7"},
    {"samples": 0}, {"level": 1.0}])
def test_an_impossible_configuration_is_refused(options):
    with pytest.raises(InputError, match="evaluate"):
        evaluation.EvaluateConfig(**options)


def test_an_impossible_figure_is_not_returned(shop, monkeypatch):
    monkeypatch.setitem(metrics.RANK_METRICS, "ndcg", metrics.hit_rate)
    with pytest.raises(ValueError, match=r"ndcg@3"):
        evaluation.evaluate(shop, "test", {"a": evaluation.Recommendations(LISTS)},
                            cfg=CFG)
