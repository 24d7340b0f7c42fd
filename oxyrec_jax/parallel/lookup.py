"""Look-ups in a table whose rows are cut over devices: rows travel, the table never.

A device asks for the rows of its own part of the batch, on one of two routes:

    gathered   ids are gathered over the devices that share a table, each takes the rows
               that it holds, and a reduce-scatter hands every device its answers
    exchanged  distinct ids go to the device that holds the row, rows come back: two
               all-to-alls with `capacity` places for each pair of devices

The first moves (devices x ids) rows whatever the ids are, the second only what is
asked, and each row once. Where more distinct ids want one device than there are places,
all devices agree on more rounds (2, 4, 8 ..) until every id has its place: answers are
exact, the overflow is counted and costs time, never a wrong row.

Nothing here differentiates a table. Take the gradient of the vectors that `take_rows`
returns and hand it to `update_rows`, which sends it the same way and lets an optimiser
(`train.rows`) change the rows touched, in place where the arrays are donated.

Source: row-wise sharding with distinct ids and an all-to-all, as in TorchRec (Ivchenko
et al. 2022, https://doi.org/10.1145/3523227.3547387); rounds by row number are ours.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from oxyrec_jax.base import Array
from oxyrec_jax.parallel.mesh import BATCH_AXES

# New rows and new state of (rows `[M, D]`, their state, gradients `[M, D]`).
Change = Callable[[Array, Any, Array], tuple[Array, Any]]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a table and the ids that are looked up in it lie on a mesh.

    Attributes:
      mesh: the devices.
      rows: mesh axes that the table's rows are cut over, some of `batch`. On the other
        axes the table is whole and gradients are gathered.
      batch: mesh axes that the first axis of ids is cut over.
      capacity: distinct ids that a device may send to each other one in a round of the
        exchange; 0 takes the gathered route.
    """

    mesh: Mesh
    rows: tuple[str, ...] = ("table",)
    batch: tuple[str, ...] = BATCH_AXES
    capacity: int = 0

    def __post_init__(self) -> None:
        if not set(self.rows) <= set(self.batch) <= set(self.mesh.axis_names):
            raise ValueError(f"{self.rows=} are not among {self.batch=}, or these not "
                             f"among {self.mesh.axis_names=}")
        if self.capacity < 0:
            raise ValueError(f"{self.capacity=}")

    @property
    def shards(self) -> int:
        """Parts into which rows are cut."""
        return math.prod(self.mesh.shape[axis] for axis in self.rows)

    @property
    def others(self) -> tuple[str, ...]:
        """Axes of the batch on which the table is whole."""
        return tuple(axis for axis in self.batch if axis not in self.rows)

    @property
    def table_sharding(self) -> NamedSharding:
        """Of the table, and of whatever else has its rows."""
        return NamedSharding(self.mesh, PartitionSpec(self.rows))

    def padded(self, rows: int) -> int:
        """The next number of rows that every device can hold an equal part of."""
        return -(-rows // self.shards) * self.shards


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Traffic:
    """What a look-up or an update had to do.

    Attributes:
      overflow: int32 scalar, distinct ids of all devices that found no place in a
        single round of the exchange; later rounds served them.
      rounds: int32 scalar, rounds of the exchange; 1 where nothing overflows.
    """

    overflow: Array
    rounds: Array


def spread_rows(ids: Array, rows: int, shards: int) -> Array:
    """Where to keep ids so that neighbours live on different devices.

    Ids in the order of popularity would all ask the first device. A one-to-one map of
    `[0, rows)` to itself; -1 stays.

    Args:
      ids: `[...]` int32.
      rows: of the table, a multiple of `shards`.
      shards: devices that the rows are cut over.
    """
    if rows % shards:
        raise ValueError(f"{rows=} is not a multiple of {shards=}")
    spread = (ids % shards) * (rows // shards) + ids // shards
    return jnp.where(ids >= 0, spread, ids)


def take_rows(table: Array, ids: Array, layout: Layout) -> tuple[Array, Traffic]:
    """Rows of a sharded table.

    Args:
      table: `[N, D]`, cut as `layout.table_sharding`; cannot be differentiated.
      ids: `[B, ...]` int32, cut over `layout.batch`; one outside `[0, N)`, such as -1,
        gives a row of zeros.
      layout: the devices and the route.

    Returns:
      `[B, ..., D]` in the dtype of the table, cut as `ids`, and the traffic.

    Raises:
      ValueError: N or B is not a multiple of the devices that it is cut over.
      TypeError: the table is differentiated: see the module.
    """
    _check(table, ids, layout)
    return _take_rows(layout, table, ids)


def update_rows(table: Array, state: Any, ids: Array, gradients: Array, layout: Layout,
                change: Change) -> tuple[Array, Any, Traffic]:
    """Changes the rows that were looked up, and no other.

    Args:
      table: `[N, D]`, cut as `layout.table_sharding`.
      state: arrays `[N, ...]` of an optimiser, cut likewise.
      ids: `[B, ...]` int32, as they were looked up.
      gradients: `[B, ..., D]`, of the vectors that `take_rows` returned; those of one
        row are summed in float32 before it is changed.
      layout: the devices and the route.
      change: see `Change`; called once a round on distinct rows.

    Returns:
      Table and state, the same buffers where both are donated, and the traffic.

    Raises:
      ValueError: shapes that do not fit each other or the layout.
    """
    _check(table, ids, layout)
    if gradients.shape != (*ids.shape, table.shape[1]):
        raise ValueError(f"{gradients.shape=}, expected {(*ids.shape, table.shape[1])}")

    def local(table: Array, state: Any, ids: Array, gradients: Array) -> Any:
        rows = _known(ids.reshape(-1), layout.shards * len(table))
        flat = gradients.reshape(-1, gradients.shape[-1]).astype(jnp.float32)
        route = _change_exchanged if layout.capacity else _change_gathered
        return route(layout, table, state, rows, flat, change)

    cut, batch = PartitionSpec(layout.rows), PartitionSpec(layout.batch)
    # Rounds and sums are equal on all devices by construction, which the check of
    # varying axes cannot see through a loop.
    return jax.shard_map(local, mesh=layout.mesh, in_specs=(cut, cut, batch, batch),
                         out_specs=(cut, cut, PartitionSpec()), check_vma=False,
                         )(table, state, ids, gradients)


def distinct(ids: Array, fill: int) -> tuple[Array, Array]:
    """Each id once, ascending, and where each went.

    Args:
      ids: `[M]` int32.
      fill: above every id; stands behind the distinct ones.

    Returns:
      `[M]` int32 and, for each id, its place `[M]` int32.
    """
    order = jnp.argsort(ids)
    ascending = ids[order]
    first = jnp.concatenate([jnp.ones(1, bool), ascending[1:] != ascending[:-1]])
    place = jnp.cumsum(first, dtype=jnp.int32) - 1
    once = jnp.full_like(ids, fill).at[place].set(ascending)
    return once, jnp.zeros_like(place).at[order].set(place, unique_indices=True)


def own_rows(rows: Array, held: int, layout: Layout) -> Array:
    """Rows counted from this device's first; `held` for those of other devices.

    Args:
      rows: int32, of the whole table.
      held: rows of the table on each device.
      layout: the devices; inside a `jax.shard_map` over them.
    """
    own = rows - jax.lax.axis_index(layout.rows) * held
    return jnp.where((own >= 0) & (own < held), own, held)


def change_own(table: Array, state: Any, rows: Array, gradients: Array,
               change: Change) -> tuple[Array, Any]:
    """Changes distinct rows of an array on one device.

    Args:
      table: `[R, D]`.
      state: arrays `[R, ...]`.
      rows: `[M]` int32, ascending, each once; those from R on are left out.
      gradients: `[M, D]` float32.
      change: see `Change`.
    """
    held = len(table)
    # Left-out places differ from each other too, so that a scatter may trust in order.
    rows = jnp.where(rows < held, rows, held + jnp.arange(len(rows), dtype=rows.dtype))

    def read(leaf: Array) -> Array:
        return leaf.at[rows].get(mode="fill", fill_value=0, unique_indices=True,
                                 indices_are_sorted=True)

    def write(leaf: Array, new: Array) -> Array:
        return leaf.at[rows].set(new.astype(leaf.dtype), mode="drop",
                                 unique_indices=True, indices_are_sorted=True)

    new_rows, new_state = change(read(table), jax.tree.map(read, state), gradients)
    return write(table, new_rows), jax.tree.map(write, state, new_state)


def _check(table: Array, ids: Array, layout: Layout) -> None:
    parts = math.prod(layout.mesh.shape[axis] for axis in layout.batch)
    if table.ndim != 2 or table.shape[0] % layout.shards:
        raise ValueError(f"{table.shape=}, expected [N, D] with N a multiple of the "
                         f"{layout.shards} parts of {layout.rows=}; see Layout.padded")
    if not jnp.issubdtype(ids.dtype, jnp.signedinteger) or ids.shape[0] % parts:
        raise ValueError(f"{ids.dtype=} {ids.shape=}, expected signed integers and a "
                         f"first axis that is a multiple of {parts} parts")


def _known(ids: Array, rows: int) -> Array:
    """Ids with those outside of the table replaced by `rows`."""
    return jnp.where((ids >= 0) & (ids < rows), ids, rows).astype(jnp.int32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _take_rows(layout: Layout, table: Array, ids: Array) -> tuple[Array, Traffic]:
    def local(table: Array, ids: Array) -> tuple[Array, Traffic]:
        rows = _known(ids.reshape(-1), layout.shards * len(table))
        route = _take_exchanged if layout.capacity else _take_gathered
        found, traffic = route(layout, table, rows)
        return found.reshape(*ids.shape, -1), traffic

    batch = PartitionSpec(layout.batch)
    return jax.shard_map(local, mesh=layout.mesh, check_vma=False,
                         in_specs=(PartitionSpec(layout.rows), batch),
                         out_specs=(batch, PartitionSpec()))(table, ids)


def _refuse(layout: Layout, _: None, cotangents: Any) -> Any:
    raise TypeError("the gradient of a sharded table would be as large as the table; "
                    "differentiate the vectors of take_rows and call update_rows")


_take_rows.defvjp(lambda layout, table, ids: (_take_rows(layout, table, ids), None),
                  _refuse)


def _take_gathered(layout: Layout, table: Array, rows: Array) -> tuple[Array, Traffic]:
    nothing = Traffic(jnp.int32(0), jnp.int32(1))
    if layout.shards == 1:  # a collective of one would still copy
        return table.at[rows].get(mode="fill", fill_value=0), nothing
    asked = jax.lax.all_gather(rows, layout.rows, tiled=True)
    found = table.at[own_rows(asked, len(table), layout)].get(mode="fill", fill_value=0)
    # Every row comes from one device and zeros from the others: the sum is exact.
    return jax.lax.psum_scatter(found, layout.rows, tiled=True), nothing


def _change_gathered(layout: Layout, table: Array, state: Any, rows: Array,
                     gradients: Array, change: Change) -> tuple[Array, Any, Traffic]:
    asked, slopes = (jax.lax.all_gather(part, layout.batch, tiled=True)
                     for part in (rows, gradients))
    own = own_rows(asked, len(table), layout)
    return (*_change_merged(table, state, own, slopes, change),
            Traffic(jnp.int32(0), jnp.int32(1)))


def _change_merged(table: Array, state: Any, own: Array, gradients: Array,
                   change: Change) -> tuple[Array, Any]:
    """Changes this device's rows, of which some may stand there more than once."""
    once, place = distinct(own, len(table))
    return change_own(table, state, once,
                      jax.ops.segment_sum(gradients, place, len(once)), change)


def _take_exchanged(layout: Layout, table: Array, rows: Array
                    ) -> tuple[Array, Traffic]:
    once, place = distinct(rows, layout.shards * len(table))
    traffic = _agree_on_rounds(layout, once, len(table))

    def serve(turn: Array, found: Array) -> Array:
        slot, asked = _sent(layout, once, len(table), turn, traffic.rounds)
        wanted = _swap(layout, asked)
        answer = _swap(layout, table.at[wanted].get(mode="fill", fill_value=0))
        answer = answer.reshape(-1, answer.shape[-1])
        mine = answer.at[slot].get(mode="fill", fill_value=0)
        return jnp.where((slot < len(answer))[:, None], mine, found)

    nothing = jnp.zeros((len(once), table.shape[1]), table.dtype)
    found = jax.lax.fori_loop(0, traffic.rounds, serve, nothing)
    return found[place], traffic


def _change_exchanged(layout: Layout, table: Array, state: Any, rows: Array,
                      gradients: Array, change: Change) -> tuple[Array, Any, Traffic]:
    held = len(table)
    once, place = distinct(rows, layout.shards * held)
    summed = jax.ops.segment_sum(gradients, place, len(once))
    traffic = _agree_on_rounds(layout, once, held)

    def serve(turn: Array, carried: tuple[Array, Any]) -> tuple[Array, Any]:
        slot, asked = _sent(layout, once, held, turn, traffic.rounds)
        places = (asked.size, gradients.shape[1])
        outgoing = jnp.zeros(places, jnp.float32).at[slot].set(
            summed, mode="drop", unique_indices=True)
        outgoing = outgoing.reshape(*asked.shape, -1)
        own, slopes = _swap(layout, asked).reshape(-1), _swap(layout, outgoing)
        slopes = slopes.reshape(places)
        if layout.others:
            own, slopes = (jax.lax.all_gather(part, layout.others, tiled=True)
                           for part in (own, slopes))
        return _change_merged(*carried, own, slopes, change)

    # A row has all its gradients in one round: rounds are told apart by row number.
    table, state = jax.lax.fori_loop(0, traffic.rounds, serve, (table, state))
    return table, state, traffic


def _swap(layout: Layout, parts: Array) -> Array:
    """`[S, ...]`: part s goes to device s, and what device s sent here comes there."""
    if layout.shards == 1:
        return parts
    return jax.lax.all_to_all(parts, layout.rows, 0, 0, tiled=True)


def _agree_on_rounds(layout: Layout, once: Array, held: int) -> Traffic:
    """The fewest rounds, a power of two, in which no device is asked too much."""
    everywhere = (*layout.rows, *layout.others)
    real = once < layout.shards * held
    numbers = jnp.arange(len(once))

    def place_in_group(rounds: Array) -> Array:
        group = once // held * rounds + once % held % rounds
        group = jnp.sort(jnp.where(real, group, layout.shards * rounds))
        place = numbers - jnp.searchsorted(group, group)
        return jnp.where(group < layout.shards * rounds, place, 0)

    def fullest(rounds: Array) -> Array:
        return jax.lax.pmax(jnp.max(place_in_group(rounds)) + 1, everywhere)

    rounds, _ = jax.lax.while_loop(
        lambda state: state[1] > layout.capacity,
        lambda state: (2 * state[0], fullest(2 * state[0])),
        (jnp.int32(1), fullest(jnp.int32(1))))
    late = jnp.sum(place_in_group(jnp.int32(1)) >= layout.capacity, dtype=jnp.int32)
    return Traffic(jax.lax.psum(late, everywhere), rounds)


def _sent(layout: Layout, once: Array, held: int, turn: Array, rounds: Array
          ) -> tuple[Array, Array]:
    """What goes where in one round.

    Returns:
      For each distinct id its slot among the `shards x capacity` places, beyond them
      where it waits for another round, and the places `[S, capacity]` int32: the row on
      its device, `held` where a place is empty.
    """
    owner, row = once // held, once % held
    member = (owner < layout.shards) & (row % rounds == turn)
    before = jnp.cumsum(member) - member
    starts = jnp.searchsorted(owner, jnp.arange(layout.shards))
    count = before - before[starts[jnp.minimum(owner, layout.shards - 1)]]
    places = layout.shards * layout.capacity
    slot = jnp.where(member, owner * layout.capacity + count,
                     places + jnp.arange(len(once)))
    asked = jnp.full(places, held, jnp.int32).at[slot].set(
        row.astype(jnp.int32), mode="drop", unique_indices=True)
    return slot, asked.reshape(layout.shards, layout.capacity)
