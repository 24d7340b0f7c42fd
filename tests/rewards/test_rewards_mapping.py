"""One reward of many signals: hand-computed, invariant where it says so, guarded."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oxyrec_jax.base import InputError
from oxyrec_jax.rewards import mapping as rewards
from oxyrec_jax.rewards.mapping import Component

SCENARIOS = ("home", "cart")


def _signals(seed=0, groups=4, size=6):
    rng = np.random.default_rng(seed)
    return {"clicks": rng.gamma(2, size=(groups, size)).astype(np.float32),
            "worth": rng.normal(5, 2, (groups, size)).astype(np.float32)}


def _logged(seed=9):
    return {name: values.ravel() for name, values in _signals(seed, 50, 20).items()}


def _fitted(**components):
    return rewards.fit_mapping(_logged(), components, SCENARIOS)


def test_weighted_mean_by_hand():
    log = {"a": np.array([0.0, 1.0, 2.0, 3.0]), "b": np.array([-1.0, 1.0])}
    fitted = rewards.fit_mapping(log, {
        "a": Component("quantile", weight=1.0), "b": Component(
            "zscore", weight=3.0, scenarios={"cart": 0.0})}, SCENARIOS)
    found = rewards.unify(fitted, {"a": jnp.array([[1.0, 9.0], [1.0, 0.5]]),
                                   "b": jnp.array([[0.5, 99.0], [0.5, 0.5]])},
                          jnp.array([0, 1]))
    # a: 1.0 is the second of four, one below and half of itself: 1.5 / 4; above all
    # of them 3.5 / 4; 0.5 lies between 0.5 / 4 and 1.5 / 4. b: mean 0, deviation 1.
    np.testing.assert_allclose(found.parts[..., 0], [[0.375, 0.875], [0.375, 0.25]])
    np.testing.assert_allclose(found.parts[..., 1], [[0.5, 3], [0.5, 0.5]])
    np.testing.assert_allclose(found.total, [
        [(0.375 + 3 * 0.5) / 4, (0.875 + 3 * 3) / 4], [0.375, 0.25]])


@pytest.mark.parametrize("method", ["quantile", "zscore"])
def test_affine_changes_of_raw_signals_change_nothing(method):
    components = {"clicks": Component(method), "worth": Component(method, weight=2)}
    log, signals = _logged(), _signals()
    scenario = jnp.array([0, 1, 0, 1])

    def reward(scale, shift):
        fitted = rewards.fit_mapping({name: scale * values + shift
                                      for name, values in log.items()},
                                     components, SCENARIOS)
        return rewards.unify(fitted, {name: jnp.asarray(scale * values + shift)
                                      for name, values in signals.items()}, scenario)
    np.testing.assert_allclose(reward(40, -7).total, reward(1, 0).total, atol=2e-4)
    assert np.std(reward(1, 0).total) > 0.1


def test_quantiles_follow_any_increasing_function():
    log, signals = _logged(), _signals()
    one = {"clicks": Component("quantile")}
    plain = rewards.fit_mapping(log, one, SCENARIOS, knots=4096)
    curved = rewards.fit_mapping({"clicks": np.log(log["clicks"])}, one, SCENARIOS,
                                 knots=4096)
    scenario = jnp.zeros(4, int)
    first = rewards.unify(plain, {"clicks": jnp.array(signals["clicks"])}, scenario)
    second = rewards.unify(
        curved, {"clicks": jnp.log(jnp.array(signals["clicks"]))}, scenario)
    # between two knots a straight line is not a curve: at most one knot of 1,000
    np.testing.assert_allclose(first.total, second.total, atol=1.1e-3)
    assert float(first.total.min()) >= 0 and float(first.total.max()) <= 1


def test_components_stay_in_their_bounds():
    fitted = _fitted(clicks=Component("quantile"), worth=Component("zscore", clip=1.5))
    huge = {name: 100 * (values - 2) for name, values in _signals().items()}
    parts = rewards.unify(fitted, jax.tree.map(jnp.asarray, huge),
                          jnp.zeros(4, int)).parts
    for row, (low, high) in enumerate(fitted.bounds().values()):
        assert low <= float(parts[..., row].min()) <= float(parts[..., row].max())
        assert float(parts[..., row].max()) <= high
    assert fitted.bounds()["worth"] == (-1.5, 1.5)


def test_one_program_serves_refitted_mappings():
    traced = []

    @jax.jit
    def total(mapping, signals, scenario):
        traced.append(1)
        return rewards.unify(mapping, signals, scenario).total
    signals = jax.tree.map(jnp.asarray, _signals())
    for seed in (1, 2):
        fitted = rewards.fit_mapping(_logged(seed), {
            "clicks": Component(), "worth": Component("zscore")}, SCENARIOS)
        total(fitted, signals, jnp.zeros(4, int))
    assert len(traced) == 1


def test_shares_of_groups_in_which_a_component_says_nothing():
    parts = jnp.array([[[1.0, 2], [1, 3]], [[1, 2], [1, 2]], [[5, 5], [6, 6]]])
    real = jnp.array([[True, True], [True, True], [True, False]])  # the last: no group
    np.testing.assert_allclose(rewards.constant_shares(parts, real), [1, 0.5])


def test_a_scenario_that_there_is_not_gives_no_reward():
    signals = jax.tree.map(jnp.asarray, _signals())
    found = rewards.unify(_fitted(clicks=Component(), worth=Component("zscore")),
                          signals, jnp.array([0, len(SCENARIOS), -1, 0])).total
    np.testing.assert_array_equal(np.isnan(found).all(axis=1), [False, True, True,
                                                                False])


def test_a_nan_is_no_quantile_of_a_log_of_few_values():
    fitted = rewards.fit_mapping({"q": np.repeat([0.0, 1], [90, 10])},
                                 {"q": Component()}, ["all"])
    found = rewards.unify(fitted, {"q": jnp.array([[jnp.nan, 1, 0]])},
                          jnp.zeros(1, int)).total[0]
    np.testing.assert_allclose(found, [np.nan, 0.95, 0.45], rtol=1e-6)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 1e30])
def test_a_poisoned_signal_is_named(poison):
    fitted = _fitted(clicks=Component(), worth=Component("zscore"))
    signals, real = _signals(), np.ones((4, 6), bool)
    signals["worth"][2, 3] = poison
    told = f"'worth' is {poison:g} in scenario 'cart', request r2, candidate 3"
    with pytest.raises(InputError, match=re.escape(told)):
        rewards.check_signals(fitted, signals, real, np.array([0, 0, 1, 0]),
                              ["r0", "r1", "r2", "r3"])
    real[2, 3] = False  # padding may hold anything
    rewards.check_signals(fitted, signals, real, np.array([0, 0, 1, 0]), list("abcd"))


def test_a_signal_that_is_constant_stops_unless_it_may_be():
    signals, real = _signals(), np.ones((4, 6), bool)
    signals["worth"][:] = 5
    scenario = np.zeros(4, int)
    strict = _fitted(clicks=Component(), worth=Component("zscore"))
    with pytest.raises(InputError, match="'worth' is 5 for all 24 candidates"):
        rewards.check_signals(strict, signals, real, scenario, range(4))
    lenient = _fitted(clicks=Component(), worth=Component(may_be_constant=True))
    rewards.check_signals(lenient, signals, real, scenario, range(4))


def test_a_mapping_survives_the_disk_and_a_changed_file_does_not(tmp_path):
    fitted = _fitted(clicks=Component(scenarios={"cart": 0.5}),
                     worth=Component("zscore", clip=2.0))
    rewards.save_mapping(fitted, tmp_path / "mapping")
    again = rewards.load_mapping(tmp_path / "mapping")
    signals = jax.tree.map(jnp.asarray, _signals())
    scenario = jnp.array([0, 1, 1, 0])
    np.testing.assert_array_equal(rewards.unify(fitted, signals, scenario).total,
                                  rewards.unify(again, signals, scenario).total)
    assert again.names == fitted.names and again.components == fitted.components
    path = tmp_path / "mapping" / "centre.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\0\0")
    with pytest.raises(InputError, match="centre.npy"):
        rewards.load_mapping(tmp_path / "mapping")


@pytest.mark.parametrize("log, components, told", [
    ({}, {"a": Component()}, "no signal for the reward's component 'a'"),
    ({"a": np.array([1, np.nan])}, {"a": Component()}, "not all finite"),
    ({"a": np.ones(3)}, {"a": Component()}, "is 1 in the whole log"),
    ({"a": np.arange(3.0)}, {"a": Component(weight=0)}, "no component"),
    ({"a": np.arange(3.0)}, {"a": Component(scenarios={"moon": 1})}, "'moon'"),
    ({}, {}, "at least one component"),
])
def test_what_cannot_be_fitted_is_said(log, components, told):
    with pytest.raises(InputError, match=told):
        rewards.fit_mapping(log, components, SCENARIOS)


def test_settings_that_make_no_sense_are_refused():
    for bad in ({"normalise": "rank"}, {"weight": -1.0}, {"scenarios": {"x": np.nan}},
                {"clip": 0.0}, {"reach": -1.0}):
        with pytest.raises(InputError):
            Component(**bad)
    fitted = _fitted(clicks=Component(), worth=Component())
    with pytest.raises(ValueError, match="expected"):
        rewards.unify(fitted, {"clicks": jnp.zeros((2, 3))}, jnp.zeros(2, int))
    with pytest.raises(ValueError, match="B, G"):
        rewards.unify(fitted, {"clicks": jnp.zeros((2, 3)), "worth": jnp.zeros((2, 2))},
                      jnp.zeros(2, int))
