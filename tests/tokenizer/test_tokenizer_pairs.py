"""Pairs by hand, drawn as often as they should be, and blind to held-out events."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny_world
from oxyrec_jax.base import InputError
from oxyrec_jax.tokenizer import pairs
from oxyrec_jax.tokenizer.pairs import PairConfig

# One user took 0, 1, 2; positions 1 and 2 are targets. With window 2:
# n(0, 1) = n(1, 2) = 1 and n(0, 2) = 1/2, so n(0) = n(2) = 3/2 and n(1) = 2.
EVENTS = np.array([0, 1, 2])
OFFSETS = np.array([0, 3])
TRAIN = np.array([[0, 1, 3]])


def found(**options):
    return pairs.behavioural(EVENTS, OFFSETS, TRAIN, num_items=4,
                             cfg=PairConfig(window=2, **options))


@pytest.mark.parametrize("debias, weights", [
    (0.0, [1, 1 / 2, 1]),
    (0.5, [1 / 3 ** 0.5, 0.5 / 1.5, 1 / 3 ** 0.5]),
    (1.0, [1 / 3, 0.5 / 2.25, 1 / 3]),
])
def test_weights_by_hand(debias, weights):
    made = found(debias=debias)
    np.testing.assert_array_equal(made.items, [[0, 1], [0, 2], [1, 2]])
    np.testing.assert_allclose(made.weights, np.array(weights) / sum(weights),
                               rtol=1e-12)


def test_partners_are_the_strongest_first_and_equals_by_id():
    np.testing.assert_array_equal(found(known=3).partners, [
        [1, 2, -1], [0, 2, -1], [1, 0, -1], [-1, -1, -1]])
    np.testing.assert_array_equal(found(known=1).partners, [[1], [0], [1], [-1]])


def test_a_pair_needs_a_training_target_as_its_later_event():
    made = pairs.behavioural(EVENTS, OFFSETS, np.array([[0, 1, 2]]), num_items=3)
    np.testing.assert_array_equal(made.items, [[0, 1]])


def test_full_debias_makes_a_popular_item_no_likelier_than_chance():
    # Item 0 stands beside everything; 1 and 2 stand beside 0 and once together.
    events = np.array([0, 1, 0, 2, 0, 1, 0, 2, 1, 2])
    offsets = np.arange(0, 11, 2)
    train = np.stack([np.arange(5), np.ones(5, int), np.full(5, 2)], axis=1)

    def weight_of_rare(debias):
        made = pairs.behavioural(events, offsets, train, num_items=3,
                                 cfg=PairConfig(window=1, debias=debias))
        return made.weights[(made.items == [1, 2]).all(axis=1)][0]
    # n(0,1) = n(0,2) = 2, n(1,2) = 1; n(0) = 4, n(1) = n(2) = 3.
    np.testing.assert_allclose(weight_of_rare(0.0), 1 / 5)
    np.testing.assert_allclose(weight_of_rare(1.0), (1 / 9) / (1 / 9 + 2 * 2 / 12))
    assert weight_of_rare(0.0) < weight_of_rare(0.5) < weight_of_rare(1.0)


def test_events_of_validation_and_test_change_no_pair(tmp_path):
    data = tiny_world.make_dataset(tmp_path / "data", sequences=40, items=30)
    items, offsets, train = data.column("item"), data.offsets(), data.split("train")
    held_out = np.concatenate([offsets[1:] - 1, offsets[1:] - 2])
    changed = items.copy()
    changed[held_out] = np.random.default_rng(1).integers(0, 30, len(held_out))
    assert (changed != items).sum() > 60
    one, two = (pairs.behavioural(events, offsets, train, num_items=30)
                for events in (items, changed))
    np.testing.assert_array_equal(one.items, two.items)
    np.testing.assert_array_equal(one.weights, two.weights)
    np.testing.assert_array_equal(one.partners, two.partners)
    training = items.copy()
    training[offsets[:-1]] = (training[offsets[:-1]] + 7) % 30
    other = pairs.behavioural(training, offsets, train, num_items=30)
    assert not np.array_equal(one.items, other.items)  # so the test can see a change


@settings(deadline=None, max_examples=25)
@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=8), max_size=6),
       st.integers(1, 3), st.floats(0, 1))
def test_pairs_equal_the_double_loop(sequences, window, debias):
    counts = np.zeros((6, 6))
    for sequence in sequences:
        for later in range(1, len(sequence)):
            for earlier in range(max(0, later - window), later):
                a, b = sequence[earlier], sequence[later]
                if a != b:
                    counts[a, b] += 1 / (later - earlier)
                    counts[b, a] += 1 / (later - earlier)
    expected = {(a, b): counts[a, b] / (counts[a].sum() * counts[b].sum()) ** debias
                for a in range(6) for b in range(a + 1, 6) if counts[a, b]}
    lengths = [len(sequence) for sequence in sequences]
    made = pairs.behavioural(
        np.array([item for sequence in sequences for item in sequence], int),
        np.cumsum([0, *lengths]),
        np.array([[n, 1, max(1, length)] for n, length in enumerate(lengths)]
                 ).reshape(-1, 3),
        num_items=6, cfg=PairConfig(window=window, debias=debias))
    assert [tuple(pair) for pair in made.items.tolist()] == sorted(expected)
    total = sum(expected.values())
    np.testing.assert_allclose(
        made.weights, [expected[pair] / total for pair in sorted(expected)], rtol=1e-9)


def test_draws_follow_the_weights_in_either_order():
    made = found(debias=0.0)  # 0.4, 0.2, 0.4
    drawn = pairs.draw(made, 20_000, np.random.default_rng(0))
    kinds, counts = np.unique(drawn, axis=0, return_counts=True)
    assert kinds.tolist() == [[0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1]]
    # Standard error of a share p of 20,000 is at most 0.003.
    np.testing.assert_allclose(counts / 20_000, [.2, .1, .2, .2, .1, .2], atol=0.012)
    again = pairs.draw(made, 20_000, np.random.default_rng(0))
    np.testing.assert_array_equal(drawn, again)


def test_no_training_pairs_is_an_empty_set():
    made = pairs.behavioural(np.array([3]), np.array([0, 1]), np.zeros((0, 3), int),
                             num_items=4)
    assert made.items.shape == (0, 2) and made.weights.shape == (0,)
    assert (made.partners == -1).all() and made.partners.shape == (4, 32)


@pytest.mark.parametrize("options", [{"window": 0}, {"known": 0}, {"debias": -0.1},
                                     {"debias": 1.1}])
def test_settings_out_of_range_are_named(options):
    name, value = next(iter(options.items()))
    with pytest.raises(InputError, match=f"{name} {value}"):
        pairs.behavioural(EVENTS, OFFSETS, TRAIN, num_items=4,
                          cfg=PairConfig(**options))


def test_an_item_out_of_range_is_a_programming_error():
    with pytest.raises(ValueError, match="num_items=2"):
        pairs.behavioural(EVENTS, OFFSETS, TRAIN, num_items=2)
