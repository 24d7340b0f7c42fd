"""A ranking model from the log to chances that a compiled program asks for."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import tiny_shop
from oxyrec_jax import (answers, inspection, printing, quickstart, ranking,
                        workflow)
from oxyrec_jax.base import InputError
from oxyrec_jax.data.pipeline import Pipeline, eval_batches
from oxyrec_jax.models.config import ModelConfig
from oxyrec_jax.models.instructions import InstructionConfig
from oxyrec_jax.models.ranker import RankerConfig

pytestmark = pytest.mark.slow  # a shop, two networks and a dozen programs
MODEL = ModelConfig(width=16, heads=2, head_width=8, mlp_width=16, encoder_layers=1,
                    sides=("behaviour", "gap"), profile=("life",),
                    instructions=InstructionConfig(placement="left", scenarios=6,
                                                   trigger=True, hidden=8))


def config():
    cfg = quickstart.tiny()
    shop = dataclasses.replace(cfg.data.shop, users=60, max_events=40)
    train = dataclasses.replace(
        cfg.train, steps=4, log_every=2, evaluate_every=2, checkpoint_every=2,
        metric="log_likelihood", pipeline=Pipeline(mode="requests", batch=16, history=6,
                                                   row_length=6))
    sources = dataclasses.replace(cfg.tokenizer.sources, sources=("text",))
    return dataclasses.replace(
        cfg, data=dataclasses.replace(cfg.data, shop=shop, protocol="P2"), model=MODEL,
        train=train, ranker=RankerConfig(), seeds=(0,),
        tokenizer=dataclasses.replace(cfg.tokenizer, sources=sources, widths=(16, 16)))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A work directory with every step done, and what the steps returned."""
    space = workflow.open_workspace(tmp_path_factory.mktemp("ranker") / "work",
                                    config())
    workflow.prepare(space)
    workflow.tokenize(space)
    return space, workflow.train(space), workflow.evaluate(space)


def test_training_keeps_the_best_and_calibrates_it(done):
    space, trained, _ = done
    found = trained["runs"]["seed0"]
    assert found["steps"] == 4 and -2 < found["log_likelihood"] < 0
    scales = ranking._read_scales(space, 0)
    assert scales.shape == (2, 3, 2)
    told = found["calibration"]["alone"]["cart"]
    np.testing.assert_allclose([told["scale"], told["shift"]], scales[1, 1], atol=1e-4)


def test_a_finished_run_is_not_done_again(done):
    space, trained, _ = done
    log = (space.run(0) / "log.jsonl").read_text()
    again = workflow.train(space)["runs"]["seed0"]
    assert {name: value for name, value in again.items() if name != "seconds"} == {
        name: value for name, value in trained["runs"]["seed0"].items()
        if name != "seconds"}
    assert (space.run(0) / "log.jsonl").read_text() == log


def test_an_evaluation_tells_figures_truth_and_scenarios(done):
    space, _, evaluated = done
    found = evaluated["ranking"]
    assert json.loads((space.folder / "ranking" / "test.json").read_text()) == found
    assert found["protocol"] == "P2" and found["notes"] == []
    for cells in (*found["cells"].values(), found["oracle"]):
        assert 0 <= cells["click.auc"] <= 1 and cells["click.log_loss"] > 0
    # Four steps learn little; the truth orders better than they do.
    assert found["oracle"]["click.auc"] > found["cells"]["alone"]["click.auc"]
    assert sum(own["shown"] for own in found["scenarios"].values()) == found["counts"][
        "shown"]
    assert set(found["truth"]) == {"shown", "drawn"}
    page = (space.folder / "ranking.html").read_text()
    assert "reliability-click" in page and "src=\"http" not in page


def test_a_ranker_scores_inside_a_compiled_program(done):
    space, _, _ = done
    scorer = ranking.load_ranker(space.folder)
    dataset = ranking.load(space).dataset
    batch = next(iter(eval_batches(dataset, "test", batch=4, history=6,
                                   columns=scorer.columns)))
    items = np.random.default_rng(0).integers(0, dataset.num_items, (4, 9))
    found = jax.jit(lambda scorer, batch, items: scorer(batch, items))(
        scorer, {name: batch[name] for name in scorer.reads}, items.astype(np.int32))
    price = dataset.item_table()["price"].to_numpy()[items]
    assert {values.shape for values in found.values()} == {(4, 9)}
    click, cart, order = (np.asarray(found[name]) for name in
                          ("click", "cart", "order"))
    assert (0 < order).all() and (order <= cart).all() and (cart <= click).all()
    np.testing.assert_allclose(found["value"], order * price, rtol=1e-5)
    assert scorer.catalogue == ranking.catalogue_digest(dataset)


@pytest.fixture(scope="module")
def generator(done, tmp_path_factory):
    """A generator that learnt nothing, on the same data."""
    model = dataclasses.replace(MODEL, sides=(), profile=(), causal=True,
                                instructions=InstructionConfig())
    return tiny_shop.make(tmp_path_factory.mktemp("generator") / "work", model=model,
                          data=done[0])


def test_a_ranker_orders_a_beam_anew(done, generator):
    user, by = "user-00000007", "value"
    plain = workflow.recommend(generator, user=user, k=20)["recommendations"]
    found = workflow.recommend(generator, user=user, k=20, rerank=str(done[0].folder),
                               by=by)["recommendations"]
    assert {row["item_id"] for row in found} == {row["item_id"] for row in plain}
    scores = [row[by] for row in found]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) > 5
    assert [row["rank"] for row in found] == list(range(1, 21))


def test_a_ranker_of_other_items_orders_nothing(done, generator, trained, monkeypatch):
    with pytest.raises(InputError, match="--by joy: expected one of click, cart"):
        workflow.recommend(generator, user="user-00000007", rerank="x", by="joy")
    monkeypatch.setattr(answers, "catalogue_digest", lambda dataset: "other")
    with pytest.raises(InputError, match="learnt another item table than"):
        workflow.recommend(generator, user="user-00000007",
                           rerank=str(done[0].folder))


def test_verbs_of_a_ranking_model_print_and_those_of_a_generator_refuse(done, capsys):
    space, _, evaluated = done
    printing.show(evaluated)
    told = capsys.readouterr().out
    assert "click, in its list" in told and "order, the truth" in told
    assert workflow.report(space)["report"].endswith("ranking.html")
    found = inspection.inspect(space)
    assert found["model"]["parameters"] > 1000 and "best_step" in found["runs"]["seed0"]
    with pytest.raises(InputError, match="holds a ranking model, which is trained"):
        workflow.recommend(space, user="user-00000007")


def test_what_does_not_fit_is_refused(done, trained, tmp_path):
    space, _, _ = done
    with pytest.raises(InputError, match="an experiment without a ranking model"):
        ranking.load_ranker(trained)
    other = dataclasses.replace(space, cfg=dataclasses.replace(
        space.cfg, ranker=RankerConfig(alone=0.25)))
    with pytest.raises(InputError, match="trained with another configuration .ranker"):
        ranking.evaluate(other)
    with pytest.raises(InputError, match="train.pipeline.mode is 'packed' in an exper"):
        dataclasses.replace(space.cfg, train=quickstart.tiny().train)
    with pytest.raises(InputError, match="train.pipeline.mode is 'requests' in an exp"):
        dataclasses.replace(space.cfg, ranker=None)
    with pytest.raises(InputError, match="model.memory is set, which a ranking model"):
        dataclasses.replace(space.cfg, model=dataclasses.replace(MODEL, memory=True))
    kinds = dataclasses.replace(space, cfg=dataclasses.replace(
        space.cfg, ranker=RankerConfig(kinds=("colour",))))
    with pytest.raises(InputError, match="ranker.kinds names 'colour', and the items"):
        ranking.load(kinds)
