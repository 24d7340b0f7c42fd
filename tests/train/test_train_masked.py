"""Training of a masked decoder: its loss falls, its draws reach no gate."""

import jax
import numpy as np
import optax

import tiny_world
from oxyrec_jax.train.objective import ObjectiveConfig, supervised_loss

CFG = ObjectiveConfig()


def world(**options):
    model = tiny_world.make_model(decoding="masked", **options)
    catalogue, _ = tiny_world.make_items(successors=successors()
                                         if model.cfg.memory else None)
    return model, catalogue, tiny_world.make_params(model, catalogue.tables)


def successors():
    rng = np.random.default_rng(0)
    return tiny_world.count_successors(
        rng.integers(0, 30, 200), np.arange(0, 201, 10),
        np.array([(person, 1, 10) for person in range(20)]), num_items=30, most=6)


def test_the_loss_falls_and_is_that_of_what_was_drawn():
    model, catalogue, params = world()
    batch = tiny_world.make_batch()
    rule = optax.adam(1e-2)

    def loss(params, rng):
        total, terms = supervised_loss(model, params, batch, catalogue, rng, CFG)
        return total.mean(), (total, terms)

    def step(state, rng):
        params, moments = state
        gradient, found = jax.grad(loss, has_aux=True)(params, rng)
        updates, moments = rule.update(gradient, moments, params)
        return (optax.apply_updates(params, updates), moments), found

    keys = jax.random.split(jax.random.key(1), 60)
    total, terms = jax.jit(lambda params: jax.lax.scan(
        step, (params, rule.init(params)), keys)[1])(params)
    means = np.asarray(total.total / total.weight)
    assert means[-10:].mean() < 0.7 * means[:10].mean()
    # every target counts once, and the levels' parts are the whole
    assert (total.weight == batch["target_mask"].sum()).all()
    np.testing.assert_allclose(sum(term.total for term in terms.values()), total.total,
                               rtol=1e-5)


def test_the_weights_of_a_mixture_learn_from_one_pass_and_not_from_the_draws():
    model, catalogue, params = world(memory=True)
    batch = tiny_world.make_batch(rows=6)
    run = jax.jit(lambda key: supervised_loss(model, params, batch, catalogue, key,
                                              CFG))
    (_, one), (_, other) = (run(jax.random.key(seed)) for seed in (0, 1))
    assert one["mixture"].weight > 0
    np.testing.assert_allclose(one["mixture"].total, other["mixture"].total, rtol=1e-5)
    assert abs(one["level_0"].total - other["level_0"].total) > 1e-3
