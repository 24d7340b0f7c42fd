"""Vectors of the items' pictures, as an image encoder would give them.

A picture shows what kind of thing it is (department, shelf and leaf), its colour or
pattern (the variant), for whom it is made, the brand's look, and the item's own style,
which moves the clicks and which no title tells. Each part is a fixed random direction
for what it shows, and the whole is blurred by noise. So the image goes with the text
without following from it, and a model that sees it can know what people like.

Source: ours.
"""

from collections.abc import Iterator

import numpy as np

from oxyrec_jax.data.shop import knowledge
from oxyrec_jax.data.shop.catalogue import STYLES, Catalogue

DIMENSION = 64  # ours
# Lengths of the parts of an image; ours. The style's is that of a typical item.
_DEPARTMENT, _SHELF, _LEAF, _VARIANT, _AUDIENCE = 0.5, 0.4, 0.5, 0.4, 0.2
_BRAND, _STYLE, _NOISE = 0.3, 0.8, 0.4


def item_images(items: Catalogue, known: knowledge.Knowledge, seed: int,
                rows: int = 65_536) -> Iterator[np.ndarray]:
    """Draws the images of all items, `rows` of them at a time.

    Args:
      items: the catalogue, N items.
      known: the world's knowledge.
      seed: of the shop. The same seed and items give the same bits, whatever `rows` is.
      rows: items of a block.

    Yields:
      `[rows, DIMENSION]` float16 each, N rows in all.
    """
    rng = np.random.Generator(np.random.Philox([seed, 3]))
    leaves = known.leaves
    names = sorted({name for leaf in leaves for name in leaf.variants})
    place = {name: number for number, name in enumerate(names)}
    # Variants of one name look alike wherever they occur.
    most = max(len(leaf.variants) for leaf in leaves)
    variant = np.array([[place[leaf.variants[slot % len(leaf.variants)]]
                         for slot in range(most)] for leaf in leaves])
    shelves = sorted({(leaf.department, leaf.shelf) for leaf in leaves})
    shelf = np.array([shelves.index((leaf.department, leaf.shelf)) for leaf in leaves])
    department = np.array([known.departments.index(leaf.department) for leaf in leaves])
    kind = (_DEPARTMENT * _directions(rng, len(known.departments))[department]
            + _SHELF * _directions(rng, len(shelves))[shelf]
            + _LEAF * _directions(rng, len(leaves)))
    colours = _VARIANT * _directions(rng, len(names))
    audiences = _AUDIENCE * _directions(rng, len(knowledge.AUDIENCES))
    brands = _BRAND * _directions(rng, len(items.brands.names))
    # Axes at right angles: how near two styles are can be read off the images.
    axes = np.linalg.qr(rng.normal(size=(DIMENSION, STYLES)))[0].T.astype(np.float32)
    noise = np.random.Generator(np.random.Philox([seed, 4]))
    for begin in range(0, len(items.leaf), rows):
        part = slice(begin, begin + rows)
        leaf = items.leaf[part]
        blur = noise.standard_normal((len(leaf), DIMENSION), np.float32)
        image = (kind[leaf] + colours[variant[leaf, items.variant[part]]]
                 + audiences[items.audience[part]] + brands[items.brand[part]]
                 + _STYLE * items.style[part] @ axes
                 + np.float32(_NOISE / DIMENSION ** 0.5) * blur)
        yield image.astype(np.float16)


def _directions(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draws `count` vectors of length 1, `[count, DIMENSION]` float32."""
    rows = rng.normal(size=(count, DIMENSION))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
