"""`oxyrec judge`: on a shop, on a plain log, with a language model; and its service."""

import json
import pathlib
import re
import shutil

import chat_server
import numpy as np
import pytest
import tiny_workdir

from oxyrec_jax import cli, inspection, judging, workspace
from oxyrec_jax.base import InputError
from oxyrec_jax.data.dataset import load_dataset
from oxyrec_jax.judge_requests import LogRequests
from oxyrec_jax.rewards.judge.artefact import RECORDS, read_judge
from oxyrec_jax.rewards.judge.records import read_records

QUICKSTART = pathlib.Path(__file__).parents[1] / "experiments" / "quickstart.py"
SHORT = ("judge.weighting.steps=60", "judge.weighting.batch=64", "judge.requests=60")


def run(capsys, folder, *options, settings=SHORT):
    sets = [word for one in settings for word in ("--set", one)]
    cli.main(["judge", "--workdir", str(folder), *options, *sets, "--json"])
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop") / "work"
    cli.main(["prepare", str(QUICKSTART), "--workdir", str(folder),
              "--set", "data.shop.users=80", "--set", "data.shop.items=200",
              "--set", "text.source=hashed"])
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    tiny_workdir.write_csv(folder)
    cli.main(["prepare", "--workdir", str(folder / "work"), *tiny_workdir.settings(),
              "--source", "table", "--path", str(folder / "events.csv"),
              "--items", str(folder / "items.csv")])
    return folder / "work"


def test_the_truth_agrees_with_itself_and_the_conflicting_judge_does_not(work, capsys):
    truth = run(capsys, work, "--judge", "truth")
    against = run(capsys, work, "--judge", "conflicting")
    assert truth["point_acc"]["point_acc"] == 1
    assert all(one["spearman"] == pytest.approx(1) for one in truth["aspects"].values())
    assert truth["pair_auc"]["low"] > 0.6 > 0.4 > against["pair_auc"]["high"]
    assert truth["business"]["value"] > 0.3 > -0.8 > against["business"]["value"]
    for found in (truth, against):
        assert found["counts"]["requests"] == 60 and found["reference"] == "truth"
        for weights in found["weights"].values():
            assert sum(weights.values()) == pytest.approx(1, abs=1e-5)
        page = pathlib.Path(found["page"]).read_text()
        assert not re.search(r'<(?:script|link|img)[^>]+(?:src|href)=', page)
        assert "Bradley-Terry is a variant" in page


def test_records_and_weights_of_a_bundle_are_checked_when_read(work, capsys, tmp_path):
    found = run(capsys, work, "--judge", "truth")
    folder = pathlib.Path(found["folder"])
    records = list(read_records(folder / RECORDS))
    assert len(records) == found["counts"]["points"]
    assert set(records[0].scores) == {"profile", "future", "novelty", "context"}
    assert all(records[0].evidence.values())
    copy = tmp_path / "judge"
    shutil.copytree(folder, copy)
    read_judge(copy)
    space = workspace.open_workspace(work, None)
    told = inspection.inspect(space)["judges"]["truth"]
    assert told["pair_auc"] == found["pair_auc"]
    with open(copy / RECORDS, "a") as file:
        file.write("{}\n")
    with pytest.raises(InputError, match=RECORDS):
        read_judge(copy)


def test_the_same_command_gives_the_same_judge(work, capsys):
    first = run(capsys, work, "--judge", "noisy")
    digests = [read_judge(first["folder"])[1]["files"]]
    assert run(capsys, work, "--judge", "noisy") == first
    assert [read_judge(first["folder"])[1]["files"]] == digests


def test_an_aligner_asks_by_numbers_of_targets(work, capsys):
    run(capsys, work, "--judge", "truth")
    space = workspace.open_workspace(work, None)
    made = judging.load_judge(space, "truth", share=0.5)
    log = LogRequests(load_dataset(space.data))
    rows = np.arange(40)
    items = np.random.default_rng(0).integers(200, size=(40, 8))
    semantic, judged = judging.of_targets(made, log)(rows, items)
    other, same = made.score(log.of_targets("train", rows), items)
    np.testing.assert_array_equal(semantic, other)
    assert 5 < judged.sum() < 35 and (judged == same).all()
    assert ((semantic >= 0) & (semantic <= 1)).all() and (semantic[~judged] == 0).all()
    assert (np.ptp(semantic[judged], axis=1) > 0).all()


def test_a_plain_log_is_judged_by_rules_against_what_was_chosen(plain, capsys):
    found = run(capsys, plain)
    assert (found["kind"], found["reference"]) == ("rules", "log")
    assert found["aspects"] is None and found["point_acc"] is None
    assert found["candidates"] == "chosen and drawn" and found["pair_auc"]["pairs"] > 0
    assert found["weights"]["all"]["context"] == 0  # there is none
    assert pathlib.Path(found["page"]).exists()
    with pytest.raises(SystemExit):
        run(capsys, plain, "--judge", "truth")
    assert "knows a simulated shop's truth alone" in capsys.readouterr().err


def answer(request):
    """Prefers dear items, in aspects and in pairs."""
    items = chat_server.data_of(request)["items"]
    if isinstance(items, dict):
        return json.dumps({"better": max(items, key=lambda name: items[name]["price"])})
    asked = ("profile", "future", "novelty", "context")
    return json.dumps({"items": [{"number": item["number"], **{
        name: {"score": min(item["price"] / 500, 1), "ground": "dear"}
        for name in asked}} for item in items]})


def test_a_language_model_is_asked_once_and_its_cost_is_told(work, capsys):
    server = chat_server.ChatServer()
    server.says(answer)
    settings = (*SHORT, f"judge.endpoint.url={server.endpoint().url}",
                "judge.endpoint.model=tiny", "judge.requests=20", "judge.pairs=2")
    try:
        found = run(capsys, work, "--judge", "llm", settings=settings)
        asked = len(server.requests)
        again = run(capsys, work, "--judge", "llm", settings=settings)
        # A bundle remembers its server; the records answer for it.
        space = workspace.open_workspace(work, None)
        made = judging.load_judge(space, "llm", share=1.0)
        log = LogRequests(load_dataset(space.data))
        semantic, judged = made.score(log.of_targets("valid", np.arange(3)),
                                      np.tile([0, 1, 2], (3, 1)))
    finally:
        server.close()
    cost, later = found["cost"], again["cost"]
    assert cost["requests"] == asked == cost["questions"] > 20
    assert cost["prompt_tokens"] == 100 * asked
    assert (later["requests"], later["cached"]) == (0, later["questions"])
    assert later["cache_hits"] == {"points": 1.0, "questions": 1.0}
    assert later["recorded"] == found["counts"]["points"]
    assert again["pair_auc"] == found["pair_auc"] and judged.all()
    assert len(server.requests) > asked and semantic.shape == (3, 3)


@pytest.mark.parametrize("options, settings, said", [
    (["--split", "future"], SHORT, "expected train, valid or test"),
    (["--judge", "oracle"], SHORT, "judge.kind is 'oracle'"),
    (["--judge", "llm"], SHORT, "needs a server"),
    (["--judge", "biased"], (*SHORT, "judge.prefer=nice"), "judge.prefer is 'nice'"),
    ([], (*SHORT, "judge.share=2"), "judge.share is 2"),
    ([], (*SHORT, "judge.weighting.method=none"), "judge.weighting.method")])
def test_what_cannot_work_is_said_in_one_sentence(work, capsys, options, settings,
                                                  said):
    with pytest.raises(SystemExit) as stop:
        run(capsys, work, *options, settings=settings)
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 2 and said in told


def test_a_server_that_is_down_ends_the_run_with_its_reason(work, capsys):
    gone = chat_server.ChatServer()
    gone.close()
    with pytest.raises(SystemExit):
        run(capsys, work, "--judge", "llm", settings=(
            *SHORT, f"judge.endpoint.url={gone.endpoint().url}",
            "judge.endpoint.model=other", "judge.endpoint.retries=0",
            "judge.requests=3"))
    assert "no candidate could be judged: 3 × down" in capsys.readouterr().err


def test_a_judge_that_is_not_there_or_of_other_data_is_refused(work, plain):
    space = workspace.open_workspace(plain, None)
    with pytest.raises(InputError, match="oxyrec judge --judge noisy"):
        judging.load_judge(space, "noisy")
    shutil.copytree(work / "judge" / "truth", plain / "judge" / "truth")
    with pytest.raises(InputError, match="made from another data set"):
        judging.load_judge(space, "truth")


def test_what_is_printed_names_the_judge_and_its_figures(work, capsys):
    cli.main(["judge", "--workdir", str(work), "--judge", "truth", *[
        word for one in SHORT for word in ("--set", one)]])
    told = capsys.readouterr().out
    assert "PairAUC: 0." in told and "PointAcc: 1.0000" in told
    assert "bradley-terry" in told and "judge/truth.html" in told
