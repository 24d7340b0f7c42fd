"""The flat trie against a dictionary of prefixes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxyrec_jax.base import InputError
from oxyrec_jax.tokenizer import trie as tries
from oxyrec_jax.tokenizer import trie_layout

#  item  0: 1 0     sorted:  0 2  leaf 0  items 3
#        1: 1 2              1 0  leaf 1  items 0 2
#        2: 1 0              1 2  leaf 2  items 1
#        3: 0 2
CODES = np.array([[1, 0], [1, 2], [1, 0], [0, 2]])
WIDTHS = (2, 3)


class Prefixes:
    """The oracle: every prefix in a dictionary, numbered by sorting Python tuples."""

    def __init__(self, codes: np.ndarray):
        rows = [tuple(row) for row in codes.tolist()]
        self.levels = [
            sorted({row[: level + 1] for row in rows}) for level in range(len(rows[0]))
        ]

    def parents(self, level):
        return self.levels[level - 1] if level else [()]

    def children(self, level, parent):
        """(code, node) of each child of the parent."""
        return [
            (prefix[-1], node)
            for node, prefix in enumerate(self.levels[level])
            if prefix[:-1] == parent
        ]


def catalogue(seed: int, *, items: int, widths: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, width, items) for width in widths], axis=1)


def test_a_small_trie_by_hand():
    trie, leaves = tries.build_trie(CODES, WIDTHS)
    assert [codes.tolist() for codes in trie.codes] == [[0, 1], [2, 0, 2, -1]]
    assert [starts.tolist() for starts in trie.starts] == [[0, 2], [0, 1, 3]]
    assert trie.widths == (2, 3)
    assert trie.branches == (2, 2)  # both roots; two children under code 1
    assert leaves.offsets.tolist() == [0, 1, 3, 4]
    assert leaves.items.tolist() == [3, 0, 2, 1]
    assert leaves.of_items().tolist() == [1, 2, 1, 0]
    assert len(leaves) == 3 and trie.depth == 2


def test_items_that_share_an_id_follow_the_given_order():
    _, leaves = tries.build_trie(CODES, WIDTHS, order=np.array([2, 3, 1, 0]))
    assert leaves.items.tolist() == [3, 2, 0, 1]


def eager(function, **_):
    return function


@pytest.mark.parametrize(
    "wrap, items, widths",
    [
        (eager, 12, (5,)),
        (jax.jit, 12, (3, 5)),
        (jax.jit, 1, (1,)),
        (jax.jit, 1, (7, 3)),
        (jax.jit, 40, (50,)),
        (jax.jit, 300, (9, 6, 4)),
    ],
)
def test_every_node_agrees_with_a_dictionary_of_prefixes(wrap, items, widths):
    codes = catalogue(items, items=items, widths=widths)
    trie, _ = tries.build_trie(codes, widths)
    oracle = Prefixes(codes)
    children = wrap(tries.children, static_argnames="level")
    mask = wrap(tries.mask, static_argnames="level")
    advance = wrap(tries.advance, static_argnames="level")
    for level, width in enumerate(widths):
        parents = oracle.parents(level)
        # every real parent, a dead one, and the padding of the level before
        padding = len(trie.starts[level]) - 1
        nodes = np.r_[np.arange(padding), -1].astype(np.int32)
        want_mask = np.zeros((len(nodes), width), bool)
        want_next = np.full((len(nodes), width), -1)
        child_codes, child_nodes, legal = map(
            np.asarray, children(trie, level=level, nodes=nodes)
        )
        for node in range(len(nodes)):
            expected = []
            if node < len(parents):
                expected = oracle.children(level, parents[node])
            for code, child in expected:
                want_mask[node, code], want_next[node, code] = True, child
            real = legal[node]
            found = list(zip(child_codes[node][real], child_nodes[node][real]))
            assert found == expected
            assert np.all(real == (np.arange(real.size) < len(expected)))
            assert np.all(child_codes[node][~real] == 0)
            assert np.all(child_nodes[node][~real] == -1)
        np.testing.assert_array_equal(mask(trie, level=level, nodes=nodes), want_mask)
        grid = np.arange(width, dtype=np.int32)
        np.testing.assert_array_equal(
            advance(trie, level=level, nodes=nodes[:, None], codes=grid), want_next
        )
        # codes outside the level lead nowhere
        outside = np.array([-1, width, 2**31 - 1, -(2**31)], np.int32)
        beyond = advance(trie, level=level, nodes=nodes[:, None], codes=outside)
        assert np.all(np.asarray(beyond) == -1)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(*(st.integers(0, width - 1) for width in (3, 4, 2))),
        min_size=1,
        max_size=30,
    ),
    st.randoms(use_true_random=False),
)
def test_leaves_hold_every_item_once_by_id_then_priority(rows, random):
    codes = np.array(rows)
    order = list(range(len(rows)))
    random.shuffle(order)
    place = {item: rank for rank, item in enumerate(order)}
    _, leaves = tries.build_trie(codes, (3, 4, 2), order=np.array(order))
    assert leaves.items.tolist() == sorted(
        range(len(rows)), key=lambda item: (rows[item], place[item])
    )
    distinct = sorted(set(rows))
    assert len(leaves) == len(distinct)
    assert leaves.of_items().tolist() == [distinct.index(row) for row in rows]


def test_paths_of_items_end_at_their_leaf_and_unknown_ids_die_at_the_first_miss():
    codes = catalogue(3, items=200, widths=(6, 5, 4))
    trie, leaves = tries.build_trie(codes, (6, 5, 4))
    paths = np.asarray(tries.item_paths(trie, codes))
    oracle = Prefixes(codes)
    for row, path in zip(codes.tolist(), paths.tolist()):
        assert path == [
            oracle.levels[level].index(tuple(row[: level + 1])) for level in range(3)
        ]
    np.testing.assert_array_equal(paths[:, -1], leaves.of_items())
    one, _ = tries.build_trie(np.array([[2, 1, 3]]), (6, 5, 4))
    asked = np.array([[2, 1, 3], [2, 0, 3], [5, 1, 3], [2, 1, 9]])
    assert tries.item_paths(one, asked).tolist() == [
        [0, 0, 0],
        [0, -1, -1],
        [-1, -1, -1],
        [0, 0, -1],
    ]
    assert tries.item_paths(one, asked[:, :2]).shape == (4, 2)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 1, 2), (0,)])
def test_functions_keep_any_leading_shape(shape):
    trie, _ = tries.build_trie(CODES, WIDTHS)
    nodes = np.ones(shape, np.int32)
    codes = np.zeros((*shape, 2), np.int32)

    def shapes(function, *args):
        return jax.tree.map(lambda x: x.shape, jax.eval_shape(function, *args))

    assert shapes(lambda n: tries.children(trie, 1, n), nodes) == ((*shape, 2),) * 3
    assert shapes(lambda n: tries.mask(trie, 1, n), nodes) == (*shape, 3)
    assert shapes(lambda n: tries.advance(trie, 1, n, n), nodes) == shape
    assert shapes(lambda c: tries.item_paths(trie, c), codes) == (*shape, 2)


def test_tries_of_one_bucket_share_one_compiled_program():
    calls = []

    @jax.jit
    def legal(trie, nodes):
        calls.append(None)  # runs while tracing only
        return tries.mask(trie, 2, nodes)

    nodes, widths = jnp.arange(4, dtype=jnp.int32), (10, 10, 10)
    for seed in range(5):
        # 350 draws of 1,000 make 10 first codes, near 100 pairs and near 295 leaves
        codes = catalogue(seed, items=350, widths=widths)
        trie, leaves = tries.build_trie(codes, widths)
        assert 256 < len(leaves) <= 350 and trie.branches == (10, 10, 8)
        legal(trie, nodes)
    assert len(calls) == 1


def test_a_smaller_catalogue_takes_the_sizes_it_is_told_to_keep():
    large, _ = tries.build_trie(catalogue(0, items=400, widths=(8, 8, 8)), (8, 8, 8))
    codes = catalogue(1, items=3, widths=(8, 8, 8))
    small, leaves = tries.build_trie(codes, (8, 8, 8), at_least=large)
    assert jax.tree.structure(small) == jax.tree.structure(large)
    for mine, theirs in zip(jax.tree.leaves(small), jax.tree.leaves(large)):
        assert mine.shape == theirs.shape and mine.dtype == theirs.dtype == jnp.int32
    paths = tries.item_paths(small, codes)
    np.testing.assert_array_equal(paths[:, -1], leaves.of_items())
    every = np.asarray(tries.mask(small, 1, np.arange(8)))
    assert every.sum() == len({tuple(row) for row in codes[:, :2].tolist()})
    with pytest.raises(ValueError, match="widths"):
        tries.build_trie(codes, (8, 8, 9), at_least=large)


def test_many_wide_levels_sort_without_overflow():
    # six levels of 10,000 codes: 10^24 combinations do not fit one 64-bit key
    widths = (10_000,) * 6
    codes = catalogue(0, items=100, widths=widths)
    codes[50:, :5] = codes[:50, :5]
    trie, leaves = tries.build_trie(codes, widths)
    ordered = codes[leaves.items].tolist()
    assert ordered == sorted(codes.tolist())
    assert trie.branches == (64, 1, 1, 1, 1, 2)  # 50 roots, the last code forks


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**16), st.lists(
    st.sampled_from([1, 2, 3, 50, 2**13, 2**30]), min_size=1, max_size=6))
def test_any_widths_give_the_prefixes_of_sorted_tuples(seed, widths):
    # up to 180 bits of codes: one to six passes of the sort
    codes = catalogue(seed, items=40, widths=tuple(widths))
    codes[20:30, :1] = codes[:10, :1]
    codes[30:] = codes[:10]  # ten semantic IDs come twice
    order = np.random.default_rng(seed).permutation(40)
    levels, offsets, items = trie_layout.lay_out(codes, tuple(widths), order=order)
    rank = np.argsort(order)
    rows = codes.tolist()
    assert items.tolist() == sorted(range(40), key=lambda i: (rows[i], rank[i]))
    oracle = Prefixes(codes)
    for level, arrays in enumerate(levels):
        prefixes = oracle.levels[level]
        assert arrays.codes[:len(prefixes)].tolist() == [p[-1] for p in prefixes]
        assert np.all(arrays.codes[len(prefixes):] == -1)
        parents = [prefix[:-1] for prefix in prefixes]
        starts = [parents.index(parent) for parent in oracle.parents(level)]
        assert arrays.starts[:len(starts)].tolist() == starts
        assert np.all(arrays.starts[len(starts):] == len(prefixes))
    assert len(offsets) - 1 == len(oracle.levels[-1])


def test_sizes_are_powers_of_two_and_then_eighths_of_one():
    # above 1024 the step is 128: 1025 takes 1152, 2047 and 2048 take 2048
    sizes = [1, 2, 3, 1000, 1024, 1025, 1152, 1153, 2047, 2048, 2049]
    assert [trie_layout.bucket(size, 1024) for size in sizes] == [
        1, 2, 4, 1024, 1024, 1152, 1152, 1280, 2048, 2048, 2304]


def test_a_level_has_bits_where_they_are_no_larger_than_its_codes():
    # 40 roots take 64 places, their pairs 512: 2 and 64 * 2 words fit
    trie, _ = tries.build_trie(catalogue(0, items=400, widths=(40, 40)), (40, 40))
    assert [len(bits) for bits in trie.bits] == [1, 64]
    # 50 pairs at most take 64 places: 32 parents of 13 words each do not fit
    sparse, _ = tries.build_trie(catalogue(0, items=50, widths=(40, 400)), (40, 400))
    assert [len(bits) for bits in sparse.bits] == [1, 0]


def test_bytes_are_stated():
    trie, leaves = tries.build_trie(CODES, WIDTHS)
    # codes 2 + 4, starts 2 + 3, bits 1 + 2: int32 each
    assert trie.nbytes == 4 * (6 + 5 + 3)
    assert leaves.nbytes == 8 * 4 + 4 * 4


def test_a_level_with_more_nodes_than_ids_is_named(monkeypatch):
    monkeypatch.setattr(trie_layout, "MOST_NODES", 3)
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 2]])
    with pytest.raises(InputError, match="level 1 has 4 nodes, expected at most 3"):
        tries.build_trie(codes, WIDTHS)


def test_a_hundred_thousand_items_round_trip():
    widths = (256, 256, 256)
    codes = catalogue(0, items=100_000, widths=widths)
    trie, leaves = tries.build_trie(codes, widths)
    paths = jax.jit(tries.item_paths)(trie, codes)
    np.testing.assert_array_equal(paths[:, -1], leaves.of_items())
    assert len(leaves) == len(np.unique(codes, axis=0))


@pytest.mark.parametrize(
    "codes, message",
    [
        (np.zeros((0, 2), int), "found no items"),
        (np.array([[0, 0], [1, 3]]), "item 1 has code 3 at level 1, expected 0 to 2"),
        (np.array([[0, -1]]), "item 0 has code -1 at level 1"),
        (np.broadcast_to(np.int32(0), (2**31, 2)), "2147483648 items"),
    ],
    ids=["empty", "too wide", "negative", "too many"],
)
def test_bad_catalogues_are_told_in_one_sentence(codes, message):
    with pytest.raises(InputError, match=message) as error:
        tries.build_trie(codes, WIDTHS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "codes, widths, order",
    [
        (CODES.astype(float), WIDTHS, None),
        (CODES[0], WIDTHS, None),
        (CODES, (2,), None),
        (CODES, (2, 0), None),
        (CODES, (2, 2**31), None),
        (CODES, WIDTHS, [0, 1, 2]),
        (CODES, WIDTHS, [0, 1, 1, 3]),
        (CODES, WIDTHS, [0.0, 1.0, 2.0, 3.0]),
    ],
)
def test_wrong_shapes_and_dtypes_raise(codes, widths, order):
    order = None if order is None else np.array(order)
    with pytest.raises(ValueError):
        tries.build_trie(codes, widths, order=order)
    trie, _ = tries.build_trie(CODES, WIDTHS)
    with pytest.raises(ValueError, match="at most 2 codes"):
        tries.item_paths(trie, jnp.zeros((1, 3), jnp.int32))


def test_codes_beyond_32_bits_are_no_others():
    trie, _ = tries.build_trie(np.array([[0, 1], [3, 2]]), (4, 4))
    wide = np.array([[0, 1], [3, 2], [2**32, 1], [2**32 + 3, 2], [-2**32, 1]])
    found = np.asarray(tries.item_paths(trie, wide))
    assert (found[:2] >= 0).all() and (found[2:] == -1).all()
