"""A shop's work directory, opened once for all tests of the server."""

import pathlib
import shutil
import threading

import pytest

from oxyrec_jax import serving, workspace
from oxyrec_jax.serve.engine import Engine
from oxyrec_jax.serve.job import Answer, Job
from oxyrec_jax.serve.resolve import resolve
from oxyrec_jax.serve.schema import RecommendRequest


@pytest.fixture(scope="session")
def opened(shop_workdir):
    """The shop as an engine that is not started: two programs, of batches of 4."""
    found = serving.Opened(shop_workdir, serving.Serving(batches=(4,), lengths=(8,)))
    yield found
    found.close()


@pytest.fixture
def engine(opened):
    """An engine of the same programs, started."""
    with again(opened) as made:
        yield made


@pytest.fixture(scope="session")
def changing(shop_workdir, tmp_path_factory):
    """A copy of the work directory whose catalogue a test may change."""
    folder = tmp_path_factory.mktemp("changing") / "work"
    shutil.copytree(shop_workdir.folder, folder)
    return workspace.open_workspace(pathlib.Path(folder), None)


def again(opened, snapshot=None, **options) -> Engine:
    """Another engine of the same programs, by default of the same snapshot."""
    return Engine(snapshot or opened.engine.live.snapshot, opened.engine.programs,
                  read_texts=opened._texts.read, **options)


class Inbox:
    """Collects what jobs get."""

    def __init__(self):
        self.found, self._lock = {}, threading.Condition()

    def of(self, name):
        def done(what):
            with self._lock:
                self.found[name] = what
                self._lock.notify_all()
        return done

    def wait(self, count, seconds=60):
        with self._lock:
            assert self._lock.wait_for(lambda: len(self.found) >= count, seconds), (
                f"{len(self.found)} of {count} answers")
        return self.found


def job(engine, opened, done, *, patience=60.0, **asked) -> Job:
    """The job of a request."""
    request, live = RecommendRequest(**asked), engine.live
    found = resolve(request, live.snapshot, opened.people, most=opened.most)
    return Job(live, request.k, engine.clock() + patience, done, row=found.row,
               words=found.words, explain=request.explain, user=request.user,
               text=request.instruction)


def ask(engine, opened, **asked) -> Answer:
    """Asks and waits."""
    inbox = Inbox()
    engine.submit(job(engine, opened, inbox.of(0), **asked))
    return inbox.wait(1)[0]
