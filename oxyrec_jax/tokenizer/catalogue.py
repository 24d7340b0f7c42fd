"""Everything that a compiled program needs to know of the items, as one argument."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from oxyrec_jax.base import Array, InputError
from oxyrec_jax.models.generator import ItemTables
from oxyrec_jax.models.memory import Successors
from oxyrec_jax.models.nearest import Nearest
from oxyrec_jax.tokenizer import trie as trie_lib


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Catalogue:
    """The items on the device; another catalogue of its size compiles nothing anew.

    Attributes:
      tables: what the network reads of every item.
      trie: the semantic IDs as a prefix tree.
      paths: `[N, T]` int32: the trie node that an item reaches at each level; the last
        is its leaf. -1 where the item is not in the trie.
    """

    tables: ItemTables
    trie: trie_lib.Trie
    paths: Array


def make_catalogue(codes: np.ndarray, widths: tuple[int, ...], *,
                   popularity: np.ndarray, features: np.ndarray | None = None,
                   successors: Successors | None = None,
                   nearest: Nearest | None = None,
                   retired: np.ndarray | None = None, rows: int | None = None,
                   at_least: trie_lib.Trie | None = None) -> tuple[
                       Catalogue, trie_lib.Leaves]:
    """Puts a catalogue on the default device.

    Args:
      codes: `[N, T]` int, semantic ID of each item.
      widths: codes on each level.
      popularity: `[N]` training events of each item, or another number that orders
        items that share an ID: higher first, equals by item id.
      features: `[N, F]` float side features, or None.
      successors: the transition memory's table, or None. Items beyond its rows have
        no successors.
      nearest: the table of nearest items, or None. Items beyond its rows have none.
      retired: `[N]` bool: items that can be read in a history but not recommended;
        None: none.
      rows: how many rows the item tables get, at least N: what is not an item has
        semantic ID 0 and is in no trie. Another catalogue with so many rows compiles
        nothing anew. None: N.
      at_least: a trie whose array sizes the new one must not fall below, for the same
        reason.

    Returns:
      The catalogue, and the items behind each leaf of its trie.

    Raises:
      InputError: the tables disagree on the number of items, a feature is not finite,
        or all items are retired.
    """
    items, rows = len(codes), len(codes) if rows is None else rows
    if rows < items:
        raise ValueError(f"{rows=}, expected at least {items}")
    if len(popularity) != items:
        raise InputError(f"{len(popularity)} items have a popularity and {items} a "
                         "semantic ID; tokenize this data set again")
    if features is not None:
        _check_features(features, items)
    live = np.arange(items) if retired is None else np.flatnonzero(~retired)
    if items and not len(live):
        raise InputError("all items are retired; nothing is left to recommend")
    order = np.lexsort((live, -np.asarray(popularity)[live]))
    trie, leaves = trie_lib.build_trie(codes[live], widths, order=order,
                                       at_least=at_least)
    tables = ItemTables(
        _padded(codes, rows, np.int32),
        None if features is None else _padded(features, rows, np.float32),
        None if successors is None else Successors(
            _padded(successors.items, rows, np.int32, fill=-1),
            _padded(successors.counts, rows, np.float32)),
        None if nearest is None else Nearest(
            _padded(nearest.items, rows, np.int32, fill=-1),
            _padded(nearest.cosines, rows, np.float32)))
    paths = trie_lib.item_paths(trie, tables.codes)
    if len(live) < rows:
        mask = np.zeros(rows, bool)
        mask[live] = True
        tables = dataclasses.replace(tables, live=jnp.asarray(mask))
        paths = jnp.where(mask[:, None], paths, -1)
        leaves = trie_lib.Leaves(leaves.offsets, live[leaves.items].astype(np.int32))
    return Catalogue(tables, trie, paths), leaves


def _padded(table: np.ndarray | Array, rows: int, dtype: type, fill: int = 0) -> Array:
    if len(table) == rows:
        return jnp.asarray(table, dtype)
    longer = np.full((rows, *table.shape[1:]), fill, dtype)
    longer[:len(table)] = table
    return jnp.asarray(longer)


def _check_features(features: np.ndarray, items: int) -> None:
    if len(features) != items:
        raise InputError(f"{len(features)} items have features and {items} a semantic "
                         "ID; tokenize this data set again")
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise InputError(f"the features of item {bad[0]} are not finite ({len(bad)} "
                         "such items); embed the items again")
