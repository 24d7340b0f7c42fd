"""The terms of the loss against NumPy, and what each of them may move."""

import jax
import numpy as np
import pytest

import tiny_world
from oxyrec_jax.base import InputError
from oxyrec_jax.train import objective
from oxyrec_jax.train.objective import ObjectiveConfig, supervised_loss


def world(**options):
    model = tiny_world.make_model(**options)
    successors = None
    if model.cfg.memory:
        rng = np.random.default_rng(0)
        successors = tiny_world.count_successors(
            rng.integers(0, 30, 200), np.arange(0, 201, 10),
            np.array([(s, 1, 10) for s in range(20)]), num_items=30, most=6)
    catalogue, _ = tiny_world.make_items(successors=successors)
    return model, catalogue, tiny_world.make_params(model, catalogue.tables)


program = jax.jit(supervised_loss, static_argnums=(0, 5))


def loss_of(model, params, batch, catalogue, cfg=ObjectiveConfig(), seed=0):
    return program(model, params, batch, catalogue, jax.random.key(seed), cfg)


def log_softmax(x):
    return x - np.log(np.exp(x).sum())


@pytest.mark.parametrize("legal, head", [(True, "level"), (False, "level"),
                                         (True, "shared"), (False, "shared")])
def test_the_likelihood_of_each_level_equals_numpy(legal, head):
    model, catalogue, params = world(legal_softmax=legal, head=head)
    batch = tiny_world.make_batch()
    batch["target_mask"][0, 1] = False
    logits, _ = tiny_world.forward(model, params, batch, catalogue.tables)
    codes = np.asarray(catalogue.tables.codes)
    expected = np.zeros(3)
    for row, place in np.argwhere(batch["target_mask"]):
        target = codes[batch["targets"][row, place]]
        for level in range(3):
            scores = np.asarray(logits[level][row, place], np.float64)
            start = model.starts[level] if head == "shared" else 0
            if legal:
                same = (codes[:, :level] == target[:level]).all(1)
                allowed = start + np.unique(codes[same, level])
            else:
                allowed = np.arange(len(scores))
            chosen = np.flatnonzero(allowed == start + target[level])[0]
            expected[level] -= log_softmax(scores[allowed])[chosen]
    total, terms = loss_of(model, params, batch, catalogue)
    assert float(total.weight) == batch["target_mask"].sum()
    for level in range(3):
        np.testing.assert_allclose(terms[f"level_{level}"].total, expected[level],
                                   rtol=1e-5)
    np.testing.assert_allclose(total.total, expected.sum(), rtol=1e-5)


def test_the_item_softmax_equals_numpy_and_samples_around_it():
    model, catalogue, params = world()
    batch = tiny_world.make_batch()
    _, state = tiny_world.forward(model, params, batch, catalogue.tables)
    scores = np.asarray(tiny_world.forward(model, params, state, catalogue.tables,
                                           method="item_scores"), np.float64)
    expected = -sum(log_softmax(scores[row, place])[batch["targets"][row, place]]
                    for row, place in np.argwhere(batch["target_mask"]))
    exact, terms = loss_of(model, params, batch, catalogue,
                           ObjectiveConfig(item_loss=0.5, negatives=0))
    np.testing.assert_allclose(terms["item"].total, expected, rtol=1e-5)
    plain = sum(float(terms[f"level_{level}"].total) for level in range(3))
    np.testing.assert_allclose(exact.total, plain + 0.5 * expected, rtol=1e-5)
    sampled = [float(loss_of(model, params, batch, catalogue, ObjectiveConfig(
        item_loss=0.5, negatives=20), seed)[1]["item"].total) for seed in range(3)]
    assert len(set(sampled)) == 3
    np.testing.assert_allclose(np.mean(sampled), expected, rtol=0.15)


@pytest.mark.parametrize("negatives", [1, 2])
def test_negatives_that_are_all_the_target_leave_finite_gradients(negatives):
    model, catalogue, params = world()
    batch = tiny_world.make_batch()
    cfg = ObjectiveConfig(item_loss=1.0, negatives=negatives)
    batch["targets"] = np.tile(np.arange(10, dtype=np.int32), (2, 1))
    slope = jax.jit(jax.grad(lambda params, key: supervised_loss(
        model, params, batch, catalogue, key, cfg)[0].total))
    for seed in range(4):
        gradient = slope(params, jax.random.key(seed))
        for leaf in jax.tree.leaves(gradient):
            assert np.isfinite(leaf).all()


FULL = {"memory": True, "own": "events", "item_head": True, "dropout": 0.1}


def test_what_is_not_supervised_changes_nothing():
    model, catalogue, params = world(**FULL)
    batch = tiny_world.make_batch()
    changed = {name: rows.copy() for name, rows in batch.items()}
    changed["targets"][~batch["target_mask"]] = 17
    changed["items"][batch["segments"] == 0] = 23

    @jax.jit
    def run(batch):
        return jax.value_and_grad(lambda params: supervised_loss(
            model, params, batch, catalogue, jax.random.key(0),
            ObjectiveConfig(item_loss=0.3))[0].total)(params)
    for one, other in zip(jax.tree.leaves(run(batch)), jax.tree.leaves(run(changed)),
                          strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_batch_of_padding_alone_weighs_nothing_and_moves_nothing():
    model, catalogue, params = world(**FULL)
    batch = tiny_world.make_batch(segments=np.zeros((2, 6)))

    def both(params):
        total, terms = supervised_loss(model, params, batch, catalogue, jax.random.key(
            0), ObjectiveConfig(item_loss=0.3))
        return total.total, terms
    (total, terms), gradient = jax.jit(jax.value_and_grad(both, has_aux=True))(params)
    assert float(total) == 0 and all(float(t.mean()) == 0 for t in terms.values())
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(gradient))


def test_the_mixture_moves_only_its_own_parameters():
    model, catalogue, params = world(memory=True, own="events", item_head=True)
    batch = tiny_world.make_batch(4)
    cfg = ObjectiveConfig(gate_share=0.5, item_loss=0.3)

    def term(params, name):
        return supervised_loss(model, params, batch, catalogue, jax.random.key(0),
                               cfg)[1][name].total
    slope = jax.jit(jax.grad(term), static_argnums=1)
    gate = {"gate", "gate_bias", "gate_heard", "memory", "own_items", "sharpness"}
    moved = {name: {part for part, tree in slope(params, name).items()
                    if any((np.asarray(leaf) != 0).any()
                           for leaf in jax.tree.leaves(tree))}
             for name in ("gate", "level_0", "level_2", "item")}
    assert moved["gate"] == gate
    assert not gate & (moved["level_0"] | moved["level_2"] | moved["item"])
    assert "item_vectors" in moved["item"]


def test_every_target_is_learnt_by_the_experts_or_by_the_gate():
    model, catalogue, params = world(memory=True, item_head=True)
    batch = tiny_world.make_batch(16, 20)
    total, terms = loss_of(model, params, batch, catalogue,
                           ObjectiveConfig(gate_share=0.3))
    assert float(total.weight + terms["mixture"].weight) == batch["target_mask"].sum()
    assert 0 < float(terms["mixture"].weight) < 32  # two histories in each row
    weights = [float(terms[f"weight_{name}"].mean())
               for name in objective.expert_names(model)]
    assert len(weights) == 3 and abs(sum(weights) - 1) < 1e-5


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5])
def test_the_gate_gets_its_share_of_last_targets_whatever_the_ids(share):
    rng = np.random.default_rng(0)
    alone = np.tile(np.arange(1, 101, dtype=np.int32), (200, 1))  # one event each
    pairs = (alone + 1) // 2
    for items in (20, 12_000):  # many contexts are alike among the first
        recent = rng.integers(-1, items, (200, 100, 3)).astype(np.int32)
        batch = {"targets": rng.integers(0, items, (200, 100)).astype(np.int32),
                 "target_positions": alone - 1}
        kept, of_pairs = (np.asarray(objective._kept_for_gate(
            {**batch, "segments": segments}, recent, share))
            for segments in (alone, pairs))
        deviation = (share * (1 - share) / 20_000) ** 0.5
        assert abs(kept.mean() - share) < 6 * deviation
        np.testing.assert_array_equal(of_pairs[:, 1::2], kept[:, 1::2])
        assert not of_pairs[:, ::2].any()


def test_dropout_follows_the_key():
    model, catalogue, params = world(dropout=0.5)
    batch = tiny_world.make_batch()
    totals = [float(loss_of(model, params, batch, catalogue, seed=seed)[0].total)
              for seed in (0, 0, 1)]
    assert totals[0] == totals[1] != totals[2]


@pytest.mark.parametrize("options", [{"gate_share": 0.0}, {"gate_share": 1.0},
                                     {"negatives": -1}])
def test_impossible_terms_are_refused(options):
    with pytest.raises(InputError, match="train.objective"):
        ObjectiveConfig(**options)
