"""Profiles and the calendar in the encoder: what they change, and for whom."""

import dataclasses

import jax
import numpy as np
import pytest

import tiny_world
from oxyrec_jax.models import sides

ROWS = 7  # of the table of profiles
SEGMENTS = [[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 1]]


@pytest.fixture(scope="module")
def world():
    """A network that reads profiles and hours, its parameters stirred."""
    model = dataclasses.replace(
        tiny_world.make_model(profile=("city", "hobbies"), sides=("hour",)),
        profile=ROWS)
    catalogue, _ = tiny_world.make_items()
    batch = tiny_world.make_batch(segments=SEGMENTS)
    people = np.array([[1, 4, 5], [2, 6, -1], [0, 3, -1], [-1, -1, -1]], np.int32)
    who = np.array([[0, 0, 0, 1, 1, 3], [2, 2, 2, 2, 2, 2]])
    batch |= {"profile": people[who],
              "hour": np.full(who.shape, 5, np.float32)}
    params = tiny_world.init_params(model, batch, catalogue.tables)
    zero = params["side_in"]["profile_vectors"], params["side_in"]["nobody"]
    assert not any(np.asarray(table).any() for table in zero)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: leaf + 0.3 * rng.normal(
        size=leaf.shape).astype(np.float32), params)
    run = jax.jit(lambda batch: model.apply({"params": params}, batch,
                                            catalogue.tables, method="encode"))
    return model, params, batch, run


def changed(world, **columns):
    """Which positions `[B, L]` another column moves."""
    _, _, batch, run = world
    before, after = (np.asarray(run(one)) for one in (batch, {**batch, **columns}))
    return (np.abs(after - before) > 1e-6).any(axis=-1)


def test_a_profile_moves_its_own_history_and_no_other_of_the_row(world):
    profile = world[2]["profile"].copy()
    profile[0, :3, 0] = 2  # the first window's person moves to another city
    moved = changed(world, profile=profile)
    np.testing.assert_array_equal(moved[0, :5], [True] * 3 + [False] * 2)
    assert not moved[1].any()


def test_an_hour_moves_what_comes_after_and_nothing_before(world):
    hour = world[2]["hour"].copy()
    hour[1, 3] = 6
    np.testing.assert_array_equal(changed(world, hour=hour)[1],
                                  [False] * 3 + [True] * 3)


def test_the_vectors_of_a_profile_are_summed_and_nobody_has_one_of_its_own(world):
    model, params, batch, _ = world
    table = {name: np.asarray(array) for name, array in params["side_in"].items()}
    net = sides.SideVectors((), model.cfg.width, ROWS)
    own = {"params": {name: table[name] for name in ("profile_vectors", "nobody")}}
    found = np.asarray(net.apply(own, batch))
    rows = table["profile_vectors"]
    np.testing.assert_allclose(found[0, 0], rows[1] + rows[4] + rows[5], rtol=1e-5)
    np.testing.assert_allclose(found[0, 3], rows[2] + rows[6], rtol=1e-5)
    np.testing.assert_allclose(found[0, 5], table["nobody"][0], rtol=1e-5)


def test_training_hides_a_tenth_of_the_histories_each_as_a_whole(world):
    model, params, _, _ = world
    net = sides.SideVectors((), model.cfg.width, ROWS)
    own = {"params": {name: params["side_in"][name]
                      for name in ("profile_vectors", "nobody")}}
    segments = np.tile(np.repeat(np.arange(1, 5, dtype=np.int32), 3), (500, 1))
    batch = {"profile": np.full((500, 12, 1), 2, np.int32), "segments": segments}
    found = np.asarray(net.apply(own, batch, train=True,
                                 rngs={"dropout": jax.random.key(0)}))
    hidden = np.isclose(found, np.asarray(params["side_in"]["nobody"])[0]).all(-1)
    whole = hidden.reshape(500, 4, 3)
    assert (whole.all(-1) == whole.any(-1)).all()
    assert abs(whole[..., 0].mean() - 0.1) < 5 * (0.1 * 0.9 / 2_000) ** 0.5


def test_events_put_before_a_history_are_of_the_same_person():
    column = np.array([[[1, 4], [1, 4]], [[2, -1], [2, -1]]], np.int32)
    ones = np.ones((2, 2), np.float32)
    batch = {"items": np.array([[5, 6], [7, 8]]), "segments": ones.astype(np.int32),
             "target_positions": np.array([[1], [0]]), "profile": column, "gap": ones}
    found = sides.prepend(batch, np.array([[3, 9, -1]] * 2), ("profile", "gap"))
    np.testing.assert_array_equal(found["profile"], [[[1, 4]] * 5, [[2, -1]] * 5])
    np.testing.assert_array_equal(found["gap"], [[0, 0, 0, 1, 1]] * 2)
    np.testing.assert_array_equal(found["items"], [[3, 9, 0, 5, 6], [3, 9, 0, 7, 8]])
    np.testing.assert_array_equal(found["segments"], [[1, 1, 0, 1, 1]] * 2)
    np.testing.assert_array_equal(found["target_positions"], [[4], [3]])


def test_buckets_of_the_calendar_are_its_numbers():
    np.testing.assert_array_equal(sides.bucket("hour", np.array([0.0, 1, 24])),
                                  [0, 1, 24])
    np.testing.assert_array_equal(sides.bucket("weekday", np.array([0.0, 7])), [0, 7])


def test_a_network_names_the_columns_that_it_reads(world):
    assert world[0].columns == ("hour", "profile")
    assert {"hour", "profile"} <= set(world[0].reads)
    assert tiny_world.make_model().columns == ()
