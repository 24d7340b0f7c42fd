"""The quality figures, by hand and against plain loops."""

import json

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from oxyrec_jax.tokenizer import engagement, quality

#   SIDs: (0, 0) twice, (0, 1), (1, 1) three times; level widths 3 and 2
CODES = np.array([[0, 0], [1, 1], [0, 0], [0, 1], [1, 1], [1, 1]])


def test_collisions_and_code_use_by_hand():
    figures = quality.measure(CODES, (3, 2))
    assert figures["items"] == 6 and figures["sids"] == 3
    assert figures["duplicates"] == pytest.approx(5 / 6)  # all but the one of (0, 1)
    assert figures["mean_items_per_sid"] == 2
    assert figures["max_items_per_sid"] == figures["p99"] == figures["p999"] == 3
    assert figures["coverage"] == [pytest.approx(2 / 3), 1]
    assert figures["dead_codes"] == [1, 0]
    # Level 0 has loads 3, 3, 0: two codes in even use. Level 1: 2 of 6 and 4 of 6.
    entropy = -(1 / 3 * np.log(1 / 3) + 2 / 3 * np.log(2 / 3))
    np.testing.assert_allclose(figures["perplexity"], [2, np.exp(entropy)])
    # (2 i - 4) x for x = 0, 3, 3 is 0 + 0 + 6 over 3 * 6; (2 i - 3) x for 2, 4 is
    # -2 + 4 over 2 * 6.
    np.testing.assert_allclose(figures["gini"], [6 / 18, 2 / 12])
    assert "purity" not in figures and "reconstruction" not in figures
    assert figures["widths"] == [3, 2]
    json.dumps(figures, allow_nan=False)


@hypothesis.given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1,
                           max_size=40))
@hypothesis.settings(deadline=None, max_examples=40)
def test_prefixes_are_numbered_in_their_order(rows):
    codes = np.array(rows)
    groups = quality.prefix_groups(codes)
    assert groups.shape == (3, len(rows))
    for depth in (1, 2, 3):
        ranks = {prefix: rank for rank, prefix
                 in enumerate(sorted({row[:depth] for row in rows}))}
        assert groups[depth - 1].tolist() == [ranks[row[:depth]] for row in rows]


def test_purity_by_hand():
    names = ["a", "b", "a", "b", None, "b"]
    figures = quality.measure(CODES, (3, 2), categories=names)
    # Depth 1: prefix 0 holds a, a, b (2), prefix 1 holds b, b (2): 4 of 5 known.
    # Depth 2: (0, 0) holds a, a, (0, 1) holds b, (1, 1) holds b, b: all pure.
    assert figures["purity"] == [pytest.approx(0.8), 1]
    # Without codes all 5 stand together, and 3 of them are b.
    assert figures["largest_category"] == pytest.approx(0.6)
    unknown = quality.measure(CODES, (3, 2), categories=[None] * 6)
    assert not {"purity", "nmi", "largest_category"} & set(unknown)


def test_mutual_information_by_hand():
    # Prefixes 0, 0, 1, 1 with a, b, b, b: cells (0, a) 1/4, (0, b) 1/4, (1, b) 2/4.
    # H(G) = log 2; H(K) = log 4 - 3/4 log 3; H(G, K) = 2/4 log 4 + 2/4 log 2.
    own, other = np.log(2), np.log(4) - 0.75 * np.log(3)
    both = 0.5 * np.log(4) + 0.5 * np.log(2)
    found = quality.mutual_information(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]))
    assert found == pytest.approx(2 * (own + other - both) / (own + other))


@pytest.mark.parametrize("groups, names, expected", [
    ([0, 0, 1, 1], [7, 7, 2, 2], 1), ([0, 0, 1, 1], [0, 1, 0, 1], 0),
    ([0, 0], [0, 0], 1), ([0, 0], [0, 1], 0), ([3, 3, 9], [0, -1, 0], 0)])
def test_mutual_information_at_its_ends(groups, names, expected):
    found = quality.mutual_information(np.array(groups), np.array(names))
    assert found == pytest.approx(expected, abs=1e-12)


def test_purity_can_only_rise_with_depth_and_mutual_information_falls_again():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 4, (300, 4))
    names = [f"kind {code}" for code in codes[:, 0]]  # level 1 is the category
    figures = quality.measure(codes, [4] * 4, categories=names)
    assert figures["purity"] == [1, 1, 1, 1]
    assert figures["nmi"][0] == pytest.approx(1)
    assert figures["nmi"] == sorted(figures["nmi"], reverse=True)


#   Items a (0, 0), b (0, 1), c (1, 0), d (1, 0)
FOUR = np.array([[0, 0], [0, 1], [1, 0], [1, 0]])


def test_agreement_by_hand():
    # Pairs ab, ab, cd, ac, and dd, which is an item with itself. Of the four, ab, ab
    # and cd share the first code, only cd both.
    pairs = [(np.array([0, 1, 2, 3]), np.array([1, 0, 3, 3])),
             (np.array([2]), np.array([0]))]
    found = quality.measure(FOUR, (2, 2), pairs=iter(pairs))["agreement"]
    assert found["pairs"] == 4
    assert found["share"] == [3 / 4, 1 / 4]
    # Pairs of each item: m = 3, 2, 2, 1 of 8; two different draws have
    # 64 - (9 + 4 + 4 + 1) = 46 chances. Depth 1: (5^2 - 9 - 4) + (3^2 - 4 - 1) = 16.
    # Depth 2: only c and d meet, 3^2 - 4 - 1 = 4.
    np.testing.assert_allclose(found["chance"], [16 / 46, 4 / 46])
    np.testing.assert_allclose(found["lift"], [3 / 4 / (16 / 46), 1 / 4 / (4 / 46)])


def test_agreement_where_no_two_items_share_an_id_has_no_lift():
    codes = np.array([[0, 0], [0, 1], [1, 0]])
    pairs = [(np.array([0, 1]), np.array([1, 2]))]
    found = quality.agreement(quality.prefix_groups(codes), pairs)
    assert found["share"] == [0.5, 0] and found["chance"][1] == 0
    assert found["lift"][1] is None


@pytest.mark.parametrize("pairs", [[], [(np.array([2]), np.array([2]))]])
def test_without_pairs_there_is_no_agreement(pairs):
    assert "agreement" not in quality.measure(FOUR, (2, 2), pairs=pairs)


@hypothesis.given(st.integers(0, 2 ** 31))
@hypothesis.settings(deadline=None, max_examples=25)
def test_agreement_equals_counting_every_pair_and_every_other_partner(seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 3, (8, 3))
    pairs = rng.integers(0, 8, (int(rng.integers(1, 30)), 2))
    real = [(i, j) for i, j in pairs.tolist() if i != j]
    found = quality.agreement(quality.prefix_groups(codes),
                              [tuple(part.T) for part in np.array_split(pairs, 3)])
    if not real:
        assert found is None
        return
    ends = [item for pair in real for item in pair]
    drawn = [(i, j) for i in ends for j in ends if i != j]
    for depth in (1, 2, 3):
        def share(given):
            return np.mean([codes[i, :depth].tolist() == codes[j, :depth].tolist()
                            for i, j in given])
        assert found["share"][depth - 1] == pytest.approx(share(real))
        assert found["chance"][depth - 1] == pytest.approx(share(drawn))


def test_partners_at_random_have_a_lift_of_one_however_popular():
    rng = np.random.default_rng(0)
    chance = 1 / np.arange(1, 501)
    ends = rng.choice(500, (2, 400_000), p=chance / chance.sum())
    codes = rng.integers(0, 4, (500, 2))
    found = quality.agreement(quality.prefix_groups(codes), [tuple(ends)])
    np.testing.assert_allclose(found["lift"], 1, atol=0.03)


def test_pairs_of_a_data_set_are_those_before_training_targets():
    # Items 5 6 7 | 8 9: targets are the places 1 and 2, window 2.
    pairs = engagement.co_engaged(np.arange(5, 10), np.array([0, 5]),
                                  np.array([[0, 1, 3]]), window=2)
    found = sorted(pair for one, other in pairs
                   for pair in zip(one.tolist(), other.tolist()))
    assert found == [(5, 6), (5, 7), (6, 7)]


def test_of_many_targets_evenly_spaced_rows_are_read():
    items, offsets = np.arange(40), np.arange(0, 41, 4)
    rows = np.array([[sequence, 1, 2] for sequence in range(10)])
    pairs = engagement.co_engaged(items, offsets, rows, most=5)
    assert np.concatenate([one for one, _ in pairs]).tolist() == [0, 8, 16, 24, 32]


def test_reconstruction_is_the_share_of_variance_left(monkeypatch):
    rng = np.random.default_rng(1)
    x = rng.normal(3, 1, (50, 4)).astype(np.float32)
    books = [rng.normal(3, 1, (3, 4)), rng.normal(0, 0.1, (2, 4))]
    codes = np.stack([rng.integers(0, 3, 50), rng.integers(0, 2, 50)], 1)
    variance = ((x - x.mean(0)) ** 2).sum()
    first = x - books[0][codes[:, 0]]
    expected = [(first ** 2).sum() / variance,
                ((first - books[1][codes[:, 1]]) ** 2).sum() / variance]
    for rows in (1 << 16, 7):
        monkeypatch.setattr(quality, "_ROWS_AT_ONCE", rows)
        found = quality.measure(codes, (3, 2), embeddings=x, codebooks=books)
        np.testing.assert_allclose(found["reconstruction"], expected, rtol=1e-5)


def test_reconstruction_asks_a_quantiser_of_another_kind():
    # Two subspaces with centroids 0 and 1 each: x = (0, 1), (1, 0), (1, 3). Their mean
    # is (2/3, 4/3) and their variance 2/3 + (1 + 16 + 25)/9 = 16/3. The first code
    # restores the first column and leaves 1 + 0 + 9, both leave (3 - 1)^2.
    x = np.array([[0, 1], [1, 0], [1, 3]], np.float32)

    def decode(codes):
        return np.pad(codes, ((0, 0), (0, 2 - codes.shape[1]))).astype(np.float32)
    figures = quality.measure(np.array([[0, 1], [1, 0], [1, 1]]), (2, 2), embeddings=x,
                              decode=decode)
    np.testing.assert_allclose(figures["reconstruction"], [10 * 3 / 16, 4 * 3 / 16])


def test_identical_embeddings_have_nothing_left_over():
    x = np.full((4, 2), 0.1, np.float32)
    found = quality.measure(np.zeros((4, 1), int), (1,), embeddings=x,
                            codebooks=[x[:1]])
    assert found["reconstruction"] == [0.0]
    assert found["perplexity"] == [1] and found["gini"] == [0]


def test_a_catalogue_of_one_item_has_every_figure():
    figures = quality.measure(
        np.array([[2, 0]]), (3, 2), embeddings=np.ones((1, 2), np.float32),
        codebooks=[np.ones((3, 2)), np.zeros((2, 2))], categories=["a"])
    assert figures["duplicates"] == 0 and figures["sids"] == 1
    assert figures["purity"] == [1, 1] and figures["nmi"] == [1, 1]
    assert figures["coverage"] == [pytest.approx(1 / 3), 0.5]
    json.dumps(figures, allow_nan=False)


def test_vectors_that_vary_about_a_far_mean_do_vary():
    rng = np.random.default_rng(0)
    x = (1.1e5 + rng.normal(size=(500, 4))).astype(np.float32)
    codes = np.zeros((500, 1), np.int32)
    left = quality.reconstruction(x, codes, lambda known: x.mean(axis=0, dtype=float))
    assert left == pytest.approx([1], rel=1e-6)
    assert quality.reconstruction(np.full((9, 4), np.float32(0.1)), codes[:9],
                                  lambda known: 0.1) == [0]
