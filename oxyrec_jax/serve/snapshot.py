"""What a server answers from: network, catalogue and names, as one version.

A snapshot is never changed. Another one takes its place between two batches; a request
keeps the one that it came in under, so that an answer is of one version alone.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from oxyrec_jax.base import InputError
from oxyrec_jax.decode.recommend import with_item_keys
from oxyrec_jax.models.generator import Generator
from oxyrec_jax.tokenizer.catalogue import Catalogue
from oxyrec_jax.tokenizer.item_sets import Places, place_items, words_for
from oxyrec_jax.tokenizer.trie import Leaves


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Arrays:
    """What the programs read; arguments of all of them.

    Attributes:
      params: of the network.
      catalogue: the items, with the keys of retrieval where the network retrieves.
      places: where items stand in the order of the leaves.
    """

    params: Any
    catalogue: Catalogue
    places: Places


@dataclasses.dataclass(frozen=True)
class Kinds:
    """One column of the item table, such as the category, for filters.

    Attributes:
      number: of each value.
      at: `[P]` int32: the number of the item at each place of the leaves; -1 unknown.
    """

    number: Mapping[str, int]
    at: np.ndarray


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A version of all that answers; see the module's docstring.

    Attributes:
      version: its name, which every answer bears.
      facts: what it was made of, JSON values.
      model: the network.
      arrays: on the device.
      leaves: the items behind each leaf of the trie.
      item_ids, titles: of every row, also of items that are not recommended.
      rows: the row of each item id.
      codes: `[N, T]` int32 semantic IDs.
      leaf_of: `[N]` int32 the leaf of each row; -1: it is not recommended.
      place_of: `[N]` int32 its place in `leaves.items`; likewise.
      kinds: columns of the item table that filters may name.
      sets: `[W]` uint32 bits of named sets of items, by place.
      vectors: `[N, D]` float32 of length 1: what similar items are found by.
    """

    version: str
    facts: Mapping[str, Any]
    model: Generator
    arrays: Arrays
    leaves: Leaves
    item_ids: Sequence[str]
    titles: Sequence[str]
    rows: Mapping[str, int]
    codes: np.ndarray
    leaf_of: np.ndarray
    place_of: np.ndarray
    kinds: Mapping[str, Kinds]
    sets: Mapping[str, np.ndarray]
    vectors: np.ndarray

    @property
    def items(self) -> int:
        """How many items may be recommended."""
        return len(self.leaves.items)

    @property
    def words(self) -> int:
        """W, of a set of items."""
        return words_for(len(self.arrays.places.of_items))

    def pack(self, flags: np.ndarray) -> np.ndarray:
        """Bits `[W]` uint32 of `[P]` flags by place."""
        return _pack(flags, self.words)

    def bits(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Bits `[W]` uint32 of rows; those that are not recommended are left out."""
        return _bits(self.place_of, rows, self.words)

    def admits(self, words: np.ndarray | None) -> np.ndarray:
        """Flags `[P]` by place of what bits allow; None allows all."""
        if words is None:
            return np.ones(self.items, bool)
        return np.unpackbits(words.view(np.uint8), bitorder="little")[
            :self.items].astype(bool)


def make_snapshot(
    version: str, model: Generator, params: Any, catalogue: Catalogue, leaves: Leaves,
    *, item_ids: Sequence[str], titles: Sequence[str | None], codes: np.ndarray,
    vectors: np.ndarray, kinds: Mapping[str, Sequence[str | None]] | None = None,
    sets: Mapping[str, Sequence[str]] | None = None,
    facts: Mapping[str, Any] | None = None, at_least: Snapshot | None = None,
) -> Snapshot:
    """Puts a version on the device.

    Args:
      version: its name.
      model, params: the network.
      catalogue, leaves: from `tokenizer.catalogue.make_catalogue`.
      item_ids, titles: `N` each; an item without a title is called by its id.
      codes: `[N, T]` semantic IDs.
      vectors: `[N, D]` float: similar items have vectors of a like direction.
      kinds: values of columns of the item table, N each.
      sets: item ids of named sets.
      facts: to be shown.
      at_least: a snapshot whose array sizes this one must not fall below, as the
        catalogue must not; then it compiles nothing anew.

    Raises:
      InputError: a named set holds an item that there is not.
    """
    rows = {name: row for row, name in enumerate(item_ids)}
    place_of = np.full(len(item_ids), -1, np.int32)
    place_of[leaves.items] = np.arange(len(leaves.items), dtype=np.int32)
    leaf_of = np.full(len(item_ids), -1, np.int32)
    leaf_of[leaves.items] = np.repeat(np.arange(len(leaves), dtype=np.int32),
                                      np.diff(leaves.offsets))
    places = place_items(catalogue.trie, leaves, at_least=None if at_least is None
                         else at_least.arrays.places)
    words = words_for(len(places.of_items))
    named = {}
    for name, members in (sets or {}).items():
        unknown = next((item for item in members if item not in rows), None)
        if unknown is not None:
            raise InputError(f"the set of items {name!r} holds {unknown!r}, which is "
                             "not in the catalogue; take it out")
        named[name] = _bits(place_of, [rows[item] for item in members], words)
    params = jax.device_put(params)
    arrays = Arrays(params, with_item_keys(model, params, catalogue), places)
    length = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    jax.block_until_ready(arrays)
    return Snapshot(
        version, dict(facts or {}), model, arrays, leaves, list(item_ids),
        [title or name for title, name in zip(titles, item_ids, strict=True)], rows,
        np.asarray(codes, np.int32), leaf_of, place_of,
        {name: _kinds(values, leaves) for name, values in (kinds or {}).items()},
        named, np.asarray(vectors / length, np.float32))


def _kinds(values: Sequence[str | None], leaves: Leaves) -> Kinds:
    number: dict[str, int] = {}
    of_rows = np.array([-1 if value is None else number.setdefault(value, len(number))
                        for value in values], np.int32)
    return Kinds(number, of_rows[leaves.items])


def _bits(place_of: np.ndarray, rows: Sequence[int] | np.ndarray, words: int
          ) -> np.ndarray:
    found = np.zeros(words, np.uint32)
    places = place_of[np.asarray(rows, np.int64)]
    places = places[places >= 0]
    np.bitwise_or.at(found, places >> 5, np.uint32(1) << (places & 31).astype(
        np.uint32))
    return found


def _pack(flags: np.ndarray, words: int) -> np.ndarray:
    room = np.zeros(4 * words, np.uint8)
    packed = np.packbits(flags, bitorder="little")
    room[:len(packed)] = packed
    return room.view("<u4")
