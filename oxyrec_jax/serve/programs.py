"""The compiled programs of a server: one for each size of a batch, made in advance.

A program is compiled once for shapes and then called with arrays; a call with other
shapes raises instead of compiling. So whatever catalogue, filter or request comes,
nothing is compiled while requests wait, and `Programs.compiled` proves it.
"""

import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from oxyrec_jax import progress
from oxyrec_jax.base import Array
from oxyrec_jax.decode.beam import Beams
from oxyrec_jax.decode.recommend import recommend
from oxyrec_jax.models.generator import Generator
from oxyrec_jax.serve.rows import Row, lay
from oxyrec_jax.serve.snapshot import Arrays, Snapshot
from oxyrec_jax.tokenizer.item_sets import ItemSet, rank_sets
from oxyrec_jax.tokenizer.trie_filter import make_filter

_RUNS = 3  # of a new program, to know its time


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The sizes for which there are programs. Defaults are ours.

    Attributes:
      batches: requests of a batch, ascending. With one size an answer is the same to
        the last bit whatever it is batched with; products of matrices of different
        heights add up in different orders, so that with several the last bits differ.
      lengths: events of a history, ascending; longer ones are cut to the newest.
      beams: K of every search.
    """

    batches: tuple[int, ...] = (1, 4, 16)
    lengths: tuple[int, ...] = (64,)
    beams: int = 20

    def __post_init__(self) -> None:
        for name in ("batches", "lengths"):
            sizes = getattr(self, name)
            if not sizes or sizes[0] < 1 or list(sizes) != sorted(set(sizes)):
                raise ValueError(f"{name}={sizes}, expected ascending numbers from 1")

    def length(self, events: int) -> int:
        """The length for a history of so many events."""
        return next((size for size in self.lengths if size >= events), self.lengths[-1])

    def batch(self, requests: int) -> int:
        """The batch for so many requests."""
        return next(size for size in self.batches if size >= requests)


@dataclasses.dataclass(frozen=True)
class Key:
    """Which program: sizes of the batch, and whether requests bear filters."""

    batch: int
    length: int
    filtered: bool


@functools.partial(jax.jit, static_argnames=("model", "beams"))
def search(model: Generator, arrays: Arrays, batch: dict[str, Array],
           words: Array | None, *, beams: int) -> Beams:
    """Answers a batch; each request's filter is exact inside the search.

    Args:
      model: the network, static.
      arrays: of a snapshot.
      batch: what the model reads.
      words: `[B, W]` uint32, the items that each request may get; None: all.
      beams: K, static.
    """
    if words is None:
        return recommend(model, arrays.params, batch, arrays.catalogue, beams=beams)
    size = words.shape[0]
    allowed = make_filter(arrays.catalogue.trie, arrays.places, batch=size,
                          pools=rank_sets(ItemSet(words)), pool=jnp.arange(size))
    return recommend(model, arrays.params, batch, arrays.catalogue, beams=beams,
                     allowed=allowed)


Warm = dict[Key, Callable[..., Beams]]


class Programs:
    """Programs for snapshots of all shapes that came; safe between threads.

    Attributes:
      sizes: of batches.
      compiled: how many programs were compiled so far.
    """

    def __init__(self, sizes: Sizes, *, profile: int = 0, text: int = 0):
        """Compiles nothing yet.

        Args:
          sizes: of batches.
          profile: places of a profile, where the network reads them.
          text: F of an instruction's vector, where it reads them.
        """
        self.sizes, self.compiled = sizes, 0
        self._profile, self._text = profile, text
        self._made: dict[Any, Warm] = {}
        self._seconds: dict[Key, float] = {}
        self._lock = threading.Lock()

    def warm(self, snapshot: Snapshot) -> Warm:
        """Returns the programs of a snapshot; compiles those that are not there.

        Each new one runs, so that its time is known.
        """
        shapes = _shapes(snapshot)
        with self._lock:
            if shapes not in self._made:
                keys = [Key(batch, length, filtered) for length in self.sizes.lengths
                        for batch in self.sizes.batches for filtered in (False, True)]
                self._made[shapes] = {
                    key: self._compile(snapshot, key)
                    for key in progress.track(keys, "compiling the server's programs")}
            return self._made[shapes]

    def lay(self, rows: Sequence[Row], vectors: np.ndarray | None, snapshot: Snapshot,
            key: Key) -> dict[str, np.ndarray]:
        """The batch of requests for a program."""
        if vectors is None and "target_instruction" in snapshot.model.reads:
            vectors = np.zeros((len(rows), self._text), np.float32)
        made = lay(rows, vectors, snapshot.model, batch=key.batch, length=key.length,
                   profile=self._profile)
        return {name: made[name] for name in snapshot.model.reads}

    def seconds(self, key: Key) -> float:
        """What a batch took when it was warmed up."""
        return self._seconds[key]

    def _compile(self, snapshot: Snapshot, key: Key) -> Callable[..., Beams]:
        batch = self.lay([], None, snapshot, key)
        words = (np.zeros((key.batch, snapshot.words), np.uint32)
                 if key.filtered else None)
        program = search.lower(snapshot.model, snapshot.arrays, batch, words,
                               beams=self.sizes.beams).compile()
        self.compiled += 1
        times = []
        for _ in range(_RUNS):
            start = time.perf_counter()
            jax.block_until_ready(program(snapshot.arrays, batch, words))
            times.append(time.perf_counter() - start)
        self._seconds[key] = min(times)
        return program


def _shapes(snapshot: Snapshot) -> Any:
    leaves, tree = jax.tree.flatten(snapshot.arrays)
    return (snapshot.model, tree,
            tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves))
