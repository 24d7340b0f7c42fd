"""The instruction store of a work directory: opened, and read as of any moment.

    think/store     the embedded store, where no server is configured
    think/history   every instruction under its window, for replays of the log
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Sequence

import numpy as np

from oxyrec_jax.base import InputError
from oxyrec_jax.data.dataset import Dataset
from oxyrec_jax.data.instruction_table import InstructionTable
from oxyrec_jax.thinking.opening import StoreConfig, open_store
from oxyrec_jax.thinking.reading import Reader
from oxyrec_jax.thinking.recording import Recorded, Sink, read_history
from oxyrec_jax.thinking.store import Instructions, Source, Store, age_histogram
from oxyrec_jax.tokenizer import embeddings
from oxyrec_jax.user_states import request_times
from oxyrec_jax.workspace import Workspace

_KEPT = 16_384  # vectors of texts, about 16 MB; ours
_TIME_BITS = 33  # seconds since 1970 until the year 2242


class Encoder:
    """The experiment's text encoder, for instructions.

    A text has the same vector whatever it is embedded with; those of recent texts are
    kept, since rules write the same few again and again.

    Attributes:
      name: with weights and dimension, as records of a store bear it.
      dimension: D.
    """

    def __init__(self, space: Workspace):
        self._cfg, self._cache = space.cfg.text, space.folder / "cache"
        self._known: dict[str, np.ndarray] = {}
        self.name = json.dumps(embeddings.describe_encoder(self._cfg), sort_keys=True)
        self.dimension = self(["an instruction"]).shape[1]

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Returns `[N, D]` float32 vectors of N texts."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        # Weights of the hashed encoder depend on all texts that come together.
        alone = self._cfg.source == "hashed"
        for part in ([text] for text in new) if alone else [new] if new else []:
            found = embeddings.encode_texts(part, self._cfg, self._cache)
            self._known.update(zip(part, found.astype(np.float32)))
        vectors = np.stack([self._known[text] for text in texts])
        if len(self._known) > _KEPT:
            self._known.clear()
        return vectors


def open_live(space: Workspace, encoder: Encoder, *, readonly: bool = False) -> Store:
    """Opens the store that online paths read, by `think.store`."""
    return open_store(space.cfg.think.store, space.thinking / "store",
                      dimension=encoder.dimension, encoder=encoder.name,
                      readonly=readonly)


def open_history(space: Workspace, encoder: Encoder, *, readonly: bool = False
                 ) -> Store:
    """Opens the embedded store of all windows; nothing in it expires."""
    cfg = space.cfg.think.store
    kept = StoreConfig(dtype=cfg.dtype, ttl=None, max_text=cfg.max_text,
                       max_bytes=cfg.max_bytes)
    return open_store(kept, space.thinking / "history", dimension=encoder.dimension,
                      encoder=encoder.name, readonly=readonly)


@contextlib.contextmanager
def open_sink(space: Workspace, encoder: Encoder, recorded: bool) -> Iterator[Sink]:
    """Opens what instructions are written to: the live store and, of a log, the
    history beside it."""
    with contextlib.ExitStack() as stack:
        live = stack.enter_context(open_live(space, encoder))
        yield live if not recorded else Recorded(
            live, stack.enter_context(open_history(space, encoder)))


@dataclasses.dataclass(frozen=True)
class Served:
    """What the events of a log would have read.

    Attributes:
      table: the instruction of each event.
      sources: how many events got theirs from where, by the names of `Source`.
      ages: staleness of those stored, seconds from the end of their window to the
        request, by `age_histogram`.
    """

    table: InstructionTable
    sources: dict[str, int]
    ages: dict[str, int]


def instructions_of_log(space: Workspace, dataset: Dataset) -> Served:
    """Reads for every event what the store held when its request was made.

    That is the user's latest instruction whose window had ended by then; none where
    there was none, where it had outlived `think.store.ttl`, or where its vector is of
    another encoder.

    Raises:
      InputError: nothing was ever thought for this log, or it has no times.
    """
    if not (space.thinking / "history" / "data.mdb").exists():
        raise InputError(
            f"{space.thinking / 'history'} is not there: no instruction was written "
            "over this log; run oxyrec think --before test with the same --workdir, or "
            "--since for all requests")
    moments, cfg = request_times(dataset), space.cfg.think
    encoder = Encoder(space)
    with open_history(space, encoder, readonly=True) as store:
        kept = read_history(store, cfg.served)
    number = {name: place for place, name in enumerate(dataset.user_ids())}
    owner = np.array([number.get(user, -1) for user in kept.users], np.int64)
    # Rows of one user in order of window, so that one search finds each event's; the
    # row before the first belongs to nobody.
    order = np.concatenate([[-1], np.lexsort((kept.windows, owner))])
    owner, windows, stored = (np.append(values, none) for values, none in (
        (owner, -1), (kept.windows, 0), (kept.stored, False)))
    keys = (owner[order[1:]] << _TIME_BITS) + windows[order[1:]]
    sequence = np.repeat(np.arange(dataset.num_sequences), np.diff(dataset.offsets()))
    row = order[np.searchsorted(keys, (sequence << _TIME_BITS) + moments, side="right")]
    there, ages = owner[row] == sequence, moments - windows[row]
    fresh = there & (cfg.store.ttl is None or ages <= cfg.store.ttl)
    good = fresh & stored[row]
    counts = {Source.STORED: good, Source.MISSING: ~there,
              Source.EXPIRED: there & ~fresh, Source.MISMATCH: fresh & ~good}
    return Served(
        _table(kept.texts, kept.vectors, row, good, encoder.dimension),
        {source.name.lower(): int(of.sum()) for source, of in counts.items()},
        age_histogram(ages[good].astype(np.float64)))


@dataclasses.dataclass(frozen=True)
class Read:
    """What one request got.

    Attributes:
      vector: `[D]` float32; zeros by default, which a network takes for none.
      told: for people: where it came from, text, kind, version and age, or why not.
    """

    vector: np.ndarray
    told: dict[str, object]


def is_missing(space: Workspace) -> bool:
    """Whether nothing was ever stored; of a server only its reader can tell."""
    return (space.cfg.think.store.backend == "lmdb"
            and not (space.thinking / "store" / "data.mdb").exists())


def read_one(space: Workspace, user: str) -> Read:
    """Reads a user's instruction within the deadline of `think.read`.

    Whatever is wrong with the store, there is an answer; it says why it is the default.

    Raises:
      InputError: the text encoder cannot be used.
    """
    cfg, encoder = space.cfg.think, Encoder(space)
    nothing = np.zeros(encoder.dimension, np.float32)
    told: dict[str, object] = {"source": "default", "kind": cfg.served, "text": ""}
    if is_missing(space):
        return Read(nothing, told | {"why": "no store: oxyrec think was not run"})
    try:
        with open_live(space, encoder, readonly=True) as store:
            with Reader(store, cfg.read) as reader:
                found = reader.get_many([user], cfg.served)
    except InputError as error:  # a damaged file; a server is only met by the reader
        return Read(nothing, told | {"why": str(error)})
    told |= tell(found, 0)
    return Read(found.vectors[0] if told["source"] == "store" else nothing, told)


def tell(found: Instructions, row: int) -> dict[str, object]:
    """For people: where a text came from, the text, its version and age; or why it is
    the default."""
    source = Source(int(found.sources[row]))
    if source is not Source.STORED:
        return {"source": "default", "text": "", "why": source.name.lower()}
    return {"source": "store", "text": str(found.texts[row]),
            "version": int(found.versions[row]),
            "age_seconds": round(float(found.ages[row]), 1)}


def _table(texts: Sequence[str], vectors: np.ndarray, row: np.ndarray,
           good: np.ndarray, dimension: int) -> InstructionTable:
    """Keeps each text that is used once."""
    first: dict[str, int] = {}
    kept: list[int] = []
    named: dict[int, int] = {}
    for used in np.unique(row[good]).tolist():
        if texts[used] not in first:
            first[texts[used]] = len(kept)
            kept.append(used)
        named[used] = first[texts[used]]
    index = np.full(len(row), -1, np.int32)
    index[good] = [named[each] for each in row[good].tolist()]
    if not kept:
        return InstructionTable(index, np.zeros((1, dimension), np.float32), [""])
    return InstructionTable(index, vectors[kept], list(first))
