"""Item vectors trained by the rows that a step reads, on a table cut over the mesh.

A step knows beforehand which items it reads: those of histories and targets, triggers,
and the drawn negatives. It looks up each once, hands these rows to the network as its
whole table of item vectors, differentiates them, and moves them in place. No array as
large as the table is made: neither a gradient nor moments of rows that stand still.

The rows of a step are whole on every device, as its other parameters are, and their
gradients are summed over devices like those. The table itself and its state are cut by
rows over the mesh axis `table`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from oxyrec_jax import parallel
from oxyrec_jax.base import Array, InputError
from oxyrec_jax.models.config import ModelConfig
from oxyrec_jax.models.tables import ItemTables
from oxyrec_jax.parallel import held as held_rows
from oxyrec_jax.parallel import lookup
from oxyrec_jax.train.rows import RowAdagrad, RowAdam, RowRule, state_shardings

TABLE = "item_vectors"


@dataclasses.dataclass(frozen=True)
class RowsConfig:
    """How item vectors move where only the rows that a step reads do.

    Attributes:
      rule: "adagrad" (one number of state for each row), "adam" (lazy), "adam_by_row"
        (lazy, one mean square for each row), or "": densely, as every other parameter.
      learning_rate: peak, of the same schedule; 0.05 is ours. Weight decay and the
        running average leave these rows out.
    """

    rule: str = ""
    learning_rate: float = 0.05

    def __post_init__(self) -> None:
        if self.rule not in ("", "adagrad", "adam", "adam_by_row"):
            raise InputError(f"optimizer.rows.rule is {self.rule!r}, expected '', "
                             "'adagrad', 'adam' or 'adam_by_row'")


def row_rule(cfg: RowsConfig, *, b1: float, b2: float) -> RowRule:
    """The rule of a configuration; `b1` and `b2` are Adam's."""
    if cfg.rule == "adagrad":
        return RowAdagrad()
    return RowAdam(b1, b2, by_row=cfg.rule == "adam_by_row")


@dataclasses.dataclass(frozen=True)
class SparseOptimizer:
    """Two optimisers: of the item vectors by rows, and of everything else.

    Attributes:
      rest: of everything else, without clipping.
      rule: of the rows read.
      rate: the rows' learning rate after so many steps.
      clip_norm: norm of all gradients together above which they shrink; 0 never.
    """

    rest: optax.GradientTransformation
    rule: RowRule
    rate: Callable[[Array], Any]
    clip_norm: float

    def init(self, params: Any) -> dict[str, Any]:
        """The state, "rest" and "rows"."""
        if TABLE not in params:
            raise InputError("optimizer.rows.rule trains item vectors, and the network "
                             "has none; set model.item_embedding=true")
        return {"rest": self.rest.init(without_table(params)),
                "rows": self.rule.init(params[TABLE])}

    def shardings(self, params: Any, cuts: Any, mesh: Mesh) -> tuple[Any, Any]:
        """Where parameters and the state lie.

        Args:
          params: shapes of the parameters.
          cuts: their shardings by the rules, which hold for all but the table.
          mesh: the devices.

        Raises:
          InputError: the mesh does not divide the rows of the table.
        """
        layout, table = lookup.Layout(mesh), params[TABLE]
        if table.shape[0] % layout.shards:
            raise InputError(f"the table of {table.shape[0]} items cannot be cut into "
                             f"{layout.shards} equal parts; choose another size of the "
                             "mesh axis table")
        rest = moment_shardings(self.rest, without_table(params), without_table(cuts),
                                mesh)
        rows = state_shardings(self.rule, table, layout)
        return ({**cuts, TABLE: layout.table_sharding}, {"rest": rest, "rows": rows})

    def hold(self, params: Any, tables: ItemTables, items: Array, mesh: Mesh
             ) -> tuple[Any, ItemTables]:
        """The parameters of a network that knows the items of a step alone.

        Args:
          params: all parameters.
          tables: what is known of the items.
          items: `[M]` int32, every item that the step reads.
          mesh: the devices.

        Returns:
          Parameters with M item vectors, and tables that tell whose they are.
        """
        items = jax.lax.with_sharding_constraint(items, parallel.replicated(mesh))
        once, _ = lookup.distinct(items, params[TABLE].shape[0])
        rows = held_rows.hold_rows(params[TABLE], once, lookup.Layout(mesh))
        return {**params, TABLE: rows}, dataclasses.replace(tables, held=once)

    def apply(self, gradient: Any, state: Any, params: Any, held: Any, step: Array,
              mesh: Mesh) -> tuple[Any, Any]:
        """New parameters and state.

        Args:
          gradient: as of the parameters that `hold` gave.
          state: from `init`.
          params: all parameters.
          held: `tables.held`.
          step: steps done before this one.
          mesh: the devices.
        """
        if self.clip_norm:
            gradient, _ = optax.clip_by_global_norm(self.clip_norm).update(
                gradient, optax.EmptyState())
        rest = without_table(params)
        updates, moments = self.rest.update(without_table(gradient), state["rest"],
                                            rest)

        def change(rows: Array, own: Any, slopes: Array) -> tuple[Array, Any]:
            return self.rule.change(rows, own, slopes, step=step,
                                    rate=jnp.float32(self.rate(step)))

        table, rows = held_rows.update_held(
            params[TABLE], state["rows"], held, gradient[TABLE], lookup.Layout(mesh),
            change)
        return ({**optax.apply_updates(rest, updates), TABLE: table},
                {"rest": moments, "rows": rows})


def without_table(params: Any) -> dict[str, Any]:
    """A tree of the parameters, all but the item vectors."""
    return {name: leaf for name, leaf in params.items() if name != TABLE}


def moment_shardings(rule: optax.GradientTransformation, params: Any, cuts: Any,
                     mesh: Mesh) -> Any:
    """Where an optimiser's state lies: with its parameters, whole where it is smaller.
    """
    whole = parallel.replicated(mesh)
    return optax.tree.map_params(
        rule,  # adafactor's factors are smaller than their parameters
        lambda leaf, param, cut: cut if leaf.shape == param.shape else whole,
        jax.eval_shape(rule.init, params), params, cuts,
        transform_non_params=lambda _: whole)


def items_of_batch(cfg: ModelConfig, batch: dict[str, Array]) -> Array:
    """`[M]` int32: every item whose vector a network reads of a batch.

    Raises:
      InputError: the network chooses what it reads while it runs.
    """
    if cfg.retrieval.events:
        raise InputError("optimizer.rows.rule needs to know the items of a step before "
                         "it, and model.retrieval chooses them; set "
                         "optimizer.rows.rule=''")
    parts = [batch[name].reshape(-1) for name in ("items", "targets")]
    if cfg.instructions.trigger:
        parts.append(jnp.maximum(batch["target_trigger"], 0).reshape(-1))
    return jnp.concatenate(parts)
