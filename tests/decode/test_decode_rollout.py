"""Groups for the aligner: what is drawn, what is logged, and how probable each is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny_world
from oxyrec_jax.decode import rollout, sampling
from oxyrec_jax.decode.recommend import recommend

ITEMS, WIDTHS = 12, (3, 2, 4)
code_log_probs = jax.jit(rollout.code_log_probs, static_argnums=0,
                         static_argnames="normalise")


@pytest.fixture(scope="module")
def world():
    model = tiny_world.make_model(ITEMS, WIDTHS)
    catalogue, leaves = tiny_world.make_items(ITEMS, WIDTHS, distinct=True)
    lengths = np.array([4, 3, 1])
    batch = {"items": np.array([[3, 1, 1, 7, 0], [5, 5, 2, 0, 0], [11, 0, 0, 0, 0]],
                               np.int32),
             "segments": (np.arange(5)[None] < lengths[:, None]).astype(np.int32),
             "target_positions": lengths[:, None].astype(np.int32) - 1}
    return (model, catalogue, leaves, tiny_world.make_params(model, catalogue.tables),
            batch)


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_codes_are_as_probable_as_the_search_says(world, temperature):
    model, catalogue, leaves, params, batch = world
    found = recommend(model, params, batch, catalogue, beams=ITEMS,
                      sampling=sampling.Sampling(
                          sampling.request_keys(jax.random.key(0), 3), temperature))
    items = rollout.first_items(leaves)[found.leaves]
    each = code_log_probs(model, params, batch, catalogue, items,
                          temperature=temperature)
    assert each.shape == (3, ITEMS, 3)
    np.testing.assert_allclose(each.sum(-1), found.log_probs, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.exp(each.sum(-1)).sum(1), 1, rtol=1e-5)


def test_over_the_whole_codebook_illegal_codes_keep_their_share(world):
    model, catalogue, leaves, params, batch = world
    items = jnp.broadcast_to(jnp.arange(ITEMS), (3, ITEMS))
    legal, full = (code_log_probs(model, params, batch, catalogue, items,
                                  normalise=how) for how in ("legal", "full"))
    assert (full <= legal + 1e-6).all() and (full < legal - 1e-3).any()
    assert (np.exp(full.sum(-1)).sum(1) < 1).all()
    with pytest.raises(ValueError, match="normalise"):
        rollout.code_log_probs(model, params, batch, catalogue, items, normalise="no")


def test_only_the_policy_receives_a_gradient_and_it_reaches_the_encoder(world):
    model, catalogue, leaves, params, batch = world
    items = jnp.zeros((3, 2), jnp.int32)

    @jax.jit
    @jax.grad
    def slope_of(params):
        return rollout.code_log_probs(model, params, batch, catalogue, items).sum()
    slope = slope_of(params)
    norms = jax.tree.map(lambda leaf: float(jnp.abs(leaf).max()), slope)
    assert norms["encoder_0"]["mlp"] and max(jax.tree.leaves(norms["encoder_0"])) > 0
    assert max(jax.tree.leaves(norms["decoder_0"])) > 0


def joined(drawn, logged, leaf_of, preferred):
    """The definition in plain Python, one request."""
    real, seen = [], set()
    for item in logged:
        if item >= 0 and leaf_of[item] >= 0 and leaf_of[item] not in seen:
            seen.add(leaf_of[item])
            real.append(item)
    kept = [preferred[leaf] for leaf in drawn if leaf not in seen]
    kept = kept[:len(drawn) - len(real)]
    return kept + real, [True] * len(kept) + [False] * len(real)


def test_logged_items_take_the_places_of_the_last_drawn():
    rng = np.random.default_rng(0)
    leaf_of = np.array([0, 0, 1, 2, 3, 4, 4, 5, 6, 7, -1])  # two pairs; one retired
    preferred = np.array([1, 2, 3, 4, 6, 7, 8, 9])
    drawn = np.stack([rng.permutation(8)[:5] for _ in range(200)])
    logged = rng.integers(-1, 11, (200, 3))
    found = rollout.join_logged(*map(jnp.asarray, (drawn, logged, leaf_of, preferred)))
    for row in range(200):
        items, synthetic = joined(drawn[row], logged[row], leaf_of, preferred)
        assert found.items[row].tolist() == items
        assert found.synthetic[row].tolist() == synthetic
        assert len({leaf_of[item] for item in items}) == 5


def test_a_group_holds_what_was_logged_and_differs_with_the_key(world):
    model, catalogue, leaves, params, batch = world
    preferred = rollout.first_items(leaves)
    logged = jnp.array([[4, -1], [5, 9], [-1, -1]])

    @jax.jit
    def draw(keys):
        return rollout.roll_out(model, params, batch, catalogue, preferred, logged,
                                group=6, sampling=sampling.Sampling(keys))
    first, again, other = (draw(sampling.request_keys(jax.random.key(seed), 3))
                           for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.items, again.items)
    assert (first.items != other.items).any()
    assert first.synthetic.sum(1).tolist() == [5, 4, 6]
    assert first.items[0, 5] == 4 and first.items[1, 4:].tolist() == [5, 9]
    best = jax.jit(lambda params: rollout.roll_out(
        model, params, batch, catalogue, preferred, logged[:, :0], group=6,
        sampling=None))(params)
    assert best.synthetic.all()
    with pytest.raises(ValueError, match="at most"):
        rollout.roll_out(model, params, batch, catalogue, preferred, logged, group=1,
                         sampling=None)
