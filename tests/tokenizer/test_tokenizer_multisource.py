"""Training: better pairs than text alone, the same on 8 devices, the same each time."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tiny_world
from oxyrec_jax import parallel
from oxyrec_jax.base import InputError
from oxyrec_jax.data import dataset, schema
from oxyrec_jax.tokenizer import embeddings, multisource, pairs, sources
from oxyrec_jax.tokenizer.contrast import ContrastiveConfig
from oxyrec_jax.tokenizer.fusion import FusionConfig
from oxyrec_jax.tokenizer.sources import ItemSources, SourceConfig

HASHED = embeddings.EmbeddingConfig(source="hashed", dimension=16)
SMALL = FusionConfig(dimension=16, width=16, queries=2, heads=2, hidden=16)
SHORT = SourceConfig(
    "multi-source", ("text", "image"), fusion=SMALL,
    training=ContrastiveConfig(steps=6, batch=16, warmup=2))
KINDS = np.arange(120) // 8  # 15 kinds of 8 items that users take together


def planted(seed=0):
    """Items of 15 kinds that text and image each tell a little about."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(2, 15, 12))
    vectors = {
        name: (0.8 * centres[place, KINDS] + rng.normal(size=(120, 12))
               ).astype(np.float32) for place, name in enumerate(("text", "image"))}
    vectors["text"][5], vectors["image"][[9, 17]] = 0, 0
    events = np.concatenate([rng.permutation(np.flatnonzero(KINDS == kind))[:5]
                             for kind in np.tile(range(15), 12)])
    offsets = np.arange(0, len(events) + 1, 5)
    train = np.stack([np.arange(180), np.ones(180, int), np.full(180, 5)], axis=1)
    near = pairs.behavioural(events, offsets, train, num_items=120)
    return ItemSources(vectors, {"text": None, "image": None}), near


SOURCES, NEAR = planted()


@pytest.fixture(scope="module")
def trained():
    """Parameters and facts of the short training."""
    return multisource.fit(SOURCES, NEAR, SHORT)


def share_of_kind(vectors):
    """Share of the 5 nearest items that are of the item's own kind."""
    x = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    scores = x @ x.T
    np.fill_diagonal(scores, -9)
    nearest = np.argsort(-scores, axis=1)[:, :5]
    return float((KINDS[nearest] == KINDS[:, None]).mean())


@pytest.mark.slow
def test_training_raises_pair_accuracy_well_above_text_alone():
    cfg = dataclasses.replace(SHORT, training=ContrastiveConfig(
        steps=150, batch=32, warmup=10, learning_rate=5e-3, source_dropout=0.3))
    params, facts = multisource.fit(SOURCES, NEAR, cfg)
    found = facts["retrieval"]
    assert found["after"] > found["before"] + 0.1
    assert facts["loss"]["last"] < facts["loss"]["first"]
    assert all(0.01 <= value <= 1 for value in facts["temperature"].values())
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    text, made = SOURCES.vectors["text"], multisource.encode_items(params, SOURCES, cfg)
    beside = share_of_kind(sources.concatenate(SOURCES))
    assert share_of_kind(made) > beside + 0.1 > share_of_kind(text) + 0.1
    # A new item has its text alone: it too is nearer to its kind than by raw text.
    alone = dataclasses.replace(SOURCES, vectors={
        "text": text, "image": np.zeros_like(text)})
    assert share_of_kind(multisource.encode_items(params, alone, cfg)) > (
        share_of_kind(text) + 0.1)


def test_the_same_seed_gives_the_same_bits_and_another_does_not(trained):
    again = multisource.fit(SOURCES, NEAR, SHORT)
    assert again[1] == trained[1] and again[0].keys() == trained[0].keys()
    for name, value in again[0].items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, trained[0][name])
    other = multisource.fit(SOURCES, NEAR, dataclasses.replace(SHORT, seed=1))
    assert other[1]["loss"] != trained[1]["loss"]


def test_all_steps_and_all_seeds_run_one_program(monkeypatch):
    monkeypatch.setattr(multisource, "_STEPS_AT_ONCE", 2)
    before = multisource._advance._cache_size()
    for seed in (0, 1):  # six steps in three calls each
        multisource.fit(SOURCES, NEAR, dataclasses.replace(SHORT, seed=seed))
        assert multisource._advance._cache_size() == before + 1


@pytest.mark.slow
@pytest.mark.parametrize("generation", ["early-fusion", "multi-source"])
def test_eight_devices_train_what_one_does(generation):
    cfg = dataclasses.replace(SHORT, generation=generation)
    one, facts = multisource.fit(SOURCES, NEAR, cfg)
    mesh = parallel.make_mesh()
    assert mesh.shape["data"] == 8
    eight, facts_of_eight = multisource.fit(SOURCES, NEAR, cfg, mesh=mesh)
    # Sums in another order: float32 rounding, which Adam carries on for six steps.
    np.testing.assert_allclose(facts_of_eight["loss"]["first"], facts["loss"]["first"],
                               rtol=1e-5)
    for name, value in one.items():
        np.testing.assert_allclose(eight[name], value, atol=2e-4)


def test_vectors_of_new_items_do_not_depend_on_their_company(trained):
    params, _ = trained
    whole = multisource.encode_items(params, SOURCES, SHORT)
    assert whole.shape == (120, 16) and whole.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, rtol=1e-5)
    few = ItemSources({name: found[5:12] for name, found in SOURCES.vectors.items()},
                      SOURCES.origins)
    np.testing.assert_allclose(multisource.encode_items(params, few, SHORT),
                               whole[5:12], atol=1e-6)
    none = ItemSources({name: found[:0] for name, found in SOURCES.vectors.items()},
                       SOURCES.origins)
    assert multisource.encode_items(params, none, SHORT).shape == (0, 16)


def test_encoding_in_chunks_gives_the_same(trained, monkeypatch):
    params, _ = trained
    whole = multisource.encode_items(params, SOURCES, SHORT)
    monkeypatch.setattr(multisource, "_ROWS_AT_ONCE", 50)
    np.testing.assert_allclose(multisource.encode_items(params, SOURCES, SHORT), whole,
                               atol=1e-6)


def test_other_sources_than_those_of_the_training_are_named(trained):
    params, _ = trained
    text = {"text": SOURCES.vectors["text"]}
    with pytest.raises(InputError, match=r"have the sources \('text',\), the encoder"):
        multisource.encode_items(params, ItemSources(text, {}), SHORT)
    wide = ItemSources({**text, "image": np.ones((120, 13), np.float32)}, {})
    with pytest.raises(InputError, match="'image' has vectors of 13 numbers, .* 12"):
        multisource.encode_items(params, wide, SHORT)


def blank(name):
    return ItemSources({**SOURCES.vectors, name: np.zeros((120, 12), np.float32)}, {})


NO_PAIRS = pairs.behavioural(np.zeros(0, int), np.zeros(1, int), np.zeros((0, 3), int),
                             num_items=120)


@pytest.mark.parametrize("found, near, options, training, said", [
    (blank("image"), NEAR, {}, {}, "no item has the source 'image'"),
    (SOURCES, NO_PAIRS, {}, {}, "no two items of one user close together"),
    (SOURCES, NEAR, {}, {"batch": 1}, "training.batch is 1, expected at least 2"),
    (SOURCES, NEAR, {}, {"steps": 0}, "steps of at least 1"),
    (SOURCES, NEAR, {}, {"modality_weight": -1.0}, "none below 0"),
    (SOURCES, NEAR, {"generation": "late-fusion"}, {"modality_weight": 0.0},
     "one that counts"),
    (SOURCES, NEAR, {"fusion": FusionConfig(width=9)}, {}, "divide the width"),
    (SOURCES, NEAR, {}, {"learning_rate": 1e38, "warmup": 0}, "not finite in steps 1"),
])
def test_training_that_cannot_be_is_named(found, near, options, training, said):
    cfg = dataclasses.replace(SHORT, **options, training=dataclasses.replace(
        SHORT.training, **training))
    with pytest.raises(InputError, match=said):
        multisource.fit(found, near, cfg)


def test_a_batch_that_the_devices_cannot_share_is_named():
    cfg = dataclasses.replace(SHORT, training=ContrastiveConfig(batch=12))
    with pytest.raises(InputError, match="multiple of the 8 devices"):
        multisource.fit(SOURCES, NEAR, cfg, mesh=parallel.make_mesh())


def world(folder, *, held_out_seed=None):
    """A data set with text; its validation and test items can be drawn anew."""
    made = tiny_world.make_dataset(folder / "plain", sequences=40)
    events, offsets = made.column("item").copy(), made.offsets()
    if held_out_seed is not None:
        held_out = np.concatenate([offsets[1:] - 1, offsets[1:] - 2])
        events[held_out] = np.random.default_rng(held_out_seed).integers(
            0, 30, len(held_out))
    texts = [f"thing{n % 4} of colour{n % 3}" for n in range(30)]

    def fill(out):
        out.add_items(schema.item_table({
            "item_id": [f"i{n}" for n in range(30)], "text": texts}))
        out.add_sequences({"item": events}, np.diff(offsets),
                          [f"u{n}" for n in range(40)])
        for name in made.splits:
            out.add_targets(name, made.split(name))
    dataset.write_dataset(folder / "data", fill, facts={})
    return dataset.load_dataset(folder / "data")


def test_held_out_events_change_no_item_vector(tmp_path):
    cfg = dataclasses.replace(SHORT, sources=None, dimension=8)
    one, two = (multisource.item_encoder(world(tmp_path / str(seed),
                                               held_out_seed=seed), cfg, HASHED,
                                         tmp_path / "cache") for seed in (1, 2))
    assert one.facts["config"]["sources"] == ("text", "co-engagement")
    assert one.facts == two.facts
    np.testing.assert_array_equal(one.vectors, two.vectors)


def test_vectors_side_by_side_are_the_default_and_new_items_lack_behaviour(tmp_path):
    data = world(tmp_path)
    texts = embeddings.embed_texts(data.item_table()["text"].to_pylist(), HASHED,
                                   tmp_path / "cache")
    plain = multisource.item_encoder(data, SourceConfig(), HASHED, tmp_path / "cache")
    found, facts = plain.vectors, plain.facts
    expected = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    np.testing.assert_array_equal(found, expected.astype(np.float32))
    assert "training" not in facts and facts["sources"]["text"]["items"] == 30
    cfg = SourceConfig(sources=("text", "co-engagement"), dimension=8)
    made = multisource.item_encoder(data, cfg, HASHED, tmp_path / "cache")
    assert made.vectors.shape == (30, 24) and made.params == {}
    np.testing.assert_array_equal(made.vectors[:, :16], found)
    new = sources.item_sources(data.item_table(), cfg, HASHED, tmp_path / "cache")
    alone = multisource.encode_items(made.params, new, cfg)
    np.testing.assert_array_equal(alone[:, :16], found)
    assert not alone[:, 16:].any()


def test_an_encoder_survives_its_bundle_and_reads_new_items(tmp_path):
    data = world(tmp_path)
    pq.write_table(pa.table({"item_id": ["i3", "i4", "new"], "embedding": pa.array(
        np.eye(3).tolist())}), tmp_path / "image.parquet")
    cfg = dataclasses.replace(SHORT, sources=None, dimension=8,
                              image=sources.VectorFile(str(tmp_path / "image.parquet")))
    made = multisource.item_encoder(data, cfg, HASHED, tmp_path / "cache")
    assert made.facts["sources"]["image"]["items"] == 2
    for name, value in made.params.items():
        path = tmp_path / "encoder" / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, value)
    kept = {str(path.relative_to(tmp_path / "encoder").with_suffix("")): np.load(path)
            for path in sorted((tmp_path / "encoder").rglob("*.npy"))}
    assert kept.keys() == made.params.keys()
    cfg = sources.resolve(cfg, data.item_table())
    new = schema.item_table({"item_id": ["new", "newer"], "text": ["thing1", ""]})
    found = sources.item_sources(new, cfg, HASHED, tmp_path / "cache")
    np.testing.assert_array_equal(found.present, [[True, True, False], [False] * 3])
    vectors = multisource.encode_items(kept, found, cfg)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 0], rtol=1e-5)
