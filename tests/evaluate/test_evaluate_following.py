"""Instruction following by hand: four requests, lists that obey and lists that do not.
"""

import numpy as np
import pyarrow.parquet as pq
import pytest

from oxyrec_jax.data import shop
from oxyrec_jax.data.dataset import load_dataset
from oxyrec_jax.data.shop.instructions import InstructionSource, instruction_texts
from oxyrec_jax.evaluate import following as lib
from oxyrec_jax.evaluate import rows

LEAF = np.repeat([0, 1, 2], [12, 4, 14])  # of 30 items
REQUESTS = lib.Requests(
    groups={"all": np.ones(4, bool), "deductive": np.array([1, 1, 0, 0], bool),
            "new deductive": np.zeros(4, bool)},
    leaf=LEAF, needed=np.array([0, 1, 2, 2]), swapped=np.array([1, 0, 0, 1]),
    target=np.array([0, 12, 16, 17]))
USERS = np.arange(4)
BASE = np.arange(16, 26)  # ten items of leaf 2


def lists(**changed):
    """Each kind's lists: those of "none" but for the rows that are given."""
    found = {}
    for kind in lib.KINDS:
        items = np.tile(BASE, (4, 1))
        for row, top in changed.get(kind, {}).items():
            items[row, :len(top)] = top
        found[kind] = {"seed0": items}
    return found


def judged(**changed):
    return lib.follow(lists(**changed), REQUESTS, USERS, samples=200, seed=1)


def test_lists_that_do_not_change_show_nothing():
    found = judged()
    assert found["kinds"]["none"]["all"]["hr@10"]["mean"] == 0.5  # targets 16 and 17
    for kind in ("oracle", "noisy", "wrong"):
        cell = found["differences"][kind]["all"]["hr@10"]
        assert (cell["mean"], cell["low"], cell["high"]) == (0, 0, 0)
    assert found["controllability"]["all"]["mean"] == 0
    assert found["steering"]["all"]["mean"] == 0
    assert found["counts"] == {"all": 4, "deductive": 2, "new deductive": 0}
    assert "new deductive" not in found["kinds"]["none"]


def test_right_texts_lift_and_the_lift_is_relative_to_none():
    found = judged(oracle={0: [0], 1: [13, 12]})
    cell = found["differences"]["oracle"]["all"]
    assert cell["hr@10"]["mean"] == 0.5 and cell["hr@10"]["relative"] == 1.0
    gain = (1 + 1 / np.log2(3)) / 4  # ranks 0 and 1 of four requests
    assert cell["ndcg@10"]["mean"] == pytest.approx(gain)
    deductive = found["differences"]["oracle"]["deductive"]["hr@10"]
    assert deductive["mean"] == 1 and deductive["relative"] is None  # none had no hit


def test_controllability_is_the_share_that_moves_to_the_swapped_leaf():
    # Row 0 obeys with 4 items of leaf 1, row 1 with 5 of leaf 0, the others not.
    found = judged(wrong={0: [12, 13, 14, 15], 1: [0, 1, 2, 3, 4]})
    cell = found["controllability"]
    assert cell["all"]["mean"] == pytest.approx((0.4 + 0.5) / 4)
    assert cell["deductive"]["mean"] == pytest.approx(0.45)
    # Leaf 1 has 4 items, leaf 0 more than ten: room for .4, 1, 1 and .4 of a list.
    assert cell["all"]["ceiling"] == pytest.approx(2.8 / 4)
    assert cell["all"]["low"] <= cell["all"]["mean"] <= cell["all"]["high"]


def test_steering_is_the_same_towards_the_need_itself():
    found = judged(oracle={2: [0, 1]})  # two of its ten items leave the needed leaf
    assert found["steering"]["all"]["mean"] == pytest.approx(-0.2 / 4)


def test_each_aim_says_whether_it_is_met():
    found = judged(oracle={0: [0], 1: [12]}, wrong={2: [0, 1]},
                   noisy={2: [0]})  # target 16 stands first and is pushed out
    rows_of = {(row["kind"], row["group"]): row for row in found["targets"]}
    assert rows_of["wrong", "all"]["relative"] == -0.5
    assert rows_of["wrong", "all"]["met"]
    assert not rows_of["noisy", "all"]["met"]
    assert ("oracle", "deductive") not in rows_of  # none has no hit to compare with


def test_runs_are_averaged_request_by_request():
    one, other = lists(), lists(oracle={0: [0]})
    both = {kind: {"seed0": one[kind]["seed0"], "seed1": other[kind]["seed0"]}
            for kind in lib.KINDS}
    found = lib.follow(both, REQUESTS, USERS, samples=50)
    assert found["differences"]["oracle"]["all"]["hr@10"]["mean"] == 0.125
    assert found["runs"]["seed0"]["oracle"]["all"]["hr@10"] == 0.5
    assert found["runs"]["seed1"]["oracle"]["all"]["hr@10"] == 0.75


def test_needs_and_instructed_leaves_are_those_of_the_shop(tmp_path):
    shop.prepare_shop(shop.ShopConfig(users=200, items=200, context_needs=0.6),
                      tmp_path / "shop")
    log = load_dataset(tmp_path / "shop")
    events = rows.of_dataset(log)
    targets = rows.expand(events, log.split("test"))
    source = InstructionSource(seed=3)
    found = lib.requests_of(log, targets, source)
    needs = pq.read_table(log.folder / "needs.parquet").to_pylist()
    requests = pq.read_table(log.folder / "requests.parquet").to_pylist()
    category = log.item_table()["category"].to_pylist()
    wrong = instruction_texts(log, "wrong", seed=3)
    names = {leaf: name for leaf, name in zip(found.leaf.tolist(), category)}
    new = 0
    for row, place in enumerate(targets.place.tolist()):
        request = int(log.column("request")[place])
        need = needs[requests[request]["need"]]
        assert names.get(found.needed[row], need["category"]) == need["category"]
        assert needs[wrong.index[place]]["text"] == wrong.texts[wrong.index[place]]
        swapped = needs[wrong.index[place]]["category"]
        assert swapped != need["category"]
        assert names.get(found.swapped[row], swapped) == swapped
        deductive = need["kind"] == "context"
        assert found.groups["deductive"][row] == deductive
        before = requests[request - 1] if request else None
        known = (before is not None
                 and before["sequence"] == requests[request]["sequence"]
                 and before["need"] == requests[request]["need"])
        seen = int(log.column("request")[place - 1]) == request
        assert found.groups["new deductive"][row] == (deductive and not known
                                                      and not seen)
        new += deductive and not known and not seen
    assert 0 < new < found.groups["deductive"].sum() < len(targets)
