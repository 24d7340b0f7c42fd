"""The step `judge`: stage A over logged candidates, stage B learnt, both measured.

    judge/<kind>/       a judge: weights, records, figures (`rewards.judge.artefact`)
    judge/<kind>.html   its page
    judge/asked/        what a language model was asked and said, for all judges
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from oxyrec_jax import artifacts, llm, progress
from oxyrec_jax.base import InputError
from oxyrec_jax.data.dataset import Dataset, load_dataset
from oxyrec_jax.data.shop.knowledge import load_knowledge
from oxyrec_jax.data.shop.prepare import SOURCE
from oxyrec_jax.data.target_weights import target_events
from oxyrec_jax.evaluate import judges
from oxyrec_jax.judge_requests import (Logged, LogRequests, item_texts,
                                       logged_candidates)
from oxyrec_jax.report.judge_page import write_judge_page
from oxyrec_jax.rewards.judge import sampling
from oxyrec_jax.rewards.judge.artefact import read_judge, write_judge
from oxyrec_jax.rewards.judge.aspects import ASPECTS, AspectJudge, Judged, Spent
from oxyrec_jax.rewards.judge.degraded import (BiasedJudge, ConflictingJudge,
                                               NoisyJudge)
from oxyrec_jax.rewards.judge.language import LanguageJudge
from oxyrec_jax.rewards.judge.prompts import JudgePrompt
from oxyrec_jax.rewards.judge.records import Record
from oxyrec_jax.rewards.judge.rules import RuleJudge
from oxyrec_jax.rewards.judge.service import Judge, spent_figures
from oxyrec_jax.rewards.judge.settings import OF_SHOP, JudgeSettings
from oxyrec_jax.rewards.judge.truth import ShopTruth
from oxyrec_jax.rewards.judge.weighting import (METHODS, FeatureSpec, Pairs, Weighting,
                                                fit_weighting)
from oxyrec_jax.tokenizer import embeddings
from oxyrec_jax.tokenizer.sid_table import dataset_digest
from oxyrec_jax.workspace import Workspace, need

_AT_ONCE = 64  # requests judged together: a killed run loses no more


def judge(space: Workspace, split: str = "valid") -> dict[str, Any]:
    """Judges logged candidates, learns stage B from them, and measures both.

    Killed and started again it goes on: a language model is asked nothing twice.

    Args:
      space: with a prepared data set.
      split: whose requests.

    Returns:
      The figures (docs/judge.md lists them) and the folder and page of the judge.

    Raises:
      InputError: a setting, the data set or the model's server is not usable, or no
        pair of candidates is known to differ.
    """
    cfg = space.cfg.judge
    need(space.data, "prepare")
    dataset = load_dataset(space.data)
    log = LogRequests(dataset, history=cfg.prompt.history, searches=cfg.prompt.searches)
    logged = logged_candidates(log, split, most=cfg.requests,
                               candidates=cfg.candidates, seed=cfg.seed)
    aspects = open_aspects(space, dataset, cfg)
    judged = _stage_a(aspects, logged)
    held = sampling.chosen(logged.users.tolist(), cfg.held, cfg.seed + 1)
    spec = FeatureSpec(tuple(dataset.manifest.get("scenarios", ())))
    pairs, spent = _labelled(aspects, logged, judged, cfg, spec, held)
    weightings, courses = {}, {}
    for method in METHODS:
        weightings[method], courses[method] = fit_weighting(
            pairs, spec, dataclasses.replace(cfg.weighting, method=method),
            seed=cfg.seed)
    chosen = weightings[cfg.weighting.method]
    reference = _reference(dataset, logged, aspects)
    found = {
        "kind": cfg.kind, "judge": aspects.name, "split": split,
        "candidates": "shown" if logged.shown else "chosen and drawn",
        "reference": reference.kind, "method": cfg.weighting.method,
        "counts": {"requests": len(logged.requests), "held_requests": int(held.sum()),
                   "points": int(judged.known.sum()),
                   "learnt_pairs": len(pairs.better)},
        **_measured(logged, judged, reference, weightings, cfg, held),
        "learning": {method: {"first": float(course[:20].mean()),
                              "last": float(course[-20:].mean())}
                     for method, course in courses.items()},
        "cost": spent_figures(judged.spent + spent)}
    folder = space.folder / "judge" / cfg.kind
    write_judge(folder, chosen, _records(dataset, logged, judged, aspects.name), {
        "figures": found, "settings": dataclasses.asdict(cfg),
        "dataset": dataset_digest(dataset)})
    page = write_judge_page(folder.with_suffix(".html"), found, title=(
        f"{space.cfg.name}: the judge {cfg.kind}"))
    return found | {"folder": str(folder), "page": str(page)}


def load_judge(space: Workspace, kind: str | None = None, *,
               share: float | None = None) -> Judge:
    """Opens a judge that `oxyrec judge` made, for an aligner.

    Args:
      space: the work directory.
      kind: which; that of the experiment's settings by default.
      share: of the requests that are judged; that of the settings by default.

    Raises:
      InputError: there is no such judge, it is damaged, or of another data set.
    """
    dataset = load_dataset(space.data)
    kind = space.cfg.judge.kind if kind is None else kind
    folder = space.folder / "judge" / kind
    need(folder, f"judge --judge {kind}")
    weighting, manifest = read_judge(folder)
    if manifest.get("dataset") != dataset_digest(dataset):
        raise InputError(f"{folder} was made from another data set than "
                         f"{space.data}; run oxyrec judge again")
    cfg = _as_made(space.cfg.judge, kind, manifest["settings"])
    aspects = open_aspects(space, dataset, cfg)
    share = cfg.share if share is None else share
    identity = {"kind": kind, "name": aspects.name, "share": share, "seed": cfg.seed,
                "dataset": manifest["dataset"], "weighting": _digest(manifest)}
    if kind == "rules":  # they compare vectors of texts
        identity["encoder"] = embeddings.describe_encoder(space.cfg.text)
    return Judge(aspects, weighting, share=share, seed=cfg.seed, identity=identity)


def of_targets(judge: Judge, log: LogRequests, split: str = "train"
               ) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """A judge by numbers of a split's targets, as an aligner has them in its batches.

    Args:
      judge: from `load_judge`.
      log: of the same data set.
      split: whose targets.

    Returns:
      A function of `[B]` numbers of targets and `[B, G]` items that gives what
      `Judge.score` does.
    """
    events = target_events(log.dataset, split)

    def score(rows: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return judge.score(log.of_events(events[np.asarray(rows)]), items)
    return score


def _as_made(cfg: JudgeSettings, kind: str, made: dict[str, Any]) -> JudgeSettings:
    """Settings of a judge: what decides what it says as it was made with, the rest
    (budget, share, another address of the server) as it is now."""
    endpoint = cfg.endpoint
    if endpoint is None and made["endpoint"] is not None:
        endpoint = llm.Endpoint(**made["endpoint"])
    if endpoint is not None and made["endpoint"] is not None:
        endpoint = dataclasses.replace(endpoint, model=made["endpoint"]["model"])
    return dataclasses.replace(
        cfg, kind=kind, endpoint=endpoint, prompt=JudgePrompt(**made["prompt"]),
        **{name: made[name] for name in
           ("seed", "noise", "prefer", "against", "strength")})


def _digest(manifest: dict[str, Any]) -> str:
    """Of stage B: its features and its arrays."""
    return artifacts.value_digest([manifest["features"], {
        name: entry["sha256"] for name, entry in manifest["files"].items()
        if name.startswith("weighting/")}])


def open_aspects(space: Workspace, dataset: Dataset, cfg: JudgeSettings
                 ) -> AspectJudge:
    """Opens stage A as the settings say.

    Raises:
      InputError: the kind needs a simulated shop, or a setting is not usable.
    """
    texts = item_texts(dataset)
    shop = dataset.manifest["source"] == SOURCE
    if cfg.kind in OF_SHOP and not shop:
        raise InputError(
            f"{dataset.folder} was made from {dataset.manifest['source']!r}: the judge "
            f"{cfg.kind!r} knows a simulated shop's truth alone; take rules or llm")
    if cfg.kind == "llm":
        if cfg.endpoint is None:
            raise InputError("the judge llm needs a server; name it with --set "
                             "judge.endpoint.url=URL --set judge.endpoint.model=NAME")
        return LanguageJudge(texts, cfg.endpoint, cfg.chat, cfg.budget, cfg.prompt,
                             space.folder / "judge" / "asked")
    if cfg.kind == "rules":
        words = [f"{title} {category}" for title, category in
                 zip(texts.titles, texts.categories)]
        if not any(word.strip() for word in words):
            raise InputError(f"{dataset.folder} has no texts of its items, which the "
                             "judge reads; prepare a log with titles")
        vectors = embeddings.embed_texts(words, space.cfg.text, space.folder / "cache")
        return RuleJudge(texts, vectors, load_knowledge().rules if shop else ())
    truth = ShopTruth(dataset)
    if cfg.kind == "noisy":
        return NoisyJudge(truth, cfg.noise, cfg.seed)
    if cfg.kind == "biased":
        return BiasedJudge(truth, texts, cfg.prefer, cfg.strength)
    if cfg.kind == "conflicting":
        return ConflictingJudge(truth, cfg.against, cfg.strength)
    return truth


def _stage_a(aspects: AspectJudge, logged: Logged) -> Judged:
    """All requests, some at a time."""
    parts = []
    with progress.bar("judging requests", len(logged.requests)) as advance:
        for start in range(0, len(logged.requests), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            parts.append(aspects.judge(logged.requests[part], logged.items[part],
                                       evidence=True))
            advance(len(parts[-1].given))
    spent = Spent()
    for part_ in parts:
        spent += part_.spent
    scores, given, known, why = (
        np.concatenate([getattr(one, name) for one in parts])
        for name in ("scores", "given", "known", "evidence"))
    if not known.any():
        raise InputError("no candidate could be judged: "
                         + (", ".join(f"{count} × {name}" for name, count in
                                      spent.errors.items())
                            or f"{spent.refused} answers without scores")
                         + "; mend the model's server and run the same command again")
    return Judged(scores, given, known, why, spent)


def _labelled(aspects: AspectJudge, logged: Logged, judged: Judged,
              cfg: JudgeSettings, spec: FeatureSpec, held: np.ndarray
              ) -> tuple[Pairs, Spent]:
    """Pairs of the requests that stage B learns from, the better item first.

    A judge's own opinions where it has some; else a chosen item is better than one
    that was not.
    """
    rows, pairs = _drawn_pairs(logged, judged, cfg, ~held)
    own = None
    if len(rows):
        items = logged.items[rows[:, None], pairs]
        own = aspects.prefer([logged.requests[row] for row in rows], items)
    if own is None:
        chosen = logged.chosen[rows[:, None], pairs].astype(np.float32)
        label, spent = 0.5 + 0.5 * (chosen[:, 0] - chosen[:, 1]), Spent()
    else:
        label, spent = own
    decided = (label == 0) | (label == 1)  # neither equal nor unknown
    rows, pairs, label = rows[decided], pairs[decided], label[decided]
    pairs = np.where((label == 1)[:, None], pairs, pairs[:, ::-1])
    features = spec.of(logged.requests)
    return Pairs(features[rows], judged.given[rows],
                 judged.scores[rows, pairs[:, 0]], judged.scores[rows, pairs[:, 1]]
                 ), spent


def _drawn_pairs(logged: Logged, judged: Judged, cfg: JudgeSettings, taken: np.ndarray
                 ) -> tuple[np.ndarray, np.ndarray]:
    """`[P]` rows and `[P, 2]` places, at most `cfg.pairs` of each request.

    Of a judge without opinions, pairs of which one item was chosen.
    """
    by_log = cfg.kind == "rules"
    rows: list[int] = []
    pairs: list[tuple[int, int]] = []
    for row in np.flatnonzero(taken).tolist():
        places = np.flatnonzero(judged.known[row])
        one, other = np.triu_indices(len(places), 1)
        found = np.stack([places[one], places[other]], axis=1)
        if by_log:
            found = found[logged.chosen[row, found[:, 0]]
                          != logged.chosen[row, found[:, 1]]]
        rng = np.random.default_rng([cfg.seed, _number(logged, row)])
        drawn = rng.permutation(len(found))[:cfg.pairs]
        rows += [row] * len(drawn)
        pairs += [tuple(pair) for pair in found[np.sort(drawn)].tolist()]
    return np.array(rows, int), np.array(pairs, int).reshape(-1, 2)


def _number(logged: Logged, row: int) -> int:
    return int(sampling.hashed([logged.requests[row].id], 0)[0] * 2**32)


def _reference(dataset: Dataset, logged: Logged, aspects: AspectJudge
               ) -> judges.Reference:
    if dataset.manifest["source"] != SOURCE:
        chosen = np.where(logged.items >= 0, logged.chosen, np.nan)
        return judges.Reference(chosen, None, {}, "log")
    truth = aspects if isinstance(aspects, ShopTruth) else ShopTruth(dataset)
    found = truth.look(logged.requests, logged.items)
    return judges.Reference(
        found["click"], np.stack([found[name] for name in ASPECTS], -1),
        {name: found[name] for name in ("click", "order", "value")}, "truth")


def _measured(logged: Logged, judged: Judged, reference: judges.Reference,
              weightings: dict[str, Weighting], cfg: JudgeSettings, held: np.ndarray
              ) -> dict[str, Any]:
    """Figures of the users that stage B did not learn from."""
    rows = np.flatnonzero(held)
    if not len(rows):
        raise InputError(f"judge.held is {cfg.held} and none of the "
                         f"{len(logged.requests)} requests is held out; judge more")
    requests = [logged.requests[row] for row in rows]
    own = Judged(judged.scores[rows], judged.given[rows], judged.known[rows])
    pairs = judges.ordered_pairs(reference.holistic[rows], own.known)
    ways = weightings | {"equal weights": Weighting(weightings[METHODS[0]].spec,
                                                    cfg.weighting)}
    semantic = {name: way.scores(requests, own.scores, own.given)
                for name, way in ways.items()}
    users = logged.users[rows]
    best = semantic[cfg.weighting.method]
    by_choice = judges.ordered_pairs(logged.chosen[rows].astype(float), own.known)
    found: dict[str, Any] = {
        "pair_auc": judges.pair_auc(best, pairs, users),
        "pair_auc_of_choices": judges.pair_auc(best, by_choice, users),
        "pair_auc_by_method": {name: judges.pair_auc(scores, pairs, users)
                               for name, scores in semantic.items()},
        "pair_auc_by_aspect": {
            name: judges.pair_auc(own.scores[..., place], pairs, users)
            for place, name in enumerate(ASPECTS)},
        "point_acc": None, "aspects": None,
        "silent_groups": float(sampling.without_signal(best, own.known).mean()),
        "weights": _weights(weightings[cfg.weighting.method], requests, own.given),
        "business": {name: judges.within(best, values[rows], own.known)
                     for name, values in reference.business.items()}}
    if reference.aspects is not None:
        true = reference.aspects[rows]
        real = own.known[..., None] & own.given[:, None, :]
        found["point_acc"] = judges.point_accuracy(own.scores[real], true[real])
        found["aspects"] = judges.aspect_figures(own, true)
    holistic = reference.holistic[rows]
    found["reliability"] = judges.reliability(best[own.known], holistic[own.known])
    return found


def _weights(weighting: Weighting, requests: list, given: np.ndarray
             ) -> dict[str, dict[str, float]]:
    """Mean weight of each aspect, over all requests and by scenario."""
    weights = weighting.weights(requests, given)
    names = np.array([request.scenario for request in requests])
    groups = {"all": np.ones(len(names), bool)} | {
        str(name): names == name for name in np.unique(names) if name}
    return {group: dict(zip(ASPECTS, weights[rows].mean(0).tolist()))
            for group, rows in groups.items()}


def _records(dataset: Dataset, logged: Logged, judged: Judged, name: str
             ) -> Iterator[Record]:
    ids = [str(one) for one in dataset.item_table()["item_id"].to_pylist()]
    why = judged.evidence
    for row, column in np.argwhere(judged.known).tolist():
        given = [place for place in range(len(ASPECTS)) if judged.given[row, place]]
        yield Record(
            logged.requests[row].id, ids[logged.items[row, column]], name,
            {ASPECTS[place]: round(float(judged.scores[row, column, place]), 6)
             for place in given},
            {ASPECTS[place]: "" if why is None else str(why[row, column, place])
             for place in given})
