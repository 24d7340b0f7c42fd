"""Item vectors trained by rows: the curve of the dense step, and refusals."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tiny_world
from oxyrec_jax import parallel
from oxyrec_jax.base import InputError
from oxyrec_jax.models.tables import own_vectors
from oxyrec_jax.train import step as step_lib
from oxyrec_jax.train.align_settings import AlignConfig
from oxyrec_jax.train.objective import ObjectiveConfig, supervised_loss
from oxyrec_jax.train.sparse import RowsConfig, row_rule
from oxyrec_jax.train.step import OptimizerConfig

ITEMS, STEPS = 32, 3
CFG = OptimizerConfig(learning_rate=0.02, warmup=0, clip_norm=0.5,
                      rows=RowsConfig("adagrad", 0.1))
OBJECTIVE = ObjectiveConfig(item_loss=0.5, negatives=6)


class Run:
    """A small generator on some mesh."""

    def __init__(self, cfg=CFG, sizes=(1,), objective=OBJECTIVE, **options):
        devices = jax.devices()[:int(np.prod(sizes))]
        self.cfg, self.objective = cfg, objective
        self.mesh = parallel.make_mesh(parallel.MeshConfig(*sizes), devices)
        self.model = tiny_world.make_model(ITEMS, item_head=True, **options)
        self.catalogue = jax.device_put(tiny_world.make_items(ITEMS)[0],
                                        parallel.replicated(self.mesh))
        self.optimizer = step_lib.make_optimizer(cfg, 20)
        # Half of the items only, so that rows stand still.
        self.batches = [parallel.global_batch(tiny_world.make_batch(
            8, 6, items=ITEMS // 2, seed=seed), self.mesh) for seed in range(STEPS)]
        self.state, self.shardings = step_lib.init_state(
            self.model, self.optimizer, self.batches[0], self.catalogue, self.mesh,
            seed=0, ema=bool(cfg.ema))
        self.step = step_lib.make_train_step(
            self.model, self.optimizer, cfg, objective, self.mesh, self.shardings,
            seed=0)

    def curve(self):
        rows = []
        for batch in self.batches:
            self.state, figures = self.step(self.state, batch, self.catalogue)
            rows.append({name: float(value) for name, value in figures.items()})
        assert self.step._cache_size() == 1
        return rows


def dense_curve(run):
    """The same rules on whole tables and their dense gradients, on one device."""
    rule = row_rule(run.cfg.rows, b1=run.cfg.b1, b2=run.cfg.b2)
    rest = step_lib.make_optimizer(dataclasses.replace(
        run.cfg, rows=RowsConfig(), clip_norm=0.0), 20)
    params = jax.device_get(run.state.params)
    others = {name: leaf for name, leaf in params.items() if name != "item_vectors"}

    @jax.jit
    def step(others, table, moments, sums, batch, number):
        def total_of(params):
            rng = jax.random.fold_in(jax.random.key(0), number)
            total, _ = supervised_loss(run.model, params, batch, run.catalogue, rng,
                                       run.objective)
            return total.total, total
        slope, total = jax.grad(total_of, has_aux=True)({**others,
                                                         "item_vectors": table})
        slope = jax.tree.map(lambda leaf: leaf / total.weight, slope)
        norm = optax.tree.norm(slope)
        slope = jax.tree.map(
            lambda leaf: leaf * jnp.minimum(1, run.cfg.clip_norm / norm), slope)
        own = slope.pop("item_vectors")
        updates, moments = rest.update(slope, moments, others)
        rate = run.optimizer.rate(number)
        table, sums = rule.change(table, sums, own, rate=rate, step=number)
        return (optax.apply_updates(others, updates), table, moments, sums,
                total.mean(), norm)

    table, rows = params["item_vectors"], []
    moments, sums = rest.init(others), rule.init(table)
    for number, batch in enumerate(run.batches):
        others, table, moments, sums, loss, norm = step(
            others, table, moments, sums, jax.device_get(batch), number)
        rows.append({"loss": float(loss), "gradient_norm": float(norm)})
    return rows, table


@pytest.fixture(scope="module")
def expected():
    return dense_curve(Run())


@pytest.mark.parametrize("sizes", [(1,), (2, 1, 1, 1, 4)], ids=str)
def test_the_curve_is_the_dense_one_and_unread_rows_stand_still(expected, sizes):
    run = Run(sizes=sizes)
    start = np.asarray(run.state.params["item_vectors"])
    figures, table = expected
    for one, other in zip(run.curve(), figures, strict=True):
        for name, value in other.items():
            np.testing.assert_allclose(one[name], value, rtol=2e-4, err_msg=name)
    found = np.asarray(run.state.params["item_vectors"])
    np.testing.assert_allclose(found, table, rtol=1e-2, atol=2e-4)
    moved = (found != start).any(axis=1)
    assert moved[:ITEMS // 2].all() and not moved.all()  # negatives move a few more
    cut = run.state.params["item_vectors"].sharding
    assert cut.shard_shape(found.shape)[0] == ITEMS // run.mesh.shape["table"]


def test_no_array_of_a_step_is_a_dense_gradient():
    """On a table of many rows: neither a collective nor a temporary has its size."""
    run = Run(sizes=(1, 1, 1, 1, 2))
    rows, width = 2**16, run.model.cfg.width
    wide = jax.tree.map(
        lambda leaf, cut: jax.ShapeDtypeStruct(
            (rows, *leaf.shape[1:]) if leaf.shape[:1] == (ITEMS,) else leaf.shape,
            leaf.dtype, sharding=cut), run.state, run.shardings)
    tables = run.catalogue.tables
    many = dataclasses.replace(run.catalogue, tables=dataclasses.replace(
        tables, codes=jax.ShapeDtypeStruct((rows, 3), jnp.int32)),
        paths=jax.ShapeDtypeStruct((rows, 3), jnp.int32))
    step = step_lib.make_train_step(
        run.model.clone(items=rows), run.optimizer, run.cfg, run.objective, run.mesh,
        run.shardings, seed=0)
    compiled = step.lower(wide, run.batches[0], many).compile()
    share = 4 * rows * width // 2
    memory = compiled.memory_analysis()
    assert memory.alias_size_in_bytes > share
    assert memory.temp_size_in_bytes < share // 2
    moved = re.findall(r"= .*?\[(\d+),\d+\]\S* (?:all-gather|all-reduce)\(",
                       compiled.as_text())
    assert moved and max(map(int, moved)) < rows // 2


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["adam", "adam_by_row"])
def test_other_rules_micro_batches_and_averages_lower_the_loss(rule):
    run = Run(dataclasses.replace(CFG, rows=RowsConfig(rule), accumulate=2, ema=0.5))
    run.batches = run.batches[:1] * 4
    rows = run.curve()
    assert rows[-1]["level_0"] < rows[0]["level_0"]
    best = run.state.best_params()
    assert best.keys() == run.state.params.keys()
    assert best["item_vectors"] is run.state.params["item_vectors"]


def three_parts():
    return parallel.make_mesh(parallel.MeshConfig(1, table=3), jax.devices()[:3])


def test_an_item_that_is_not_held_is_never_taken_for_another():
    found = own_vectors(jnp.arange(6.0).reshape(3, 2), jnp.array([2, 3, 9, 10]),
                        jnp.array([2, 9, 32]))
    np.testing.assert_array_equal(
        found, [[0, 1], [np.nan] * 2, [2, 3], [np.nan] * 2])


@pytest.mark.parametrize("make, said", [
    (lambda: RowsConfig("sgd"), "rows.rule is 'sgd'"),
    (lambda: step_lib.make_optimizer(CFG, 9).init({}), "model.item_embedding=true"),
    (lambda: step_lib.make_optimizer(CFG, 9).shardings(
        {"item_vectors": jnp.zeros((32, 4))}, {}, three_parts()),
     "32 items cannot be cut into 3 equal parts"),
    (lambda: step_lib.items_of_step(
        tiny_world.make_model(item_head=True), {}, tiny_world.make_items()[0],
        jax.random.key(0), CFG, ObjectiveConfig(negatives=0)), "reads all 30 items"),
    (lambda: AlignConfig(optimizer=CFG), "align.optimizer.rows.rule is 'adagrad'")],
    ids=range(5))
def test_what_cannot_be_trained_by_rows_is_named(make, said):
    with pytest.raises(InputError, match=said):
        make()
