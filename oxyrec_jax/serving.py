"""Serves a work directory: snapshots of what stands in it, and the server around them.

    sets/NAME.txt      item ids, one a line: sets that requests may filter by
"""

import dataclasses
import logging
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from oxyrec_jax import artifacts
from oxyrec_jax.base import InputError
from oxyrec_jax.data.pipeline import asked_behaviour
from oxyrec_jax.instruction_store import Encoder, is_missing, open_live, tell
from oxyrec_jax.ready import Ready, load, parameters
from oxyrec_jax.serve.engine import Engine
from oxyrec_jax.serve.front import Front, Limits
from oxyrec_jax.serve.history_cache import HistoryCache
from oxyrec_jax.serve.people import open_people
from oxyrec_jax.serve.process import Listening, listen, read_token, run
from oxyrec_jax.serve.programs import Programs, Sizes
from oxyrec_jax.serve.snapshot import Snapshot, make_snapshot
from oxyrec_jax.thinking.reading import Reader
from oxyrec_jax.tokenizer import sid_table
from oxyrec_jax.workspace import Workspace, check_run, need

TOKEN, ADMIN_TOKEN = "OXYREC_SERVE_TOKEN", "OXYREC_SERVE_ADMIN_TOKEN"
_KINDS = ("category", "brand")  # columns of the item table that filters may name
_SPARE = 0.125  # share of rows for items that come while the server runs
_AGAIN = 10.0  # seconds after which a store that was not there is looked for again
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Serving:
    """How a work directory is served. Defaults are ours.

    Attributes:
      listening: where.
      batches: sizes of batches.
      lengths: sizes of histories; empty: a quarter of the experiment's and all of it.
      queue: requests that may wait.
      workers: batches that are computed at the same time.
      history_cache: bytes of encoded histories that are kept; 0: none are.
      limits: of one request; tokens are read elsewhere.
      token_file, admin_token_file: in place of the environment variables.
      seed: whose run answers; None: the experiment's first.
    """

    listening: Listening = Listening()
    batches: tuple[int, ...] = (1, 4, 16)
    lengths: tuple[int, ...] = ()
    queue: int = 256
    workers: int = 1
    history_cache: int = 0
    limits: Limits = Limits()
    token_file: pathlib.Path | None = None
    admin_token_file: pathlib.Path | None = None
    seed: int | None = None


def serve(space: Workspace, cfg: Serving) -> dict[str, Any]:
    """Serves until it is told to end; returns how much was served.

    Raises:
      InputError: nothing to serve there, a port that is taken, or a bad token.
    """
    limits = dataclasses.replace(
        cfg.limits, token=read_token(TOKEN, cfg.token_file),
        admin_token=read_token(ADMIN_TOKEN, cfg.admin_token_file))
    own = cfg.listening.host in ("127.0.0.1", "::1", "localhost")
    if limits.token is None and not own:
        _log.warning("%s can be reached from elsewhere, and there is no token: whoever "
                     "reaches it may ask (docs/serving.md)", cfg.listening.host)
    with listen(cfg.listening) as sock:
        opened = Opened(space, cfg)
        with opened.engine:
            front = Front(opened.engine, opened.people, history=opened.most,
                          reload=opened.reload, limits=limits,
                          title=space.folder.resolve().name)
            run(front, cfg.listening, sock)
    opened.close()
    return {"served": front.answered, "version": opened.engine.live.snapshot.version}


class Opened:
    """A work directory as an engine.

    Attributes:
      engine: compiled, not yet started.
      people: users of the log.
      most: events that the network reads of a history.
    """

    def __init__(self, space: Workspace, cfg: Serving = Serving()):
        """Loads and compiles.

        Raises:
          InputError: nothing to serve there.
        """
        self._space = space
        self._seed = space.cfg.seeds[0] if cfg.seed is None else cfg.seed
        self.most = space.cfg.train.pipeline.history
        ready = load(space, live=True, texts=False, spare=_SPARE)
        self.people = open_people(ready.dataset, asked_behaviour(
            ready.dataset, space.cfg.instructions.behaviour))
        self._texts = (_Texts(space) if "target_instruction" in
                       ready.model.cfg.instructions.reads else None)
        if cfg.history_cache and ready.model.cfg.decoding != "sequential":
            raise InputError("--history-cache: a network of model.decoding="
                             f"{ready.model.cfg.decoding} looks at the history once "
                             "for each search, and keeps nothing; leave it out")
        lengths = cfg.lengths or tuple(sorted({-(-self.most // 4), self.most}))
        if lengths[-1] != self.most:
            raise InputError(f"--lengths {' '.join(map(str, lengths))}: the last must "
                             f"be {self.most}, what the network reads of a history"
                             )
        sizes = Sizes(cfg.batches, lengths, space.cfg.beams)
        known = ready.dataset.profiles
        programs = Programs(
            sizes, profile=0 if known is None else known.rows.shape[1],
            text=0 if self._texts is None else self._texts.dimension,
            alone=cfg.workers > 1, keeps=cfg.history_cache > 0)
        self.engine = Engine(
            _snapshot(space, ready, self._seed), programs, queue=cfg.queue,
            workers=cfg.workers, cache=HistoryCache(cfg.history_cache),
            read_texts=None if self._texts is None else self._texts.read)

    def reload(self, at_least: Snapshot) -> Snapshot:
        """What stands in the work directory now.

        Raises:
          InputError: it does not fit the run, or is damaged.
        """
        ready = load(self._space, live=True, texts=False,
                     at_least=at_least.arrays.catalogue)
        return _snapshot(self._space, ready, self._seed, at_least)

    def close(self) -> None:
        """Lets go of the instruction store."""
        if self._texts is not None:
            self._texts.close()


def _snapshot(space: Workspace, ready: Ready, seed: int,
              at_least: Snapshot | None = None) -> Snapshot:
    ids = ready.ids
    need(space.run(seed) / "best", "train")
    run_digest = artifacts.value_digest(artifacts.read_json(
        space.run(seed) / "best" / artifacts.MANIFEST))
    if (at_least is not None and at_least.facts["run"] == run_digest[:12]
            and at_least.model == ready.model):
        check_run(space, seed, ids)
        params = at_least.arrays.params  # no second copy on the device
    else:
        params = parameters(space, ready, seed)
    table = sid_table.catalogue_table(ready.dataset, ids)
    sets = _sets(space.folder / "sets")
    made = artifacts.value_digest({
        "semantic_ids": dict(ids.manifest), "sets": sets, "run": run_digest})
    generation = ids.manifest.get("generation", 0)
    vectors = ids.embeddings
    if vectors is None:  # imported IDs
        vectors = _code_sums(np.asarray(params["code_vectors"]), ready)
    return make_snapshot(
        f"{generation}-{made[:12]}", ready.model, params, ready.catalogue, ready.leaves,
        item_ids=table["item_id"].to_pylist(), titles=table["title"].to_pylist(),
        codes=ids.codes, vectors=np.asarray(vectors),
        kinds={name: table[name].to_pylist() for name in _KINDS}, sets=sets,
        facts={"generation": generation, "retired": int((~ids.live).sum()),
               "seed": seed, "run": run_digest[:12]}, at_least=at_least)


class _Texts:
    """Instructions for the requests of a batch: as asked, from the store, or none."""

    def __init__(self, space: Workspace):
        self._space, self._kind = space, space.cfg.think.served
        self._encoder = Encoder(space)
        self.dimension = self._encoder.dimension
        self._reader: Reader | None = None
        self._next, self._why = 0.0, ""
        self._open()

    def read(self, users: Sequence[str | None], texts: Sequence[str | None]
             ) -> tuple[np.ndarray, list[dict[str, object]]]:
        """`serve.engine.ReadTexts`; never waits for longer than `think.read.deadline`.
        """
        vectors = np.zeros((len(users), self.dimension), np.float32)
        told: list[dict[str, object]] = [
            {"source": "default", "text": "", "why": "no user"} for _ in users]
        given = [place for place, text in enumerate(texts) if text is not None]
        if given:
            asked = [str(texts[place]) for place in given]
            vectors[given] = self._encoder(asked)
            for place, text in zip(given, asked):
                told[place] = {"source": "asked", "text": text}
        wanted = [place for place, user in enumerate(users)
                  if user is not None and texts[place] is None]
        reader = self._open() if wanted else None
        if reader is None:
            for place in wanted:
                told[place]["why"] = self._why
            return vectors, told
        found = reader.get_many([str(users[place]) for place in wanted], self._kind)
        for row, place in enumerate(wanted):
            told[place] = tell(found, row)
            if told[place]["source"] == "store":
                vectors[place] = found.vectors[row]
        return vectors, told

    def close(self) -> None:
        """Closes reader and store."""
        if self._reader is not None:
            self._reader.close()
            self._reader.store.backend.close()
            self._reader = None

    def _open(self) -> Reader | None:
        """The reader; a store that is not there yet is looked for now and then."""
        if self._reader is None and time.monotonic() >= self._next:
            self._next = time.monotonic() + _AGAIN
            if is_missing(self._space):
                self._why = "no store"
                return None
            try:
                store = open_live(self._space, self._encoder, readonly=True)
            except InputError as error:
                _log.warning("the instruction store cannot be opened: %s", error)
                self._why = "damaged"
                return None
            self._reader = Reader(store, self._space.cfg.think.read)
        return self._reader


def _sets(folder: pathlib.Path) -> dict[str, list[str]]:
    """Named sets of items; one file each."""
    found = {}
    for path in sorted(folder.glob("*.txt")):
        try:
            lines = path.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path} cannot be read: {error}") from error
        found[path.stem] = [line.strip() for line in lines if line.strip()]
    return found


def _code_sums(code_vectors: np.ndarray, ready: Ready) -> np.ndarray:
    """`[N, D]` the sum of the network's vectors of each item's codes."""
    return code_vectors[ready.ids.codes + np.array(ready.model.starts)].sum(axis=1)
