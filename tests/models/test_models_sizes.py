"""The five sizes have the parameters that the paper prints."""

import math

import pytest

from oxyrec_jax.models import sizes


def by_hand(layers, width, inner, experts, top_k):
    """Matrices alone: attention 4 D^2, cross-attention 4 D^2, an expert 3 D F."""
    expert = 3 * width * inner
    encoder = 4 * (4 * width**2 + expert)
    return (encoder + layers * (8 * width**2 + experts * (expert + width)),
            encoder + layers * (8 * width**2 + top_k * expert + experts * width))


@pytest.mark.parametrize("name, shape", [
    ("0.1B", (4, 1024, 512, 2, 1)), ("0.4B", (6, 2048, 1024, 4, 2)),
    ("0.7B", (8, 2048, 1024, 8, 2)), ("1.5B", (8, 2048, 1024, 24, 2)),
    ("3.0B", (16, 2048, 1024, 24, 2))])
def test_a_size_has_its_published_parameters(name, shape):
    size = sizes.SIZES[name]
    found = sizes.count_parameters(size.model)
    total, active = by_hand(*shape)
    # Norms and the buckets of relative positions come on top: less than 0.1 %.
    assert 0 < found.network - total < 1e-3 * total
    assert found.network - total == found.active - active
    assert found.tables == 3 * 8192 * size.model.width
    if name == "0.1B":
        assert size.total == round(found.network + found.tables, -8) == 1e8
        return
    assert math.floor(found.network / 1e8) == round(size.total / 1e8)
    if name != "3.0B":  # prints 0.6 active, its own table of layers makes 0.83
        assert math.floor(found.active / 1e8) == round(size.active / 1e8)


def test_a_dense_network_is_active_as_a_whole():
    cfg = sizes.ModelConfig(item_embedding=True)
    found = sizes.count_parameters(cfg, (16, 16), items=30)
    assert found.active == found.network and found.tables == (32 + 30) * cfg.width
