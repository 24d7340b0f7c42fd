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

from oxyrec_jax import (__version__, ab_test, aligning, answers, artifacts, config,
                        instruction_store, parallel, profiling, ranking, slow_thinking)
from oxyrec_jax.aligning import align
from oxyrec_jax.answers import Asked, recommend
from oxyrec_jax.closed_loop import trial
from oxyrec_jax.data.dataset import Dataset, load_dataset
from oxyrec_jax.data.prepare import in_use
from oxyrec_jax.data.prepare import prepare as prepare_data
from oxyrec_jax.data.row_plans import chosen_targets
from oxyrec_jax.evaluate import baskets, evaluation, rows
from oxyrec_jax.evaluate.generator import recommend_split
from oxyrec_jax.models.flops import forward_flops
from oxyrec_jax.ready import (START, Ready, load, parameters, starting_parameters,
                              text_vectors, texts_of)
from oxyrec_jax.report import (write_report, write_story_page,
                               write_tokenizer_page)
from oxyrec_jax.steering import follow, judge_retrieval
from oxyrec_jax.thinking.recording import read_history
from oxyrec_jax.tokenizer import build, lifecycle, quality_gate
from oxyrec_jax.train import loop
from oxyrec_jax.train.run_log import read_log
from oxyrec_jax.validation import validate
from oxyrec_jax.workspace import (Workspace, begin_run, need, open_workspace,
                                  start_of, unfinished)

__all__ = ["Asked", "Ready", "Workspace", "add_items", "align", "evaluate",
           "flops_per_target", "follow", "load", "open_workspace", "parameters",
           "prepare", "prepare_and_tokenize", "recommend", "refit", "report",
           "retire_items", "story", "tokenize", "train", "versions"]

_log = logging.getLogger(__name__)
# The alignment and the test of `story`: long enough to be seen, not to be believed.
_SHORT_ALIGNMENT = ("align.steps=40", "align.batch=16", "align.group=8",
                    "align.fit=128", "align.log_every=4", "align.evaluate_every=40",
                    "align.checkpoint_every=40", "align.held_out=256")
_PEOPLE, _DAYS, _SHOWN = 400, 2, 5


def prepare(space: Workspace) -> dict[str, Any]:
    """Reads the log and writes the prepared data set; returns its counts, what was left
    out where rows were bad, and how many training targets repeat an item."""
    manifest = prepare_data(space.cfg.data, space.data)
    space.save()
    told = ("source", "protocol", "tie_policy", "counts")
    found: dict[str, Any] = {name: manifest[name] for name in told if name in manifest}
    bad = manifest.get("quarantine")
    if bad and bad["rows"]:
        reasons = ", ".join(f"{count} {why}" for why, count in bad["reasons"].items())
        found["left_out"] = (f"bad rows: {bad['rows']} ({reasons}); they lie in "
                             f"{space.data.with_name(bad['file'])}")
    return found | _repeats(space)


def tokenize(space: Workspace) -> dict[str, Any]:
    """Gives every item a semantic ID; returns the quality figures."""
    need(space.data, "prepare")
    manifest = build.build_semantic_ids(
        load_dataset(space.data), space.cfg.text, space.cfg.tokenizer,
        space.semantic_ids, cache_folder=space.folder / "cache")
    space.save()
    return _of_bundle(space, manifest)


def prepare_and_tokenize(space: Workspace) -> None:
    """Makes data set and semantic IDs where they are not there yet."""
    if not space.data.exists():
        prepare(space)
    if not space.semantic_ids.exists():
        tokenize(space)


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


def train(space: Workspace, seeds: Sequence[int] | None = None) -> dict[str, Any]:
    """Trains one run for each seed; a finished run is not done again.

    Args:
      space: with data set and semantic IDs.
      seeds: which; all of the experiment by default.

    Returns:
      For each run: best metric, its step, steps done, seconds.
    """
    if space.cfg.ranker is not None:
        return ranking.train(space, seeds)
    cfg, ready = space.cfg, load(space)
    mesh = parallel.make_mesh(cfg.mesh)
    found, seeds = {}, cfg.seeds if seeds is None else seeds
    flops = flops_per_target(space, ready)
    peak, origin = profiling.peak_of_all(cfg.model.dtype)
    _log.info("MFU is told against a %s peak of %.0f GFLOP/s", origin, peak / 1e9)
    for seed in seeds:
        begin_run(space, seed, ready.ids)
        if cfg.train.start_from and not (space.run(seed) / START).exists():
            start_of(space, seed, ready.ids)  # refused before anything is compiled
        loop.check_folder(ready.model, cfg.train, space.run(seed), seed=seed,
                          more=texts_of(cfg), keep=False)
    space.save()
    for seed in seeds:
        start = time.monotonic()
        outcome = loop.train(
            ready.model, ready.dataset, ready.catalogue, cfg.train, space.run(seed),
            seed=seed, mesh=mesh, evaluate=functools.partial(validate, space, ready),
            start=(functools.partial(starting_parameters, space, ready, seed)
                   if cfg.train.start_from else None),
            flops_per_target=flops, peak_flops=peak, more=texts_of(cfg))
        found[f"seed{seed}"] = {
            cfg.train.metric: outcome.best, "best_step": outcome.best_step,
            "steps": outcome.steps, "seconds": round(time.monotonic() - start, 1)}
    return {"metric": cfg.train.metric, "runs": found}


def evaluate(space: Workspace, split: str = "test", *, experts: bool = True,
             instructions: str | None = None) -> dict[str, Any]:
    """Judges every trained run beside the untrained baselines; returns the results.

    Args:
      space: with trained runs.
      split: "test" or "valid".
      experts: without it a model that mixes experts answers with its decoder alone.
      instructions: kind of the texts that the requests carry, for a network that reads
        them; None: `instructions.evaluate` of the experiment.
    """
    cfg = space.cfg
    if cfg.ranker is not None:
        return ranking.evaluate(space, split)
    if instructions is None and cfg.model.instructions.reasoning:
        instructions = cfg.instructions.evaluate
    ready = load(space, instructions=instructions)
    trained = {seed: parameters(space, ready, seed) for seed in cfg.seeds}
    runs = {}
    for seed, params in trained.items():
        runs[f"seed{seed}"], _ = recommend_split(
            ready.model, params, ready.dataset, split, ready.catalogue, ready.leaves,
            history=cfg.train.pipeline.history, beams=cfg.beams, experts=experts,
            behaviour=cfg.instructions.behaviour,
            what=f"recommending for {split}, seed {seed}")
    found = evaluation.evaluate(ready.dataset, split, runs, cfg=cfg.evaluate,
                                embeddings=text_vectors(space, ready.dataset))
    if ready.dataset.by_basket:
        found.results["baskets"] = baskets.of_lists(ready.dataset, split, {
            name: run.items for name, run in runs.items()}, cfg.evaluate)
    if cfg.model.retrieval.events:
        found.results["retrieval"] = judge_retrieval(space, ready, trained, split,
                                                     found.users)
    found.results["unfinished"] = unfinished(space)
    name = "_".join([split, *([] if experts else ["decoder_only"]),
                     *([] if instructions is None else [instructions])])
    evaluation.write_evaluation(space.evaluation(name), found)
    return found.results


def report(space: Workspace, *, examples: int = 8) -> dict[str, Any]:
    """Writes the HTML report of whatever is there; returns where it lies."""
    cfg = space.cfg
    if cfg.ranker is not None:
        return ranking.report(space)
    dataset = load_dataset(space.data) if space.data.exists() else None
    results = {}
    for folder in sorted(space.evaluation("").glob("*")):
        found = evaluation.read_evaluation(folder)
        results[f"{cfg.name}, {folder.name}"] = found.results
    log = read_log(space.run(cfg.seeds[0]) / "log.jsonl")
    texts = cfg.instructions.evaluate if cfg.model.instructions.reasoning else None
    shown = (answers.examples(space, load(space, instructions=texts), examples)
             if (space.run(cfg.seeds[0]) / "best").exists() else ())
    configuration = config.to_dict(cfg)
    write_report(
        space.report, title=cfg.name, results=results or None, training=log or None,
        semantic_ids=space.semantic_ids if space.semantic_ids.exists() else None,
        dataset=dataset, examples=shown,
        following={path.stem: artifacts.read_json(path) for path in
                   sorted((space.folder / "following").glob("*.json"))},
        facts={"configuration": configuration | {
            "data": in_use(configuration["data"])}, "versions": versions()})
    return {"report": str(space.report)}


def story(space: Workspace) -> dict[str, Any]:
    """Goes on where a trained shop stands: think, align, test; one page for all of it.

    Killed and started again, each part continues.

    Args:
      space: of a simulated shop, trained and evaluated.

    Returns:
      "thought" (of `slow_thinking.think`), "alignment" (of `aligning.align`), "test"
      (of `ab_test.run`) and "story", the page.
    """
    cfg, dataset = space.cfg, load_dataset(space.data)
    last = int(np.asarray(dataset.column("time")).max())
    thought = slow_thinking.think(space, slow_thinking.Wanted(
        since=str(last // 86_400 * 86_400)))
    aligned = space.folder / "aligned"
    begun = (aligned / "experiment.json").exists()
    other = open_workspace(aligned, None if begun else aligning.begin(
        aligned, str(space.folder)), _SHORT_ALIGNMENT)
    alignment = align(other)
    test = ab_test.run(ab_test.Plan(
        str(space.folder), (str(aligned),), days=_DAYS,
        users=min(_PEOPLE, dataset.num_sequences),
        design=trial.Design(paired=True, splits=50)), space.folder / "abtest")
    seed = cfg.seeds[0]
    results = evaluation.read_evaluation(space.evaluation("test")).results
    shown = ("item.recall@10", "item.ndcg@10")
    page = write_story_page(space.folder / "story.html", {
        "counts": dataset.manifest["counts"],
        "quality": {name: value for name, value in
                    load(space).ids.manifest["quality"].items()
                    if isinstance(value, int | float)},
        "results": {cell: results[cell] for cell in shown} | {
            f"{name}, {cell}": cells[cell]
            for name, cells in results["baselines"].items() for cell in shown},
        "log": read_log(space.run(seed) / "log.jsonl"),
        "aligned_log": read_log(other.run(seed) / "log.jsonl"),
        **_thought(space),
        "alignment": alignment["runs"][f"seed{seed}"], "test": test,
        "links": {"training": "report.html", "ids": space.semantic_ids_page.name,
                  "test": "abtest/report.html"}}, title=f"{cfg.name}, from end to end")
    return {"thought": thought, "alignment": alignment, "test": test,
            "story": str(page)}


def _thought(space: Workspace) -> dict[str, Any]:
    """How many instructions were written, and different ones of a few people."""
    encoder = instruction_store.Encoder(space)
    with instruction_store.open_history(space, encoder, readonly=True) as store:
        kept = read_history(store, space.cfg.think.served)
    first = {text: user for user, text in zip(kept.users, kept.texts) if text}
    return {"written": sum(map(bool, kept.texts)),
            "thought": [{"user": user, "text": text}
                        for text, user in list(first.items())[:_SHOWN]]}


def versions() -> dict[str, str]:
    """Versions and devices that figures depend on."""
    device = jax.devices()[0]
    return {"oxyrec_jax": __version__, "jax": jax.__version__, "numpy": np.__version__,
            "device": f"{jax.device_count()} x {device.device_kind}"}


def flops_per_target(space: Workspace, ready: Ready) -> float:
    """FLOPs of a training step for each supervised target, mixture heads left out.

    With one target for each row they do not depend on which targets are supervised,
    but for the lengths of their histories.
    """
    cfg, dataset = space.cfg.train.pipeline, ready.dataset
    features = ready.catalogue.tables.features

    def forward(lengths: list[int], targets: list[int]) -> float:
        return forward_flops(
            space.cfg.model, ready.ids.widths, lengths=lengths, targets=targets,
            features=0 if features is None else features.shape[1]).total

    if cfg.mode == "packed":
        split = np.asarray(dataset.split("train"))
        lengths = np.minimum(split[:, 2] - 1, cfg.history).tolist()
        return 3 * forward(lengths, lengths) / max(sum(lengths), 1)
    positions, chosen = dataset.targets("train")[:, 1], chosen_targets(dataset, cfg)
    histories, counts = np.unique(np.minimum(
        positions if chosen is None else positions[chosen], cfg.history),
        return_counts=True)
    each = [forward([length], [1]) for length in histories.tolist()]
    return 3 * float(np.average(each, weights=counts))


def _repeats(space: Workspace) -> dict[str, str]:
    """How many training targets repeat an item, and what to do where none do."""
    share = rows.repeat_share(rows.of_dataset(load_dataset(space.data, verify=False)))
    if share is None:
        return {}
    told = f"{share:.1%} of the training targets repeat an item of the same history"
    if share < rows.REPEATS and space.cfg.model.repeats and space.cfg.ranker is None:
        told += ("; where so few do, --set model.repeats=false keeps what a person had "
                 "out of the answers of a memory (model.memory=true)")
    return {"repeats": told}


def _before_a_change(space: Workspace) -> Dataset:
    need(space.data, "prepare")
    need(space.semantic_ids, "tokenize")
    return load_dataset(space.data)


def _of_bundle(space: Workspace, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What `tokenize` tells: the quality figures, the gate, what was done; its page."""
    page = write_tokenizer_page(space.semantic_ids_page, space.semantic_ids,
                                load_dataset(space.data), title=f"{space.cfg.name}: "
                                "semantic IDs")
    crowded = quality_gate.crowded(manifest["quality"], space.cfg.tokenizer.collisions)
    return {"page": str(page), "widths": manifest["widths"], **manifest["quality"],
            "gate": manifest["gate"], "generation": manifest["generation"],
            **(manifest["lifecycle"] or {}),
            **({"crowded": crowded} if crowded else {})}
