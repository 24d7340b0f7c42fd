"""Codes scored a few targets at a time cost what all of them at once cost."""

import re

import jax
import numpy as np
import pytest

import tiny_world
from oxyrec_jax.base import InputError
from oxyrec_jax.train.objective import ObjectiveConfig, supervised_loss


WIDTHS = (11, 13, 19)  # no other axis is as long


def made(**options):
    model = tiny_world.make_model(widths=WIDTHS, dropout=0.0, **options)
    catalogue, _ = tiny_world.make_items(widths=WIDTHS)
    batch = tiny_world.make_batch()
    batch["target_mask"][0, 1] = False
    batch["target_weight"] = np.linspace(0.5, 2, batch["targets"].size, dtype=np.float32
                                         ).reshape(batch["targets"].shape)

    def loss(params, chunk):
        total, terms = supervised_loss(
            model, params, batch, catalogue, jax.random.key(3),
            ObjectiveConfig(chunk=chunk, z_loss=0.01, item_loss=0.5))
        return total.total, (total, terms)
    return loss, tiny_world.make_params(model, catalogue.tables), batch


@pytest.mark.parametrize("options", [{"head": "shared"}, {"decoding": "masked"}])
@pytest.mark.parametrize("chunk", [1, 3])
def test_chunks_give_the_terms_and_the_gradient_of_all_targets(options, chunk):
    loss, params, batch = made(**options)
    assert batch["targets"].shape[1] % 3  # the last of the chunks is not full
    differ = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)
    expected, (total, terms) = differ(params, 0)
    found, (total_in_chunks, terms_in_chunks) = differ(params, chunk)
    assert terms_in_chunks.keys() == terms.keys()
    jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, rtol=2e-5),
                 (total_in_chunks, terms_in_chunks), (total, terms))
    jax.tree.map(lambda one, two: np.testing.assert_allclose(
        one, two, rtol=1e-4, atol=1e-5), found, expected)


def test_no_array_holds_the_scores_of_all_targets():
    loss, params, batch = made()
    rows, count = batch["targets"].shape

    def widths(chunk):
        text = str(jax.make_jaxpr(jax.grad(loss, has_aux=True), static_argnums=1)(
            params, chunk))
        return {int(width) for width in re.findall(rf"f32\[{rows},{count},(\d+)\]",
                                                   text)}
    assert set(WIDTHS) <= widths(0)
    assert not set(WIDTHS) & widths(1)


def test_a_mixture_is_refused():
    with pytest.raises(InputError, match="chunk is set, and the mixture of experts"):
        loss, params, _ = made(item_head=True)
        jax.eval_shape(lambda params: loss(params, 1), params)
    with pytest.raises(InputError, match="train.objective.chunk is -1"):
        ObjectiveConfig(chunk=-1)
