"""Item vectors from several sources, trained so that what belongs together is near.

Two kinds of pairs are pulled close against all others of the batch: two views of one
item, each seeing some of its sources, and two items that users take close together.
Whatever an item lacks is masked, so that a new item has a vector from its text alone.
"""

import dataclasses
import functools
import logging
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from oxyrec_jax import parallel, progress
from oxyrec_jax.base import Array, InputError
from oxyrec_jax.data.dataset import Dataset
from oxyrec_jax.tokenizer import contrast, embeddings, fusion, pairs
from oxyrec_jax.tokenizer import sources as sources_lib
from oxyrec_jax.tokenizer.contrast import ContrastiveConfig
from oxyrec_jax.tokenizer.sources import ItemSources, SourceConfig

KINDS = {"early-fusion": "early", "late-fusion": "late", "multi-source": "late"}
_TEMPERATURES = "log_temperatures"
_STEPS_AT_ONCE = 50  # one call of the compiled program, one line of the progress bar
_ROWS_AT_ONCE = 4096
_HELD_IN = 1024  # pairs of the retrieval figure
_log = logging.getLogger(__name__)

Params = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class ItemEncoder:
    """Vectors of a catalogue and what makes those of new items.

    Attributes:
      vectors: `[N, D]` float32.
      facts: JSON values for a manifest: the resolved `config`, `sources`, and, where a
        network was trained, `training`.
      params: name to array, float32, for `encode_items`; empty where none was trained.
    """

    vectors: np.ndarray
    facts: dict[str, Any]
    params: Params


def item_encoder(dataset: Dataset, cfg: SourceConfig,
                 embedding: embeddings.EmbeddingConfig, cache: str | os.PathLike, *,
                 mesh: Mesh | None = None) -> ItemEncoder:
    """Makes the vectors of a data set's items.

    Args:
      dataset: prepared, with a training split where behaviour is read.
      cfg: sources, generation, network, training.
      embedding: where text embeddings come from.
      cache: folder of computed text embeddings.
      mesh: devices that share each batch; None: the first device.

    Raises:
      InputError: the configuration, the data or a file cannot be used, or training
        leaves the finite numbers.
    """
    table = dataset.item_table()
    images = dataset.images()
    cfg = sources_lib.resolve(cfg, table, images)
    found = sources_lib.item_sources(table, cfg, embedding, cache, dataset=dataset,
                                     images=images)
    facts: dict[str, Any] = {"config": dataclasses.asdict(cfg),
                             "sources": found.facts()}
    params: Params = {}
    if cfg.generation in KINDS:
        near = pairs.behavioural(
            dataset.column("item"), dataset.offsets(), dataset.split("train"),
            num_items=dataset.num_items, cfg=cfg.training.pairs)
        params, facts["training"] = fit(found, near, cfg, mesh=mesh)
    return ItemEncoder(encode_items(params, found, cfg), facts, params)


def encode_items(params: Mapping[str, np.ndarray], sources: ItemSources,
                 cfg: SourceConfig) -> np.ndarray:
    """Makes vectors of items, those of the training or new ones.

    Args:
      params: what `fit` returned; unread where the generation trains nothing.
      sources: those of the training in the same order; a new item lacks what it lacks.
      cfg: the resolved configuration of the training.

    Returns:
      `[N, D]` float32: of length 1 from a network, 0 for an item without any source.

    Raises:
      InputError: the sources are not those that the network was trained on.
    """
    if cfg.sources is not None and sources.names != cfg.sources:
        raise InputError(f"the items have the sources {sources.names}, the encoder "
                         f"reads {cfg.sources}; gather these")
    if cfg.generation not in KINDS:
        return sources_lib.concatenate(sources, cfg.weights)
    network = fusion.make_fusion(KINDS[cfg.generation], sources.names, cfg.fusion)
    for name, vectors in sources.vectors.items():
        width = np.shape(params[f"straight_{name}/kernel"])[0]
        if vectors.shape[1] != width:
            raise InputError(f"the source {name!r} has vectors of {vectors.shape[1]} "
                             f"numbers, the encoder reads {width}; give those of the "
                             "model that it was trained on")
    weights = {name: value for name, value in params.items() if name != _TEMPERATURES}
    present, parts = sources.present, []
    rows = min(_ROWS_AT_ONCE, max(1, len(present)))
    with progress.bar("encoding items", len(present)) as advance:
        for start in range(0, len(present), rows):
            chunk = slice(start, start + rows)
            short = rows - len(present[chunk])
            padded = [np.pad(array[chunk], ((0, short), (0, 0)))
                      for array in (*sources.vectors.values(), present)]
            made = _encode(network, weights, tuple(padded[:-1]), padded[-1])
            parts.append(np.asarray(made)[: rows - short])
            advance(rows - short)
    return np.concatenate([*parts, np.zeros((0, cfg.fusion.dimension), np.float32)])


def fit(sources: ItemSources, near: pairs.Pairs, cfg: SourceConfig, *,
        mesh: Mesh | None = None) -> tuple[Params, dict[str, Any]]:
    """Trains the network of a generation.

    Args:
      sources: of N items.
      near: pairs of these items; unless the generation is "multi-source", they only
        measure.
      cfg: resolved; the generation is one that trains.
      mesh: devices; each takes its share of every batch, and the negatives are those of
        the whole batch. None: the first device.

    Returns:
      The parameters by name, and facts: `steps`, `pairs`, the mean `loss` of the first
      and last steps (nats), `temperature`, and `retrieval`: of up to 1024 training
      pairs, the share whose first item finds the second before all other second items
      that are not known to belong to it, before and after training.

    Raises:
      InputError: a source that no item has, nothing to learn from, a setting out of
        range, or a loss that is not finite, with the steps.
    """
    training = cfg.training
    mesh = parallel.make_mesh(devices=jax.devices()[:1]) if mesh is None else mesh
    _check(sources, near, cfg, mesh)
    network = fusion.make_fusion(KINDS[cfg.generation], sources.names, cfg.fusion)
    whole = parallel.replicated(mesh)
    tables = jax.device_put(
        (tuple(sources.vectors.values()), sources.present, near.partners), whole)
    params = jax.device_put(_init(network, sources, cfg), whole)
    state = (params, jax.device_put(_optimizer(training).init(params), whole))
    held = np.unique(pairs.draw(near, _HELD_IN, np.random.default_rng(cfg.seed)),
                     axis=0) if len(near.items) else np.zeros((0, 2), np.int32)
    before = _retrieval(network, params, tables, held)
    cut = NamedSharding(mesh, PartitionSpec(None, *parallel.batch_sharding(mesh).spec))
    rng, key = np.random.default_rng([cfg.seed, 1]), jax.random.key(cfg.seed)
    means: list[float] = []
    with progress.bar("training item vectors", training.steps) as advance:
        for start in range(0, training.steps, _STEPS_AT_ONCE):
            steps = min(_STEPS_AT_ONCE, training.steps - start)
            batch = jax.device_put(_draw(sources, near, cfg, steps, rng), cut)
            keys = jax.vmap(functools.partial(jax.random.fold_in, key))(
                jnp.arange(start, start + steps))
            state, costs = _advance(network, training, whole, state, tables, batch,
                                    keys)
            means.append(float(np.mean(costs)))
            if not np.isfinite(means[-1]):
                raise InputError(
                    f"the loss of the item vectors is not finite in steps {start + 1} "
                    f"to {start + steps}; lower training.learning_rate or raise "
                    "training.lowest, the smallest temperature")
            advance(steps, f"loss {means[-1]:.3f}")
    after = _retrieval(network, state[0], tables, held)
    warmth = np.exp(np.asarray(state[0][_TEMPERATURES], np.float64))
    facts = {
        "steps": training.steps, "pairs": len(near.items),
        "loss": {"first": means[0], "last": means[-1]},
        "temperature": {"views": float(warmth[0]), "behaviour": float(warmth[1])},
        "retrieval": {"pairs": len(held), "before": before, "after": after}}
    _log.info("item vectors: loss %.3f to %.3f, held-in pairs found %.3f to %.3f",
              means[0], means[-1], before or 0, after or 0)
    made = {**state[0]["network"], _TEMPERATURES: state[0][_TEMPERATURES]}
    return {name: np.asarray(value) for name, value in made.items()}, facts


def _check(sources: ItemSources, near: pairs.Pairs, cfg: SourceConfig, mesh: Mesh
           ) -> None:
    training = cfg.training
    for name, vectors in sources.vectors.items():
        if not vectors.any():
            raise InputError(f"no item has the source {name!r}; leave it out of "
                             "sources or give its vectors")
    if cfg.generation == "multi-source" and not len(near.items):
        raise InputError("the training split has no two items of one user close "
                         "together, which \"multi-source\" learns from; choose another "
                         "generation")
    if cfg.generation != "multi-source" and not (sources.present.sum(1) > 1).any():
        raise InputError(f"no item has two of the sources {sources.names}, which "
                         f"{cfg.generation} learns from; choose \"multi-source\"")
    devices = parallel.batch_parts(mesh)
    if training.batch < 2 or training.batch % devices:
        raise InputError(f"training.batch is {training.batch}, expected at least 2 and "
                         f"a multiple of the {devices} devices that share it")
    contrast.check(training)
    weights = training.modality_weight, training.behaviour_weight
    if min(weights) < 0 or not (weights[0] or cfg.generation == "multi-source" and
                                weights[1]):
        raise InputError(f"the weights of the pairs of views and of behaviour are "
                         f"{weights}; expected none below 0 and one that counts above")


def _init(network: fusion.Fusion, sources: ItemSources, cfg: SourceConfig
          ) -> dict[str, Any]:
    few = tuple(jnp.zeros((1, found.shape[1])) for found in sources.vectors.values())
    boxed = network.init(jax.random.key(cfg.seed), few,
                         jnp.ones((1, len(few)), bool))["params"]
    params = traverse_util.flatten_dict(nn.meta.unbox(boxed), sep="/")
    start = float(np.log(cfg.training.temperature))
    return {"network": params, _TEMPERATURES: jnp.full(2, start, jnp.float32)}


def _optimizer(cfg: ContrastiveConfig) -> optax.GradientTransformation:
    warmup = min(cfg.warmup, cfg.steps // 2)
    rate = optax.warmup_cosine_decay_schedule(
        0.0 if warmup else cfg.learning_rate, cfg.learning_rate, warmup,
        max(cfg.steps, warmup + 1))
    matrices = functools.partial(jax.tree.map, lambda leaf: leaf.ndim > 1)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(
        rate, weight_decay=cfg.weight_decay, mask=matrices))


def _draw(sources: ItemSources, near: pairs.Pairs, cfg: SourceConfig, steps: int,
          rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The items of some steps: `views` `[steps, B]`, `pairs` `[steps, B, 2]` int32."""
    items, batch = len(sources.present), cfg.training.batch
    count = steps * batch
    rounds = [rng.permutation(items) for _ in range(-(-count // items))]
    drawn: dict[str, np.ndarray] = {
        "views": np.concatenate(rounds)[:count].reshape(steps, batch)}
    if cfg.generation == "multi-source":
        drawn["pairs"] = pairs.draw(near, count, rng).reshape(steps, batch, 2)
    return {name: array.astype(np.int32) for name, array in drawn.items()}


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=3)
def _advance(network: fusion.Fusion, cfg: ContrastiveConfig, whole: NamedSharding,
             state: Any, tables: Any, batch: Any, keys: Array) -> Any:
    """Takes one step for each key; returns parameters and moments, and the costs."""
    low, high = np.log(cfg.lowest), np.log(cfg.highest)
    optimizer = _optimizer(cfg)

    def one(state: Any, inputs: Any) -> Any:
        params, moments = state
        rows, key = inputs
        cost, slope = jax.value_and_grad(contrast.objective)(
            params, network, tables, rows, key, cfg)
        updates, moments = optimizer.update(slope, moments, params)
        params = optax.apply_updates(params, updates)
        # Clipping the parameter, not its use, lets it come back from a bound.
        warmth = jnp.clip(params[_TEMPERATURES], low, high)
        return ({**params, _TEMPERATURES: warmth}, moments), cost

    made = jax.lax.scan(one, state, (batch, keys))
    return jax.lax.with_sharding_constraint(made, whole)


_encode = jax.jit(fusion.apply, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def _ranks_first(network: fusion.Fusion, params: Mapping[str, Any], tables: Any,
                 held: Array) -> Array:
    vectors, present, partners = tables
    first, second = held.T
    ours, theirs = [
        fusion.apply(network, params["network"],
                     tuple(table[items] for table in vectors), present[items])
        for items in (first, second)]
    scores = ours @ theirs.T
    rival = ~contrast.together(first, second, partners)
    best = jnp.max(scores, axis=1, where=rival, initial=-jnp.inf)
    return jnp.mean(jnp.sum(ours * theirs, axis=1) > best)


def _retrieval(network: fusion.Fusion, params: Mapping[str, Any], tables: Any,
               held: np.ndarray) -> float | None:
    """The share of pairs whose first item finds the second; None without pairs."""
    if not len(held):
        return None
    return float(_ranks_first(network, params, tables, jnp.asarray(held)))
