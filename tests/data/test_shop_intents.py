"""Standing intents: long histories in which old projects are taken up again."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest

from oxyrec_jax.base import InputError
from oxyrec_jax.data import dataset, shop
from oxyrec_jax.data.shop import intents

LONG = shop.ShopConfig(users=40, items=2_000, events_per_user=400.0, max_events=800,
                       length_spread=0.3, session_end=0.5, intents=8)
AWAKE, CHOOSE = jax.jit(intents.awake_intents), jax.jit(intents.choose_intent)
LEAF, NOTE = jax.jit(intents.intent_leaf), jax.jit(intents.note)


@pytest.fixture(scope="module")
def built():
    return shop.build_shop(dataclasses.replace(LONG, items=400))


@pytest.fixture(scope="module")
def crowd(built):
    return jax.jit(shop.draw_people)(built.world, jnp.arange(2_048))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("long") / "log"
    shop.prepare_shop(LONG, target)
    return target


@pytest.fixture(scope="module")
def log(folder):
    return dataset.load_dataset(folder)


# --- spells ----------------------------------------------------------------------

def test_an_intent_is_awake_in_its_share_of_spells_and_throughout_each(built, crowd):
    seconds = np.arange(0, 365, 0.25) * 86_400
    held = np.stack([np.asarray(AWAKE(built.world, crowd, jnp.full(2_048, int(second))))
                     for second in seconds[:240]])  # [moments, people, intents]
    # 60 days are 12 spells, 2,048 * 8 intents: five standard errors are .004.
    assert abs(held.mean() - LONG.intent_awake) < 0.005
    changes = np.argwhere((held[1:] != held[:-1]).any(axis=2))
    for person in range(20):
        gaps = np.diff(changes[changes[:, 1] == person, 0]) * 0.25
        assert (gaps % LONG.intent_days == 0).all()  # only where a spell ends


def test_those_awake_take_turns_evenly_and_nobody_else(built, crowd):
    second = jnp.full(2_048, 40 * 86_400)
    awake = np.asarray(AWAKE(built.world, crowd, second))
    person = int(np.argmax(awake.sum(axis=1) == 3))  # three of the eight are awake
    same = jax.tree.map(lambda a: np.repeat(np.asarray(a)[person][None], 2_048, axis=0),
                        crowd)
    draws = jnp.asarray((np.arange(2_048) + 0.5) / 2_048, jnp.float32)
    found = np.asarray(CHOOSE(built.world, same, second, draws))
    none, counts = (found == -1).sum(), np.bincount(found[found >= 0], minlength=8)
    assert abs(none - 0.2 * 2_048) <= 1  # intent_share is .8
    np.testing.assert_array_equal(counts > 0, awake[person])
    np.testing.assert_allclose(counts[counts > 0], 0.8 * 2_048 / 3, atol=1)


def test_who_has_all_intents_asleep_pursues_none(built, crowd):
    second = jnp.full(2_048, 40 * 86_400)
    asleep = ~np.asarray(AWAKE(built.world, crowd, second)).any(axis=1)
    found = np.asarray(CHOOSE(built.world, crowd, second, jnp.full(2_048, 0.01)))
    assert asleep.any()
    np.testing.assert_array_equal(found == -1, asleep)


# --- what an intent is -----------------------------------------------------------

def test_a_need_of_an_intent_is_its_leaf_or_one_that_goes_with_it(built, crowd):
    draws = (np.arange(2_048) % 64 + 0.5) / 64
    leaf = np.asarray(LEAF(built.world, crowd, jnp.full(2_048, 3),
                           jnp.asarray(draws, jnp.float32)))
    own = np.asarray(crowd.projects)[:, 3]
    beside = np.asarray(built.world.complements)[own]
    assert ((leaf == own) == (draws < 0.25)).mean() > 0.99  # but where a leaf repeats
    assert ((leaf == own) | (leaf[:, None] == beside).any(axis=1)).all()


def test_the_look_speaks_only_for_the_intents_leaves_while_it_is_pursued(built, crowd):
    people = jax.tree.map(lambda a: a[:4], crowd)
    items = jnp.tile(jnp.arange(400), (4, 1))
    state = intents.begin_intents(people)
    state = dataclasses.replace(state, pursued=jnp.array([-1, 0, 0, 5]))
    fit = np.asarray(jax.jit(intents.intent_fit)(built.world, people, state, items))
    assert (fit[0] == 0).all()
    for person, intent in ((1, 0), (2, 0), (3, 5)):
        own = int(people.projects[person, intent])
        leaves = {own, *np.asarray(built.world.complements)[own].tolist()}
        here = np.isin(built.items.leaf, list(leaves))
        expected = 3.0 * built.items.style @ np.asarray(people.looks)[person, intent]
        np.testing.assert_allclose(fit[person], np.where(here, expected, 0), atol=1e-5)


def test_the_short_list_holds_what_was_looked_at_and_not_bought(built, crowd):
    people = jax.tree.map(lambda a: a[:2], crowd)
    own = [built.items.by_rank[built.items.leaf_start[leaf]:][:2].tolist()
           for leaf in np.asarray(people.projects)[:, 4]]
    outside = next(item for item in range(400) if not np.isin(
        built.items.leaf[item], [np.asarray(built.world.complements)[leaf].tolist()
                                 + [leaf] for leaf in np.asarray(people.projects)[:, 4]]
    ).any())
    first, second = own[0]
    state = dataclasses.replace(intents.begin_intents(people),
                                pursued=jnp.array([4, -1]))

    def after(state, shown, looked, ordered):
        lists = [jnp.tile(jnp.array(row), (2, 1)) for row in (shown, looked, ordered)]
        return NOTE(built.world, people, state, *lists)

    def listed(state):
        return np.asarray(intents.short_list(state))[0, :3].tolist()
    state = after(state, [first, outside], [True, True], [False, False])
    assert listed(state) == [first, -1, -1]  # the other is of no leaf of the intent
    state = after(state, [second, outside], [True, False], [False, False])
    assert listed(state) == [second, first, -1]
    state = after(state, [first, outside], [True, False], [False, False])
    assert listed(state) == [first, second, -1]  # once, and the latest first
    state = after(state, [outside, first], [False, False], [False, True])
    assert listed(state) == [second, -1, -1]
    assert (np.asarray(state.short_lists)[1] == -1).all()  # who pursues none notes none
    assert (np.asarray(state.short_lists)[0, :4] == -1).all()


# --- the log ---------------------------------------------------------------------

def test_a_shop_without_intents_knows_no_projects():
    kinds = {need.kind for need in shop.load_knowledge().needs}
    assert kinds == {"taste", "context", "complement", "restock"}
    plain = shop.build_shop(shop.ShopConfig(items=400))
    assert person_of(plain).projects.shape == (1, 0)
    assert shop.begin(person_of(plain)).moment.intents is None


def person_of(plain):
    """The shape of a person is all that a visit begins with."""
    shapes = jax.eval_shape(lambda: shop.draw_people(plain.world, jnp.arange(1)))
    return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)


def test_long_lives_spread_over_the_log_in_many_sessions(log):
    offsets, time = log.offsets(), log.column("time")
    lengths = np.diff(offsets)
    assert abs(lengths.mean() - 400) < 5 * 120 / 40 ** 0.5
    start = np.datetime64(LONG.start).astype("datetime64[s]").astype(int)
    last = (time[offsets[1:] - 1] - start) / 86_400
    assert np.median(last) > 0.9 * LONG.days and last.max() < LONG.days + 1
    pauses = np.diff(time) > 3_600
    pauses[offsets[1:-1] - 1] = False
    per_session = log.num_events / (pauses.sum() + log.num_sequences)
    assert 2 < per_session < 8


def test_most_needs_are_of_projects_and_they_come_back_after_long_pauses(folder, log):
    kind = np.array(pq.read_table(folder / "needs.parquet")["kind"].to_pylist())
    need = pq.read_table(folder / "requests.parquet")["need"].to_numpy()
    # One of eight is awake with 1 - .85**8 = .73, and .8 of those sessions pursue it.
    assert abs((kind[need] == "project").mean() - 0.8 * 0.73) < 0.15
    sequence = np.repeat(np.arange(log.num_sequences), np.diff(log.offsets()))
    of_event = need[log.column("request")]
    order = np.lexsort((np.arange(log.num_events), of_event, sequence))
    same = ((sequence[order[1:]] == sequence[order[:-1]])
            & (of_event[order[1:]] == of_event[order[:-1]]))
    gaps = np.diff(order)[same & (kind[of_event[order[1:]]] == "project")]
    assert (gaps > 100).sum() > log.num_sequences


def test_a_resumed_project_is_told_by_its_own_past_not_the_latest_events(folder, log):
    """Hits of ten items: the latest, against the latest of the needed category."""
    item, offsets = log.column("item"), log.offsets()
    request, time = log.column("request"), log.column("time")
    need = pq.read_table(folder / "requests.parquet")["need"].to_numpy()[request]
    leaf = np.array(pq.read_table(folder / "needs.parquet")["leaf"].to_pylist())[need]
    own = shop.load_shop(folder).items.leaf[item]
    hits = []
    for begin, end in zip(offsets[:-1], offsets[1:]):
        for event in range(begin + (end - begin) // 2, end):
            past = np.flatnonzero(own[begin:event] == leaf[event]) + begin
            resumed = time[event] - time[event - 1] > 3_600
            if resumed and len(past) and event - past[-1] > 50:
                latest = item[max(begin, event - 50):event]
                hits.append((item[event] in latest, item[event] in item[past[-50:]]))
    latest, retrieved = np.mean(hits, axis=0)
    assert len(hits) > 100
    assert retrieved > latest + 0.15


def test_the_log_of_a_person_with_intents_is_the_same_whoever_else_is_there(folder,
                                                                            tmp_path):
    shop.prepare_shop(dataclasses.replace(LONG, users=7), tmp_path / "log")
    few, many = dataset.load_dataset(tmp_path / "log"), dataset.load_dataset(folder)
    events = few.num_events
    for name in ("item", "time", "behaviour", "scenario", "trigger"):
        np.testing.assert_array_equal(few.column(name), many.column(name)[:events])


@pytest.mark.parametrize("change, words", [
    ({"intents": -1}, "intents of the shop is -1, expected between 0 and 64"),
    ({"intent_awake": 0.0}, "intent_awake of the shop is 0.0, expected above 0"),
    ({"intent_days": 0.5}, "intent_days of the shop is 0.5, expected at least 1"),
])
def test_a_wrong_knob_of_intents_is_named(change, words):
    with pytest.raises(InputError, match=words):
        shop.ShopConfig(**change)
