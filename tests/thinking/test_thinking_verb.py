"""`oxyrec think`: rules on a shop's log, a model on any log, a kill in the middle."""

import dataclasses
import json
import signal
import subprocess
import sys
import threading
import time

import chat_server
import numpy as np
import pytest
import redis_process
import think_process
from chat_server import completion

from oxyrec_jax import cli, instruction_store, quickstart, slow_thinking, workspace
from oxyrec_jax.base import InputError
from oxyrec_jax.data import dataset as datasets
from oxyrec_jax.data import schema, shop
from oxyrec_jax.slow_thinking import Wanted, think
from oxyrec_jax.thinking.journal import Journal
from oxyrec_jax.thinking.states import state_to_json
from oxyrec_jax.tokenizer.embeddings import EmbeddingConfig

DAY = 86_400
TEXT = EmbeddingConfig(source="hashed", dimension=16)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop") / "data"
    shop.prepare_shop(shop.ShopConfig(users=40, items=200, seed=3), folder)
    return folder


@pytest.fixture
def space(log, tmp_path):
    return open_space(tmp_path / "work", log)


def open_space(folder, data, **changes):
    """A work directory with a data set and a small store."""
    folder.mkdir()
    (folder / "data").symlink_to(data)
    cfg = quickstart.tiny()
    small = dataclasses.replace(cfg.think.store, max_bytes=1 << 26)
    return workspace.Workspace(folder, dataclasses.replace(
        cfg, text=TEXT, think=dataclasses.replace(cfg.think, store=small, **changes)))


def changed(space, **changes):
    think_ = dataclasses.replace(space.cfg.think, **changes)
    return dataclasses.replace(space, cfg=dataclasses.replace(space.cfg, think=think_))


def stored(space, users, kind="reasoning"):
    encoder = instruction_store.Encoder(space)
    with instruction_store.open_live(space, encoder, readonly=True) as store:
        found = store.get_many(users, kind)
    expected = encoder(found.texts.tolist()).astype(np.float16)
    assert (found.vectors[found.stored] == expected[found.stored]).all()
    return [text if there else None for text, there in zip(found.texts, found.stored)]


def check_sums(found):
    ours = found["users"] - found["other_shard"] - found["repeated"]
    assert ours == (found["bad_id"] + found["already"] + found["no_data"]
                    + found["passed"] + sum(found["refused"].values())
                    + sum(found["errors"].values()))


def test_rules_write_for_everyone_of_a_shop_and_say_that_they_are_no_model(space):
    users = datasets.load_dataset(space.data).user_ids()
    found = think(space)
    check_sums(found)
    assert found["users"] == len(users) and found["stored"] > 0.8 * len(users)
    assert not found["language_model"] and "no language model" in found["reasoner"]
    assert "no language model" in found["note"]
    assert found["store"]["records"] == found["stored"]
    assert sum(found["store"]["ages"].values()) == found["stored"]
    texts = stored(space, users)
    assert sum(text is not None for text in texts) == found["stored"]
    assert any(": look for " in text for text in texts if text)
    json.dumps(found, allow_nan=False)
    again = think(space)  # by the notes of the first
    check_sums(again)
    assert (again["already"], again["stored"]) == (found["stored"], 0)


def test_a_log_replayed_in_parts_ends_as_the_log_replayed_at_once(log, tmp_path):
    once, parts = (open_space(tmp_path / name, log, window=DAY)
                   for name in ("once", "parts"))
    first = think(once, Wanted(since="2024-01-01"))
    done = [think(parts, Wanted(since=since, now=now)) for since, now in (
        ("2024-01-01", "2024-03-01"), ("2024-03-01", "2024-09-01T00:00"),
        ("2024-08-01", str(slow_thinking.moment("", "2025-01-01"))))]
    for found in (first, *done):
        check_sums(found)
    assert first["windows"] > 100 and first["users"] > 200
    assert sum(found["passed"] for found in done) == first["passed"]
    assert done[2]["already"] > 0  # August was done
    users = datasets.load_dataset(log).user_ids()
    assert stored(once, users) == stored(parts, users)
    one, other = (instruction_store.instructions_of_log(
        space, datasets.load_dataset(log)) for space in (once, parts))
    assert one.sources == other.sources and one.ages == other.ages
    texts = [[each.table.texts[row] if row >= 0 else "" for row in each.table.index]
             for each in (one, other)]
    assert texts[0] == texts[1] and len(set(texts[0])) > 10


def test_shards_share_the_users(space):
    found = [think(space, Wanted(shard=shard, shards=2)) for shard in range(2)]
    for one in found:
        check_sums(one)
    users = datasets.load_dataset(space.data).user_ids()
    assert sum(one["users"] - one["other_shard"] for one in found) == len(users)
    assert found[1]["store"]["records"] == found[0]["stored"] + found[1]["stored"]


def test_another_reasoner_needs_another_version(space, server):
    think(space)
    other = changed(space, endpoint=server.endpoint())
    with pytest.raises(InputError, match="another reasoner than this run; raise it: "
                                         "--set think.version=2"):
        think(other)
    server.says(chat_server.instruction("Will want something warm soon.", "warm"))
    found = think(changed(other, version=2))
    check_sums(found)
    assert found["language_model"] and found["reasoner"] == "tiny"
    assert found["requests"] == found["users"] == len(server.requests)


def write_log(folder, **columns):
    def fill(out):
        out.add_items(schema.item_table({
            "item_id": list("abcd"), "title": [f"Lantern {n}" for n in range(4)]}))
        out.add_sequences({"item": np.arange(4), **columns}, np.array([2, 2]),
                          ["u", "v"])
        out.add_targets("train", np.array([[0, 1, 2]]))
    datasets.write_dataset(folder, fill, columns=("item", *columns),
                           facts={"source": "table"})
    return folder


@pytest.mark.parametrize("columns", [{}, {"time": np.array([100, 900, 200, 300])}],
                         ids=["without times", "with times"])
def test_a_model_answers_for_any_log_and_rules_only_for_a_shop(
        columns, server, tmp_path):
    space = open_space(tmp_path / "work", write_log(tmp_path / "d", **columns))
    with pytest.raises(InputError, match="speaks of the simulated shop only"):
        think(space)
    found = think(changed(space, endpoint=server.endpoint()))
    assert (found["stored"], found["requests"]) == (2, 2)
    assert sorted(server.titles()) == ["Lantern 0", "Lantern 2"]
    assert "Lantern 0" in stored(space, ["u"])[0]


def test_states_of_a_file_go_to_a_server_and_nowhere_else(server, redis_server,
                                                          tmp_path, capsys):
    path = tmp_path / "users.jsonl"
    path.write_text("\n".join(map(state_to_json, think_process.states(5))))
    endpoint = server.endpoint()
    words = ["think", "--workdir", str(tmp_path / "live"), "--states", str(path),
             "--now", "1790000100", "--json"]
    for setting in ("text.source=hashed", "text.dimension=16",
                    f"think.endpoint.url={endpoint.url}", "think.endpoint.model=tiny",
                    "think.store.backend=redis", f"think.store.url={redis_server.url}",
                    "think.store.prefix=verb", "think.store.timeout=10"):
        words += ["--set", setting]
    cli.main(words)
    found = json.loads(capsys.readouterr().out)
    check_sums(found)
    assert (found["stored"], found["window"]) == (5, 1_790_000_100)
    assert found["store"]["backend"] == "redis" and found["store"]["records"] == 5
    assert not (tmp_path / "live" / "think" / "store").exists()
    assert not (tmp_path / "live" / "think" / "history").exists()
    space = workspace.open_workspace(tmp_path / "live", None)  # it was kept
    assert stored(space, ["u3"]) == [
        "Has looked at Lantern 3 and will want a spare of it."]


def test_a_killed_verb_bills_nobody_twice_and_loses_nobody(server, tmp_path, capsys):
    count, after, killed = 24, 9, threading.Event()

    def answer(request, number):
        if number > after:
            killed.wait(60)  # in flight when the process dies
        return 200, {}, completion(chat_server.good(request))
    server.answer = answer
    path, work = tmp_path / "users.jsonl", tmp_path / "work"
    path.write_text("\n".join(map(state_to_json, think_process.states(count))))
    words = ["think", "--workdir", str(work), "--states", str(path), "--json"]
    for setting in ("text.source=hashed", "text.dimension=16", "think.batch=4",
                    "think.store.max_bytes=67108864", "think.endpoint.concurrency=4",
                    f"think.endpoint.url={server.endpoint().url}",
                    "think.endpoint.model=tiny", "think.endpoint.retries=0"):
        words += ["--set", setting]
    now = ["--now", "1790000100"]
    process = subprocess.Popen([sys.executable, "-m", "oxyrec_jax", *words, *now],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while (len(server.requests) < after + 4 and time.monotonic() < end
           and process.poll() is None):
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    killed.set()
    cli.main([*words, *now])
    found = json.loads(capsys.readouterr().out)
    check_sums(found)
    assert found["errors"] == {"in-doubt": 4}
    assert found["already"] + found["cached"] == after
    assert sorted(server.titles()) == sorted(f"Lantern {n}" for n in range(count))
    journal = work / "think" / "journal" / "version1" / "shard-0-of-1.journal.sqlite"
    with Journal(journal) as notes:
        lost = {user for user, *_ in notes.in_doubt()}
    assert len(lost) == 4
    cli.main([*words, "--now", "1790000400"])  # the next window asks for those alone
    later = json.loads(capsys.readouterr().out)
    assert (later["requests"], later["cached"]) == (4, count - 4)
    space = workspace.open_workspace(work, None)
    assert None not in stored(space, [f"u{n}" for n in range(count)])


@pytest.mark.parametrize("options, words", [
    ({"states": "x.jsonl", "since": "2024-01-01"}, "give one of them"),
    ({"before": "test", "now": "2024-01-01"}, "leave --since and --now out"),
    ({"before": "tset"}, "--before tset: expected train, valid or test"),
    ({"shard": 2, "shards": 2}, "--shard 2 of --shards 2"),
    ({"since": "yesterday"}, "--since yesterday: expected seconds since 1970"),
    ({"states": "gone.jsonl"}, "gone.jsonl is no file"),
])
def test_what_cannot_be_wanted_is_named(options, words, space):
    with pytest.raises(InputError, match=words):
        think(space, Wanted(**options))


def test_vectors_of_a_file_cannot_embed_instructions(space, tmp_path):
    np.save(tmp_path / "v.npy", np.zeros((3, 2), np.float32))
    other = dataclasses.replace(space, cfg=dataclasses.replace(
        space.cfg, text=EmbeddingConfig(source="file", path=str(tmp_path / "v.npy"))))
    with pytest.raises(InputError, match="cannot embed instructions; set text.source"):
        think(other)


def test_a_store_that_is_down_ends_the_run_before_a_question_is_paid(space, server):
    port = redis_process.free_port()
    dead = dataclasses.replace(space.cfg.think.store, backend="redis",
                               url=f"redis://127.0.0.1:{port}/0", timeout=0.2)
    with pytest.raises(InputError, match="server cannot be reached"):
        think(changed(space, store=dead, endpoint=server.endpoint()))
    assert not server.requests


def test_an_engine_that_is_not_installed_is_named(space, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is missing
    with pytest.raises(InputError, match="Ray Data is not installed; pip install"):
        think(changed(space, engine="ray"))
