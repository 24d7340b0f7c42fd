"""The requests that wait, by kind: the most urgent first, whatever their number.

Requests of a kind (same snapshot, same length of history, filtered or not) can be
computed together. Each kind keeps a heap by deadline, so that a long queue costs a
batch no more than a short one: otherwise a server that is behind falls further behind.
"""

import heapq
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar


class Waits(Protocol):
    """What may wait.

    Attributes:
      deadline: when it is too late; the order of going.
      abandoned: nobody waits for it any more.
    """

    deadline: float
    abandoned: bool


One = TypeVar("One", bound=Waits)
Kind = TypeVar("Kind", bound=Hashable)


class Waiting(Generic[Kind, One]):
    """Requests by kind and deadline; the caller holds a lock."""

    def __init__(self) -> None:
        self._heaps: dict[Kind, list[tuple[float, int, One]]] = {}
        self._came = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, one: One, kind: Kind) -> None:
        """Puts one among those of its kind; equal deadlines go as they came."""
        heapq.heappush(self._heaps.setdefault(kind, []),
                       (one.deadline, self._came, one))
        self._came += 1
        self._count += 1

    def late(self, now: float) -> list[One]:
        """Takes out those whose deadline has passed, and abandoned ones before them."""
        found = []
        for kind in list(self._heaps):
            heap = self._heaps[kind]
            while heap and (heap[0][0] <= now or heap[0][2].abandoned):
                found.append(heapq.heappop(heap)[2])
            if not heap:
                del self._heaps[kind]
        self._count -= len(found)
        return found

    def urgent(self) -> tuple[Kind, float, int] | None:
        """The kind of the earliest deadline, that deadline, and how many there are."""
        if not self._heaps:
            return None
        kind = min(self._heaps, key=lambda kind: self._heaps[kind][0][:2])
        return kind, self._heaps[kind][0][0], len(self._heaps[kind])

    def take(self, kind: Kind, most: int) -> list[One]:
        """Takes out the most urgent of a kind."""
        heap = self._heaps[kind]
        found = [heapq.heappop(heap)[2] for _ in range(min(most, len(heap)))]
        if not heap:
            del self._heaps[kind]
        self._count -= len(found)
        return found
