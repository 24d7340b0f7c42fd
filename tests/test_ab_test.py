"""`oxyrec abtest`: keys, resumption bit by bit, and arms that cannot be compared."""

import json
import re
import shutil
from unittest import mock

import numpy as np
import pytest

import tiny_shop
from oxyrec_jax import ab_test, artifacts, cli
from oxyrec_jax.base import InputError
from oxyrec_jax.closed_loop import days, keeping, policies, trial
from oxyrec_jax.closed_loop.figures import FIGURES
from oxyrec_jax.data import shop
from oxyrec_jax.models.config import ModelConfig

SMALL = ModelConfig(width=8, heads=1, head_width=8, mlp_width=8, encoder_layers=1,
                    decoder_layers=1, sides=("gap",))


@pytest.fixture(scope="module")
def work(shop_workdir, tmp_path_factory):
    """A small network on the same shop."""
    return tiny_shop.make(tmp_path_factory.mktemp("ab") / "small", model=SMALL,
                          data=shop_workdir).folder


def options(work, folder, *more):
    return ["abtest", "--workdir", str(folder), "--control", "old", "--treatment",
            str(work), "--days", "2", "--users", "30", "--requests", "2", "--splits",
            "20", "--paired", "--comes", "0.9", "--slate", "5", *map(str, more)]


@pytest.fixture(scope="module")
def done(work, tmp_path_factory):
    """A finished test's folder and what it printed as JSON."""
    folder = tmp_path_factory.mktemp("ab") / "test"
    with mock.patch("builtins.print") as printed:
        cli.main(options(work, folder, "--json"))
    return folder, json.loads(printed.call_args.args[0])


def test_json_has_lifts_with_their_ends_in_total_and_by_scenario(done, work):
    _, found = done
    assert set(found["scenarios"]) == set(shop.SCENARIOS)
    for cells in (found["total"], *found["scenarios"].values()):
        assert set(cells) == set(FIGURES)
        for name in ("uctr", "uctcvr", "orders", "gmv"):
            assert {"lift", "low", "high", "detectable",
                    "users_for_one_percent"} <= set(cells[name])
    cell = found["total"]["ctr"]
    assert cell["low"] <= cell["lift"] <= cell["high"]
    assert cell["lift"] == pytest.approx(cell["treatment"] / cell["control"] - 1)
    assert found["treatments"][str(work)]["total"] == found["total"]
    assert found["total"]["legality"]["treatment"] == 1.0  # held to the trie
    assert found["mode"] == "paired" and found["same"]["splits"] == 20


def test_the_page_says_when_it_was_judged_and_loads_nothing(done):
    folder, found = done
    page = (folder / "report.html").read_text()
    assert found["page"] == str(folder / "report.html")
    assert "A test is judged once" in page and "forest-gmv" in page
    assert not re.findall(r"<(?:script|link|img)[^>]* (?:src|href)=", page)


def test_a_finished_test_is_told_again_without_serving(done, work):
    folder, found = done
    with mock.patch.object(days, "advance", side_effect=AssertionError):
        with mock.patch("builtins.print") as printed:
            cli.main(options(work, folder, "--json"))
    assert json.loads(printed.call_args.args[0]) == found


@pytest.mark.parametrize("kept, half", [(1, False), (1, True)])
def test_a_killed_test_continued_equals_the_uninterrupted_one(
        done, work, tmp_path, kept, half):
    folder, _ = done
    true, calls = keeping.Kept.add, []

    def killed(self, *evening):
        if len(calls) == kept:
            if half:  # the day is counted, and not yet done
                with mock.patch.object(keeping, "_write",
                                       side_effect=KeyboardInterrupt):
                    true(self, *evening)
            raise KeyboardInterrupt
        calls.append(self.day)
        true(self, *evening)
    with (mock.patch.object(keeping.Kept, "add", killed),
          pytest.raises(SystemExit)):
        cli.main(options(work, tmp_path / "test"))
    assert not (tmp_path / "test" / "results.json").exists()
    cli.main(options(work, tmp_path / "test"))
    assert (artifacts.read_json(tmp_path / "test" / "results.json")
            == artifacts.read_json(folder / "results.json"))
    for path in sorted((folder / "runs").rglob("*.npy")):
        there = tmp_path / "test" / path.relative_to(folder)
        np.testing.assert_array_equal(np.load(there), np.load(path))


def plan(work, *treatments, **changes):
    values = dict(control="old", treatments=tuple(map(str, treatments)) or (str(work),),
                  days=2, users=30, slate=5, visiting=days.Visiting(0.9, 2),
                  design=trial.Design(splits=20, paired=True))
    return ab_test.Plan(**values | changes)


def test_a_test_keeps_the_horizon_that_it_began_with(done, work):
    with pytest.raises(InputError, match=r"holds another test \(plan differ\)"):
        ab_test.run(plan(work, days=3), done[0])


def test_another_catalogue_is_refused_with_both_digests(work, shop_workdir, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(shop_workdir.folder, other, symlinks=True)
    manifest = artifacts.read_json(other / "data" / "manifest.json")
    digest = manifest["files"]["items.parquet"]["sha256"]
    manifest["files"]["items.parquet"]["sha256"] = "f" * 64
    artifacts.write_json(other / "data" / "manifest.json", manifest)
    with pytest.raises(InputError) as error:
        ab_test.run(plan(work, work, other), tmp_path / "test")
    assert "another catalogue" in str(error.value)
    assert digest in str(error.value) and "f" * 64 in str(error.value)


@pytest.mark.parametrize("arm, said", [
    ("nowhere", "is no work directory and none of old, truth, popularity"),
    ("{work}:lost", "no parameters in"), ("{work}:7", "not there yet")])
def test_an_arm_that_is_not_there_is_named(work, arm, said, tmp_path):
    with pytest.raises(InputError, match=said):
        ab_test.run(plan(work, arm.format(work=work), shop=work), tmp_path / "test")


def test_another_run_of_the_same_work_directory_is_an_arm_by_seed_or_folder(
        work, tmp_path):
    asked = plan(work, f"{work}:0", f"{work}:train/seed0")
    opened = ab_test._open(asked)
    by_seed, by_folder = (ab_test._enter(name, asked, opened)
                          for name in asked.treatments)
    assert by_seed.digest == by_folder.digest
    assert by_seed.arm.policy == by_folder.arm.policy


@pytest.mark.parametrize("changes, said", [
    ({"treatments": ()}, "no treatment"), ({"treatments": ("a", "a")}, "twice"),
    ({"days": 0}, "1 to 365"), ({"slate": 21}, "1 to 20")])
def test_a_plan_that_makes_no_sense_is_refused(changes, said):
    with pytest.raises(InputError, match=said):
        plan("a", **changes)


def test_rules_alone_do_not_tell_the_shop(tmp_path):
    with pytest.raises(InputError, match="give --shop FOLDER"):
        ab_test.run(plan("a", "popularity"), tmp_path / "test")


def test_popularity_shows_what_training_saw_most_often(shop_workdir):
    asked = plan(shop_workdir.folder, "popularity", shop=shop_workdir.folder)
    opened = ab_test._open(asked)
    arm = ab_test._enter("popularity", asked, opened).arm
    train = [event for sequence, first, last in opened.dataset.split("train")
             for event in range(opened.dataset.offsets()[sequence],
                                opened.dataset.offsets()[sequence] + last)]
    counts = np.bincount(np.asarray(opened.dataset.column("item"))[train],
                         minlength=opened.built.cfg.items)
    shown = np.asarray(arm.arrays)
    assert len(shown) == 5
    np.testing.assert_array_equal(counts[shown], np.sort(counts)[::-1][:5])


def test_the_truth_of_a_large_catalogue_is_refused():
    with pytest.raises(InputError, match="at most 20000"):
        policies.insider("truth", shop.ShopConfig(items=30_000), 5)
