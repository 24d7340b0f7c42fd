"""Ranked items against sorting all of them in plain Python."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxyrec_jax.decode import beam, expansion
from oxyrec_jax.tokenizer import item_sets, trie_filter
from oxyrec_jax.tokenizer import trie as tries


def beams_of(leaves, log_probs=None):
    leaves = np.array(leaves, np.int32)
    if log_probs is None:
        log_probs = np.where(leaves < 0, -np.inf, -np.arange(leaves.shape[1]) * 0.1)
    return beam.Beams(np.zeros((*leaves.shape, 1), np.int32), leaves,
                      np.array(log_probs, np.float32),
                      np.full(len(leaves), -np.inf, np.float32))


def test_three_policies_by_hand():
    # ID 0: items 0, 1, 2; ID 1: item 3; log-probabilities ln 0.6 and ln 0.3
    trie, leaves = tries.build_trie(np.array([[0], [0], [0], [1]]), (2,))
    beams = beams_of([[0, 1]], np.log([[0.6, 0.3]]))

    def items(**options):
        return expansion.rank_items(beams, leaves, limit=4, **options)
    assert items().items.tolist() == [[0, 1, 2, 3]]
    assert items(policy="turns").items.tolist() == [[0, 3, 1, 2]]
    share = items(policy="share", weights=np.array([1.0, 0.0, 5.0, 1.0]))
    assert share.items.tolist() == [[2, 3, 0, 1]]  # 0.5, 0.3, 0.1, 0
    assert share.places.tolist() == [[0, 1, 0, 0]]
    np.testing.assert_allclose(np.exp(share.log_probs), [[0.5, 0.3, 0.1, 0]], atol=1e-7)
    even = items(policy="share")  # 0.2 each, below 0.3
    assert even.items.tolist() == [[3, 0, 1, 2]]
    heavy = items(policy="share", weights=np.array([1.0, 0, 5, 1]), limit_per_sid=1)
    assert heavy.items.tolist() == [[2, 3, -1, -1]]


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_every_policy_equals_sorting_all_items(data):
    size = data.draw(st.integers(1, 10))
    codes = data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    trie, leaves = tries.build_trie(np.array(codes)[:, None], (4,))
    width = data.draw(st.integers(1, 4))
    live = data.draw(st.permutations(range(len(leaves))))[:width]
    ranked = [*live, *[-1] * (width - len(live))]
    log_probs = sorted(data.draw(st.lists(
        st.floats(-8, 0, width=32), min_size=width, max_size=width)), reverse=True)
    weights = np.array(data.draw(st.lists(
        st.sampled_from([0.0, 0.5, 1.0, 7.0]), min_size=size, max_size=size)))
    policy = data.draw(st.sampled_from(expansion.POLICIES))
    limit, per_sid = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 3))
    denied = data.draw(st.sets(st.integers(0, size - 1)))
    allowed = trie_filter.make_filter(
        trie, item_sets.place_items(trie, leaves), batch=1,
        deny=item_sets.item_lists([sorted(denied)], items=size))
    found = expansion.rank_items(
        beams_of([ranked], [log_probs]), leaves, limit=limit, policy=policy,
        weights=weights if policy == "share" else None, limit_per_sid=per_sid,
        allowed=allowed)
    kinds = sorted(set(codes))
    everything = []
    for place, leaf in enumerate(ranked):
        held = [] if leaf < 0 else [i for i in range(size) if codes[i] == kinds[leaf]
                                    and i not in denied]
        total = sum(weights[i] for i in held)
        scores = {i: float(np.float32(log_probs[place])) for i in held}
        if policy == "share":
            for item in held:
                part = weights[item] / total if total else 1 / len(held)
                scores[item] += math.log(part) if part else -math.inf
            held.sort(key=lambda i: (-scores[i], i))
        everything += [(scores[i], place, turn, i)
                       for turn, i in enumerate(held[:per_sid])]
    key = {"nested": lambda one: one[1:], "turns": lambda one: (one[2], one[1]),
           "share": lambda one: (-round(one[0], 9), *one[1:])}[policy]
    expected = sorted(everything, key=key)[:limit]
    got = found.items[0, :len(expected)].tolist()
    assert (found.items[0, len(expected):] == -1).all()
    np.testing.assert_allclose(found.log_probs[0, :len(expected)],
                               [one[0] for one in expected], atol=1e-9)
    assert sorted(got) == sorted(one[3] for one in expected)
    if policy != "share":  # there rounding may swap what is equal
        assert got == [one[3] for one in expected]
    assert found.places[0, :len(got)].tolist() == [
        ranked.index(kinds.index(codes[i])) for i in got]


def test_nested_is_the_expansion_of_the_search():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 6, (40, 1))
    _, leaves = tries.build_trie(codes, (6,))
    ranked = np.stack([rng.permutation(len(leaves)) for _ in range(5)])
    found = expansion.rank_items(beams_of(ranked), leaves, limit=17, limit_per_sid=4)
    assert found.items.tolist() == beam.expand_items(
        ranked, leaves, limit=17, limit_per_sid=4).tolist()


@pytest.mark.parametrize("options", [
    {"policy": "best"}, {"limit": 0}, {"limit_per_sid": 0},
    {"weights": np.ones(3)}, {"policy": "share", "weights": np.ones(2)},
    {"policy": "share", "weights": -np.ones(3)},
    {"policy": "share", "weights": np.full(3, np.nan)}])
def test_what_makes_no_sense_is_refused(options):
    _, leaves = tries.build_trie(np.array([[0], [1], [2]]), (3,))
    with pytest.raises(ValueError):
        expansion.rank_items(beams_of([[0]]), leaves, **{"limit": 1, **options})
    with pytest.raises(ValueError, match="another catalogue"):
        expansion.rank_items(beams_of([[3]]), leaves, limit=1)
