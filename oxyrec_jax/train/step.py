"""The training state and the jitted, donated, sharded step that advances it."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh

from oxyrec_jax import parallel
from oxyrec_jax.base import Array, InputError, Weighted
from oxyrec_jax.models.generator import Generator
from oxyrec_jax.tokenizer.catalogue import Catalogue
from oxyrec_jax.train.objective import (
    ObjectiveConfig,
    items_to_score,
    supervised_loss,
)
from oxyrec_jax.train.sparse import (
    RowsConfig,
    SparseOptimizer,
    items_of_batch,
    moment_shardings,
    row_rule,
    without_table,
)

Batch = dict[str, Array]
Optimizer: TypeAlias = optax.GradientTransformation | SparseOptimizer
Step = Callable[["TrainState", Batch, Catalogue], tuple["TrainState", dict[str, Array]]]
# What a step minimises, of (model, params, batch, catalogue, rng, objective): the sum
# over what is supervised with its weight, and its terms by name for the log.
Loss = Callable[[Any, Any, Batch, Catalogue, Array, ObjectiveConfig],
                tuple[Weighted, dict[str, Weighted]]]


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """How parameters move.

    Attributes:
      name: "adamw", "lion" or "adafactor".
      learning_rate: peak.
      schedule: "cosine" (to `final_fraction` of the peak) or "constant".
      warmup: steps from 0 to the peak.
      final_fraction: of the peak, where the cosine ends.
      weight_decay: decoupled, on matrices and tables only.
      b1: decay of the first moment.
      b2: decay of the second moment.
      clip_norm: global gradient norm above which gradients shrink; 0 never.
      accumulate: micro-batches into which a batch is cut, one after the other.
      ema: decay of the averaged parameters that are evaluated; 0 for none.
      rows: item vectors by the rows that a step reads, on a table cut over the mesh.
    """

    name: str = "adamw"
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    warmup: int = 200
    final_fraction: float = 0.05
    weight_decay: float = 0.05
    b1: float = 0.9
    b2: float = 0.98
    clip_norm: float = 1.0
    accumulate: int = 1
    ema: float = 0.0
    rows: RowsConfig = RowsConfig()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a step changes.

    Attributes:
      step: int32 scalar, steps done.
      params: the parameters, float32.
      optimizer: the optimiser's state.
      ema: averaged parameters, without those that are trained by rows, or an empty
        tuple.
    """

    step: Array
    params: Any
    optimizer: Any
    ema: Any

    def best_params(self) -> Any:
        """The parameters to evaluate and keep: averaged where there is an average."""
        if self.ema == ():
            return self.params
        if len(self.ema) == len(self.params):
            return self.ema
        return {**self.params, **self.ema}


def make_optimizer(cfg: OptimizerConfig, steps: int) -> Any:
    """Builds the optimiser.

    Args:
      cfg: the choice.
      steps: the length of the whole run, where the schedule ends.

    Returns:
      An `optax.GradientTransformation`; where item vectors move by rows, a
      `SparseOptimizer`.

    Raises:
      InputError: an unknown name or schedule.
    """
    rate = _schedule(cfg, cfg.learning_rate, steps)
    matrices = functools.partial(jax.tree.map, lambda leaf: leaf.ndim > 1)
    if cfg.name == "adamw":
        rule = optax.adamw(rate, cfg.b1, cfg.b2, weight_decay=cfg.weight_decay,
                           mask=matrices)
    elif cfg.name == "lion":
        rule = optax.lion(rate, cfg.b1, cfg.b2, weight_decay=cfg.weight_decay,
                          mask=matrices)
    elif cfg.name == "adafactor":
        rule = optax.adafactor(rate, weight_decay_rate=cfg.weight_decay or None,
                               weight_decay_mask=matrices)
    else:
        raise InputError(f"optimizer.name is {cfg.name!r}, expected 'adamw', 'lion' or "
                         "'adafactor'")
    if cfg.rows.rule:
        return SparseOptimizer(rule, row_rule(cfg.rows, b1=cfg.b1, b2=cfg.b2),
                               _schedule(cfg, cfg.rows.learning_rate, steps),
                               cfg.clip_norm)
    clip = [optax.clip_by_global_norm(cfg.clip_norm)] if cfg.clip_norm else []
    return optax.chain(*clip, rule)


def _schedule(cfg: OptimizerConfig, peak: float, steps: int) -> optax.Schedule:
    warmup = min(cfg.warmup, max(1, steps // 2))
    if cfg.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(
            0.0, peak, warmup, max(steps, warmup + 1), cfg.final_fraction * peak)
    if cfg.schedule == "constant":
        return (optax.linear_schedule(0.0, peak, warmup) if warmup > 0
                else optax.constant_schedule(peak))
    raise InputError(f"optimizer.schedule is {cfg.schedule!r}, expected 'cosine' or "
                     "'constant'")


def init_state(model: nn.Module, optimizer: Optimizer, batch: Batch,
               catalogue: Catalogue, mesh: Mesh, *, seed: int, ema: bool
               ) -> tuple[TrainState, Any]:
    """Makes the first state, each array born where it belongs on the mesh.

    Args:
      model: the network.
      optimizer: from `make_optimizer`.
      batch: any batch, for its shapes.
      catalogue: the items.
      mesh: the devices.
      seed: of the parameters.
      ema: keep averaged parameters.

    Returns:
      The state, and the same tree holding each array's sharding.
    """
    init, _, shardings = _plan(model, optimizer, batch, catalogue, mesh, seed, ema)
    return jax.jit(init, out_shardings=shardings)(), shardings


def planned_state(model: nn.Module, optimizer: Optimizer, batch: Batch,
                  catalogue: Catalogue, mesh: Mesh, *, ema: bool
                  ) -> tuple[TrainState, Any]:
    """The first state as shapes; nothing is computed and nothing allocated.

    Args:
      model, optimizer, batch, catalogue, mesh, ema: as of `init_state`; batch and
        catalogue may be shapes.

    Returns:
      The state's tree of `jax.ShapeDtypeStruct` with shardings, and the shardings.
    """
    _, abstract, shardings = _plan(model, optimizer, batch, catalogue, mesh, 0, ema)
    return jax.tree.map(
        lambda leaf, cut: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=cut),
        abstract, shardings), shardings


def _plan(model: nn.Module, optimizer: Optimizer, batch: Batch, catalogue: Catalogue,
          mesh: Mesh, seed: int, ema: bool
          ) -> tuple[Callable[[], TrainState], TrainState, Any]:
    """What makes the first state, its shapes, and where each array lies."""
    key, sparse = jax.random.key(seed), isinstance(optimizer, SparseOptimizer)
    averaged = without_table if sparse else lambda tree: tree

    def init_boxed(tables: Any) -> Any:
        example = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
                               dict(batch))
        return model.init(key, example, tables)["params"]

    def init() -> TrainState:
        return state_of(catalogue.tables)

    def state_of(tables: Any) -> TrainState:
        params = nn.meta.unbox(init_boxed(tables))
        return TrainState(jnp.int32(0), params, optimizer.init(params),
                          jax.tree.map(jnp.copy, averaged(params)) if ema else ())

    boxed = jax.eval_shape(init_boxed, catalogue.tables)
    layout = parallel.param_shardings(boxed, mesh)
    whole = parallel.replicated(mesh)
    abstract = jax.eval_shape(state_of, catalogue.tables)
    if isinstance(optimizer, SparseOptimizer):
        layout, moments = optimizer.shardings(abstract.params, layout, mesh)
    else:
        moments = moment_shardings(optimizer, abstract.params, layout, mesh)
    shardings: Any = TrainState(  # shardings in the arrays' places
        whole, layout, moments, averaged(layout) if ema else ())  # type: ignore
    return init, abstract, shardings


def make_train_step(model: nn.Module, optimizer: Optimizer, cfg: OptimizerConfig,
                    objective: ObjectiveConfig, mesh: Mesh, shardings: Any, *,
                    seed: int, loss: Loss = supervised_loss) -> Step:
    """Compiles nothing yet; the returned function compiles once, at its first call.

    Args:
      model: the network.
      optimizer: from `make_optimizer`.
      cfg: accumulation and averaging.
      objective: the terms of the loss.
      mesh: the devices.
      shardings: from `init_state`.
      seed: of the dropout; step and micro-batch are folded in.
      loss: what is minimised; the generator's likelihood by default.

    Returns:
      `(state, batch, catalogue) -> (state, figures)`. The state passed in is consumed.
      Figures are scalars: "loss" and its terms in nats per target, "targets",
      "positions" that hold an event, "gradient_norm".
    """
    if isinstance(model, Generator) and model.cfg.moe.experts:
        model = model.clone(mesh=mesh)
    if isinstance(optimizer, SparseOptimizer) and not isinstance(model, Generator):
        raise InputError("train.optimizer.rows.rule trains the item vectors of a "
                         "generator; leave it out of this experiment")

    def loss_of(params: Any, batch: Batch, catalogue: Catalogue, rng: Array
                ) -> tuple[Array, tuple[Weighted, dict[str, Weighted]]]:
        held = catalogue.tables.held
        network = model if held is None else model.clone(items=len(held))
        total, terms = loss(network, params, batch, catalogue, rng, objective)
        return total.total, (total, terms)

    differentiate = jax.grad(loss_of, has_aux=True)

    def step(state: TrainState, batch: Batch, catalogue: Catalogue
             ) -> tuple[TrainState, dict[str, Array]]:
        rng = jax.random.fold_in(jax.random.key(seed), state.step)
        params = state.params
        if isinstance(optimizer, SparseOptimizer):
            items = items_of_step(model, batch, catalogue, rng, cfg, objective)
            params, tables = optimizer.hold(params, catalogue.tables, items, mesh)
            catalogue = dataclasses.replace(catalogue, tables=tables)
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            gradient, (total, terms) = _accumulated(
                differentiate, params, batch, catalogue, rng, cfg.accumulate)
        gradient = jax.tree.map(lambda leaf: leaf / jnp.maximum(total.weight, 1),
                                gradient)
        if isinstance(optimizer, SparseOptimizer):
            params, moments = optimizer.apply(gradient, state.optimizer, state.params,
                                              tables.held, state.step, mesh)
        else:
            updates, moments = optimizer.update(gradient, state.optimizer, state.params)
            params = optax.apply_updates(state.params, updates)
        figures = {name: term.mean() for name, term in terms.items()}
        supervised = jnp.sum(batch["target_mask"], dtype=jnp.float32)
        figures |= {"loss": total.mean(), "targets": supervised,
                    "positions": jnp.sum(batch["segments"] > 0, dtype=jnp.float32),
                    "gradient_norm": optax.tree.norm(gradient)}
        new = TrainState(state.step + 1, params, moments,
                         _averaged(state, params, cfg.ema))
        return new, figures

    whole = parallel.replicated(mesh)
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, whole),
                   in_shardings=(shardings, parallel.batch_sharding(mesh), whole))


def items_of_step(model: Any, batch: Batch, catalogue: Catalogue, rng: Array,
                  cfg: OptimizerConfig, objective: ObjectiveConfig) -> Array:
    """`[M]` int32: every item that the loss of a step reads, in all micro-batches.

    Raises:
      InputError: it would be all items.
    """
    total = catalogue.tables.codes.shape[0]
    scores = objective.item_loss or model.cfg.item_head
    if scores and not 0 < objective.negatives < total:
        raise InputError(
            f"train.objective.negatives is {objective.negatives}, which reads all "
            f"{total} items in every step; draw fewer, or set optimizer.rows.rule=''")
    keys = [rng] if cfg.accumulate == 1 else [
        jax.random.fold_in(rng, part) for part in range(cfg.accumulate)]
    return jnp.concatenate([items_of_batch(model.cfg, batch), *(
        items_to_score(model, key, objective, total) for key in keys)])


def _accumulated(differentiate: Callable, params: Any, batch: Batch,
                 catalogue: Catalogue, rng: Array, parts: int) -> tuple[Any, Any]:
    """Gradient of the summed loss and its figures, over micro-batches one by one."""
    if parts == 1:
        return differentiate(params, batch, catalogue, rng)
    rows = next(iter(batch.values())).shape[0]
    if rows % parts:
        raise InputError(f"optimizer.accumulate is {parts}, which does not divide the "
                         f"batch of {rows} rows")
    # Strided, so that every part has rows of every device.
    cut = jax.tree.map(
        lambda leaf: leaf.reshape(rows // parts, parts, *leaf.shape[1:]).swapaxes(0, 1),
        batch)

    def add(carry: Any, part: tuple[Array, Batch]) -> tuple[Any, None]:
        number, rows_of_part = part
        one = differentiate(params, rows_of_part, catalogue,
                            jax.random.fold_in(rng, number))
        return jax.tree.map(jnp.add, carry, one), None

    first = jax.tree.map(lambda leaf: leaf[0], cut)
    shapes = jax.eval_shape(differentiate, params, first, catalogue, rng)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(add, zeros, (jnp.arange(parts), cut))[0]


def _averaged(state: TrainState, params: Any, decay: float) -> Any:
    """The running average; early on it forgets faster (decay min(d, (1+n)/(10+n)))."""
    if not decay:
        return ()
    steps = state.step.astype(jnp.float32)
    now = jnp.minimum(decay, (1 + steps) / (10 + steps))
    kept = {name: params[name] for name in state.ema}
    return jax.tree.map(lambda old, new: old * now + new * (1 - now), state.ema, kept)
