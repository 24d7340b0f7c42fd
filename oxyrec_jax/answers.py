"""Recommendations for a few requests: on the command line and in the report."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from oxyrec_jax.base import InputError
from oxyrec_jax.data import event_rows, pipeline
from oxyrec_jax.data.dataset import Dataset
from oxyrec_jax.data.profiles import load_profiles
from oxyrec_jax.decode.beam import expand_items
from oxyrec_jax.decode.recommend import recommend as search
from oxyrec_jax.instruction_store import Encoder, Read, read_one
from oxyrec_jax.ready import Ready, load, parameters
from oxyrec_jax.ranking import catalogue_digest, load_ranker
from oxyrec_jax.report import Example
from oxyrec_jax.serve.rows import Row, lay, sides_of
from oxyrec_jax.tokenizer import sid_table
from oxyrec_jax.tokenizer.item_sets import place_items
from oxyrec_jax.tokenizer.trie_filter import Filter, make_filter
from oxyrec_jax.workspace import Workspace, open_workspace

FIGURES = ("click", "cart", "order", "value")  # by which a ranking model may order


@dataclasses.dataclass(frozen=True)
class Asked:
    """Where a request is made and for what; None leaves it to the default.

    Attributes:
      scenario: name of a scenario of the log; by default its first.
      trigger: item id of what opened the scenario; by default none.
      instruction: a text; by default what the instruction store holds for the user,
        else none, which the network learnt to stand for.
      behaviour: name of a behaviour of the log to ask for; by default that of the
        experiment (instructions.behaviour), its last where that names none.
    """

    scenario: str | None = None
    trigger: str | None = None
    instruction: str | None = None
    behaviour: str | None = None


def recommend(space: Workspace, *, user: str | None = None,
              items: Sequence[str] = (), k: int = 10, asked: Asked = Asked(),
              exclude_history: bool = False, rerank: str = "", by: str = "value"
              ) -> dict[str, Any]:
    """Recommends for a user of the data set or for a history given by item ids.

    Args:
      space: with a trained run; the first seed answers.
      user: a user id of the log; the whole sequence is the history.
      items: item ids of the log, oldest first, instead.
      k: how many items.
      asked: where and for what, for a network that reads instructions.
      exclude_history: recommend nothing that stands in the history.
      rerank: work directory of a ranking model that orders the beam anew; "": none.
      by: its figure that orders, "click", "cart", "order" or "value".

    Returns:
      `history` and `recommendations`: lists of item id, title and, for the latter,
      rank, semantic ID, log-probability in nats and, where a ranking model orders,
      its `by`; `note`, a sentence where the
      history is longer than the model reads; and, of a network that reads instructions,
      `instruction`: its text, source ("asked", "store" or "default"), and version and
      age or why it is the default.

    Raises:
      InputError: an unknown user, item or scenario, an empty history, K above what may
        be recommended, an instruction for a network that reads none, or a ranking model
        of other items.
    """
    cfg, ready = space.cfg, load(space, live=True)
    if rerank and by not in FIGURES:
        raise InputError(f"--by {by}: expected one of {', '.join(FIGURES)}")
    if k > cfg.beams:  # a wider search; else the very lists that `evaluate` judges
        space = dataclasses.replace(space, cfg=dataclasses.replace(cfg, beams=k))
    table = sid_table.catalogue_table(ready.dataset, ready.ids)
    ids, titles = table["item_id"].to_pylist(), table["title"].to_pylist()
    history = _history(ready.dataset, ids, user, items)
    open_, allowed = np.array(ready.ids.live), None
    if exclude_history:
        trie = ready.catalogue.trie
        open_[history] = False
        allowed = make_filter(trie, place_items(trie, ready.leaves), batch=1,
                              deny=jax.numpy.asarray(history[None]))
    count = int(open_.sum())
    if not 1 <= k <= count:
        raise InputError(f"--k {k}: the catalogue has {count} items"
                         + exclude_history * " that are not in the history"
                         + f"; ask for 1 to {count}")
    most = cfg.train.pipeline.history
    note = (f"The history has {len(history)} items, the model reads the newest {most}."
            if len(history) > most else "")
    params = jax.device_put(parameters(space, ready, cfg.seeds[0]))
    read = (_read(space, asked, user)
            if "target_instruction" in ready.model.cfg.instructions.reads else None)
    batch = _request(space, ready, history, asked, ids, user)
    if read is not None:
        batch["target_instruction"] = read.vector[None, None]
    answer = _answers(space, ready, params, batch, allowed)[0]
    scores = {}
    if rerank:
        scores = _scores(rerank, by, ready, history, asked, ids, user,
                         [item for item, _ in answer])
        answer = sorted(answer, key=lambda pair: -scores[pair[0]])
    return {
        "history": [{"item_id": ids[item], "title": titles[item]} for item in history],
        "recommendations": [
            {"rank": place + 1, "item_id": ids[item], "title": titles[item],
             "semantic_id": ready.ids.codes[item].tolist(),
             "log_prob": round(log_prob, 4),
             **({by: round(scores[item], 6)} if rerank else {})}
            for place, (item, log_prob) in enumerate(answer[:k])],
        "note": note, **({} if read is None else {"instruction": read.told})}


def examples(space: Workspace, ready: Ready, count: int) -> list[Example]:
    """Evenly spread users of the test split with what they get and what they chose."""
    history = space.cfg.train.pipeline.history
    batches = pipeline.eval_batches(
        ready.dataset, "test", batch=count, history=history,
        columns=ready.model.columns, long=ready.model.cfg.retrieval.events,
        behaviour=space.cfg.instructions.behaviour)
    count = min(count, batches.targets)
    chosen = np.linspace(0, batches.targets - 1, count).astype(int)
    batch = batches.take(chosen)
    params = jax.device_put(parameters(space, ready, space.cfg.seeds[0]))
    names, targets = ready.dataset.user_ids(), ready.dataset.targets("test")
    found = []
    for row, answer in enumerate(_answers(space, ready, params, batch)):
        real = batch["segments"][row] > 0
        found.append(Example(
            str(names[targets[chosen[row], 0]]), batch["items"][row, real].tolist(),
            [item for item, _ in answer[:10]],
            [log_prob for _, log_prob in answer[:10]], int(batch["targets"][row, 0])))
    return found


def _scores(folder: str, by: str, ready: Ready, history: np.ndarray, asked: Asked,
            ids: Sequence[str], user: str | None, items: Sequence[int]
            ) -> dict[int, float]:
    """What a ranking model says of each item of a beam for one request."""
    scorer = load_ranker(folder)
    if scorer.catalogue != catalogue_digest(ready.dataset):
        raise InputError(f"--rerank {folder}: the ranking model there learnt another "
                         f"item table than {ready.dataset.folder} holds; train one on "
                         "the same data")
    new = [ids[item] for item in items if item >= ready.dataset.num_items]
    if new:
        raise InputError(f"--rerank {folder}: the ranking model there does not know "
                         f"{new[0]}, which was added later; recommend without it")
    space = open_workspace(pathlib.Path(folder), None)
    names = space.cfg.model.profile
    dataset = dataclasses.replace(ready.dataset, profiles=load_profiles(
        ready.dataset, names) if names else None)
    known = {f"target_{name}": getattr(asked, name) for name in
             ("scenario", "trigger")}
    mine = Asked(**{name.removeprefix("target_"): value for name, value in
                    known.items() if name in scorer.reads})
    model: Any = scorer.model
    batch = _request(space, dataclasses.replace(
        ready, model=model, dataset=dataset), history, mine, ids, user)
    if "target_query" in scorer.reads:
        batch["target_query"] = np.full((1, 1), -1, np.int32)
    found = jax.jit(scorer.__class__.__call__)(
        scorer, {name: batch[name] for name in scorer.reads},
        np.array([items], np.int32))[by]
    return dict(zip(items, np.asarray(found)[0].tolist()))


def _request(space: Workspace, ready: Ready, history: np.ndarray, asked: Asked,
             ids: Sequence[str], user: str | None) -> dict[str, np.ndarray]:
    """A batch of one request; side features of a user's events are the log's."""
    model, dataset = ready.model, ready.dataset
    columns: dict[str, np.ndarray] = {}
    profile, places = None, 0
    if user is not None and model.cfg.told:
        first, last = dataset.offsets()[dataset.user_ids().index(user):][:2]
        columns = {name: dataset.column(name)[first:last] for name in dict.fromkeys(
            event_rows.MADE_OF.get(name, name) for name in model.cfg.told)}
    if dataset.profiles is not None:
        places = dataset.profiles.rows.shape[1]
        if user is not None:
            profile = dataset.profiles.rows[dataset.user_ids().index(user)]
    # When the request is made nobody has said.
    row = Row(history, sides_of(columns.pop("time", None), None, columns,
                                model.cfg.told), profile)
    batch = lay([row], None, model, batch=1, profile=places,
                length=space.cfg.train.pipeline.history)
    return batch | _instructions(space, ready, asked, ids)


def _instructions(space: Workspace, ready: Ready, asked: Asked, ids: Sequence[str]
                  ) -> dict[str, np.ndarray]:
    """What the instruction tokens of one request are made of, but for its text."""
    read, manifest = ready.model.cfg.instructions.reads, ready.dataset.manifest
    for name, value in (("scenario", asked.scenario), ("trigger", asked.trigger),
                        ("instruction", asked.instruction),
                        ("behaviour", asked.behaviour)):
        if value is not None and f"target_{name}" not in read:
            raise InputError(f"--{name} {value}: the network of this experiment reads "
                             f"no {name}; see model.instructions")
    found: dict[str, np.ndarray] = {}
    wanted = asked.behaviour or space.cfg.instructions.behaviour or None
    for name, value, default in (("scenario", asked.scenario, 0),
                                 ("behaviour", wanted, -1)):
        if f"target_{name}" in read:
            names = list(manifest[f"{name}s"])
            if value is not None and value not in names:
                raise InputError(f"--{name} {value}: expected one of "
                                 f"{', '.join(names)}")
            number = names.index(names[default] if value is None else value)
            found[f"target_{name}"] = np.full((1, 1), number, np.int8)
    if "target_trigger" in read:
        if asked.trigger is not None and asked.trigger not in ids:
            raise InputError(f"--trigger {asked.trigger}: no such item; ids look like "
                             f"{ids[0]}")
        number = -1 if asked.trigger is None else list(ids).index(asked.trigger)
        found["target_trigger"] = np.full((1, 1), number, np.int32)
    return found


def _read(space: Workspace, asked: Asked, user: str | None) -> Read:
    """The instruction of one request: as asked, else from the store, else none."""
    if asked.instruction is None and user is not None:
        return read_one(space, user)
    encoder = Encoder(space)
    if asked.instruction is None:
        return Read(np.zeros(encoder.dimension, np.float32), {
            "source": "default", "text": "", "why": "a history of no user"})
    return Read(encoder([asked.instruction])[0], {
        "source": "asked", "text": asked.instruction})


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


def _answers(space: Workspace, ready: Ready, params: Any, batch: pipeline.Batch,
             allowed: Filter | None = None) -> list[list[tuple[int, float]]]:
    """For each request items with their semantic ID's log-probability, best first."""
    beams = search(ready.model, params, batch, ready.catalogue, beams=space.cfg.beams,
                   allowed=allowed)
    items = expand_items(beams, ready.leaves, limit=space.cfg.beams, allowed=allowed)
    found = []
    for row in range(len(items)):
        score = dict(zip(map(tuple, np.asarray(beams.codes[row]).tolist()),
                         np.asarray(beams.log_probs[row]).tolist(), strict=True))
        found.append([(item, score[tuple(ready.ids.codes[item].tolist())])
                      for item in items[row].tolist() if item >= 0])
    return found
