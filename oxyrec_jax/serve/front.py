"""The HTTP front: endpoints, limits, tokens, and how the server ends."""

import asyncio
import dataclasses
import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from oxyrec_jax.base import InputError
from oxyrec_jax.serve import page, responses
from oxyrec_jax.serve.engine import Engine
from oxyrec_jax.serve.job import Answer, Job
from oxyrec_jax.serve.openapi import document
from oxyrec_jax.serve.people import People
from oxyrec_jax.serve.refusal import Refusal
from oxyrec_jax.serve.resolve import allowed_words, count, resolve
from oxyrec_jax.serve.schema import RecommendRequest, SimilarRequest
from oxyrec_jax.serve.snapshot import Snapshot

_READ_ON = 16  # times the limit of a body, before the connection is cut
_UNEXPLAINED = dict.fromkeys(("history", "tree", "levels"))
_ANYTHING: TypeAdapter[Any] = TypeAdapter(Any)  # writes JSON
_log = logging.getLogger(__name__)
Body = TypeVar("Body", bound=BaseModel)


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one request may cost, and who may ask. Defaults are ours.

    Attributes:
      deadline: seconds, where a request names none.
      body: bytes of a request's body.
      upload: seconds that a body may take to arrive.
      token: what requests must bear; None: nothing.
      admin_token: what a swap must bear; None: nobody can swap over HTTP.
    """

    deadline: float = 1.0
    body: int = 262_144
    upload: float = 10.0
    token: str | None = dataclasses.field(default=None, repr=False)
    admin_token: str | None = dataclasses.field(default=None, repr=False)


class Front:
    """The application of one engine.

    Attributes:
      draining: whether the server is about to end; it then answers what came before and
        refuses what comes.
      inside: requests that have come and are not answered yet.
      answered: requests under /v1 that got an answer.
    """

    def __init__(self, engine: Engine, people: People, *, history: int,
                 reload: Callable[[Snapshot], Snapshot], limits: Limits = Limits(),
                 title: str = "oxyrec"):
        """Takes an engine that has started.

        Args:
          engine: what answers.
          people: users of the log.
          history: events that the network reads.
          reload: makes the snapshot of what stands on disk now, with arrays of at least
            the sizes of the one given.
          limits: see there.
          title: of the page.
        """
        self.engine, self.people, self.limits = engine, people, limits
        self.draining, self.inside, self.answered = False, 0, 0
        self._history, self._reload, self._title = history, reload, title

    def app(self) -> Starlette:
        """The ASGI application."""
        def route(path: str, handler: Callable[[Request], Awaitable[Response]],
                  method: str = "GET", token: str | None = None) -> Route:
            return Route(path, self._counted(path, handler, token), methods=[method])
        token, admin = self.limits.token, self.limits.admin_token
        return Starlette(routes=[
            route("/v1/recommend", self._recommend, "POST", token),
            route("/v1/similar", self._similar, "POST", token),
            route("/v1/swap", self._swap, "POST", admin),
            route("/v1/rollback", self._rollback, "POST", admin),
            route("/metrics", self._metrics, token=token),
            route("/healthz", self._health), route("/readyz", self._ready),
            route("/openapi.json", self._openapi), route("/docs", self._docs),
            route("/", self._page)], exception_handlers={
                404: _no_such, 405: _no_such})

    def begin_drain(self) -> None:
        """Refuses what comes from now on; what is inside is still answered."""
        self.draining = True

    def _counted(self, path: str, handler: Callable[[Request], Awaitable[Response]],
                 token: str | None) -> Callable[[Request], Awaitable[Response]]:
        """The handler with token, counts, and an answer whatever is raised."""
        posts = path.startswith("/v1/")

        async def handle(request: Request) -> Response:
            start = time.monotonic()
            self.inside += 1
            try:
                try:
                    if posts and self.draining:
                        raise Refusal.draining()
                    _check_token(request, token)
                    response = await handler(request)
                except Refusal as refusal:
                    response = _refused(refusal)
                except Exception:  # a fault of ours; the process goes on
                    _log.exception("%s failed", path)
                    response = _refused(Refusal(500, "failed", "the server failed; its "
                                                "log tells why"))
            finally:
                self.inside -= 1
            if self.draining:
                response.headers["connection"] = "close"
            self.answered += posts and response.status_code == 200
            self.engine.figures.response(path, response.status_code,
                                         time.monotonic() - start)
            return response
        return handle

    async def _recommend(self, request: Request) -> Response:
        asked = await self._read(request, RecommendRequest)
        live = self.engine.live
        snapshot = live.snapshot
        self._check_k(asked.k)
        found = resolve(asked, snapshot, self.people, most=self._history)
        if not found.allowed:
            return _Json(responses.nothing(snapshot, found.skipped, found.note)
                         | {"instruction": None, **_UNEXPLAINED})
        answer = await self._ask(lambda done: Job(
            live, asked.k, self._deadline(asked.deadline_ms), done, row=found.row,
            words=found.words, explain=asked.explain, user=asked.user,
            text=asked.instruction))
        body = responses.told(answer, snapshot, k=asked.k, allowed=found.allowed,
                              skipped=found.skipped, note=found.note)
        body |= {"instruction": answer.instruction, **_UNEXPLAINED}
        if asked.explain:
            body |= responses.explained(answer, snapshot,
                                        found.history[-self._history:])
        return _Json(body)

    async def _similar(self, request: Request) -> Response:
        asked = await self._read(request, SimilarRequest)
        live = self.engine.live
        snapshot = live.snapshot
        like = snapshot.rows.get(asked.item)
        if like is None:
            raise Refusal(422, "unknown_item", f"the catalogue has no {asked.item!r}",
                          "item")
        words, skipped = allowed_words(asked.filters, snapshot, [like])
        answer = await self._ask(lambda done: Job(
            live, asked.k, self._deadline(asked.deadline_ms), done, like=like,
            words=words))
        allowed = count(words, snapshot) - int(snapshot.place_of[like] >= 0 and (
            words is None or bool(snapshot.admits(words)[snapshot.place_of[like]])))
        body = responses.told(answer, snapshot, k=asked.k, allowed=allowed,
                              score="similarity", skipped=skipped)
        return _Json(body)

    async def _swap(self, request: Request) -> Response:
        await self._body(request)

        def work() -> dict[str, Any]:
            start, before = time.perf_counter(), self.engine.live.snapshot
            compiled = self.engine.programs.compiled
            try:
                snapshot = self._reload(before)
            except InputError as error:
                raise Refusal(409, "cannot_load", " ".join(str(error).split())
                              ) from error
            load = time.perf_counter() - start
            pause = self.engine.swap(snapshot)
            return _swapped(self.engine, before, load, pause, compiled)
        return _Json(await asyncio.to_thread(work))

    async def _rollback(self, request: Request) -> Response:
        await self._body(request)
        before, compiled = self.engine.live.snapshot, self.engine.programs.compiled
        pause = await asyncio.to_thread(self.engine.rollback)
        return _Json(_swapped(self.engine, before, 0.0, pause, compiled))

    async def _metrics(self, request: Request) -> Response:
        return Response(self.engine.figures.text(),
                        media_type="text/plain; version=0.0.4")

    async def _health(self, request: Request) -> Response:
        if not self.engine.alive:
            raise Refusal(503, "dead", "the engine's thread has ended; start anew")
        return _Json({"status": "ok"})

    async def _ready(self, request: Request) -> Response:
        if self.draining:
            raise Refusal.draining()
        snapshot = self.engine.live.snapshot
        return _Json({"status": "ready", "version": snapshot.version,
                      "items": snapshot.items, **snapshot.facts})

    async def _openapi(self, request: Request) -> Response:
        return _Json(document(secured=self.limits.token is not None))

    async def _docs(self, request: Request) -> Response:
        return HTMLResponse(page.docs(document(
            secured=self.limits.token is not None)), headers=page.headers())

    async def _page(self, request: Request) -> Response:
        return HTMLResponse(page.front(self._title, self.engine.live.snapshot,
                                       self.people), headers=page.headers())

    async def _ask(self, make: Callable[[Callable[[Answer | Refusal], None]], Job]
                   ) -> Answer:
        """Hands a job to the engine and waits for it, until its deadline."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer | Refusal] = loop.create_future()

        def settle(what: Answer | Refusal) -> None:
            if not future.done():
                future.set_result(what)

        def hand_over(what: Answer | Refusal) -> None:
            loop.call_soon_threadsafe(settle, what)
        job = make(hand_over)
        self.engine.submit(job)
        left = job.deadline - self.engine.clock()
        timer = loop.call_later(max(0.0, left), settle, Refusal(
            504, "deadline", "the deadline passed before there was an answer",
            retry_after=1))
        try:
            what = await future
        finally:
            timer.cancel()
            job.abandoned = True
        if isinstance(what, Refusal):
            raise what
        return what

    def _deadline(self, milliseconds: float | None) -> float:
        patience = self.limits.deadline if milliseconds is None else milliseconds / 1e3
        return self.engine.clock() + patience

    def _check_k(self, k: int) -> None:
        beams = self.engine.programs.sizes.beams
        if k > beams:
            raise Refusal(422, "too_many", f"k is {k}, and the search of this server "
                          f"has {beams} beams; ask for at most so many", "k")

    async def _read(self, request: Request, kind: type[Body]) -> Body:
        """The body of a request, checked."""
        said = request.headers.get("content-type", "").partition(";")[0]
        if said.strip().lower() != "application/json":
            raise Refusal(415, "not_json", "send the header Content-Type: "
                          "application/json")
        body = await self._body(request)
        try:
            return kind.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            status = 400 if first["type"] == "json_invalid" else 422
            raise Refusal(status, first["type"], f"{field + ': ' if field else ''}"
                          f"{first['msg']}", field) from None

    async def _body(self, request: Request) -> bytes:
        """The body, held to its limits in bytes and seconds.

        One that is too long is read on and thrown away, within reason: a client that
        is cut off while it sends may never see why.
        """
        most = self.limits.body
        too_long = Refusal(413, "too_long", f"the body has more than {most} bytes")
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > _READ_ON * most:
            raise too_long
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.limits.upload):
                async for part in request.stream():
                    size += len(part)
                    if size > _READ_ON * most:
                        raise too_long
                    if size <= most:
                        parts.append(part)
        except TimeoutError:
            raise Refusal(408, "slow", "the body did not arrive within "
                          f"{self.limits.upload:g} s") from None
        except ClientDisconnect:
            raise Refusal(400, "gone", "the client went away") from None
        if size > most:
            raise too_long
        return b"".join(parts)


class _Json(Response):
    """A value as JSON, written by what reads the requests."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return _ANYTHING.dump_json(content)


def _check_token(request: Request, token: str | None) -> None:
    if request.url.path in ("/v1/swap", "/v1/rollback") and token is None:
        raise Refusal(403, "no_admin", "this server was started without an admin "
                      "token; nobody can swap its catalogue over HTTP")
    if token is None:
        return
    given = request.headers.get("authorization", "")
    # Compared in a time that does not tell how much of it was right.
    if not hmac.compare_digest(given.encode("utf-8", "surrogateescape"),
                               f"Bearer {token}".encode()):
        raise Refusal(401, "token", "send the header Authorization: Bearer TOKEN with "
                      "the server's token")


def _refused(refusal: Refusal) -> Response:
    headers = {}
    if refusal.retry_after is not None:
        headers["retry-after"] = str(refusal.retry_after)
    if refusal.status == 401:
        headers["www-authenticate"] = "Bearer"
    if refusal.status in (408, 413):  # the rest of the body is not wanted
        headers["connection"] = "close"
    return _Json(refusal.body(), refusal.status, headers)


def _swapped(engine: Engine, before: Snapshot, load: float, pause: float,
             compiled: int) -> dict[str, Any]:
    return {"version": engine.live.snapshot.version, "before": before.version,
            "load_ms": round(1e3 * load, 3), "swap_ms": round(1e3 * pause, 4),
            "compiled": engine.programs.compiled - compiled}


async def _no_such(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    response = _refused(Refusal(
        status, "no_such_endpoint", "no such endpoint; GET /docs lists them"
        if status == 404 else f"this endpoint does not take {request.method}"))
    response.headers.update(getattr(error, "headers", None) or {})
    return response
