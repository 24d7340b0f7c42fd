"""The five published sizes of the network, and where its parameters are.

An experiment takes one as `model=sizes.SIZES["0.4B"].model`. Parameters are counted
from shapes: nothing is allocated.

Source: OxygenREC, arXiv 2512.22386: layers, widths and experts as printed. What is not
printed is ours: heads of 128, softmax over two experts, no vector of each item, no
state added to BOS, and rotary positions where relative ones are printed, so that GPUs
take fused attention. So counted, the network without its table of codes has the printed
totals, cut to one digit, and the printed active shares but one: of 3.0B 0.83 billion
are active where 0.6 is printed. Of 0.1B the total is 0.07, with the table of 3 x 8192
codes 0.09.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from oxyrec_jax.models.config import ModelConfig
from oxyrec_jax.models.generator import Generator
from oxyrec_jax.models.moe import MoEConfig
from oxyrec_jax.models.tables import ItemTables

CODES = (8192, 8192, 8192)  # the published codebooks


@dataclasses.dataclass(frozen=True)
class Size:
    """A published network.

    Attributes:
      total: parameters as printed.
      active: parameters that a position passes through, as printed.
      model: the network.
    """

    total: float
    active: float
    model: ModelConfig


@dataclasses.dataclass(frozen=True)
class Count:
    """Parameters of a network.

    Attributes:
      network: of its layers, without tables.
      active: those of the layers that a position passes through.
      tables: vectors of codes and items.
    """

    network: int
    active: int
    tables: int


def count_parameters(cfg: ModelConfig, widths: tuple[int, ...] = CODES, items: int = 1
                     ) -> Count:
    """Counts the parameters of a generator that reads nothing but items.

    Args:
      cfg: the network.
      widths: codes on each level.
      items: rows of the table of item vectors, where there is one.
    """
    def init() -> Any:
        one = jnp.zeros((1, 1), jnp.int32)
        batch = {name: one for name in ("items", "segments", "targets",
                                        "target_positions")}
        tables = ItemTables(jnp.zeros((items, len(widths)), jnp.int32))
        return Generator(cfg, widths, items).init(jax.random.key(0), batch, tables)

    network = idle = tables = 0
    for path, leaf in jax.tree.leaves_with_path(jax.eval_shape(init)["params"]):
        size, name = math.prod(leaf.shape), jax.tree_util.keystr(path)
        if "_vectors" in name:
            tables += size
            continue
        network += size
        if len(leaf.shape) == 3:  # the experts of a layer are its only such arrays
            idle += size - size * cfg.moe.top_k // cfg.moe.experts
    return Count(network, network - idle, tables)


def _size(total: float, active: float, *, layers: int, width: int, inner: int,
          experts: int, top_k: int) -> Size:
    return Size(total, active, ModelConfig(
        width=width, heads=width // 128, head_width=128, mlp_width=inner,
        encoder_layers=4, decoder_layers=layers, causal=False, item_embedding=False,
        position_state=False, moe=MoEConfig(experts, top_k), dropout=0.0,
        dtype="bfloat16", positions="rotary"))


SIZES: dict[str, Size] = {
    "0.1B": _size(0.1e9, 0.1e9, layers=4, width=1024, inner=512, experts=2, top_k=1),
    "0.4B": _size(0.4e9, 0.3e9, layers=6, width=2048, inner=1024, experts=4, top_k=2),
    "0.7B": _size(0.7e9, 0.4e9, layers=8, width=2048, inner=1024, experts=8, top_k=2),
    "1.5B": _size(1.5e9, 0.4e9, layers=8, width=2048, inner=1024, experts=24, top_k=2),
    "3.0B": _size(3.0e9, 0.6e9, layers=16, width=2048, inner=1024, experts=24,
                  top_k=2),
}
