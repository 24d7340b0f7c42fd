"""Transition counts against a loop, and what the memory says of its candidates."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from oxyrec_jax.models import memory
from oxyrec_jax.models.nearest import Nearest

HISTORIES = st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=8), min_size=1,
                     max_size=6)


def counted(histories, rows, *, most=6, num_items=6):
    items = np.concatenate([np.asarray(history, int) for history in histories])
    offsets = np.cumsum([0, *map(len, histories)])
    return memory.count_successors(items, offsets, np.asarray(rows).reshape(-1, 3),
                                   num_items=num_items, most=most)


def by_loop(histories, rows):
    table = np.zeros((6, 6))
    for sequence, first, last in rows:
        for position in range(first, last):
            for back in (1, 2, 3):
                if position >= back:
                    item = histories[sequence][position - back]
                    table[item, histories[sequence][position]] += 1 / back
    return table


@hypothesis.settings(deadline=None, max_examples=40)
@hypothesis.given(histories=HISTORIES, most=st.integers(1, 7), data=st.data())
def test_counts_equal_a_loop(histories, most, data):
    rows = []
    for sequence, history in enumerate(histories):
        first = data.draw(st.integers(0, len(history)))
        rows.append((sequence, first, data.draw(st.integers(first, len(history)))))
    found = counted(histories, rows, most=most)
    table = by_loop(histories, rows)
    for item in range(6):
        order = sorted(np.flatnonzero(table[item]), key=lambda c: (-table[item, c], c))
        order = order[:most]
        kept = [int(c) for c in found.items[item] if c >= 0]
        # Sums of thirds differ in the last bit, so equal counts may change places.
        np.testing.assert_allclose(table[item, kept], table[item, order], rtol=1e-6)
        np.testing.assert_allclose(found.counts[item][:len(kept)], table[item, kept],
                                   rtol=1e-6)
        assert (np.asarray(found.items[item][len(kept):]) == -1).all()
        assert (np.asarray(found.counts[item][len(kept):]) == 0).all()


def test_counts_by_hand():
    # Targets are positions 1 to 3 of 4, 2, 4, 1.
    found = counted([[4, 2, 4, 1]], [(0, 1, 4)], most=3)
    # 4: then 2 (1/1), 4 (1/2), 1 (1/3 from the first + 1/1 from the third)
    assert found.items[4].tolist() == [1, 2, 4]
    np.testing.assert_allclose(found.counts[4], [4 / 3, 1, 1 / 2], rtol=1e-6)
    assert found.items[2].tolist() == [4, 1, -1]  # 2: then 4 (1/1), 1 (1/2)


def test_equal_counts_prefer_the_lower_item():
    found = counted([[0, 5], [0, 2], [0, 3]], [(s, 1, 2) for s in range(3)], most=2)
    assert found.items[0].tolist() == [2, 3]


def test_no_targets_leave_an_empty_table():
    found = counted([[0, 1]], np.zeros((0, 3), int))
    assert (np.asarray(found.items) == -1).all() and (np.asarray(found.counts) == 0
                                                      ).all()


def ask(successors, recent, own=None, *, params=None, seed=0):
    """The memory's answer, with a model that likes some first codes."""
    rng = np.random.default_rng(seed)
    first_codes = np.arange(6) % 3
    log_probs = jax.nn.log_softmax(jnp.asarray(rng.normal(
        size=(*np.shape(recent)[:2], 3)), jnp.float32))
    params = params or {"nearness": -np.log(np.float32([1, 2, 3])),
                        "sharpness": np.float32([1]), "trust": np.float32([0])}
    return memory.TransitionMemory().apply(
        {"params": params}, jnp.asarray(recent), successors, first_codes, log_probs,
        None if own is None else jnp.asarray(own))


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(histories=HISTORIES, seed=st.integers(0, 99))
def test_weights_sum_to_one_or_to_nothing(histories, seed):
    rng = np.random.default_rng(seed)
    found = counted(histories, [(s, 0, len(h)) for s, h in enumerate(histories)])
    recent = rng.integers(-1, 6, (2, 3, 3))
    params = {"nearness": np.float32(rng.normal(size=3)),
              "sharpness": np.float32(rng.normal(size=1)),
              "trust": np.float32(rng.normal(size=1))}
    answer = ask(found, recent, params=params, seed=seed)
    total = np.asarray(answer.weights).sum(-1)
    heard = np.asarray(answer.heard) > 0
    np.testing.assert_allclose(total[heard], 1, rtol=1e-5)
    assert (total[~heard] == 0).all()
    assert (np.asarray(answer.weights)[np.asarray(answer.items) < 0] == 0).all()


def test_weights_by_hand():
    found = counted([[0, 1], [0, 1], [0, 2], [3, 4]], [(s, 1, 2) for s in range(4)])
    # Newest 0: 1 twice, 2 once. Before it 3: 4 once, half as near. 5 knows nothing.
    answer = ask(found, [[[0, 3, 5]]])
    weights = np.zeros(6)
    np.add.at(weights, np.maximum(answer.items[0, 0], 0), answer.weights[0, 0])
    np.testing.assert_allclose(weights, [0, 2 / 3.5, 1 / 3.5, 0, 0.5 / 3.5, 0],
                               rtol=1e-6)
    np.testing.assert_allclose(answer.heard, np.log([[5]]), rtol=1e-6)  # 1 + 2 + 1 + 1


@pytest.mark.parametrize("trust", [-1.0, 0.0, 2.0])
def test_nothing_is_heard_behind_a_first_code_that_cannot_be(trust):
    found = counted([[0, 1], [0, 2], [0, 4]], [(s, 1, 2) for s in range(3)])
    log_probs = np.log(np.float32([[[0.5, 0.5, 0]]]), where=[True, True, False],
                       out=np.full((1, 1, 3), -np.inf, np.float32))
    answer = memory.TransitionMemory().apply(
        {"params": {"nearness": np.zeros(3, np.float32),
                    "sharpness": np.float32([1]), "trust": np.float32([trust])}},
        jnp.array([[[0, -1, -1]]]), found, jnp.arange(6) % 3, jnp.asarray(log_probs),
        None)
    # 1 and 4 have first code 1; 2 has code 2, which may not be.
    np.testing.assert_allclose(summed(answer)[0, 0], [0, .5, 0, 0, .5, 0], rtol=1e-6)


def summed(answer):
    weights = np.zeros((*answer.weights.shape[:2], 6))
    for place in np.ndindex(answer.weights.shape):
        weights[place[:2]][max(int(answer.items[place]), 0)] += answer.weights[place]
    return weights


@hypothesis.settings(deadline=None, max_examples=40)
@hypothesis.given(histories=HISTORIES, target=st.lists(
    st.integers(0, 5), min_size=2, max_size=6))
def test_a_training_target_hears_only_what_others_did(histories, target):
    """Items may repeat in a history: each of its transitions is left out."""
    rows = [(s, 1, len(history)) for s, history in enumerate(histories)]
    end = len(target)
    others = counted(histories, rows)
    with_own = counted([*histories, target], [*rows, (len(rows), end - 1, end)])
    recent = [[[target[end - 1 - back] if back < end else -1 for back in (1, 2, 3)]]]
    expected, found = ask(others, recent), ask(with_own, recent, [[target[-1]]])
    np.testing.assert_allclose(summed(found), summed(expected), atol=1e-5)
    np.testing.assert_allclose(found.heard, expected.heard, atol=1e-5)


def test_the_model_gets_no_gradient_through_the_memory():
    found = counted([[0, 1], [0, 2]], [(0, 1, 2), (1, 1, 2)])
    params = {"nearness": np.zeros(3, np.float32), "sharpness": np.float32([1]),
              "trust": np.float32([1])}

    def weight(log_probs):
        answer = memory.TransitionMemory().apply(
            {"params": params}, jnp.array([[[0, -1, -1]]]), found, np.arange(6) % 3,
            log_probs, None)
        return answer.weights[0, 0, 0]
    assert (jax.grad(weight)(jnp.zeros((1, 1, 3))) == 0).all()


NEAR = {"nearness": -np.log(np.float32([1, 2, 3])), "sharpness": np.float32([1]),
        "trust": np.float32([0])}


def ask_near(recent, table, *, successors=None, earlier=None, share=(0.3, -0.7)):
    """The memory's answer with the nearest items, all weights as they begin."""
    successors = successors or counted([[0, 1], [0, 2]], [(0, 1, 2), (1, 1, 2)])
    params = {**NEAR, "nearest": NEAR, "share": np.float32(share)}
    return memory.TransitionMemory(near=True).apply(
        {"params": params}, jnp.asarray(recent), successors, np.arange(6) % 3,
        jnp.zeros((1, 1, 3)), None, table,
        None if earlier is None else jnp.asarray(earlier))


def test_nearest_items_by_hand():
    table = Nearest(jnp.array([[3, 4]] + [[-1, -1]] * 5),
                    jnp.array([[0.9, 0.8]] + [[0.0, 0.0]] * 5))
    answer = ask_near([[[0, -1, -1]]], table)
    # 1 and 2 followed 0 once each; 3 and 4 are near, e^(20 * 0.1) to 1.
    share = 1 / (1 + np.exp(-0.3 + 0.7 * np.log(np.log(3))))
    near = np.exp(2) / (1 + np.exp(2))
    np.testing.assert_allclose(
        summed(answer)[0, 0],
        [0, (1 - share) / 2, (1 - share) / 2, share * near, share * (1 - near), 0],
        rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(answer.heard, np.log([[3]]), rtol=1e-6)


def test_where_nothing_followed_the_nearest_take_all_and_the_other_way_round():
    table = Nearest(jnp.array([[-1, -1]] * 5 + [[3, 4]]),
                    jnp.array([[0.0, 0.0]] * 5 + [[0.9, 0.9]]))
    nothing_followed = summed(ask_near([[[5, -1, -1]]], table))[0, 0]
    np.testing.assert_allclose(nothing_followed, [0, 0, 0, 0.5, 0.5, 0], rtol=1e-6)
    nothing_near = summed(ask_near([[[0, -1, -1]]], table))[0, 0]
    np.testing.assert_allclose(nothing_near, [0, 0.5, 0.5, 0, 0, 0], rtol=1e-6)
    assert (summed(ask_near([[[1, -1, -1]]], table)) == 0).all()


def test_items_of_the_history_are_no_candidates():
    table = Nearest(jnp.array([[3, 4]] + [[-1, -1]] * 5),
                    jnp.array([[0.9, 0.8]] + [[0.0, 0.0]] * 5))
    answer = summed(ask_near([[[0, -1, -1]]], table, earlier=[[[2, 4, -1, 0]]]))[0, 0]
    assert answer[1] > 0 and answer[3] > 0 and answer[[0, 2, 4, 5]].sum() == 0
    np.testing.assert_allclose(answer.sum(), 1, rtol=1e-6)


def test_a_memory_without_its_table_says_so():
    with pytest.raises(ValueError, match="misses what it asks"):
        ask_near([[[0, -1, -1]]], None)


def test_earlier_items_are_those_of_the_own_history():
    batch = {"items": jnp.array([[7, 8, 9, 5, 6, 0]]),
             "segments": jnp.array([[1, 1, 1, 2, 2, 0]]),
             "target_positions": jnp.array([[1, 2, 3, 5]])}
    expected = [[7, 8, -1, -1, -1, -1], [7, 8, 9, -1, -1, -1],
                [-1, -1, -1, 5, -1, -1], [-1] * 6]
    assert memory.earlier_items(batch)[0].tolist() == expected


def test_to_begin_with_the_share_is_that_of_the_untrained_baseline():
    model = memory.TransitionMemory(near=True)
    table = Nearest(jnp.array([[3, 4]] + [[-1, -1]] * 5),
                    jnp.array([[0.9, 0.9]] + [[0.0, 0.0]] * 5))
    args = (jnp.array([[[0, -1, -1]]]),
            counted([[0, 1], [0, 2]], [(0, 1, 2), (1, 1, 2)]), np.arange(6) % 3,
            jnp.zeros((1, 1, 3)), None, table)
    variables = nn.unbox(model.init(jax.random.key(0), *args))
    share = 1 / (1 + np.log(1 + 2))  # 1 and 2 followed 0 once each
    np.testing.assert_allclose(
        summed(model.apply(variables, *args))[0, 0],
        [0, (1 - share) / 2, (1 - share) / 2, share / 2, share / 2, 0], rtol=1e-5)
