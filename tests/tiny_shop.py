"""A shop of a few people and a network with random parameters as a work directory."""

import dataclasses
import pathlib

import jax
import numpy as np
from flax import linen as nn

from oxyrec_jax import quickstart, ready, workflow, workspace
from oxyrec_jax.data import pipeline
from oxyrec_jax.models.config import ModelConfig
from oxyrec_jax.models.instructions import InstructionConfig
from oxyrec_jax.train.parameters import write_params

NETWORK = ModelConfig(
    width=16, heads=2, head_width=8, mlp_width=16, encoder_layers=1, decoder_layers=1,
    sides=("behaviour", "scenario", "price", "gap", "hour", "weekday"),
    profile=("life", "hobbies"), instructions=InstructionConfig(
        placement="left", scenarios=6, trigger=True, reasoning=True, behaviours=3,
        hidden=8))


def make(folder: pathlib.Path, *, users=40, items=200, seed=0, model=NETWORK,
         data=None) -> workspace.Workspace:
    """A work directory with data, semantic IDs and a run that learnt nothing.

    Args:
      folder: where.
      users, items: of the shop.
      seed: of the parameters; the run is that of the experiment's first seed.
      model: the network.
      data: another such work directory whose data are linked instead of made.
    """
    cfg = quickstart.tiny()
    shop = dataclasses.replace(cfg.data.shop, users=users, items=items,
                               events_per_user=12, max_events=40)
    train = dataclasses.replace(cfg.train, pipeline=dataclasses.replace(
        cfg.train.pipeline, history=8, mode="last"))
    sources = dataclasses.replace(cfg.tokenizer.sources, sources=("text",))
    cfg = dataclasses.replace(
        cfg, data=dataclasses.replace(cfg.data, shop=shop), model=model, train=train,
        tokenizer=dataclasses.replace(cfg.tokenizer, sources=sources, widths=(16, 16)),
        text=dataclasses.replace(cfg.text, source="hashed"))
    space = workflow.open_workspace(folder, cfg)
    if data is None:
        workflow.prepare(space)
        workflow.tokenize(space)
    else:
        for name in ("data", "semantic_ids"):
            (folder / name).symlink_to(data.folder.resolve() / name)
        space.save()
    add_run(space, cfg.seeds[0], seed)
    return space


def add_run(space: workspace.Workspace, run: int, seed: int) -> None:
    """Adds a run with random parameters."""
    texts = "query" if space.cfg.model.instructions.reasoning else None
    opened = ready.load(space, instructions=texts)
    batch = pipeline.eval_batches(
        opened.dataset, "test", batch=2, history=space.cfg.train.pipeline.history,
        columns=opened.model.columns,
        long=opened.model.cfg.retrieval.events).take(np.arange(2))
    shapes = nn.meta.unbox(jax.eval_shape(lambda: opened.model.init(
        jax.random.key(0), batch, opened.catalogue.tables)["params"]))
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(
        np.float32), shapes)
    workspace.begin_run(space, run, opened.ids)
    write_params(space.run(run) / "best", params, 1)
