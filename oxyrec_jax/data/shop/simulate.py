"""Lets people live in the shop and collects what they did.

People are simulated in a fixed number of *lanes*, one compiled program for all: a lane
whose person has left for good takes the next one. The arithmetic of a lane does not
depend on its neighbours, so neither does anybody's log.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from oxyrec_jax.base import Array, InputError
from oxyrec_jax.data.shop import people, visits
from oxyrec_jax.data.shop.world import World

LANES = 512   # ours: enough to keep vector units busy, few enough to drain quickly
STEPS = 16    # ours: requests between two looks at which lanes are free


@dataclasses.dataclass(frozen=True)
class Requests:
    """R requests in order of person, then of time, on the host.

    Attributes:
      person: `[R]` int32, the person's number.
      second: `[R]` int32 since the first midnight.
      scenario: `[R]` int8, of `SCENARIOS`.
      trigger: `[R]` int32, -1 none.
      need: `[R]` int32, number in `Knowledge.needs`: the truth, hidden from policies.
      exact: `[R]` float32 in [0, 1): how loosely a query puts the need; 0 is exact.
      shown: `[R, slate]` int32 items, -1 where there were not enough.
      outcome: `[R, slate]` int8: 0 nothing, 1 click, 2 cart, 3 order.
    """

    person: np.ndarray
    second: np.ndarray
    scenario: np.ndarray
    trigger: np.ndarray
    need: np.ndarray
    exact: np.ndarray
    shown: np.ndarray
    outcome: np.ndarray


def simulate_requests(world: World, numbers: np.ndarray, *, slate: int,
                      candidates: int) -> Requests:
    """Simulates the whole life of these people in the shop.

    Args:
      world: the shop.
      numbers: `[P]` ascending numbers of the people.
      slate: items shown in each request.
      candidates: items that the old recommender retrieves for it.

    Returns:
      Their requests. The same for a person whoever else is simulated.
    """
    with jax.default_device(cpu_device()):
        return _simulate(world, numbers, slate, candidates)


def cpu_device() -> jax.Device:
    """Returns the processor: a log's bits must not depend on the accelerator at hand.

    Raises:
      InputError: JAX was told to leave the CPU out.
    """
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        raise InputError("the shop is simulated on the CPU, which JAX_PLATFORMS leaves "
                         "out; add cpu to it, as in JAX_PLATFORMS=cuda,cpu") from None


def people_after(world: World, numbers: np.ndarray, *, slate: int,
                 candidates: int) -> visits.Visitors:
    """Simulates the same lives and returns the people as they stand at their end.

    Args:
      world: the shop.
      numbers: `[P]` ascending numbers of the people.
      slate, candidates: as in the log.

    Returns:
      P visitors on the host, in order of number. Their memory is that of the log's
      last events; the time and the need of their latest request may be of one in which
      nothing was done any more.
    """
    parts: list[visits.Visitors] = []
    with jax.default_device(cpu_device()):
        for visitors, _, finished in _lives(world, numbers, slate, candidates):
            if finished.any():
                parts.append(jax.tree.map(lambda a: np.asarray(a)[finished], visitors))
    whole = jax.tree.map(lambda *rows: np.concatenate(rows), *parts)
    order = np.argsort(whole.people.number, kind="stable")
    return jax.tree.map(lambda a: a[order], whole)


def _simulate(world: World, numbers: np.ndarray, slate: int,
              candidates: int) -> Requests:
    parts = []
    for _, rows, _ in _lives(world, numbers, slate, candidates):
        live = rows.pop("live")
        parts.append({name: values[live] for name, values in rows.items()})
    return _collect(parts)


def _lives(world: World, numbers: np.ndarray, slate: int, candidates: int
           ) -> Iterator[tuple[visits.Visitors, dict[str, np.ndarray], np.ndarray]]:
    """Yields the lanes after some requests: visitors, what was recorded, and which
    lanes' people have just left for good, `[LANES]` bool."""
    # The longest lives first, so that all lanes finish at about the same time.
    lengths = _in_lanes(functools.partial(_lengths, world), numbers)
    queue = numbers[np.argsort(-lengths, kind="stable")].astype(np.int32)
    visitors, taken_lanes = _empty(world), np.zeros(LANES, bool)
    while len(queue) or taken_lanes.any():
        free = np.flatnonzero(~taken_lanes)
        taken, queue = queue[:len(free)], queue[len(free):]
        if len(taken):
            seats, new = np.zeros(LANES, bool), np.zeros(LANES, np.int32)
            seats[free[:len(taken)]], new[free[:len(taken)]] = True, taken
            newcomers = _draw_people(world, jnp.asarray(new))
            visitors = _seat(visitors, jnp.asarray(seats), newcomers)
            taken_lanes |= seats
        visitors, done, record = _advance(world, visitors, slate=slate,
                                          candidates=candidates)
        finished = taken_lanes & np.asarray(done)
        yield visitors, jax.tree.map(np.asarray, record), finished
        taken_lanes &= ~finished


def _collect(parts: list[dict[str, np.ndarray]]) -> Requests:
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.argsort(whole["person"], kind="stable")  # within a person: by time
    return Requests(**{field.name: whole[field.name][order]
                       for field in dataclasses.fields(Requests)})


def simulate_people(world: World, numbers: np.ndarray) -> people.People:
    """Draws the people of these numbers, on the host, as the simulation draws them."""
    with jax.default_device(cpu_device()):
        return _in_lanes(functools.partial(_draw_people, world), numbers)


def _in_lanes(function: Callable[[Array], Any], numbers: np.ndarray) -> Any:
    """Applies a function of `[LANES]` to numbers of any count, for one compilation."""
    padded = np.resize(numbers, -(-len(numbers) // LANES) * LANES).astype(np.int32)
    parts = [jax.tree.map(np.asarray, function(jnp.asarray(part)))
             for part in padded.reshape(-1, LANES)]
    return jax.tree.map(lambda *rows: np.concatenate(rows)[:len(numbers)], *parts)


_draw_people = jax.jit(people.draw_people)
_lengths = jax.jit(people.target_events)


@jax.jit
def _seat(visitors: visits.Visitors, seats: Array,
          newcomers: people.People) -> visits.Visitors:
    """Puts the newcomers of some lanes, `seats` `[LANES]` bool, in their places."""
    def put(fresh: Array, old: Array) -> Array:
        return jnp.where(seats.reshape((-1,) + (1,) * (old.ndim - 1)), fresh, old)
    return jax.tree.map(put, visits.begin(newcomers), visitors)


def _empty(world: World) -> visits.Visitors:
    """Returns lanes in which nobody is: all zeros, so no events are left."""
    shapes = jax.eval_shape(lambda: visits.begin(
        people.draw_people(world, jnp.zeros(LANES, jnp.int32))))
    return jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), shapes)


@functools.partial(jax.jit, static_argnames=("slate", "candidates"),
                   donate_argnames=("visitors",))
def _advance(world: World, visitors: visits.Visitors, *, slate: int,
             candidates: int) -> tuple[visits.Visitors, Array, dict[str, Array]]:
    """Makes `STEPS` requests in each lane; tells who is done, and `[STEPS, LANES, …]`.
    """
    def request(visitors: visits.Visitors, _: None):
        live = ~visitors.done
        draws = visits.draw(world, visitors, candidates, slate)
        visitors = visits.next_moment(world, visitors, draws)
        shown, responses = visits.old_recommender(world, visitors, draws, slate)
        outcome = visits.respond(visitors, shown, responses, draws)
        moment = visitors.moment
        record = {"live": live, "person": visitors.people.number,
                  "second": moment.second, "scenario": moment.scenario.astype(jnp.int8),
                  "trigger": moment.trigger, "need": moment.need, "exact": draws.exact,
                  "shown": shown, "outcome": outcome.astype(jnp.int8)}
        return visits.remember(world, visitors, shown, outcome, draws), record
    visitors, records = jax.lax.scan(request, visitors, None, length=STEPS)
    return visitors, visitors.done, records
