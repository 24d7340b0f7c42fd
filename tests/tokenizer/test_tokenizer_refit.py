"""Codebooks learn again: what moved, what is carried over, when it is time."""

import dataclasses

import jax
import numpy as np
import pytest

from oxyrec_jax.base import InputError
from oxyrec_jax.tokenizer import drift, lifecycle, quantiser, sid_table
from oxyrec_jax.tokenizer.quality_gate import GateConfig
from oxyrec_jax.tokenizer.sources import SourceConfig
from toy_catalogue import (CFG, HASHED, SMALL, add, build_toy, check_trie, leave,
                           make_dataset, make_texts)


def test_refit_of_the_same_items_tells_what_moved(toy, bundle, tmp_path):
    before = sid_table.load_semantic_ids(bundle, toy)
    leave(toy, bundle, "i3")
    add(toy, bundle, ["gold number 9 comb", "gold number 8 comb"])
    cfg = dataclasses.replace(CFG, collisions="reassign", quantiser=SMALL)
    manifest = lifecycle.refit(toy, HASHED, cfg, bundle,
                               cache_folder=tmp_path / "cache")
    after = sid_table.load_semantic_ids(bundle, toy)
    told = manifest["lifecycle"]
    assert after.codes.shape == (47, 2) and not after.live[3] and after.live.sum() == 46
    assert told["compared"] == 46 and len(after.added) == 2
    check_trie(after)
    live = [n for n in range(45) if n != 3]
    kept = (np.logical_and.accumulate(before.codes[live] == after.codes[live], axis=1)
            ).sum(1)
    assert told["moved"] >= (kept < 2).sum() and 0 <= told["kept_mean"] <= 2
    assert told["moved_share"][0] <= told["moved_share"][1]
    assert set(told["centroid_drift"]) == {"codebook_0", "codebook_1"}
    assert manifest["root"] != before.manifest["root"]
    assert manifest["generation"] == 3


def table_of(codes, live=None, widths=(4, 4)):
    codes = np.array(codes, np.int32)
    retired = None if live is None else ~np.array(live)
    return sid_table.SemanticIds(codes, widths, np.zeros(len(codes)), retired=retired)


def test_movement_by_hand():
    # Matched by name: a keeps both codes, b its first, c none; d is new, e has retired.
    old = table_of([[0, 1], [1, 1], [2, 2], [3, 3]], [True, True, True, False])
    new = table_of([[3, 2], [1, 3], [0, 1], [0, 0], [3, 3]])
    told = lifecycle.movement(old, list("abce"), new, list("cbade"))
    assert told["compared"] == 3 and told["moved"] == 2
    assert (told["kept_mean"], told["kept_median"]) == (1.0, 1.0)
    np.testing.assert_allclose(told["moved_share"], [1 / 3, 2 / 3])
    nobody = lifecycle.movement(old, list("abce"), new, list("vwxyz"))
    assert nobody["compared"] == nobody["moved"] == 0 and nobody["kept_mean"] is None


def test_a_refit_for_a_later_log_carries_ids_over(toy, bundle, tmp_path):
    add(toy, bundle, ["gold number 9 comb", "silver number 8 comb"])
    leave(toy, bundle, "i5")
    texts = [*reversed(make_texts()), "gold number 9 comb"]  # new0 has events by now
    names = [*(f"i{n}" for n in reversed(range(45))), "new0"]
    later = make_dataset(tmp_path / "later", texts, names=names, seed=1)
    with pytest.raises(InputError, match="another data set .* --refit"):
        sid_table.load_semantic_ids(bundle, later)
    cfg = dataclasses.replace(CFG, collisions="reassign", quantiser=SMALL)
    manifest = lifecycle.refit(later, HASHED, cfg, bundle, cache_folder=tmp_path / "c")
    ids = sid_table.load_semantic_ids(bundle, later)
    assert sid_table.read_item_ids(bundle) == [*names, "new1"]
    assert np.flatnonzero(~ids.live).tolist() == [39]  # i5 in its new row
    assert manifest["lifecycle"]["compared"] == 46
    assert manifest["counts"] == {"dataset": 46, "added": 1, "retired": 1}


def test_points_turned_at_will_are_turned_back():
    rng = np.random.default_rng(0)
    old = rng.normal(size=(30, 5)).astype(np.float32)
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    order = rng.permutation(30)
    found = lifecycle.turn_to(old[order] @ turn, old, np.stack(
        [np.arange(20), order[:20]], 1))  # the last ten are new
    np.testing.assert_allclose(found, old[order], atol=1e-5)


def test_a_log_with_the_users_in_another_order_moves_hardly_anything(tmp_path):
    """Its counts are the same, the axes of their SVD need not be."""
    sources = SourceConfig(sources=("text", "co-engagement"), dimension=4)
    first, later = (make_dataset(tmp_path / name, make_texts(), facts={"source": name})
                    for name in ("first", "later"))
    ids, _ = build_toy(first, tmp_path, sources=sources, quantiser=SMALL)
    turned = ids.embeddings.copy()  # as if the old axes had been others
    turned[:, 16:] = turned[:, 16:] @ np.linalg.qr(
        np.random.default_rng(1).normal(size=(4, 4)))[0].astype(np.float32)
    books = quantiser.fit(jax.random.key(0), turned, SMALL, widths=(8, 8))
    codes = quantiser.encode(books, turned)
    sid_table.save(first, dataclasses.replace(
        ids, embeddings=turned, codebooks=books, codes=codes), tmp_path / "sids")
    cfg = dataclasses.replace(CFG, sources=sources, quantiser=SMALL)
    lifecycle.refit(later, HASHED, cfg, tmp_path / "sids", cache_folder=tmp_path / "c")
    after = sid_table.load_semantic_ids(tmp_path / "sids", later)
    np.testing.assert_allclose(after.embeddings, turned, atol=1e-5)
    kept = (after.codes[:, 0] == codes[:, 0]).mean()
    assert kept > 0.8, kept


@pytest.mark.parametrize("change, words", [
    ({"widths": (8, 4)}, r"widths \(8, 8\), asked for is residual-kmeans \(8, 4\)"),
    ({"quantiser": dataclasses.replace(SMALL, kind="product")}, "asked for is product"),
    ({"sources": SourceConfig(sources=("text", "co-engagement"), dimension=4)},
     "vectors have 20 numbers, those of .* 16"),
    ({"gate": GateConfig(max_reconstruction=0.0)}, "reconstruction .*at most 0"),
])
def test_a_refit_that_cannot_be_is_refused(change, words, toy, bundle, tmp_path):
    before = (bundle / "manifest.json").read_bytes()
    cfg = dataclasses.replace(CFG, collisions="reassign", quantiser=SMALL)
    with pytest.raises(InputError, match=words):
        lifecycle.refit(toy, HASHED, dataclasses.replace(cfg, **change), bundle,
                        cache_folder=tmp_path / "cache")
    assert (bundle / "manifest.json").read_bytes() == before


def test_drift_by_hand():
    # 100 old errors 1 … 100: their 0.9 quantile is 90.1, ten lie above. Of 20 new ones
    # all lie above: the chance is 0.1^20, the ratio of the means 200 / 50.5.
    cfg = drift.DriftConfig(ratio=1.5, quantile=0.9, level=1e-3)
    old = np.arange(1.0, 101)
    found = drift.compare(old, np.full(20, 200.0), cfg)
    assert found["bound"] == pytest.approx(90.1) and found["above"] == 1
    assert found["ratio"] == pytest.approx(200 / 50.5)
    assert found["p"] == pytest.approx(1e-20) and found["alarm"]
    calm = drift.compare(old, old[::5], cfg)
    assert not calm["alarm"] and calm["p"] > 0.3 and calm["ratio"] < 1.1
    few = drift.compare(old, np.array([400.0]), cfg)  # one odd item proves nothing
    assert few["ratio"] > 7 and few["p"] == pytest.approx(0.1) and not few["alarm"]
    exact = drift.compare(np.zeros(50), np.zeros(3), cfg)
    assert exact["ratio"] is None and not exact["alarm"] and exact["p"] == 1
    assert drift.compare(np.zeros(5000), np.ones(3), cfg)["alarm"]
    assert "run oxyrec tokenize --refit" in drift.describe(found)
    with pytest.raises(InputError, match="ratio of at least 1"):
        drift.DriftConfig(ratio=0.5)


def test_items_of_another_kind_sound_the_alarm(toy, bundle, caplog):
    odd = [f"{word} {n}" for n, word in enumerate(
        "quartz violin lagoon tractor sonnet glacier".split())]
    with caplog.at_level("WARNING"):
        _, manifest = add(toy, bundle, odd)
    assert manifest["lifecycle"]["drift"]["alarm"]
    assert "the codebooks no longer fit" in caplog.text
