"""States of a log's users: what was done before a moment, and nothing else."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oxyrec_jax import user_states
from oxyrec_jax.base import InputError
from oxyrec_jax.data import dataset as datasets
from oxyrec_jax.data import schema, shop
from oxyrec_jax.data.shop import knowledge
from oxyrec_jax.thinking.states import Deed, state_from_json, state_to_json

START = 1_704_067_200  # 1 January 2024
DAYS = (20, 170, 364)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop") / "data"
    shop.prepare_shop(shop.ShopConfig(users=60, items=200, seed=3), folder)
    return datasets.load_dataset(folder)


@pytest.fixture(scope="module")
def states(log):
    return user_states.LogStates(log, history=5, searches=3)


def at(states, moment):
    users = np.arange(len(states.users))
    return list(states.states(users, np.full(len(users), moment)))


@pytest.mark.parametrize("day", DAYS)
def test_a_state_is_the_newest_of_what_was_done_and_typed_before(log, states, day):
    moment = START + day * 86_400 + 43_200
    titles = log.item_table()["title"].to_pylist()
    requests = pq.read_table(log.folder / "requests.parquet", columns=[
        "sequence", "time", "query"]).to_pylist()
    offsets, queries = log.offsets(), log.queries()
    columns = zip(*(log.column(name).tolist() for name in ("item", "behaviour",
                                                           "time")))
    events = list(columns)
    some = 0
    for sequence, state in enumerate(at(states, moment)):
        own = [event for event in events[offsets[sequence]:offsets[sequence + 1]]
               if event[2] < moment]
        assert state.history == tuple(
            Deed(titles[item], log.manifest["behaviours"][did], time)
            for item, did, time in own[-5:])
        typed = [queries[row["query"]] for row in requests
                 if row["sequence"] == sequence and row["time"] < moment
                 and row["query"] >= 0]
        assert state.searches == tuple(typed[-3:])
        assert (state.user, state.window) == (states.users[sequence], moment)
        some += len(state.history) + len(state.searches)
    assert some > 30


@pytest.mark.parametrize("day", DAYS)
def test_the_facts_are_those_that_hold_in_the_shops_world(log, states, day):
    moment = START + day * 86_400 + 43_200
    world = shop.load_shop(log.folder).world
    numbers = np.array([int(user.removeprefix("user-")) for user in states.users])
    people = shop.draw_people(world, numbers)
    second = np.full(len(numbers), moment - START, np.int32)
    holds = np.asarray(shop.facts_of(world, people, second))
    for state, row in zip(at(states, moment), holds, strict=True):
        assert state.facts == tuple(np.array(knowledge.FACTS)[row])
        assert state.place and "degrees" in state.weather and "2024" in state.time
        assert state_from_json(state_to_json(state), "here") == state


def test_what_people_need_changes_no_state(log, states, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(log.folder, folder)
    rng = np.random.default_rng(0)
    needs = pq.read_table(folder / "needs.parquet")
    pq.write_table(needs.take(rng.permutation(len(needs))), folder / "needs.parquet")
    requests = pq.read_table(folder / "requests.parquet")
    shuffled = pa.array(rng.permutation(requests["need"].to_numpy()))
    requests = requests.set_column(requests.column_names.index("need"), "need",
                                   shuffled)
    pq.write_table(requests, folder / "requests.parquet")
    other = user_states.LogStates(datasets.load_dataset(folder, verify=False),
                                  history=5, searches=3)
    for day in DAYS:
        moment = START + day * 86_400
        assert at(other, moment) == at(states, moment)
    (folder / "needs.parquet").unlink()
    assert at(user_states.LogStates(datasets.load_dataset(folder, verify=False),
                                    history=5, searches=3), moment) == at(
                                        states, moment)


def test_users_who_changed_are_due_when_their_window_has_ended(log, states):
    since, now = START + 100 * 86_400, START + 200 * 86_400
    users, windows = states.changed(since, now, 3_600)
    owner = np.repeat(np.arange(log.num_sequences), np.diff(log.offsets()))
    time = log.column("time")
    expected = {(user, (moment // 3_600 + 1) * 3_600) for user, moment in
                zip(owner.tolist(), time.tolist())
                if since <= moment < now and (moment // 3_600 + 1) * 3_600 <= now}
    assert len(users) == len(expected) > 50
    assert set(zip(users.tolist(), windows.tolist())) == expected
    assert (np.diff(windows) >= 0).all()


def test_requests_are_answered_from_the_window_that_ended_before(log, states):
    users, windows = states.before("test", 300)
    asked = user_states.request_times(log)
    for sequence, position in log.targets("test").tolist():
        moment = asked[log.offsets()[sequence] + position]
        assert moment // 300 * 300 in windows[users == sequence].tolist()
    assert len(users) == len(log.targets("test"))  # leave-one-out: one each
    # A request has one time, which is not later than any of its events.
    request, time = log.column("request"), log.column("time")
    for number in np.unique(request)[:50]:
        of = request == number
        assert set(asked[of]) == {time[of].min()}


def write_log(folder, **columns):
    def fill(out):
        out.add_items(schema.item_table({"item_id": ["a", "b", "c"],
                                         "title": ["Tea", "", None]}))
        out.add_queries(["green tea", "cup"])
        out.add_sequences({"item": np.array([0, 1, 2, 0]), **columns},
                          np.array([3, 1]), ["u", "v"])
        out.add_targets("train", np.array([[0, 1, 3]]))
    datasets.write_dataset(folder, fill, columns=("item", *columns),
                           facts={"source": "table", "behaviours": ["view", "buy"]})
    return datasets.load_dataset(folder)


def test_a_log_that_is_no_shop_gives_titles_behaviours_and_searches(tmp_path):
    log = write_log(tmp_path / "d", time=np.array([100, 200, 300, 50]),
                    behaviour=np.array([0, 1, 1, 0], np.int8),
                    query=np.array([0, 0, 1, -1], np.int32),
                    request=np.array([7, 7, 8, 9]))
    states = user_states.LogStates(log)
    first, second = states.states(np.array([0, 1]), np.array([300, 300]))
    assert first.history == (Deed("Tea", "view", 100), Deed("b", "buy", 200))
    assert first.searches == ("green tea",)  # one request, one search
    assert (first.time, first.facts, first.window) == ("Thursday 1 January 1970", (),
                                                       300)
    assert second.history == (Deed("Tea", "view", 50),) and not second.searches
    assert states.everyone(100).tolist() == [1]


def test_a_log_without_times_gives_all_and_can_not_be_replayed(tmp_path):
    states = user_states.LogStates(write_log(tmp_path / "d"))
    first, _ = states.states(states.everyone(0), None)
    assert first.history == (Deed("Tea"), Deed("b"), Deed("c"))
    assert (first.time, first.window) == ("", 0)
    for replay in (lambda: states.changed(0, 9, 1), lambda: states.before("train", 1),
                   states.last):
        with pytest.raises(InputError, match="has no times, so that nothing can be"):
            replay()


def test_a_request_s_state_holds_what_stood_before_its_first_event(log, states):
    titles, offsets = log.item_table()["title"].to_pylist(), log.offsets()
    items, requests = log.column("item"), log.column("request")
    events = np.array([offsets[5], offsets[6] - 1, offsets[9] - 2])
    firsts = user_states.request_begins(log)[events]
    for event, first, state in zip(events, firsts, states.at_requests(events)):
        owner = np.searchsorted(offsets, event, side="right") - 1
        same = np.flatnonzero(requests[offsets[owner]:event + 1] == requests[event])
        assert first == offsets[owner] + same[0] and state.user == states.users[owner]
        assert [deed.title for deed in state.history] == [
            titles[item] for item in items[max(offsets[owner], first - 5):first]]
        assert state.profile and state.place and state.window == log.column("time")[
            first]
