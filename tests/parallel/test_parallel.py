"""Meshes that fit, and no parameter cut by accident."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec

import tiny_world
from oxyrec_jax import parallel
from oxyrec_jax.base import InputError


def mesh(data=2, fsdp=2, tensor=2):
    return parallel.make_mesh(parallel.MeshConfig(data, fsdp, tensor))


def boxed(names, shape=(4, 4)):
    return {"layer": nn.LogicallyPartitioned(jax.ShapeDtypeStruct(shape, jnp.float32),
                                             names)}


def test_data_takes_the_devices_that_are_left():
    rest = {"expert": 1, "table": 1}
    assert dict(mesh(0, 2, 1).shape) == {"data": 4, "fsdp": 2, "tensor": 1, **rest}
    assert dict(parallel.make_mesh().shape) == {"data": 8, "fsdp": 1, "tensor": 1,
                                                **rest}


@pytest.mark.parametrize("data, fsdp, tensor, said", [
    (3, 1, 1, "needs 3 devices, found 8"), (0, 3, 1, "needs 6 devices, found 8"),
    (0, 16, 1, "needs 16 devices, found 8"), (1, 0, 1, "at least 1"),
    (-1, 1, 1, "at least 1")])
def test_a_mesh_that_does_not_fit_is_named(data, fsdp, tensor, said):
    with pytest.raises(InputError, match=said):
        mesh(data, fsdp, tensor)


def test_a_mesh_is_read_from_the_command_line():
    assert parallel.parse_mesh("data=2, fsdp=4") == {"data": 2, "fsdp": 4}


@pytest.mark.parametrize("text", ["data", "data=", "rows=2", "data=2,data=2",
                                  "data=two", "fsdp=-1", ""])
def test_a_mesh_that_cannot_be_read_is_named(text):
    with pytest.raises(InputError, match="such as data=2,fsdp=2"):
        parallel.parse_mesh(text)


def test_every_axis_but_tensor_has_its_share_of_the_batch():
    laid = parallel.make_mesh(parallel.MeshConfig(tensor=2, expert=2, table=2))
    assert parallel.batch_parts(laid) == 4


def test_axes_lie_where_the_rules_say():
    found = parallel.param_shardings(boxed(("embed", "mlp")), mesh())
    assert found["layer"].spec == PartitionSpec("fsdp", "tensor")
    found = parallel.param_shardings(boxed(("embed", "mlp")), mesh(),
                                     {"embed": None, "mlp": "data"})
    assert found["layer"].spec == PartitionSpec(None, "data")


@pytest.mark.parametrize("tree, said", [
    (boxed(("embed", "unheard")), "no rule for logical axis 'unheard'"),
    (boxed(("mlp", "heads")), "use mesh axis 'tensor' twice"),
    (boxed(("embed", "mlp"), (4, 5)), "'mlp' of 5 is not a multiple of mesh axis 'ten"),
    ({"layer": jax.ShapeDtypeStruct((4,), jnp.float32)}, "names no logical axes")])
def test_a_parameter_that_no_rule_fits_is_named(tree, said):
    with pytest.raises(ValueError, match=f"parameter .*layer.*{said}"):
        parallel.param_shardings(tree, mesh())


def test_every_parameter_of_every_network_has_a_place():
    model = tiny_world.make_model(memory=True, item_head=True, tied=False)
    catalogue, _ = tiny_world.make_items(
        features=4, successors=tiny_world.count_successors(
            np.arange(4), np.array([0, 4]), np.array([[0, 1, 4]]), num_items=30,
            most=2))
    abstract = jax.eval_shape(lambda: model.init(
        jax.random.key(0), tiny_world.make_batch(), catalogue.tables)["params"])
    found = parallel.param_shardings(abstract, mesh())
    cut = {jax.tree_util.keystr(path): leaf.spec
           for path, leaf in jax.tree.leaves_with_path(found)}
    assert cut["['item_vectors']"] == PartitionSpec("tensor", "fsdp")
    assert cut["['encoder_0']['qkv']['kernel']"] == PartitionSpec("fsdp", "tensor")


def test_a_batch_is_cut_over_data_and_fsdp_and_comes_back():
    rows = {"items": np.arange(24, dtype=np.int32).reshape(8, 3)}
    found = parallel.global_batch(rows, mesh())["items"]
    np.testing.assert_array_equal(found, rows["items"])
    assert {shard.data.shape for shard in found.addressable_shards} == {(2, 3)}
