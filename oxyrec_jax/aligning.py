"""Aligns trained runs with a reward: puts together what `train.align_loop` works with.

An aligned model is a work directory like any other. It shares the data set and the
semantic IDs of the one that it starts from, and its runs hold the aligned parameters,
so that every verb that reads a trained run reads it too.
"""

import dataclasses
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from oxyrec_jax import artifacts, parallel, progress
from oxyrec_jax.base import InputError
from oxyrec_jax.config import Experiment
from oxyrec_jax.data.align_requests import AlignRequests
from oxyrec_jax.data.instruction_table import InstructionTable
from oxyrec_jax.data.pipeline import Batch
from oxyrec_jax.data.profiles import load_profiles
from oxyrec_jax.decode.recommend import recommend
from oxyrec_jax.decode.rollout import first_items
from oxyrec_jax.judge_requests import LogRequests
from oxyrec_jax.judging import load_judge, of_targets
from oxyrec_jax.models.scorer import Scorer
from oxyrec_jax.ranking import catalogue_digest, load_ranker
from oxyrec_jax.ready import (Ready, instruction_table_of, load,
                              starting_parameters, texts_of)
from oxyrec_jax.rewards import mapping as rewards_lib
from oxyrec_jax.rewards.judge.service import Judge
from oxyrec_jax.tokenizer.sid_table import dataset_digest
from oxyrec_jax.train import parameters
from oxyrec_jax.train.align_loop import Setting, align_run, check_folder, drawing
from oxyrec_jax.train.align_settings import AlignConfig
from oxyrec_jax.train.signals import (OF_RANKER, OF_VECTORS, SPEND, TRAJECTORY,
                                      SignalSources, check_names)
from oxyrec_jax.validation import validate
from oxyrec_jax.workspace import Workspace, begin_run, open_workspace, share

LIST = 10  # items of a list whose reward is told


def align(space: Workspace, seeds: Sequence[int] | None = None) -> dict[str, Any]:
    """Aligns one run for each seed; a finished one is not done again.

    Args:
      space: with data set, semantic IDs, and `train.start_from` of its experiment set.
      seeds: which; all of the experiment by default.

    Returns:
      For each run: the watched metric at the start, at its best and at the end, the
      step of the best, the steps done, and why it stopped early.

    Raises:
      InputError: no run to start from, a component of the reward without a source, or
        what `align_run` raises.
    """
    cfg = space.cfg
    if not cfg.train.start_from:
        raise InputError("an alignment begins with trained parameters; give "
                         "--start-from and the work directory of a trained run")
    ready, signals_of = _with_sources(space, load(space))
    judge = _with_judge(space, ready)
    mesh = parallel.make_mesh(cfg.mesh)
    found = {}
    seeds = cfg.seeds if seeds is None else seeds
    known = _settings(space, ready) | _digests(cfg.align, judge)
    for seed in seeds:
        begin_run(space, seed, ready.ids)
        check_folder(cfg.align, space.run(seed), seed=seed, settings=known, keep=False)
    space.save()
    for seed in seeds:
        begun = time.monotonic()
        start = starting_parameters(space, ready, seed)
        setting = _setting(space, ready, signals_of, judge, seed, start, mesh)
        outcome = align_run(setting, cfg.align, space.run(seed), seed=seed, start=start,
                            mesh=mesh, settings=_settings(space, ready))
        metric = cfg.align.metric
        found[f"seed{seed}"] = {
            metric: outcome.best, "best_step": outcome.best_step,
            "steps": outcome.steps, "start": outcome.start, "best": outcome.figures,
            "last": outcome.last, "stopped": outcome.reason,
            "seconds": round(time.monotonic() - begun, 1)}
    return {"metric": cfg.align.metric, "runs": found}


def _settings(space: Workspace, ready: Ready) -> dict[str, Any]:
    """JSON values by which a run of the work directory knows itself."""
    return {"train": dataclasses.asdict(space.cfg.train),
            "model": dataclasses.asdict(ready.model.cfg),
            "widths": list(ready.model.widths), **texts_of(space.cfg)}


def _setting(space: Workspace, ready: Ready, signals_of: SignalSources,
             judge: Judge | None, seed: int, start: Any, mesh: jax.sharding.Mesh
             ) -> Setting:
    cfg = space.cfg.align
    requests = _requests(space, ready, signals_of, "train", cfg.batch, cfg.logged, seed)
    preferred = first_items(ready.leaves)
    mapping = _mapping(space, ready, seed, start, requests, signals_of, mesh)
    lists = _lists(space, ready, signals_of, "valid")

    def held_out(params: Any) -> Mapping[str, float]:
        """Ranks of what was chosen in the validation split, and rewards."""
        return {**validate(space, ready, params),
                **rewards_of_lists(ready, signals_of, mapping, params, lists)}
    score = (None if judge is None else
             of_targets(judge, LogRequests(ready.dataset), "train"))
    return Setting(ready.model, ready.catalogue, preferred, requests, signals_of,
                   mapping, held_out, score, _digests(cfg, judge))


def _with_sources(space: Workspace, ready: Ready) -> tuple[Ready, SignalSources]:
    """What signals are computed from, and a data set whose batches hold it."""
    ready, ranker = _with_ranker(space, ready)
    return ready, _sources(space, ready, ranker)


def _with_ranker(space: Workspace, ready: Ready) -> tuple[Ready, Scorer | None]:
    """The ranking model, and a data set whose batches hold what it reads."""
    folder = space.cfg.align.ranker
    if not folder:
        return ready, None
    scorer = load_ranker(folder)
    if scorer.catalogue != catalogue_digest(ready.dataset):
        raise InputError(f"align.ranker: the ranking model in {folder} learnt another "
                         f"item table than {space.data} holds; train one on the same "
                         "data")
    asked = open_workspace(pathlib.Path(folder), None).cfg.model.profile
    own = space.cfg.model.profile
    if asked and own and asked != own:
        raise InputError(f"align.ranker: the ranking model in {folder} reads the "
                         f"profile {', '.join(asked)}, this network "
                         f"{', '.join(own)}; a batch holds one of them")
    if asked and not own:
        ready = dataclasses.replace(ready, dataset=dataclasses.replace(
            ready.dataset, profiles=load_profiles(ready.dataset, asked)))
    return ready, scorer


def _with_judge(space: Workspace, ready: Ready) -> Judge | None:
    folder = space.cfg.align.judge
    if not folder:
        return None
    if not space.cfg.align.two_streams:
        raise InputError(f"align.judge is set, and {space.cfg.align.policy.method} "
                         "takes no semantic rewards; use align.policy.method=a2po, "
                         "reward-sum or advantage-sum, or leave the judge out")
    base = open_workspace(pathlib.Path(folder), None)
    judge = load_judge(base, space.cfg.judge.kind, share=space.cfg.judge.share)
    if judge.identity["dataset"] != dataset_digest(ready.dataset):
        raise InputError(f"align.judge: the judge in {folder} was made from another "
                         f"data set than {space.data} holds; make one on the same data")
    return judge


def _digests(cfg: AlignConfig, judge: Judge | None) -> dict[str, Any]:
    """What ranking model and judge were when a run began."""
    found: dict[str, Any] = {} if judge is None else {"judge": judge.identity}
    if cfg.ranker:
        base = open_workspace(pathlib.Path(cfg.ranker), None)
        found["ranker"] = artifacts.value_digest(artifacts.read_json(
            base.run(base.cfg.seeds[0]) / "best" / artifacts.MANIFEST))
    return found


def _sources(space: Workspace, ready: Ready, ranker: Scorer | None) -> SignalSources:
    names, vectors = tuple(space.cfg.align.reward), ready.ids.embeddings
    check_names(names, vectors=vectors is not None, ranker=ranker is not None)
    instructed = "instruction" in ready.model.columns
    if vectors is not None and instructed:
        table = ready.dataset.instructions
        instructed = table is not None and table.vectors.shape[1] == vectors.shape[1]
    needed = any(name in OF_VECTORS for name in names)
    return SignalSources(
        ready.catalogue.tables.codes,
        jnp.asarray(vectors, jnp.float32) if needed else None,
        ranker if any(name in OF_RANKER for name in names) else None, names, instructed)


def _requests(space: Workspace, ready: Ready, signals_of: SignalSources, split: str,
              batch: int, logged: int, seed: int) -> AlignRequests:
    cfg, columns = space.cfg, ready.model.columns
    if signals_of.ranker is not None:
        columns = tuple(dict.fromkeys([*columns, *signals_of.ranker.columns]))
    return AlignRequests(
        ready.dataset, batch=batch, logged=logged, split=split, seed=seed,
        history=cfg.train.pipeline.history, columns=columns,
        long=cfg.model.retrieval.events, behaviour=cfg.instructions.behaviour,
        scenarios=cfg.train.pipeline.scenarios, told=_told(space, ready, split),
        horizon=cfg.align.horizon if TRAJECTORY in signals_of.names else 0,
        bought=SPEND in signals_of.names,
        process_index=jax.process_index(),
        process_count=jax.process_count())


def _told(space: Workspace, ready: Ready, split: str) -> InstructionTable | None:
    """The texts that a teacher reads in training, where there is one."""
    distil = space.cfg.align.distil
    if not distil.weight or split != "train":
        return None
    if "instruction" not in ready.model.columns:
        raise InputError(f"align.distil.weight is {distil.weight}, and the network "
                         "reads no text that a teacher could be told; train one with "
                         "model.instructions.reasoning=true, or set it to 0")
    return instruction_table_of(space, ready.dataset, distil.told)


def _mapping(space: Workspace, ready: Ready, seed: int, start: Any,
             requests: AlignRequests, signals_of: SignalSources,
             mesh: jax.sharding.Mesh) -> rewards_lib.RewardMapping:
    """The reward's normalisers, fitted once in a run and kept in it."""
    folder = space.run(seed) / "reward"
    if folder.exists():
        return rewards_lib.load_mapping(folder)
    cfg = space.cfg.align
    draw = drawing(ready.model, cfg.compiled())
    placed = jax.device_put((start, ready.catalogue, first_items(ready.leaves),
                             signals_of), parallel.replicated(mesh))
    logged: dict[str, list[np.ndarray]] = {name: [] for name in signals_of.names}
    for step in progress.track(range(-(-cfg.fit // cfg.batch)), "fitting the reward"):
        batch = parallel.global_batch(requests[step], mesh)
        params, catalogue, preferred, sources = placed
        found = draw(params, batch, catalogue, preferred,
                     jax.random.fold_in(jax.random.key(seed), step))
        for name, values in parameters.to_host(sources(batch, found.items)).items():
            logged[name].append(values.ravel())
    scenarios = list(ready.dataset.manifest.get("scenarios") or ["all"])
    mapping = rewards_lib.fit_mapping(
        {name: np.concatenate(parts) for name, parts in logged.items()},
        cfg.reward, scenarios)
    if not jax.process_index():
        rewards_lib.save_mapping(mapping, folder)
    return mapping


def _lists(space: Workspace, ready: Ready, signals_of: SignalSources, split: str
           ) -> list[Batch]:
    """Batches of requests, spread over a split, whose lists are judged by reward."""
    cfg = space.cfg.align
    count = len(ready.dataset.targets(split))
    size = min(256, count, cfg.held_out)
    requests = _requests(space, ready, signals_of, split, size, 0, 0)
    wanted = min(count, cfg.held_out) // size * size
    numbers = np.linspace(0, count - 1, wanted).astype(np.int64)
    return [requests.take(part) for part in numbers.reshape(-1, size)]


def rewards_of_lists(ready: Ready, signals_of: SignalSources,
                     mapping: rewards_lib.RewardMapping, params: Any,
                     lists: Sequence[Batch]) -> dict[str, float]:
    """What the lists that parameters serve are worth under a reward.

    Returns:
      Means over requests: "reward@1" of the first item, "reward@10" over the list, and
      "reward.<component>@10", normalised. A list may be shorter than 10; an empty one
      is worth 0.
    """
    preferred = first_items(ready.leaves)
    sums = np.zeros(2 + len(mapping.names))
    for batch in lists:
        beams = recommend(ready.model, params, batch, ready.catalogue,
                          beams=min(2 * LIST, ready.dataset.num_items))
        sums += np.concatenate([np.asarray(part, float) for part in _rewards(
            signals_of, mapping, preferred, batch, beams.leaves[:, :LIST])])
    means = sums / sum(len(batch["rows"]) for batch in lists)
    return {"reward@1": means[0], f"reward@{LIST}": means[1],
            **{f"reward.{name}@{LIST}": float(means[2 + place])
               for place, name in enumerate(mapping.names)}}


@jax.jit
def _rewards(signals_of: SignalSources, mapping: rewards_lib.RewardMapping,
             preferred: jax.Array, batch: Any, leaves: jax.Array
             ) -> tuple[jax.Array, jax.Array]:
    """Sums over the requests `[2]`, of their first items' rewards and of their lists'
    means, and of the means of the parts `[C]`; dead places count nowhere."""
    real = leaves >= 0
    items = jnp.where(real, preferred[leaves], -1)
    found = rewards_lib.unify(mapping, signals_of(batch, items),
                              batch["asked_scenario"])
    total = jnp.where(real, found.total, 0)
    parts = jnp.where(real[..., None], found.parts, 0)
    share = 1 / jnp.maximum(jnp.sum(real, axis=1), 1)
    return (jnp.stack([jnp.sum(total[:, 0]), jnp.sum(total * share[:, None])]),
            jnp.sum(parts * share[:, None, None], axis=(0, 1)))


def worth(space: Workspace, trained: Mapping[str, Any], reward: pathlib.Path,
          split: str = "test") -> dict[str, dict[str, float]]:
    """What the lists of trained parameters are worth under one reward, to compare them.

    Args:
      space: an alignment's work directory, whose components and sources are taken.
      trained: parameters by a name.
      reward: folder `reward` of the run whose fitted normalisers are taken.
      split: of which requests, `align.held_out` at most.

    Returns:
      For each name the figures of `rewards_of_lists`.
    """
    ready, signals_of = _with_sources(space, load(space))
    mapping = rewards_lib.load_mapping(reward)
    lists = _lists(space, ready, signals_of, split)
    return {name: rewards_of_lists(ready, signals_of, mapping, params, lists)
            for name, params in trained.items()}


def begin(folder: pathlib.Path, start_from: str) -> Experiment:
    """The experiment of a new alignment: that of the work directory it starts from.

    Args:
      folder: of the alignment; gets links to data set and semantic IDs.
      start_from: a work directory with trained runs.
    """
    base = open_workspace(pathlib.Path(start_from), None)
    cfg = dataclasses.replace(
        base.cfg, name=f"{base.cfg.name}, aligned", train=dataclasses.replace(
            base.cfg.train, start_from=str(base.folder.resolve())))
    share(open_workspace(folder, cfg), base)
    return cfg
