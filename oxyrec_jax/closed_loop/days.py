"""The loop itself: a day of visits as one compiled program for each policy.

Everybody has a chance to come once a day and makes requests until the session ends, at
most so many. All people make their next request in the same step, as in the simulation
that wrote the log, and those who are not there stand still. Chance is a hash of seed,
person and the number of the request, so two policies meet the same people, on the same
days, with the same luck as long as they show the same.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from oxyrec_jax.base import Array, InputError
from oxyrec_jax.closed_loop.context import History, grow, history_of, observe
from oxyrec_jax.closed_loop.policies import AnyPolicy, Arm, Insider
from oxyrec_jax.data import shop
from oxyrec_jax.data.dataset import Dataset
from oxyrec_jax.data.shop import chance

COUNTS = ("requests", "shown", "legal", "clicks", "carts", "orders", "gmv",
          "categories")
LANES = 256  # people in one call of the program; ours, as the evaluation's batch
_COMES = 40  # stream of chance
_FIRST_STEP = 1 << 24  # requests of the log have lower numbers
_PLENTY = 1 << 30      # events left: nobody leaves for good in a test


@dataclasses.dataclass(frozen=True)
class Visiting:
    """How often people come.

    Attributes:
      comes: chance that a person visits on a day.
      requests: the most requests of a visit.
      seed: of the luck; the people and their needs in the log stay those of the shop.
    """

    comes: float = 0.5
    requests: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.comes <= 1:
            raise InputError(f"the chance to visit on a day is {self.comes}, expected "
                             "above 0 and at most 1")
        if not 1 <= self.requests <= 100:
            raise InputError(f"the most requests of a visit are {self.requests}, "
                             "expected 1 to 100")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """B people between two days: the shop's truth about them, and what a shop saw."""

    visitors: shop.Visitors
    history: History


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Floor:
    """What a day is the same in for all policies.

    Attributes:
      world: of that day.
      luck: scalar uint32.
      first_query: `[C]` int32, from `shop.query_texts`.
      stock: `[N]` bool, items that may be shown.
      day: scalar int32, from 0.
      comes: scalar float32, see `Visiting`.
    """

    world: shop.World
    luck: Array
    first_query: Array
    stock: Array
    day: Array
    comes: Array


def luck_of(cfg: shop.ShopConfig, seed: int) -> np.uint32:
    """The seed of a test's chance: of the shop's own and the test's."""
    return np.uint32((cfg.seed * 0x9E3779B1 + 0x85EBCA6B * (seed + 1)) & 0xFFFFFFFF)


def people_of_log(dataset: Dataset, built: shop.Shop, users: int) -> shop.Visitors:
    """The first people of a log as they stand at its end, on the host.

    Args:
      dataset: a prepared shop.
      built: the same, built.
      users: how many.

    Raises:
      InputError: the log has fewer people, or what they did is not what this release
        simulates.
    """
    if not 2 <= users <= dataset.num_sequences:
        raise InputError(f"--users {users}: the log of {dataset.folder} has "
                         f"{dataset.num_sequences} people, expected 2 to as many")
    numbers = np.array([int(name.rpartition("-")[2])
                        for name in dataset.user_ids()[:users]], np.int32)
    visitors = shop.people_after(built.world, numbers, slate=built.cfg.slate,
                                 candidates=built.cfg.candidates)
    known = visitors.moment.items
    log = history_of(dataset, np.arange(users), known.shape[1], 0).items
    if not np.array_equal(known, log):
        person = int(np.flatnonzero((known != log).any(axis=1))[0])
        raise InputError(
            f"{dataset.folder}: {dataset.user_ids()[person]} did something else in the "
            "log than the shop simulates now, so that the test could not go on from "
            "it; prepare the shop again with this release")
    return visitors


def begin(visitors: shop.Visitors, history: History) -> State:
    """The people on the morning of the first day."""
    def every(like: Any, value: int) -> Any:
        return np.full_like(like, value)
    people = dataclasses.replace(visitors.people,
                                 events=every(visitors.people.events, 1 << 24))
    left = every(visitors.left, _PLENTY)
    return State(dataclasses.replace(visitors, left=left, people=people), history)


@functools.partial(jax.jit, static_argnames=("policy", "requests", "candidates"))
def serve_day(policy: AnyPolicy, arrays: Any, floor: Floor, state: State,
              person: Array, *, requests: int, candidates: int
              ) -> tuple[State, Array]:
    """Lives through one day with a policy.

    Args:
      policy: chooses what is shown (static).
      arrays: what it reads.
      floor: the day.
      state: B people.
      person: `[B]` int32, their sequences in the log; -1: nobody, who never comes.
      requests: the most requests of a visit.
      candidates: which the old recommender retrieves; decides the draws of all.

    Returns:
      The people in the evening, and `[B, scenarios, COUNTS]` float32 what was counted.
    """
    luck = dataclasses.replace(floor.world, seed=floor.luck)
    visitors = dataclasses.replace(state.visitors,
                                   inside=jnp.zeros_like(state.visitors.inside),
                                   place=jnp.zeros_like(state.visitors.place))
    number = visitors.people.number
    comes = chance.uniform(floor.luck, _COMES, number, floor.day, 1)[:, 0] < floor.comes

    def request(carry: Any, turn: Array) -> tuple[Any, None]:
        before, there, counts = carry
        step = jnp.broadcast_to(_FIRST_STEP + floor.day * requests + turn, number.shape)
        now = dataclasses.replace(before.visitors, step=step)
        draws = shop.draw(luck, now, candidates, policy.slate)
        # With few events left a visit is spread over the whole of the world's clock.
        now = shop.next_moment(floor.world, dataclasses.replace(
            now, left=jnp.ones_like(now.left)), draws)
        now = dataclasses.replace(now, left=before.visitors.left)
        if isinstance(policy, Insider):
            shown = policy.show(floor.world, now, draws)
        else:
            shown = policy.show(arrays, observe(floor.world, floor.first_query, person,
                                                now, draws, before.history))
        after, found = _respond(floor, now, draws, before.history, shown)
        scenario = jax.nn.one_hot(now.moment.scenario, len(shop.SCENARIOS))
        counts += jnp.where(there, 1.0, 0.0)[:, None, None] * (
            scenario[:, :, None] * found[:, None, :])
        kept = jax.tree.map(lambda new, old: jnp.where(
            there.reshape((-1,) + (1,) * (old.ndim - 1)), new, old), after, before)
        return (kept, there & after.visitors.inside, counts), None

    counts = jnp.zeros((len(number), len(shop.SCENARIOS), len(COUNTS)))
    start = State(visitors, state.history), comes & (person >= 0), counts
    (evening, _, counts), _ = jax.lax.scan(request, start, jnp.arange(requests))
    return evening, counts


def _respond(floor: Floor, now: shop.Visitors, draws: shop.Draws, history: History,
             shown: Array) -> tuple[State, Array]:
    """What people do with a slate, and `[B, COUNTS]` what that counts."""
    world, places = floor.world, shown.shape[1]
    inside = (shown >= 0) & (shown < floor.stock.shape[0])
    stocked = inside & floor.stock[jnp.clip(shown, 0, floor.stock.shape[0] - 1)]
    earlier = jnp.tril(jnp.ones((places, places), bool), -1)
    again = ((shown[:, :, None] == shown[:, None, :]) & earlier).any(axis=-1)
    legal = stocked & ~again
    real, safe = jnp.where(legal, shown, -1), jnp.where(legal, shown, 0)
    responses = shop.response_probabilities(world, now.people, now.moment, safe)
    outcome = shop.respond(now, real, responses, draws)
    leaf = world.item_leaf[safe]
    same = (leaf[:, :, None] == leaf[:, None, :]) & earlier & legal[:, None, :]
    ordered = outcome == 3
    found = jnp.stack([
        jnp.ones(shown.shape[0]), jnp.sum(shown >= 0, 1), jnp.sum(legal, 1),
        jnp.sum(outcome > 0, 1), jnp.sum(outcome > 1, 1), jnp.sum(ordered, 1),
        jnp.sum(ordered * world.item_price[safe], 1),
        jnp.sum(legal & ~same.any(axis=-1), 1)], axis=1)
    return State(shop.remember(world, now, real, outcome, draws),
                 grow(history, now.moment, real, outcome)), found


def advance(arm: Arm, floor: Floor, state: State, sequences: np.ndarray, *,
            requests: int, candidates: int) -> tuple[State, np.ndarray]:
    """One day of all people of an arm, `LANES` at a time.

    Args:
      arm: who serves.
      floor: the day.
      state: of U people, NumPy arrays.
      sequences: `[U]` int, their sequences in the log.
      requests, candidates: as of `serve_day`.

    Returns:
      The people in the evening and `[U, scenarios, COUNTS]` float32, on the host.
    """
    users = len(state.visitors.step)
    states, counts = [], []
    for first in range(0, users, LANES):
        rows = np.arange(first, first + LANES)
        safe = np.minimum(rows, users - 1)
        person = np.where(rows < users, sequences[safe], -1).astype(np.int32)
        part = jax.tree.map(lambda a: a[safe], state)
        part, found = serve_day(arm.policy, arm.arrays, floor, part, person,
                                requests=requests, candidates=candidates)
        size = min(users - first, LANES)
        states.append(jax.tree.map(lambda a: np.asarray(a)[:size], part))
        counts.append(np.asarray(found)[:size])
    return (jax.tree.map(lambda *parts: np.concatenate(parts), *states),
            np.concatenate(counts))
