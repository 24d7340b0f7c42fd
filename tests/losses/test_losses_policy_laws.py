"""What all policy objectives share: transformations, padding, shards, extremes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from losses_table import ALL, FLOATS, compiled, evaluate, rollouts

EVERY = pytest.mark.parametrize("name", ALL)


def shard(data):
    """The batch spread over eight devices by rows."""
    devices = Mesh(np.array(jax.devices()[:8]), ("data",))
    return jax.device_put(data, NamedSharding(devices, PartitionSpec("data")))


@EVERY
def test_eager_and_vmap_equal_jit(name):
    data = rollouts(1)
    loss, _ = evaluate(name, data)
    eager = ALL[name].loss(data)
    np.testing.assert_allclose(eager.total, loss.total, rtol=1e-6)
    assert eager.weight == loss.weight
    other = rollouts(2)
    both = {k: np.stack([data[k], other[k]]) for k in data}
    mapped = jax.jit(jax.vmap(ALL[name].loss))(both)
    second, _ = evaluate(name, other)
    np.testing.assert_allclose(mapped.total, [loss.total, second.total], rtol=1e-5)
    np.testing.assert_array_equal(mapped.weight, [loss.weight, second.weight])


@EVERY
def test_bfloat16_inputs_give_float32_results(name):
    data = {k: jnp.asarray(v, jnp.bfloat16) if k in FLOATS else v
            for k, v in rollouts(3).items()}
    loss, gradient = evaluate(name, data)
    assert loss.total.dtype == loss.weight.dtype == jnp.float32
    assert gradient.dtype == jnp.bfloat16
    wide = {k: v.astype(jnp.float32) if k in FLOATS else v for k, v in data.items()}
    np.testing.assert_allclose(loss.total, evaluate(name, wide)[0].total, rtol=1e-6)


@EVERY
def test_nan_in_padding_changes_neither_value_nor_gradient(name):
    data = rollouts(4)
    live = data["mask"].any(axis=-1)
    padded = dict(data)
    for key in ("log_probs", "old", "ref", "per_code"):
        padded[key] = np.where(data["mask"], data[key], np.nan)
    for key in ("advantages", "rewards", "semantic"):
        padded[key] = np.where(live, data[key], np.nan)
    assert not live.all() and not data["mask"].all()
    clean, dirty = evaluate(name, data), evaluate(name, padded)
    np.testing.assert_array_equal(clean[0].total, dirty[0].total)
    np.testing.assert_array_equal(clean[0].weight, dirty[0].weight)
    np.testing.assert_array_equal(clean[1], dirty[1])
    assert not np.any(dirty[1][~data["mask"]])


@EVERY
def test_empty_mask_gives_zero_and_zero_gradient(name):
    data = rollouts(5)
    data = dict(data, mask=np.zeros_like(data["mask"]))
    data["log_probs"] = np.full_like(data["log_probs"], np.nan)
    loss, gradient = evaluate(name, data)
    assert loss.total == loss.weight == loss.mean() == 0
    assert not np.any(gradient)


@EVERY
def test_order_of_group_members_is_irrelevant(name):
    data = rollouts(8)
    order = np.array([2, 0, 3, 1])
    shuffled = {k: v[:, order] if v.ndim > 1 else v for k, v in data.items()}
    loss, gradient = evaluate(name, data)
    other, turned = evaluate(name, shuffled)
    np.testing.assert_allclose(other.total, loss.total, rtol=1e-5)
    assert other.weight == loss.weight
    np.testing.assert_allclose(turned, gradient[:, order], rtol=1e-5, atol=1e-6)


@EVERY
def test_shards_and_micro_batches_add_to_the_whole(name):
    data = rollouts(9, (8, 4, 3))
    whole, gradient = evaluate(name, data)
    sharded, spread = evaluate(name, shard(data))
    np.testing.assert_allclose(sharded.total, whole.total, rtol=1e-5, atol=1e-6)
    assert sharded.weight == whole.weight  # counts: exact
    np.testing.assert_allclose(spread, gradient, rtol=1e-6, atol=1e-7)

    # Micro-batches of rows 0-2, 3-5 and 5-7, the doubled row 5 blanked in the last.
    pieces = [{k: v[first:first + 3].copy() for k, v in data.items()}
              for first in (0, 3, 5)]
    pieces[2]["mask"][0] = False
    one, two, three = (evaluate(name, piece)[0] for piece in pieces)
    parts = one + two + three
    np.testing.assert_allclose(parts.total, whole.total, rtol=1e-5, atol=1e-6)
    assert parts.weight == whole.weight


@pytest.mark.parametrize("name", [
    name for name in ALL if name not in (
        "sa_gcpo", "a2po",  # divide by a standard deviation
        "dr_grpo", "sapo",  # divide by 7 and by 1.05
    )])
def test_dyadic_shards_add_without_rounding(name):
    """Where every term is a short binary fraction, the sums are equal bit for bit."""
    data = rollouts(10, (8, 4, 3))
    data["log_probs"] = np.full_like(data["old"], -0.5)
    data["old"] = data["ref"] = data["log_probs"]
    data["advantages"] = np.round(data["advantages"] * 4) / 4
    data["per_code"] = np.round(data["per_code"] * 4) / 4
    data["mask"] = data["mask"] & (np.arange(3) < 2)  # lengths 0, 1 and 2
    whole, _ = evaluate(name, data)
    sharded, _ = evaluate(name, shard(data))
    assert sharded.total == whole.total
    assert sharded.weight == whole.weight


@EVERY
def test_second_call_does_not_compile_again(name):
    evaluate(name, rollouts(11))
    before = compiled(name)._cache_size()
    evaluate(name, rollouts(12))
    assert compiled(name)._cache_size() == before


@EVERY
@pytest.mark.parametrize("apart", [200.0, 5_000.0])
def test_huge_ratios_do_not_overflow(name, apart):
    data = rollouts(13)
    data["log_probs"] = np.where(np.arange(3) % 2, data["old"] - apart, data["old"])
    data["old"] = np.where(np.arange(3) % 2, data["old"], data["old"] - apart)
    data["ref"] = data["old"] + 1
    loss, gradient = evaluate(name, {k: v.astype(np.float32) if k in FLOATS else v
                                     for k, v in data.items()})
    assert np.isfinite(loss.total)
    assert np.all(np.isfinite(gradient))


@EVERY
def test_only_log_probs_receives_a_gradient(name):
    data = rollouts(14)
    floats = {k: v for k, v in data.items() if k in FLOATS}
    gradients = jax.jit(jax.grad(
        lambda x: ALL[name].loss(dict(x, mask=data["mask"])).mean()))(floats)
    assert np.any(gradients.pop("log_probs"))
    for key, gradient in gradients.items():
        assert not np.any(gradient), key
