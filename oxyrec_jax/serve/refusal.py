"""Why a request gets no answer, as HTTP tells it."""

import dataclasses
import math
from typing import Any


@dataclasses.dataclass(eq=False)
class Refusal(Exception):
    """No answer, and why.

    Attributes:
      status: of HTTP.
      reason: one word for programs.
      message: one sentence for people.
      field: which field of the request is meant, or "".
      retry_after: seconds after which another try may go through; None: it would not.
    """

    status: int
    reason: str
    message: str
    field: str = ""
    retry_after: int | None = None

    def body(self) -> dict[str, Any]:
        """The JSON body of the response."""
        return {"error": {"status": self.status, "reason": self.reason,
                          "message": self.message, "field": self.field}}

    @classmethod
    def full(cls, queue: int, seconds: float) -> "Refusal":
        return cls(429, "full", f"{queue} requests wait already; try again later",
                   retry_after=max(1, math.ceil(seconds)))

    @classmethod
    def late(cls, waited: float) -> "Refusal":
        return cls(504, "deadline", f"the deadline passed after {1e3 * waited:.0f} ms "
                   "in the queue; nothing was computed", retry_after=1)

    @classmethod
    def draining(cls) -> "Refusal":
        return cls(503, "draining", "the server is about to end; ask another one",
                   retry_after=5)

    @classmethod
    def memory(cls) -> "Refusal":
        return cls(503, "memory", "the batch did not fit into memory; try again",
                   retry_after=1)

    @classmethod
    def broken(cls) -> "Refusal":
        return cls(500, "failed", "the batch failed; the server's log tells why")
