"""What every backend of the instruction store does; each test runs on both."""

import itertools
import logging
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxyrec_jax.base import InputError
from oxyrec_jax.thinking import records
from oxyrec_jax.thinking.backend import Outcome, Row
from oxyrec_jax.thinking.records import Version
from oxyrec_jax.thinking.store import Source, Store, age_histogram

V1, V2 = Version(1, "m", "p", "e"), Version(2, "m", "p", "e2")
WINDOW = 1_789_999_800
FRESH = itertools.count()  # a user that no earlier example has met


def put(store, users, texts=None, vectors=None, *, version=V1, window=WINDOW,
        **options):
    count = len(users)
    texts = [f"for {user}" for user in users] if texts is None else texts
    vectors = np.ones((count, 2)) if vectors is None else vectors
    return store.put_many(users, texts, vectors, version=version, window=window,
                          **options).tolist()


def sources(store, users, **options):
    return [Source(code).name for code in store.get_many(users, **options).sources]


def text_of(store, user):
    return store.get_many([user]).texts[0]


def test_what_was_put_is_got_in_the_order_asked(place):
    store = place.open()
    assert put(store, ["a", "b", "c"], ["x", "y", "z"],
               [[1, 2], [3, 4], [0.1, -5]]) == [Outcome.WRITTEN] * 3
    place.clock.now += 90.5
    got = store.get_many(["c", "nobody", "a", "c"])
    assert got.texts.tolist() == ["z", "", "x", "z"]
    # 0.1 in float16 is 1638 * 2^-14
    np.testing.assert_array_equal(
        got.vectors, np.float32([[1638 / 2**14, -5], [0, 0], [1, 2],
                                 [1638 / 2**14, -5]]))
    assert got.versions.tolist() == [1, 0, 1, 1]
    np.testing.assert_array_equal(got.ages, [90.5, np.nan, 90.5, 90.5])
    assert got.stored.tolist() == [True, False, True, True]
    assert got.vectors.dtype == np.float32 and got.sources.dtype == np.int8


def test_float32_vectors_come_back_as_they_were(place):
    vectors = np.float32([[0.1, 1e30]])
    store = place.open(dtype="float32")
    put(store, ["a"], vectors=vectors)
    np.testing.assert_array_equal(store.get_many(["a"]).vectors, vectors)
    # A reader need not know which dtype the writer chose.
    np.testing.assert_array_equal(place.open().get_many(["a"]).vectors, vectors)


def test_a_user_has_one_instruction_of_each_kind(place):
    store = place.open()
    put(store, ["a", "a"], ["why", "query"], kind=["intent", "rewrite"])
    put(store, ["b"], ["b's"], kind="intent")
    got = store.get_many(["a", "a", "b", "b"], ["rewrite", "intent", "intent", "x"])
    assert got.texts.tolist() == ["query", "why", "b's", ""]
    assert text_of(store, "a") == ""  # nothing of the default kind


def test_the_default_is_the_one_given(place):
    store = place.open(default_text="anything new", default_vector=[3, 4])
    got = store.get_many(["a"])
    assert got.texts[0] == "anything new" and got.vectors.tolist() == [[3, 4]]


def test_an_empty_batch_is_no_work(place):
    store = place.open()
    assert put(store, []) == []
    got = store.get_many([])
    assert got.texts.shape == (0,) and got.vectors.shape == (0, 2)


@pytest.mark.parametrize("text", ["", "冬至・寶寶睡衣 👶🏽", "a\0b\r\n", "'; DROP",
                                  "é" * 30_000])
def test_any_unicode_text_comes_back(place, text):
    store = place.open()
    put(store, ["a"], [text])
    assert text_of(store, "a") == text
    assert store.get_many(["a"]).stored.all()


@pytest.mark.parametrize("user", ["", "用户", "a:b", "a b\n", "*?[x]", "\0", "x" * 390])
def test_any_short_user_id_is_a_key(place, user):
    store = place.open()
    put(store, [user, "other"])
    assert text_of(store, user) == f"for {user}"


# ------------------------------------------------------------- which record stays

def test_putting_the_same_twice_is_one_record(place):
    store = place.open()
    put(store, ["a"], ["first answer"])
    place.clock.now += 60
    assert put(store, ["a"], ["second answer"]) == [Outcome.UNCHANGED]
    got = store.get_many(["a"])
    assert got.texts[0] == "first answer" and got.ages[0] == 60
    assert store.summary()["records"] == 1


@pytest.mark.parametrize("version, window, outcome", [
    (V1, WINDOW + 1, Outcome.WRITTEN),
    (V1, WINDOW - 1, Outcome.OLDER),
    (V2, WINDOW - 1, Outcome.WRITTEN),  # a newer version wins at any window
    (V2, 0, Outcome.WRITTEN),
    (V1, 2**52, Outcome.WRITTEN),
])
def test_only_a_newer_record_replaces(place, version, window, outcome):
    store = place.open()
    put(store, ["a"], ["there"])
    assert put(store, ["a"], ["new"], version=version, window=window) == [outcome]
    assert text_of(store, "a") == ("new" if outcome == Outcome.WRITTEN else "there")


def test_an_old_version_never_replaces_a_new_one(place):
    store = place.open()
    put(store, ["a"], ["there"], version=V2)
    assert put(store, ["a"], window=WINDOW + 300) == [Outcome.OLDER]
    assert text_of(store, "a") == "there"
    assert put(store, ["a"], ["by hand"], replace=True) == [Outcome.WRITTEN]
    assert text_of(store, "a") == "by hand"


def test_of_one_user_twice_in_a_batch_the_newer_stays(place):
    store = place.open()
    assert put(store, ["a", "b", "a", "a"], ["1", "b", "3", "2"],
               window=[1, 1, 3, 2]) == [0, 0, 0, Outcome.OLDER]
    assert text_of(store, "a") == "3"


@pytest.mark.parametrize("name", ["lmdb", "redis"])
@settings(deadline=None, max_examples=30)
@given(puts=st.lists(st.tuples(
    st.integers(1, 3) | st.just(2**32 - 1),
    st.integers(0, 3) | st.sampled_from([2**31, 2**32 - 1, 2**32, 2**53 - 1])),
    min_size=1, max_size=12), cut=st.integers(0, 12))
def test_any_history_of_puts_leaves_the_first_of_the_newest(
        request, name, puts, cut):
    place = request.getfixturevalue(f"{name}_place")
    store, user = place.open(), f"user{next(FRESH)}"
    best, expected, outcomes = None, "", []
    for number, order in enumerate(puts):  # the oracle: a maximum
        outcomes.append(Outcome.WRITTEN if best is None or order > best else
                        Outcome.UNCHANGED if order == best else Outcome.OLDER)
        if outcomes[-1] == Outcome.WRITTEN:
            best, expected = order, str(number)
    got = [code for number, (version, window) in enumerate(puts)
           for code in put(store, [user], [str(number)], version=Version(version),
                           window=window)]
    assert got == outcomes and text_of(store, user) == expected


def test_rolling_back_is_explicit_and_lets_the_older_version_write(place):
    store = place.open()
    users = [f"u{n}" for n in range(150)]
    put(store, users)
    put(store, users[:120], version=V2)
    put(store, users[:3], version=V2, kind="intent")
    assert store.roll_back(1) == 123
    assert sources(store, users[119:121]) == ["MISSING", "STORED"]
    assert put(store, users[:1], ["again"]) == [Outcome.WRITTEN]
    assert store.summary()["versions"] == {"1": 31}


def test_a_removal_spares_what_was_replaced_meanwhile(place):
    store = place.open()
    put(store, ["a", "b"], version=V2)
    seen = list(place.backend.scan())
    put(store, ["a"], version=V2, window=WINDOW + 1)
    assert place.backend.remove(seen) == 1
    assert sources(store, ["a", "b"]) == ["STORED", "MISSING"]


# --------------------------------------------------------------------------- time

def test_an_expired_record_is_not_served_and_gives_way(place):
    store = place.open(ttl=100)
    put(store, ["a", "b"], version=V2)
    put(place.open(ttl=None), ["forever"])
    place.clock.now += 99.9
    assert sources(store, ["a", "forever"]) == ["STORED", "STORED"]
    place.clock.now += 0.1
    got = store.get_many(["a", "forever"])
    assert got.sources.tolist() == [Source.EXPIRED, Source.STORED]
    assert got.texts[0] == "" and np.isnan(got.ages[0]) and got.versions[0] == 0
    assert put(store, ["a"], ["anew"], window=0) == [Outcome.WRITTEN]
    assert store.summary()["expired"] == 1
    assert store.sweep() == 1
    assert sources(store, ["a", "b"]) == ["STORED", "MISSING"]


def test_a_clock_that_goes_back_loses_nothing(place):
    store = place.open(ttl=100)
    put(store, ["a"], ["true"])
    place.clock.now -= 3_600  # windows follow the clock
    assert put(store, ["a"], ["late"], window=WINDOW - 3_600) == [Outcome.OLDER]
    got = store.get_many(["a"])
    assert got.texts[0] == "true" and got.ages[0] == 0  # never a negative age
    assert store.summary()["ages"]["1 min"] == 1
    assert put(store, ["a"], window=WINDOW + 300) == [Outcome.WRITTEN]


def test_ages_are_counted_by_how_stale_they_are(place):
    store = place.open(ttl=None)
    for number, wait in enumerate([3_600 * 24 * 8, 3_599, 3_601 - 3_599, 59, 0]):
        put(store, [f"u{number}"])
        place.clock.now += wait  # so that ages are the sums of the waits after
    put(store, ["now"], kind="intent")
    # ages: 8 days + 3660, 3660, 61, 59, 0, 0
    assert store.summary() == {
        "records": 6, "expired": 0, "damaged": 0, "versions": {"1": 6},
        "kinds": {"intent": 1, "reasoning": 5},
        "ages": {"1 min": 3, "5 min": 1, "15 min": 0, "1 h": 0, "6 h": 1, "1 day": 0,
                 "7 days": 0, "older": 1}}


def test_age_histogram_by_hand():
    ages = np.array([0, 59.9, 60, 604_799, 604_800, np.nan])
    assert age_histogram(ages) == {
        "1 min": 2, "5 min": 1, "15 min": 0, "1 h": 0, "6 h": 0, "1 day": 0,
        "7 days": 1, "older": 1}


# ----------------------------------------------------------------- what fits a reader

def test_other_versions_encoders_and_lengths_are_not_served(place):
    put(place.open(), ["a"], version=V1)
    put(place.open(), ["b"], version=V2)
    users = ["a", "b"]
    assert sources(place.open(encoder="e"), users) == ["STORED", "MISMATCH"]
    assert sources(place.open(encoder="e2", versions=[1, 2]), users) == [
        "MISMATCH", "STORED"]
    assert sources(place.open(versions=[2]), users) == ["MISMATCH", "STORED"]
    got = place.open(dimension=3).get_many(users)
    assert got.sources.tolist() == [Source.MISMATCH] * 2
    assert got.vectors.shape == (2, 3) and not got.vectors.any()


# ------------------------------------------------------------------------- damage

def damage(place, user, change):
    key = records.make_key(user, "reasoning")
    value = bytearray(place.backend.read([key])[0])
    place.backend.write([Row(key, bytes(change(value)), 0)], now=0, replace=True)


def flipped(at):
    def change(value):
        value[at] ^= 0x10
        return value
    return change


@pytest.mark.parametrize("change", [
    *map(flipped, (0, 3, 5, 14, 20, 30, 39, 40, 41, 43, 45, 49, 51, 60, -1)),
    lambda value: value[:-1], lambda value: value[:30], lambda value: b"",
    lambda value: value + b"x", lambda value: b"OXI2" + value[4:],
    lambda value: b"\x80\x04" * 40,
])
def test_a_damaged_record_is_named_and_never_served(place, caplog, change):
    store = place.open()
    put(store, ["a", "hurt", "c"], version=V2)
    damage(place, "hurt", change)
    with caplog.at_level(logging.WARNING):
        got = store.get_many(["a", "hurt", "c", "hurt"])
    assert got.sources.tolist() == [Source.STORED, Source.DAMAGED] * 2
    assert got.texts.tolist() == ["for a", "", "for c", ""]
    assert "2 damaged" in caplog.text and "reasoning:hurt" in caplog.text
    assert "for hurt" not in caplog.text
    assert store.summary()["damaged"] == 1
    # It gives way to anything, even what would have been older.
    assert put(store, ["hurt"], ["healed"], window=0) == [Outcome.WRITTEN]
    assert text_of(store, "hurt") == "healed"


def test_a_record_under_another_users_key_is_damaged(place):
    store = place.open()
    put(store, ["a"])
    value, = place.backend.read([b"reasoning:a"])
    place.backend.write([Row(b"reasoning:b", value, 0)], now=0, replace=False)
    assert sources(store, ["a", "b"]) == ["STORED", "DAMAGED"]
    assert store.sweep() == 1
    assert sources(store, ["a", "b"]) == ["STORED", "MISSING"]


# ----------------------------------------------------------------------- refusals

@pytest.mark.parametrize("change, words", [
    ({"texts": ["fine", "x" * 10_485_760]}, "'b' has 10,485,760 bytes, expected at "
                                            "most 65,536"),
    ({"texts": ["fine", "\ud800"]}, "'b' holds half a surrogate"),
    ({"vectors": [[0, 0], [0, np.nan]]}, "vector of user 'b' holds NaN"),
    ({"vectors": [[0, 0], [0, 70_000]]}, "vector of user 'b' .* beyond float16"),
    ({"users": ["a", "b" * 400]}, "'b{60}…' cannot be a key"),
    ({"users": ["a", "\udcff"]}, "cannot be a key"),
    ({"window": [0, -1]}, "'b' has window -1"),
    ({"window": [0, 2**53]}, "'b' has window"),
    ({"kind": ["x", "x:y"]}, "'x:y' cannot name a kind"),
    ({"kind": ""}, "'' cannot name a kind"),
    ({"version": Version(0)}, "version number is 0"),
    ({"version": Version(1, model="a\0b")}, "model of the instructions' version"),
])
def test_what_cannot_be_stored_is_refused_before_anything_is(place, change, words):
    store = place.open()
    with pytest.raises(InputError, match=words) as refusal:
        put(store, **{"users": ["a", "b"], **change})
    assert len(str(refusal.value)) < 400
    assert list(place.backend.scan()) == []


@pytest.mark.parametrize("options, words", [
    ({"dimension": 0}, "vectors of 0"), ({"dimension": 20_000}, "vectors of 20000"),
    ({"dtype": "float64"}, "'float64'"), ({"ttl": 0}, "ttl is 0"),
])
def test_settings_that_no_store_can_have(options, words):
    with pytest.raises(InputError, match=words):
        Store(None, **{"dimension": 2, **options})


def test_shapes_that_disagree_are_programming_errors(place):
    store = place.open()
    with pytest.raises(ValueError, match="vectors.shape"):
        put(store, ["a"], vectors=np.ones((1, 3)))
    with pytest.raises(ValueError, match="texts"):
        put(store, ["a"], texts=[])
    with pytest.raises(ValueError, match="kinds"):
        store.get_many(["a"], ["x", "y"])


def test_an_id_that_cannot_be_a_key_is_simply_not_there(place):
    assert sources(place.open(), ["x" * 10_000, "\ud800"]) == ["MISSING", "MISSING"]


# ------------------------------------------------------------------ several at once

def test_threads_read_whole_batches_while_one_writes(place):
    """Of every user a text that was put, with its own vector."""
    store, users = place.open(), [f"u{n}" for n in range(40)]
    put(store, users, window=0, texts=["0"] * 40, vectors=np.zeros((40, 2)))
    ended, torn = threading.Event(), []

    def read():
        while not ended.is_set():
            got = store.get_many(users)
            if got.texts.tolist() != [f"{x:.0f}" for x in got.vectors[:, 0]]:
                torn.append(got)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for window in range(1, 40):
        put(store, users, window=window, texts=[str(window)] * 40,
            vectors=np.full((40, 2), window))
    ended.set()
    for reader in readers:
        reader.join()
    assert torn == []
    assert set(store.get_many(users).texts) == {"39"}
