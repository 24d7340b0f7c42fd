"""Policy losses by name: hand-computed updates, and bandits with a known optimum."""


import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from oxyrec_jax import losses
from oxyrec_jax.base import InputError
from oxyrec_jax.train.policy import METHODS, TWO_STREAMS, Group, PolicyConfig
from oxyrec_jax.train.policy import policy_loss

T = 2


def _group(seed=0, shape=(3, 4), **more):
    rng = np.random.default_rng(seed)
    old = jnp.asarray(np.log(rng.uniform(0.1, 0.9, (*shape, T))), jnp.float32)
    rewards = jnp.asarray(rng.normal(size=shape), jnp.float32)
    return Group(old, old, rewards, jnp.max(rewards, axis=1), **more)


def test_grpo_on_policy_moves_by_the_hand_computed_advantage():
    group = _group()
    slope = jax.grad(lambda lp: policy_loss(PolicyConfig("grpo"), lp, group).mean())(
        group.old)
    rewards = np.asarray(group.rewards, np.float64)
    advantage = (rewards - rewards.mean(1, keepdims=True)) / (
        rewards.std(1, ddof=1, keepdims=True) + 1e-4)
    # ratio 1: each code pulls by A over its T codes and the 12 sequences
    wanted = np.broadcast_to(-advantage[..., None] / (T * 12), (3, 4, T))
    np.testing.assert_allclose(slope, wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_groups_of_equal_rewards_change_nothing(method):
    group = _group(semantic=jnp.ones((3, 4)))
    # Sums of 0.75 are exact in any order.
    group = Group(group.old, group.reference, jnp.full((3, 4), 0.75),
                  jnp.full(3, 0.75), group.semantic)
    slope = jax.grad(lambda lp: policy_loss(PolicyConfig(method), lp, group).mean())(
        group.old - 0.05)
    np.testing.assert_array_equal(slope, 0)


def test_a_filtered_group_does_not_dilute_the_mean():
    group = _group()
    rewards = group.rewards.at[0].set(1.0)
    group = Group(group.old, group.old, rewards, jnp.max(rewards, axis=1))
    plain, filtered = (policy_loss(PolicyConfig("grpo", filter_groups=on),
                                   group.old - 0.1, group) for on in (False, True))
    assert float(plain.weight) == 12 and float(filtered.weight) == 8
    np.testing.assert_allclose(plain.total, filtered.total, rtol=1e-6)


def test_the_divergence_is_added_with_its_weight():
    group = _group()
    lp = group.old - 0.2
    plain = policy_loss(PolicyConfig("grpo"), lp, group)
    with_kl = policy_loss(PolicyConfig("grpo", kl=0.5, kl_kind="k2"), lp, group)
    np.testing.assert_allclose(with_kl.mean() - plain.mean(), 0.5 * 0.2**2 / 2,
                               rtol=1e-4)


def test_unjudged_groups_learn_from_the_business_alone():
    plain = _group()
    judged = Group(plain.old, plain.old, plain.rewards, plain.target_rewards,
                   3 * plain.rewards, jnp.array([True, False, True]))

    def slope(cfg, group):
        return jax.grad(lambda lp: policy_loss(cfg, lp, group).mean())(group.old)
    both = slope(PolicyConfig("a2po"), judged)
    business = slope(PolicyConfig("grpo"), plain)
    np.testing.assert_allclose(both[1], business[1], rtol=1e-6)
    # the streams agree wholly, so the gate is open and the advantage doubles
    np.testing.assert_allclose(both[0], 2 * business[0], rtol=1e-3)


def test_the_sums_are_sums():
    semantic = jnp.asarray(np.random.default_rng(5).normal(size=(3, 4)), jnp.float32)
    group = _group(semantic=semantic)
    lp, mask = group.old + 0.1, jnp.ones((3, 4, T), bool)
    for method, advantages in (
            ("reward-sum", losses.group_advantages(group.rewards + semantic)),
            ("advantage-sum", losses.group_advantages(group.rewards)
             + losses.group_advantages(semantic))):
        np.testing.assert_allclose(
            policy_loss(PolicyConfig(method), lp, group).mean(),
            losses.grpo_loss(lp, group.old, advantages, mask).mean(), rtol=1e-6)


def optimum_curve(method, *, steps=150, width=6, draws=8, seed=0):
    """Probability of the best of `width`² two-code items as a table learns it.

    Items are drawn without replacement from the exact softmax; the reward falls with
    the distance from item (2, 3), which is what the user really chose.
    """
    rewards = -(np.abs(np.arange(width) - 2)[:, None]
                + np.abs(np.arange(width) - 3)[None]).ravel() / width
    rewards = jnp.asarray(rewards, jnp.float32)
    cfg = PolicyConfig(method)
    optimizer = optax.adam(0.1)

    def log_probs(table, items):
        first = jax.nn.log_softmax(table["first"])[items // width]
        second = jax.nn.log_softmax(table["second"], axis=-1)
        second = second[items // width, items % width]
        return jnp.stack([first, second], axis=-1)

    everything = jnp.arange(width**2)

    @jax.jit
    def step(table, moments, key):
        total = log_probs(table, everything).sum(-1)
        noisy = total + jax.random.gumbel(key, (4, width**2))
        items = jax.lax.top_k(noisy, draws)[1]
        old = jax.lax.stop_gradient(log_probs(table, items))
        own = rewards[items]
        group = Group(old, old, own, jnp.full(4, rewards.max()),
                      own if method in TWO_STREAMS else None)
        for _ in range(2):
            slope = jax.grad(lambda table: policy_loss(
                cfg, log_probs(table, items), group).mean())(table)
            updates, moments = optimizer.update(slope, moments)
            table = optax.apply_updates(table, updates)
        return table, moments, jnp.exp(log_probs(table, jnp.array([2 * width + 3]))
                                       ).prod()

    table = {"first": jnp.zeros(width), "second": jnp.zeros((width, width))}
    moments, curve = optimizer.init(table), []
    for key in jax.random.split(jax.random.key(seed), steps):
        table, moments, chance = step(table, moments, key)
        curve.append(float(chance))
    return np.array(curve)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_bandit_with_a_known_optimum_is_solved(method):
    curve = optimum_curve(method)
    assert curve[0] < 0.06 and curve[-1] > 0.5, (method, curve[-1])
    assert curve[-10:].mean() > curve[:10].mean() + 0.3


def test_what_no_method_knows_is_refused():
    with pytest.raises(InputError, match="policy.method is 'ppo'"):
        PolicyConfig("ppo")
    with pytest.raises(InputError, match="grpo has no 'tau_pos'; there are clip_low"):
        PolicyConfig("grpo", {"tau_pos": 1.0})
    with pytest.raises(InputError, match="k1"):
        PolicyConfig("grpo", kl_kind="k1")
    with pytest.raises(ValueError, match="semantic"):
        policy_loss(PolicyConfig("a2po"), _group().old, _group())
