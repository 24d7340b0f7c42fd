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
from oxyrec_jax.decode.recommend import Encoded, encode, recommend
from oxyrec_jax.models.generator import Generator
from oxyrec_jax.serve.rows import Row, lay
from oxyrec_jax.serve.snapshot import Arrays, Snapshot
from oxyrec_jax.tokenizer.item_sets import ItemSet, rank_sets
from oxyrec_jax.tokenizer.trie_filter import make_filter

CUT = 8  # prefixes that a level of the search cut, told where somebody asks; ours
_RUNS = 3  # of a new program, to know its time
_FORGET = 1.02  # by which a batch that took longer than known raises its time; ours


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
    """Which program: sizes of the batch, whether requests bear filters; or, where
    encoded histories are kept, the one that encodes them."""

    batch: int
    length: int
    filtered: bool
    encodes: bool = False


@functools.partial(jax.jit, static_argnames=("model", "beams"))
def search(model: Generator, arrays: Arrays, batch: dict[str, Array],
           words: Array | None, rows: Sequence[Array] | None = None, *, beams: int
           ) -> Beams:
    """Answers a batch; each request's filter is exact inside the search.

    Args:
      model: the network, static.
      arrays: of a snapshot.
      batch: what the model reads.
      words: `[B, W]` uint32, the items that each request may get; None: all.
      rows: of each request what `encode_rows` made of its history; None: the search
        begins with the encoder.
      beams: K, static.
    """
    size = batch["items"].shape[0]
    allowed, encoded = None, None
    if words is not None:
        allowed = make_filter(arrays.catalogue.trie, arrays.places, batch=size,
                              pools=rank_sets(ItemSet(words)), pool=jnp.arange(size))
    if model.cfg.decoding == "sequential":
        # One program or two, with the same bits: nothing is fused over the barrier.
        packed = (jax.lax.optimization_barrier(_pack(encode(
            model, arrays.params, batch, arrays.catalogue))) if rows is None else
            jnp.stack(list(rows)))
        encoded = _unpack(model, arrays, batch, packed)
    return recommend(model, arrays.params, batch, arrays.catalogue, beams=beams,
                     allowed=allowed, cut=CUT, encoded=encoded)


@functools.partial(jax.jit, static_argnames="model")
def encode_rows(model: Generator, arrays: Arrays, batch: dict[str, Array]
                ) -> list[Array]:
    """Encodes histories: for each row of a batch all that is kept of it, in one array.

    Args:
      model: the network, static.
      arrays: of a snapshot.
      batch: what the model reads.
    """
    rows = jax.lax.optimization_barrier(_pack(encode(
        model, arrays.params, batch, arrays.catalogue)))
    return list(rows)


def _pack(encoded: Encoded) -> Array:
    """`[B, n]`, all of `encoded` but what is visible."""
    leaves = jax.tree.leaves((encoded.memory, encoded.state))
    return jnp.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


def _unpack(model: Generator, arrays: Arrays, batch: dict[str, Array], rows: Array
            ) -> Encoded:
    """`Encoded` from what `_pack` made of it."""
    # What is visible follows from the request; the encoder itself is read by nothing.
    own = encode(model, arrays.params, batch, arrays.catalogue)
    leaves, tree = jax.tree.flatten((own.memory, own.state))
    ends = np.cumsum([leaf[0].size for leaf in leaves])
    memory, state = jax.tree.unflatten(tree, [
        part.reshape(leaf.shape) for part, leaf in zip(
            jnp.split(rows, ends[:-1], axis=1), leaves, strict=True)])
    return Encoded(memory, own.allowed, state)


Warm = dict[Key, Callable[..., Any]]


class Programs:
    """Programs for snapshots of all shapes that came; safe between threads.

    Attributes:
      sizes: of batches.
      compiled: how many programs were compiled so far.
      keeps: whether searches begin from encoded histories.
    """

    def __init__(self, sizes: Sizes, *, profile: int = 0, text: int = 0,
                 alone: bool = False, keeps: bool = False):
        """Compiles nothing yet.

        Args:
          sizes: of batches.
          profile: places of a profile, where the network reads them.
          text: F of an instruction's vector, where it reads them.
          alone: on a CPU a program runs on the thread that calls it and no other. Small
            batches lose little by it, and programs that run at the same time, and
            whatever else the process does, do not wait for each other's threads.
          keeps: whether encoded histories are kept: programs that encode, and searches
            that begin from what they made.
        """
        self.sizes, self.compiled = sizes, 0
        self._options: dict[str, str | bool] | None = None
        if alone and jax.default_backend() == "cpu":
            self._options = {"xla_cpu_multi_thread_eigen": False}
        self._profile, self._text, self.keeps = profile, text, keeps
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
                sizes = [(batch, length) for length in self.sizes.lengths
                         for batch in self.sizes.batches]
                keys = [Key(*size, False, encodes=True) for size in sizes if self.keeps]
                keys += [Key(*size, filtered) for size in sizes
                         for filtered in (False, True)]
                made: Warm = {}
                for key in progress.track(keys, "compiling the server's programs"):
                    made[key] = self._compile(snapshot, key, made)
                self._made[shapes] = made
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
        """What a batch takes when nothing else disturbs it."""
        return self._seconds[key]

    def took(self, key: Key, seconds: float) -> None:
        """Learns from a batch: down at once, up slowly, so that neither a start on a
        busy machine nor a batch that was disturbed counts for long."""
        self._seconds[key] = min(seconds, self._seconds[key] * _FORGET)

    def _compile(self, snapshot: Snapshot, key: Key, made: Warm
                 ) -> Callable[..., Any]:
        batch = self.lay([], None, snapshot, key)
        given: list[Any] = [snapshot.arrays, batch]
        if not key.encodes:
            given.append(np.zeros((key.batch, snapshot.words), np.uint32)
                         if key.filtered else None)
        encoder = dataclasses.replace(key, filtered=False, encodes=True)
        if key.encodes:
            traced = encode_rows.lower(snapshot.model, *given)
        else:
            if self.keeps:
                given.append(made[encoder](*given[:2]))
            traced = search.lower(snapshot.model, *given, beams=self.sizes.beams)
        program = traced.compile(self._options)
        self.compiled += 1
        times = []
        for _ in range(_RUNS):
            start = time.perf_counter()
            jax.block_until_ready(program(*given))
            times.append(time.perf_counter() - start)
        before = self._seconds[encoder] if self.keeps and not key.encodes else 0.0
        self._seconds[key] = before + min(times)
        return program


def _shapes(snapshot: Snapshot) -> Any:
    leaves, tree = jax.tree.flatten(snapshot.arrays)
    return (snapshot.model, tree,
            tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves))
