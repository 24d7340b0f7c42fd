"""Wrong arguments of every policy objective end while tracing, by name."""

import inspect

import jax
import jax.numpy as jnp
import pytest

from oxyrec_jax import losses

SHAPE = (2, 3, 4)
OPTIONS = {
    losses.grpo_loss: {}, losses.dr_grpo_loss: {"max_length": 4}, losses.dapo_loss: {},
    losses.gspo_loss: {}, losses.sapo_loss: {}, losses.cispo_loss: {"cap": 2.0},
    losses.rloo_loss: {}, losses.reinforce_pp_loss: {}, losses.ecpo_loss: {"clip": 0.2},
    losses.gbpo_loss: {}, losses.sa_gcpo_loss: {"tau_pos": 1.0, "tau_neg": 1.0},
    losses.a2po_loss: {}, losses.kl_penalty: {},
}
EVERY = pytest.mark.parametrize("loss", OPTIONS, ids=lambda f: f.__name__)


def arguments(loss):
    """Well-formed positional arguments of a loss, by name, in order."""
    forms = {"mask": jnp.ones(SHAPE, bool), "target_rewards": jnp.zeros(SHAPE[0])}
    forms |= dict.fromkeys(("log_probs", "old_log_probs", "ref_log_probs"),
                           jnp.zeros(SHAPE))
    names = [p.name for p in inspect.signature(loss).parameters.values()
             if p.kind is p.POSITIONAL_OR_KEYWORD]
    return {name: forms.get(name, jnp.zeros(SHAPE[:2])) for name in names}


def trace(loss, changed):
    given = arguments(loss) | changed
    jax.eval_shape(lambda *x: loss(*x, **OPTIONS[loss]), *given.values())


@EVERY
def test_well_formed_arguments_pass(loss):
    trace(loss, {})


@EVERY
def test_every_wrong_shape_names_the_argument(loss):
    for name, value in arguments(loss).items():
        if name == "log_probs":
            continue  # it sets the shape that the others are held to
        wrong = jnp.zeros((5, *value.shape[1:]), value.dtype)
        with pytest.raises(ValueError, match=rf"{name}.shape=\(5,.*expected"):
            trace(loss, {name: wrong})


@EVERY
def test_integer_arrays_and_float_masks_are_refused(loss):
    for name, value in arguments(loss).items():
        if name == "mask":
            with pytest.raises(TypeError, match="mask has dtype float32, expected bo"):
                trace(loss, {name: jnp.ones(SHAPE)})
        else:
            with pytest.raises(TypeError, match=f"{name} has dtype int32, expected fl"):
                trace(loss, {name: jnp.zeros(value.shape, jnp.int32)})


@EVERY
@pytest.mark.parametrize("shape", [(2, 3, 0), (2, 3), (2, 0, 4)], ids=str)
def test_no_codes_and_missing_axes_are_refused(loss, shape):
    changed = {name: jnp.zeros(shape, value.dtype)
               for name, value in arguments(loss).items() if value.ndim == 3}
    with pytest.raises(ValueError, match=r"log_probs.shape=.*\[B, G, T\], none of"):
        trace(loss, changed)


@pytest.mark.parametrize("loss", [losses.sa_gcpo_loss, losses.a2po_loss])
def test_one_rollout_has_no_deviation(loss):
    changed = {name: value[:, :1] if value.ndim > 1 else value
               for name, value in arguments(loss).items()}
    with pytest.raises(ValueError, match=r"shape=\(2, 1\) with ddof=1"):
        trace(loss, changed)


@pytest.mark.parametrize("loss, option, value", [
    (losses.grpo_loss, "clip_low", -0.1), (losses.grpo_loss, "clip_low", 1.5),
    (losses.grpo_loss, "clip_high", -0.1), (losses.grpo_loss, "dual_clip", 1.0),
    (losses.dr_grpo_loss, "max_length", 0), (losses.dapo_loss, "clip_high", -1.0),
    (losses.gspo_loss, "clip_low", -1.0), (losses.sapo_loss, "tau_pos", -1.0),
    (losses.sapo_loss, "tau_neg", 0.0), (losses.sa_gcpo_loss, "tau_neg", -1.0),
    (losses.sa_gcpo_loss, "eps", -1.0), (losses.a2po_loss, "eps", 0.0),
    (losses.cispo_loss, "cap", 0.0), (losses.ecpo_loss, "clip", 2.0),
    (losses.ecpo_loss, "delta", 0.0), (losses.rloo_loss, "clip_high", -1.0),
    (losses.reinforce_pp_loss, "clip_low", -1.0), (losses.kl_penalty, "kind", "k4"),
    (losses.sapo_loss, "tau_pos", float("nan")),
], ids=lambda part: getattr(part, "__name__", str(part)))
def test_options_out_of_range_are_named(loss, option, value):
    given = arguments(loss)
    with pytest.raises(ValueError, match=f"{option}={value!r}, expected"):
        jax.eval_shape(lambda *x: loss(*x, **(OPTIONS[loss] | {option: value})),
                       *given.values())


def test_options_may_be_traced():
    """A sweep over an option is one vmap: only plain numbers are checked."""
    given = list(arguments(losses.grpo_loss).values())
    clips = jnp.array([0.1, 0.2, 0.3])
    loss = lambda clip: losses.grpo_loss(*given, clip_high=clip).mean()
    swept = jax.vmap(loss)(clips)
    assert swept.shape == (3,)


@pytest.mark.parametrize("value, error, told", [
    ("0.2", TypeError, "clip_low='0.2', expected a number"),
    (None, TypeError, "clip_low=None, expected a number"),
    (jnp.float32(-1), ValueError, "clip_low=-1.0, expected in"),
    (jnp.array([0.1, 0.2]), ValueError, r"clip_low.shape=\(2,\), expected a scalar")])
def test_options_are_numbers(value, error, told):
    with pytest.raises(error, match=told):
        losses.grpo_loss(*arguments(losses.grpo_loss).values(), clip_low=value)
