"""Items join and leave, codebooks learn again: who may move, who may not."""

import contextlib
import csv
import dataclasses
import json
import shutil

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxyrec_jax import artifacts
from oxyrec_jax.base import InputError
from oxyrec_jax.tokenizer import (build, collisions, drift, fsq, lifecycle, quantiser,
                                  rqvae, sid_table)
from oxyrec_jax.tokenizer import trie as tries
from oxyrec_jax.tokenizer.catalogue import make_catalogue
from oxyrec_jax.tokenizer.embeddings import EmbeddingConfig
from oxyrec_jax.tokenizer.quality_gate import GateConfig
from oxyrec_jax.tokenizer.sources import SourceConfig
from toy_catalogue import CFG, COLOURS, HASHED, build_toy, make_dataset, make_texts

SMALL = dataclasses.replace(
    CFG.quantiser, rq_vae=rqvae.RqVae(hidden=(8,), latent=4, steps=20, batch=32),
    fsq=fsq.Fsq(hidden=(8,), steps=20, batch=32))


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("toy") / "data", make_texts())


@pytest.fixture(scope="module")
def built(toy, tmp_path_factory):
    """Folders of bundles by policy and quantiser, each made once; copy to change."""
    made = {}

    def give(policy="list", kind="residual-kmeans"):
        if (policy, kind) not in made:
            folder = tmp_path_factory.mktemp("built")
            build_toy(toy, folder, collisions=policy, room=20 * (policy == "dedup"),
                      quantiser=dataclasses.replace(SMALL, kind=kind))
            made[policy, kind] = folder / "sids"
        return made[policy, kind]
    return give


@pytest.fixture
def bundle(built, tmp_path):
    return shutil.copytree(built("reassign"), tmp_path / "sids")


def write_items(path, texts, first=0):
    with open(path, "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["item_id", "title"])
        out.writerows([f"new{first + n}", text] for n, text in enumerate(texts))
    return path


def add(toy, bundle, texts, first=0, **options):
    path = write_items(bundle.parent / "new.csv", texts, first)
    manifest = lifecycle.add_items(toy, bundle, path,
                                   cache_folder=bundle.parent / "cache", **options)
    return sid_table.load_semantic_ids(bundle, toy), manifest


def leave(toy, bundle, *names):
    path = bundle.parent / "gone.txt"
    path.write_text("\n".join(names) + "\n")
    manifest = lifecycle.retire_items(toy, bundle, path)
    return sid_table.load_semantic_ids(bundle, toy), manifest


def check_trie(ids):
    """Every SID of a live item is a path of the trie, and every path is such a SID."""
    trie, leaves = tries.build_trie(ids.codes[ids.live], ids.widths)
    nodes = np.zeros(1, np.int32)
    paths = np.zeros((1, 0), int)
    for level in range(len(ids.widths)):
        codes, below, legal = (np.asarray(found) for found in
                               tries.children(trie, level, nodes))
        rows, slots = np.nonzero(legal)
        paths = np.concatenate([paths[rows], codes[rows, slots, None]], axis=1)
        nodes = below[rows, slots]
    np.testing.assert_array_equal(paths, np.unique(ids.codes[ids.live], axis=0))
    assert len(leaves) == len(paths)
    held = [ids.items(path) for path in paths]
    np.testing.assert_array_equal(np.sort(np.concatenate(held)),
                                  np.flatnonzero(ids.live))


@pytest.mark.parametrize("kind", [
    pytest.param(kind, marks=[pytest.mark.slow] * (kind in ("rq-vae", "fsq")))
    for kind in quantiser.KINDS])
@pytest.mark.parametrize("policy", collisions.POLICIES)
def test_adding_changes_no_old_id(policy, kind, toy, built, tmp_path):
    bundle = shutil.copytree(built(policy, kind), tmp_path / "sids")
    before = sid_table.load_semantic_ids(bundle, toy)
    texts = make_texts(3) + ["something unlike all else", "red number 0 polish"]
    after, manifest = add(toy, bundle, texts)
    np.testing.assert_array_equal(after.codes[:45], before.codes)
    np.testing.assert_array_equal(after.embeddings[:45], before.embeddings)
    assert after.codes.shape == (50, len(before.widths))
    assert after.widths == before.widths and after.live.all()
    for name, array in before.codebooks.arrays.items():
        np.testing.assert_array_equal(after.codebooks.arrays[name], array)
    nearest = quantiser.encode(after.codebooks, after.embeddings[45:])
    own = len(after.codebooks.widths)
    if policy == "reassign":  # a free code under the same prefix
        np.testing.assert_array_equal(after.codes[45:, :own - 1], nearest[:, :-1])
    else:
        np.testing.assert_array_equal(after.codes[45:, :own], nearest)
    if policy == "dedup":
        assert len(np.unique(after.codes, axis=0)) == 50
    check_trie(after)
    assert manifest["lifecycle"]["added"] == 5
    assert (manifest["generation"], manifest["root"]) == (1, before.manifest["root"])
    assert manifest["parent"] == artifacts.value_digest(dict(before.manifest))
    assert manifest["quality"]["items"] == 50


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 1000), st.lists(st.integers(1, 4), min_size=1, max_size=3),
       st.sampled_from(collisions.POLICIES))
def test_any_comings_and_goings_move_nobody(toy, built, tmp_path_factory, seed, sizes,
                                            policy):
    rng = np.random.default_rng(seed)
    bundle = shutil.copytree(built(policy), tmp_path_factory.mktemp("any") / "sids")
    before, first = sid_table.load_semantic_ids(bundle, toy), 0
    for size in sizes:
        texts = [f"{rng.choice(COLOURS)} thing {n}" for n in rng.integers(0, 3, size)]
        after, _ = add(toy, bundle, texts, first)
        first += size
        np.testing.assert_array_equal(after.codes[:len(before.codes)], before.codes)
        names = np.array(sid_table.read_item_ids(bundle))
        going = rng.choice(np.flatnonzero(after.live), 2, replace=False)
        last, _ = leave(toy, bundle, *names[going])
        np.testing.assert_array_equal(last.codes, after.codes)
        assert set(np.flatnonzero(after.live & ~last.live)) == set(going)
        check_trie(last)
        before = last
    assert before.manifest["generation"] == 2 * len(sizes)
    assert len(before.codes) == 45 + first


def test_an_item_like_an_old_one_gets_its_id(toy, tmp_path):
    build_toy(toy, tmp_path, quantiser=SMALL)
    bundle = tmp_path / "sids"
    text = toy.item_table()["text"][7].as_py()
    ids, manifest = add(toy, bundle, [text])
    np.testing.assert_array_equal(ids.codes[45], ids.codes[7])
    assert ids.items(ids.codes[7]).tolist()[-1] == 45  # nobody took it yet
    assert not manifest["lifecycle"]["drift"]["alarm"]
    table = sid_table.catalogue_table(toy, ids)
    assert table["item_id"].to_pylist() == [f"i{n}" for n in range(45)] + ["new0"]
    assert table["title"][45].as_py() == text
    assert sid_table.read_item_ids(bundle) == table["item_id"].to_pylist()


def test_retired_items_keep_row_and_id_and_are_not_found(toy, bundle):
    before = sid_table.load_semantic_ids(bundle, toy)
    ids, manifest = leave(toy, bundle, "i3", "i44")
    np.testing.assert_array_equal(ids.codes, before.codes)
    assert np.flatnonzero(~ids.live).tolist() == [3, 44]
    assert 3 not in ids.items(()) and len(ids.items(())) == 43
    assert manifest["counts"] == {"dataset": 45, "added": 0, "retired": 2}
    assert manifest["quality"]["items"] == 43
    catalogue, leaves = make_catalogue(ids.codes, ids.widths, popularity=ids.priority,
                                       retired=~ids.live)
    assert set(leaves.items.tolist()) == set(range(45)) - {3, 44}
    np.testing.assert_array_equal(catalogue.tables.codes, ids.codes)


def test_a_retired_id_is_not_given_again_while_another_is_free(toy, bundle):
    ids = sid_table.load_semantic_ids(bundle, toy)
    loads = np.bincount(ids.codes[:, 0], minlength=8)
    item = int(np.argmin(loads[ids.codes[:, 0]]))  # its prefix has room
    assert loads[ids.codes[item, 0]] < 8
    leave(toy, bundle, f"i{item}")
    after, _ = add(toy, bundle, [toy.item_table()["text"][item].as_py()])
    assert not (after.codes[:45] == after.codes[45]).all(1).any()
    assert after.codes[45, 0] == ids.codes[item, 0]


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


def test_a_gate_keeps_new_items_out(toy, bundle):
    before = (bundle / "manifest.json").read_bytes()
    with pytest.raises(InputError, match="reconstruction .*at most 0"):
        add(toy, bundle, ["comb"], gate=GateConfig(max_reconstruction=0.0))
    assert (bundle / "manifest.json").read_bytes() == before


def test_ids_from_elsewhere_cannot_grow(toy, tmp_path):
    sid_table.write_semantic_ids(toy, np.zeros((45, 2), int), (8, 8), tmp_path / "sids",
                                 popularity=np.zeros(45))
    with pytest.raises(InputError, match="without codebooks; run oxyrec tokenize"):
        add(toy, tmp_path / "sids", ["comb"])
    with pytest.raises(InputError, match="without codebooks; run oxyrec tokenize"):
        lifecycle.refit(toy, HASHED, CFG, tmp_path / "sids", cache_folder=tmp_path)
    ids, _ = leave(toy, tmp_path / "sids", "i1")
    assert ids.live.sum() == 44


def test_another_text_encoder_is_refused(toy, bundle):
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["encoder"]["name"] = "an encoder of old"
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="encoder of the bundle was .*of old"):
        add(toy, bundle, ["comb"])


def test_an_item_of_which_nothing_is_known_is_refused(toy, bundle):
    before = (bundle / "manifest.json").read_bytes()
    with pytest.raises(InputError, match=r"item 2 \(new1\) has none of text"):
        add(toy, bundle, ["comb", ""])
    assert (bundle / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("spoil, words", [
    (None, None), (np.nan, "NaN"), ("short", "have 5 columns, .* fitted on 6")])
def test_vectors_of_a_file_come_with_the_new_items(spoil, words, toy, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(45, 6)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    file = EmbeddingConfig("file", path=str(tmp_path / "x.npy"))
    build.build_semantic_ids(toy, file, CFG, tmp_path / "sids")
    vectors = [x[4].tolist(), (2 * x[9]).tolist()]
    if spoil == "short":
        vectors = [vector[:5] for vector in vectors]
    elif spoil is not None:
        vectors[1][2] = spoil
    pq.write_table(pa.table({"item_id": ["a", "b"], "title": ["x", "y"],
                             "embedding": vectors}), tmp_path / "new.parquet")
    (tmp_path / "new.csv").write_text("item_id,title\na,x\n")
    with pytest.raises(InputError, match="as Parquet with their vectors"):
        lifecycle.add_items(toy, tmp_path / "sids", tmp_path / "new.csv",
                            cache_folder=tmp_path)
    with pytest.raises(InputError, match=words) if words else contextlib.nullcontext():
        lifecycle.add_items(toy, tmp_path / "sids", tmp_path / "new.parquet",
                            cache_folder=tmp_path)
        ids = sid_table.load_semantic_ids(tmp_path / "sids", toy)
        np.testing.assert_array_equal(ids.codes[45:], ids.codes[[4, 9]])


@pytest.mark.parametrize("names, words", [
    (["i3", "i99"], "line 2: no item i99 in the catalogue of 45"),
    (["i3", "i4", "i3"], "line 3: i3 stands in line 1 too"),
    ([f"i{n}" for n in range(45)], "names all 45 items"), ([""], "holds no item ids")])
def test_ids_that_cannot_leave_are_named(names, words, toy, bundle):
    before = (bundle / "manifest.json").read_bytes()
    with pytest.raises(InputError, match=words):
        leave(toy, bundle, *names)
    assert (bundle / "manifest.json").read_bytes() == before


def test_who_left_cannot_leave_again(toy, bundle):
    leave(toy, bundle, "i3")
    with pytest.raises(InputError, match="1 items are retired already, such as i3"):
        leave(toy, bundle, "i2", "i3")
    with pytest.raises(InputError, match="all 45 items"):
        leave(toy, bundle, *(f"i{n}" for n in range(45) if n != 3))


def test_a_writer_that_fails_leaves_the_old_generation(toy, bundle, monkeypatch):
    before = sid_table.load_semantic_ids(bundle, toy)

    def full(*_, **__):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(artifacts, "write_json", full)
    with pytest.raises(InputError, match="disk is full"):
        add(toy, bundle, ["comb"])
    monkeypatch.undo()
    after = sid_table.load_semantic_ids(bundle, toy)
    assert after.manifest == before.manifest
    assert sorted(p.name for p in bundle.parent.iterdir() if p.name[0] == ".") == []


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
