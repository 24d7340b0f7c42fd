"""A mixture of feed-forward layers: each position passes through a few of many.

A router gives each position the probability of every expert; the `top_k` likeliest see
it and their outputs are summed with these weights. Two ways to bring positions to
experts:

    dropless   positions are sorted by expert and multiplied group by group
               (`jax.lax.ragged_dot`): nobody is left out, and what a position gets does
               not depend on the others. Inference always takes this way.
    capacity   in training, where `capacity_factor` is set: an expert takes so many
               positions of each row of the batch; those that come too late keep their
               residual alone. Shapes and loads are fixed, and as rows are never split,
               the result is the same on any mesh.

Experts are cut over the mesh axis `expert`, over which the batch is cut too: dropless
gathers positions and reduce-scatters sums, capacity sends what an expert takes by
all-to-all. Router, losses and statistics see all positions of all devices.

Source: router of Shazeer et al. 2017, https://arxiv.org/abs/1701.06538; capacity and
balance loss of GShard and Switch, Fedus et al. 2022, https://arxiv.org/abs/2101.03961,
eq. 3 to 6; z loss of Zoph et al. 2022, https://arxiv.org/abs/2202.08906, eq. 5; experts
in the decoder alone as in OxygenREC, arXiv 2512.22386; capacity by row is ours.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh, PartitionSpec

from oxyrec_jax.base import Array, InputError, Weighted
from oxyrec_jax.models import layers
from oxyrec_jax.parallel import BATCH_AXES

COLLECTION = "router"  # where a layer leaves its `RouterTotals`


@dataclasses.dataclass(frozen=True)
class MoEConfig:
    """The experts of the decoder's feed-forward layers.

    Attributes:
      experts: E, of each layer; 0 keeps one dense feed-forward layer.
      top_k: experts that each position passes through. Their weights sum to 1 where
        they are several; the weight of a single one is its probability.
      mlp_width: inner width of one expert; 0 takes `model.mlp_width`.
      shared: experts that every position passes through besides, without weights.
      capacity_factor: in training an expert takes this times its even share of a row's
        positions; 0 is dropless.
      balance_loss: weight of the loss that evens out loads; 0.01 is Switch's.
      z_loss: weight of the router's squared log-normaliser; 0.001 is ST-MoE's.
    """

    experts: int = 0
    top_k: int = 2
    mlp_width: int = 0
    shared: int = 0
    capacity_factor: float = 0.0
    balance_loss: float = 0.01
    z_loss: float = 0.001

    def __post_init__(self) -> None:
        most = max(self.experts, 1)
        for name, good, expected in (
                ("experts", self.experts >= 0, "at least 0"),
                ("top_k", not self.experts or 1 <= self.top_k <= most,
                 f"1 to {most}, the experts there are"),
                *((name, getattr(self, name) >= 0, "at least 0") for name in
                  ("mlp_width", "shared", "capacity_factor", "balance_loss",
                   "z_loss"))):
            if not good:
                raise InputError(f"model.moe.{name} is {getattr(self, name)!r}, "
                                 f"expected {expected}")

    def capacity(self, positions: int) -> int:
        """Positions of a row of so many that one expert takes."""
        share = self.capacity_factor * self.top_k * positions / max(self.experts, 1)
        return max(1, math.ceil(share))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RouterTotals:
    """What a layer's router did, summed over real positions.

    Attributes:
      positions: float32 scalar, how many.
      load: `[E]` float32, positions that chose each expert; sums to top_k x positions.
      mass: `[E]` float32, probability given to each expert; sums to positions.
      square: float32 scalar, squared log-normalisers.
      entropy: float32 scalar, nats, of each position's probabilities.
      dropped: float32 scalar, choices that found their expert full.
    """

    positions: Array
    load: Array
    mass: Array
    square: Array
    entropy: Array
    dropped: Array


class MoE(nn.Module):
    """Routed SwiGLU layers; see the module's docstring.

    Attributes:
      cfg: the experts; at least one.
      hidden: inner width of one where the configuration gives none.
      mesh: devices over which experts are cut, or None where they are not.
    """

    cfg: MoEConfig
    hidden: int
    mesh: Mesh | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, real: Array | None = None) -> Array:
        """Maps `[B, ..., D]` to the same.

        Args:
          x: the positions.
          train: capacity holds, where it is set.
          real: bool, of the shape of `x` without D or broadcastable to it: padding
            takes no place and does not count; None: all are real.
        """
        cfg, width = self.cfg, x.shape[-1]
        hidden = cfg.mlp_width or self.hidden
        init = nn.initializers.variance_scaling(1.0, "fan_in", "normal", batch_axis=0)
        shapes = {"gate": ((width, hidden), ("embed", "mlp")),
                  "up": ((width, hidden), ("embed", "mlp")),
                  "down": ((hidden, width), ("mlp", "embed"))}
        kernels = [self.param(name, layers.axes(init, "experts", *names),
                              (cfg.experts, *shape), jnp.float32).astype(x.dtype)
                   for name, (shape, names) in shapes.items()]
        flat = x.reshape(x.shape[0], -1, width)
        counts = (jnp.ones(flat.shape[:2], bool) if real is None else
                  jnp.broadcast_to(real, x.shape[:-1]).reshape(flat.shape[:2]))
        router = layers.Linear(cfg.experts, ("embed", "one"), name="router")
        logits = router(flat.astype(jnp.float32))
        weights, chosen = choose(logits, cfg.top_k)
        capacity = cfg.capacity(flat.shape[1]) if train and cfg.capacity_factor else 0
        given = (flat, weights, chosen, counts, kernels)
        mixed = (_run(capacity, *given) if self.mesh is None else
                 _run_on_mesh(self.mesh, capacity, *given))
        self.sow(COLLECTION, "totals", _totals(logits, chosen, counts, capacity))
        if cfg.shared:
            mixed = mixed + layers.SwiGLU(cfg.shared * hidden, name="shared")(flat)
        return mixed.reshape(x.shape)


def choose(logits: Array, top_k: int) -> tuple[Array, Array]:
    """The experts of each position and their weights.

    Args:
      logits: `[..., E]` float32.
      top_k: how many; of equal logits the first.

    Returns:
      weights `[..., k]` float32, likeliest first, and experts `[..., k]` int32.
    """
    found, chosen = jax.lax.top_k(jax.nn.softmax(logits, axis=-1), top_k)
    if top_k > 1:
        found = found / jnp.sum(found, axis=-1, keepdims=True)
    return found, chosen


def router_terms(sown: Any) -> dict[str, Weighted]:
    """The router's losses and statistics, averaged over layers.

    Args:
      sown: the variables that applying a network gave with `mutable=[COLLECTION]`.

    Returns:
      By name, with real positions as weight: "router_balance", E times the sum over
      experts of (share of choices) x (mean probability), 1 where even and up to E;
      "router_z", squared nats; "router_entropy", nats; "router_dropped", the share of
      choices without a place; "router_busiest", the busiest expert's load in even
      shares.
    """
    found = jax.tree.leaves(sown[COLLECTION],
                            is_leaf=lambda leaf: isinstance(leaf, RouterTotals))
    rows: list[dict[str, Array]] = []
    for one in found:
        many = jnp.maximum(one.positions, 1)
        load = one.load / jnp.maximum(jnp.sum(one.load), 1)
        rows.append({"balance": len(load) * jnp.sum(load * one.mass / many),
                     "z": one.square / many, "entropy": one.entropy / many,
                     "dropped": one.dropped / jnp.maximum(jnp.sum(one.load), 1),
                     "busiest": len(load) * jnp.max(load)})
    positions = found[0].positions
    return {f"router_{name}": Weighted(
        jnp.mean(jnp.stack([row[name] for row in rows])) * positions, positions)
        for name in rows[0]}


def router_loss(cfg: MoEConfig, terms: dict[str, Weighted]) -> Array:
    """Scalar: balance and z loss with their weights, for one position."""
    return (cfg.balance_loss * terms["router_balance"].mean()
            + cfg.z_loss * terms["router_z"].mean())


def dropless(x: Array, weights: Array, chosen: Array, kernels: list[Array], *,
             first: Array | int = 0) -> Array:
    """Sends every position through the experts that are here.

    Args:
      x: `[M, D]`.
      weights: `[M, k]` float32.
      chosen: `[M, k]` int32, numbers of experts.
      kernels: gate and up `[E', D, F]`, down `[E', F, D]`.
      first: number of the first expert here.

    Returns:
      `[M, D]` in the dtype of `x`: sums over the chosen experts among the E' here.
    """
    here, top_k = len(kernels[0]), chosen.shape[1]
    own = (chosen - first).reshape(-1)
    own = jnp.where((own >= 0) & (own < here), own, here)
    order = jnp.argsort(own, stable=True)
    sizes = jnp.bincount(own, length=here + 1)[:here].astype(jnp.int32)
    gate, up, down = (functools.partial(jax.lax.ragged_dot, rhs=kernel,
                                        group_sizes=sizes) for kernel in kernels)
    sorted_x = x[order // top_k]
    out = down(jax.nn.silu(gate(sorted_x)) * up(sorted_x))
    # What lies behind the last group belongs to experts elsewhere.
    out = jnp.where((jnp.arange(len(order)) < jnp.sum(sizes))[:, None], out, 0)
    back = jnp.zeros_like(order).at[order].set(jnp.arange(len(order)),
                                               unique_indices=True)
    found = out[back].reshape(*chosen.shape, -1)
    return jnp.sum(weights.astype(x.dtype)[..., None] * found, axis=1)


def place_in_experts(chosen: Array, real: Array, experts: int, capacity: int) -> Array:
    """Which place of its expert each choice of a row gets.

    All first choices come before all second ones, positions in their order.

    Args:
      chosen: `[n, k]` int32.
      real: `[n]` bool; padding gets no place.
      experts: E.
      capacity: places of each expert.

    Returns:
      `[n, k]` int32, expert x capacity + place; E x capacity where there is none.
    """
    flat = chosen.T.reshape(-1)
    mine = (flat[:, None] == jnp.arange(experts)) & jnp.tile(real, chosen.shape[1]
                                                             )[:, None]
    before = jnp.cumsum(mine, axis=0, dtype=jnp.int32) - mine
    place = jnp.sum(jnp.where(mine, before, 0), axis=1)
    held = jnp.any(mine, axis=1) & (place < capacity)
    slot = jnp.where(held, flat * capacity + place, experts * capacity)
    return slot.reshape(chosen.shape[::-1]).T.astype(jnp.int32)


def _run(capacity: int, x: Array, weights: Array, chosen: Array, real: Array,
         kernels: list[Array]) -> Array:
    """`[B, n, D]` through experts that are all on this device."""
    if capacity:
        return _with_capacity(x, weights, chosen, real, len(kernels[0]), capacity,
                              lambda rows: _dense_experts(rows, kernels))
    flat = dropless(x.reshape(-1, x.shape[-1]), weights.reshape(-1, weights.shape[-1]),
                    chosen.reshape(-1, chosen.shape[-1]), kernels)
    return flat.reshape(x.shape)


def _run_on_mesh(mesh: Mesh, capacity: int, x: Array, weights: Array, chosen: Array,
                 real: Array, kernels: list[Array]) -> Array:
    """As `_run`, with experts cut over `expert` and their inner width over `tensor`."""
    def local(x: Array, weights: Array, chosen: Array, real: Array,
              kernels: list[Array]) -> Array:
        def travel(rows: Array) -> Array:
            """`[E, M, D]`, sent to the experts and back."""
            sent = jax.lax.all_to_all(rows, "expert", 0, 1, tiled=True)
            done = jax.lax.psum(_dense_experts(sent, kernels), "tensor")
            return jax.lax.all_to_all(done, "expert", 1, 0, tiled=True)

        if capacity:
            experts = len(kernels[0]) * mesh.shape["expert"]
            return _with_capacity(x, weights, chosen, real, experts, capacity, travel)
        rows, shares, experts_of = (
            jax.lax.all_gather(part.reshape(-1, part.shape[-1]), "expert", tiled=True)
            for part in (x, weights, chosen))
        first = jax.lax.axis_index("expert") * len(kernels[0])
        partial = dropless(rows, shares, experts_of, kernels, first=first)
        mine = jax.lax.psum_scatter(partial, "expert", tiled=True)
        return jax.lax.psum(mine, "tensor").reshape(x.shape)

    batch = PartitionSpec(BATCH_AXES)
    wide, narrow = (PartitionSpec("expert", None, "tensor"),
                    PartitionSpec("expert", "tensor"))
    return jax.shard_map(local, mesh=mesh, out_specs=batch, in_specs=(
        batch, batch, batch, batch, [wide, wide, narrow]))(
            x, weights, chosen, real, kernels)


def _dense_experts(rows: Array, kernels: list[Array]) -> Array:
    """`[E, M, D]` through one expert each."""
    gate, up, down = kernels
    inner = jax.nn.silu(jnp.matmul(rows, gate)) * jnp.matmul(rows, up)
    return jnp.matmul(inner, down)


def _with_capacity(x: Array, weights: Array, chosen: Array, real: Array, experts: int,
                   capacity: int, through: Callable[[Array], Array]) -> Array:
    """Positions with a place go through their experts, the others get zeros.

    Args:
      x: `[B, n, D]`.
      weights, chosen: `[B, n, k]`.
      real: `[B, n]` bool.
      experts: E.
      capacity: places of an expert for each row.
      through: maps `[E, B x capacity, D]`, what each expert takes, to what it says.
    """
    batch, length, width = x.shape
    places = experts * capacity
    slot = jax.vmap(functools.partial(place_in_experts, experts=experts,
                                      capacity=capacity))(chosen, real)

    def taken(row: Array, slot: Array) -> Array:
        numbers = jnp.broadcast_to(jnp.arange(length)[:, None], slot.shape)
        source = jnp.full(places, length, jnp.int32).at[slot].set(numbers, mode="drop")
        return row.at[source].get(mode="fill", fill_value=0)

    rows = jax.vmap(taken)(x, slot).reshape(batch, experts, capacity, width)
    rows = rows.swapaxes(0, 1).reshape(experts, batch * capacity, width)
    said = through(rows).reshape(experts, batch, capacity, width)
    said = said.swapaxes(0, 1).reshape(batch, places, width)
    found = jax.vmap(lambda row, slot: row.at[slot].get(mode="fill", fill_value=0))(
        said, slot)
    return jnp.sum(weights.astype(x.dtype)[..., None] * found, axis=2)


def _totals(logits: Array, chosen: Array, real: Array, capacity: int) -> RouterTotals:
    experts = logits.shape[-1]
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    probs = jnp.exp(log_probs)
    picked = (chosen[..., None] == jnp.arange(experts)) & real[..., None, None]
    taken = jnp.sum(picked, axis=(1, 2), dtype=jnp.float32)  # [B, E]
    dropped = jnp.maximum(taken - capacity, 0) if capacity else jnp.zeros_like(taken)
    square = jax.nn.logsumexp(logits, axis=-1)**2
    entropy = -jnp.sum(probs * log_probs, axis=-1)
    return RouterTotals(
        positions=jnp.sum(real, dtype=jnp.float32), load=jnp.sum(taken, axis=0),
        mass=jnp.sum(probs, axis=(0, 1), where=real[..., None]),
        square=jnp.sum(square, where=real), entropy=jnp.sum(entropy, where=real),
        dropped=jnp.sum(dropped))
