"""Everything that a compiled program needs to know of the items, as one argument."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from oxyrec_jax.base import Array, InputError
from oxyrec_jax.models.generator import ItemTables
from oxyrec_jax.models.memory import Successors
from oxyrec_jax.tokenizer import trie as trie_lib


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Catalogue:
    """The items on the device; another catalogue of its size compiles nothing anew.

    Attributes:
      tables: what the network reads of every item.
      trie: the semantic IDs as a prefix tree.
      paths: `[N, T]` int32: the trie node that an item reaches at each level; the last
        is its leaf.
    """

    tables: ItemTables
    trie: trie_lib.Trie
    paths: Array


def make_catalogue(codes: np.ndarray, widths: tuple[int, ...], *,
                   popularity: np.ndarray, features: np.ndarray | None = None,
                   successors: Successors | None = None) -> tuple[
                       Catalogue, trie_lib.Leaves]:
    """Puts a catalogue on the default device.

    Args:
      codes: `[N, T]` int, semantic ID of each item.
      widths: codes on each level.
      popularity: `[N]` training events of each item: orders items that share an ID.
      features: `[N, F]` float side features, or None.
      successors: the transition memory's table, or None.

    Returns:
      The catalogue, and the items behind each leaf of its trie.

    Raises:
      InputError: the tables disagree on the number of items, or a feature is not
        finite.
    """
    items = len(codes)
    if len(popularity) != items:
        raise InputError(f"{len(popularity)} items have a popularity and {items} a "
                         "semantic ID; tokenize this data set again")
    if features is not None:
        if len(features) != items:
            raise InputError(f"{len(features)} items have features and {items} a "
                             "semantic ID; tokenize this data set again")
        bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
        if len(bad):
            raise InputError(f"the features of item {bad[0]} are not finite "
                             f"({len(bad)} such items); embed the items again")
    order = np.lexsort((np.arange(items), -np.asarray(popularity)))
    trie, leaves = trie_lib.build_trie(codes, widths, order=order)
    paths = trie_lib.item_paths(trie, jnp.asarray(codes))
    tables = ItemTables(
        jnp.asarray(codes, jnp.int32),
        None if features is None else jnp.asarray(features, jnp.float32), successors)
    return Catalogue(tables, trie, paths), leaves
