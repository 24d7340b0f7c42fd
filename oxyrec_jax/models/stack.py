"""A stack of like layers, run one after the other or as one loop.

Unrolled, a program holds every layer, and its compile time grows with depth. As a loop
it holds one, whatever the depth. The parameters are the same either way, each layer's
under its own name: the loop stacks them inside the step, so that checkpoints, sharding
rules, weight decay and inference know nothing of it. The price is a copy of the
layers' parameters in each step.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from oxyrec_jax import parallel
from oxyrec_jax.base import Array
from oxyrec_jax.models import moe


def run_layers(owner: nn.Module, stack: Sequence[nn.Module],
               call: Callable[[Any, Array], Array], x: Array, *, scan: bool) -> Array:
    """Runs layers one after the other.

    Args:
      owner: the module that the layers belong to; it hands out dropout's keys.
      stack: layers of one class, with parameters of the same shapes.
      call: a layer and its input `[B, ...]` to its output, of the same shape and dtype.
      x: the first one's input.
      scan: as one loop; the layers then draw dropout of the same rate from other keys
        than one by one. A network that is being initialised is never looped.

    Returns:
      The last one's output.
    """
    if not scan or len(stack) < 2 or owner.is_initializing():
        for layer in stack:
            x = parallel.lay_rows(call(layer, x))
        return x
    params = jax.tree.map(_stacked, *(layer.variables["params"] for layer in stack))
    keys = (jax.random.split(owner.make_rng("dropout"), len(stack))
            if owner.has_rng("dropout") else None)
    run = nn.apply(call, stack[0].clone(parent=None, name=None),
                   mutable=[moe.COLLECTION])

    def turn(x: Array, own: tuple[Any, Array | None]) -> tuple[Array, Any]:
        params, key = own
        x, told = run({"params": params}, x,
                      rngs=None if key is None else {"dropout": key})
        return parallel.lay_rows(x), told
    x, told = jax.lax.scan(turn, x, (params, keys))
    if jax.tree.leaves(told):
        for number in range(len(stack)):
            owner.sow(moe.COLLECTION, "totals",
                      jax.tree.map(lambda leaf, number=number: leaf[number], told))
    return x


def _stacked(*leaves: Array) -> Array:
    """Parameters of all layers as one array; its gradient comes apart by a barrier, as
    XLA would take long to join the parts with the optimiser's programs."""
    return jnp.stack([jax.lax.optimization_barrier(leaf) for leaf in leaves])
