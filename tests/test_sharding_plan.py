"""A plan says what a run then does: where parameters lie and how many bytes."""

import dataclasses

import jax
import pytest

import tiny_world
from oxyrec_jax import config, parallel, sharding_plan, workflow
from oxyrec_jax.base import InputError
from oxyrec_jax.data.pipeline import Pipeline
from oxyrec_jax.models.moe import MoEConfig
from oxyrec_jax.train import step as steps
from oxyrec_jax.train.sparse import RowsConfig
from oxyrec_jax.train.step import OptimizerConfig

LAID = "mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2"


@pytest.fixture(scope="module")
def space(trained):
    return workflow.open_workspace(trained, None, LAID)


@pytest.fixture(scope="module")
def found(space):
    return sharding_plan.plan(space)


def test_bytes_are_those_that_a_real_state_takes(space, found):
    ready = workflow.load(space)
    optimizer = steps.make_optimizer(space.cfg.train.optimizer, space.cfg.train.steps)
    mesh = parallel.make_mesh(space.cfg.mesh)
    state, _ = steps.init_state(ready.model, optimizer, tiny_world.make_batch(8, 12),
                                ready.catalogue, mesh, seed=0, ema=False)
    first = jax.devices()[0]

    def held(tree):
        return sum(shard.data.nbytes for leaf in jax.tree.leaves(tree)
                   for shard in leaf.addressable_shards if shard.device == first)
    assert found["bytes_per_device"]["parameters"] == held(state.params)
    assert found["bytes_per_device"]["optimizer"] == held(state.optimizer)
    assert found["total_parameters"] == sum(leaf.size for leaf in
                                            jax.tree.leaves(state.params))
    own = found["bytes_per_device"]
    assert own["total"] == sum(size for name, size in own.items() if name != "total")


def test_each_parameter_is_listed_with_the_axes_that_cut_it(found):
    rows = {one["name"]: one for one in found["parameters"]}
    assert rows["item_vectors"]["spec"] == ["tensor", "fsdp"]
    assert rows["item_vectors"]["bytes_per_device"] == 128 * 16 * 4 // 4
    assert rows["encoder_0/qkv/kernel"]["shape"] == [16, 48]
    assert found["mesh"] == {"data": 2, "fsdp": 2, "tensor": 2}
    assert found["devices"] == 8


def test_all_axes_send_something(found):
    kinds = {one["kind"] for one in found["collectives"]}
    assert {"all-gather", "all-reduce"} <= kinds
    assert found["collective_bytes"] == sum(one["bytes"] for one in
                                            found["collectives"])


def test_weak_scaling_sends_as_many_bytes_on_every_number_of_devices(trained):
    sent = []
    for devices in (2, 8):  # as many rows on each device
        space = workflow.open_workspace(trained, None, (
            f"mesh.data={devices}", f"train.pipeline.batch={2 * devices}"))
        sent.append(sharding_plan.plan(space)["collectives"])
    (two,), (eight,) = sent  # one sum of all gradients
    assert two["kind"] == eight["kind"] == "all-reduce"
    assert two["bytes"] == eight["bytes"]
    assert (two["devices"], eight["devices"]) == (2, 8)


def test_experts_and_a_table_of_made_up_items_need_no_data(tmp_path):
    """As `experiments/large.py` on a small scale: no device holds or sends a table."""
    cfg, items = config.Experiment(), 2_000_000
    model = dataclasses.replace(tiny_world.SMALL, moe=MoEConfig(experts=4, top_k=2))
    cfg = dataclasses.replace(
        cfg, tokenizer=dataclasses.replace(cfg.tokenizer, widths=(4, 3, 5)),
        model=model, train=dataclasses.replace(
            cfg.train, pipeline=Pipeline(batch=8, history=6, mode="last"),
            optimizer=OptimizerConfig(rows=RowsConfig("adagrad"))),
        mesh=parallel.MeshConfig(data=1, expert=2, table=2))
    space = workflow.open_workspace(tmp_path / "none", cfg)
    found = sharding_plan.plan(space, items=items)
    rows, own = {one["name"]: one for one in found["parameters"]}, (
        found["bytes_per_device"])
    assert found["devices"] == 4
    assert rows["item_vectors"]["shape"] == [items, 16]
    table = items * 16 * 4 // 2
    assert rows["item_vectors"]["bytes_per_device"] == table
    experts = [one for one in found["parameters"] if one["shape"][:1] == [4]]
    assert experts and all(one["spec"][0] == "expert" for one in experts)
    # Adagrad keeps one number for each row; Adam's two moments of all else are small.
    assert items * 4 // 2 < own["optimizer"] < items * 4 // 2 + own["parameters"] // 50
    assert own["catalogue"] > 2 * items * 3 * 4
    assert own["temporaries"] < table // 4
    assert max(one["largest"] for one in found["collectives"]) < table // 100
    assert "2,000,000 made-up items" in found["notes"][-1]
    with pytest.raises(InputError, match="--items N"):
        sharding_plan.plan(space)


def test_what_cannot_be_planned_is_named(space, trained):
    with pytest.raises(InputError, match="batch is 8, which the mesh cuts into 3"):
        sharding_plan.plan(workflow.open_workspace(trained, None, ("mesh.data=3",)))
    with pytest.raises(InputError, match="needs 64 devices"):
        sharding_plan.simulate(parallel.MeshConfig(data=64))
