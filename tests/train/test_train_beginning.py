"""How a run begins: from given parameters, or as the run that is there already."""

import dataclasses

import jax
import numpy as np
import pytest

import tiny_run
import tiny_world
from oxyrec_jax import parallel
from oxyrec_jax.base import InputError
from oxyrec_jax.train import beginning, loop, step
from oxyrec_jax.train.step import OptimizerConfig


@pytest.fixture(scope="module")
def world():
    """A fresh state with its shardings, and parameters that are other numbers."""
    model, (catalogue, _) = tiny_world.make_model(), tiny_world.make_items()
    mesh = tiny_world.one_device()
    optimizer = step.make_optimizer(OptimizerConfig(), 10)
    batch = parallel.global_batch(tiny_world.make_batch(), mesh)

    def make(ema):
        return step.init_state(model, optimizer, batch, catalogue, mesh, seed=0,
                               ema=ema)
    rng = np.random.default_rng(0)
    given = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32),
                         make(False)[0].params)
    return make, given


def equal(one, other):
    return jax.tree.all(jax.tree.map(np.array_equal, one, other))


@pytest.mark.parametrize("ema", [False, True])
def test_a_state_begins_with_the_given_parameters_and_nothing_else_of_them(world, ema):
    make, given = world
    state, shardings = make(ema)
    moments = jax.tree.map(np.array, state.optimizer)
    kept = jax.tree.map(np.array, given)
    found = beginning.start_from(state, shardings, given, "there")
    assert equal(found.params, given) and int(found.step) == 0
    assert equal(found.optimizer, moments)
    assert found.ema == () if not ema else equal(found.ema, given)
    jax.tree.map(lambda leaf: leaf.delete(), found.params)  # as a donating step does
    assert equal(given, kept) and (not ema or equal(found.ema, given))


def test_parameters_of_another_network_are_refused_by_name(world):
    make, given = world
    state, shardings = make(False)
    name = sorted(given)[0]
    leaf = jax.tree.leaves(given[name])[0]
    wider = given | {name: jax.tree.map(lambda leaf: np.zeros((2, *leaf.shape)),
                                        given[name])}
    with pytest.raises(InputError, match=rf"{name}\S* is \[2, {leaf.shape[0]}.* in "
                                         "there and .*this experiment's network"):
        beginning.start_from(state, shardings, wider, "there")
    lacking = {key: value for key, value in given.items() if key != name}
    with pytest.raises(InputError, match=rf"{name}\S* is missing in there"):
        beginning.start_from(state, shardings, lacking, "there")
    with pytest.raises(InputError, match=r"extra is \[3\] in there and missing in"):
        beginning.start_from(state, shardings, given | {"extra": np.zeros(3)}, "there")


def test_a_run_that_starts_from_parameters_moves_on_from_them(world, tmp_path):
    _, given = world
    data = tiny_world.make_dataset(tmp_path / "d")
    asked, still = [], OptimizerConfig(learning_rate=0.0, weight_decay=0.0)

    def start():
        asked.append(1)
        return given

    def run(**options):
        return tiny_run.run(data, tmp_path / "run", mesh=tiny_world.one_device(),
                            model={}, start=start, steps=2, evaluate_every=1,
                            optimizer=still, **options)
    assert equal(run().params, given)  # a rate of 0 leaves them where they are
    run()
    assert asked == [1]  # the second time it continued from its own checkpoint


@dataclasses.dataclass(frozen=True)
class Inner:
    old: int = 1
    new: tuple[int, ...] = (2, 3)


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    table: dict[str, float] = dataclasses.field(default_factory=lambda: {"a": 1.0})


def test_a_field_that_a_run_did_not_know_has_its_default():
    assert beginning.completed({"inner": {"old": 7}, "table": {}}, Outer()) == {
        "inner": {"old": 7, "new": [2, 3]}, "table": {}}
    assert beginning.completed({}, Outer()) == {
        "inner": {"old": 1, "new": [2, 3]}, "table": {"a": 1.0}}


def test_a_run_made_before_a_field_existed_is_the_same_run(tmp_path):
    path = tmp_path / "run.json"
    defaults = {"train": loop.TrainConfig()}
    settings = {"train": dataclasses.asdict(loop.TrainConfig()), "seed": 0}
    older = {"train": {name: value for name, value in settings["train"].items()
                       if name != "start_from"}, "seed": 0}
    beginning.check_same_run(path, older, defaults)
    beginning.check_same_run(path, settings, defaults)
    changed = settings | {"train": settings["train"] | {"start_from": "runs/all"}}
    with pytest.raises(InputError, match="train.start_from: '' there, 'runs/all' now"):
        beginning.check_same_run(path, changed, defaults)
