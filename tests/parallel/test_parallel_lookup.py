"""Rows of a table that no device holds whole: exact, and the table never travels."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oxyrec_jax import parallel
from oxyrec_jax.parallel import lookup

ROWS, WIDTH = 64, 4
TABLE = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)
ALL = ("data", "fsdp", "expert", "table")
LAYOUTS = [((1, 1, 1, 1, 8), ("table",)), ((2, 1, 1, 1, 4), ("table",)),
           ((2, 2, 1, 1, 2), ALL)]


def layout(sizes, axes, capacity=0):
    return lookup.Layout(parallel.make_mesh(parallel.MeshConfig(*sizes)), axes,
                         capacity=capacity)


def make_ids(seed=0):
    """Some ids often, some unknown, some out of range."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(-1, ROWS + 2, (16, 3)).astype(np.int32)
    ids[:4] = rng.integers(0, 6, (4, 3))
    return ids


take = jax.jit(lookup.take_rows, static_argnums=2)


def add_gradient(rows, state, gradients):
    """Rows move by their gradient, the state counts how often they moved."""
    return rows + gradients, state + 1


@pytest.mark.parametrize("sizes, axes, capacity", [
    *((*LAYOUTS[0], capacity) for capacity in (0, 6, 1)), (*LAYOUTS[1], 1),
    (*LAYOUTS[2], 0), (*LAYOUTS[2], 1)], ids=str)
def test_rows_are_exact_and_gradients_reach_their_rows_once(sizes, axes, capacity):
    place, ids = layout(sizes, axes, capacity), make_ids()
    table = jax.device_put(TABLE, place.table_sharding)
    found, traffic = take(table, ids, place)
    known = (ids >= 0) & (ids < ROWS)
    np.testing.assert_array_equal(
        found, np.where(known[..., None], TABLE[np.where(known, ids, 0)], 0))
    gradients = np.random.default_rng(1).normal(size=(*ids.shape, WIDTH))
    dense = np.zeros((ROWS, WIDTH))
    np.add.at(dense, ids[known], gradients[known])
    touched = np.isin(np.arange(ROWS), ids[known]).astype(np.float32)
    new, count, back = jax.jit(
        lambda *given: lookup.update_rows(*given, place, add_gradient))(
            table, jax.device_put(np.zeros(ROWS, np.float32), place.table_sharding),
            ids, gradients.astype(np.float32))
    np.testing.assert_allclose(new, TABLE + dense, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(count, touched)  # once, however many rounds
    assert int(back.rounds) == int(traffic.rounds)
    assert (int(traffic.overflow) > 0) == (capacity == 1)
    assert (int(traffic.rounds) > 1) == (capacity == 1)


def test_overflow_and_rounds_by_hand():
    # Two devices of four rows. The first asks rows 0, 1, 3 of the first and 5 of the
    # second (0 twice), the second only row 6: with one place for each pair two ids are
    # late. Rows 1 and 3 are odd: two rounds leave them together, four part them.
    mesh = parallel.make_mesh(parallel.MeshConfig(1, table=2), jax.devices()[:2])
    place = lookup.Layout(mesh, capacity=1)
    table = jax.device_put(np.arange(8, dtype=np.float32)[:, None],
                           place.table_sharding)
    ids = np.array([0, 1, 3, 5, 0, 6, 6, 6, 6, -1], np.int32)
    found, traffic = take(table, ids, place)
    np.testing.assert_array_equal(found[:, 0], [0, 1, 3, 5, 0, 6, 6, 6, 6, 0])
    assert (int(traffic.overflow), int(traffic.rounds)) == (2, 4)
    _, wider = take(table, ids, lookup.Layout(mesh, capacity=2))
    assert (int(wider.overflow), int(wider.rounds)) == (1, 2)


def test_nobody_differentiates_a_table():
    place = layout(*LAYOUTS[0])
    with pytest.raises(TypeError, match="as large as the table"):
        jax.grad(lambda table: take(table, make_ids(), place)[0].sum())(TABLE)
    # What follows a look-up is differentiated as ever.
    slope = jax.grad(lambda scale: jnp.sum(take(TABLE, make_ids(), place)[0] * scale))
    known = make_ids()[(make_ids() >= 0) & (make_ids() < ROWS)]
    np.testing.assert_allclose(slope(2.0), TABLE[known].sum(), rtol=1e-4)


def test_spread_ids_keep_apart_and_none_is_lost():
    spread = np.asarray(lookup.spread_rows(jnp.arange(-1, 24), 24, 4))
    assert spread[0] == -1
    np.testing.assert_array_equal(np.sort(spread[1:]), np.arange(24))
    np.testing.assert_array_equal(spread[1:5] // 6, [0, 1, 2, 3])  # a device each


def test_distinct_by_hand():
    once, place = lookup.distinct(jnp.array([7, 2, 7, 9, 2]), 9)
    np.testing.assert_array_equal(once, [2, 7, 9, 9, 9])
    np.testing.assert_array_equal(place, [1, 0, 1, 2, 0])


@pytest.mark.parametrize("change, said", [
    (lambda: layout((1, 1, 1, 1, 8), ("tensor",)), "are not among"),
    (lambda: layout((1, 1, 1, 1, 8), ("table",), -1), "capacity=-1"),
    (lambda: lookup.take_rows(TABLE[:63], make_ids(), layout(*LAYOUTS[0])),
     "multiple of the 8 parts"),
    (lambda: lookup.take_rows(TABLE, make_ids()[:15], layout(*LAYOUTS[0])),
     "multiple of 8 parts"),
    (lambda: lookup.take_rows(TABLE, make_ids().astype(np.float32),
                              layout(*LAYOUTS[0])), "signed integers"),
    (lambda: lookup.update_rows(TABLE, TABLE, make_ids(), TABLE, layout(*LAYOUTS[0]),
                                add_gradient), "gradients.shape"),
    (lambda: lookup.spread_rows(make_ids(), 63, 8), "not a multiple of shards")],
    ids=range(7))
def test_what_does_not_fit_is_named(change, said):
    with pytest.raises(ValueError, match=said):
        change()


def test_padding_makes_equal_parts():
    assert [layout(*LAYOUTS[0]).padded(rows) for rows in (1, 8, 9)] == [8, 8, 16]


def moved(compiled):
    """Largest result of each kind of collective in a program, in elements."""
    found = {}
    for shapes, kind in re.findall(
            r"= (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all"
            r"|collective-permute)(?:-start)?\(", compiled.as_text()):
        sizes = [math.prod(int(size) for size in shape.split(",") if size)
                 for shape in re.findall(r"\w+\[([\d,]*)\]", shapes)]
        found[kind] = max([found.get(kind, 0), *sizes])
    return found


@pytest.mark.parametrize("sizes, axes, capacity", [
    (*LAYOUTS[0], 4), (*LAYOUTS[1], 0), (*LAYOUTS[1], 4), (*LAYOUTS[2], 0)], ids=str)
def test_no_collective_and_no_buffer_is_as_large_as_a_table(sizes, axes, capacity,
                                                            optimised):
    """The table is larger than what any device holds, with its state and its copies."""
    place = layout(sizes, axes, capacity)
    rows, width, batch = 2**15, 8, 32
    table = jax.ShapeDtypeStruct((rows, width), jnp.float32,
                                 sharding=place.table_sharding)
    state = jax.ShapeDtypeStruct((rows,), jnp.float32, sharding=place.table_sharding)
    ids = jax.ShapeDtypeStruct((batch,), jnp.int32,
                               sharding=parallel.batch_sharding(place.mesh))

    def step(table, state, ids):
        vectors, _ = lookup.take_rows(table, ids, place)
        slope = jax.grad(lambda rows: jnp.sum(rows**2))(vectors)
        return lookup.update_rows(table, state, ids, slope, place, add_gradient)[:2]

    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(table, state, ids).compile()
    found = moved(compiled)
    assert found, "no collective at all: the table is not sharded"
    # At most what all devices ask, far below a device's share of the table.
    assert max(found.values()) <= batch * width, found
    memory = compiled.memory_analysis()
    share = 4 * rows * (width + 1) // place.shards
    assert memory.argument_size_in_bytes < share + 4 * batch + 64
    assert memory.alias_size_in_bytes >= share  # changed in place
    assert memory.temp_size_in_bytes < share // 4, "a copy of the table"


def test_a_table_that_is_gathered_would_be_seen(optimised):
    place = layout(*LAYOUTS[0])
    whole = jax.jit(lambda table: table * 2, in_shardings=place.table_sharding,
                    out_shardings=parallel.replicated(place.mesh))
    assert moved(whole.lower(TABLE).compile())["all-gather"] == TABLE.size
