"""The Complete Journey's files by hand, and baskets as sets of targets."""

import datetime
import gzip
import json
import zoneinfo

import numpy as np
import pytest

from oxyrec_jax.base import InputError
from oxyrec_jax.data.align_requests import AlignRequests
from oxyrec_jax.data import dataset, packing, pipeline, protocols
from oxyrec_jax.data.intake import Intake
from oxyrec_jax.data.prepare import DataConfig, prepare
from oxyrec_jax.data.readers import completejourney

HEAD = ("user\titem\tts\tbasket\tstore\tquantity\tsales_value\tretail_disc\tcoupon_disc"
        "\tcoupon_match_disc\tdisplay\tmailer")
ITEMS = [{"item": 0, "oid": 25, "department": "GROCERY", "brand": "National",
          "category": "FRZN ICE", "type": "ICE - CRUSHED", "size": "22 LB"},
         {"item": 1, "oid": 26, "department": "PASTRY", "brand": "Private",
          "category": "BREAD", "type": "BREAD:ITALIAN", "size": ""},
         {"item": 2, "oid": 27}, {"item": 3, "oid": 28}, {"item": 4, "oid": 29}]


def at(hour, day=2):
    zone = zoneinfo.ZoneInfo("America/New_York")
    return int(datetime.datetime(2017, 1, day, hour, 30, tzinfo=zone).timestamp())


def row(user, item, ts, basket, quantity=1, spent=1.0):
    return (f"{user}\t{item}\t{ts}\t{basket}\t401\t{quantity}\t{spent}"
            "\t0.2\t0.1\t0\tA\t")


def folder_of(tmp_path, rows):
    folder = tmp_path / "raw"
    (folder / "dev").mkdir(parents=True, exist_ok=True)
    (folder / "items.jsonl").write_text("".join(json.dumps(i) + "\n" for i in ITEMS))
    (folder / "dev" / "transactions.tsv.gz").write_bytes(
        gzip.compress("".join(f"{line}\n" for line in [HEAD, *rows]).encode()))
    return folder


def test_baskets_by_hand(tmp_path):
    folder = folder_of(tmp_path, [
        row("b", 1, at(12), 7, spent=2.5), row("b", 3, at(12), 7, quantity=0, spent=0),
        row("b", 1, at(12), 7, quantity=2, spent=1.5), row("b", 0, at(12), 7),
        row("a", 2, at(23), 9), row("b", 4, at(6), 8), row("a", 4, at(2, 3), 5)])
    with Intake(tmp_path / "q.jsonl", 0) as intake:
        log = completejourney.read_completejourney(folder, intake)
    assert [log.users[user] for user in log.user] == ["b", "b", "b", "a", "a"]
    assert log.item.tolist() == [4, 0, 1, 2, 4]
    assert log.columns["price"].tolist() == [1, 1, 4, 1, 1]  # 2.5 + 1.5 in one basket
    assert [log.scenarios[part] for part in log.columns["scenario"]] == [
        "morning", "midday", "midday", "night", "night"]
    request = log.columns["request"]
    assert request[1] == request[2] and len(set(request.tolist())) == 4
    assert log.clock[1] == log.clock[2] and log.columns["time"][0] == at(6)
    assert log.items["text"].to_pylist()[:3] == [
        "ICE - CRUSHED, 22 LB. National. GROCERY, FRZN ICE",
        "BREAD:ITALIAN. Private. PASTRY, BREAD", None]
    assert (intake.good, intake.bad) == (7 + 0, 0)


@pytest.mark.parametrize("bad, reason", [
    (row("", 1, at(9), 3), "no user"), (row("a", 1, at(9), ""), "no basket"),
    (row("a", "x", at(9), 3), "bad item"), (row("a", 5, at(9), 3), "unknown item"),
    (row("a", 1, "noon", 3), "bad ts"), (row("a", 1, at(9), 3, -1), "negative quan"),
    (row("a", 1, at(9), 3, 1, "-0.5"), "negative sales"), ("a\t1", "expected 12 col"),
    (row("a", 1, at(9), 3, 1, "much"), "bad sales_value")])
def test_a_bad_row_is_kept_apart_and_named(tmp_path, bad, reason):
    folder = folder_of(tmp_path, [row("a", 0, at(9), 1), bad, row("a", 2, at(9), 2)])
    with Intake(tmp_path / "q.jsonl", 1) as intake:
        log = completejourney.read_completejourney(folder, intake)
    assert log.item.tolist() == [0, 2]
    found = json.loads((tmp_path / "q.jsonl").read_text())
    assert found["reason"].startswith(reason) and found["line"] == 3
    assert found["file"] == "transactions.tsv"


def test_the_last_two_baskets_are_held_out_whole():
    # Baskets 5 5 | 6 | 7 7 | 8 8 and 1 | 2 2 and 9 9: two baskets only train.
    request = np.array([5, 5, 6, 7, 7, 8, 8, 1, 2, 2, 9, 9])
    found = protocols.next_basket(np.array([7, 3, 2]), request)
    assert {name: rows.tolist() for name, rows in found.items()} == {
        "train": [[0, 2, 3], [1, 1, 3]], "valid": [[0, 3, 5]], "test": [[0, 5, 7]]}


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Two households with six baskets each; item numbers tell the basket's size."""
    tmp_path, rng = tmp_path_factory.mktemp("baskets"), np.random.default_rng(0)
    rows = [row(user, item, at(hour, 2 + basket), 10 * basket + number, spent=item + 1)
            for number, user in enumerate("ab") for basket in range(6)
            for hour in [int(rng.integers(0, 24))]
            for item in sorted(rng.permutation(5)[:rng.integers(1, 4)])]
    cfg = DataConfig(source="completejourney", path=str(folder_of(tmp_path, rows)),
                     protocol="next-basket", tie_policy="shuffled(0)")
    prepare(cfg, tmp_path / "data")
    return dataset.load_dataset(tmp_path / "data")


def test_no_target_sees_its_own_basket_and_each_is_asked_once(opened):
    ends, offsets = opened.history_ends(), opened.offsets()
    request, items = opened.column("request"), opened.column("item")
    assert opened.by_basket and (np.diff(request) != 0).sum() == 11
    wanted = {offsets[s] + p for s, p in opened.targets("train").tolist()}
    for mode in ("packed", "last"):
        cfg = pipeline.Pipeline(batch=2, history=4, row_length=12, mode=mode,
                                columns=("request", "time", "scenario", "opens"))
        source, seen = pipeline.TrainSource(opened, cfg, seed=1), []
        for step in range(source.steps_per_epoch):
            batch = source[step]
            for b, j in np.argwhere(batch["target_mask"]):
                position = batch["target_positions"][b, j]
                segment = batch["segments"][b, position]
                visible = np.flatnonzero(
                    batch["segments"][b, :position + 1] == segment)
                asked = batch["target_request"][b, j]
                assert segment > 0 and asked not in batch["request"][b, visible]
                turns = np.diff(batch["request"][b, visible]) != 0
                assert (batch["opens"][b, visible[1:]] == turns).all()
                event, = np.flatnonzero((request == asked)
                                        & (items == batch["targets"][b, j]))
                stop = ends[event]  # the history is what stands just before it
                own = items[stop - len(visible):stop]
                assert own.tolist() == batch["items"][b, visible].tolist()
                assert len(visible) >= min(
                    2, stop - offsets[np.searchsorted(offsets, event, "right") - 1])
                seen.append(event)
        assert sorted(seen) == sorted(wanted)


def test_a_basket_is_evaluated_from_what_was_before_it(opened):
    batches = pipeline.eval_batches(opened, "test", batch=16, history=50)
    batch, = list(batches)
    rows, offsets = opened.split("test"), opened.offsets()
    assert len(rows) == 2 and batches.targets == (rows[:, 2] - rows[:, 1]).sum()
    for number, (sequence, position) in enumerate(opened.targets("test")):
        first = rows[sequence, 1]
        own = batch["items"][number][batch["segments"][number] > 0]
        assert own.tolist() == opened.history(sequence, first).tolist()
        assert batch["targets"][number, 0] == opened.column("item")[
            offsets[sequence] + position]


def test_requests_of_an_alignment_know_what_was_bought_and_paid(opened):
    asked = AlignRequests(opened, batch=4, logged=2, history=5, seed=0, bought=True)
    batch, request = asked[0], opened.column("request")
    for b, number in enumerate(batch["rows"]):
        sequence, position = opened.targets("train")[number]
        same = np.flatnonzero(request == request[opened.offsets()[sequence] + position])
        own = batch["bought"][b] >= 0
        assert sorted(batch["bought"][b, own]) == sorted(opened.column("item")[same])
        # An item costs its number and one more.
        assert (batch["paid"][b] == np.where(own, batch["bought"][b] + 1, 0)).all()
        assert batch["targets"][b, 0] == batch["logged"][b, 0]
        others = sorted({*batch["bought"][b, own], -1} - {batch["logged"][b, 0]})
        assert batch["logged"][b, 1] == others[-1]  # the dearest of the others


def test_windows_hold_whole_baskets():
    # One sequence, baskets of 2, 1, 3, 6 and 1 events; half of a history of 4 is 2.
    ends = np.repeat([0, 2, 3, 6, 12], [2, 1, 3, 6, 1])
    found = packing.tile_baskets(np.array([[0, 2, 13]]), np.array([0, 13]), ends, 4)
    # {2} alone, as 3-5 would make five; {3-5} from 1; {6-11} from 4; {12} from 8.
    assert found.start.tolist() == [0, 1, 4, 8]
    assert found.length.tolist() == [2, 4, 7, 4]
    assert found.fresh.tolist() == [1, 1, 1, 3]
    with pytest.raises(ValueError, match="cuts a request"):
        packing.tile_baskets(np.array([[0, 4, 13]]), np.array([0, 13]), ends, 4)


def test_a_basket_longer_than_a_row_is_refused(opened):
    with pytest.raises(InputError, match="row_length is 2, and the longest request"):
        pipeline.TrainSource(opened, pipeline.Pipeline(batch=1, history=2,
                                                       row_length=2), seed=0)


def test_a_source_without_requests_has_no_baskets(tmp_path):
    (tmp_path / "e.csv").write_text("user,item,time\nu,a,1\nu,b,2\nu,c,3\n")
    cfg = DataConfig(source="table", path=str(tmp_path / "e.csv"),
                     protocol="next-basket")
    with pytest.raises(InputError, match="which events are of one request"):
        prepare(cfg, tmp_path / "data")
