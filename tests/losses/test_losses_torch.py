"""The losses again in PyTorch, with its own autograd: equal values, equal gradients.

Skipped where PyTorch is not installed; docs/losses.md records a run.
"""

import jax
import numpy as np
import pytest

from losses_table import ALL, evaluate, rollouts
from oxyrec_jax import losses

torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed: it comes with the extra `bench`")


def tensors(data):
    return {k: torch.tensor(np.asarray(v)) for k, v in data.items()}


def normalise(rewards, live):
    """Group z-scores over the rollouts that are there."""
    count = live.sum(-1, keepdim=True)
    zero = torch.zeros_like(rewards)
    offset = torch.where(live, rewards, zero).sum(-1, keepdim=True) / count
    centred = torch.where(live, rewards - offset, zero)
    deviation = (centred.pow(2).sum(-1, keepdim=True) / (count - 1)).sqrt()
    return centred / (deviation + 1e-4)


def ppo(ratio, advantage, low=0.2, high=0.2):
    return torch.maximum(-ratio * advantage,
                         -torch.clamp(ratio, 1 - low, 1 + high) * advantage)


def spread(d, key="advantages"):
    return d[key].unsqueeze(-1).expand_as(d["log_probs"])


def token_ratio(d):
    return (d["log_probs"] - d["old"]).exp()


def over_tokens(cost, d):
    return (cost * d["mask"]).sum()


def over_sequences(cost, d):
    lengths = d["mask"].sum(-1).clamp(min=1)
    return ((cost * d["mask"]).sum(-1) / lengths).sum()


def whole(d):
    return ((d["log_probs"] - d["old"]) * d["mask"]).sum(-1)


def alive(d):
    return d["mask"].any(-1)


def gate(ratio, advantage, pos, neg):
    tau = torch.where(advantage > 0, torch.tensor(pos), torch.tensor(neg))
    return -(4 / tau) * torch.sigmoid(tau * (ratio - 1)) * advantage


def dapo(d):
    useful = ((d["advantages"] != 0) & alive(d)).any(-1)[:, None, None]
    return over_tokens(ppo(token_ratio(d), spread(d), 0.2, 0.28) * useful, d)


def dual(d):
    cost = ppo(token_ratio(d), spread(d))
    bounded = torch.minimum(cost, -1.5 * spread(d))
    return over_sequences(torch.where(spread(d) < 0, bounded, cost), d)


def gspo(d):
    mean = whole(d) / d["mask"].sum(-1).clamp(min=1)
    return (ppo(mean.exp(), d["advantages"], 0.1, 0.15) * alive(d)).sum()


def sa_gcpo(d):
    signal = normalise(d["rewards"], alive(d))
    beaten = (signal > 0) & (d["rewards"] < d["target_rewards"][:, None])
    signal = signal.masked_fill(beaten, 0.0)[..., None].expand_as(d["mask"])
    return over_sequences(gate(token_ratio(d), signal, 1.3, 0.8), d)


def a2po(d):
    biz, sem = (normalise(d[k], alive(d)) for k in ("rewards", "semantic"))
    sizes = torch.stack([biz.abs(), sem.abs()])
    share = sizes.amin(0) / (sizes.amax(0) + 1e-8)
    joint = biz + (biz.sign() == sem.sign()) * share * sem
    return over_sequences(ppo(token_ratio(d), joint[..., None]), d)


def cispo(d):
    capped = token_ratio(d).detach().clamp(max=1.2)
    return over_tokens(-capped * spread(d) * d["log_probs"], d)


def ecpo(d):
    new = (d["log_probs"] * d["mask"]).sum(-1).exp()
    old = (d["old"] * d["mask"]).sum(-1).exp()
    lifted = torch.maximum(old, new.detach() / 1.3)
    return (ppo(new / lifted, d["advantages"]) * alive(d)).sum()


def gbpo(d):
    now = d["log_probs"].exp()
    side = torch.where(spread(d) >= 0, now.detach(), 1 - now.detach())
    return over_sequences(-spread(d) * now / torch.maximum(d["old"].exp(), side), d)


def kl(kind):
    def of(d):
        gap = d["log_probs"] - d["ref"]
        return over_sequences({"k1": gap, "k2": gap.square() / 2,
                               "k3": (-gap).exp() - 1 + gap}[kind], d)
    return of


TORCH = {
    "grpo": lambda d: over_sequences(ppo(token_ratio(d), spread(d)), d),
    "grpo_dual": dual,
    "dr_grpo": lambda d: over_tokens(ppo(token_ratio(d), spread(d)), d) / 7,
    "dapo": dapo,
    "gspo": gspo,
    "sapo": lambda d: over_sequences(gate(token_ratio(d), spread(d), 1.0, 1.05), d),
    "sa_gcpo": sa_gcpo,
    "a2po": a2po,
    "cispo": cispo,
    "rloo": lambda d: (ppo(whole(d).exp(), d["advantages"]) * alive(d)).sum(),
    "reinforce_pp": lambda d: over_tokens(ppo(token_ratio(d), d["per_code"]), d),
    "ecpo": ecpo,
    "gbpo": gbpo,
    "k1": kl("k1"), "k2": kl("k2"), "k3": kl("k3"),
}


@pytest.mark.parametrize("name", ALL)
def test_policy_objectives_equal_torch(name):
    for seed in range(3):
        data = rollouts(seed, (4, 6, 5))
        theirs = tensors(data)
        theirs["log_probs"].requires_grad_()
        total = TORCH[name](theirs)
        total.backward()
        loss, gradient = evaluate(name, data)
        np.testing.assert_allclose(loss.total, total.item(), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(gradient, theirs["log_probs"].grad, rtol=1e-4,
                                   atol=1e-6)


def test_advantages_equal_torch():
    data = rollouts(5)
    d = tensors(data)
    deviation, mean = torch.std_mean(d["rewards"], -1, keepdim=True)
    z = (d["rewards"] - mean) / (deviation + 1e-4)
    np.testing.assert_allclose(losses.group_advantages(data["rewards"]), z, rtol=1e-5)
    total = d["rewards"].sum(-1, keepdim=True)
    np.testing.assert_allclose(losses.leave_one_out_advantages(data["rewards"]),
                               d["rewards"] - (total - d["rewards"]) / 3, rtol=1e-4,
                               atol=1e-6)
    kl_left = ((d["log_probs"] - d["ref"]) * d["mask"]).flip(-1).cumsum(-1).flip(-1)
    to_go = d["rewards"][..., None] - 0.2 * kl_left
    real = to_go[d["mask"]]
    white = (to_go - real.mean()) / (real.var(unbiased=False) + 1e-8).sqrt() * d["mask"]
    np.testing.assert_allclose(
        losses.reinforce_pp_advantages(data["rewards"], data["log_probs"], data["ref"],
                                       data["mask"], kl_coef=0.2),
        white, rtol=1e-4, atol=1e-5)


def check(ours, theirs, *arrays):
    """Equal value and gradients of a scalar of several arrays."""
    leaves = [torch.tensor(a, requires_grad=True) for a in arrays]
    value = theirs(*leaves)
    value.backward()
    found, gradients = jax.value_and_grad(ours, tuple(range(len(arrays))))(*arrays)
    np.testing.assert_allclose(found, value.item(), rtol=1e-5)
    for gradient, leaf in zip(gradients, leaves):
        np.testing.assert_allclose(gradient, leaf.grad, rtol=1e-4, atol=1e-6)


def test_likelihood_equals_torch():
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(3, 4, 8)).astype(np.float32)
    table = rng.normal(size=(50, 8)).astype(np.float32)
    targets, mask = rng.integers(0, 50, (3, 4)), rng.random((3, 4)) < 0.7
    weights = rng.uniform(0.5, 2, (3, 4)).astype(np.float32)

    def theirs(hidden, table):
        each = torch.nn.functional.cross_entropy(
            (hidden @ table.T).reshape(-1, 50), torch.tensor(targets).reshape(-1),
            reduction="none", label_smoothing=0.1).reshape(3, 4)
        counted = torch.tensor(weights * mask)
        return (each * counted).sum() / counted.sum()

    options = dict(sample_weights=weights, label_smoothing=0.1)
    check(lambda h, t: losses.next_code_loss(h @ t.T, targets, mask, **options).mean(),
          theirs, hidden, table)
    check(lambda h, t: losses.chunked_next_code_loss(h, t, targets, mask, chunk=16,
                                                     **options).mean(),
          theirs, hidden, table)


def test_alignment_equals_torch():
    rng = np.random.default_rng(1)
    one, two = rng.normal(size=(2, 6, 4)).astype(np.float32)

    def contrast(a, b):
        scores, own = a @ b.T / 0.3, torch.arange(6)
        entropy = torch.nn.functional.cross_entropy
        return (entropy(scores, own) + entropy(scores.T, own)) / 2

    check(lambda a, b: losses.info_nce_loss(a, b, temperature=0.3, symmetric=True
                                            ).mean(), contrast, one, two)

    def q2i(a, b):
        volume = a.var(0, unbiased=False).mean() * b.var(0, unbiased=False).mean()
        crossed = (a @ a.T).pow(2)
        crossed = (crossed.sum() - crossed.diagonal().sum()) / 30
        return -(a * b).sum(-1).mean() - 0.1 * volume.log() + 0.2 * crossed

    check(lambda a, b: losses.q2i_loss(a, b, variance_weight=0.1,
                                       decorrelation_weight=0.2).mean(), q2i, one, two)


def test_preference_equals_torch():
    rng = np.random.default_rng(2)
    chosen, rejected, ref_chosen, ref_rejected = -rng.uniform(
        0.5, 5, (4, 6)).astype(np.float32)
    others, ref_others = -rng.uniform(0.5, 5, (2, 6, 3)).astype(np.float32)
    log_sigmoid = torch.nn.functional.logsigmoid

    def dpo(a, b):
        edge = 0.2 * ((a - torch.tensor(ref_chosen)) - (b - torch.tensor(ref_rejected)))
        return (-0.9 * log_sigmoid(edge) - 0.1 * log_sigmoid(-edge)).mean()

    check(lambda a, b: losses.dpo_loss(a, b, ref_chosen, ref_rejected, beta=0.2,
                                       label_smoothing=0.1).mean(),
          dpo, chosen, rejected)

    def softmax_dpo(a, b):
        logits = 0.5 * torch.cat([(a - torch.tensor(ref_chosen))[:, None],
                                  b - torch.tensor(ref_others)], dim=1)
        return -logits.log_softmax(-1)[:, 0].mean()

    check(lambda a, b: losses.softmax_dpo_loss(a, b, ref_chosen, ref_others, beta=0.5
                                               ).mean(), softmax_dpo, chosen, others)
    check(lambda a, b: losses.simpo_loss(a, b, beta=2.0, margin=0.5).mean(),
          lambda a, b: -log_sigmoid(2 * (a - b) - 0.5).mean(), chosen, rejected)
