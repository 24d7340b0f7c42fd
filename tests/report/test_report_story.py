"""The page of the whole path, and the steps that lead there."""

import pytest

from oxyrec_jax import ab_test, workflow
from oxyrec_jax.evaluate import evaluation

CELL = {"lift": 0.25, "low": 0.125, "high": 0.5}
TEST = {"total": {name: CELL for name in ("uctr", "uctcvr", "orders", "gmv")},
        "verdicts": {"aligned": "It sells a quarter more."}, "refused": False,
        "level": 0.95}


@pytest.fixture
def instead(monkeypatch):
    """In place of what other tests try: the alignment, the test, the evaluation."""
    asked = {}

    def align(space):
        asked["align"] = space
        return {"metric": "reward@10", "runs": {"seed0": {
            "start": {"reward@10": 0.25}, "best": {"reward@10": 0.375}}}}

    def run(plan, workdir):
        asked["plan"], asked["workdir"] = plan, workdir
        return TEST

    class Found:
        results = {"item.recall@10": 0.5, "item.ndcg@10": 0.25, "baselines": {
            "markov": {"item.recall@10": 0.4375, "item.ndcg@10": 0.1875}}}
    monkeypatch.setattr(workflow, "align", align)
    monkeypatch.setattr(ab_test, "run", run)
    monkeypatch.setattr(evaluation, "read_evaluation", lambda folder: Found)
    return asked


def test_every_part_is_asked_for_and_told(shop_workdir, tmp_path, instead):
    space = workflow.open_workspace(tmp_path / "shop", shop_workdir.cfg)
    space.save()
    for name in ("data", "semantic_ids", "train"):
        (space.folder / name).symlink_to(shop_workdir.folder / name)
    found = workflow.story(space)
    assert instead["align"].folder == space.folder / "aligned"
    assert instead["align"].cfg.align.steps == 40
    assert instead["align"].cfg.train.start_from == str(space.folder.resolve())
    plan = instead["plan"]
    assert (plan.control, plan.treatments) == (str(space.folder),
                                               (str(space.folder / "aligned"),))
    assert plan.design.paired and plan.users == 40
    assert found["thought"]["reasoner"] and not found["thought"]["language_model"]
    text = (space.folder / "story.html").read_text("utf-8")
    for part in ("A shop", "Semantic IDs", "Pre-training", "Slow thinking",
                 "Alignment", "A test with users", "It sells a quarter more.",
                 "markov, item.recall@10", "instructions were written"):
        assert part in text, part
    assert "<script src" not in text
