"""Requests and candidates for the judge, from a shop's log and from a plain one."""

import pathlib

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny_workdir

from oxyrec_jax import cli, judge_requests
from oxyrec_jax.data import dataset as datasets
from oxyrec_jax.data import shop
from oxyrec_jax.data.target_weights import target_events


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop") / "data"
    shop.prepare_shop(shop.ShopConfig(users=60, items=200, seed=3), folder)
    return datasets.load_dataset(folder)


@pytest.fixture(scope="module")
def log(data):
    return judge_requests.LogRequests(data, history=5)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    tiny_workdir.write_csv(folder)
    cli.main(["prepare", "--workdir", str(folder / "work"), *tiny_workdir.settings(),
              "--source", "table", "--path", str(folder / "events.csv"),
              "--items", str(folder / "items.csv")])
    return datasets.load_dataset(pathlib.Path(folder / "work" / "data"))


def test_a_request_holds_what_was_known_when_it_was_made(data, log):
    table = pq.read_table(data.folder / "requests.parquet").to_pylist()
    events = target_events(data, "valid")
    titles = data.item_table()["title"].to_pylist()
    for event, request in zip(events.tolist(), log.of_targets("valid")):
        row = table[request.number]
        assert request.id == f"request-{row['request']}"
        assert (request.scenario, request.trigger) == (row["scenario"], row["trigger"])
        assert request.query == (data.queries()[row["query"]] if row["query"] >= 0
                                 else "")
        past = np.flatnonzero(data.column("request")[:event] < request.number)
        own = past[past >= data.offsets()[row["sequence"]]][-5:]
        assert request.history == tuple(data.column("item")[own].tolist())
        assert [deed.title for deed in request.state.history] == [
            titles[item] for item in request.history]
        assert request.has_context and 0 <= request.second - row["time"] < 20


def test_rows_of_a_split_are_asked_for_by_number(log):
    every = log.of_targets("train")
    some = log.of_targets("train", np.array([5, 0, 5]))
    assert some == [every[5], every[0], every[5]]


def test_candidates_of_a_shop_are_what_it_showed(data, log):
    logged = judge_requests.logged_candidates(log, "valid", most=30, candidates=6,
                                              seed=0)
    table = pq.read_table(data.folder / "requests.parquet").to_pylist()
    assert logged.shown and logged.items.shape == (30, 6)
    for request, items, chosen, user in zip(logged.requests, logged.items,
                                            logged.chosen, logged.users):
        row = table[request.number]
        assert items.tolist() == row["shown"][:6] and user == request.state.user
        assert chosen.tolist() == [value > 0 for value in row["outcome"][:6]]


def test_more_requests_hold_the_fewer_and_a_seed_takes_others(log):
    few, many, other = (judge_requests.logged_candidates(
        log, "valid", most=most, candidates=8, seed=seed)
        for most, seed in ((10, 0), (20, 0), (10, 1)))
    assert many.requests[:10] == few.requests != other.requests
    assert len({request.id for request in many.requests}) == 20


def test_a_log_without_exposures_gets_drawn_candidates_beside_the_chosen(plain):
    log = judge_requests.LogRequests(plain)
    one, again = (judge_requests.logged_candidates(
        log, "valid", most=20, candidates=8, seed=0) for _ in range(2))
    assert not one.shown and (one.items == again.items).all()
    events = target_events(plain, "valid")
    taken = {f"event-{event}": plain.column("item")[event] for event in events}
    for request, items, chosen in zip(one.requests, one.items, one.chosen):
        assert items[chosen].tolist() == [taken[request.id]]
        assert len(set(items.tolist())) == 8 and (items >= 0).all()
        assert not request.has_context and request.number == -1 and request.history
    assert judge_requests.item_texts(plain).titles[0]
