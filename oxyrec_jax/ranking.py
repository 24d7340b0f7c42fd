"""The steps of an experiment with a ranking model, and its use by others.

In the work directory lie, beside data and semantic IDs,

    train/seed<n>/              as of a generator: checkpoints, log, best   `train`
    train/seed<n>/calibration/  scale and shift of each logit               `train`
    ranking/<split>.json        figures                                     `evaluate`
    ranking.html                the same as a page                          `evaluate`
"""

import dataclasses
import functools
import json
import logging
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa

from oxyrec_jax import artifacts, parallel, profiling
from oxyrec_jax.base import InputError
from oxyrec_jax.data.dataset import Dataset, load_dataset
from oxyrec_jax.data.profiles import eighths, load_profiles
from oxyrec_jax.data.request_rows import SplitRequests
from oxyrec_jax.data.shop.truth import knows_truth, true_chances, true_looks
from oxyrec_jax.evaluate import ranking as judging
from oxyrec_jax.models.flops import ranking_flops
from oxyrec_jax.models.ranker import Ranker
from oxyrec_jax.models.scorer import Scorer
from oxyrec_jax.models.tables import ItemTables
from oxyrec_jax.ready import item_features, item_rows
from oxyrec_jax.report.ranking_page import write_ranking_page
from oxyrec_jax.tokenizer import embeddings, sid_table
from oxyrec_jax.tokenizer.catalogue import Catalogue, make_catalogue
from oxyrec_jax.train import loop
from oxyrec_jax.train.parameters import read_params
from oxyrec_jax.train.ranking import ranking_loss
from oxyrec_jax.workspace import (Workspace, begin_run, check_run, need,
                                  open_workspace, start_of, unfinished)

_KIND, _VERSION = "ranking-calibration", 1
_BATCH = 256  # requests of one call where a split is judged; ours
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class RankingReady:
    """A data set, its items on the device, and the ranking model that fits them."""

    dataset: Dataset
    ids: sid_table.SemanticIds
    catalogue: Catalogue
    model: Ranker


def load(space: Workspace) -> RankingReady:
    """Opens data set and semantic IDs of an experiment with a ranking model.

    Raises:
      InputError: the experiment has none, or a step before is missing.
    """
    cfg = space.cfg
    if cfg.ranker is None:
        raise InputError(f"{space.folder} belongs to an experiment without a ranking "
                         "model; give the work directory of experiments/ranker.py or "
                         "of one like it")
    need(space.data, "prepare")
    dataset = load_dataset(space.data)
    need(space.semantic_ids, "tokenize")
    ids = sid_table.load_semantic_ids(space.semantic_ids, dataset)
    count = dataset.num_items
    features, rows = item_features(space, ids), item_rows(count)
    catalogue, _ = make_catalogue(
        ids.codes[:count], ids.widths, popularity=ids.priority[:count],
        features=None if features is None else features[:count])
    tables, kinds = _with_prices(dataset, catalogue.tables, cfg.ranker.kinds)
    queries = dataset.queries() if cfg.ranker.query else []
    if queries:
        vectors = embeddings.embed_texts(queries, cfg.text, space.folder / "cache")
        tables = dataclasses.replace(tables, queries=jnp.asarray(vectors, jnp.float32))
    if cfg.model.profile:
        dataset = dataclasses.replace(
            dataset, profiles=load_profiles(dataset, cfg.model.profile))
    model = Ranker(cfg.model, cfg.ranker, tuple(ids.widths), rows,
                   dataset.profiles.size if dataset.profiles else 0, kinds,
                   len(queries))
    return RankingReady(dataset, ids, dataclasses.replace(catalogue, tables=tables),
                        model)


def train(space: Workspace, seeds: Sequence[int] | None = None) -> dict[str, Any]:
    """Trains one run for each seed and calibrates it; a finished run is not done again.

    Args:
      space: with data set and semantic IDs.
      seeds: which; all of the experiment by default.

    Returns:
      For each run: best metric, its step, steps done, seconds, and the calibration.
    """
    cfg, ready = space.cfg, load(space)
    mesh = parallel.make_mesh(cfg.mesh)
    found, seeds = {}, cfg.seeds if seeds is None else seeds
    peak, _ = profiling.peak_of_all(cfg.model.dtype)
    more = {"ranker": dataclasses.asdict(ready.model.ranking)}
    for seed in seeds:
        begin_run(space, seed, ready.ids)
        if cfg.train.start_from:
            start_of(space, seed, ready.ids)  # refused before anything is compiled
        loop.check_folder(ready.model, cfg.train, space.run(seed), seed=seed,
                          more=more, keep=False)
    space.save()
    valid = _requests(space, ready, "valid")

    def validate(params: Any) -> Mapping[str, float]:
        return judging.watched(_predict(ready, params, valid, ("alone",), "validating"),
                               valid.impressions)
    for seed in seeds:
        start = time.monotonic()
        outcome = loop.train(
            ready.model, ready.dataset, ready.catalogue, cfg.train, space.run(seed),
            seed=seed, mesh=mesh, evaluate=validate, loss=ranking_loss,
            more=more,
            start=(functools.partial(_start, space, ready, seed)
                   if cfg.train.start_from else None),
            flops_per_target=3 * ranking_flops(
                cfg.model, history=cfg.train.pipeline.history,
                shown=valid.impressions.shown.shape[1]), peak_flops=peak)
        scales = _calibrate(space, ready, seed, outcome, valid)
        found[f"seed{seed}"] = {
            cfg.train.metric: outcome.best, "best_step": outcome.best_step,
            "steps": outcome.steps, "seconds": round(time.monotonic() - start, 1),
            "calibration": _spoken(scales)}
    return {"metric": cfg.train.metric, "runs": found}


def evaluate(space: Workspace, split: str = "test") -> dict[str, Any]:
    """Judges every trained run on the requests of a split; writes figures and a page.

    Args:
      space: with trained runs.
      split: "test" or "valid".

    Returns:
      JSON values; `evaluate.ranking.judge` tells the keys, and "split", "protocol",
      "counts", "calibration", "notes" and "page".
    """
    ready = load(space)
    trained = {seed: parameters(space, ready, seed) for seed in space.cfg.seeds}
    requests = _requests(space, ready, split)
    predicted, scales = {}, {}
    for seed, params in trained.items():
        predicted[f"seed{seed}"] = _predict(
            ready, params, requests, (*judging.MODES, judging.FIRST),
            f"scoring {split}, seed {seed}")
        scales[f"seed{seed}"] = _read_scales(space, seed)
    shown = requests.impressions
    truth = None
    if knows_truth(ready.dataset):
        truth = _truth(ready, trained, requests)
    names = list(ready.dataset.manifest.get("scenarios") or ())
    found = judging.judge(predicted, scales, shown, names, truth)
    results = {
        "name": space.cfg.name, "split": split,
        "protocol": ready.dataset.manifest.get("protocol"),
        "counts": _counts(shown.shown, shown.outcome, shown.sequence), **found,
        "calibration": {name: _spoken(one) for name, one in scales.items()},
        "notes": [*_notes(ready.dataset), *unfinished(space)]}
    folder = space.folder / "ranking"
    folder.mkdir(exist_ok=True)
    artifacts.write_json(folder / f"{split}.json", results)
    page = write_ranking_page(space.folder / "ranking.html", results)
    return {"ranking": results, "page": str(page)}


def report(space: Workspace) -> dict[str, Any]:
    """Writes the page of the last evaluation again; returns where it lies."""
    found = [path for split in ("test", "valid")
             if (path := space.folder / "ranking" / f"{split}.json").exists()]
    if not found:
        raise InputError(f"{space.folder / 'ranking'} holds no figures yet; run oxyrec "
                         "evaluate with the same --workdir first")
    return {"report": str(write_ranking_page(space.folder / "ranking.html",
                                             artifacts.read_json(found[0])))}


def sizes(space: Workspace) -> dict[str, Any]:
    """How many parameters the first run has, in all and by part."""
    params, _ = read_params(space.run(space.cfg.seeds[0]) / "best")
    found = {name: sum(leaf.size for leaf in jax.tree.leaves(part))
             for name, part in params.items()}
    return {"parameters": sum(found.values()), "by_part": found}


def load_ranker(workdir: str | pathlib.Path, seed: int | None = None) -> Scorer:
    """Opens a trained ranking model for use inside compiled programs.

    Args:
      workdir: of an experiment with a ranking model.
      seed: which run; None: the experiment's first.

    Returns:
      `Scorer`: call it with a batch and items `[B, G]`; it is a pytree. Its arrays lie
      on the default device. `columns` tells what a batch must have.

    Raises:
      InputError: no trained ranking model there, or it does not fit what lies there.
    """
    space = open_workspace(pathlib.Path(workdir), None)
    ready = load(space)
    seed = space.cfg.seeds[0] if seed is None else seed
    params = jax.device_put(parameters(space, ready, seed))
    scales = _read_scales(space, seed)[judging.MODES.index("alone")]
    return Scorer(params, ready.catalogue.tables, jnp.asarray(scales), ready.model,
                  catalogue_digest(ready.dataset))


def parameters(space: Workspace, ready: RankingReady, seed: int) -> Any:
    """The best parameters of a run, NumPy arrays, once it is sure that they fit."""
    run = space.run(seed)
    need(run / "best", "train")
    check_run(space, seed, ready.ids)
    known = artifacts.read_json(run / "run.json").get("ranker")
    now = json.loads(json.dumps(dataclasses.asdict(ready.model.ranking)))
    if known != now:
        raise InputError(f"{run} was trained with another configuration (ranker is "
                         f"{known} there); give the same settings, or another work "
                         "directory")
    return read_params(run / "best")[0]


def catalogue_digest(dataset: Dataset) -> str:
    """Digest of the item table: two data sets with the same have the same items."""
    return str(dataset.manifest["files"]["items.parquet"]["sha256"])


def _with_prices(dataset: Dataset, tables: ItemTables, kinds: Sequence[str]
                 ) -> tuple[ItemTables, int]:
    """The tables with prices and kinds of the items, and rows of the table of kinds."""
    items, rows = dataset.item_table(), len(tables.codes)
    for name in kinds:
        if name not in items.column_names:
            raise InputError(f"ranker.kinds names {name!r}, and the items of "
                             f"{dataset.folder} have {', '.join(items.column_names)}")
    price = np.zeros(rows, np.float32)
    known = items["price"].to_numpy().astype(np.float32)
    price[:len(known)] = np.where(np.isfinite(known), known, 0)
    found, first = np.zeros((rows, len(kinds)), np.int32), 0
    for place, name in enumerate(kinds):
        if pa.types.is_floating(items[name].type):
            codes, count = eighths(items[name].to_numpy())
        else:
            words = [None if word is None else str(word)
                     for word in items[name].to_pylist()]
            number: dict[str | None, int] = {word: row for row, word in enumerate(
                sorted({word for word in words if word is not None}), 1)}
            codes = np.array([number.get(word, 0) for word in words])
            count = len(number) + 1
        found[:, place] = first
        found[:len(codes), place] += codes
        first += count
    return (dataclasses.replace(tables, price=jnp.asarray(price),
                                kinds=jnp.asarray(found)), first)


def _start(space: Workspace, ready: RankingReady, seed: int) -> Any:
    return read_params(start_of(space, seed, ready.ids))[0]


def _requests(space: Workspace, ready: RankingReady, split: str) -> SplitRequests:
    cfg = dataclasses.replace(space.cfg.train.pipeline, columns=ready.model.columns)
    return SplitRequests(ready.dataset, split, cfg, _BATCH)


def _predict(ready: RankingReady, params: Any, requests: SplitRequests,
             ways: Sequence[str], what: str) -> judging.Predicted:
    return judging.predict(ready.model, params, ready.catalogue.tables, requests,
                           ways=ways, what=what)


def _truth(ready: RankingReady, trained: Mapping[int, Any], requests: SplitRequests
           ) -> judging.Truth:
    """What the shop knows, and what the runs say of items drawn from all of them."""
    shown = requests.impressions
    drawn = np.random.default_rng(0).integers(
        0, ready.dataset.num_items, shown.shown.shape).astype(np.int32)
    said = {f"seed{seed}": judging.predict(
        ready.model, params, ready.catalogue.tables, requests, ways=(judging.FIRST,),
        what=f"scoring any items, seed {seed}", items=drawn)
        for seed, params in trained.items()}
    return judging.Truth(
        true_chances(ready.dataset, shown), true_looks(shown.shown.shape[1]),
        true_chances(ready.dataset, shown, drawn), said)


def _calibrate(space: Workspace, ready: RankingReady, seed: int, outcome: loop.Outcome,
               valid: SplitRequests) -> np.ndarray:
    """Fits scale and shift on the validation split, once for each best step."""
    folder = space.run(seed) / "calibration"
    if folder.exists():
        manifest = artifacts.read_manifest(folder, kind=_KIND, version=_VERSION)
        if manifest["step"] == outcome.best_step:
            return _read_scales(space, seed)
    predicted = _predict(ready, outcome.params, valid, judging.MODES,
                         f"calibrating seed {seed}")
    method = ready.model.ranking.calibration
    scales = judging.fit_scales(predicted, valid.impressions, method)
    if jax.process_index() == 0:
        artifacts.write_bundle(
            folder, kind=_KIND, version=_VERSION, arrays={"scales": scales},
            facts={"step": outcome.best_step, "method": method, "split": "valid",
                   "modes": list(judging.MODES), "heads": list(judging.HEADS)})
    return scales


def _read_scales(space: Workspace, seed: int) -> np.ndarray:
    folder = space.run(seed) / "calibration"
    need(folder, "train")
    artifacts.read_manifest(folder, kind=_KIND, version=_VERSION)
    return np.array(artifacts.read_array(folder, "scales"))


def _spoken(scales: np.ndarray) -> dict[str, Any]:
    return {mode: {head: {"scale": round(float(scale), 4), "shift": round(float(shift),
                                                                          4)}
                   for head, (scale, shift) in zip(judging.HEADS, own)}
            for mode, own in zip(judging.MODES, scales)}


def _counts(shown: np.ndarray, outcome: np.ndarray, sequence: np.ndarray
            ) -> dict[str, int]:
    real = shown >= 0
    return {"requests": len(shown), "users": len(np.unique(sequence)),
            "shown": int(real.sum()),
            **{head: int((outcome[real] > step).sum())
               for step, head in enumerate(judging.HEADS)}}


def _notes(dataset: Dataset) -> list[str]:
    if dataset.manifest.get("protocol") == "P2":
        return []
    return ["This split begins with a request in which something was chosen, as every "
            "leave-one-out split does, so rates are higher than in traffic; judge "
            "calibration on a global temporal split (data.protocol=P2)."]
