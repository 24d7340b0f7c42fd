"""From a data set to a bundle of semantic IDs and back, and all that can break."""

import dataclasses
import gzip
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxyrec_jax import artifacts
from oxyrec_jax.base import InputError
from oxyrec_jax.tokenizer import build, ordering, quantiser, sid_table
from oxyrec_jax.tokenizer import trie as tries
from oxyrec_jax.tokenizer.embeddings import EmbeddingConfig
from oxyrec_jax.tokenizer.quality_gate import GateConfig
from oxyrec_jax.tokenizer.sources import SourceConfig
from toy_catalogue import CFG, HASHED, build_toy, make_dataset


@pytest.fixture(scope="module")
def built(toy, tmp_path_factory):
    return build_toy(toy, tmp_path_factory.mktemp("built"))


def test_the_bundle_holds_what_was_made(toy, built):
    sids, manifest = built
    assert sids.codes.shape == (45, 2) and sids.codes.dtype == np.int32
    assert sids.widths == (8, 8) and sids.codebooks.widths == (8, 8)
    np.testing.assert_allclose(np.linalg.norm(sids.embeddings, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(
        quantiser.encode(sids.codebooks, sids.embeddings), sids.codes)
    assert sids.manifest == json.loads(json.dumps(manifest))
    assert manifest["encoder"] == {"name": "hashed character n-grams", "dimension": 16,
                                   "sha256": None}
    assert sids.manifest["config"]["tokenizer"]["widths"] == [8, 8]
    assert manifest["quality"]["items"] == 45
    assert manifest["quality"]["purity"][1] >= manifest["quality"]["purity"][0] > 0.3
    reconstruction = manifest["quality"]["reconstruction"]
    assert 1 > reconstruction[0] > reconstruction[1] > 0


def test_popularity_counts_training_targets(toy, built):
    events = toy.column("item").reshape(40, 8)[:, 1:6]  # not the first, not the last 2
    np.testing.assert_array_equal(built[0].popularity,
                                  np.bincount(events.ravel(), minlength=45))


def test_same_seed_same_bytes_and_another_seed_others(toy, built, tmp_path):
    again, manifest = build_toy(toy, tmp_path)
    assert manifest["files"] == built[1]["files"]
    other, _ = build_toy(toy, tmp_path, seed=1)
    assert (other.codes != again.codes).any()


def test_prefix_lookup_equals_a_scan(built):
    sids = built[0]
    for prefix in [(), (0,), (3,), (7, 7), tuple(sids.codes[0]), tuple(sids.codes[44])]:
        same = (sids.codes[:, : len(prefix)] == prefix).all(1)
        assert sorted(sids.items(prefix)) == np.flatnonzero(same).tolist()
    with pytest.raises(ValueError, match="2 codes"):
        sids.items((1, 2, 3))


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 1000), st.integers(1, 40), st.sampled_from([(1,), (3,), (2, 3)]))
def test_collision_lists_hold_every_item_once_by_popularity(seed, items, widths):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, widths, (items, len(widths))).astype(np.int32)
    sids = sid_table.SemanticIds(codes, widths, rng.integers(0, 3, items))
    lists = [sids.items(code) for code in np.unique(codes, axis=0)]
    assert sorted(np.concatenate(lists)) == list(range(items))
    for held in lists:
        assert len(np.unique(codes[held], axis=0)) == 1
        assert held.tolist() == sorted(
            held, key=lambda item: (-sids.popularity[item], item))
    # The trie, given the same order, holds the same lists in the same order.
    _, leaves = tries.build_trie(codes, widths, order=sids.order)
    for leaf, held in enumerate(lists):
        first, last = leaves.offsets[leaf : leaf + 2]
        np.testing.assert_array_equal(leaves.items[first:last], held)


def test_reassign_and_dedup_leave_no_item_sharing(toy, built, tmp_path):
    listed = built[0]
    moved, _ = build_toy(toy, tmp_path, collisions="reassign")
    np.testing.assert_array_equal(moved.codes[:, 0], listed.codes[:, 0])
    sizes = np.bincount(listed.codes[:, 0], minlength=8)
    assert np.unique(moved.codes, axis=0, return_counts=True)[1].max() == (
        -(-sizes.max() // 8))
    dedup, manifest = build_toy(toy, tmp_path, collisions="dedup")
    np.testing.assert_array_equal(dedup.codes[:, :2], listed.codes)
    assert manifest["quality"]["duplicates"] == 0 and len(dedup.widths) == 3
    assert dedup.widths[2] == built[1]["quality"]["max_items_per_sid"]
    assert dedup.codebooks.widths == (8, 8)
    roomy, _ = build_toy(toy, tmp_path, collisions="dedup", room=5)
    np.testing.assert_array_equal(roomy.codes, dedup.codes)
    assert roomy.widths[2] == dedup.widths[2] + 5


def test_sources_stand_side_by_side_with_their_weights(toy, tmp_path):
    cfg = dataclasses.replace(CFG, sources=SourceConfig(
        sources=("text", "co-engagement"), weights=(2.0, 1), dimension=4))
    build.build_semantic_ids(toy, EmbeddingConfig("hashed", dimension=12), cfg,
                             tmp_path / "sids")
    x = sid_table.load_semantic_ids(tmp_path / "sids").embeddings
    assert x.shape == (45, 12 + 4)
    np.testing.assert_allclose(np.linalg.norm(x[:, :12], axis=1), 2, rtol=1e-5)
    behaviour = np.linalg.norm(x[:, 12:], axis=1)
    np.testing.assert_allclose(behaviour[behaviour > 0], 1, rtol=1e-5)
    assert (behaviour > 0).sum() > 20
    only, manifest = build_toy(toy, tmp_path, sources=SourceConfig(
        sources=("co-engagement",), dimension=16))
    assert only.embeddings.shape == (45, 16) and manifest["encoder"] is None


@pytest.mark.parametrize("texts", [
    ["same thing"] * 20, ["one thing"], ["a shampoo", "a brush", None]],
    ids=["all identical", "one item", "fewer items than codes"])
def test_little_catalogues_get_right_ids(tmp_path, texts):
    toy = make_dataset(tmp_path / "data", texts)
    sids, manifest = build_toy(toy, tmp_path)
    distinct = len(set(texts))
    assert manifest["quality"]["sids"] == distinct
    assert len(sids.items(sids.codes[0])) == len(texts) - distinct + 1
    np.testing.assert_allclose(quantiser.decode(sids.codebooks, sids.codes),
                               sids.embeddings, atol=1e-5)


def test_nan_embeddings_are_named(toy, tmp_path):
    x = np.ones((45, 3))
    x[7, 1] = np.nan
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(InputError, match="x.npy: row 7 holds NaN"):
        build.build_semantic_ids(
            toy, EmbeddingConfig("file", path=str(tmp_path / "x.npy")), CFG,
            tmp_path / "sids")
    assert not (tmp_path / "sids").exists()


def test_items_without_any_text_are_named(tmp_path):
    toy = make_dataset(tmp_path / "data", [None, None, None])
    with pytest.raises(InputError, match="have no text; choose other"):
        build.build_semantic_ids(toy, HASHED, CFG, tmp_path / "sids")


@pytest.mark.parametrize("options, words", [
    ({"collisions": "drop"}, "collisions is 'drop', expected one of list, reassign"),
    ({"order": "price"}, "order is 'price', expected one of popularity, recency"),
    ({"order": "learned"}, "tokenizer.order_scores"),
    ({"room": -1}, "room is -1"), ({"room": 2}, "room is 2, .* unless"),
    ({"sources": SourceConfig(sources=("smell",))}, "sources"),
    ({"quantiser": quantiser.Quantiser(kind="guess")}, "quantiser is 'guess'"),
    ({"widths": ()}, "widths is"), ({"widths": (8, 0)}, "widths is"),
])
def test_settings_that_cannot_work_are_named(toy, tmp_path, options, words):
    with pytest.raises(InputError, match=words):
        build_toy(toy, tmp_path, **options)


@pytest.fixture
def bundle(toy, tmp_path):
    codes = np.arange(90).reshape(45, 2) % 8
    sid_table.write_semantic_ids(toy, codes, (8, 8), tmp_path / "sids",
                                 popularity=np.zeros(45))
    return tmp_path / "sids"


def test_ids_from_elsewhere_need_no_codebooks(toy, bundle):
    sids = sid_table.load_semantic_ids(bundle, toy)
    assert sids.codebooks is None and sids.embeddings is None and sids.live.all()
    np.testing.assert_array_equal(sids.codes, np.arange(90).reshape(45, 2) % 8)


@pytest.mark.parametrize("codes, words", [
    (np.zeros((44, 2), int), r"found int64 \(44, 2\), expected integers \(45, 2\)"),
    (np.zeros((45, 2)), "found float64"),
    (np.full((45, 2), 8), "row 0 has the code 8 at level 0, expected 0 to 7"),
    (np.full((45, 2), -1), "has the code -1"),
])
def test_ids_that_do_not_fit_are_refused(toy, tmp_path, codes, words):
    with pytest.raises(InputError, match=words):
        sid_table.write_semantic_ids(toy, codes, (8, 8), tmp_path / "sids",
                                     popularity=np.zeros(45))


def _edit_manifest(folder, **changes):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("damage, words", [
    (lambda f: (f / "codes.npy").unlink(), "codes.npy is missing"),
    (lambda f: (f / "codes.npy").write_bytes((f / "codes.npy").read_bytes()[:-4]),
     "codes.npy has [0-9]+ bytes, its manifest says"),
    (lambda f: np.save(f / "codes.npy", np.zeros((45, 2), np.int32)),
     "codes.npy was changed"),
    (lambda f: _edit_manifest(f, kind="dataset"), "holds 'dataset', expected 'seman"),
    (lambda f: _edit_manifest(f, version=1), "schema version 1, this release reads 2"),
    (lambda f: _edit_manifest(f, counts={"dataset": 44, "added": 0}),
     "holds 45 items, of which 0 were added"),
    (lambda f: _edit_manifest(f, codebooks={"kind": "tea leaves", "widths": [8]}),
     "codebooks of the kind 'tea leaves'"),
    (lambda f: _edit_manifest(f, dataset="0" * 64), "made for another data set"),
    (lambda f: _edit_manifest(f, widths=[4, 4]), "codes.npy: row .* expected 0 to 3"),
    (lambda f: _edit_manifest(f, widths=[8]), "codes.npy: found int32"),
    (lambda f: (f / "manifest.json").write_text("{"), "manifest.json is not valid"),
], ids=["missing", "cut", "changed", "kind", "version", "counts", "codebooks",
        "data set", "widths", "levels", "manifest"])
def test_a_damaged_or_foreign_bundle_is_named(toy, bundle, damage, words):
    damage(bundle)
    with pytest.raises(InputError, match=words):
        sid_table.load_semantic_ids(bundle, toy)


def test_a_popularity_of_other_items_is_named(toy, bundle):
    sids = sid_table.load_semantic_ids(bundle)
    with pytest.raises(ValueError, match="popularity.shape"):
        sid_table.write_semantic_ids(toy, sids.codes, (8, 8), bundle,
                                     popularity=np.zeros(44))
    artifacts.write_bundle(
        bundle, kind=sid_table.KIND, version=sid_table.VERSION,
        arrays={"codes": sids.codes, "popularity": np.zeros(44)},
        facts={"widths": [8, 8], "dataset": sids.manifest["dataset"],
               "codebooks": None})
    with pytest.raises(InputError, match="popularity.npy has shape"):
        sid_table.load_semantic_ids(bundle, toy)


def test_a_real_catalogue_is_covered(shared_data, tmp_path):
    path = shared_data / "amazon14_office" / "items.jsonl.gz"
    with gzip.open(path, "rt") as file:
        titles = [json.loads(line).get("title") or "" for line in file]
    toy = make_dataset(tmp_path / "data", titles)
    manifest = build.build_semantic_ids(
        toy, EmbeddingConfig(), build.TokenizerConfig(
            widths=(64, 64, 64), collisions="reassign"), tmp_path / "sids")
    figures = manifest["quality"]
    assert figures["duplicates"] < 0.02 and min(figures["coverage"]) > 0.95
    assert min(figures["perplexity"]) > 40


def test_a_build_that_falls_through_the_gate_leaves_the_old_one(toy, tmp_path):
    _, manifest = build_toy(toy, tmp_path)
    assert manifest["gate"] == {"passed": True, "asked": []}
    with pytest.raises(InputError, match="duplicates 0.*, expected at most 0;.*dedup"):
        build_toy(toy, tmp_path, seed=1, gate=GateConfig(max_duplicates=0.0))
    assert sid_table.load_semantic_ids(tmp_path / "sids", toy).manifest == json.loads(
        json.dumps(manifest))
    kept, manifest = build_toy(toy, tmp_path, collisions="dedup",
                               gate=GateConfig(max_duplicates=0.0, min_coverage=0.5))
    assert manifest["gate"]["passed"]
    assert len(manifest["gate"]["asked"]) == 3  # the digit's coverage is not judged


def test_recency_is_the_newest_training_target(toy):
    # Without times: how many training targets of the sequence came after, negated.
    events = toy.column("item").reshape(40, 8)[:, 1:6]
    expected = np.full(45, ordering.NEVER)
    for row in events:
        for place, item in enumerate(row):
            expected[item] = max(expected[item], place - 4)
    np.testing.assert_array_equal(ordering.training_recency(toy), expected)


@pytest.mark.parametrize("order", ordering.ORDERS)
def test_the_order_inside_an_id_is_the_one_asked_for(toy, tmp_path, order):
    scores = np.random.default_rng(0).normal(size=45)
    np.save(tmp_path / "scores.npy", scores)
    options = {"order_scores": str(tmp_path / "scores.npy")} if (
        order == "learned") else {}
    sids, _ = build_toy(toy, tmp_path, widths=(2,), order=order, **options)
    by = {"popularity": sids.popularity, "recency": ordering.training_recency(toy),
          "learned": scores}[order]
    for code in (0, 1):
        held = sids.items((code,)).tolist()
        assert held == sorted(held, key=lambda item: (-by[item], item)) and held


@pytest.mark.parametrize("scores, words", [
    (np.zeros(44), r"holds \(44,\), expected 45 numbers"),
    (np.full(45, np.nan), r"score of item 0 is not finite \(45"),
    (np.array(["a"] * 45), "expected 45 numbers")])
def test_scores_that_do_not_fit_are_named(toy, tmp_path, scores, words):
    np.save(tmp_path / "scores.npy", scores)
    with pytest.raises(InputError, match=words):
        build_toy(toy, tmp_path, order="learned",
                  order_scores=str(tmp_path / "scores.npy"))
    (tmp_path / "scores.npy").write_text("no array")
    with pytest.raises(InputError, match="scores.npy is not a readable"):
        build_toy(toy, tmp_path, order="learned",
                  order_scores=str(tmp_path / "scores.npy"))
