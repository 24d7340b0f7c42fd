"""Every policy objective again, in plain float64 loops over single codes.

Nothing here shares code, array shapes or log-space tricks with the package. A function
takes one rollout batch as a dict of float64 arrays and a second array of log-probs,
`held`: what a stop-gradient sees. Finite differences move `log_probs` and leave `held`.
"""

import math

import numpy as np


def z_scores(rewards, present=None, eps=1e-4):
    """(R - mean) / (std + eps) with ddof 1 among the present rollouts, else 0."""
    out = np.zeros(rewards.shape)
    for b, row in enumerate(rewards):
        chosen = [i for i in range(len(row)) if present is None or present[b][i]]
        mean = sum(row[i] for i in chosen) / max(len(chosen), 1)
        squares = sum((row[i] - mean) ** 2 for i in chosen)
        deviation = math.sqrt(squares / max(len(chosen) - 1, 1))
        for i in chosen:
            out[b, i] = (row[i] - mean) / (deviation + eps)
    return out


def a2po(business, semantic, eps=1e-8):
    out = np.zeros(business.shape)
    for place in np.ndindex(business.shape):
        b, s = business[place], semantic[place]
        gate = 0.0
        if np.sign(b) == np.sign(s):
            gate = min(abs(b), abs(s)) / (max(abs(b), abs(s)) + eps)
        out[place] = b + gate * s
    return out


def threshold(advantages, rewards, target_rewards):
    out = advantages.copy()
    for b, i in np.ndindex(out.shape):
        if out[b, i] > 0 and rewards[b, i] < target_rewards[b]:
            out[b, i] = 0
    return out


def reinforce_pp(rewards, log_probs, ref_log_probs, mask, kl_coef):
    out = np.zeros(mask.shape)
    for b, i in np.ndindex(rewards.shape):
        for t in range(mask.shape[2]):
            if mask[b, i, t]:
                later = [u for u in range(t, mask.shape[2]) if mask[b, i, u]]
                out[b, i, t] = rewards[b, i] - kl_coef * sum(
                    log_probs[b, i, u] - ref_log_probs[b, i, u] for u in later)
    real = out[mask]
    return np.where(mask, (out - real.mean()) / np.sqrt(real.var() + 1e-8), 0)


def clip_cost(ratio, advantage, low, high, dual=None):
    near = min(max(ratio, 1 - low), 1 + high)
    cost = -min(ratio * advantage, near * advantage)
    if dual is not None and advantage < 0:
        cost = min(cost, -dual * advantage)
    return cost


def gate_cost(ratio, advantage, tau_pos, tau_neg):
    tau = tau_pos if advantage > 0 else tau_neg
    return -4 / tau / (1 + math.exp(-tau * (ratio - 1))) * advantage


def sequences(data):
    """Yields (b, i, real code positions) of every rollout that has one."""
    for b, i in np.ndindex(data["mask"].shape[:2]):
        codes = [t for t in range(data["mask"].shape[2]) if data["mask"][b, i, t]]
        if codes:
            yield b, i, codes


def by_code(data, cost, weigh):
    """Sum and weight of `cost(b, i, t)` under one of the three token aggregations."""
    total = weight = 0.0
    for b, i, codes in sequences(data):
        costs = [cost(b, i, t) for t in codes]
        if weigh == "code":
            total, weight = total + sum(costs), weight + len(costs)
        elif weigh == "sequence":
            total, weight = total + sum(costs) / len(costs), weight + 1
        else:
            total, weight = total + sum(costs) / weigh, weight + 1
    return total, weight


def ratio(data, b, i, t):
    return math.exp(data["log_probs"][b, i, t] - data["old"][b, i, t])


def clip_by_code(data, advantages, weigh, low=0.2, high=0.2, dual=None):
    return by_code(data, lambda b, i, t: clip_cost(
        ratio(data, b, i, t), advantages[b, i], low, high, dual), weigh)


def grpo(data, held):
    return clip_by_code(data, data["advantages"], "sequence")


def grpo_dual(data, held):
    return clip_by_code(data, data["advantages"], "sequence", dual=1.5)


def dr_grpo(data, held):
    return clip_by_code(data, data["advantages"], 7)


def dapo(data, held):
    kept = dict(data, mask=data["mask"].copy())
    for b in range(len(kept["mask"])):
        live = data["mask"][b].any(axis=-1)
        if not np.any(data["advantages"][b][live]):
            kept["mask"][b] = False
    return clip_by_code(kept, data["advantages"], "code", high=0.28)


def sapo(data, held):
    return by_code(data, lambda b, i, t: gate_cost(
        ratio(data, b, i, t), data["advantages"][b, i], 1.0, 1.05), "sequence")


def sa_gcpo(data, held):
    live = data["mask"].any(axis=-1)
    kept = threshold(z_scores(data["rewards"], live), data["rewards"],
                     data["target_rewards"])
    return by_code(data, lambda b, i, t: gate_cost(
        ratio(data, b, i, t), kept[b, i], 1.3, 0.8), "sequence")


def a2po_loss(data, held):
    live = data["mask"].any(axis=-1)
    joint = a2po(z_scores(data["rewards"], live), z_scores(data["semantic"], live))
    return clip_by_code(data, joint, "sequence")


def cispo(data, held):
    def cost(b, i, t):
        weight = min(math.exp(held[b, i, t] - data["old"][b, i, t]), 1.2)
        return -weight * data["advantages"][b, i] * data["log_probs"][b, i, t]
    return by_code(data, cost, "code")


def reinforce_pp_loss(data, held):
    return by_code(data, lambda b, i, t: clip_cost(
        ratio(data, b, i, t), data["per_code"][b, i, t], 0.2, 0.2), "code")


def by_sequence(data, ratio_of, low, high):
    total = weight = 0.0
    for b, i, codes in sequences(data):
        moved = [data["log_probs"][b, i, t] - data["old"][b, i, t] for t in codes]
        total += clip_cost(ratio_of(b, i, codes, moved), data["advantages"][b, i], low,
                           high)
        weight += 1
    return total, weight


def gspo(data, held):
    return by_sequence(
        data, lambda b, i, codes, moved: math.exp(sum(moved) / len(moved)), 0.1, 0.15)


def rloo(data, held):
    return by_sequence(data, lambda b, i, codes, moved: math.exp(sum(moved)), 0.2, 0.2)


def ecpo(data, held):
    def ratio_of(b, i, codes, moved):
        new = math.exp(sum(data["log_probs"][b, i, t] for t in codes))
        now = math.exp(sum(held[b, i, t] for t in codes))
        old = math.exp(sum(data["old"][b, i, t] for t in codes))
        return new / max(old, now / (1 + 0.2 + 0.1))
    return by_sequence(data, ratio_of, 0.2, 0.2)


def gbpo(data, held):
    def cost(b, i, t):
        now, old = math.exp(held[b, i, t]), math.exp(data["old"][b, i, t])
        advantage = data["advantages"][b, i]
        bound = max(old, now if advantage >= 0 else 1 - now)
        return -advantage * math.exp(data["log_probs"][b, i, t]) / bound
    return by_code(data, cost, "sequence")


def kl(kind):
    def of(data, held):
        def cost(b, i, t):
            d = data["log_probs"][b, i, t] - data["ref"][b, i, t]
            return {"k1": d, "k2": d * d / 2, "k3": math.exp(-d) - 1 + d}[kind]
        return by_code(data, cost, "sequence")
    return of


def gradient(oracle, data, step=1e-6):
    """Central differences of the total with respect to `log_probs`, `held` fixed."""
    held = data["log_probs"].copy()
    out = np.zeros(held.shape)
    for place in np.ndindex(held.shape):
        if not data["mask"][place]:
            continue  # a loop over real codes never reads it
        ends = []
        for sign in (1, -1):
            moved = held.copy()
            moved[place] += sign * step
            ends.append(oracle(dict(data, log_probs=moved), held)[0])
        out[place] = (ends[0] - ends[1]) / (2 * step)
    return out
