"""Lists judged by sets, and baselines of next baskets, by hand and against loops."""

import types

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

import tiny_world
from oxyrec_jax.base import InputError
from oxyrec_jax.data import baskets as bought_lib
from oxyrec_jax.data import dataset, protocols, schema
from oxyrec_jax.evaluate import basket_baselines, baselines, baskets, rows
from oxyrec_jax.evaluate.generator import recommend_split

LOG2_3 = np.log2(3)


def made(folder, people, *, items=10):
    """A data set of people, each a list of baskets, each a map from item to price."""
    lengths = [sum(map(len, own)) for own in people]
    flat = [(item, price, number, len(basket) % 2) for number, basket in enumerate(
        basket for own in people for basket in own) for item, price in basket.items()]
    item, price, request, scenario = (np.array(part) for part in zip(*flat))

    def fill(out):
        out.add_items(schema.item_table({"item_id": [str(i) for i in range(items)]}))
        out.add_sequences({"item": item, "price": price.astype(np.float32),
                           "scenario": scenario, "request": request}, lengths,
                          [f"u{number}" for number in range(len(people))])
        for split, found in protocols.next_basket(lengths, request).items():
            out.add_targets(split, found)
    dataset.write_dataset(folder, fill, columns=("item", "price", "scenario",
                                                 "request"),
                          facts={"protocol": "next-basket",
                                 "scenarios": ["even", "odd"]})
    return dataset.load_dataset(folder)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return made(tmp_path_factory.mktemp("baskets") / "data", [
        [{0: 1, 1: 1}, {1: 1, 2: 1}, {3: 9}, {1: 2, 4: 6, 5: 0}],
        [{0: 1}, {6: 1, 2: 1}, {2: 1}, {2: 4}],
        [{7: 1}, {8: 2}]])


def test_figures_of_a_set_by_hand():
    found = bought_lib.Baskets(np.array([0, 3]), np.array([0, 0, 0, 1]),
                               np.array([1, 4, 5, 2]), np.array([2.0, 6, 2, 0]))
    lists = np.array([[9, 4, 1, 5], [2, -1, -1, -1]])
    at = baskets.figures(lists, found, 3)
    assert at["recall"].tolist() == [2 / 3, 1] and at["hr"].tolist() == [1, 1]
    ideal = 1 + 1 / LOG2_3 + 1 / 2
    np.testing.assert_allclose(at["ndcg"], [(1 / LOG2_3 + 1 / 2) / ideal, 1])
    assert at["spend"].tolist() == [0.8, 0] and at["gmv"].tolist() == [8, 0]
    one = baskets.figures(lists, found, 1)
    assert one["recall"].tolist() == [0, 1] and one["ndcg"].tolist() == [0, 1]
    with pytest.raises(ValueError, match="k=5"):
        baskets.figures(lists, found, 5)


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(strategies.data(), strategies.integers(1, 6))
def test_figures_equal_loops_over_sets(data, k):
    lists, bought = [], []
    for _ in range(data.draw(strategies.integers(1, 5))):
        lists.append(data.draw(strategies.permutations(range(8)))[:6])
        bought.append(data.draw(strategies.dictionaries(
            strategies.integers(0, 7), strategies.floats(0.5, 9), min_size=1)))
    sizes = [len(own) for own in bought]
    found = baskets.figures(np.array(lists), bought_lib.Baskets(
        np.cumsum([0, *sizes])[:-1], np.repeat(np.arange(len(sizes)), sizes),
        np.array([item for own in bought for item in own]),
        np.array([paid for own in bought for paid in own.values()])), k)
    for row, (top, own) in enumerate(zip(lists, bought)):
        places = [place for place, item in enumerate(top[:k]) if item in own]
        paid = sum(own[top[place]] for place in places)
        assert found["recall"][row] == pytest.approx(len(places) / len(own))
        assert found["hr"][row] == bool(places)
        assert found["ndcg"][row] == pytest.approx(
            sum(1 / np.log2(place + 2) for place in places)
            / sum(1 / np.log2(place + 2) for place in range(min(k, len(own)))))
        assert found["gmv"][row] == pytest.approx(paid)
        assert found["spend"][row] == pytest.approx(paid / sum(own.values()))


def test_baskets_of_a_split_are_whole_and_share_a_history(opened):
    found = bought_lib.of_split(opened, "test")
    assert len(found) == 2 and found.asked.tolist() == [0, 3]
    assert found.row.tolist() == [0, 0, 0, 1] and found.item.tolist() == [1, 4, 5, 2]
    assert bought_lib.one_for_each(opened, "test").tolist() == [0, 0, 0, 3]
    assert bought_lib.one_for_each(opened, "test", np.array([1, 2])).tolist() == [1, 1]
    items, spent = bought_lib.bought_together(found)
    assert items.tolist() == [[1, 4, 5], [2, -1, -1]]
    assert spent.tolist() == [[2, 6, 0], [4, 0, 0]]


def test_own_frequency_by_hand(opened):
    events = rows.of_dataset(opened)
    targets = rows.expand(events, opened.split("test"))
    found = basket_baselines.own_frequency(events, targets, 5)
    # Person 0 took 1 twice, then 3 (last), 2, 0; the popular rest: 1, 2 and 0 lead.
    assert found[0].tolist()[:4] == [1, 3, 2, 0]
    assert (found[:3] == found[0]).all()  # nothing of the basket itself is known
    assert found[3].tolist()[:3] == [2, 6, 0]
    faded = basket_baselines.own_frequency(events, targets, 5, fade=0.4)
    assert faded[0].tolist()[:4] == [3, 1, 2, 0]  # 1 > .4 + .16 > .4 > .16
    with pytest.raises(ValueError, match="fade=0"):
        basket_baselines.own_frequency(events, targets, 5, fade=0)


def test_own_items_trusted_alone_list_the_own_frequency(tmp_path):
    """The search with a share of about one ranks as the baseline, fade .4."""
    rng = np.random.default_rng(3)
    people = [[{item: 1.0 for item in rng.permutation(10)[:rng.integers(1, 5)].tolist()}
               for _ in range(7)] for _ in range(6)]
    found = made(tmp_path / "data", people)
    model = tiny_world.make_model(10, own="requests")
    catalogue, leaves = tiny_world.make_items(10)
    batch = {**tiny_world.make_batch(items=10), "opens": np.ones((2, 10), np.float32)}
    params = tiny_world.init_params(model, batch, catalogue.tables)
    params = {**params, "gate_bias": np.float32([-90, 90]), "own_items": {
        **params["own_items"], "fade": np.log(np.float32([0.4 / 0.6]))}}
    asked = bought_lib.of_split(found, "test").asked
    lists, _ = recommend_split(model, params, found, "test", catalogue, leaves,
                               history=40, beams=10, batch=8, only=asked)
    events = rows.of_dataset(found)
    expected = basket_baselines.own_frequency(events, rows.expand(
        events, found.split("test")).take(asked), 10, fade=0.4)
    for mine, own, person in zip(lists.items, expected, people, strict=True):
        score = np.array([sum(0.4 ** back * (item in basket) for back, basket in
                              enumerate(person[-2::-1])) for item in range(10)])
        taken = np.count_nonzero(score)  # equal scores may change places
        np.testing.assert_allclose(score[mine[:taken]], score[own[:taken]], rtol=1e-9)
        assert {*mine[:taken]} == {*own[:taken]} and taken > 1


def test_basket_markov_by_hand(opened):
    events = rows.of_dataset(opened)
    targets = rows.expand(events, opened.split("test"))
    found = basket_baselines.basket_markov(events, targets, 4)
    # Training pairs of baskets: {0, 1} to {1, 2}, {0} to {6, 2}, {7} to {8}. The last
    # baskets, {3} and {2}, were never followed: what is popular.
    assert found[0].tolist() == baselines.popularity(events, targets, 4)[0].tolist()
    valid = rows.expand(events, opened.split("valid"))
    asked = basket_baselines.basket_markov(events, valid, 3)
    assert asked[0].tolist()[:2] == [1, 2]  # what came after 1 in {0, 1}
    first = valid.take(np.array([0]))
    first.end[0] = 2  # after {0, 1}: 2 scores 2/2 + 1, 1 scores 1/2 + 1, 6 1/2
    assert basket_baselines.basket_markov(events, first, 3)[0].tolist() == [2, 1, 6]
    plain = rows.Events(events.items, events.offsets, events.train, 10)
    with pytest.raises(ValueError, match="have no baskets"):
        basket_baselines.basket_markov(plain, targets, 3)


def test_popularity_counts_the_first_basket_too(opened):
    counts = rows.popularity(rows.of_dataset(opened))
    assert counts.tolist() == [2, 2, 2, 0, 0, 0, 1, 1, 1, 0]


def test_the_results_hold_model_baselines_and_scenarios(opened):
    right = np.array([[4, 1, 5], [2, 0, 1]])
    wrong = np.array([[9, 8, 7], [9, 8, 7]])
    found = baskets.evaluate(opened, "test", {"seed0": right, "seed1": wrong},
                             ks=(1, 3), headline="basket.recall@3", samples=20,
                             rivals={"perfect": right, "no": wrong[:, ::-1]})
    assert found["basket.recall@3"] == 0.5 and found["seeds"]["basket.hr@1"] == {
        "mean": 0.5, "sd": pytest.approx(np.sqrt(0.5)), "runs": 2}
    assert found["runs"]["seed0"]["basket.gmv@3"] == 6  # (8 + 4) / 2
    assert found["differences"]["baseline"] == "perfect"
    assert found["differences"]["cells"]["basket.recall@3"]["mean"] == -0.5
    assert found["scenarios"]["odd"]["baskets"] == 2  # of three and of one item
    assert found["counts"]["bought"] == 4


def test_another_protocol_has_no_baskets():
    other = types.SimpleNamespace(by_basket=False, folder="there")
    with pytest.raises(InputError, match="data.protocol=next-basket"):
        bought_lib.of_split(other, "test")
