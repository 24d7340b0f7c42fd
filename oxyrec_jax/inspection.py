"""What a work directory holds: each artefact, whether it is whole, and its figures."""

from typing import Any

import jax

from oxyrec_jax import artifacts, ranking, workflow
from oxyrec_jax.base import InputError
from oxyrec_jax.data.dataset import load_dataset
from oxyrec_jax.evaluate import evaluation
from oxyrec_jax.rewards.judge.artefact import read_judge
from oxyrec_jax.tokenizer import sid_table
from oxyrec_jax.train.parameters import read_params
from oxyrec_jax.train.run_log import read_log
from oxyrec_jax.train.setup import feed


def inspect(space: workflow.Workspace) -> dict[str, Any]:
    """Checks every artefact of a work directory, digests included.

    Args:
      space: the work directory.

    Returns:
      JSON values: "data", "semantic_ids", "model", "runs", "evaluations", and "judges"
      where there are some; what is not there or damaged stands as a sentence under
      "problem".
    """
    found: dict[str, Any] = {"workdir": str(space.folder), "experiment": space.cfg.name}
    found["data"] = _or_problem(lambda: _data(space))
    found["semantic_ids"] = _or_problem(lambda: _semantic_ids(space))
    found["model"] = _or_problem(lambda: _model(space))
    found["runs"] = {f"seed{seed}": _or_problem(lambda seed=seed: _run(space, seed))
                     for seed in space.cfg.seeds}
    found["evaluations"] = {
        folder.name: _or_problem(lambda folder=folder: _headline(folder))
        for folder in sorted(space.evaluation("").glob("*"))}
    if judges := sorted(space.folder.glob(f"judge/*/{artifacts.MANIFEST}")):
        found["judges"] = {path.parent.name: _or_problem(
            lambda path=path: _judge(path.parent)) for path in judges}
    return found | {"versions": workflow.versions()}


def _or_problem(look: Any) -> dict[str, Any]:
    try:
        return look()
    except InputError as error:
        return {"problem": str(error)}


def _data(space: workflow.Workspace) -> dict[str, Any]:
    manifest = load_dataset(space.data).manifest
    return {name: manifest[name] for name in
            ("source", "protocol", "tie_policy", "counts") if name in manifest}


def _semantic_ids(space: workflow.Workspace) -> dict[str, Any]:
    ids = sid_table.load_semantic_ids(space.semantic_ids, load_dataset(space.data))
    return {"widths": list(ids.widths), **ids.manifest["quality"]}


def _model(space: workflow.Workspace) -> dict[str, Any]:
    if space.cfg.ranker is not None:
        return ranking.sizes(space)
    ready = workflow.load(space)
    example = feed(ready.model, ready.dataset, space.cfg.train.pipeline, seed=0).example
    shapes = jax.eval_shape(
        lambda: ready.model.init(jax.random.key(0), example, ready.catalogue.tables))
    sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(part))
             for name, part in shapes["params"].items()}
    return {"parameters": sum(sizes.values()), "by_part": sizes,
            "flops_per_target": workflow.flops_per_target(space, ready)}


def _run(space: workflow.Workspace, seed: int) -> dict[str, Any]:
    log = read_log(space.run(seed) / "log.jsonl")
    _, step = read_params(space.run(seed) / "best")
    return {"steps_logged": log[-1]["step"] if log else 0, "best_step": step}


def _headline(folder: Any) -> dict[str, Any]:
    results = evaluation.read_evaluation(folder).results
    return {name: value for name, value in results.items()
            if name.endswith("@10") or name == "tie_policy"}


def _judge(folder: Any) -> dict[str, Any]:
    figures = read_judge(folder)[1]["figures"]
    return {name: figures[name] for name in ("judge", "pair_auc", "point_acc")}
