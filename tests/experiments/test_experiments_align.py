"""The alignment experiment: its rows, and what all of them have in common."""

import dataclasses

import pytest

from oxyrec_jax.train.signals import check_names


@pytest.fixture(scope="module")
def align(load_file):
    return load_file("experiments/align.py")


def test_every_method_stands_at_every_share(align):
    rows = align.rows_of("methods")
    assert len(rows) == 6 * 4
    for name, row in rows.items():
        method, share = name.split(":")
        assert row.synthetic == float(share) and row.judge is None
        assert row.policy == align.METHODS[method]
    both = [align.METHODS[name].options for name in ("sa-gcpo", "sa-gcpo, turned")]
    assert both == [{}, {"tau_pos": 1.05, "tau_neg": 1.0}]


def test_every_judge_meets_every_way_to_join_two_streams(align):
    rows = align.rows_of("judges")
    assert len(rows) == 1 + 3 * 3 and rows["grpo:0.33"].judge is None
    assert {(row.policy.method, row.judge) for row in rows.values()
            if row.judge} == {(stream, judge) for stream in align.STREAMS
                              for judge in align.JUDGES}


@pytest.mark.parametrize("table", ["methods", "judges"])
def test_rows_differ_in_nothing_but_what_they_are_named_for(align, table, tmp_path):
    first, *others = [align.align_config(row, 50, tmp_path, tmp_path)
                      for row in align.rows_of(table).values()]
    check_names(tuple(first.reward), vectors=True, ranker=True)
    for cfg in others:
        assert dataclasses.replace(cfg, policy=first.policy, judge=first.judge,
                                   synthetic=first.synthetic) == first
        assert bool(cfg.judge) == cfg.two_streams


def test_what_the_log_can_check_needs_no_ranking_model(align, tmp_path):
    rows = align.rows_of("verifiable")
    assert {(tuple(row.reward), row.distil > 0) for row in rows.values()} == {
        (paid, told) for paid in (("tokens",), ("trajectory",))
        for told in (False, True)}
    for row in rows.values():
        cfg = align.align_config(row, 50, None, tmp_path)
        check_names(tuple(cfg.reward), vectors=False, ranker=False)
        assert cfg.ranker == "" and cfg.distil.weight == row.distil
    base = align.base_config("verifiable", (0,), 2_000)
    assert base.model.instructions.reasoning and not base.model.instructions.trigger
    assert base.instructions.train == "noisy" != cfg.distil.told


def test_groups_are_as_long_as_the_slates_that_were_logged(align, tmp_path):
    cfg = align.base_config("methods", (0,), 2_000)
    for row in align.rows_of("methods").values():
        assert align.align_config(row, 50, tmp_path, tmp_path).group == (
            cfg.data.shop.slate)
    assert cfg.data.protocol == "P2" and not cfg.model.memory
