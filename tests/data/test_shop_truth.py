"""The truth put together from a log is the truth that the log was drawn from."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest

from oxyrec_jax.base import InputError
from oxyrec_jax.data import dataset, shop
from oxyrec_jax.data.impressions import load_impressions
from oxyrec_jax.data.shop import truth

CONFIG = shop.ShopConfig(users=60, items=200, events_per_user=14.0, max_events=40)
STEPS = 25  # requests of everybody that are lived through again


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    target = tmp_path_factory.mktemp("shop") / "log"
    shop.prepare_shop(CONFIG, target)
    return dataset.load_dataset(target)


def lived_again(log):
    """What everybody is shown and the chances that it was drawn from, step by step."""
    world = shop.load_shop(log.folder).world

    @jax.jit
    def visit(visitors):
        draws = shop.draw(world, visitors, CONFIG.candidates, CONFIG.slate)
        visitors = shop.next_moment(world, visitors, draws)
        shown, responses = shop.old_recommender(world, visitors, draws, CONFIG.slate)
        outcome = shop.respond(visitors, shown, responses, draws)
        return shop.remember(world, visitors, shown, outcome, draws), shown, responses
    numbers = [int(name.removeprefix("user-")) for name in log.user_ids()]
    visitors = shop.begin(jax.jit(shop.draw_people)(world, jnp.array(numbers)))
    steps = []
    for _ in range(STEPS):
        visitors, shown, responses = visit(visitors)
        steps.append((np.asarray(shown), responses))
    return steps


def test_the_chances_of_a_log_are_those_that_drew_it(log):
    found = load_impressions(log)
    # The how-many-th request of its person each is: requests stand person by person.
    sequence = pq.read_table(log.folder / "requests.parquet")["sequence"].to_numpy()
    first = np.searchsorted(sequence, found.sequence)
    step = found.row - first
    chances = truth.true_chances(log, found)
    compared = 0
    for number, (shown, responses) in enumerate(lived_again(log)):
        mine = np.flatnonzero(step == number)
        person = found.sequence[mine]
        np.testing.assert_array_equal(found.shown[mine], shown[person])
        real = found.shown[mine] >= 0
        for name in ("click", "cart", "order"):
            np.testing.assert_allclose(
                chances[name][mine][real],
                np.asarray(getattr(responses, name))[person][real], rtol=1e-4)
        compared += int(real.sum())
    assert compared > 5_000


def test_looks_fall_with_the_place():
    np.testing.assert_allclose(truth.true_looks(3), [1, 2 ** -0.35, 3 ** -0.35],
                               rtol=1e-6)


def test_other_items_can_be_asked_for_and_empty_places_have_no_chance(log):
    found = load_impressions(log).take(np.arange(5))
    items = np.where(np.arange(4) < 3, found.shown[:, :4], -1)
    own, other = truth.true_chances(log, found), truth.true_chances(log, found, items)
    np.testing.assert_array_equal(other["click"][:, :3], own["click"][:, :3])
    assert (other["click"][:, 3] == 0).all()


def test_where_the_truth_is_not_known_it_is_not_made_up(log):
    config = {**log.manifest["config"], "intents": 3}
    standing = dataclasses.replace(log, manifest={**log.manifest, "config": config})
    with pytest.raises(InputError, match="without standing intents alone"):
        truth.true_chances(standing, load_impressions(log))
    other = dataclasses.replace(log, manifest={**log.manifest, "source": "table"})
    assert not truth.knows_truth(other) and truth.knows_truth(log)
