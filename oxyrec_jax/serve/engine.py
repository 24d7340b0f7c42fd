"""Answers requests in batches: threads that compute, a queue before them.

Whenever one of them is free the most urgent request goes, with others of its kind: same
snapshot, same length of history, filtered or not. How many depends on what the sizes
cost: as many as give the most answers a second and still meet the earliest deadline.
What came too late is refused before anything is computed for it. Nobody waits for a
batch to fill. Clocks are monotonic: a wall clock that jumps changes nothing.
"""

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from oxyrec_jax.decode.beam import Beams, expand_items
from oxyrec_jax.serve.figures import Figures
from oxyrec_jax.serve.history_cache import HistoryCache, name_rows
from oxyrec_jax.serve.job import Answer, Job, Live
from oxyrec_jax.serve.programs import Key, Programs
from oxyrec_jax.serve.refusal import Refusal
from oxyrec_jax.serve.snapshot import Snapshot
from oxyrec_jax.serve.waiting import Waiting

_log = logging.getLogger(__name__)

# Vectors `[n, F]` and what is told of them, for users and for texts that were asked.
ReadTexts = Callable[[Sequence[str | None], Sequence[str | None]],
                     tuple[np.ndarray, list[dict[str, object]]]]


class Engine:
    """See the module's docstring; start it with `with` or `start`."""

    def __init__(self, snapshot: Snapshot, programs: Programs, *,
                 read_texts: ReadTexts | None = None, queue: int = 256,
                 workers: int = 1, cache: HistoryCache | None = None,
                 figures: Figures | None = None,
                 clock: Callable[[], float] = time.monotonic):
        """Compiles the programs.

        Args:
          snapshot: what answers first.
          programs: for its sizes.
          read_texts: instructions for the requests of a batch, where the network reads
            them.
          queue: how many requests may wait; the next one is refused.
          workers: batches that are computed at the same time.
          cache: where encoded histories are kept, if the programs keep them.
          figures: where counts go; None: into some of its own.
          clock: seconds that only ever rise.
        """
        self.programs, self.clock = programs, clock
        self.figures = figures or Figures()
        self._read, self._most = read_texts, queue
        self._cache = HistoryCache(0) if cache is None else cache
        self._live = Live(snapshot, programs.warm(snapshot))
        self._before: Live | None = None
        self._change = threading.Condition()
        self._swapping, self._reading = threading.Lock(), threading.Lock()
        self._waiting: Waiting[tuple[int, int, bool], Job] = Waiting()
        self._running = 0
        self._open, self._stopped = True, False
        self._threads = [
            threading.Thread(target=self._work, name=f"engine-{number}", daemon=True)
            for number in range(workers)]
        self.figures.version(snapshot.version, programs.compiled)

    @property
    def live(self) -> Live:
        """What answers requests that come in now."""
        return self._live

    @property
    def busy(self) -> int:
        """How many requests wait or are computed."""
        with self._change:
            return len(self._waiting) + self._running

    @property
    def alive(self) -> bool:
        """Whether its threads run."""
        return all(thread.is_alive() for thread in self._threads)

    def submit(self, job: Job) -> None:
        """Puts a request into the queue.

        Raises:
          Refusal: 429 where it is full, 503 where the server is about to end.
        """
        with self._change:
            if not self._open:
                raise Refusal.draining()
            if len(self._waiting) >= self._most:
                self.figures.refused("full")
                sizes = self.programs.sizes
                each = self.programs.seconds(
                    Key(sizes.batches[-1], sizes.lengths[-1], True)) / sizes.batches[-1]
                raise Refusal.full(self._most, each * self._most)
            job.arrived = self.clock()
            self._waiting.add(job, self._kind(job))
            self.figures.waits(len(self._waiting))
            self._change.notify()

    def swap(self, snapshot: Snapshot) -> float:
        """Lets another snapshot answer; what is compiled for it is compiled before.

        Returns:
          Seconds for which no request could come in.
        """
        with self._swapping:
            if snapshot.version == self._live.snapshot.version:
                return 0.0
            return self._put(Live(snapshot, self.programs.warm(snapshot)))

    def rollback(self) -> float:
        """Lets the snapshot before answer again; again, and it is the later one.

        Raises:
          Refusal: 409 where there was none before.
        """
        with self._swapping:
            if self._before is None:
                raise Refusal(409, "nothing_before", "no other version was served "
                              "since the server began; there is none to go back to")
            return self._put(self._before)

    def close_door(self) -> None:
        """Refuses requests from now on; those that wait are still answered."""
        with self._change:
            self._open = False
            self._change.notify_all()

    def start(self) -> "Engine":
        """Begins to answer."""
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        """Answers what waits, then ends the threads."""
        self.close_door()
        with self._change:
            self._stopped = True
            self._change.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def __enter__(self) -> "Engine":
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _put(self, live: Live) -> float:
        start = time.perf_counter()
        with self._change:
            self._before, self._live = self._live, live
        self._cache.clear()  # rows bear the version's name: of no use from now on
        seconds = time.perf_counter() - start
        self.figures.version(live.snapshot.version, self.programs.compiled)
        return seconds

    def _work(self) -> None:
        while True:
            with self._change:
                while not self._waiting and not self._stopped:
                    self._change.wait()
                if not self._waiting:
                    return
                late, chosen, key = self._choose(self.clock())
                mine = len(late) + len(chosen)
                self._running += mine
                self.figures.waits(len(self._waiting))
            for job in late:
                self._refuse([job], Refusal.late(self.clock() - job.arrived))
            if chosen:
                self._answer(chosen, key)
            with self._change:
                self._running -= mine

    def _choose(self, now: float) -> tuple[list[Job], list[Job], Key]:
        """Those that are too late; and what goes now, for which program."""
        late = self._waiting.late(now)
        found = self._waiting.urgent()
        if found is None:
            return late, [], Key(0, 0, False)
        kind, deadline, count = found
        _, length, filtered = kind
        sizes = self.programs.sizes.batches
        if not length:  # similar items: a product each, whatever the batch
            return late, self._waiting.take(kind, sizes[-1]), Key(
                sizes[-1], 0, filtered)
        costs = {size: self.programs.seconds(Key(size, length, filtered))
                 for size in sizes}
        able = [size for size in costs if now + costs[size] <= deadline]
        size = min(able or [min(costs, key=lambda size: costs[size])],
                   key=lambda size: costs[size] / min(size, count))
        return late, self._waiting.take(kind, size), Key(size, length, filtered)

    def _kind(self, job: Job) -> tuple[int, int, bool]:
        if job.row is None:
            return id(job.live), 0, job.words is not None
        length = self.programs.sizes.length(len(job.row.items))
        return id(job.live), length, job.words is not None

    def _answer(self, jobs: list[Job], key: Key) -> None:
        """Answers a batch; one that does not fit into memory is tried in halves."""
        start = self.clock()
        try:
            found = (self._search(jobs, key) if key.length else
                     [_similar(job) for job in jobs])
        except Exception as error:  # whatever it was, the next batch may do
            memory = (isinstance(error, MemoryError)
                      or "RESOURCE_EXHAUSTED" in str(error))
            self.figures.failed("memory" if memory else "other")
            half = -(-len(jobs) // 2)
            smaller = self.programs.sizes.batch(half)
            if memory and key.length and smaller < key.batch:
                _log.warning("a batch of %d does not fit into memory; tried in halves",
                             key.batch)
                for part in (jobs[:half], jobs[half:]):
                    self._answer(part, dataclasses.replace(key, batch=smaller))
                return
            _log.error("a batch of %d failed: %s", len(jobs), type(error).__name__,
                       exc_info=not memory)
            self._refuse(jobs, Refusal.memory() if memory else Refusal.broken())
            return
        seconds = self.clock() - start
        self.figures.batch(len(jobs), key.batch, seconds)
        if key.length:
            self.programs.took(key, seconds)
            self.figures.program(key.batch, key.length, key.filtered,
                                 self.programs.seconds(key))
        for job, answer in zip(jobs, found, strict=True):
            self._tell(job, dataclasses.replace(
                answer, waited=start - job.arrived, computed=seconds, batch=len(jobs)))

    def _search(self, jobs: list[Job], key: Key) -> list[Answer]:
        snapshot = jobs[0].live.snapshot
        vectors, told = None, None
        if "target_instruction" in snapshot.model.reads and self._read is not None:
            with self._reading:
                vectors, told = self._read([job.user for job in jobs],
                                           [job.text for job in jobs])
            self.figures.instructions(told)
        batch = self.programs.lay([job.row for job in jobs if job.row is not None],
                                  vectors, snapshot, key)
        words = None
        if key.filtered:
            words = np.zeros((key.batch, snapshot.words), np.uint32)
            words[:len(jobs)] = [job.words for job in jobs if job.words is not None]
        beams = self._run(jobs, key, batch, words)
        leaves, log_probs = jax.device_get((beams.leaves, beams.log_probs))
        levels = (jax.device_get(beams.levels) if any(job.explain for job in jobs)
                  else ())
        leaves = leaves[:len(jobs)]
        items = expand_items(leaves, snapshot.leaves, limit=max(job.k for job in jobs),
                             allowed=None if words is None else _Bits(
                                 words[:len(jobs)]))  # type: ignore[arg-type]
        answers = []
        for place, job in enumerate(jobs):
            mine = items[place][:job.k]
            mine = mine[mine >= 0]
            score = dict(zip(leaves[place].tolist(), log_probs[place].tolist()))
            scores = [score[leaf] for leaf in snapshot.leaf_of[mine].tolist()]
            told_of = tuple(jax.tree.map(lambda leaf: leaf[place], level)
                            for level in levels if job.explain)
            answers.append(Answer(mine, np.array(scores), told_of,
                                  told[place] if told else None, 0.0, 0.0, 0))
        return answers

    def _run(self, jobs: list[Job], key: Key, batch: dict[str, np.ndarray],
             words: np.ndarray | None) -> Beams:
        """The search, from kept encodings where there are some."""
        live = jobs[0].live
        snapshot, program = live.snapshot, live.programs[key]
        if not self.programs.keeps:
            return program(snapshot.arrays, batch, words)
        names = name_rows(snapshot.model, batch, len(jobs), snapshot.version,
                          key.length)
        rows = self._cache.find(names)
        new = [place for place, row in enumerate(rows) if row is None]
        self.figures.histories(len(jobs) - len(new), len(new))
        if new:
            size = self.programs.sizes.batch(len(new))
            encoder = dataclasses.replace(key, batch=size, filtered=False, encodes=True)
            part = {name: _padded(values[new], size)
                    for name, values in batch.items()}
            made = live.programs[encoder](snapshot.arrays, part)
            for place, row in zip(new, made):
                rows[place] = row
            self._cache.keep([names[place] for place in new], made)
            self.figures.kept(len(self._cache), self._cache.bytes)
        rows += [rows[0]] * (key.batch - len(rows))  # those of nobody
        return program(snapshot.arrays, batch, words, rows)

    def _refuse(self, jobs: Sequence[Job], refusal: Refusal) -> None:
        for job in jobs:
            self.figures.refused(refusal.reason)
            self._tell(job, refusal)

    def _tell(self, job: Job, what: Answer | Refusal) -> None:
        try:
            job.done(what)
        except Exception:  # whoever asked is gone; the others are not
            _log.exception("an answer could not be handed over")


def _similar(job: Job) -> Answer:
    """The items of the nearest vectors, the item itself left out."""
    snapshot = job.live.snapshot
    scores = snapshot.vectors @ snapshot.vectors[job.like]
    here = snapshot.leaves.items[snapshot.admits(job.words)]
    here = here[here != job.like]
    best = here[np.lexsort((here, -scores[here]))[:job.k]]
    return Answer(best, scores[best], (), None, 0.0, 0.0, 0)


def _padded(values: np.ndarray, size: int) -> np.ndarray:
    """Rows, and empty ones after them up to so many."""
    return np.concatenate([values, np.zeros((size - len(values), *values.shape[1:]),
                                            values.dtype)])


class _Bits:
    """The filters of a batch as `expand_items` asks them."""

    def __init__(self, words: np.ndarray):
        self.pool, self._words = np.arange(len(words)), words

    def admits(self, row: int, places: np.ndarray) -> np.ndarray:
        words = self._words[row, places // 32]
        return (words >> (places % 32).astype(np.uint32)) & 1 == 1
