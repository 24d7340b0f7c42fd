"""Questions to a language model: the chat half of the client in `llm`.

What a rerun must know about a failed question is whether it may have been billed, so
tries are repeated here and not in the SDK: trouble that no server bills (a refused
connection, 429, 5xx) is tried again, a lost answer only where the caller allows it.
"""

import asyncio
import contextlib
import dataclasses
import email.utils
import hashlib
import json
import os
import random
import time
from collections.abc import AsyncIterator
from typing import Any

from oxyrec_jax import llm
from oxyrec_jax.answer_cache import AnswerCache, open_cache
from oxyrec_jax.base import InputError

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 8.0  # seconds, as the SDK
FORMATS = ("text", "json_object")


@dataclasses.dataclass(frozen=True)
class ChatConfig:
    """How a model is asked. Defaults are ours.

    Attributes:
      max_tokens: of one answer.
      temperature: 0 for the likeliest answer.
      format: "json_object" where the server supports that, else "text".
      max_bytes: of a server's whole answer; what is longer is not read.
      longest_wait: seconds; a server that asks to wait longer is given up.
      ask_again: repeat a question whose answer was lost (time-out, broken connection).
        It bears the same Idempotency-Key; a server that ignores that bills it twice.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    format: str = "json_object"
    max_bytes: int = 262_144
    longest_wait: float = 60.0
    ask_again: bool = False


@dataclasses.dataclass(frozen=True)
class Answer:
    """What became of one question.

    Attributes:
      text: the model's words; None where there are none.
      error: in one word why there are none: "down", "timeout", "lost",
        "rate-limited", "key", "server", "request", "garbage", "too-large", "client".
      why: the same in a sentence, without the server's words.
      billed: true, false, or None where only the server knows.
      cached: the text is from the cache.
      retries: tries before the last.
      prompt_tokens, answer_tokens: as counted by the server, 0 where it does not tell.
    """

    text: str | None = None
    error: str = ""
    why: str = ""
    billed: bool | None = False
    cached: bool = False
    retries: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0


class Chat:
    """An open connection to a server, and the cache of its answers; see `open_chat`."""

    def __init__(self, endpoint: llm.Endpoint, cfg: ChatConfig, client: Any,
                 cache: AnswerCache | None):
        self.endpoint, self.cfg = endpoint, cfg
        self._client, self._cache = client, cache
        self._path = endpoint.url.rstrip("/") + "/chat/completions"
        self._rest_until = 0.0  # a rate limit holds for all questions
        self._settings = repr((endpoint.model, cfg.max_tokens, cfg.temperature,
                               cfg.format)).encode()
        options: dict[str, Any] = {"max_tokens": cfg.max_tokens,
                                   "temperature": cfg.temperature}
        if cfg.format != "text":
            options["response_format"] = {"type": cfg.format}
        self._options = options

    def digest(self, system: str, user: str) -> bytes:
        """Returns the key of a question in the cache: model, settings and words."""
        digest = hashlib.sha256(self._settings)
        for part in (system, user):
            encoded = part.encode(errors="replace")
            digest.update(len(encoded).to_bytes(8, "big") + encoded)
        return digest.digest()

    def recall(self, digest: bytes) -> str | None:
        """Returns an answer that the cache holds whole."""
        kept = self._cache.get([digest]) if self._cache else {}
        return kept[digest].decode() if kept else None

    async def ask(self, system: str, user: str, *, once: str = "") -> Answer:
        """Asks the server, not the cache; a good answer is in the cache on return.

        Args:
          system: what the program says.
          user: the question.
          once: sent as Idempotency-Key, the same for all tries.
        """
        import openai
        retries = 0
        while True:
            await self._rest()
            try:
                body = await self._request(system, user, once)
            except (openai.OpenAIError, OSError) as error:
                wait = self._wait_for(error, retries)
                if wait is None:
                    return self._failure(error, retries)
                retries += 1
                await asyncio.sleep(wait)
                continue
            answer = _read(body, self.cfg.max_bytes)
            if answer.text is not None and self._cache:
                self._cache.put({self.digest(system, user): answer.text.encode()})
            return dataclasses.replace(answer, retries=retries)

    async def _request(self, system: str, user: str, once: str) -> bytes:
        import openai
        asked = {"model": self.endpoint.model, **self._options, "messages": [
            {"role": "system", "content": system}, {"role": "user", "content": user}]}
        headers = {"Idempotency-Key": once} if once else {}
        body = bytearray()
        async with asyncio.timeout(self.endpoint.timeout * 2):  # one that trickles
            # By the SDK's transport: its checks of types and its copies of options
            # would take longer than all else that is done here.
            request = self._client.build_request("POST", self._path, headers=headers,
                                                 content=json.dumps(asked).encode())
            try:
                response = await self._client.send(request, stream=True)
            except Exception as error:
                raise openai.APIConnectionError(request=request) from error
            try:
                if response.status_code >= 300:
                    raise openai.APIStatusError("", response=response, body=None)
                async for part in response.aiter_bytes():
                    body += part
                    if len(body) > self.cfg.max_bytes:
                        break
            except openai.APIStatusError:
                raise
            except Exception as error:
                raise openai.APIConnectionError(request=request) from error
            finally:
                await response.aclose()
        return bytes(body)

    async def _rest(self) -> None:
        while (left := self._rest_until - time.monotonic()) > 0:
            await asyncio.sleep(left)

    def _wait_for(self, error: Exception, retries: int) -> float | None:
        """Returns the seconds to the next try, None where there shall be none."""
        if retries >= self.endpoint.retries:
            return None
        status = getattr(error, "status_code", None)
        if _billed(error) is None and not self.cfg.ask_again:
            return None
        if status is not None and status not in (408, 409, 429) and status < 500:
            return None
        wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2**retries) * (1 - random.random() / 4)
        asked = _asked_wait(error)
        if asked is not None:
            if asked > self.cfg.longest_wait:
                return None
            wait = asked
            if status == 429:
                self._rest_until = max(self._rest_until, time.monotonic() + wait)
        return wait

    def _failure(self, error: Exception, retries: int) -> Answer:
        tried = dataclasses.replace(self.endpoint, retries=retries)
        return Answer(error=_kind(error), retries=retries, billed=_billed(error),
                      why=f"the model's endpoint (model {self.endpoint.model!r}) "
                          f"{llm.explain(error, tried)}")


@contextlib.asynccontextmanager
async def open_chat(endpoint: llm.Endpoint, cfg: ChatConfig = ChatConfig(), *,
                    cache: str | os.PathLike | None = None) -> AsyncIterator[Chat]:
    """Opens a chat.

    Args:
      endpoint: the server; `batch` does not matter here.
      cfg: how it is asked.
      cache: SQLite file of the digests of model, settings and words to answers.

    Raises:
      InputError: a setting, the key or the cache file is not usable.
    """
    llm.check_endpoint(endpoint)
    if cfg.format not in FORMATS:
        raise InputError(f"the chat's format is {cfg.format!r}, expected one of "
                         f"{', '.join(FORMATS)}")
    with (open_cache(cache, "answers", "text") if cache else
          contextlib.nullcontext()) as kept:
        import openai  # half a second that runs without an endpoint need not spend
        headers = {"Authorization": f"Bearer {llm.read_key(endpoint)}",
                   "Content-Type": "application/json"}
        async with openai.DefaultAioHttpClient(timeout=endpoint.timeout,
                                               headers=headers) as client:
            yield Chat(endpoint, cfg, client, kept)


def _read(body: bytes, most: int) -> Answer:
    if len(body) > most:
        return Answer(error="too-large", billed=True,
                      why=f"the answer has more than {most:,} bytes")
    try:
        told = json.loads(body)
        text = told["choices"][0]["message"]["content"]
        usage = told.get("usage") or {}
        tokens = [int(usage.get(name) or 0)
                  for name in ("prompt_tokens", "completion_tokens")]
        if not isinstance(text, str):
            raise TypeError
        text.encode()  # half a surrogate pair can be stored nowhere
    except (ValueError, TypeError, KeyError, IndexError, AttributeError,
            RecursionError):
        return Answer(error="garbage", billed=True,
                      why="the answer is no chat completion")
    return Answer(text=text, billed=True, prompt_tokens=tokens[0],
                  answer_tokens=tokens[1])


def _kind(error: Exception) -> str:
    import openai
    status = getattr(error, "status_code", None)
    if status is not None:
        return ("key" if status in (401, 403) else "rate-limited" if status == 429
                else "server" if status >= 500 else "request")
    found = list(llm.causes(error))
    if any(isinstance(cause, ConnectionRefusedError) for cause in found):
        return "down"
    if any(isinstance(cause, TimeoutError) for cause in found):
        return "timeout"
    told = isinstance(error, openai.OpenAIError)
    lost = isinstance(error, openai.APIConnectionError) or not told
    return "lost" if lost else "client"


def _billed(error: Exception) -> bool | None:
    return None if _kind(error) in ("timeout", "lost", "client") else False


def _asked_wait(error: Exception) -> float | None:
    """Returns the seconds that a server asks to wait, None where it does not."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1_000)
        if "retry-after" not in headers:
            return None
        try:
            return max(0.0, float(headers["retry-after"]))
        except ValueError:
            moment = email.utils.parsedate_to_datetime(headers["retry-after"])
            return max(0.0, moment.timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
