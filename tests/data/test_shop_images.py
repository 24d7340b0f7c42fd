"""Pictures of the shop's items as vectors."""

import dataclasses
import shutil

import numpy as np
import pytest

from oxyrec_jax.base import InputError
from oxyrec_jax.data import dataset, schema, shop
from oxyrec_jax.data.shop import images
from oxyrec_jax.tokenizer import embeddings, multisource, sources

HASHED = embeddings.EmbeddingConfig(source="hashed", dimension=16)
CONFIG = shop.ShopConfig(users=12, items=900, events_per_user=6.0, max_events=8)


@pytest.fixture(scope="module")
def built():
    return shop.build_shop(dataclasses.replace(CONFIG, items=4_000))


@pytest.fixture(scope="module")
def drawn(built):
    return np.concatenate(list(images.item_images(built.items, built.known, 0)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("shop") / "log"
    shop.prepare_shop(CONFIG, target)
    return target


def explained(inputs, outputs):
    """Share of the outputs' variance that a linear map of the inputs explains, on
    items that it was not fitted to."""
    half = len(inputs) // 2
    inputs = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)
    weights = np.linalg.lstsq(inputs[:half], outputs[:half], rcond=None)[0]
    rest = outputs[half:] - inputs[half:] @ weights
    return 1 - rest.var(axis=0).sum() / outputs[half:].var(axis=0).sum()


def test_the_same_seed_gives_the_same_bits_in_blocks_of_any_size(built, drawn):
    assert drawn.shape == (4_000, images.DIMENSION) and drawn.dtype == np.float16
    parts = list(images.item_images(built.items, built.known, 0, rows=999))
    assert [len(part) for part in parts] == [999, 999, 999, 999, 4]
    np.testing.assert_array_equal(np.concatenate(parts), drawn)
    other = np.concatenate(list(images.item_images(built.items, built.known, 1)))
    assert (other != drawn).mean() > 0.9


def test_images_tell_the_style_that_brand_and_leaf_do_not(built, drawn):
    items, pictures = built.items, drawn.astype(np.float64)
    by_image = explained(pictures, items.style)
    table = np.concatenate([np.eye(len(items.brands.names))[items.brand],
                            np.eye(len(built.known.leaves))[items.leaf]], axis=1)
    # A brand's own style is half of an item's variance: .7² of .7² + .7².
    assert by_image > 0.8
    assert explained(table, items.style) < 0.5 < by_image - 0.2


def test_images_go_with_the_kind_and_are_no_function_of_the_text(built, drawn):
    items, unit = built.items, drawn.astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    near = unit @ unit.T
    np.fill_diagonal(near, -1)
    same = items.leaf[near.argmax(axis=1)] == items.leaf
    assert same.mean() > 20 * (np.bincount(items.leaf) ** 2).sum() / 4_000 ** 2
    alike = {}  # items that a title tells apart by the series' name alone
    for item, key in enumerate(zip(items.leaf, items.brand, items.feature,
                                   items.variant, items.audience)):
        alike.setdefault(key, []).append(item)
    pairs = [group[:2] for group in alike.values() if len(group) > 1]
    assert len(pairs) > 50
    assert all((drawn[a] != drawn[b]).mean() > 0.9 for a, b in pairs)


def test_the_data_set_holds_them_and_a_damaged_file_is_named(folder, tmp_path):
    log = dataset.load_dataset(folder)
    built = shop.load_shop(folder)
    expected = np.concatenate(list(images.item_images(built.items, built.known, 0)))
    np.testing.assert_array_equal(log.images(), expected)
    shutil.copytree(folder, tmp_path / "log")
    path = tmp_path / "log" / "images.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(InputError, match="images.npy"):
        dataset.load_dataset(tmp_path / "log")
    np.save(path, np.zeros((3, 4), np.float16))
    with pytest.raises(InputError, match=r"images.npy is float16 \(3, 4\), expected"):
        dataset.load_dataset(tmp_path / "log", verify=False).images()


def test_the_tokenizer_takes_them_without_a_file(folder, tmp_path):
    log = dataset.load_dataset(folder)
    cfg = sources.SourceConfig(sources=("text", "image"))
    made = multisource.item_encoder(log, cfg, HASHED, tmp_path / "cache")
    assert made.vectors.shape == (900, 16 + images.DIMENSION)
    stored = np.asarray(log.images(), np.float32)
    length = np.linalg.norm(stored, axis=1, keepdims=True)
    np.testing.assert_allclose(made.vectors[:, 16:], stored / length, rtol=1e-6)
    origin = made.facts["sources"]["image"]["origin"]
    assert origin == {"name": "images of the data set"}
    found = sources.resolve(sources.SourceConfig("late-fusion"), log.item_table(),
                            log.images())
    assert found.sources == ("text", "image", "categorical")


def test_new_items_have_none_in_the_width_of_the_others(folder, tmp_path):
    log = dataset.load_dataset(folder)
    cfg = sources.SourceConfig(sources=("text", "image"))
    new = schema.item_table({"item_id": ["n1", "n2"], "text": ["red mug", "blue mug"]})
    found = sources.item_sources(new, cfg, HASHED, tmp_path / "cache",
                                 images=np.zeros((2, images.DIMENSION), np.float32))
    np.testing.assert_array_equal(found.present, [[True, False]] * 2)
    assert sources.concatenate(found).shape == (2, 16 + images.DIMENSION)
    with pytest.raises(InputError, match="none lie with the data set; set image.path"):
        sources.item_sources(new, cfg, HASHED, tmp_path / "cache")
    assert log.images() is not None


def test_images_that_do_not_fit_the_items_are_refused(tmp_path):
    def fill(vectors):
        def write(out):
            out.add_items(schema.item_table({"item_id": ["a", "b"]}))
            out.add_sequences({"item": np.zeros(2, np.int32)}, [2], ["user"])
            out.add_images(vectors)
        return write
    with pytest.raises(ValueError, match="1 images of 2 items"):
        dataset.write_dataset(tmp_path / "one", fill(np.ones((1, 4))), facts={})
    with pytest.raises(ValueError, match="beyond 65504"):
        dataset.write_dataset(tmp_path / "two", fill(np.full((2, 4), 1e6)), facts={})
