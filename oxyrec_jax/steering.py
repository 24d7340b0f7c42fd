"""What instructions do in a trained run: what they retrieve, and whether it follows."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from oxyrec_jax import artifacts
from oxyrec_jax.base import InputError
from oxyrec_jax.evaluate import following, retrieval
from oxyrec_jax.evaluate import rows as split_rows
from oxyrec_jax.evaluate.generator import recommend_split
from oxyrec_jax.ready import Ready, instruction_table_of, load, parameters
from oxyrec_jax.workspace import Workspace


def judge_retrieval(space: Workspace, ready: Ready, trained: Mapping[int, Any],
                    split: str, users: np.ndarray) -> dict[str, Any]:
    """What the trained runs retrieve beside the latest and random events.

    Args:
      space: the work directory.
      ready: with a network that retrieves.
      trained: seed to parameters.
      split: "test" or "valid".
      users: `[R]`, whose target each of the split is.

    Returns:
      JSON values, see `evaluate.retrieval.judge`.
    """
    cfg = space.cfg
    found = {f"seed{seed}": retrieval.retrieve_split(
        ready.model, params, ready.dataset, split, ready.catalogue.tables,
        history=cfg.train.pipeline.history, behaviour=cfg.instructions.behaviour,
        what=f"retrieving for {split}, seed {seed}")
        for seed, params in trained.items()}
    return retrieval.judge(found, users, keep=cfg.model.retrieval.keep,
                           samples=cfg.evaluate.samples, level=cfg.evaluate.level,
                           seed=cfg.evaluate.seed)


def follow(space: Workspace, split: str = "test", *, experts: bool = True
           ) -> dict[str, Any]:
    """Asks every trained run under right, noisy, swapped and no texts.

    Args:
      space: with trained runs on a simulated shop.
      split: "test" or "valid".
      experts: without it a model that mixes experts answers with its decoder alone.

    Returns:
      JSON values under "following", see `evaluate.following.follow`; also written to
      `following/<split>.json` in the work directory.

    Raises:
      InputError: the network reads no texts, the data set is no shop's, or the lists
        are shorter than 10.
    """
    cfg = space.cfg
    if not cfg.model.instructions.reasoning:
        raise InputError("the network of this experiment reads no texts, so there is "
                         "nothing to follow; train one with "
                         "model.instructions.reasoning=true")
    if cfg.beams < following.K:
        raise InputError(f"beams is {cfg.beams}, and following is judged on lists of "
                         f"{following.K}; set beams={following.K}")
    lists: dict[str, dict[str, np.ndarray]] = {}
    ready = load(space, instructions=following.KINDS[0])
    trained = {seed: parameters(space, ready, seed) for seed in cfg.seeds}
    for kind in following.KINDS:
        asked = ready.dataset.with_instructions(
            instruction_table_of(space, ready.dataset, kind))
        lists[kind] = {}
        for seed, params in trained.items():
            found, _ = recommend_split(
                ready.model, params, asked, split,
                ready.catalogue, ready.leaves, history=cfg.train.pipeline.history,
                beams=cfg.beams, experts=experts, behaviour=cfg.instructions.behaviour,
                what=f"recommending with texts {kind}, seed {seed}")
            lists[kind][f"seed{seed}"] = found.items
    events = split_rows.of_dataset(ready.dataset)
    targets = split_rows.expand(events, ready.dataset.split(split))
    judged = following.follow(
        lists, following.requests_of(ready.dataset, targets, cfg.instructions),
        targets.sequence, samples=cfg.evaluate.samples, level=cfg.evaluate.level,
        seed=cfg.evaluate.seed)
    results = {"split": split, "experts": experts, "level": cfg.evaluate.level,
               "following": judged}
    (space.folder / "following").mkdir(exist_ok=True)
    name = split if experts else f"{split}_decoder_only"
    artifacts.write_json(space.folder / "following" / f"{name}.json", results)
    return results
