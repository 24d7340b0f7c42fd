"""The generator in the loop reads what evaluation reads, and shows what serving shows.
"""

import dataclasses
import types

import jax
import numpy as np
import pytest

from oxyrec_jax import ready
from oxyrec_jax.base import InputError
from oxyrec_jax.closed_loop import context, served
from oxyrec_jax.data import pipeline, shop
from oxyrec_jax.decode.beam import expand_items
from oxyrec_jax.decode.recommend import recommend
from oxyrec_jax.tokenizer.trie import Leaves

BEAMS, SLATE = 12, 8


@pytest.fixture(scope="module")
def opened(shop_workdir):
    return ready.load(shop_workdir, live=True, instructions="query")


@pytest.fixture(scope="module")
def arm(shop_workdir, opened):
    return served.generator_arm(
        "a", opened.model, ready.parameters(shop_workdir, opened, 0), opened.dataset,
        opened.catalogue, opened.leaves, slate=SLATE, beams=BEAMS, recent=8,
        start=START)


@pytest.fixture(scope="module")
def show(arm):
    return jax.jit(arm.policy.show)


START = 19723 * 86_400  # 2024-01-01, a Monday


def asked_in_log(dataset, rows):
    """The contexts of test targets as the loop would have built them."""
    targets = dataset.targets("test")[rows]
    place = dataset.offsets()[targets[:, 0]] + targets[:, 1]
    column = {name: np.asarray(dataset.column(name)).astype(np.int64)
              for name in dataset.columns if name != "price"}
    back = place[:, None] - 1 - np.arange(12)
    real = back >= dataset.offsets()[targets[:, 0]][:, None]
    history = context.History(*(
        np.where(real, column[name][np.where(real, back, 0)] - less, none).astype(
            np.int32) for name, none, less in
        (("item", -1, 0), ("behaviour", 0, 0), ("scenario", 0, 0), ("time", 0, START))))
    return context.Context(
        targets[:, 0].astype(np.int32), (column["time"][place] - START).astype(
            np.int32), *(column[name][place].astype(np.int32)
                         for name in ("scenario", "trigger", "query")), history)


def test_a_batch_of_the_loop_is_that_of_the_evaluation(arm, opened):
    rows = np.arange(20)
    batches = pipeline.eval_batches(opened.dataset, "test", batch=20, history=8,
                                    columns=opened.model.columns)
    log = batches.take(rows)
    loop = arm.policy.batch(arm.arrays, asked_in_log(opened.dataset, rows))
    assert set(loop) == set(opened.model.reads)
    for name, made in loop.items():
        expected = log[name]
        if name in ("gap", "hour", "weekday"):
            # The log's request is told by its first event, a place or more later.
            last = log["target_positions"][:, 0]
            inside = np.arange(8) < last[:, None]
            made, expected = np.where(inside, made, 0), np.where(inside, expected, 0)
        np.testing.assert_allclose(made, expected, rtol=1e-6, err_msg=name)


def test_slates_are_the_first_items_of_the_serving_search(arm, show, opened):
    rows = np.arange(16)
    asked = asked_in_log(opened.dataset, rows)
    shown = show(arm.arrays, asked)
    found = recommend(opened.model, arm.arrays.params,
                      arm.policy.batch(arm.arrays, asked), opened.catalogue,
                      beams=BEAMS)
    np.testing.assert_array_equal(
        shown, expand_items(found, opened.leaves, limit=SLATE))


@pytest.mark.parametrize("seed", range(5))
def test_slates_of_shared_and_dead_ids_are_those_of_expand_items(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 4, 12)
    first = np.concatenate([[0], np.cumsum(sizes)])
    items = rng.permutation(first[-1]).astype(np.int32)
    leaves = np.stack([rng.permutation(12)[:5] for _ in range(6)]).astype(np.int32)
    for row, dead in enumerate(rng.integers(0, 6, 6)):
        leaves[row, 5 - dead:] = -1
    expected = expand_items(leaves, Leaves(first, items), limit=7)
    np.testing.assert_array_equal(
        served.slates(leaves, first.astype(np.int32), items, 7), expected)


def test_other_parameters_serve_through_the_same_program(arm, show, opened):
    asked = asked_in_log(opened.dataset, np.arange(16))
    first, programs = show(arm.arrays, asked), show._cache_size()
    turned = served.with_params(arm, jax.tree.map(lambda leaf: -leaf,
                                                  arm.arrays.params))
    other = show(turned.arrays, asked)
    assert show._cache_size() == programs
    assert (np.asarray(first) != np.asarray(other)).any()


def test_a_policy_never_gets_the_need(shop_workdir):
    fields = {field.name for part in (context.Context, context.History)
              for field in dataclasses.fields(part)}
    assert fields == {"person", "second", "scenario", "trigger", "query", "history",
                      "items", "behaviours", "scenarios", "seconds"}
    # And what it gets does not change with the need, but for what is typed.
    built = shop.load_shop(shop_workdir.data)
    first_query = shop.query_texts(built.known)[1]
    none = np.zeros((4, 3), np.int32)

    def seen(need, scenario):
        moment = types.SimpleNamespace(
            second=none[:, 0], trigger=none[:, 1] - 1, need=np.full(4, need),
            scenario=np.full(4, scenario))
        return context.observe(
            built.world, first_query, np.arange(4),
            types.SimpleNamespace(moment=moment),
            types.SimpleNamespace(exact=np.linspace(0, 1, 4, endpoint=False)),
            context.History(none, none, none, none))
    for scenario, name in enumerate(shop.SCENARIOS):
        one, other = seen(3, scenario), seen(200, scenario)
        assert (one.query != other.query).all() == (name == "search")
        for part in ("person", "second", "scenario", "trigger", "history"):
            jax.tree.map(np.testing.assert_array_equal, getattr(one, part),
                         getattr(other, part))


def test_a_slate_longer_than_the_search_is_refused(opened):
    with pytest.raises(InputError, match="4 beams for slates of 8"):
        served.generator_arm("a", opened.model, {}, opened.dataset, opened.catalogue,
                             opened.leaves, slate=8, beams=4, recent=8, start=START)
