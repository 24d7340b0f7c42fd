"""Sparse optimisers beside the dense ones, and a two-tower step on tables in parts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from oxyrec_jax import parallel
from oxyrec_jax.parallel import lookup
from oxyrec_jax.train import rows

USERS, ITEMS, WIDTH, BATCH, STEPS = 40, 64, 4, 16, 5


def layout(*sizes, capacity=0):
    devices = jax.devices()[:int(np.prod(sizes))]
    mesh = parallel.make_mesh(parallel.MeshConfig(*sizes), devices)
    return lookup.Layout(mesh, capacity=capacity)


def test_adagrad_by_hand():
    # Mean squares of (3, 4) are 12.5; on top of 3.5 they make 16, the root 4.
    new, total = rows.RowAdagrad(epsilon=0.0).change(
        jnp.array([[1.0, 1.0]]), jnp.array([3.5]), jnp.array([[3.0, 4.0]]),
        rate=0.4, step=0)
    np.testing.assert_allclose(new, [[1 - 0.4 * 3 / 4, 1 - 0.4]], rtol=1e-6)
    np.testing.assert_allclose(total, [16.0])


def test_adam_of_rows_that_are_always_touched_is_adam():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(6, WIDTH)).astype(np.float32)
    rule, dense = rows.RowAdam(0.9, 0.98), optax.adam(0.1, 0.9, 0.98)
    mine, state = jnp.array(table), rule.init(jnp.array(table))
    other, moments = jnp.array(table), dense.init(jnp.array(table))
    for step in range(4):
        slope = jnp.array(rng.normal(size=table.shape), jnp.float32)
        mine, state = rule.change(mine, state, slope, rate=0.1, step=jnp.int32(step))
        updates, moments = dense.update(slope, moments)
        other = optax.apply_updates(other, updates)
    np.testing.assert_allclose(mine, other, rtol=2e-5)


def test_adam_by_row_shares_one_mean_square():
    rule = rows.RowAdam(by_row=True, epsilon=0.0)
    table = jnp.zeros((2, 2))
    assert [leaf.shape for leaf in rule.init(table)] == [(2, 2), (2,)]
    # In the first step the moments are the gradient and its mean square, 12.5.
    new, _ = rule.change(table[:1], (table[:1], jnp.zeros(1)), jnp.array([[3.0, 4.0]]),
                         rate=1.0, step=jnp.int32(0))
    np.testing.assert_allclose(new, [[-3 / 12.5**0.5, -4 / 12.5**0.5]], rtol=1e-5)


def dense_oracle(rule, table, batches, rate):
    """The rule in NumPy float64, row after row; dense gradients, summed by hand."""
    table, count = table.astype(np.float64), np.zeros(len(table))
    first, second = np.zeros_like(table), np.zeros_like(table)
    for step, (ids, slopes) in enumerate(batches):
        for row in np.unique(ids):
            slope = slopes[ids == row].sum(0)
            count[row] += np.mean(slope**2)
            if isinstance(rule, rows.RowAdagrad):
                table[row] -= rate * slope / (np.sqrt(count[row]) + rule.epsilon)
                continue
            squares = np.mean(slope**2) if rule.by_row else slope**2
            first[row] = rule.b1 * first[row] + (1 - rule.b1) * slope
            second[row] = rule.b2 * second[row] + (1 - rule.b2) * squares
            root = np.sqrt(second[row] / (1 - rule.b2**(step + 1))) + rule.epsilon
            table[row] -= rate * first[row] / (1 - rule.b1**(step + 1)) / root
    return table


@pytest.mark.parametrize("rule", [rows.RowAdagrad(), rows.RowAdam(),
                                  rows.RowAdam(by_row=True)], ids=str)
@pytest.mark.parametrize("sizes, capacity", [((1,), 0), ((2, 1, 1, 1, 4), 2)], ids=str)
def test_touched_rows_follow_the_rule_and_others_stay(rule, sizes, capacity):
    place, rng = layout(*sizes, capacity=capacity), np.random.default_rng(1)
    start = rng.normal(size=(ITEMS, WIDTH)).astype(np.float32)
    batches = [(rng.integers(0, ITEMS // 2, BATCH).astype(np.int32),
                rng.normal(size=(BATCH, WIDTH)).astype(np.float32)) for _ in range(3)]
    batches[1] = (np.full(BATCH, 5, np.int32), batches[1][1])  # one row, often
    shape = jax.ShapeDtypeStruct(start.shape, jnp.float32)
    table = jax.device_put(start, place.table_sharding)
    state = jax.jit(rule.init, out_shardings=rows.state_shardings(rule, shape, place))(
        table)
    update = jax.jit(functools.partial(rows.update_table, rule, layout=place, rate=0.1),
                     donate_argnums=(0, 1))
    for step, (ids, slopes) in enumerate(batches):
        table, state, _ = update(table, state, ids, slopes, step=step)
    np.testing.assert_allclose(table, dense_oracle(rule, start, batches, 0.1),
                               rtol=1e-4, atol=2e-5)
    np.testing.assert_array_equal(np.asarray(table)[ITEMS // 2:], start[ITEMS // 2:])


class TwoTowers:
    """Users and items, a row each; a small network on the users' side."""

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        self.tables = {"users": rng.normal(size=(USERS, WIDTH)).astype(np.float32),
                       "items": rng.normal(size=(ITEMS, WIDTH)).astype(np.float32)}
        self.kernel = rng.normal(size=(WIDTH, WIDTH)).astype(np.float32)
        self.batches = [{"users": rng.integers(0, USERS, BATCH).astype(np.int32),
                         "items": rng.integers(0, ITEMS, BATCH).astype(np.int32)}
                        for _ in range(STEPS)]

    @staticmethod
    def loss(kernel, vectors):
        """Every item of the batch is a negative of the others."""
        scores = jnp.tanh(vectors["users"] @ kernel) @ vectors["items"].T
        return -jnp.mean(jnp.diag(jax.nn.log_softmax(scores)))

    def sparse_curve(self, rule, place):
        """Losses where tables are cut over devices and touched rows alone move."""
        def step(state, batch):
            number, kernel, tables, sums = state
            vectors = {name: lookup.take_rows(table, batch[name], place)[0]
                       for name, table in tables.items()}
            loss, (slope, slopes) = jax.value_and_grad(self.loss, (0, 1))(kernel,
                                                                          vectors)
            moved = {name: rows.update_table(
                rule, tables[name], sums[name], batch[name], slopes[name], place,
                rate=0.5, step=number) for name in tables}
            return (number + 1, kernel - 0.1 * slope,
                    {name: new[0] for name, new in moved.items()},
                    {name: new[1] for name, new in moved.items()}), loss

        tables = jax.device_put(self.tables, place.table_sharding)
        sums = jax.device_put(jax.tree.map(rule.init, tables), place.table_sharding)
        whole = parallel.replicated(place.mesh)
        state = (*jax.device_put((jnp.int32(0), self.kernel), whole), tables, sums)
        run = jax.jit(step, donate_argnums=0, out_shardings=(
            (whole, whole, place.table_sharding, place.table_sharding), whole))
        losses = []
        for batch in self.batches:
            state, loss = run(state, parallel.global_batch(batch, place.mesh))
            losses.append(float(loss))
        assert run._cache_size() == 1
        return losses, state[2]

    def dense_curve(self, rule):
        """The same rule on whole tables with gradients as large as they are."""
        @jax.jit
        def step(kernel, tables, sums, batch, number):
            def whole(kernel, tables):
                return self.loss(kernel, {name: table[batch[name]]
                                          for name, table in tables.items()})
            loss, (slope, slopes) = jax.value_and_grad(whole, (0, 1))(kernel, tables)
            moved = {name: rule.change(tables[name], sums[name], slopes[name],
                                       rate=0.5, step=number) for name in tables}
            return (kernel - 0.1 * slope, {name: new[0] for name, new in moved.items()},
                    {name: new[1] for name, new in moved.items()}, loss)

        kernel, tables = self.kernel, self.tables
        sums, losses = jax.tree.map(rule.init, tables), []
        for number, batch in enumerate(self.batches):
            kernel, tables, sums, loss = step(kernel, tables, sums, batch, number)
            losses.append(float(loss))
        return losses, tables


@pytest.mark.parametrize("sizes, capacity", [
    ((1,), 0), ((1, 1, 1, 1, 8), 0), ((2, 1, 1, 1, 4), 1), ((2, 2, 1, 1, 2), 4)],
    ids=str)
def test_a_two_tower_run_is_the_dense_one(sizes, capacity):
    towers, rule = TwoTowers(), rows.RowAdagrad()
    found, tables = towers.sparse_curve(rule, layout(*sizes, capacity=capacity))
    expected, whole = towers.dense_curve(rule)
    np.testing.assert_allclose(found, expected, rtol=2e-5)
    for name, table in tables.items():
        np.testing.assert_allclose(table, whole[name], rtol=1e-3, atol=1e-5)
    assert found[0] != found[-1]
