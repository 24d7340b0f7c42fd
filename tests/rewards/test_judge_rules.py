"""The offline judge: resemblance, novelty, words and rules, worked out by hand."""

import dataclasses

import numpy as np
import pytest
from judge_world import ITEMS, request

from oxyrec_jax.data.shop.knowledge import Rule
from oxyrec_jax.rewards.judge.rules import RuleJudge

# Kettle and lamp point the same way, the tent another.
VECTORS = np.array([[1, 0], [0, 1], [1, 0]], float)
PLAIN = dataclasses.replace(ITEMS, brands=["", "", ""])


def score(items=PLAIN, rules=(), **more):
    made = RuleJudge(items, VECTORS, rules)
    return made.judge([request(**more)], np.array([[0, 1, 2]]), evidence=True)


def test_profile_and_future_are_shares_of_items_that_resemble_less():
    found = score(history=(0,)).scores[0]
    # Along the kettle: kettle and lamp at 1, the tent at 0. Ties count half: two of
    # three items tie at the top above one, (1 + 2 / 2) / 3.
    np.testing.assert_allclose(found[:, 0], [2 / 3, 1 / 6, 2 / 3])
    np.testing.assert_allclose(found[:, 1], found[:, 0])


def test_the_latest_events_count_for_what_is_wanted_next():
    found = score(history=(0, 0, 0, 0, 1, 1, 1)).scores[0]
    assert found[0, 0] > found[1, 0]  # four kettles against three tents
    assert found[1, 1] > found[0, 1]  # but the tents came last


def test_novelty_falls_with_the_category_and_with_the_item():
    two = dataclasses.replace(PLAIN, categories=["Kitchen", "Camping", "Kitchen"])
    np.testing.assert_array_equal(score(two, history=(0,)).scores[0, :, 2], [0, 1, 0.5])


def test_a_brand_that_was_had_counts_for_the_profile():
    found = score(ITEMS, history=(0,)).scores[0, :, 0]
    np.testing.assert_allclose(found, [(2 / 3 + 1) / 2, 1 / 12, (2 / 3 + 1) / 2])


def test_context_is_the_best_of_words_trigger_and_rules():
    words = score(query="camping tent", scenario="search").scores[0, :, 3]
    np.testing.assert_allclose(words, [0, 1, 0])
    trigger = score(query="", trigger=2).scores[0, :, 3]
    np.testing.assert_allclose(trigger, [2 / 3, 1 / 6, 2 / 3])
    nothing = score(query="").scores[0, :, 3]
    np.testing.assert_allclose(nothing, 0.5)
    assert (score(query="", scenario="").scores[0, :, 3] == 0).all()


def test_a_rule_speaks_only_where_its_facts_hold():
    rules = [Rule("cold", ("cold", "student"), 1.0, "it is cold", (("Kettles", ""),)),
             Rule("dark", ("dark",), 1.0, "it is dark", (("Lamps", ""),))]
    state = dataclasses.replace(request().state, facts=("cold", "student"))
    made = RuleJudge(PLAIN, VECTORS, rules)
    own = dataclasses.replace(request(query=""), state=state)
    found = made.judge([own], np.array([[0, 1, 2]]), evidence=True)
    np.testing.assert_array_equal(found.scores[0, :, 3], [1, 0, 0])
    assert found.evidence[0, 0, 3] == "a rule that holds asks for it"


def test_somebody_without_a_history_is_judged_all_the_same():
    found = score(history=())
    np.testing.assert_allclose(found.scores[0, :, 0], 0.5)
    assert (found.scores[0, :, 2] == 1).all() and found.known.all()


def test_rules_have_no_opinions_of_pairs_and_check_their_vectors():
    made = RuleJudge(PLAIN, VECTORS)
    assert made.prefer([request()], np.array([[0, 1]])) is None
    with pytest.raises(ValueError, match="vectors.shape"):
        RuleJudge(PLAIN, VECTORS[:2])
