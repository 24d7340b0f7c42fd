"""Who sees whom in the ranking model, and what its scores do not depend on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import tiny_world
from oxyrec_jax.base import InputError
from oxyrec_jax.models import affinity
from oxyrec_jax.models.instructions import InstructionConfig
from oxyrec_jax.models.ranker import Ranker, RankerConfig, check_trunk
from oxyrec_jax.models.scorer import Scorer, probabilities
from oxyrec_jax.models.transformer import visible
from oxyrec_jax.train.ranking import ranking_loss

ITEMS, ROWS, LENGTH, SHOWN = 30, 3, 6, 5
TRUNK = dataclasses.replace(
    tiny_world.SMALL, encoder_layers=2, sides=("behaviour", "gap"),
    instructions=InstructionConfig(placement="left", tokens=2, scenarios=2,
                                   trigger=True, hidden=8))


def make_tables():
    catalogue, _ = tiny_world.make_items(ITEMS, features=4)
    rng = np.random.default_rng(1)
    price = rng.uniform(1, 90, ITEMS).astype(np.float32)
    price[3] = 0  # not known
    kinds = np.stack([rng.integers(0, 4, ITEMS), 4 + rng.integers(0, 3, ITEMS)], 1)
    return dataclasses.replace(catalogue.tables, price=jnp.asarray(price),
                               kinds=jnp.asarray(kinds, jnp.int32), queries=jnp.asarray(
                                   rng.normal(size=(2, 5)), jnp.float32)), catalogue


def make_batch(seed=0):
    rng = np.random.default_rng(seed)
    length = np.array([6, 3, 1])
    segments = (np.arange(LENGTH) < length[:, None]).astype(np.int32)
    items = np.stack([rng.choice(ITEMS, SHOWN, replace=False) for _ in range(ROWS)])
    mask = np.ones((ROWS, SHOWN), bool)
    mask[1, 4:] = False
    return {
        "items": np.where(segments, rng.integers(0, ITEMS, segments.shape), 0
                          ).astype(np.int32),
        "segments": segments,
        "target_positions": (length - 1)[:, None].astype(np.int32),
        "behaviour": rng.integers(0, 3, segments.shape).astype(np.int8) * segments,
        "gap": rng.uniform(0, 1e5, segments.shape).astype(np.float32) * segments,
        "target_scenario": rng.integers(0, 2, (ROWS, 1)).astype(np.int8),
        "target_trigger": np.array([[-1], [4], [9]], np.int32),
        "target_query": np.array([[-1], [0], [1]], np.int32),
        "candidates": np.where(mask, items, 0).astype(np.int32), "target_mask": mask,
        "outcome": (rng.integers(0, 4, mask.shape) * mask).astype(np.int8)}


class World:
    def __init__(self, trunk=TRUNK, **options):
        self.tables, self.catalogue = make_tables()
        self.catalogue = dataclasses.replace(self.catalogue, tables=self.tables)
        self.model = Ranker(trunk, RankerConfig(**options), tiny_world.WIDTHS, ITEMS,
                            kinds=7, queries=2)
        shapes = jax.eval_shape(lambda: nn.meta.unbox(self.model.init(
            jax.random.key(0), make_batch(), self.tables)["params"]))
        rng = np.random.default_rng(0)
        self.params = jax.tree.map(
            lambda leaf: jnp.asarray(rng.normal(0, 0.4, leaf.shape), jnp.float32),
            shapes)
        self.listed = jax.jit(lambda batch: self.model.apply(
            {"params": self.params}, batch, self.tables))
        self._single = jax.jit(lambda batch, items, places: self.model.apply(
            {"params": self.params}, batch, self.tables, items, places, method="alone"))
        self.scorer = Scorer(self.params, self.tables,
                             jnp.array([[1.2, 0.1], [0.8, -0.2], [1, 0]]), self.model,
                             "digest")
        self.score = jax.jit(lambda scorer, batch, items: scorer(batch, items))

    def single(self, batch, items, places=0):
        return self._single(batch, items, np.broadcast_to(places, items.shape))


@pytest.fixture(scope="module")
def world():
    return World(dataclasses.replace(TRUNK, causal=False))


def moved(found, other):
    return np.abs(np.asarray(found) - np.asarray(other)).max(axis=-1) > 1e-6


def test_a_listed_item_sees_the_items_before_it_and_no_other(world):
    batch = make_batch()
    before = world.listed(batch)
    changed = batch["candidates"].copy()
    changed[:, 2] = (changed[:, 2] + 7) % ITEMS
    after = moved(before, world.listed({**batch, "candidates": changed}))
    assert after.tolist() == [[False, False, True, True, True]] * 3


def test_an_empty_place_is_seen_by_no_item(world):
    batch = make_batch()
    changed = batch["candidates"].copy()
    changed[1, 4] = 17
    after = moved(world.listed(batch), world.listed({**batch, "candidates": changed}))
    assert after.sum() == after[1, 4] == 1


@pytest.mark.parametrize("name, value", [
    ("items", 11), ("behaviour", 1), ("gap", 5e6), ("target_scenario", 1),
    ("target_trigger", 2), ("target_query", 1)])
def test_every_item_reads_the_context(world, name, value):
    batch = make_batch()
    changed = np.array(batch[name])
    changed[0, 0] = value if changed[0, 0] != value else 0
    for ask in (world.listed, lambda one: world.single(one, batch["candidates"])):
        after = moved(ask(batch), ask({**batch, name: changed}))
        assert after.tolist() == [[True] * 5, [False] * 5, [False] * 5]


def test_padding_of_a_history_is_not_read(world):
    batch = make_batch()
    changed = {**batch, "items": np.where(batch["segments"] > 0, batch["items"], 21)}
    np.testing.assert_allclose(world.listed(batch), world.listed(changed), rtol=1e-6)
    longer = {name: np.pad(values, ((0, 0), (0, 3))) if values.shape == (ROWS, LENGTH)
              else values for name, values in batch.items()}
    np.testing.assert_allclose(world.listed(batch), world.listed(longer), rtol=1e-4,
                               atol=1e-5)


def test_alone_is_the_list_under_a_mask_of_itself(world):
    """Two ways to compute one thing: a list of one item, and items scored together."""
    batch = make_batch()
    together = np.asarray(world.single(batch, batch["candidates"], 0))
    for place in (0, 3):
        one = {**batch, "candidates": batch["candidates"][:, place:place + 1],
               "target_mask": np.ones((ROWS, 1), bool)}
        np.testing.assert_allclose(world.listed(one)[:, 0], together[:, place],
                                   rtol=1e-4, atol=1e-5)
    # The first of a list sees nothing but the context either way.
    np.testing.assert_allclose(world.listed(batch)[:, 0], together[:, 0], rtol=1e-4,
                               atol=1e-5)


def test_training_alone_asks_what_scoring_alone_asks():
    """Also with a causal history."""
    world = World(alone=1.0)
    batch = make_batch()
    trained = jax.jit(lambda rng: world.model.apply(
        {"params": world.params}, batch, world.tables, train=True,
        rngs={"dropout": rng}))(jax.random.key(0))
    asked = world.single(batch, batch["candidates"], jnp.arange(SHOWN))
    real = batch["target_mask"]
    np.testing.assert_allclose(trained[real], asked[real], rtol=1e-4, atol=1e-5)


def test_scores_of_a_group_follow_it_through_any_order(world):
    batch, rng = make_batch(), np.random.default_rng(5)
    items = np.stack([rng.permutation(ITEMS)[:12] for _ in range(ROWS)])
    items = items.astype(np.int32)
    found = world.score(world.scorer, batch, items)
    order = rng.permutation(12)
    again = world.score(world.scorer, batch, items[:, order])
    for name in ("click", "cart", "order", "value"):
        assert found[name].shape == (ROWS, 12) and found[name].dtype == jnp.float32
        np.testing.assert_allclose(found[name][:, order], again[name], rtol=1e-5)
    twice = world.score(world.scorer, batch, np.concatenate([items[:, :6]] * 2, axis=1))
    np.testing.assert_allclose(twice["click"][:, :6], twice["click"][:, 6:], rtol=1e-5)
    np.testing.assert_allclose(twice["click"][:, :6], found["click"][:, :6], rtol=1e-4)


def test_chances_follow_the_funnel_and_value_is_price_times_order(world):
    batch = make_batch()
    items = np.tile(np.array([3, 5, -1, 8, *range(8)], np.int32), (ROWS, 1))
    found = {name: np.asarray(values) for name, values in
             world.score(world.scorer, batch, items).items()}
    assert (found["order"] <= found["cart"]).all()
    assert (found["cart"] <= found["click"]).all() and (found["click"] <= 1).all()
    price = np.asarray(world.tables.price)
    np.testing.assert_allclose(found["value"][:, [1, 3]],
                               found["order"][:, [1, 3]] * price[[5, 8]], rtol=1e-6)
    assert (found["value"][:, 0] == 0).all()  # its price is not known
    assert all((values[:, 2] == 0).all() for values in found.values())


def test_calibration_scales_and_shifts_each_logit():
    # a = 1 -> 2 * 1 - 1 = 1; b = 0 -> 0.5; c = -1 -> -1.
    found = probabilities(jnp.array([1.0, 0.0, -1.0]),
                          jnp.array([[2.0, -1.0], [3.0, 0.5], [1.0, 0.0]]))
    click, cart, order = (1 / (1 + np.exp(-value)) for value in (1.0, 0.5, -1.0))
    np.testing.assert_allclose(
        [found[name] for name in ("click", "cart", "order")],
        [click, click * cart, click * cart * order], rtol=1e-6)


def test_the_loss_is_the_likelihood_of_how_far_each_item_got(world):
    model = dataclasses.replace(world.model, ranking=dataclasses.replace(
        world.model.ranking, alone=0.0, drawn=0))
    batch = make_batch()
    total, terms = jax.jit(lambda params: ranking_loss(
        model, params, batch, world.catalogue, jax.random.key(0), None))(world.params)
    logits = np.asarray(world.listed(batch), np.float64)
    click, cart, order = np.moveaxis(np.cumprod(1 / (1 + np.exp(-logits)), -1), -1, 0)
    chance = np.choose(batch["outcome"], [1 - click, click - cart, cart - order, order])
    real = batch["target_mask"]
    np.testing.assert_allclose(total.total, -np.log(chance[real]).sum(), rtol=1e-4)
    assert total.weight == real.sum() == terms["click"].weight
    assert terms["order"].weight == (batch["outcome"][real] >= 2).sum()


def test_items_that_were_not_shown_see_themselves_and_are_not_seen(world):
    batch, others = make_batch(), np.array([[11, 7]] * ROWS, np.int32)
    ask = jax.jit(lambda others: world.model.apply(
        {"params": world.params}, batch, world.tables, others=others))
    found = ask(others)
    np.testing.assert_allclose(found[:, :SHOWN], world.listed(batch), rtol=1e-4,
                               atol=1e-5)
    np.testing.assert_allclose(
        found[:, SHOWN:], world.single(batch, others, np.arange(2)), rtol=1e-4,
        atol=1e-5)


def test_what_was_shown_and_not_reached_moves_nothing(world):
    batch = make_batch()

    def loss(params, given):
        return ranking_loss(world.model, params, given, world.catalogue,
                            jax.random.key(1), None)[0].mean()
    empty = {**batch, "target_mask": np.zeros_like(batch["target_mask"])}
    slopes = jax.jit(jax.grad(loss))(world.params, empty)
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(slopes))


def test_a_crossing_multiplies_the_factors_of_person_and_item():
    rng = np.random.default_rng(3)
    state, item = rng.normal(size=(2, 4)), rng.normal(size=(2, 3, 4))
    rows = np.array([[0, 2, -1], [-1, -1, -1]], np.int32)
    crossing = affinity.Crossing(heads=3, rank=2, profile=5)
    params = {"context": {"kernel": rng.normal(size=(4, 6))},
              "item": {"kernel": rng.normal(size=(4, 6))},
              "profile": rng.normal(size=(5, 6))}
    found = crossing.apply({"params": jax.tree.map(jnp.asarray, params)},
                           jnp.asarray(state), jnp.asarray(item), jnp.asarray(rows))
    own = state @ params["context"]["kernel"]
    own[0] += params["profile"][0] + params["profile"][2]
    other = item @ params["item"]["kernel"]
    expected = (own[:, None] * other).reshape(2, 3, 3, 2).sum(-1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_kind_was_met_as_far_back_as_its_latest_event_of_this_history():
    last = jnp.array([[4]])
    seen = visible(jnp.array([[1, 2, 2, 2, 2, 0]]), last, causal=True)[:, 0]
    history, asked = jnp.array([[4, 1, 2, 1, 3, 0]]), jnp.array([[3, 1, 2, 4, 0]])
    # 3 stands last; 1 two back; 2 three back; 4 is of another history; 0 is padding.
    kind = jnp.array([9, 0, 1, 2, 3])
    found = affinity.met_last(affinity.events_back(seen, last), kind[history],
                              kind[asked])
    np.testing.assert_array_equal(found, [[1, 2, 2, 0, 0]])


def test_what_a_ranking_model_does_not_read_is_refused():
    with pytest.raises(InputError, match="model.memory is set, which a ranking model"):
        check_trunk(dataclasses.replace(TRUNK, memory=True))
    with pytest.raises(InputError, match="ranker.alone is 2"):
        RankerConfig(alone=2)
    with pytest.raises(InputError, match="ranker.calibration is 'isotonic'"):
        RankerConfig(calibration="isotonic")


def test_columns_name_what_the_pipeline_must_bring(world):
    assert set(world.model.columns) == {"behaviour", "gap", "scenario", "trigger",
                                        "query"}
    assert set(world.scorer.reads) <= set(make_batch())
