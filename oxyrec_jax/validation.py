"""The quick look at parameters that a run takes while it goes on."""

from collections.abc import Mapping
from typing import Any

from oxyrec_jax import metrics
from oxyrec_jax.data.target_weights import targets_in
from oxyrec_jax.evaluate import rows
from oxyrec_jax.evaluate.generator import recommend_split
from oxyrec_jax.ready import Ready
from oxyrec_jax.workspace import Workspace


def validate(space: Workspace, ready: Ready, params: Any) -> Mapping[str, float]:
    """Figures of a set of parameters on the validation split, by a quick search.

    Returns:
      "item.recall@5", "item.ndcg@5" and the same at 10.
    """
    cfg = space.cfg
    only = targets_in(ready.dataset, "valid", cfg.train.pipeline.scenarios)
    lists, numbers = recommend_split(
        ready.model, params, ready.dataset, "valid", ready.catalogue, ready.leaves,
        history=cfg.train.pipeline.history, beams=min(20, ready.dataset.num_items),
        every=cfg.quick_evaluations, behaviour=cfg.instructions.behaviour,
        only=only, what="validating")
    events = rows.of_dataset(ready.dataset)
    wanted = rows.expand(events, ready.dataset.split("valid")).item[numbers]
    ranks = metrics.ranks(lists.items, wanted)
    return {f"item.{name}@{k}": float(figure(ranks, k).mean()) for k in (5, 10)
            for name, figure in (("recall", metrics.recall), ("ndcg", metrics.ndcg))}
