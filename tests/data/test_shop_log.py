"""The shop's log as a prepared data set."""

import dataclasses

import numpy as np
import pyarrow.parquet as pq
import pytest

from oxyrec_jax.base import InputError
from oxyrec_jax.data import dataset, prepare, shop
from oxyrec_jax.evaluate import baselines
from oxyrec_jax.evaluate import rows as split_rows

CONFIG = shop.ShopConfig(users=700, items=400, events_per_user=14.0, max_events=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("shop") / "log"
    shop.prepare_shop(CONFIG, target)
    return target


@pytest.fixture(scope="module")
def log(folder):
    return dataset.load_dataset(folder)


def tables(folder):
    return {name: pq.read_table(folder / f"{name}.parquet")
            for name in ("items", "users", "people", "queries", "requests", "needs")}


def assert_same_log(one, other, sequences=None):
    """Compares two bundles' data, or that of their first sequences, bit by bit."""
    first, second = dataset.load_dataset(one), dataset.load_dataset(other)
    count = sequences or first.num_sequences
    events = first.offsets()[count]
    np.testing.assert_array_equal(first.offsets()[:count + 1],
                                  second.offsets()[:count + 1])
    for name in shop.prepare.COLUMNS:
        np.testing.assert_array_equal(first.column(name)[:events],
                                      second.column(name)[:events])
    if sequences is None:
        for name, table in tables(one).items():
            assert table.equals(tables(other)[name]), name
        for name in first.splits:
            np.testing.assert_array_equal(first.splits[name], second.splits[name])


def test_the_log_does_not_depend_on_how_many_are_simulated_together(folder, tmp_path):
    shop.prepare_shop(CONFIG, tmp_path / "log", people_together=123)
    assert_same_log(folder, tmp_path / "log")


def test_more_people_leave_the_first_ones_logs_as_they_were(folder, tmp_path):
    shop.prepare_shop(dataclasses.replace(CONFIG, users=300), tmp_path / "log")
    assert_same_log(tmp_path / "log", folder, sequences=300)


def test_the_same_run_again_writes_the_same_files(folder, tmp_path):
    again = shop.prepare_shop(CONFIG, tmp_path / "log")
    assert again["files"] == dataset.load_dataset(folder).manifest["files"]


def test_another_seed_is_another_world(folder):
    one = shop.load_shop(folder)
    other = shop.build_shop(dataclasses.replace(CONFIG, seed=1))
    assert one.items.brands.names != other.items.brands.names
    assert (one.items.leaf != other.items.leaf).any()
    assert (one.days.rain != other.days.rain).any()
    first, second = (shop.simulate_people(built.world, np.arange(700))
                     for built in (one, other))
    assert abs(np.corrcoef(first.tier, second.tier)[0, 1]) < 0.19  # 5 standard errors


def test_events_are_what_the_requests_say(folder, log):
    requests = tables(folder)["requests"]
    assert log.manifest["counts"]["requests"] == len(requests)
    np.testing.assert_array_equal(requests["request"], np.arange(len(requests)))
    number = log.column("request")
    shown = np.stack(requests["shown"].to_numpy())
    outcome = np.stack(requests["outcome"].to_numpy())
    row, place = np.nonzero(outcome)
    np.testing.assert_array_equal(number, row)
    np.testing.assert_array_equal(log.column("item"), shown[row, place])
    np.testing.assert_array_equal(log.column("behaviour"), outcome[row, place] - 1)
    np.testing.assert_array_equal(log.column("time"),
                                  requests["time"].to_numpy()[row] + place)
    np.testing.assert_array_equal(log.column("trigger"),
                                  requests["trigger"].to_numpy()[row])
    sequence = np.repeat(np.arange(log.num_sequences), np.diff(log.offsets()))
    np.testing.assert_array_equal(sequence, requests["sequence"].to_numpy()[row])
    price = log.item_table()["price"].to_numpy()
    np.testing.assert_array_equal(log.column("price"), price[log.column("item")])


def test_no_item_is_shown_twice_in_a_list(folder):
    shown = np.stack(tables(folder)["requests"]["shown"].to_numpy())
    ranked = np.sort(shown, axis=1)
    assert ((np.diff(ranked, axis=1) > 0) | (ranked[:, 1:] == -1)).all()


def test_times_rise_strictly_within_a_sequence_and_start_with_the_log(log):
    time, offsets = log.column("time"), log.offsets()
    rises = np.diff(time) > 0
    rises[offsets[1:-1] - 1] = True
    assert rises.all()
    assert time.min() >= np.datetime64(CONFIG.start).astype("datetime64[s]").astype(int)


def test_everybody_makes_the_events_that_were_drawn(folder, log):
    built = shop.load_shop(folder)
    people = shop.simulate_people(built.world, np.arange(CONFIG.users))
    np.testing.assert_array_equal(np.diff(log.offsets()), people.events)


def test_scenarios_bring_their_triggers_and_queries(folder, log):
    name = np.array(shop.SCENARIOS)[log.column("scenario")]
    trigger, query = log.column("trigger"), log.column("query")
    assert (trigger[np.isin(name, ["home", "channel", "search"])] == -1).all()
    assert (trigger[name == "checkout"] >= 0).mean() > 0.9
    assert (trigger[name == "feed"] >= 0).mean() > 0.8
    assert ((query >= 0) == (name == "search")).all()
    assert set(name) == set(shop.SCENARIOS)
    requests, needs = tables(folder)["requests"], tables(folder)["needs"]
    need = requests["need"].to_numpy()
    asked = requests["query"].to_numpy()
    for row in np.flatnonzero(asked >= 0)[:200]:
        wanted = needs["category"][int(need[row])].as_py().split(" > ")[-1]
        assert log.queries()[asked[row]].endswith(wanted.lower())


def test_context_needs_agree_with_the_rules_of_their_request(folder):
    """What the request table says held is enough to fire the need's rule."""
    parts = tables(folder)
    requests, needs, people = parts["requests"], parts["needs"], parts["people"]
    rules = {rule.name: rule for rule in shop.load_knowledge().rules}
    kind = np.array(needs["kind"].to_pylist())[requests["need"].to_numpy()]
    share = (kind == "context").mean()
    assert 0.2 < share < 0.4  # context_needs is .3
    checked = 0
    # A session keeps its need while the day may turn, so only first requests hold.
    session = np.diff(requests["time"].to_numpy(), prepend=0) > 3_600
    for row in np.flatnonzero((kind == "context") & session)[:300]:
        one = requests.slice(row, 1).to_pylist()[0]
        person = people.slice(one["sequence"], 1).to_pylist()[0]
        facts = {*one["weather"].split(), *one["calendar"].split(), person["life"],
                 person["gender"], person["pet"], *person["hobbies"]}
        facts |= {"thrifty"} if person["price_tier"] < -0.6 else set()
        facts |= {"premium"} if person["price_tier"] > 0.8 else set()
        rule = rules[needs["rule"][one["need"]].as_py()]
        checked += set(rule.when) <= facts
    assert checked > 0.8 * 300  # the rest took up the need of an earlier session


def test_next_items_can_be_learnt_and_popularity_is_not_enough(log):
    events = split_rows.of_dataset(log)
    targets = split_rows.expand(events, log.split("test"))
    hits = {}
    for name in ("popularity", "markov"):
        lists = getattr(baselines, name)(events, targets, 10)
        hits[name] = (lists == targets.item[:, None]).any(axis=1).mean()
    assert 0.01 < hits["popularity"] < 0.2
    assert hits["markov"] > 3 * hits["popularity"]


def test_temporal_protocol_cuts_by_time(folder, tmp_path):
    shop.prepare_shop(CONFIG, tmp_path / "log", protocol="P2", people_together=250)
    assert_same_log(folder, tmp_path / "log", sequences=700)
    cut = dataset.load_dataset(tmp_path / "log")
    time, offsets = cut.column("time"), cut.offsets()

    def times(split):
        targets = cut.targets(split)
        return time[offsets[targets[:, 0]] + targets[:, 1]]
    assert times("train").max() <= times("valid").min()
    assert times("valid").max() <= times("test").min()
    targets = cut.num_events - cut.num_sequences
    assert len(cut.targets("train")) == targets * 8 // 10


def test_leave_one_out_holds_the_last_two_events(log):
    lengths = np.diff(log.offsets())
    np.testing.assert_array_equal(log.split("test")[:, 1], lengths - 1)
    np.testing.assert_array_equal(log.split("valid")[:, 1], lengths - 2)


def test_prepare_knows_the_shop(folder, tmp_path):
    manifest = prepare.prepare(
        prepare.DataConfig(source="shop", shop=CONFIG), tmp_path / "log")
    assert manifest["source"] == "shop" and manifest["protocol"] == "P1"
    assert_same_log(folder, tmp_path / "log")


def test_a_shop_without_exposures_leaves_them_out(folder, tmp_path):
    shop.prepare_shop(dataclasses.replace(CONFIG, keep_exposures=False),
                      tmp_path / "log")
    names = pq.read_table(tmp_path / "log" / "requests.parquet").column_names
    assert "need" in names and "shown" not in names
    assert_same_log(folder, tmp_path / "log", sequences=700)


def test_people_who_never_click_have_no_sequence(tmp_path):
    quiet = dataclasses.replace(CONFIG, users=40, events_per_user=5.0, max_events=6,
                                click_bias=-7.0)
    manifest = shop.prepare_shop(quiet, tmp_path / "log")
    counts = manifest["counts"]
    assert counts["people_without_events"] > 0
    assert counts["users"] + counts["people_without_events"] == 40
    people = pq.read_table(tmp_path / "log" / "people.parquet")
    assert people["user_id"].to_pylist() == dataset.load_dataset(
        tmp_path / "log").user_ids()


def test_bad_wishes_end_in_one_sentence(tmp_path, folder):
    with pytest.raises(InputError, match="protocol is 'P3', expected P1 or P2"):
        shop.prepare_shop(CONFIG, tmp_path / "log", protocol="P3")
    with pytest.raises(InputError, match="disk is full"):
        full_disk(tmp_path)
    other = tmp_path / "sequences"
    dataset.write_dataset(other, _two_events, facts={"source": "table"})
    with pytest.raises(InputError, match="made from 'table', expected 'shop'"):
        shop.load_shop(other)


def full_disk(tmp_path):
    import errno
    import unittest.mock
    error = OSError(errno.ENOSPC, "No space left on device")
    with unittest.mock.patch("pyarrow.parquet.ParquetWriter.write_table",
                             side_effect=error):
        shop.prepare_shop(CONFIG, tmp_path / "full")


def _two_events(out):
    from oxyrec_jax.data import schema
    out.add_items(schema.item_table({"item_id": ["a"]}))
    out.add_sequences({"item": np.zeros(2, np.int32)}, [2], ["user"])


def test_a_policy_meets_the_same_people_in_a_closed_loop(folder):
    """One request of everybody under a policy of one's own, as an A/B test would."""
    import jax
    import jax.numpy as jnp
    built = shop.load_shop(folder)
    world = built.world

    @jax.jit
    def visit(visitors, lists):
        draws = shop.draw(world, visitors, CONFIG.candidates, lists.shape[1])
        visitors = shop.next_moment(world, visitors, draws)
        responses = shop.response_probabilities(world, visitors.people,
                                                visitors.moment, lists)
        outcome = shop.respond(visitors, lists, responses, draws)
        return shop.remember(world, visitors, lists, outcome, draws), outcome, responses
    people = jax.jit(shop.draw_people)(world, jnp.arange(4_096))
    lists = jnp.asarray(np.random.default_rng(0).integers(0, 400, (4_096, 5)))
    visitors, outcome, responses = visit(shop.begin(people), lists)
    # Clicks are as many as the truth says, within five standard errors.
    looks = shop.look_probabilities(5)
    expected = np.asarray(responses.click * looks, np.float64)
    error = np.sqrt((expected * (1 - expected)).sum())
    assert abs((np.asarray(outcome) > 0).sum() - expected.sum()) < 5 * error
    orders = np.asarray(responses.order * looks, np.float64)
    assert abs((np.asarray(outcome) == 3).sum() - orders.sum()) < 5 * np.sqrt(
        orders.sum())
    np.testing.assert_array_equal(visitors.left,
                                  people.events - (np.asarray(outcome) > 0).sum(axis=1))
