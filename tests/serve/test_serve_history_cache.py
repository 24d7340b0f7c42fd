"""Encoded histories: the same bits, bounded, gone with their version."""

import dataclasses

import numpy as np
import pytest

from conftest import Inbox, again, ask, job  # tests/serve/conftest.py
from oxyrec_jax import serving
from oxyrec_jax.base import InputError
from oxyrec_jax.serve.engine import Engine
from oxyrec_jax.serve.history_cache import HistoryCache
from oxyrec_jax.serve.programs import Programs, Sizes


@pytest.fixture(scope="module")
def programs(opened):
    """Those that keep encodings, for batches of 4, compiled for the shop."""
    before = opened.engine.programs
    made = Programs(Sizes((4,), (8,), before.sizes.beams), profile=before._profile,
                    text=before._text, keeps=True)
    made.warm(opened.engine.live.snapshot)
    return made


def keeping(opened, programs, limit=2**24, **options):
    return Engine(opened.engine.live.snapshot, programs, cache=HistoryCache(limit),
                  read_texts=opened._texts.read, **options)


def counted(engine, found):
    text = engine.figures.text().decode()
    line = next((line for line in text.splitlines()
                 if line.startswith(f'oxyrec_histories_total{{found="{found}"')), "0")
    return float(line.split()[-1])


def test_answers_have_the_same_bits_as_without(opened, programs):
    """First time, again, and in the company of others; filtered or not."""
    users = list(opened.people.rows)[:6]
    asked = [{"user": user, "k": 20, "filters": filters, "explain": True}
             for user in users for filters in ({}, {"exclude_history": True})]
    with again(opened) as plain, keeping(opened, programs) as engine:
        for _ in range(2):
            for one in asked:
                wanted, found = ask(plain, opened, **one), ask(engine, opened, **one)
                assert found.items.tolist() == wanted.items.tolist()
                assert found.scores.tolist() == wanted.scores.tolist()
                for mine, other in zip(found.levels, wanted.levels, strict=True):
                    np.testing.assert_array_equal(mine.log_probs, other.log_probs)
        inbox = Inbox()
        for place, one in enumerate(asked):
            engine.submit(job(engine, opened, inbox.of(place), **one))
        inbox.wait(len(asked))
        assert inbox.found[len(asked) - 1].scores.tolist() == wanted.scores.tolist()
        assert counted(engine, "miss") == len(users)
        assert counted(engine, "hit") == 3 * len(asked) - len(users)
    assert engine.programs.compiled == 3  # one that encodes, two that search


def test_another_event_or_profile_is_another_history(opened, programs):
    items = list(opened.engine.live.snapshot.item_ids)
    with keeping(opened, programs) as engine:
        for history in (items[:3], items[:4], items[1:4], items[:3], items[3:0:-1]):
            ask(engine, opened, history=history)
        assert (counted(engine, "hit"), counted(engine, "miss")) == (1, 4)


def test_it_holds_no_more_bytes_than_it_may_and_drops_the_longest_unused(
        opened, programs):
    users = list(opened.people.rows)[:6]
    with keeping(opened, programs) as engine:
        ask(engine, opened, user=users[0])
        each = engine._cache.bytes
    with keeping(opened, programs, limit=2 * each + each // 2) as engine:
        for place in (0, 1, 0, 2, 0, 1):  # 2 takes the place of 1
            ask(engine, opened, user=users[place])
            assert engine._cache.bytes <= engine._cache.limit
        assert (len(engine._cache), counted(engine, "hit")) == (2, 2)
        assert b"oxyrec_kept_histories 2.0" in engine.figures.text()
    with keeping(opened, programs, limit=each // 2) as engine:
        assert len(ask(engine, opened, user=users[0]).items) == 10
        assert (len(engine._cache), engine._cache.bytes) == (0, 0)


def test_a_swap_forgets_and_versions_never_share(opened, programs):
    user = next(iter(opened.people.rows))
    first = opened.engine.live.snapshot
    other = dataclasses.replace(first, version="another")
    with keeping(opened, programs) as engine:
        before = ask(engine, opened, user=user)
        inbox = Inbox()
        old = job(engine, opened, inbox.of("old"), user=user)
        engine.swap(other)
        assert len(engine._cache) == 0
        ask(engine, opened, user=user)
        engine.submit(old)  # of the version before: not what the other one encoded
        assert inbox.wait(1)["old"].scores.tolist() == before.scores.tolist()
        assert (counted(engine, "hit"), counted(engine, "miss")) == (0, 3)
    assert programs.compiled == 3


def test_two_workers_answer_as_one_does(opened, programs):
    users = list(opened.people.rows)[:24]
    with keeping(opened, programs) as engine:
        wanted = [ask(engine, opened, user=user).scores.tolist() for user in users]
    inbox = Inbox()
    with keeping(opened, programs, workers=2) as engine:
        for place, user in enumerate(2 * users):
            engine.submit(job(engine, opened, inbox.of(place), user=user))
        found = inbox.wait(2 * len(users))
    assert not engine.alive and engine.busy == 0
    assert [found[place].scores.tolist() for place in range(len(found))] == 2 * wanted


def test_a_decoder_that_keeps_nothing_is_told_so(shop_workdir):
    cfg = dataclasses.replace(shop_workdir.cfg, model=dataclasses.replace(
        shop_workdir.cfg.model, decoding="parallel"))
    space = dataclasses.replace(shop_workdir, cfg=cfg)
    with pytest.raises(InputError, match="--history-cache.*decoding=parallel"):
        serving.Opened(space, serving.Serving(history_cache=2**20))
