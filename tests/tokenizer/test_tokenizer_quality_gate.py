"""The quality gate: what is asked, what falls, and the sentence it ends in."""

import json
import re

import numpy as np
import pytest

from oxyrec_jax.base import InputError
from oxyrec_jax.tokenizer import quality, quality_gate
from oxyrec_jax.tokenizer.quality_gate import GateConfig

#   SIDs (0, 0), (0, 1), (1, 1), (1, 1) of widths 2 and 3: 2 of 4 items share theirs,
#   level 1 has loads 2, 2, level 2 has loads 1, 3, 0.
CODES = np.array([[0, 0], [0, 1], [1, 1], [1, 1]])
FIGURES = quality.measure(CODES, (2, 3), categories=["a", "b", "b", "b"])


def test_a_gate_that_asks_nothing_lets_everything_through():
    assert quality_gate.check(FIGURES, GateConfig()) == {"passed": True, "asked": []}
    assert "no bounds" in quality_gate.describe(quality_gate.check(
        FIGURES, GateConfig()))


@pytest.mark.parametrize("share, policy, said", [
    (0.02, "list", "^$"), (0.4, "list", "^40.0% of the items .*collisions=reassign"),
    (0.4, "reassign", "^40.0% of the items share .*tokenizer.widths"),
    (0.0, "dedup", "^$")])
def test_crowded_ids_are_told_with_what_the_policy_leaves_to_do(share, policy, said):
    figures = {"duplicates": share, "items": 8, "widths": [2, 4]}
    assert re.search(said, quality_gate.crowded(figures, policy))


def test_fewer_ids_than_items_need_wider_levels_whatever_the_policy():
    figures = {"duplicates": 0.4, "items": 9, "widths": [2, 4]}
    assert "room for 8 IDs of 9 items" in quality_gate.crowded(figures, "list")


@pytest.mark.parametrize("bound, ok", [(0.5, True), (0.4999, False)])
def test_a_bound_is_met_when_equal(bound, ok):
    verdict = quality_gate.check(FIGURES, GateConfig(max_duplicates=bound))
    assert verdict["passed"] is ok
    assert verdict["asked"] == [{
        "figure": "duplicates", "level": None, "value": 0.5, "bound": bound,
        "limit": "at most", "ok": ok}]
    json.dumps(verdict, allow_nan=False)


def test_one_bound_holds_for_every_level_and_several_for_one_each():
    for bound in (0.7, (0.9, 0.7)):
        found = quality_gate.check(FIGURES, GateConfig(min_coverage=bound))
        assert [entry["level"] for entry in found["asked"]] == [1, 2]
        assert [entry["value"] for entry in found["asked"]] == [1, 2 / 3]
        assert [entry["ok"] for entry in found["asked"]] == [True, False]
    assert quality_gate.check(FIGURES, GateConfig(min_coverage=(1.0, 0.5)))["passed"]
    with pytest.raises(InputError, match="min_coverage has 1 numbers for 2 levels"):
        quality_gate.check(FIGURES, GateConfig(min_coverage=(1.0,)))


def test_perplexity_is_asked_as_a_share_of_the_width():
    # Level 1: 2 of 2. Level 2: shares 1/4, 3/4, exp of their entropy over 3 codes.
    entropy = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    found = quality_gate.check(FIGURES, GateConfig(min_perplexity=0.5))["asked"]
    np.testing.assert_allclose([entry["value"] for entry in found],
                               [1, np.exp(entropy) / 3])


def test_every_figure_can_be_asked():
    figures = FIGURES | {"reconstruction": [0.6, 0.3],
                         "agreement": {"lift": [2.5, 4.0]}}
    # The largest of (1, 1, 2) items per SID is every high quantile of it. Gini of
    # loads 0, 1, 3: (-2 * 0 + 0 * 1 + 2 * 3) / (3 * 4). Purity: 1 + 2 of 4 items.
    cfg = GateConfig(
        max_duplicates=0.5, max_items_per_sid=2, max_p99=2, max_p999=2,
        min_coverage=(1.0, 2 / 3), min_perplexity=(1.0, 0.58), max_gini=(0.0, 0.5),
        min_purity=0.75, min_agreement=2.5, max_reconstruction=0.3)
    verdict = quality_gate.check(figures, cfg)
    assert verdict["passed"] and len(verdict["asked"]) == 7 + 2 * 3
    assert verdict == quality_gate.require(figures, cfg)
    assert quality_gate.describe(verdict) == "the semantic IDs keep all 13 bounds"


def test_a_level_that_only_numbers_is_left_out():
    figures = quality.measure(np.c_[CODES, [0, 0, 0, 1]], (2, 3, 9)) | {
        "reconstruction": [0.6, 0.3, 0.3]}
    cfg = GateConfig(min_coverage=0.5, max_reconstruction=0.3)
    assert not quality_gate.check(figures, cfg)["passed"]
    verdict = quality_gate.check(figures, cfg, levels=2)
    assert verdict["passed"] and [entry["level"] for entry in verdict["asked"]] == [
        1, 2, 2]


@pytest.mark.parametrize("figures", [
    {name: value for name, value in FIGURES.items() if name != "purity"},
    FIGURES | {"purity": [float("nan"), 1.0]}], ids=["absent", "NaN"])
def test_what_was_asked_and_not_measured_falls(figures):
    cfg = GateConfig(min_purity=0.0)
    verdict = quality_gate.check(figures, cfg)
    assert not verdict["passed"] and verdict["asked"][0]["value"] is None
    json.dumps(verdict, allow_nan=False)
    with pytest.raises(InputError, match="purity at depth 1 was not measured"):
        quality_gate.require(figures, cfg)


def test_the_sentence_names_every_figure_that_fell_and_what_to_try():
    cfg = GateConfig(max_duplicates=0.02, min_coverage=0.95, max_items_per_sid=1,
                     min_purity=0.5)
    with pytest.raises(InputError) as caught:
        quality_gate.require(FIGURES, cfg)
    assert str(caught.value) == (
        "the semantic IDs fall through the quality gate: duplicates 0.5, expected at "
        "most 0.02; most items per SID 2, expected at most 1; coverage of level 2 "
        "0.6667, expected at least 0.95; try, for duplicates: wider or more levels, "
        "balanced k-means, or the collision policy reassign or dedup; for "
        "max_items_per_sid: the collision policy reassign or dedup, or titles that "
        "tell such items apart; for coverage: fewer codes on that level, more k-means "
        "iterations, a larger restart share, or balanced k-means")


@pytest.mark.parametrize("wrong", [
    {"max_duplicates": 2}, {"min_coverage": (0.5, 95)}, {"max_p99": -1},
    {"max_gini": float("nan")}, {"min_agreement": float("inf")}])
def test_bounds_that_cannot_be_meant_are_refused(wrong):
    with pytest.raises(InputError, match=f"the gate's {next(iter(wrong))} is"):
        GateConfig(**wrong)
