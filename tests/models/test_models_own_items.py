"""Own items as a distribution: by hand, against NumPy float64, and what moves it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import tiny_world
from oxyrec_jax import parallel
from oxyrec_jax.base import InputError
from oxyrec_jax.models.memory import weigh
from oxyrec_jax.models.own_items import OwnItems
from oxyrec_jax.train.step import OptimizerConfig

CODES = np.arange(30) % 4  # first code of each item
BEGIN = {"fade": np.log([0.98 / 0.02]), "trust": np.zeros(1),
         "share": np.array([-3, 0.5])}


def ask(batch, log_probs=None, by="requests", **params):
    """Pointer and odds of one program; the numbers begin as they do in training."""
    positions = batch["target_positions"]
    if log_probs is None:
        log_probs = jnp.full((*positions.shape, 4), -np.log(4))
    params = {**BEGIN, **params}
    return OwnItems(by).apply(
        {"params": {name: jnp.asarray(x, jnp.float32) for name, x in params.items()}},
        jax.tree.map(jnp.asarray, batch), jnp.asarray(CODES), log_probs)


def summed(pointer):
    """`[B, J, N]` float64: the probability of each item."""
    items, weights = (np.asarray(part) for part in (pointer.items, pointer.weights))
    total = np.zeros((*items.shape[:2], 30))
    for place in np.ndindex(items.shape):
        total[(*place[:2], items[place])] += weights[place]
    return total


BASKETS = {"items": np.array([[7, 8, 7, 9, 8, 5, 0]]),
           "segments": np.array([[1, 1, 1, 1, 1, 2, 0]]),
           "opens": np.array([[1, 0, 1, 0, 1, 1, 0]]),  # {7, 8}, {7, 9}, {8} | {5}
           "target_positions": np.array([[1, 3, 4, 5, 6]])}


def test_baskets_by_hand():
    found, odds = ask(BASKETS, fade=[0.0])  # a basket counts half of the one after it
    np.testing.assert_allclose(summed(found)[0][:, [5, 7, 8, 9]], [
        [0, 1 / 2, 1 / 2, 0], [0, 1.5 / 3, 0.5 / 3, 1 / 3],
        [0, 0.75 / 2.5, 1.25 / 2.5, 0.5 / 2.5], [1, 0, 0, 0], [0, 0, 0, 0]],
        rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found.heard[0], np.log1p([2, 4, 5, 1, 0]), rtol=1e-6)
    np.testing.assert_allclose(odds, -3 + 0.5 * found.heard, rtol=1e-6)


def test_events_fade_one_after_the_other_where_requests_are_not_asked_for():
    batch = {name: rows for name, rows in BASKETS.items() if name != "opens"}
    total = summed(ask(batch, by="events", fade=[0.0])[0])[0, 2, [5, 7, 8, 9]]
    expected = np.array([0, 1 / 16 + 1 / 4, 1 / 8 + 1, 1 / 2])
    np.testing.assert_allclose(total, expected / expected.sum(), rtol=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_packed_rows_equal_float64(seed):
    rng = np.random.default_rng(seed)
    batch = tiny_world.make_batch(3, 12, seed=seed)
    batch["items"] = batch["items"] % 6 * (batch["segments"] > 0)
    batch["opens"] = (rng.random((3, 12)) < 0.4).astype(np.float32)
    # Targets of a basket look back to before it, but not beyond their own history.
    ordinal = np.array([[np.sum(row[:p] == row[p]) for p in range(12)]
                        for row in batch["segments"]])
    batch["target_positions"] -= np.minimum(rng.integers(0, 4, (3, 12)), ordinal
                                            ).astype(np.int32)
    scores = np.asarray(jax.nn.log_softmax(rng.normal(size=(3, 12, 4))), np.float64)
    fade, trust = 0.7, 0.4
    found, _ = ask(batch, jnp.asarray(scores, jnp.float32),
                   fade=[np.log(fade / (1 - fade))], trust=[trust])
    total = summed(found)
    for row, target in np.ndindex(3, 12):
        expected = np.zeros(30)
        newest = batch["target_positions"][row, target]
        for place in range(newest + 1):
            if batch["segments"][row, place] == batch["segments"][row, newest] > 0:
                back = batch["opens"][row, place + 1:newest + 1].sum()
                item = batch["items"][row, place]
                expected[item] += fade ** back * np.exp(
                    trust * scores[row, target, CODES[item]])
        expected /= max(expected.sum(), 1e-30)
        np.testing.assert_allclose(total[row, target], expected, rtol=2e-5, atol=1e-7)


def test_what_a_target_may_not_see_changes_nothing():
    changed = {name: rows.copy() for name, rows in BASKETS.items()}
    changed["items"][0, [4, 5, 6]] = 21
    changed["opens"][0, [4, 5, 6]] = 1 - changed["opens"][0, [4, 5, 6]]
    one, other = (summed(ask(batch)[0])[0, :2] for batch in (BASKETS, changed))
    np.testing.assert_array_equal(one, other)


def test_a_likelihood_of_older_items_slows_the_fade_and_moves_no_network():
    def cost(fade, log_probs, item):
        found, _ = ask(BASKETS, log_probs, fade=fade, trust=jnp.array([0.5]))
        return jnp.log(jnp.sum(jnp.where(found.items[0, 2] == item,
                                         found.weights[0, 2], 0)))
    log_probs = jnp.full((1, 5, 4), -np.log(4))
    slope = jax.jit(jax.grad(cost, argnums=(0, 1)))
    fade = jnp.array([1.0])
    old, network = slope(fade, log_probs, 7)  # stands in the two older baskets
    new, _ = slope(fade, log_probs, 8)
    assert old[0] > 1e-3 and new[0] < -1e-3
    assert (network == 0).all()


@pytest.mark.parametrize("trust", [0.5, -0.5])
def test_items_behind_an_impossible_code_are_left_out(trust):
    log_probs = jnp.full((1, 5, 4), -np.log(3)).at[..., CODES[7]].set(-jnp.inf)
    total = summed(ask(BASKETS, log_probs, trust=[trust])[0])[0, 2]
    assert total[7] == 0 and (total[[8, 9]] > 0).all()
    np.testing.assert_allclose(total.sum(), 1, rtol=1e-6)


def test_the_share_begins_small_and_a_history_of_nothing_has_none():
    model = tiny_world.make_model(own="requests", dropout=0.0)
    catalogue, _ = tiny_world.make_items()
    variables = OwnItems("requests").init(
        jax.random.key(0), jax.tree.map(jnp.asarray, BASKETS), jnp.asarray(CODES),
        jnp.zeros((1, 5, 4)))
    for name, value in nn.unbox(variables)["params"].items():
        np.testing.assert_allclose(value, BEGIN[name], rtol=1e-6)
    found, odds = ask(BASKETS)
    shares = np.exp(weigh(jnp.zeros((1, 5, 2)).at[..., 1].add(odds), (found,)))
    np.testing.assert_allclose(shares[0, 2, 1], 1 / (1 + np.exp(3) / 6 ** 0.5),
                               rtol=1e-5)
    np.testing.assert_array_equal(shares[0, 4], [1, 0])
    batch = {**tiny_world.make_batch(), "opens": np.ones((2, 10), np.float32)}
    params = tiny_world.init_params(model, batch, catalogue.tables)
    assert {"own_items", "gate", "gate_bias", "sharpness"} <= params.keys()
    assert model.columns == ("opens",) and "opens" in model.reads


def test_what_b_counts_is_one_of_three():
    with pytest.raises(InputError, match="model.own is 'baskets', expected 'none', "):
        tiny_world.make_model(own="baskets")


@pytest.mark.slow
def test_eight_devices_learn_what_one_learns():
    found = []
    for sizes in ((1,), (8,), (2, 2, 2)):
        mesh = parallel.make_mesh(parallel.MeshConfig(*sizes),
                                  jax.devices()[:int(np.prod(sizes))])
        batch = tiny_world.make_batch(8, 6, items=32)
        batch["opens"] = np.float32(np.random.default_rng(0).random((8, 6)) < 0.5)
        step, state, batch, catalogue = tiny_world.make_step(
            tiny_world.make_model(32, own="requests"), OptimizerConfig(
                learning_rate=0.02, warmup=0), mesh, batch, items=32)
        found.append([])
        for _ in range(2):
            state, figures = step(state, batch, catalogue)
            found[-1].append({name: float(value) for name, value in figures.items()})
    for other in found[1:]:
        for one, expected in zip(other, found[0], strict=True):
            assert one["mixture"] > 0 and one.keys() == expected.keys()
            for name, value in expected.items():
                np.testing.assert_allclose(one[name], value, rtol=5e-4, atol=1e-6)
