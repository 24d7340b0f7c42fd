"""The search's tree as an answer tells it."""

import numpy as np

from oxyrec_jax.decode.beam import Level
from oxyrec_jax.serve import responses
from oxyrec_jax.serve.job import Answer


def test_nodes_are_kept_ended_or_cut():
    none = -np.inf
    levels = (
        Level(np.array([[3], [1], [7], [-1]]), np.array([-0.5, -1.0, -3.0, none]),
              np.int32(5), 2),
        Level(np.array([[3, 0], [3, 2], [1, 4]]), np.array([-0.75, -1.5, -2.0]),
              np.int32(3), 2))
    found = responses.tree(levels)
    assert [(node["codes"], node["fate"], node["beams"]) for node in found] == [
        ([3], "kept", 2), ([1], "ended", 0), ([7], "cut", 0),
        ([3, 0], "kept", 1), ([3, 2], "kept", 1), ([1, 4], "cut", 0)]
    assert [node["log_prob"] for node in found[:3]] == [-0.5, -1.0, -3.0]
    assert responses.tree(()) == []


def test_levels_count_what_was_legal(opened):
    level = Level(np.array([[3], [-1]]), np.array([-0.5, -np.inf]), np.int32(1), 2)
    answer = Answer(np.zeros(0, np.int32), np.zeros(0), (level,), None, 0, 0, 0)
    found = responses.explained(answer, opened.engine.live.snapshot,
                                np.zeros(0, np.int32))
    assert found["levels"] == [{"legal": 1, "kept": 1, "cut": 0}]
