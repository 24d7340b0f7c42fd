"""A ranking model in the shared loop: stopped and continued, on one device or eight."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny_requests
import tiny_world
from oxyrec_jax import parallel
from oxyrec_jax.base import InputError
from oxyrec_jax.data.pipeline import Pipeline
from oxyrec_jax.models.ranker import Ranker, RankerConfig
from oxyrec_jax.train import loop
from oxyrec_jax.train.ranking import ranking_loss
from oxyrec_jax.train.run_log import read_log
from oxyrec_jax.train.step import OptimizerConfig

CONFIG = loop.TrainConfig(
    steps=6, log_every=2, evaluate_every=3, checkpoint_every=2, metric="figure",
    pipeline=Pipeline(batch=8, history=4, row_length=4, mode="requests"),
    optimizer=OptimizerConfig(learning_rate=0.01, warmup=2))
pytestmark = pytest.mark.slow  # four compilations of the step
TRUNK = dataclasses.replace(tiny_world.SMALL, dropout=0.1, sides=("behaviour", "gap"))


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tiny_requests.make(tmp_path_factory.mktemp("log") / "d",
                              log=tiny_requests.random_log(90))


def run(log, work, *, evaluate, mesh=None):
    catalogue, _ = tiny_world.make_items(10)
    tables = dataclasses.replace(
        catalogue.tables, price=jnp.arange(10.0),
        kinds=jnp.stack([jnp.arange(10) % 2, 2 + jnp.arange(10) % 3], 1))
    model = Ranker(TRUNK, RankerConfig(), tiny_world.WIDTHS, 10, kinds=5, queries=2)
    return loop.train(
        model, log, dataclasses.replace(catalogue, tables=tables), CONFIG, work, seed=0,
        loss=ranking_loss, evaluate=evaluate, mesh=mesh or tiny_world.one_device(),
        more={"ranker": {"alone": 0.5}})


class Kept:
    """An evaluation that keeps what it is given; each is better than the one before."""

    def __init__(self, calls=0, stop=None):
        self.params, self.calls, self.stop = [], calls, stop

    def __call__(self, params):
        if self.calls == self.stop:
            raise Stop
        self.calls += 1
        self.params.append(jax.tree.map(np.array, params))
        return {"figure": float(self.calls)}


class Stop(Exception):
    pass


@pytest.fixture(scope="module")
def whole(log, tmp_path_factory):
    """A straight run: its folder and what was evaluated."""
    folder, kept = tmp_path_factory.mktemp("whole"), Kept()
    run(log, folder, evaluate=kept)
    return folder, kept


def windows(folder):
    return [line for line in read_log(folder / "log.jsonl") if "loss" in line]


def test_a_run_that_is_stopped_goes_on_to_the_very_same_bits(log, whole, tmp_path):
    folder, straight = whole
    with pytest.raises(Stop):
        run(log, tmp_path, evaluate=Kept(stop=0))  # after step 3; 2 is saved
    kept = Kept()
    run(log, tmp_path, evaluate=kept)
    for one, other in zip(jax.tree.leaves(straight.params),
                          jax.tree.leaves(kept.params), strict=True):
        np.testing.assert_array_equal(one, other)
    assert [line["step"] for line in windows(folder)] == [2, 3, 4, 6]
    assert {"click", "cart", "order", "targets/s"} <= windows(folder)[0].keys()
    assert [line["loss"] for line in windows(folder)] == [
        line["loss"] for line in windows(tmp_path)]


def test_eight_devices_do_what_one_does(log, whole, tmp_path):
    folder, one = whole
    many = Kept()
    assert jax.device_count() == 8
    run(log, tmp_path, evaluate=many, mesh=parallel.make_mesh())
    for name in ("code_vectors", "kind_vectors", "head_bias"):
        np.testing.assert_allclose(one.params[-1][name], many.params[-1][name],
                                   atol=5e-4)
    np.testing.assert_allclose(*([line["loss"] for line in windows(place)]
                                 for place in (folder, tmp_path)), rtol=1e-4)


def test_another_ranking_configuration_in_the_folder_is_refused(log, whole, tmp_path):
    settings = (whole[0] / "run.json").read_text().replace(
        '"alone": 0.5', '"alone": 0.25')
    (tmp_path / "run.json").write_text(settings)
    with pytest.raises(InputError, match="ranker.alone: 0.25 there, 0.5 now"):
        run(log, tmp_path, evaluate=Kept())
