"""One model for all against one each: equal compute, sums that hold, resumable."""

import dataclasses
import gzip
import json

import jax
import numpy as np
import pytest
from flax import linen as nn

from oxyrec_jax import metrics
from oxyrec_jax.data import dataset as datasets
from oxyrec_jax.data import schema
from oxyrec_jax.data.prepare import DataConfig
from oxyrec_jax.data.readers.tables import ItemColumns, TableColumns
from oxyrec_jax.models.generator import Generator
from oxyrec_jax.models.instructions import InstructionConfig
from oxyrec_jax.report import write_scenario_page
from oxyrec_jax.train import loop, setup
from oxyrec_jax.train.parameters import read_params, write_params


@pytest.fixture(scope="module")
def table(load_file):
    return load_file("experiments/scenarios.py")


@pytest.mark.parametrize("steps, targets, batch, shown", [
    (0, 10, 4, 0), (2, 10, 4, 8), (3, 10, 4, 10), (4, 10, 4, 14), (6, 10, 4, 20),
    (1, 3, 4, 3)])
def test_steps_and_what_they_show_by_hand(table, steps, targets, batch, shown):
    # Ten targets in batches of four: 4, 4 and 2 an epoch.
    assert table.presented(steps, targets, batch) == shown
    if steps:
        assert table.steps_for(shown, targets, batch) == steps
        fewer = table.presented(steps - 1, targets, batch)
        assert table.steps_for(fewer + 1, targets, batch) == steps


def write(folder, *, users=30, items=20, seed=0):
    """A log of two scenarios, "home" twice as often as "cart"."""
    rng = np.random.default_rng(seed)
    lines = ["user,item,scenario"]
    for user in range(users):
        lines += [f"u{user},i{item},{rng.choice(['home', 'home', 'cart'])}"
                  for item in rng.choice(items, 8, replace=False)]
    (folder / "events.csv").write_text("\n".join(lines) + "\n")
    (folder / "items.csv").write_text("item_id,title\n" + "\n".join(
        f"i{item},thing {item % 5} of {item // 5}" for item in range(items)) + "\n")
    return folder / "events.csv"


def tiny(table, folder, steps):
    events = write(folder)
    cfg = table.get_config("channels", steps=steps, seeds=(0,), events=events)
    pipeline = dataclasses.replace(cfg.train.pipeline, batch=16, history=4)
    model = dataclasses.replace(
        cfg.model, width=8, heads=1, head_width=8, mlp_width=8, encoder_layers=1,
        instructions=dataclasses.replace(cfg.model.instructions, hidden=8))
    return dataclasses.replace(
        cfg, model=model, train=dataclasses.replace(cfg.train, pipeline=pipeline),
        data=DataConfig(source="table", path=str(events),
                        items=str(events.with_name("items.csv")),
                        columns=TableColumns(scenario="scenario"),
                        item_columns=ItemColumns()),
        text=dataclasses.replace(cfg.text, source="hashed"),
        tokenizer=dataclasses.replace(cfg.tokenizer, widths=(8, 8)),
        evaluate=dataclasses.replace(cfg.evaluate, ks=(1, 10)), beams=10)


def drawn(model, dataset, catalogue, cfg, folder, *, seed, start=None, more=None, **_):
    """In place of a training: what it would keep, of parameters that are drawn."""
    loop.check_folder(model, cfg, folder, seed=seed, more=more)
    if not (folder / "best").exists():
        batch = setup.feed(model, dataset, cfg.pipeline, seed=seed).example
        shapes = nn.meta.unbox(jax.eval_shape(
            lambda: model.init(jax.random.key(0), batch, catalogue.tables)["params"]))
        rng = np.random.default_rng(cfg.steps)
        write_params(folder / "best", start() if start else jax.tree.map(
            lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes),
            cfg.steps)
    return loop.Outcome({}, 0.0, cfg.steps, cfg.steps, {})


def test_a_toy_table_shows_equal_compute_and_is_read_back(table, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "train", drawn)
    cfg = tiny(table, tmp_path, 6)
    found = table.table_of(tmp_path / "runs", cfg, samples=20)
    assert set(found["scenarios"]) == {"home", "cart"}
    assert sum(own["targets"] for own in found["scenarios"].values()) == 30
    unified = found["compute"][table.UNIFIED]
    # Whole batches are rounded up, once for each model: two of them and pre-training.
    for row in (table.SCRATCH, table.TUNED):
        part = found["compute"][row]
        assert 0 <= part["targets"] - unified["targets"] < 3 * 16
        assert part["flops"] / part["targets"] == pytest.approx(
            unified["flops"] / unified["targets"], rel=0.05)
    # The fine-tuned models began with the pre-trained ones' parameters.
    told = json.loads((tmp_path / "runs" / "tuned-cart" / "train" / "seed0" /
                       "start.json").read_text())
    assert told["folder"] == str(tmp_path / "runs/pre-trained/train/seed0/best")
    assert told["step"] == 3
    settings = json.loads((tmp_path / "runs" / "tuned-cart" / "train" / "seed0" /
                           "run.json").read_text())["train"]
    assert settings["pipeline"]["scenarios"] == ["cart"]
    again = table.table_of(tmp_path / "runs", cfg, samples=20)
    assert again == found
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    # What starts from the same parameters as another answers as that one does.
    cart, home = (read_params(tmp_path / "runs" / f"tuned-{name}/train/seed0/best")
                  for name in ("cart", "home"))
    assert jax.tree.all(jax.tree.map(np.array_equal, cart[0], home[0]))
    text = table.show(found)
    assert text.count("\n| home |") == text.count("\n| cart |") == len(table.TABLE)
    page = write_scenario_page(tmp_path / "page.html", found).read_text()
    for part in found["transfer"].values():
        assert part["sentence"].split(",")[0].split("'")[0] in page
    assert "http-equiv=\"Content-Security-Policy\"" in page


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """Eight users with one test target each: five at home, three in the cart."""
    def fill(out):
        out.add_items(schema.item_table({"item_id": list("abcd")}))
        where = np.array([[0, 0]] * 5 + [[0, 1]] * 3)
        out.add_sequences({"item": np.arange(16) % 4, "scenario": where.reshape(-1)},
                          np.full(8, 2), [f"u{n}" for n in range(8)])
        out.add_targets("test", np.array([[n, 1, 2] for n in range(8)]))
    folder = tmp_path_factory.mktemp("d") / "d"
    datasets.write_dataset(folder, fill, columns=("item", "scenario"), facts={
        "scenarios": ["home", "cart"]})
    return datasets.load_dataset(folder)


def test_the_report_of_negative_transfer_by_hand(table, judged):
    miss = metrics.MISS
    better, worse = [0] * 8, [miss] * 8
    ranks = {table.UNIFIED: np.array([[0, 0, 0, 0, 0, miss, miss, miss]] * 2),
             table.UNTOLD: np.array([better, worse]),
             table.SCRATCH: np.array([[miss] * 5 + [0] * 3] * 2),
             table.TUNED: np.array([[0, 0, 0, 0, miss, miss, miss, miss]] * 2)}
    found = table.summary(judged, ranks, samples=200)
    home, cart = (found["scenarios"][name] for name in ("home", "cart"))
    assert (home["targets"], cart["targets"]) == (5, 3)
    told = home["rows"][table.UNTOLD]["item.hr@1"]
    assert told.pop("values") == [1.0, 0.0]
    assert told == pytest.approx({"mean": 0.5, "sd": np.sqrt(0.5), "runs": 2})
    assert home["against"][table.UNTOLD]["item.hr@1"]["mean"] == 0.5
    assert home["against"][table.SCRATCH]["item.ndcg@10"] == {
        "mean": 1.0, "low": 1.0, "high": 1.0}
    assert home["against"][table.TUNED]["item.hr@10"]["mean"] == pytest.approx(0.2)
    part = found["transfer"][table.SCRATCH]
    assert (part["wins"], part["clear_losses"]) == (["home"], ["cart"])
    assert part["sentence"] == (
        "Against 'one each, from scratch', unified wins on 1 of 2 scenarios by NDCG@10 "
        "(1 with an interval above zero); negative transfer on cart -1.0000 (-1.0000 "
        "to -1.0000).")
    part = found["transfer"][table.TUNED]
    assert part["wins"] == ["home"] and part["losses"] == []  # a draw is no win
    assert "unified wins on 1 of 2" in part["sentence"]
    assert part["sentence"].endswith("(0 with an interval above zero); no negative "
                                     "transfer.")


def test_a_scenario_without_a_model_of_its_own_is_left_out(table, judged):
    ranks = {row: np.zeros((1, 8), int) for row in table.TABLE}
    ranks[table.SCRATCH][:, 5:] = -1
    assert list(table.summary(judged, ranks, samples=5)["scenarios"]) == ["home"]


def test_channels_are_joined_without_joining_histories(table, tmp_path):
    for place, channel in enumerate(table.CHANNELS):
        folder = tmp_path / f"amazon14_{channel}"
        folder.mkdir()
        with gzip.open(folder / "items.jsonl.gz", "wt") as file:
            file.write(json.dumps({"item": 0, "title": f"A, {channel}"}) + "\n")
            file.write(json.dumps({"item": 1, "keywords": "b"}) + "\n")
        with gzip.open(folder / "sequences.tsv.gz", "wt") as file:
            file.write(f"ann\t{place % 2} 0\n")
    path = table.merge_channels(tmp_path, tmp_path / "out")
    assert path.read_text().splitlines() == [
        "user,item,scenario",
        "ann/beauty,beauty/0,beauty", "ann/beauty,beauty/0,beauty",
        "ann/toys,toys/1,toys", "ann/toys,toys/0,toys",
        "ann/office,office/0,office", "ann/office,office/0,office"]
    assert (tmp_path / "out" / "items.csv").read_text().splitlines()[:3] == [
        "item_id,title", 'beauty/0,"A, beauty"', "beauty/1,b"]


def test_the_network_is_told_the_scenario_and_nothing_of_the_answer(table):
    cfg = table.get_config()
    assert Generator(cfg.model, (8, 8), 10).reads == (
        "items", "segments", "target_positions", "target_scenario")
    untold = dataclasses.replace(cfg.model, instructions=InstructionConfig())
    assert Generator(untold, (8, 8), 10).reads == (
        "items", "segments", "target_positions")
