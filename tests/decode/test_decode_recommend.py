"""The constrained search of the generator: exact, a distribution, compiled once."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny_world
from oxyrec_jax.decode.recommend import recommend
from oxyrec_jax.models.memory import count_successors
from oxyrec_jax.tokenizer import item_sets, trie_filter
from oxyrec_jax.tokenizer.catalogue import make_catalogue
from oxyrec_jax.train import objective
from oxyrec_jax.train.objective import ObjectiveConfig

ITEMS = 12
WIDTHS = (3, 2, 4)
HISTORY = [[3, 1, 1, 7, 0], [5, 5, 2, 0, 0], [11, 0, 0, 0, 0]]
LENGTHS = [4, 3, 1]
OPENS = [[1, 0, 1, 1, 0], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]]  # of own items
MIXES = {"decoder alone": {}, "memory": {"memory": True},
         "item head": {"item_head": True},
         "all": {"memory": True, "own": "requests", "item_head": True},
         "shared head": {"memory": True, "item_head": True, "head": "shared"}}


def learnt(own=None):
    """Transitions of some users, and of one more who did what a test case predicts."""
    rng = np.random.default_rng(1)
    histories = [list(rng.integers(0, ITEMS - 1, 6)) for _ in range(5)]  # none has 11
    rows = [(number, 1, 6) for number in range(5)]
    if own is not None:
        histories.append(own)
        rows.append((5, len(own) - 1, len(own)))
    return count_successors(np.concatenate(histories),
                            np.cumsum([0, *map(len, histories)]), np.array(rows),
                            num_items=ITEMS, most=ITEMS)


def world(options, own=None, *, distinct=True):
    model = tiny_world.make_model(ITEMS, WIDTHS, **options)
    catalogue, leaves = tiny_world.make_items(
        ITEMS, WIDTHS, distinct=distinct,
        successors=learnt(own) if options.get("memory") else None)
    return model, catalogue, leaves, tiny_world.make_params(model, catalogue.tables)


def requests(rows=range(3)):
    rows = list(rows)
    real = np.arange(5)[None] < np.array(LENGTHS)[rows, None]
    return {"items": np.array(HISTORY, np.int32)[rows],
            "segments": real.astype(np.int32),
            "opens": np.float32(OPENS)[rows],
            "target_positions": np.array(LENGTHS, np.int32)[rows, None] - 1}


@pytest.mark.parametrize("options", MIXES.values(), ids=MIXES)
@pytest.mark.parametrize("distinct", [True, False])
def test_the_probabilities_of_all_semantic_ids_sum_to_one(options, distinct):
    model, catalogue, leaves, params = world(options, distinct=distinct)
    found = recommend(model, params, requests(), catalogue, beams=ITEMS)
    live = np.asarray(found.leaves) >= 0
    assert (live.sum(1) == len(leaves)).all()
    for row in found.leaves:
        assert sorted(n for n in row.tolist() if n >= 0) == list(range(len(leaves)))
    np.testing.assert_allclose(np.exp(found.log_probs).sum(1), 1, rtol=1e-5)
    assert (found.log_probs[:, 1:] <= found.log_probs[:, :-1]).all()


@pytest.mark.parametrize("options", MIXES.values(), ids=MIXES)
def test_the_search_gives_each_item_the_likelihood_that_training_gave_it(options):
    """Training leaves a target's own transition out; so does a memory without it."""
    model, catalogue, leaves, params = world(options)
    found = recommend(model, params, requests(), catalogue, beams=ITEMS)
    cfg = ObjectiveConfig(item_loss=0.0, negatives=0, gate_share=1 - 1e-9)

    @jax.jit
    def likelihood(batch, catalogue):
        total, terms = objective.supervised_loss(
            model, params, batch, catalogue, jax.random.key(0), cfg)
        return terms.get("mixture", total)
    for row, target in itertools.product(range(3), range(ITEMS)):
        history = HISTORY[row][:LENGTHS[row]]
        _, known, *_ = world(options, [*history, target])
        batch = {**requests([row]), "targets": np.array([[target]], np.int32),
                 "target_mask": np.ones((1, 1), bool)}
        cost = likelihood(batch, known)
        assert float(cost.weight) == 1
        place = np.asarray(found.leaves[row]).tolist().index(leaves.of_items()[target])
        np.testing.assert_allclose(found.log_probs[row, place], -float(cost.total),
                                   rtol=2e-5, atol=2e-5)


def test_a_history_that_the_memory_does_not_know_leaves_it_out():
    options = {"memory": True}
    model, catalogue, _, params = world(options)
    params = {**params, "sharpness": jnp.ones(2)}  # as the decoder answers alone
    found = recommend(model, params, requests([2]), catalogue, beams=ITEMS)
    alone = recommend(model, params, requests([2]), catalogue, beams=ITEMS,
                      experts=False)
    np.testing.assert_array_equal(found.leaves, alone.leaves)
    np.testing.assert_allclose(found.log_probs, alone.log_probs, rtol=1e-5, atol=1e-5)


def test_without_experts_the_decoder_alone_answers():
    model, catalogue, leaves, params = world({"memory": True, "item_head": True})
    found = recommend(model, params, requests(), catalogue, beams=ITEMS, experts=False)
    codes = np.asarray(catalogue.tables.codes)
    batch = {**requests(), "targets": np.tile(np.arange(ITEMS, dtype=np.int32), (3, 1)),
             "target_positions": np.repeat(requests()["target_positions"], ITEMS, 1)}
    logits, _ = tiny_world.forward(model, params, batch, catalogue.tables)
    for row, item in itertools.product(range(3), range(ITEMS)):
        expected = 0.0
        for level in range(3):  # softmax over the codes that some item has there
            same = (codes[:, :level] == codes[item, :level]).all(1)
            legal = np.unique(codes[same, level])
            scores = np.asarray(logits[level][row, item], np.float64)
            expected += scores[codes[item, level]] - np.log(np.exp(scores[legal]).sum())
        place = np.asarray(found.leaves[row]).tolist().index(leaves.of_items()[item])
        np.testing.assert_allclose(found.log_probs[row, place], expected, rtol=1e-4,
                                   atol=1e-4)


@pytest.mark.parametrize("mix, distinct", [
    ("decoder alone", True), ("all", False)])
def test_a_filter_answers_as_a_catalogue_without_the_other_items(mix, distinct):
    model, catalogue, leaves, params = world(MIXES[mix], distinct=distinct)
    keep = np.random.default_rng(5).random((3, ITEMS)) < 0.5
    places = item_sets.place_items(catalogue.trie, leaves)
    pools = item_sets.rank_sets(item_sets.pack_flags(
        places, leaves, np.stack([keep[0], keep[1], np.ones(ITEMS, bool)])))
    denied = item_sets.item_lists([[], [], np.flatnonzero(~keep[2])], items=ITEMS)
    allowed = trie_filter.make_filter(catalogue.trie, places, batch=3, pools=pools,
                                      pool=np.arange(3), deny=denied)
    found = recommend(model, params, requests(), catalogue, beams=ITEMS,
                      allowed=allowed)
    successors = catalogue.tables.successors
    for row in range(3):
        rest, own = make_catalogue(
            np.asarray(catalogue.tables.codes), WIDTHS, popularity=np.zeros(ITEMS),
            successors=successors, retired=~keep[row], at_least=catalogue.trie)
        expected = recommend(model, params, requests([row]), rest, beams=ITEMS)
        count = len(own)
        assert 0 < count < len(leaves)
        np.testing.assert_array_equal(found.codes[row, :count],
                                      expected.codes[0, :count])
        np.testing.assert_allclose(found.log_probs[row], expected.log_probs[0],
                                   rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [MIXES["decoder alone"],
                                     MIXES["all"]])
def test_below_a_prefix_the_distribution_is_conditional(options):
    model, catalogue, _, params = world(options)
    every = recommend(model, params, requests(), catalogue, beams=ITEMS)
    first = int(np.asarray(catalogue.tables.codes)[0, 0])
    below = recommend(model, params, requests(), catalogue, beams=ITEMS,
                      prefix=jnp.full((3, 1), first, jnp.int32))
    for row in range(3):
        inside = np.asarray(every.codes[row, :, 0]) == first
        chance = np.exp(np.asarray(every.log_probs[row], np.float64)[inside])
        np.testing.assert_array_equal(np.asarray(below.codes[row])[:inside.sum()],
                                      np.asarray(every.codes[row])[inside])
        np.testing.assert_allclose(np.exp(below.log_probs[row, :inside.sum()]),
                                   chance / chance.sum(), rtol=1e-4)


def test_few_beams_give_true_probabilities():
    model, catalogue, _, params = world({"memory": True, "item_head": True})
    every = recommend(model, params, requests(), catalogue, beams=ITEMS)
    few = recommend(model, params, requests(), catalogue, beams=4)
    for row in range(3):
        known = dict(zip(np.asarray(every.leaves[row]).tolist(),
                         np.asarray(every.log_probs[row]).tolist(), strict=True))
        for leaf, log_prob in zip(np.asarray(few.leaves[row]).tolist(),
                                  np.asarray(few.log_probs[row]), strict=True):
            np.testing.assert_allclose(log_prob, known[leaf], rtol=1e-5, atol=1e-5)


def test_another_catalogue_of_the_size_compiles_nothing_anew():
    model, catalogue, _, params = world({"memory": True, "item_head": True})
    other, _ = tiny_world.make_items(ITEMS, WIDTHS, seed=0, successors=learnt([1, 2]))
    batch = jax.tree.map(jnp.asarray, requests())
    recommend(model, params, batch, catalogue, beams=5)
    compiled = recommend._cache_size()
    recommend(model, jax.tree.map(lambda leaf: leaf * 2, params), batch, other, beams=5)
    assert recommend._cache_size() == compiled
