"""The loop: who comes, what is counted, who wins, and the same luck for everybody."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
import pytest

from oxyrec_jax.base import InputError
from oxyrec_jax.closed_loop import context, days, figures, policies, trial
from oxyrec_jax.data import dataset, shop
from oxyrec_jax.data.shop.contexts import SECONDS_A_DAY

DAYS, REQUESTS = 2, 4
COUNT = {name: place for place, name in enumerate(days.COUNTS)}


@dataclasses.dataclass(frozen=True)
class Fixed:
    """Shows everybody the same, whatever is given."""

    slate: int = 4
    history: int = 3

    def show(self, arrays, asked):
        return jnp.broadcast_to(arrays, (asked.second.shape[0], self.slate))


@pytest.fixture(scope="module")
def log(shop_workdir):
    return dataset.load_dataset(shop_workdir.data)


@pytest.fixture(scope="module")
def built(shop_workdir):
    return shop.load_shop(shop_workdir.data)


@pytest.fixture(scope="module")
def people(log, built):
    return days.people_of_log(log, built, log.num_sequences)


@pytest.fixture(scope="module")
def after(built):
    return shop.days_after(built, DAYS)


@pytest.fixture(scope="module")
def serve(log, built, people, after):
    """Serves some days; returns states and counts of each evening."""
    @functools.cache
    def run(policy, arrays=(), comes=0.8, seed=0):
        sequences = np.arange(log.num_sequences)
        arm = policies.Arm("arm", policy, jnp.asarray(arrays, jnp.int32))
        state = days.begin(people, context.history_of(log, sequences, policy.history,
                                                      0))
        found = []
        for day in range(DAYS):
            floor = days.Floor(
                after.world(day), jnp.asarray(days.luck_of(built.cfg, seed)),
                jnp.asarray(shop.query_texts(built.known)[1]),
                jnp.arange(built.cfg.items) != 7, jnp.int32(day), jnp.float32(comes))
            state, counts = days.advance(arm, floor, state, sequences,
                                         requests=REQUESTS, candidates=24)
            found.append((state, counts))
        return found
    return run


SOUND = {"why": "", "unsound": []}
OLD, BEST = (policies.Insider(kind, 4, 24) for kind in policies.INSIDERS)


def test_people_go_on_from_where_the_log_ended(people, log):
    items = context.history_of(log, np.arange(log.num_sequences), 5, 0)
    np.testing.assert_array_equal(people.moment.items[:, :5], items.items)
    recent = log.offsets()[1:] - 1
    np.testing.assert_array_equal(items.items[:, 0], log.column("item")[recent])
    np.testing.assert_array_equal(items.behaviours[:, 0],
                                  log.column("behaviour")[recent])


def test_a_log_of_another_release_is_refused(log, built):
    other = shop.build_shop(dataclasses.replace(built.cfg, click_bias=0.4))
    with pytest.raises(InputError, match="prepare the shop again"):
        days.people_of_log(log, other, 30)


def test_visits_lie_in_their_day_after_the_log(serve, built):
    for day, (state, counts) in enumerate(serve(OLD)):
        came = counts[:, :, COUNT["requests"]].sum(axis=1) > 0
        seconds = np.asarray(state.visitors.moment.second)[came]
        first = (built.cfg.days + day) * SECONDS_A_DAY
        assert 0.5 < came.mean() < 1
        # A visit that begins before midnight may end a little after it.
        assert (seconds >= first).all()
        assert (seconds < first + SECONDS_A_DAY + 3600).all()
        assert counts[:, :, COUNT["requests"]].sum(axis=1).max() <= REQUESTS


def test_what_is_counted_is_what_histories_and_memories_show(serve, people):
    before = people.moment.items
    for state, counts in serve(Fixed(), (3, 7, 3, 9)):
        whole = counts.sum(axis=1)
        # Item 7 is not in stock and item 3 stands there twice.
        np.testing.assert_array_equal(whole[:, COUNT["shown"]],
                                      4 * whole[:, COUNT["requests"]])
        np.testing.assert_array_equal(whole[:, COUNT["legal"]],
                                      2 * whole[:, COUNT["requests"]])
        clicks = whole[:, COUNT["clicks"]].astype(int)
        assert clicks.sum() > 0
        memory, history = state.visitors.moment.items, state.history
        for person, count in enumerate(np.minimum(clicks, 3)):
            np.testing.assert_array_equal(history.items[person, :count],
                                          memory[person, :count])
            assert set(memory[person, :count].tolist()) <= {3, 9}
            assert (history.items[person, 0] == before[person, 0]) or count
        before = memory


def test_events_of_a_request_join_the_history_as_in_the_log():
    old = context.History(*(np.array([[50, 51, 52]], np.int32) + 100 * part
                            for part in range(4)))
    moment = shop.Moment(*(np.array([value], np.int32) for value in (1_000, 4, -1, 0)),
                         *[np.zeros((1, 12), np.int32)] * 3)
    grown = context.grow(old, moment, np.array([[8, 9, 10, 11]], np.int32),
                         np.array([[1, 0, 3, 0]], np.int32))
    # The click on 8 came first, the order of 10 two places later; then what was there.
    np.testing.assert_array_equal(grown.items, [[10, 8, 50]])
    np.testing.assert_array_equal(grown.behaviours, [[2, 0, 150]])
    np.testing.assert_array_equal(grown.scenarios, [[4, 4, 250]])
    np.testing.assert_array_equal(grown.seconds, [[1_002, 1_000, 350]])


def test_all_policies_meet_the_same_people_on_the_same_days(serve):
    for (_, one), (_, other) in zip(serve(OLD), serve(BEST)):
        came = [(counts[:, :, 0].sum(axis=1) > 0) for counts in (one, other)]
        np.testing.assert_array_equal(*came)


def test_luck_is_that_of_the_seed(serve):
    # Asked in other words, so that it is served again and not remembered.
    first, again, other = (np.stack([counts for _, counts in found]) for found in (
        serve(OLD), serve(OLD, (), 0.8, 0), serve(OLD, seed=1)))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_the_truth_beats_the_old_recommender(serve):
    control, treatment = ([counts for _, counts in serve(policy)]
                          for policy in (OLD, BEST))
    found = trial.judge(
        {"old": control, "truth": treatment}, np.arange(len(control[0])),
        trial.Design(paired=True), SOUND)
    cell = found["treatments"]["truth"]["total"]["ctr"]
    assert cell["significant"] and cell["low"] > 0.5
    assert "significantly worse" in found["verdicts"]["truth"]


def test_a_policy_against_itself_differs_in_nothing_where_paired(serve):
    counts = [counts for _, counts in serve(OLD)]
    found = trial.judge({"old": counts, "again": counts}, np.arange(len(counts[0])),
                        trial.Design(paired=True), SOUND)
    for cells in found["treatments"]["again"].values():
        for name in figures.FIGURES:
            assert cells[name]["lift"] in (0.0, None)
            assert not cells[name]["significant"]
