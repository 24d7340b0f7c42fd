"""The steps of an experiment: each reads what the one before left in its folder.

`workspace` lists the folders. Every step can be killed at any moment and run again.
"""

import dataclasses
import functools
import logging
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from oxyrec_jax import __version__, config, metrics, parallel, profiling
from oxyrec_jax.base import InputError
from oxyrec_jax.data.dataset import Dataset, load_dataset
from oxyrec_jax.data.prepare import prepare as prepare_data
from oxyrec_jax.decode.beam import expand_items
from oxyrec_jax.decode.recommend import recommend as search
from oxyrec_jax.evaluate import evaluation, rows
from oxyrec_jax.evaluate.generator import recommend_split
from oxyrec_jax.models.flops import forward_flops
from oxyrec_jax.models.generator import Generator
from oxyrec_jax.models.memory import count_successors
from oxyrec_jax.report import Example, write_report, write_tokenizer_page
from oxyrec_jax.tokenizer import build, embeddings, lifecycle, sid_table
from oxyrec_jax.tokenizer.catalogue import Catalogue, make_catalogue
from oxyrec_jax.tokenizer.trie import Leaves
from oxyrec_jax.train import loop
from oxyrec_jax.workspace import (Workspace, begin_run, check_run, need,
                                  open_workspace)

__all__ = ["Ready", "Workspace", "add_items", "evaluate", "flops_per_target", "load",
           "open_workspace", "parameters", "prepare", "recommend", "refit", "report",
           "retire_items", "tokenize", "train", "versions"]

_log = logging.getLogger(__name__)
_ITEM_BUCKET = 128  # rows of the item table, so that meshes divide it


@dataclasses.dataclass(frozen=True)
class Ready:
    """A data set, its items on the device, and the network that fits them."""

    dataset: Dataset
    ids: sid_table.SemanticIds
    catalogue: Catalogue
    leaves: Leaves
    model: Generator


def prepare(space: Workspace) -> dict[str, Any]:
    """Reads the log and writes the prepared data set; returns its counts."""
    manifest = prepare_data(space.cfg.data, space.data)
    space.save()
    return {name: manifest[name] for name in ("source", "protocol", "tie_policy",
                                              "counts") if name in manifest}


def tokenize(space: Workspace) -> dict[str, Any]:
    """Gives every item a semantic ID; returns the quality figures."""
    need(space.data, "prepare")
    manifest = build.build_semantic_ids(
        load_dataset(space.data), space.cfg.text, space.cfg.tokenizer,
        space.semantic_ids, cache_folder=space.folder / "cache")
    space.save()
    return _of_bundle(space, manifest)


def add_items(space: Workspace, path: str | os.PathLike) -> dict[str, Any]:
    """Gives the new items of a file semantic IDs; returns figures and drift."""
    dataset, cfg = _before_a_change(space), space.cfg
    columns = {}
    if cfg.data.source == "table":
        columns = dataclasses.asdict(cfg.data.item_columns)
        columns["item_id"] = columns.pop("item")
    return _of_bundle(space, lifecycle.add_items(
        dataset, space.semantic_ids, path, cache_folder=space.folder / "cache",
        columns=columns, text_fields=cfg.data.text_fields, gate=cfg.tokenizer.gate,
        alarm=cfg.tokenizer.drift))


def retire_items(space: Workspace, path: str | os.PathLike) -> dict[str, Any]:
    """Takes the items of a file of ids out of the trie; returns the figures."""
    return _of_bundle(space, lifecycle.retire_items(_before_a_change(space),
                                                    space.semantic_ids, path))


def refit(space: Workspace) -> dict[str, Any]:
    """Fits the codebooks again from where they stand; returns figures and moves."""
    dataset = _before_a_change(space)
    manifest = lifecycle.refit(dataset, space.cfg.text, space.cfg.tokenizer,
                               space.semantic_ids, cache_folder=space.folder / "cache")
    space.save()
    return _of_bundle(space, manifest)


def load(space: Workspace, *, live: bool = False) -> Ready:
    """Opens data set and semantic IDs and puts the items on the device.

    Args:
      space: with data set and semantic IDs.
      live: the catalogue as it is now: with the items that were added, without those
        that were retired, its tables as long as their bucket, so that a few more items
        compile nothing. Otherwise the data set's own items, all of them: what a run
        learns and is judged on does not change when items come and go.
    """
    cfg = space.cfg
    need(space.data, "prepare")
    dataset = load_dataset(space.data)
    if cfg.beams > dataset.num_items:
        ks = ",".join(str(k) for k in cfg.evaluate.ks if k <= dataset.num_items)
        raise InputError(
            f"beams is {cfg.beams}, but the catalogue has {dataset.num_items} items; "
            f"run the same command with --set beams={dataset.num_items} --set "
            f"evaluate.ks=[{ks}]")
    need(space.semantic_ids, "tokenize")
    ids = sid_table.load_semantic_ids(space.semantic_ids, dataset)
    events = rows.of_dataset(dataset)
    successors = None
    if cfg.model.memory:
        successors = count_successors(events.items, events.offsets, events.train,
                                      num_items=dataset.num_items,
                                      most=cfg.model.successors)
    features = ids.embeddings if cfg.model.item_features else None
    if cfg.model.item_features and features is None:
        raise InputError("model.item_features needs the embeddings of the items, which "
                         f"{space.semantic_ids} does not hold; set it to false")
    count = len(ids.codes) if live else dataset.num_items
    items = -(-count // _ITEM_BUCKET) * _ITEM_BUCKET
    catalogue, leaves = make_catalogue(
        ids.codes[:count], ids.widths, popularity=ids.priority[:count],
        features=None if features is None else features[:count],
        successors=successors, retired=~ids.live if live else None,
        rows=items if live else None)
    return Ready(dataset, ids, catalogue, leaves,
                 Generator(cfg.model, tuple(ids.widths), items))


def parameters(space: Workspace, ready: Ready, seed: int) -> Any:
    """The best parameters of a run, NumPy arrays, once it is sure that they fit.

    Items that were added since begin without a vector of their own: it is zero.
    """
    need(space.run(seed) / "best", "train")
    check_run(space, seed, ready.ids)
    params = loop.read_params(space.run(seed) / "best")[0]
    known, rows = ready.dataset.num_items, ready.model.items
    if len(ready.catalogue.tables.codes) > known and "item_vectors" in params:
        vectors = np.asarray(params["item_vectors"])
        longer = np.zeros((rows, vectors.shape[1]), vectors.dtype)
        longer[:known] = vectors[:known]
        params = {**params, "item_vectors": longer}
    return params


def train(space: Workspace, seeds: Sequence[int] | None = None) -> dict[str, Any]:
    """Trains one run for each seed; a finished run is not done again.

    Args:
      space: with data set and semantic IDs.
      seeds: which; all of the experiment by default.

    Returns:
      For each run: best metric, its step, steps done, seconds.
    """
    cfg, ready = space.cfg, load(space)
    mesh = parallel.make_mesh(cfg.mesh)
    found, seeds = {}, cfg.seeds if seeds is None else seeds
    flops = flops_per_target(space, ready)
    peak, origin = profiling.peak_of_all(cfg.model.dtype)
    _log.info("MFU is told against a %s peak of %.0f GFLOP/s", origin, peak / 1e9)
    for seed in seeds:
        begin_run(space, seed, ready.ids)
    space.save()
    for seed in seeds:
        start = time.monotonic()
        outcome = loop.train(
            ready.model, ready.dataset, ready.catalogue, cfg.train, space.run(seed),
            seed=seed, mesh=mesh, evaluate=functools.partial(_validate, space, ready),
            flops_per_target=flops, peak_flops=peak)
        found[f"seed{seed}"] = {
            cfg.train.metric: outcome.best, "best_step": outcome.best_step,
            "steps": outcome.steps, "seconds": round(time.monotonic() - start, 1)}
    return {"metric": cfg.train.metric, "runs": found}


def evaluate(space: Workspace, split: str = "test", *, experts: bool = True
             ) -> dict[str, Any]:
    """Judges every trained run beside the untrained baselines; returns the results."""
    cfg, ready = space.cfg, load(space)
    trained = {seed: parameters(space, ready, seed) for seed in cfg.seeds}
    runs = {}
    for seed, params in trained.items():
        runs[f"seed{seed}"], _ = recommend_split(
            ready.model, params, ready.dataset, split, ready.catalogue, ready.leaves,
            history=cfg.train.pipeline.history, beams=cfg.beams, experts=experts,
            what=f"recommending for {split}, seed {seed}")
    found = evaluation.evaluate(ready.dataset, split, runs, cfg=cfg.evaluate,
                                embeddings=_text_embeddings(space, ready.dataset))
    name = split if experts else f"{split}_decoder_only"
    evaluation.write_evaluation(space.evaluation(name), found)
    return found.results


def recommend(space: Workspace, *, user: str | None = None,
              items: Sequence[str] = (), k: int = 10) -> dict[str, Any]:
    """Recommends for a user of the data set or for a history given by item ids.

    Args:
      space: with a trained run; the first seed answers.
      user: a user id of the log; the whole sequence is the history.
      items: item ids of the log, oldest first, instead.
      k: how many items.

    Returns:
      `history` and `recommendations`: lists of item id, title and, for the latter,
      rank, semantic ID and log-probability in nats; and `note`, a sentence where the
      history is longer than the model reads.

    Raises:
      InputError: an unknown user or item, an empty history, or K above the catalogue.
    """
    cfg, ready = space.cfg, load(space, live=True)
    count = int(ready.ids.live.sum())
    if not 1 <= k <= count:
        raise InputError(f"--k {k}: the catalogue has {count} items; ask for 1 to "
                         f"{count}")
    if k > cfg.beams:  # a wider search; else the very lists that `evaluate` judges
        space = dataclasses.replace(space, cfg=dataclasses.replace(cfg, beams=k))
    table = sid_table.catalogue_table(ready.dataset, ready.ids)
    ids, titles = table["item_id"].to_pylist(), table["title"].to_pylist()
    history = _history(ready.dataset, ids, user, items)
    most = cfg.train.pipeline.history
    note = (f"The history has {len(history)} items, the model reads the newest {most}."
            if len(history) > most else "")
    params = jax.device_put(parameters(space, ready, cfg.seeds[0]))
    return {
        "history": [{"item_id": ids[item], "title": titles[item]} for item in history],
        "recommendations": [
            {"rank": place + 1, "item_id": ids[item], "title": titles[item],
             "semantic_id": ready.ids.codes[item].tolist(),
             "log_prob": round(log_prob, 4)}
            for place, (item, log_prob) in
            enumerate(_answer(space, ready, params, history)[:k])],
        "note": note}


def report(space: Workspace, *, examples: int = 8) -> dict[str, Any]:
    """Writes the HTML report of whatever is there; returns where it lies."""
    cfg = space.cfg
    dataset = load_dataset(space.data) if space.data.exists() else None
    results = {}
    for folder in sorted(space.evaluation("").glob("*")):
        found = evaluation.read_evaluation(folder)
        results[f"{cfg.name}, {folder.name}"] = found.results
    log = loop.read_log(space.run(cfg.seeds[0]) / "log.jsonl")
    shown = (_examples(space, load(space), examples)
             if (space.run(cfg.seeds[0]) / "best").exists() else ())
    write_report(
        space.report, title=cfg.name, results=results or None, training=log or None,
        semantic_ids=space.semantic_ids if space.semantic_ids.exists() else None,
        dataset=dataset, examples=shown,
        facts={"configuration": config.to_dict(cfg), "versions": versions()})
    return {"report": str(space.report)}


def versions() -> dict[str, str]:
    """Versions and devices that figures depend on."""
    device = jax.devices()[0]
    return {"oxyrec_jax": __version__, "jax": jax.__version__, "numpy": np.__version__,
            "device": f"{jax.device_count()} x {device.device_kind}"}


def flops_per_target(space: Workspace, ready: Ready) -> float:
    """FLOPs of a training step for each supervised target, mixture heads left out."""
    split = np.asarray(ready.dataset.split("train"))
    history = space.cfg.train.pipeline.history
    lengths = np.minimum(split[:, 2] - 1, history)
    lengths = lengths[lengths > 0]
    if not len(lengths):
        return 0.0
    features = ready.catalogue.tables.features
    causal = space.cfg.model.causal
    found = forward_flops(
        space.cfg.model, ready.ids.widths, lengths=lengths.tolist(),
        targets=lengths.tolist() if causal else [1] * len(lengths),
        features=0 if features is None else features.shape[1])
    return 3 * found.total / (int(lengths.sum()) if causal else len(lengths))


def _validate(space: Workspace, ready: Ready, params: Any) -> Mapping[str, float]:
    cfg = space.cfg
    lists, numbers = recommend_split(
        ready.model, params, ready.dataset, "valid", ready.catalogue, ready.leaves,
        history=cfg.train.pipeline.history, beams=min(20, ready.dataset.num_items),
        every=cfg.quick_evaluations, what="validating")
    events = rows.of_dataset(ready.dataset)
    wanted = rows.expand(events, ready.dataset.split("valid")).item[numbers]
    ranks = metrics.ranks(lists.items, wanted)
    return {f"item.{name}@{k}": float(figure(ranks, k).mean()) for k in (5, 10)
            for name, figure in (("recall", metrics.recall), ("ndcg", metrics.ndcg))}


def _text_embeddings(space: Workspace, dataset: Dataset) -> np.ndarray | None:
    texts = [text or "" for text in dataset.item_table()["text"].to_pylist()]
    if not any(texts):
        return None
    return embeddings.embed_texts(texts, space.cfg.text, space.folder / "cache")


def _before_a_change(space: Workspace) -> Dataset:
    need(space.data, "prepare")
    need(space.semantic_ids, "tokenize")
    return load_dataset(space.data)


def _of_bundle(space: Workspace, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What `tokenize` tells: the quality figures, the gate, what was done; its page."""
    page = write_tokenizer_page(space.semantic_ids_page, space.semantic_ids,
                                load_dataset(space.data), title=f"{space.cfg.name}: "
                                "semantic IDs")
    return {"page": str(page), "widths": manifest["widths"], **manifest["quality"],
            "gate": manifest["gate"], "generation": manifest["generation"],
            **(manifest["lifecycle"] or {})}


def _history(dataset: Dataset, ids: Sequence[str], user: str | None,
             items: Sequence[str]) -> np.ndarray:
    if (user is None) == (not items):
        raise InputError("give either --user with a user id or --items with the item "
                         "ids of a history, oldest first")
    if user is not None:
        known = dataset.user_ids()
        if user not in known:
            raise InputError(f"--user {user}: no such user; the data set has "
                             f"{len(known)}, such as {', '.join(known[:3])}")
        sequence = known.index(user)
        length = int(np.diff(dataset.offsets()[sequence:sequence + 2])[0])
        return np.asarray(dataset.history(sequence, length))
    place = {name: number for number, name in enumerate(ids)}
    unknown = [item for item in items if item not in place]
    if unknown:
        raise InputError(f"--items: no item {', '.join(unknown)} in the catalogue of "
                         f"{len(place)}; ids look like {next(iter(place))}")
    return np.array([place[item] for item in items], np.int32)


def _examples(space: Workspace, ready: Ready, count: int) -> list[Example]:
    """Evenly spread users of the test split with what they get and what they chose."""
    events = rows.of_dataset(ready.dataset)
    targets = rows.expand(events, ready.dataset.split("test"))
    names = ready.dataset.user_ids()
    params = jax.device_put(parameters(space, ready, space.cfg.seeds[0]))
    found = []
    chosen = np.linspace(0, len(targets) - 1, min(count, len(targets))).astype(int)
    for number in chosen:
        sequence = int(targets.sequence[number])
        before = int(targets.place[number] - events.offsets[sequence])
        history = np.asarray(ready.dataset.history(sequence, before))
        answer = _answer(space, ready, params, history)[:10]
        found.append(Example(
            str(names[sequence]), history[-space.cfg.train.pipeline.history:].tolist(),
            [item for item, _ in answer], [log_prob for _, log_prob in answer],
            int(targets.item[number])))
    return found


def _answer(space: Workspace, ready: Ready, params: Any, history: np.ndarray
            ) -> list[tuple[int, float]]:
    """Items with the log-probability of their semantic ID, best first."""
    most = space.cfg.train.pipeline.history
    recent = history[-most:]
    padded = np.zeros((1, most), np.int32)
    padded[0, :len(recent)] = recent
    real = np.arange(most)[None] < len(recent)
    beams = search(
        ready.model, params, {
            "items": padded, "segments": real.astype(np.int32),
            "target_positions": np.full((1, 1), len(recent) - 1, np.int32)},
        ready.catalogue, beams=space.cfg.beams)
    score = dict(zip(map(tuple, np.asarray(beams.codes[0]).tolist()),
                     np.asarray(beams.log_probs[0]).tolist(), strict=True))
    items = expand_items(beams, ready.leaves, limit=space.cfg.beams)[0]
    return [(item, score[tuple(ready.ids.codes[item].tolist())])
            for item in items.tolist() if item >= 0]
