"""One small batch with values worked out by hand and by an independent program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oxyrec_jax import losses

LP = np.array([[[-.5, -1, -.2], [-1.2, -.7, -.9], [-2, -.3, -1.5], [-.8, -1.1, -3]]])
OLD = np.array([[[-.7, -1, -.5], [-1, -.9, -.8], [-2.6, -.4, -1.4], [-.9, -.6, -3]]])
REF = np.array([[[-.6, -1.2, -.4], [-1.1, -.8, -1], [-2.2, -.5, -1.6], [-1, -.9, -3]]])
MASK = np.array([[[1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 0]]], bool)
REWARDS = np.array([[1.0, 0, 0, 0]])
SEMANTIC = np.array([[.6, .9, .1, -.2]])
# mean 1/4, deviation 1/2: (1 - 1/4) / 0.5001 and -1/4 / 0.5001
BUSINESS_ADVANTAGES = np.array([[1.49970006, -.49990002, -.49990002, -.49990002]])
SEMANTIC_ADVANTAGES = np.array([[.50670031, 1.11474069, -.50670031, -1.11474069]])
JOINT_ADVANTAGES = np.array([[1.67089776, -.49990002, -.99980003, -.99980004]])


def items(log_probs):
    """Log-probability of each whole item, `[G]`."""
    return jnp.sum(log_probs, axis=-1, where=MASK)[0]


def means(log_probs):
    return jnp.mean(log_probs, axis=-1, where=MASK)[0]


def with_advantages(loss, advantages=BUSINESS_ADVANTAGES, **options):
    return lambda x: loss(x, OLD, advantages, MASK, **options).mean()


GOLDEN = {
    "GRPO with KL": (
        lambda x: (losses.grpo_loss(x, OLD, BUSINESS_ADVANTAGES, MASK).mean()
                   + 0.04 * losses.kl_penalty(x, REF, MASK, kind="k3").mean()),
        -0.023011, 0.480497),
    "GRPO": (with_advantages(losses.grpo_loss), -0.023543, 0.476357),
    "DAPO": (with_advantages(losses.dapo_loss), -0.082799, 0.661071),
    "Dr.GRPO": (with_advantages(losses.dr_grpo_loss, REWARDS - 0.25, max_length=3),
                -0.031619, 0.226714),
    "GSPO": (with_advantages(losses.gspo_loss, clip_low=0.2, clip_high=0.2),
             -0.067078, 0.818765),
    "SAPO": (with_advantages(losses.sapo_loss), -0.093849, 0.813035),
    "CISPO": (with_advantages(losses.cispo_loss, cap=5.0), -0.176972, 0.872670),
    # others of the best: mean 0; of each other: mean 1/3
    "RLOO": (with_advantages(losses.rloo_loss, np.array([[1, -1 / 3, -1 / 3, -1 / 3]])),
             -0.006087, 0.681739),
    "GBPO": (with_advantages(losses.gbpo_loss, np.array([[1.0, 0, -1, -1]])),
             0.043441, 0.543441),
    "DPO": (
        lambda x: losses.dpo_loss(items(x)[:1], items(x)[1:2], items(REF)[:1],
                                  items(REF)[1:2], beta=0.1).mean(),
        0.673347, 0.294001),
    "S-DPO": (
        lambda x: losses.softmax_dpo_loss(items(x)[:1], items(x)[None, 1:],
                                          items(REF)[:1], items(REF)[None, 1:],
                                          beta=1.0).mean(),
        1.186883, 3.983878),
    "SimPO": (
        lambda x: losses.simpo_loss(means(x)[:1], means(x)[1:2], beta=2.0,
                                    margin=1.0).mean(),
        0.835343, 2.265098),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_value_and_gradient_norm(name):
    loss, value, norm = GOLDEN[name]
    with jax.enable_x64(True):
        found, gradient = jax.value_and_grad(loss)(LP)
        found, gradient = float(found), np.asarray(gradient)
    np.testing.assert_allclose(found, value, atol=6e-7)
    np.testing.assert_allclose(np.abs(gradient).sum(), norm, atol=6e-7)


def test_advantages():
    with jax.enable_x64(True):
        business = np.asarray(losses.group_advantages(REWARDS))
        semantic = np.asarray(losses.group_advantages(SEMANTIC))
        joint = np.asarray(losses.asymmetric_advantages(business, semantic))
        alone = np.asarray(losses.leave_one_out_advantages(REWARDS))
    np.testing.assert_allclose(business, BUSINESS_ADVANTAGES, atol=6e-9)
    np.testing.assert_allclose(semantic, SEMANTIC_ADVANTAGES, atol=6e-9)
    np.testing.assert_allclose(joint, JOINT_ADVANTAGES, atol=6e-9)
    np.testing.assert_allclose(alone, [[1, -1 / 3, -1 / 3, -1 / 3]], atol=1e-15)


def test_a2po_loss_is_grpo_of_the_joint_advantages():
    with jax.enable_x64(True):
        joint = losses.a2po_loss(LP, OLD, REWARDS, SEMANTIC, MASK, clip_low=0.2,
                                 clip_high=0.2, eps=1e-8).mean()
        grpo = losses.grpo_loss(LP, OLD, JOINT_ADVANTAGES, MASK).mean()
        joint, grpo = float(joint), float(grpo)
    np.testing.assert_allclose(joint, grpo, atol=6e-9)


def test_sa_gcpo_loss_is_sapo_without_the_praise_below_real_feedback():
    kept = BUSINESS_ADVANTAGES * [0, 1, 1, 1]  # R = 1 < R* = 2 takes the first one's
    with jax.enable_x64(True):
        ours = losses.sa_gcpo_loss(LP, OLD, REWARDS, np.array([2.0]), MASK, tau_pos=1.0,
                                   tau_neg=1.05).mean()
        sapo = losses.sapo_loss(LP, OLD, kept, MASK).mean()
        ours, sapo = float(ours), float(sapo)
    np.testing.assert_allclose(ours, sapo, atol=6e-9)
