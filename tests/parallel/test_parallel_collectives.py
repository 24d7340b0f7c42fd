"""Collectives are read from the text of compiled programs, loops included."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from oxyrec_jax import parallel
from oxyrec_jax.parallel.collectives import Collective, collectives

ROWS, WIDTH = 16, 8


def compiled(function, *specs):
    """The text of a program over 2 x 4 devices, each argument `[16, 8]` float32."""
    mesh = parallel.make_mesh(parallel.MeshConfig(data=2, fsdp=4))
    lie = [NamedSharding(mesh, spec) for spec in specs]
    shapes = [jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32)] * (len(specs) - 1)
    run = jax.jit(functools.partial(function, mesh), in_shardings=tuple(lie[:-1]),
                  out_shardings=lie[-1])
    return run.lower(*shapes).compile().as_text()


def moved(mesh, x):
    return x


@pytest.mark.parametrize("axis, devices, count", [("fsdp", 4, 1), ("data", 2, 1)])
def test_a_gather_counts_what_each_device_gets(axis, devices, count):
    text = compiled(moved, PartitionSpec(axis), PartitionSpec())
    size = ROWS * WIDTH * 4
    assert collectives(text) == [Collective("all-gather", devices, count, size, size)]


def test_a_sum_over_devices_counts_its_array():
    text = compiled(lambda mesh, x: jnp.sum(x, axis=0), PartitionSpec("fsdp"),
                    PartitionSpec())
    assert collectives(text) == [Collective("all-reduce", 4, 1, WIDTH * 4, WIDTH * 4)]


def test_a_collective_in_a_loop_counts_each_turn():
    def looped(mesh, x):
        def turn(total, _):
            cut = jax.lax.with_sharding_constraint(
                total * 2, NamedSharding(mesh, PartitionSpec("fsdp")))
            return jax.lax.with_sharding_constraint(
                jnp.sin(cut), NamedSharding(mesh, PartitionSpec())), None
        return jax.lax.scan(turn, x, None, length=5)[0]
    found = collectives(compiled(looped, PartitionSpec(), PartitionSpec()))
    size = ROWS * WIDTH * 4  # five turns, and the result, which XLA gathers last
    assert found == [Collective("all-gather", 4, 6, 6 * size, size)]


def test_what_goes_into_a_reduce_scatter_counts():
    text = ("ENTRY %main (x: f32[16,8]) -> f32[4,8] {\n"
            "  %r = f32[4,8]{1,0} reduce-scatter(%x), replica_groups=[2,4]<=[8], "
            "dimensions={0}\n  %g = (bf16[2,8]{1,0}, bf16[8,8]{1,0}) "
            "all-gather-start(%r), replica_groups={{0,1,2,3},{4,5,6,7}}\n"
            "  %h = bf16[8,8]{1,0} all-gather-done(%g)\n}\n")
    assert collectives(text) == [Collective("reduce-scatter", 4, 1, 512, 512),
                                 Collective("all-gather", 4, 1, 128, 128)]


@pytest.mark.parametrize("groups, devices", [
    ("{{0,1,2,3},{4,5,6,7}}", 4), ("[4,2]<=[8]", 2), ("[2,4]<=[4,2]T(1,0)", 4),
    ("mesh['a'=4,'b'=1,'c'=2], device_ids=([2,4]T(1,0)) {'a'}", 4),
    ("mesh['a'=4,'c'=2] {'a','c'}", 8), ("mesh['a'=4,'c'=2] {'a':(1)2,'c'}", 4),
    ("", 0)])
def test_the_size_of_a_group_is_read_in_each_way_of_writing(groups, devices):
    text = f"ENTRY %m (x: f32[2]) -> f32[2] {{\n  %r = f32[2]{{0}} all-reduce(%x), " \
           f"channel_id=1, replica_groups={groups}, use_global_device_ids=true\n}}"
    assert collectives(text)[0].devices == devices


def test_a_program_of_one_device_sends_nothing():
    text = jax.jit(jnp.sin).lower(jnp.zeros(3)).compile().as_text()
    assert collectives(text) == []
