"""What a training run is made of, put together in one place: batches, state and step.

The loop, the measurement of speed and the plan of a mesh all begin here, so that what
is timed and what is planned is what is trained.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

import grain
import jax
from flax import linen as nn
from jax.sharding import Mesh, Sharding

from oxyrec_jax import parallel
from oxyrec_jax.base import InputError
from oxyrec_jax.data.dataset import Dataset
from oxyrec_jax.data.pipeline import Batch, Pipeline, TrainSource, train_batches
from oxyrec_jax.data.row_plans import weights_of
from oxyrec_jax.models.generator import Generator
from oxyrec_jax.models.ranker import Ranker
from oxyrec_jax.tokenizer.catalogue import Catalogue
from oxyrec_jax.train import step as step_lib
from oxyrec_jax.train.objective import supervised_loss

if TYPE_CHECKING:
    from oxyrec_jax.train.loop import TrainConfig


@dataclasses.dataclass(frozen=True)
class Feed:
    """Where a run's batches come from.

    Attributes:
      pipeline: with the columns that the network and the loss read.
      source: this process's share of each batch, by step.
      batches: the same as a grain iterator, which begins at step 0.
    """

    pipeline: Pipeline
    source: TrainSource
    batches: grain.DatasetIterator

    @property
    def example(self) -> Batch:
        """A batch of the longest rows that there are."""
        return self.source[self.source.longest]


@dataclasses.dataclass(frozen=True)
class Setup:
    """A state and the step that advances it, on a mesh.

    Attributes:
      mesh: the devices.
      batch: an example of a batch, as the step takes it.
      catalogue: the items, on every device.
      state: the first state.
      shardings: the same tree holding each array's sharding.
      step: compiles when it is first called.
    """

    mesh: Mesh
    batch: step_lib.Batch
    catalogue: Catalogue
    state: step_lib.TrainState
    shardings: Any
    step: step_lib.Step

    def compile(self, batch: step_lib.Batch | None = None) -> Any:
        """The step compiled ahead of time for batches like one; none: the example."""
        lower = self.step.lower  # type: ignore[attr-defined]
        return lower(self.state, self.batch if batch is None else batch,
                     self.catalogue).compile()


def feed(model: Generator | Ranker, dataset: Dataset, cfg: Pipeline, *, seed: int
         ) -> Feed:
    """Opens the batches of a run, those of this process where there are several.

    Args:
      model: the network, which says what it reads.
      dataset: with training targets.
      cfg: what the batches look like.
      seed: of their order.

    Raises:
      InputError: the network needs another mode, or as of `TrainSource`.
    """
    cfg = with_columns(cfg, model, dataset)
    share: dict[str, Any] = {"seed": seed, "process_index": jax.process_index(),
                             "process_count": jax.process_count()}
    return Feed(cfg, TrainSource(dataset, cfg, **share),
                train_batches(dataset, cfg, **share))


def set_up(model: nn.Module, batch: dict[str, Any], catalogue: Catalogue,
           cfg: "TrainConfig", mesh: Mesh, *, seed: int,
           loss: step_lib.Loss = supervised_loss, planned: bool = False) -> Setup:
    """Puts network, optimiser, state and step together.

    Args:
      model: the network.
      batch: this process's share of an example, NumPy arrays.
      catalogue: its items.
      cfg: optimiser, objective and the length of the run.
      mesh: the devices.
      seed: of parameters and dropout.
      loss: what is minimised; the generator's likelihood by default.
      planned: the state is `jax.ShapeDtypeStruct` with shardings, to be restored or
        looked at: nothing is computed. Batch and catalogue may then be shapes too, and
        are laid out as such.

    Raises:
      InputError: an unknown optimiser, or the mesh does not fit the batch.
    """
    rows, parts = len_of(batch) * jax.process_count(), parallel.batch_parts(mesh)
    if rows % parts:
        raise InputError(f"train.pipeline.batch is {rows}, which the mesh cuts into "
                         f"{parts} parts; make it a multiple")
    optimizer = step_lib.make_optimizer(cfg.optimizer, cfg.steps)
    average = bool(cfg.optimizer.ema)
    if isinstance(next(iter(batch.values())), jax.ShapeDtypeStruct):
        batch = _laid(batch, parallel.batch_sharding(mesh))
        catalogue = _laid(catalogue, parallel.replicated(mesh))
    else:
        batch = parallel.global_batch(batch, mesh)
        catalogue = jax.device_put(catalogue, parallel.replicated(mesh))
    if planned:
        state, shardings = step_lib.planned_state(model, optimizer, batch, catalogue,
                                                  mesh, ema=average)
    else:
        state, shardings = step_lib.init_state(model, optimizer, batch, catalogue, mesh,
                                               seed=seed, ema=average)
    step = step_lib.make_train_step(model, optimizer, cfg.optimizer, cfg.objective,
                                    mesh, shardings, seed=seed, loss=loss)
    return Setup(mesh, batch, catalogue, state, shardings, step)


def with_columns(cfg: Pipeline, model: Generator | Ranker, dataset: Dataset
                 ) -> Pipeline:
    """The pipeline with the columns that the network and the loss read."""
    columns = [*cfg.columns, *model.columns]
    if cfg.mode != "requests" and not weights_of(dataset, cfg).even:
        columns.append("weight")
    if model.cfg.retrieval.events and cfg.mode != "last":
        raise InputError("model.retrieval.events is "
                         f"{model.cfg.retrieval.events}, which needs one target for "
                         "each row; set train.pipeline.mode=last")
    return dataclasses.replace(cfg, columns=tuple(dict.fromkeys(columns)),
                               long=model.cfg.retrieval.events)


def len_of(batch: dict[str, Any]) -> int:
    """Rows of a batch."""
    return int(next(iter(batch.values())).shape[0])


def _laid(tree: Any, sharding: Sharding) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=sharding), tree)
