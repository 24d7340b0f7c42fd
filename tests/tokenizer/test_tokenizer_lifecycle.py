"""Items join and leave: nobody moves, and what cannot be is refused by name."""

import contextlib
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxyrec_jax import artifacts
from oxyrec_jax.base import InputError
from oxyrec_jax.tokenizer import (build, collisions, drift, lifecycle, quantiser,
                                  sid_table)
from oxyrec_jax.tokenizer.catalogue import make_catalogue
from oxyrec_jax.tokenizer.embeddings import EmbeddingConfig
from oxyrec_jax.tokenizer.quality_gate import GateConfig
from toy_catalogue import (CFG, COLOURS, HASHED, SMALL, add, build_toy, check_trie,
                           leave, make_texts)


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


def test_an_error_that_is_no_number_is_no_calm():
    with pytest.raises(ValueError, match="not finite"):
        drift.compare(np.ones(5), np.array([1, np.nan]), drift.DriftConfig())
