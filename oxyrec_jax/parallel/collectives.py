"""What a compiled program sends between devices, read from its text."""

import dataclasses
import math
import re

_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all",
          "ragged-all-to-all", "collective-permute", "collective-broadcast")
_OPERATION = re.compile(rf" = (.*?) ({'|'.join(_KINDS)})(-start)?\((.*)")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALLED = re.compile(r"(?:body|to_apply|calls)=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_ARRAY = re.compile(r"\b(pred|bf16|[suf]\d+(?:e\d\w*)?|c64|c128)\[([\d,]*)\]")
_LISTED = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_TILED = re.compile(r"replica_groups=\[(\d+),(\d+)\]")
_MESH = re.compile(r"replica_groups=mesh\[(.*?)\].*? \{(.*?)\}")
_AXIS = re.compile(r"'([^']+)'(?:=(\d+)|:\(\d+\)(\d+))?")
_LONGER = {"reduce-scatter"}  # what goes in is longer than what comes out


@dataclasses.dataclass(frozen=True)
class Collective:
    """The collectives of one kind among groups of one size.

    Attributes:
      kind: such as "all-gather".
      devices: in a group; 0 where the text does not say.
      count: how often a run of the program does one.
      bytes: of all of them, on one device: the longer of what goes in and comes out.
      largest: of a single one.
    """

    kind: str
    devices: int
    count: int
    bytes: int
    largest: int


def collectives(text: str) -> list[Collective]:
    """Adds up the collectives of a program, those in loops as often as they run.

    Args:
      text: `jax.stages.Compiled.as_text()`, where shapes are those of one device.

    Returns:
      One entry for each kind and size of group, the most bytes first. A loop whose
      number of turns XLA does not know counts once.
    """
    runs = _runs(text)
    found: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for computation, line in _lines(text):
        if not (match := _OPERATION.search(line)):
            continue
        shape, kind, begun, rest = match.groups()
        sizes = [_bytes(*array) for array in _ARRAY.findall(shape)]
        size = sizes[-1] if begun and kind != "all-reduce" and sizes else sum(sizes)
        group = _group(rest)
        if kind in _LONGER:
            size *= max(group, 1)
        found.setdefault((kind, group), []).append((runs.get(computation, 1), size))
    added = [Collective(kind, group, sum(times for times, _ in each),
                        sum(times * size for times, size in each),
                        max(size for _, size in each))
             for (kind, group), each in found.items()]
    return sorted(added, key=lambda one: -one.bytes)


def _lines(text: str) -> list[tuple[str, str]]:
    """Each line with the computation that it stands in."""
    found, name = [], ""
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            name = match[1]
        found.append((name, line))
    return found


def _runs(text: str) -> dict[str, int]:
    """How often each computation runs when the program runs once."""
    callers: dict[str, tuple[str, int]] = {}
    for caller, line in _lines(text):
        if " while(" in line or " call(" in line:
            trips = _TRIPS.search(line)
            for called in _CALLED.findall(line):
                callers[called] = (caller, int(trips[1]) if trips else 1)

    def runs(name: str) -> int:
        if name not in callers:
            return 1
        caller, times = callers[name]
        return times * runs(caller)
    return {name: runs(name) for name in callers}


def _bytes(dtype: str, dimensions: str) -> int:
    bits = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128}.get(dtype)
    if bits is None:
        bits = int(re.findall(r"\d+", dtype)[0])
    count = math.prod(int(size) for size in dimensions.split(",") if size)
    return -(-count * bits // 8)


def _group(rest: str) -> int:
    if match := _LISTED.search(rest):
        return len(match[1].split(","))
    if match := _TILED.search(rest):
        return int(match[2])
    if match := _MESH.search(rest):
        sizes = {axis: int(size) for axis, size, _ in _AXIS.findall(match[1])}
        return math.prod(int(part) if part else sizes[axis]
                         for axis, _, part in _AXIS.findall(match[2]))
    return 0
