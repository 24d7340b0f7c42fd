"""One client for OpenAI-compatible servers: batches, retries, cost, an on-disk cache.

The API key comes from an environment variable or a file and goes into one header; it
never stands in a config, a log, an error or the cache.
"""

import asyncio
import contextlib
import dataclasses
import hashlib
import itertools
import os
import pathlib
import urllib.parse
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import Any

import numpy as np

from oxyrec_jax.answer_cache import open_cache
from oxyrec_jax.base import InputError


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """A server that speaks the OpenAI protocol, and how to call it.

    Attributes:
      url: up to and with the version, such as "http://localhost:8000/v1"; no user,
        password or query in it.
      model: the model's name on that server.
      key_variable: environment variable that holds the API key; None: no key.
      key_file: file that holds the API key, in place of the variable.
      batch: texts in one request.
      concurrency: requests in flight at most.
      retries: tries after the first on 408, 409, 429, 5xx and lost connections, with
        the back-off of the SDK (0.5 s doubling to 8 s, or as the server asks).
      timeout: seconds for one try.
      price: of a million tokens, in any currency; only counted.
    """

    url: str
    model: str
    key_variable: str | None = None
    key_file: str | None = None
    batch: int = 64
    concurrency: int = 8
    retries: int = 5
    timeout: float = 60.0
    price: float = 0.0


@dataclasses.dataclass(frozen=True)
class Usage:
    """What a call used.

    Attributes:
      texts: distinct texts asked for.
      cached: of these, found in the cache.
      requests: answered requests.
      retries: tries that failed before them.
      tokens: as counted by the server; 0 where it does not tell.
      cost: `tokens * price / 1e6`.
    """

    texts: int = 0
    cached: int = 0
    requests: int = 0
    retries: int = 0
    tokens: int = 0
    cost: float = 0.0


def embed(
    texts: Sequence[str], endpoint: Endpoint, *, dimension: int | None = None,
    cache: str | os.PathLike | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> tuple[np.ndarray, Usage]:
    """Embeds texts through `/embeddings`; must not run inside an event loop.

    Every answered batch is committed to the cache at once, so a killed or failed call
    goes on where it stopped.

    Args:
      texts: N texts. Equal ones are asked for once, empty ones not at all.
      endpoint: the server.
      dimension: D, sent to the server and checked; None: what the server gives.
      cache: SQLite file of model, dimension and text to vector; None: no cache.
      advance: called with how many more distinct texts are done.

    Returns:
      `[N, D]` float32 with zero rows for empty texts, and what it used.

    Raises:
      InputError: a setting, the key, the server, its answer or the cache file is not
        usable. Neither the key nor the server's words or address are in the message.
    """
    return asyncio.run(embed_async(texts, endpoint, dimension=dimension, cache=cache,
                                   advance=advance))


async def embed_async(
    texts: Sequence[str], endpoint: Endpoint, *, dimension: int | None = None,
    cache: str | os.PathLike | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> tuple[np.ndarray, Usage]:
    """As `embed`, inside an event loop."""
    check_endpoint(endpoint)
    keys = [_digest(endpoint.model, dimension, text) if text else None
            for text in texts]
    wanted = {key: text for key, text in zip(keys, texts) if key is not None}
    with (open_cache(cache, "vectors", "vector") if cache else
          contextlib.nullcontext()) as store:
        kept = store.get(list(wanted)) if store else {}
        vectors = {key: np.frombuffer(stored, "<f4").astype(np.float32)
                   for key, stored in kept.items()}
        width = _one_length(endpoint, vectors, dimension)
        usage = Usage(texts=len(wanted), cached=len(vectors))
        advance(len(vectors))
        missing = {key: text for key, text in wanted.items() if key not in vectors}
        answers = _request_all(endpoint, missing, dimension)
        async with contextlib.aclosing(answers):
            async for found, used in answers:
                width = _one_length(endpoint, found, width)
                if store:
                    store.put({key: vector.astype("<f4").tobytes()
                               for key, vector in found.items()})
                vectors.update(found)
                usage = _add(usage, used)
                advance(len(found))
    empty = np.zeros(width or 0, np.float32)
    rows = [empty if key is None else vectors[key] for key in keys]
    return np.stack(rows) if rows else np.zeros((0, width or 0), np.float32), usage


def _one_length(endpoint: Endpoint, vectors: dict[bytes, np.ndarray],
                expected: int | None) -> int | None:
    """Returns how long the vectors are; other lengths are refused, not cached."""
    for vector in vectors.values():
        if len(vector) != (expected := expected or len(vector)):
            raise InputError(
                f"{_name(endpoint)} gave vectors of {len(vector)} and of {expected} "
                "numbers, expected one length; if its model changed, delete the cache")
    return expected


def check_endpoint(endpoint: Endpoint) -> None:
    """Refuses settings that cannot work, without showing what may be a secret."""
    parts = urllib.parse.urlsplit(endpoint.url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError("the endpoint's url must start with http:// or https:// and "
                         "name a host, such as http://localhost:8000/v1")
    if parts.username or parts.password or parts.query:
        raise InputError("the endpoint's url must hold no user, password or query; "
                         "name the key's file or variable (key_file, key_variable)")
    for field in ("batch", "concurrency"):
        if getattr(endpoint, field) < 1:
            raise InputError(f"the endpoint's {field} is {getattr(endpoint, field)}, "
                             "expected at least 1")
    if endpoint.retries < 0 or endpoint.timeout <= 0:
        raise InputError(f"the endpoint has {endpoint.retries} retries and a timeout "
                         f"of {endpoint.timeout} s, expected >= 0 and > 0")


def read_key(endpoint: Endpoint) -> str:
    """Returns the API key; show it to nobody but the server."""
    if endpoint.key_file is not None:
        where = f"the key file {endpoint.key_file}"
        try:
            key = pathlib.Path(endpoint.key_file).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise InputError(f"{where} cannot be read as text") from None
    elif endpoint.key_variable is not None:
        where = f"the environment variable {endpoint.key_variable}"
        key = os.environ.get(endpoint.key_variable, "").strip()
    else:
        return "none"  # the SDK demands one; servers without keys ignore it
    if not key:
        raise InputError(f"{where} holds no API key; set it")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise InputError(f"{where} holds characters that no API key has; correct it")
    return key


@contextlib.asynccontextmanager
async def connect(endpoint: Endpoint):
    """Opens a client of the SDK with the key; log neither it nor its errors."""
    import openai  # half a second that runs without an endpoint need not spend
    key = read_key(endpoint)
    transport = openai.DefaultAioHttpClient(timeout=endpoint.timeout)
    client = openai.AsyncOpenAI(
        api_key=key, base_url=endpoint.url, max_retries=endpoint.retries,
        timeout=endpoint.timeout, http_client=transport)
    try:
        yield client
    finally:
        await client.close()


async def _request_all(
    endpoint: Endpoint, wanted: dict[bytes, str], dimension: int | None
) -> AsyncGenerator[tuple[dict[bytes, np.ndarray], Usage], None]:
    """Yields answers as they come; the first failure stops the rest and is raised."""
    if not wanted:
        return
    keys = list(wanted)
    batches = (keys[start : start + endpoint.batch]
               for start in range(0, len(keys), endpoint.batch))
    async with connect(endpoint) as client:

        async def ask(batch: list[bytes]) -> tuple[dict[bytes, np.ndarray], Usage]:
            texts = [wanted[key] for key in batch]
            rows, used = await _request(client, endpoint, texts, dimension)
            return dict(zip(batch, rows)), used

        tasks = {asyncio.create_task(ask(batch)) for batch in
                 itertools.islice(batches, endpoint.concurrency)}
        try:
            while tasks:
                done, _ = await asyncio.wait(
                    tasks, return_when=asyncio.FIRST_COMPLETED)
                task = done.pop()
                answer = task.result()
                tasks.remove(task)
                tasks |= {asyncio.create_task(ask(batch))
                          for batch in itertools.islice(batches, 1)}
                yield answer
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _request(client: Any, endpoint: Endpoint, texts: list[str],
                   dimension: int | None) -> tuple[list[np.ndarray], Usage]:
    import openai
    options = {} if dimension is None else {"dimensions": dimension}
    try:
        answer = await client.embeddings.with_raw_response.create(
            model=endpoint.model, input=texts, encoding_format="float", **options)
    except openai.OpenAIError as error:
        # "from None": the SDK's errors hold the request, headers included.
        raise InputError(f"{_name(endpoint)} {explain(error, endpoint)}") from None
    try:
        body = answer.http_response.json()
        entries = sorted(body["data"], key=lambda entry: entry["index"])
        if [entry["index"] for entry in entries] != list(range(len(texts))):
            raise ValueError
        rows = [np.asarray(entry["embedding"], np.float32) for entry in entries]
        tokens = int((body.get("usage") or {}).get("prompt_tokens") or 0)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InputError(
            f"{_name(endpoint)} answered something that is not one embedding for each "
            "text; check that the url and the model are of an embeddings server"
        ) from None
    for row in rows:
        if row.ndim != 1 or not row.size or dimension not in (None, row.size):
            raise InputError(f"{_name(endpoint)} gave a vector of {row.size} numbers, "
                             f"expected {dimension or 'some'}; correct the dimension "
                             "or the model")
        if not np.isfinite(row).all():
            raise InputError(f"{_name(endpoint)} gave a vector with NaN or infinity; "
                             "check the server")
    return rows, Usage(requests=1, retries=answer.retries_taken, tokens=tokens,
                       cost=tokens * endpoint.price / 1e6)


def _name(endpoint: Endpoint) -> str:
    return f"the embeddings endpoint (model {endpoint.model!r})"


def explain(error: Exception, endpoint: Endpoint) -> str:
    """Returns what went wrong without the server's words, its address or the key."""
    import openai
    tries = f"{endpoint.retries + 1} " + ("tries" if endpoint.retries else "try")
    if isinstance(error, openai.APIConnectionError):
        found = list(causes(error))
        check = f"in {tries}; check that the server runs and the url is right"
        if any(isinstance(cause, ConnectionRefusedError) for cause in found):
            return f"refused the connection {check}"
        # Not APITimeoutError: the SDK also raises it for a connection that is lost.
        if any(isinstance(cause, TimeoutError) for cause in found):
            return (f"gave no answer within {endpoint.timeout} s in {tries}; raise the "
                    "timeout or lower the batch")
        return f"could not be reached {check}"
    status = getattr(error, "status_code", None)
    if status in (401, 403):
        return f"rejected the API key (status {status}); check key_variable or key_file"
    if status == 429:
        return (f"still answered too many requests (status 429) after {tries}; lower "
                "the concurrency or try later")
    if status is not None and status >= 500:
        return f"failed with status {status} in {tries}; check the server"
    if status is not None:
        return f"refused the request (status {status}); check the url and the model"
    return "failed in the client; check the endpoint's settings"


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error and what led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _add(one: Usage, other: Usage) -> Usage:
    return Usage(**{field.name: getattr(one, field.name) + getattr(other, field.name)
                    for field in dataclasses.fields(Usage)})


def _digest(model: str, dimension: int | None, text: str) -> bytes:
    digest = hashlib.sha256(repr((model, dimension)).encode())
    digest.update(text.encode())
    return digest.digest()
