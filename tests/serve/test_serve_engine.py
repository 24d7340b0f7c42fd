"""The engine: right answers whatever the company, deadlines, swaps, faults."""

import dataclasses
import logging
import pathlib
import time

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import Inbox, again, ask, job  # tests/serve/conftest.py
from oxyrec_jax import answers, serving, workflow
from oxyrec_jax.serve.engine import Engine
from oxyrec_jax.serve.job import Answer, Live
from oxyrec_jax.serve.programs import Key, Sizes
from oxyrec_jax.serve.refusal import Refusal


def items_of(answer, snapshot):
    return [snapshot.item_ids[row] for row in answer.items]


@pytest.mark.parametrize("place", [0, 7, 31])
def test_an_answer_is_that_of_oxyrec_recommend(place, opened, engine, shop_workdir):
    user = list(opened.people.rows)[place]
    wanted = answers.recommend(shop_workdir, user=user, k=7)["recommendations"]
    found = ask(engine, opened, user=user, k=7)
    assert items_of(found, engine.live.snapshot) == [row["item_id"] for row in wanted]
    np.testing.assert_allclose(found.scores, [row["log_prob"] for row in wanted],
                               atol=2e-4)


def test_a_history_of_names_and_an_asked_text_answer_as_recommend(
        opened, engine, shop_workdir):
    items = list(opened.engine.live.snapshot.item_ids)[3:9]
    asked = {"scenario": "search", "trigger": items[0], "instruction": "a warm blanket"}
    wanted = answers.recommend(shop_workdir, items=items, k=5,
                               asked=answers.Asked(**asked))
    found = ask(engine, opened, history=items, k=5, **asked)
    assert items_of(found, engine.live.snapshot) == [
        row["item_id"] for row in wanted["recommendations"]]
    assert found.instruction == {"source": "asked", "text": "a warm blanket"}


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_company_changes_no_bit(opened, data):
    """Whatever stands in the other rows of a batch, filtered or not."""
    users = list(opened.people.rows)
    some = st.fixed_dictionaries({
        "user": st.sampled_from(users), "k": st.integers(1, 20),
        "filters": st.sampled_from([{}, {"exclude_history": True},
                                    {"deny_items": ["item-0000003"]}])})
    wanted = data.draw(some)
    alone = _together(opened, [wanted])[0]
    company = data.draw(st.lists(some, min_size=1, max_size=6))
    place = data.draw(st.integers(0, len(company)))
    company.insert(place, wanted)
    found = _together(opened, company)[place]
    assert found.items.tolist() == alone.items.tolist()
    assert found.scores.tolist() == alone.scores.tolist()


def _together(opened, asked):
    """Puts all into the queue before the engine starts."""
    engine, inbox = again(opened), Inbox()
    for place, one in enumerate(asked):
        engine.submit(job(engine, opened, inbox.of(place), **one))
    with engine:
        return inbox.wait(len(asked))


@pytest.mark.parametrize("seed", range(6))
def test_filters_are_exact_and_many_places_give_all_that_is_legal(
        seed, opened, engine):
    snapshot = engine.live.snapshot
    rng = np.random.default_rng(seed)
    allowed = rng.choice(snapshot.item_ids, rng.integers(1, 18), replace=False).tolist()
    denied = rng.choice(snapshot.item_ids, 40, replace=False).tolist()
    legal = set(allowed) - set(denied)
    user = list(opened.people.rows)[seed]
    filters = {"allow_items": allowed, "deny_items": denied}
    found = ask(engine, opened, user=user, k=20, filters=filters)
    assert set(items_of(found, snapshot)) == legal
    assert sorted(found.scores, reverse=True) == found.scores.tolist()
    if legal:  # each semantic ID's share of all that is legal
        probability = {tuple(snapshot.codes[row]): score for row, score in
                       zip(found.items.tolist(), np.exp(found.scores))}
        assert sum(probability.values()) == pytest.approx(1, abs=1e-4)


def test_kinds_and_histories_filter(opened, engine):
    snapshot = engine.live.snapshot
    kinds = snapshot.kinds["category"]
    name, number = next(iter(kinds.number.items()))
    user = list(opened.people.rows)[5]
    found = ask(engine, opened, user=user, k=20,
                filters={"where": {"category": [name]}})
    places = snapshot.place_of[found.items]
    assert len(places) and (kinds.at[places] == number).all()
    seen = set(opened.people.events(opened.people.rows[user], 8)[0].tolist())
    found = ask(engine, opened, user=user, k=20, filters={"exclude_history": True})
    assert not seen & set(found.items.tolist())


class Fake:
    """Programs that compute nothing and remember what they were asked."""

    def __init__(self, real, batches, costs):
        self.sizes = Sizes(batches, (8,), 20)
        self.compiled, self._costs, self._real, self.keeps = 0, costs, real, False
        self.ran, self.lay = [], real.lay

    def seconds(self, key):
        return self._costs[key.batch]

    def took(self, key, seconds):
        """Costs stay what they are."""

    def warm(self, snapshot):
        one = self._real.warm(snapshot)[Key(4, 8, False)]

        def run(key):
            def program(arrays, batch, words):
                self.ran.append((key.batch, int((batch["segments"].any(1)).sum())))
                small = {name: np.resize(value, (4, *value.shape[1:]))
                         for name, value in batch.items()}
                beams = one(arrays, small, None)
                return jax.tree.map(lambda leaf: np.resize(
                    np.asarray(leaf), (key.batch, *leaf.shape[1:])), beams)
            return program
        return {Key(size, 8, filtered): run(Key(size, 8, filtered))
                for size in self.sizes.batches for filtered in (False, True)}


def fake_engine(opened, batches=(1, 4, 16), costs=None, **options):
    programs = Fake(opened.engine.programs, batches,
                    costs or {1: 0.01, 4: 0.012, 16: 0.02})
    return Engine(opened.engine.live.snapshot, programs,
                  read_texts=opened._texts.read, **options), programs


def test_what_is_late_is_refused_and_costs_nothing(opened):
    engine, programs = fake_engine(opened)
    inbox, user = Inbox(), next(iter(opened.people.rows))
    engine.submit(job(engine, opened, inbox.of("late"), user=user, patience=-0.001))
    with engine:
        refusal = inbox.wait(1)["late"]
    assert (refusal.status, refusal.reason, programs.ran) == (504, "deadline", [])


def test_the_earliest_deadline_goes_first_and_sizes_follow_the_costs(opened):
    user, order = next(iter(opened.people.rows)), []
    engine, programs = fake_engine(opened, (1, 4), {1: 0.01, 4: 0.012})
    for place, patience in enumerate([50, 40, 60, 30, 20, 70]):
        engine.submit(job(engine, opened, lambda what, place=place: order.append(place),
                          user=user, patience=patience))
    with engine:
        pass
    assert order == [4, 3, 1, 0, 2, 5] and programs.ran == [(4, 4), (4, 2)]
    # Two alone are cheaper than one batch of four where a batch of four costs four.
    engine, programs = fake_engine(opened, (1, 4), {1: 0.01, 4: 0.04})
    for _ in range(2):
        engine.submit(job(engine, opened, lambda what: None, user=user))
    with engine:
        pass
    assert programs.ran == [(1, 1), (1, 1)]


def test_a_batch_is_no_larger_than_the_earliest_deadline_allows(opened):
    engine, programs = fake_engine(opened, (1, 4), {1: 0.01, 4: 100.0})
    programs._costs = {1: 90.0, 4: 100.0}
    for patience in (95, 900, 900, 900):
        engine.submit(job(engine, opened, lambda what: None,
                          user=next(iter(opened.people.rows)), patience=patience))
    with engine:
        pass
    assert programs.ran == [(1, 1), (4, 3)]


def test_a_full_queue_refuses_and_says_when_to_come_again(opened):
    engine, _ = fake_engine(opened, queue=2)
    user, inbox = next(iter(opened.people.rows)), Inbox()
    for place in range(2):
        engine.submit(job(engine, opened, inbox.of(place), user=user))
    with pytest.raises(Refusal) as refused:
        engine.submit(job(engine, opened, inbox.of(2), user=user))
    assert (refused.value.status, refused.value.retry_after) == (429, 1)
    with engine:
        assert len(inbox.wait(2)) == 2


def test_a_closed_door_loses_nothing(opened):
    engine, _ = fake_engine(opened)
    user, inbox = next(iter(opened.people.rows)), Inbox()
    for place in range(30):
        engine.submit(job(engine, opened, inbox.of(place), user=user))
    engine.close_door()
    with pytest.raises(Refusal) as refused:
        engine.submit(job(engine, opened, inbox.of(30), user=user))
    assert refused.value.status == 503
    with engine:
        pass
    assert all(isinstance(inbox.found[place], Answer) for place in range(30))


def without_memory(engine, least):
    """Programs of so many requests or more no longer fit."""
    def too_large(arrays, batch, words):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")
    engine._live = Live(engine.live.snapshot, {
        key: too_large if key.batch >= least else program
        for key, program in engine.live.programs.items()})


def test_a_batch_that_does_not_fit_is_tried_in_halves(opened, caplog):
    engine, programs = fake_engine(opened, (1, 4))
    without_memory(engine, 4)
    inbox = Inbox()
    for place in range(3):
        engine.submit(job(engine, opened, inbox.of(place),
                          user=list(opened.people.rows)[place]))
    without_memory(engine, 1)
    engine.submit(job(engine, opened, inbox.of("none"),
                      user=next(iter(opened.people.rows))))
    with engine, caplog.at_level(logging.CRITICAL, "oxyrec_jax"):
        found = inbox.wait(4)
    assert [found[place].status for place in range(3)] == [503] * 3  # two in a half
    assert (found["none"].status, found["none"].reason) == (503, "memory")


def test_the_halves_of_a_batch_that_does_not_fit_are_answered(opened, caplog):
    engine, programs = fake_engine(opened, (1, 2, 4), {1: 0.01, 2: 0.011, 4: 0.012})
    without_memory(engine, 4)
    inbox = Inbox()
    for place in range(4):
        engine.submit(job(engine, opened, inbox.of(place),
                          user=list(opened.people.rows)[place]))
    with engine, caplog.at_level(logging.CRITICAL, "oxyrec_jax"):
        found = inbox.wait(4)
    assert programs.ran == [(2, 2), (2, 2)]
    assert all(isinstance(found[place], Answer) for place in range(4))
    assert b'oxyrec_failed_batches_total{kind="memory"} 1.0' in engine.figures.text()


def test_a_batch_that_fails_takes_nobody_with_it(opened, caplog):
    engine, _ = fake_engine(opened)
    good = engine.live

    def broken(arrays, batch, words):
        raise FloatingPointError("nobody expected this")
    user = next(iter(opened.people.rows))
    with engine, caplog.at_level(logging.CRITICAL, "oxyrec_jax"):
        engine._live = Live(good.snapshot, dict.fromkeys(good.programs, broken))
        refusal = ask(engine, opened, user=user)
        engine._live = good
        answer = ask(engine, opened, user=user)
    assert (refusal.status, refusal.reason) == (500, "failed")
    assert isinstance(answer, Answer) and engine.figures.text().count(
        b'oxyrec_failed_batches_total{kind="other"} 1.0') == 1


def test_a_wall_clock_that_jumps_changes_nothing(opened, engine, monkeypatch):
    user = next(iter(opened.people.rows))
    before = ask(engine, opened, user=user, patience=5.0)
    now = time.time()
    for jump in (-1e9, 1e9):
        monkeypatch.setattr(time, "time", lambda: now + jump)
        found = ask(engine, opened, user=user, patience=5.0)
        assert found.items.tolist() == before.items.tolist()
        assert 0 <= found.waited < 5 and 0 <= found.computed < 5


def test_a_swap_compiles_nothing_and_can_be_undone(opened, changing, caplog):
    """Items are retired on disk; the next version does not know them, the version
    before still does."""
    host = dataclasses.replace(changing)
    engine = again(opened)
    reload = serving.Opened.reload.__get__(type("Space", (), {
        "_space": host, "_seed": host.cfg.seeds[0]})())
    user, inbox = next(iter(opened.people.rows)), Inbox()
    with engine:
        first = ask(engine, opened, user=user, k=20)
        before = engine.live.snapshot
        gone = items_of(first, before)[:3]
        names = pathlib.Path(host.folder) / "gone.txt"
        names.write_text("\n".join(gone) + "\n", "utf-8")
        workflow.retire_items(host, names)
        reload(before)  # whatever is compiled to place arrays of these sizes
        snapshot = reload(before)
        old = job(engine, opened, inbox.of("old"), user=user, k=20)
        compiled = engine.programs.compiled
        with jax.log_compiles(), caplog.at_level(logging.WARNING, "jax"):
            caplog.clear()
            assert engine.swap(snapshot) < 0.05
            second = ask(engine, opened, user=user, k=20)
            engine.submit(old)  # came in before the swap, is answered after it
            filtered = ask(engine, opened, user=user, k=20,
                           filters={"allow_items": gone})
            engine.rollback()
            third = ask(engine, opened, user=user, k=20)
            assert not [record for record in caplog.records
                        if "ompil" in record.getMessage()]
    assert engine.programs.compiled == compiled
    assert snapshot.version != before.version
    assert not set(gone) & set(items_of(second, snapshot))
    assert filtered.items.tolist() == []
    assert inbox.found["old"].items.tolist() == first.items.tolist()
    assert third.items.tolist() == first.items.tolist()
    assert third.scores.tolist() == first.scores.tolist()


def test_there_is_nothing_before_the_first_version(opened):
    with pytest.raises(Refusal, match="no other version"):
        again(opened).rollback()
