"""Every objective once more as one flat expression: what `benchmarks/losses.py` times.

No checks, no shared axes, no guards against overflow or padded NaN: the formula as one
would write it for a single experiment, masks included. XLA fuses it as it likes.
"""

import jax
import jax.numpy as jnp


def _ratio(lp, d):
    # Blanking the padded places halves the time on CPU, so the baseline does it too.
    return jnp.exp(jnp.where(d["mask"], lp - d["old"], 0))


def _clip(ratio, advantage, low=0.2, high=0.2):
    near = jnp.clip(ratio, 1 - low, 1 + high)
    return -jnp.minimum(ratio * advantage, near * advantage)


def _tokens(cost, mask):
    return jnp.sum(cost, where=mask) / jnp.sum(mask)


def _sequences(cost, mask):
    length = jnp.sum(mask, -1)
    means = jnp.sum(cost, -1, where=mask) / jnp.maximum(length, 1)
    return jnp.sum(means) / jnp.sum(length > 0)


def _wholes(cost, mask):
    live = jnp.any(mask, -1)
    return jnp.sum(cost, where=live) / jnp.sum(live)


def _z(rewards, d):
    live = jnp.any(d["mask"], -1)  # a rollout without codes is not of the group
    mean = jnp.mean(rewards, axis=-1, keepdims=True, where=live)
    spread = jnp.std(rewards, axis=-1, ddof=1, keepdims=True, where=live) + 1e-4
    return jnp.where(live, (rewards - mean) / spread, 0)


def _gate(ratio, advantage, pos, neg):
    tau = jnp.where(advantage > 0, pos, neg)
    return -4 / tau * jax.nn.sigmoid(tau * (ratio - 1)) * advantage


def grpo(lp, d):
    cost = _clip(_ratio(lp, d), d["advantages"][..., None])
    return _sequences(cost, d["mask"])


def dr_grpo(lp, d):
    cost = _clip(_ratio(lp, d), d["advantages"][..., None])
    live = jnp.any(d["mask"], -1)
    return jnp.sum(cost, where=d["mask"]) / 3 / jnp.sum(live)


def dapo(lp, d):
    mask = d["mask"] & jnp.any(d["advantages"] != 0, axis=-1)[:, None, None]
    cost = _clip(_ratio(lp, d), d["advantages"][..., None], 0.2, 0.28)
    return _tokens(cost, mask)


def gspo(lp, d):
    length = jnp.maximum(jnp.sum(d["mask"], -1), 1)
    mean = jnp.sum(lp - d["old"], -1, where=d["mask"]) / length
    return _wholes(_clip(jnp.exp(mean), d["advantages"]), d["mask"])


def sapo(lp, d):
    cost = _gate(_ratio(lp, d), d["advantages"][..., None], 1.0, 1.05)
    return _sequences(cost, d["mask"])


def sa_gcpo(lp, d):
    score = _z(d["rewards"], d)
    beaten = (score > 0) & (d["rewards"] < d["target_rewards"][:, None])
    score = jnp.where(beaten, 0, score)[..., None]
    return _sequences(_gate(_ratio(lp, d), score, 1.0, 1.05), d["mask"])


def a2po(lp, d):
    business, semantic = _z(d["rewards"], d), _z(d["semantic"], d)
    one, two = jnp.abs(business), jnp.abs(semantic)
    gate = jnp.minimum(one, two) / (jnp.maximum(one, two) + 1e-8)
    joint = business + (jnp.sign(business) == jnp.sign(semantic)) * gate * semantic
    return _sequences(_clip(_ratio(lp, d), joint[..., None]), d["mask"])


def cispo(lp, d):
    weight = jax.lax.stop_gradient(jnp.minimum(_ratio(lp, d), 2.0))
    cost = -weight * d["advantages"][..., None] * jnp.where(d["mask"], lp, 0)
    return _tokens(cost, d["mask"])


def rloo(lp, d):
    ratio = jnp.exp(jnp.sum(lp - d["old"], -1, where=d["mask"]))
    return _wholes(_clip(ratio, d["advantages"]), d["mask"])


def reinforce_pp(lp, d):
    return _tokens(_clip(_ratio(lp, d), d["per_code"]), d["mask"])


def ecpo(lp, d):
    moved = jnp.sum(lp - d["old"], -1, where=d["mask"])
    over = jnp.maximum(moved - jnp.log(1.3), 0)
    ratio = jnp.exp(moved - jax.lax.stop_gradient(over))
    return _wholes(_clip(ratio, d["advantages"]), d["mask"])


def gbpo(lp, d):
    advantage = d["advantages"][..., None]
    chance = jnp.exp(jnp.where(d["mask"], lp, 0))
    now = jax.lax.stop_gradient(chance)
    bound = jnp.maximum(jnp.exp(d["old"]), jnp.where(advantage >= 0, now, 1 - now))
    return _sequences(-advantage * chance / bound, d["mask"])


def kl_penalty(lp, d):
    gap = jnp.where(d["mask"], lp - d["ref"], 0)
    return _sequences(jnp.exp(-gap) - 1 + gap, d["mask"])


def dpo(lp, d):
    gap = lp[:, :2, 0] - d["ref"][:, :2, 0]
    margin = 0.1 * (gap[:, 0] - gap[:, 1])
    return jnp.mean(jax.nn.softplus(-margin))


def softmax_dpo(lp, d):
    logits = 0.1 * (lp[..., 0] - d["ref"][..., 0])
    return -jnp.mean(jax.nn.log_softmax(logits)[:, 0])


def simpo(lp, d):
    means = jnp.mean(lp[:, :2], -1)
    return jnp.mean(jax.nn.softplus(1.0 - 2.0 * (means[:, 0] - means[:, 1])))


def q2i(vectors, d):
    items = d["items"]
    near = jnp.mean(jnp.sum(vectors * items, -1))
    volume = jnp.mean(jnp.var(vectors, 0)) * jnp.mean(jnp.var(items, 0))
    rows = len(vectors)
    crossed = jnp.square(vectors @ vectors.T)
    crossed = jnp.sum(crossed) - jnp.trace(crossed)
    return -near - 0.01 * jnp.log(volume) + 0.01 * crossed / (rows * rows - rows)


def info_nce(vectors, d):
    scores = vectors @ d["items"].T / 0.07
    return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(scores)))


def next_code(logits, d):
    log_probs = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(log_probs, d["targets"][..., None], -1)[..., 0]
    return -jnp.sum(chosen * d["supervised"]) / jnp.sum(d["supervised"])
