"""Whether a network follows its instruction: the same requests under other texts.

The simulated shop knows the need behind each request, so one trained network can be
asked with the need's own text ("oracle"), a text that is sometimes wrong or vague
("noisy"), another need's text ("wrong": swapped) and no text ("none"). Figures are told
for groups of requests:

    all            every request
    deductive      the need follows from the knowledge base (kind "context")
    new deductive  also new in this very request, of which the history holds nothing
                   yet: a history tells least about these

*Controllability* (ours): with T_i(kind) the first K items for request i under texts of
a kind, and l_i the leaf that its swapped text names,

    mean_i [ |T_i(wrong) ∩ l_i| - |T_i(none) ∩ l_i| ] / K

the share of the list that moves to the instructed need. It cannot exceed the mean of
min(K, items of l_i) / K, which is told as `ceiling`. *Steering* is the same under the
right text: l_i is the leaf of the need itself and the kind is "oracle".
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from oxyrec_jax import metrics
from oxyrec_jax.data import schema
from oxyrec_jax.data.dataset import Dataset
from oxyrec_jax.data.shop.instructions import InstructionSource, instruction_texts
from oxyrec_jax.evaluate.rows import Targets

KINDS = ("none", "oracle", "noisy", "wrong")
GROUPS = ("all", "deductive", "new deductive")
FIGURES = ("hr@10", "ndcg@10")
K = 10
LIFT, LOSS = 0.5, 0.02
"""What is aimed at: oracle texts lift HR@10 of deductive requests by half at least, and
noisy ones cost no more than 2 % of it anywhere."""


@dataclasses.dataclass(frozen=True)
class Requests:
    """What is known of the R targets' requests.

    Attributes:
      groups: name to `[R]` bool.
      leaf: `[N]` int, the leaf of each item.
      needed: `[R]` int, the leaf of the need.
      swapped: `[R]` int, the leaf that the text of kind "wrong" names.
      target: `[R]` int items.
    """

    groups: dict[str, np.ndarray]
    leaf: np.ndarray
    needed: np.ndarray
    swapped: np.ndarray
    target: np.ndarray


def requests_of(dataset: Dataset, targets: Targets, source: InstructionSource
                ) -> Requests:
    """Looks up needs and instructed leaves of targets of a simulated shop.

    Args:
      dataset: made by the shop.
      targets: of a split.
      source: of the texts; its seed says which text stands for which request.

    Raises:
      InputError: the data set is no shop's.
    """
    # Of these two kinds the rows of the texts are the numbers of the needs.
    own, other = (instruction_texts(dataset, kind, seed=source.seed)
                  .index[targets.place] for kind in ("oracle", "wrong"))
    table = pq.read_table(dataset.folder / "needs.parquet",
                          columns=["kind", "category"]).to_pydict()
    requests = pq.read_table(dataset.folder / "requests.parquet",
                             columns=["need", "sequence"])
    need, sequence = (requests[name].to_numpy() for name in ("need", "sequence"))
    request = dataset.column("request")[targets.place]
    names = dataset.item_table()["category"].to_pylist()
    place = {name: number for number, name in
             enumerate(sorted({*names, *table["category"]}))}
    leaf_of_need = np.array([place[name] for name in table["category"]])
    before = np.maximum(request - 1, 0)
    same = (request > 0) & (sequence[before] == sequence[request])
    new = ~same | (need[before] != need[request])
    first = schema.opens_request(dataset.offsets(), dataset.column("request"))[
        targets.place]
    context = np.array(table["kind"])[own] == "context"
    return Requests(
        dict(zip(GROUPS, (np.ones(len(request), bool), context,
                          context & new & first))),
        np.array([place[name] for name in names]), leaf_of_need[own],
        leaf_of_need[other], targets.item)


def follow(lists: Mapping[str, Mapping[str, np.ndarray]], requests: Requests,
           users: np.ndarray, *, samples: int = 1000, level: float = 0.95,
           seed: int = 0) -> dict[str, Any]:
    """Compares what a network recommends under texts of several kinds.

    Args:
      lists: each of `KINDS` to name of the run to `[R, >= 10]` int items, -1 = none.
      requests: of the same R targets.
      users: `[R]`, whose target each is.
      samples, level, seed: of the bootstrap over users, paired.

    Returns:
      JSON values by group: `counts`; `kinds`, figures of each kind with intervals;
      `differences` from "none" of the other kinds with mean, low, high, and `relative`,
      the mean over that of "none" (None where that is 0); `controllability` and
      `steering` with mean, low, high and ceiling; `targets`, what is aimed at and
      whether it is met; and `runs`, the figures of each run.
    """
    values = {kind: {run: _figures(items, requests) for run, items in found.items()}
              for kind, found in lists.items()}
    mean = {kind: np.mean(list(found.values()), 0) for kind, found in values.items()}
    moved = np.mean([_moved(lists, run, requests) for run in lists["none"]], 0)
    size = np.bincount(requests.leaf, minlength=int(max(
        requests.leaf.max(), requests.needed.max(), requests.swapped.max())) + 1)
    room = np.minimum(size, K) / K
    found: dict[str, Any] = {"counts": {}, "kinds": {kind: {} for kind in KINDS},
                             "differences": {kind: {} for kind in KINDS[1:]},
                             "controllability": {}, "steering": {}, "runs": {}}
    for group, rows in requests.groups.items():
        found["counts"][group] = int(rows.sum())
        if not rows.any():
            continue
        columns = [*(mean[kind][rows] for kind in KINDS),
                   *(mean[kind][rows] - mean["none"][rows] for kind in KINDS[1:]),
                   moved[rows]]
        drawn = metrics.bootstrap(np.concatenate(columns, 1), users[rows],
                                  samples=samples, level=level, seed=seed)
        cells = iter(zip(drawn.mean.tolist(), drawn.low.tolist(), drawn.high.tolist()))
        for kind in KINDS:
            found["kinds"][kind][group] = {name: _spread(*next(cells))
                                           for name in FIGURES}
        for kind in KINDS[1:]:
            found["differences"][kind][group] = {
                name: _relative(_spread(*next(cells)),
                                found["kinds"]["none"][group][name]["mean"])
                for name in FIGURES}
        for name, leaf in (("controllability", requests.swapped),
                           ("steering", requests.needed)):
            found[name][group] = {**_spread(*next(cells)),
                                  "ceiling": float(room[leaf[rows]].mean())}
    found["runs"] = {run: {kind: {group: dict(zip(
        FIGURES, values[kind][run][rows].mean(0).tolist()))
        for group, rows in requests.groups.items() if rows.any()} for kind in KINDS}
        for run in lists["none"]}
    return {**found, "targets": _targets(found)}


def _figures(items: np.ndarray, requests: Requests) -> np.ndarray:
    """`[R, 2]` float64: HR@10 and NDCG@10 of each target."""
    ranks = metrics.ranks(items, requests.target)
    return np.stack([metrics.hit_rate(ranks, K), metrics.ndcg(ranks, K)], 1)


def _moved(lists: Mapping[str, Mapping[str, np.ndarray]], run: str, requests: Requests
           ) -> np.ndarray:
    """`[R, 2]` float64: each request's part in controllability and in steering."""
    def share(kind: str, leaf: np.ndarray) -> np.ndarray:
        top = lists[kind][run][:, :K]
        inside = (top >= 0) & (requests.leaf[np.maximum(top, 0)] == leaf[:, None])
        return inside.sum(axis=1) / K
    return np.stack([share(kind, leaf) - share("none", leaf) for kind, leaf in
                     (("wrong", requests.swapped), ("oracle", requests.needed))], 1)


def _spread(mean: float, low: float, high: float) -> dict[str, float]:
    return {"mean": mean, "low": low, "high": high}


def _relative(difference: dict[str, float], base: float) -> dict[str, float | None]:
    return {**difference, "relative": difference["mean"] / base if base else None}


def _targets(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is aimed at, what was found, and whether it is met."""
    rows = []
    for kind, groups, claim, good in (
            ("oracle", GROUPS[1:], f"{LIFT:+.0%} or more", lambda x: x >= LIFT),
            ("wrong", GROUPS, "below 0", lambda x: x < 0),
            ("noisy", GROUPS, f"{-LOSS:+.0%} or more", lambda x: x >= -LOSS)):
        for group in groups:
            cell = found["differences"][kind].get(group)
            if cell is None or cell["hr@10"]["relative"] is None:
                continue
            change = cell["hr@10"]["relative"]
            rows.append({"kind": kind, "group": group, "expected": claim,
                         "relative": change, "met": bool(good(change))})
    return rows
