"""Draws the pictures of docs/losses.md into docs/images, from the losses themselves.

    python docs/plot_losses.py          # 20 s; needs the extra `plots`

Every curve is a gradient that JAX took of the public function: nothing is redrawn from
a formula, so a picture cannot disagree with the code.
"""

import pathlib

import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from oxyrec_jax import losses

IMAGES = pathlib.Path(__file__).parent / "images"
STYLE = {
    "svg.hashsalt": "losses",  # the same bytes on every run
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    matplotlib.use("svg")
    with plt.rc_context(STYLE):
        save("losses_weights", _weights())
        save("losses_temperatures", _temperatures())
        save("losses_gbpo", _gbpo())
        save("losses_advantages", _advantages())
        save("losses_kl", _kl())
        save("losses_preference", _preference())


def weight(loss, ratio: np.ndarray, advantage: float, old: float = -25.0,
           **options) -> np.ndarray:
    """The gradient of one code's cost with respect to log π, over -A, at each ratio."""
    old_log_probs = jnp.full((1, len(ratio), 1), old)
    log_probs = old_log_probs + jnp.log(jnp.asarray(ratio, jnp.float32))[None, :, None]
    mask = jnp.ones(log_probs.shape, bool)
    advantages = jnp.full((1, len(ratio)), advantage)
    gradient = jax.grad(lambda x: loss(x, old_log_probs, advantages, mask,
                                       **options).total)(log_probs)
    return np.asarray(gradient[0, :, 0]) / -advantage


def _weights() -> plt.Figure:
    ratio = np.linspace(0.02, 3, 1200)
    families = (
        ("clipped: the update stops", (
            ("GRPO, clip 0.2", losses.grpo_loss, {}),
            ("DAPO, clip 0.2 / 0.28", losses.dapo_loss, {}),
            ("GRPO, dual clip 2", losses.grpo_loss, {"dual_clip": 2.0}))),
        ("soft gate: the update fades", (
            ("SAPO, τ 1.0 / 1.05", losses.sapo_loss, {}),
            ("τ 3 / 3", losses.sapo_loss, {"tau_pos": 3.0, "tau_neg": 3.0}),
            ("τ 8 / 8", losses.sapo_loss, {"tau_pos": 8.0, "tau_neg": 8.0}))),
        ("capped weight: the update stays", (
            ("CISPO, cap 1.28", losses.cispo_loss, {"cap": 1.28}),
            ("CISPO, cap 2", losses.cispo_loss, {"cap": 2.0}),
            ("ECPO, 0.2 + 0.1", losses.ecpo_loss, {"clip": 0.2, "delta": 0.1}))),
    )
    figure, axes = plt.subplots(2, 3, figsize=(10, 5.4), sharex=True, sharey=True)
    for column, (title, curves) in enumerate(families):
        for row, advantage in enumerate((1.0, -1.0)):
            axis = axes[row, column]
            axis.plot(ratio, ratio, color="#bbbbbb", linewidth=1, linestyle=":",
                      label="w = r, no guard")
            for name, loss, options in curves:
                axis.plot(ratio, weight(loss, ratio, advantage, **options), label=name)
            axis.axvline(1, color="#999999", linewidth=0.8)
            axis.set_ylim(-0.05, 2.6)
            axis.text(0.98, 0.95, "A > 0" if advantage > 0 else "A < 0", ha="right",
                      va="top", transform=axis.transAxes, weight="bold")
        axes[0, column].set_title(title)
        axes[0, column].legend(loc="upper left", fontsize=8)
        axes[1, column].set_xlabel("ratio π / π_old")
    for row in (0, 1):
        axes[row, 0].set_ylabel("gradient weight w")
    return figure


def _temperatures() -> plt.Figure:
    ratio = np.geomspace(0.05, 20, 1200)
    figure, axis = plt.subplots(figsize=(6.4, 3.6))
    for tau in (0.5, 1.0, 1.05, 2.0, 4.0, 8.0):
        axis.plot(ratio, weight(losses.sapo_loss, ratio, 1.0, tau_pos=tau, tau_neg=1.0),
                  label=f"τ = {tau}")
    axis.set_xscale("log")
    axis.axvline(1, color="#999999", linewidth=0.8)
    axis.set(xlabel="ratio π / π_old (log scale)", ylabel="gradient weight w",
             title="soft gate: w = r sech²(τ (r - 1) / 2)")
    axis.legend()
    return figure


def _gbpo() -> plt.Figure:
    chance = np.linspace(0.005, 0.995, 800)
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.4), sharey=True)
    for axis, advantage in zip(axes, (1.0, -1.0)):
        for old in (0.05, 0.2, 0.5, 0.9):
            curve = weight(losses.gbpo_loss, chance / old, advantage,
                           old=float(np.log(old)))
            axis.plot(chance, curve, label=f"μ = {old}")
        axis.set(xlabel="π, now", ylim=(0, 3),
                 title=f"GBPO, A {'> 0' if advantage > 0 else '< 0'}")
    axes[0].set_ylabel("gradient weight π / D")
    axes[0].legend(loc="upper left")
    return figure


def _advantages() -> plt.Figure:
    semantic = np.linspace(-3, 3, 601, dtype=np.float32)
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.4))
    for business in (1.5, 0.5, 0.0, -0.5, -1.5):
        joint = losses.asymmetric_advantages(
            jnp.full((1, 601), business), jnp.asarray(semantic)[None])
        axes[0].plot(semantic, joint[0], label=f"A_biz = {business}")
    axes[0].set(xlabel="A_sem", ylabel="A", title="A2PO: confirm, never overrule",
                ylim=(-4.6, 3.4))
    axes[0].legend(fontsize=8, ncols=2, loc="lower right")
    rewards = jnp.linspace(0, 1, 601)[None]
    advantages = losses.group_advantages(rewards)
    for target in (0.0, 0.7, 0.9):
        kept = losses.real_feedback_threshold(advantages, rewards, jnp.array([target]))
        axes[1].plot(rewards[0], kept[0], label=f"R* = {target}",
                     linewidth=4 - 3 * target)
    axes[1].set(xlabel="R", ylabel="Γ", title="SA-GCPO: no praise below real feedback")
    axes[1].legend(fontsize=8)
    return figure


def _kl() -> plt.Figure:
    distance = np.linspace(-2, 2, 401)
    ref = jnp.full((1, 401, 1), -4.0)
    log_probs = ref + jnp.asarray(distance, jnp.float32)[None, :, None]
    mask = jnp.ones((1, 401, 1), bool)
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.4))
    for kind in ("k1", "k2", "k3"):
        def one(log_prob, ref_log_prob, kind=kind):
            return losses.kl_penalty(log_prob[None, None], ref_log_prob[None, None],
                                     mask[:, :1], kind=kind).total
        value, slope = jax.vmap(jax.value_and_grad(one))(log_probs[0], ref[0])
        axes[0].plot(distance, value, label=kind)
        axes[1].plot(distance, slope[:, 0], label=kind)
    axes[0].set(xlabel="d = log π - log π_ref", ylabel="nats", title="KL estimators")
    axes[1].set(xlabel="d", ylabel="gradient", title="and their gradients")
    axes[0].legend()
    return figure


def _preference() -> plt.Figure:
    ahead = np.linspace(-6, 6, 481).astype(np.float32)
    zero = jnp.zeros(1)
    curves = {
        "DPO, β 1": lambda x: losses.dpo_loss(x, zero, zero, zero, beta=1.0).total,
        "DPO, β 1, smoothing 0.1": lambda x: losses.dpo_loss(
            x, zero, zero, zero, beta=1.0, label_smoothing=0.1).total,
        "S-DPO, β 1, 8 equal negatives": lambda x: losses.softmax_dpo_loss(
            x, jnp.zeros((1, 8)), zero, jnp.zeros((1, 8)), beta=1.0).total,
        "SimPO, β 2, margin 1": lambda x: losses.simpo_loss(x, zero, beta=2.0,
                                                            margin=1.0).total,
    }
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.4))
    for name, loss in curves.items():
        value, slope = jax.vmap(jax.value_and_grad(loss))(jnp.asarray(ahead)[:, None])
        axes[0].plot(ahead, value, label=name)
        axes[1].plot(ahead, slope[:, 0], label=name)
    axes[0].set(xlabel="chosen ahead of rejected, nats", ylabel="cost, nats")
    axes[1].set(xlabel="chosen ahead of rejected, nats", ylabel="gradient")
    axes[0].legend(fontsize=8)
    return figure


def save(name: str, figure: plt.Figure) -> None:
    figure.tight_layout()
    figure.savefig(IMAGES / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)
    print(f"docs/images/{name}.svg")


if __name__ == "__main__":
    main()
