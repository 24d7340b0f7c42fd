"""A shop of a few items and a network of a few numbers, for tests that need both."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from oxyrec_jax import parallel
from oxyrec_jax.data import dataset, schema
from oxyrec_jax.models.generator import Generator, ItemTables, ModelConfig
from oxyrec_jax.models.memory import count_successors
from oxyrec_jax.tokenizer.catalogue import make_catalogue
from oxyrec_jax.train import step as step_lib
from oxyrec_jax.train.objective import ObjectiveConfig

SMALL = ModelConfig(width=16, heads=2, head_width=8, mlp_width=24, encoder_layers=1,
                    decoder_layers=1, buckets=8, max_distance=20, dropout=0.0)
WIDTHS = (4, 3, 5)


def make_dataset(folder, *, sequences=24, items=30, shortest=4, longest=9, seed=0):
    """Random histories, leave-one-out."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(shortest, longest + 1, sequences)

    def fill(out):
        out.add_items(schema.item_table({"item_id": [f"i{n}" for n in range(items)]}))
        out.add_sequences({"item": rng.integers(0, items, lengths.sum())}, lengths,
                          [f"u{n}" for n in range(sequences)])
        for split, first, last in (("train", lengths * 0 + 1, lengths - 2),
                                   ("valid", lengths - 2, lengths - 1),
                                   ("test", lengths - 1, lengths)):
            out.add_targets(split, np.stack([np.arange(sequences), first, last], 1))
    dataset.write_dataset(folder, fill, facts={})
    return dataset.load_dataset(folder)


def make_codes(items=30, widths=WIDTHS, seed=0, *, distinct=True):
    """`[N, T]` random semantic IDs."""
    rng = np.random.default_rng(seed)
    if not distinct:
        return np.stack([rng.integers(0, width, items) for width in widths], 1)
    chosen = rng.choice(np.prod(widths), items, replace=False)
    return np.stack(np.unravel_index(chosen, widths), 1).astype(np.int32)


def make_items(items=30, widths=WIDTHS, *, features=0, successors=None, seed=0,
               distinct=True):
    """A catalogue and its leaves."""
    catalogue, leaves = _items(items, widths, features, seed, distinct)
    tables = dataclasses.replace(catalogue.tables, successors=successors)
    return dataclasses.replace(catalogue, tables=tables), leaves


@functools.cache
def _items(items, widths, features, seed, distinct):
    rng = np.random.default_rng(seed)
    return make_catalogue(
        make_codes(items, widths, seed, distinct=distinct), widths,
        popularity=rng.integers(0, 9, items),
        features=rng.normal(size=(items, features)) if features else None)


def successors_of(data, *, most=8):
    """The transition table of a data set's training split."""
    return count_successors(data.column("item"), data.offsets(), data.split("train"),
                            num_items=data.num_items, most=most)


def make_model(items=30, widths=WIDTHS, **options):
    """The small network with some options changed."""
    return Generator(dataclasses.replace(SMALL, **options), widths, items)


def make_batch(rows=2, length=10, items=30, seed=0, segments=None):
    """A packed batch of NumPy arrays; random segments unless they are given."""
    rng = np.random.default_rng(seed)
    if segments is None:
        segments = np.zeros((rows, length), np.int32)
        for row in range(rows):
            cut = rng.integers(2, length - 3)
            end = rng.integers(cut + 1, length)
            segments[row, :cut], segments[row, cut:end] = 1, 2
    segments = np.asarray(segments, np.int32)
    rows, length = segments.shape
    return {
        "items": np.where(segments > 0, rng.integers(0, items, (rows, length)), 0
                          ).astype(np.int32),
        "segments": segments,
        "targets": rng.integers(0, items, (rows, length)).astype(np.int32),
        "target_mask": segments > 0,
        "target_positions": np.broadcast_to(np.arange(length, dtype=np.int32),
                                            (rows, length)).copy()}


def make_params(model, tables, *, seed=0, scale=1.0):
    """Parameters of which none is zero, unboxed."""
    batch = {**make_batch(1, 6, items=len(tables.codes)),
             **{name: np.ones((1, 6), np.float32) for name in model.cfg.opens}}
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), batch, tables)["params"])
    rng = np.random.default_rng(seed)
    boxed = jax.tree.leaves_with_path(shapes)
    made = [rng.normal(0, scale * leaf.shape[0] ** -0.5 if leaf.ndim > 1 else 0.3,
                       leaf.shape).astype(np.float32)
            + any(name in jax.tree_util.keystr(path) for name in ("scale", "sharp"))
            for path, leaf in boxed]
    tree = nn.meta.unbox(jax.tree.unflatten(jax.tree.structure(shapes), made))
    return jax.tree.map(jnp.asarray, tree)


@functools.partial(jax.jit, static_argnums=0, static_argnames="method")
def forward(model, params, *args, method=None):
    """What a network, or a method of it, answers: one program for each model."""
    return model.apply({"params": params}, *args, method=method)


def init_params(model, *args, seed=0):
    """The parameters as a network draws them, unboxed."""
    return nn.meta.unbox(jax.jit(model.init)(jax.random.key(seed), *args)["params"])


def make_step(model, cfg, mesh, batch, *, items=30, objective=ObjectiveConfig()):
    """The jitted step on a mesh, its first state, the batch and the items there."""
    catalogue = jax.device_put(make_items(items)[0], parallel.replicated(mesh))
    optimizer = step_lib.make_optimizer(cfg, 20)
    batch = parallel.global_batch(batch, mesh)
    state, shardings = step_lib.init_state(model, optimizer, batch, catalogue, mesh,
                                           seed=0, ema=bool(cfg.ema))
    step = step_lib.make_train_step(model, optimizer, cfg, objective, mesh, shardings,
                                    seed=0)
    return step, state, batch, catalogue


def one_device():
    """A mesh of the first device alone."""
    return parallel.make_mesh(devices=jax.devices()[:1])


__all__ = ["SMALL", "WIDTHS", "ItemTables", "forward", "init_params", "make_batch",
           "make_codes", "make_dataset", "make_items", "make_model", "make_params",
           "make_step", "one_device", "successors_of"]
