"""What a step needs before it can begin: data, items on the device, the network."""

import dataclasses
import logging
from typing import Any

import numpy as np

from oxyrec_jax import artifacts
from oxyrec_jax.base import InputError
from oxyrec_jax.config import Experiment
from oxyrec_jax.data.dataset import Dataset, load_dataset
from oxyrec_jax.data.instruction_table import (InstructionTable, load_instructions,
                                               write_instructions)
from oxyrec_jax.data.profiles import load_profiles
from oxyrec_jax.data.shop.instructions import STORE, instruction_texts
from oxyrec_jax.evaluate import rows
from oxyrec_jax.instruction_store import instructions_of_log
from oxyrec_jax.models.generator import Generator
from oxyrec_jax.models.memory import count_successors
from oxyrec_jax.models.nearest import kept_nearest
from oxyrec_jax.tokenizer import embeddings, sid_table
from oxyrec_jax.tokenizer.catalogue import Catalogue, make_catalogue
from oxyrec_jax.tokenizer.trie import Leaves
from oxyrec_jax.train.parameters import read_params
from oxyrec_jax.workspace import Workspace, check_run, need, start_of

START = "start.json"  # in a run's folder: what it was started from
_ITEM_BUCKET = 128
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Ready:
    """A data set, its items on the device, and the network that fits them."""

    dataset: Dataset
    ids: sid_table.SemanticIds
    catalogue: Catalogue
    leaves: Leaves
    model: Generator


def load(space: Workspace, *, live: bool = False, instructions: str | None = None,
         texts: bool = True, spare: float = 0.0, at_least: Catalogue | None = None
         ) -> Ready:
    """Opens data set and semantic IDs and puts the items on the device.

    Args:
      space: with data set and semantic IDs.
      live: the catalogue as it is now: with the items that were added, without those
        that were retired, its tables as long as their bucket, so that a few more items
        compile nothing. Otherwise the data set's own items, all of them: what a run
        learns and is judged on does not change when items come and go.
      instructions: kind of the texts of the requests, where the network reads them;
        None: those that it is trained with, a share of them left out
        (instructions.dropout).
      texts: without them nothing is read of what requests of the log would carry, which
        a server asks for elsewhere.
      spare: (live) share of rows that are kept free for items to come.
      at_least: (live) a catalogue whose array sizes this one must not fall below, so
        that it can take its place in a compiled program.
    """
    cfg = space.cfg
    if cfg.ranker is not None:
        raise InputError(f"{space.folder} holds a ranking model, which is trained and "
                         "evaluated there and re-orders what a generator recommends "
                         "(oxyrec recommend --rerank); give the work directory of a "
                         "generator")
    need(space.data, "prepare")
    dataset = load_dataset(space.data)
    if cfg.model.own == "requests" and "request" not in dataset.columns:
        raise InputError(f"model.own is 'requests', and {space.data} does not tell what"
                         " was one request; set model.own=events")
    if cfg.beams > dataset.num_items:
        ks = ",".join(str(k) for k in cfg.evaluate.ks if k <= dataset.num_items)
        raise InputError(
            f"beams is {cfg.beams}, but the catalogue has {dataset.num_items} items; "
            f"run the same command with --set beams={dataset.num_items} --set "
            f"evaluate.ks=[{ks}]")
    need(space.semantic_ids, "tokenize")
    ids = sid_table.load_semantic_ids(space.semantic_ids, dataset)
    features = item_features(space, ids)
    count = len(ids.codes) if live else dataset.num_items
    items = item_rows(count + int(count * spare))
    if at_least is not None:
        items = max(items, len(at_least.tables.codes))
    catalogue, leaves = make_catalogue(
        ids.codes[:count], ids.widths, popularity=ids.priority[:count],
        features=None if features is None else features[:count],
        **_memory_tables(space, dataset), rows=items if live else None,
        retired=~ids.live if live else None,
        at_least=None if at_least is None else at_least.trie)
    if cfg.model.profile:
        dataset = dataclasses.replace(
            dataset, profiles=load_profiles(dataset, cfg.model.profile))
    model = Generator(cfg.model, tuple(ids.widths), items,
                      dataset.profiles.size if dataset.profiles else 0)
    if "instruction" in model.columns and texts:
        table = instruction_table_of(space, dataset,
                                     instructions or cfg.instructions.train)
        if instructions is None:
            requests = (dataset.column("request") if "request" in dataset.columns
                        else np.arange(dataset.num_events))
            table = table.thinned(cfg.instructions.dropout, requests,
                                  seed=cfg.instructions.seed)
        dataset = dataset.with_instructions(table)
    elif instructions is not None:
        raise InputError(f"the instructions {instructions!r} were asked for, and the "
                         "network reads none; train one with "
                         "model.instructions.reasoning=true")
    return Ready(dataset, ids, catalogue, leaves, model)


def item_features(space: Workspace, ids: sid_table.SemanticIds) -> np.ndarray | None:
    """The vectors of the items, `[N, F]`, where the network reads them.

    Raises:
      InputError: it does, and the semantic IDs hold none.
    """
    if not space.cfg.model.item_features:
        return None
    if ids.embeddings is None:
        raise InputError("model.item_features needs the embeddings of the items, which "
                         f"{space.semantic_ids} does not hold; set it to false")
    return ids.embeddings


def text_vectors(space: Workspace, dataset: Dataset) -> np.ndarray | None:
    """The vectors of the items' texts, `[N, F]`, from the cache where they were made
    before; None where no item has a text."""
    texts = [text or "" for text in dataset.item_table()["text"].to_pylist()]
    if not any(texts):
        return None
    return embeddings.embed_texts(texts, space.cfg.text, space.folder / "cache")


def _memory_tables(space: Workspace, dataset: Dataset) -> dict[str, Any]:
    """What the memory asks, by `make_catalogue`'s names; nothing without a memory."""
    cfg = space.cfg.model
    if not cfg.memory:
        return {}
    if dataset.by_basket:
        raise InputError("model.memory counts what followed item after item, and the "
                         f"baskets of {space.data} are sets; set model.memory=false"
                         " (model.own=requests reads them)")
    events = rows.of_dataset(dataset)
    tables: dict[str, Any] = {"successors": count_successors(
        events.items, events.offsets, events.train, num_items=dataset.num_items,
        most=cfg.successors)}
    if cfg.nearest:
        vectors = text_vectors(space, dataset)
        if vectors is None:
            raise InputError(f"model.nearest is {cfg.nearest}, and no item of "
                             f"{space.data} has a text; set it to 0")
        tables["nearest"] = kept_nearest(vectors, most=cfg.nearest,
                                         cache_folder=space.folder / "cache")
    return tables


def item_rows(count: int) -> int:
    """Rows of a network's item table for so many items, so that meshes divide it."""
    return -(-count // _ITEM_BUCKET) * _ITEM_BUCKET


def parameters(space: Workspace, ready: Ready, seed: int) -> Any:
    """The best parameters of a run, NumPy arrays, once it is sure that they fit.

    Items that were added since begin without a vector of their own: it is zero.
    """
    need(space.run(seed) / "best", "train")
    check_run(space, seed, ready.ids)
    params = read_params(space.run(seed) / "best")[0]
    known, rows = ready.dataset.num_items, ready.model.items
    if len(ready.catalogue.tables.codes) > known and "item_vectors" in params:
        vectors = np.asarray(params["item_vectors"])
        longer = np.zeros((rows, vectors.shape[1]), vectors.dtype)
        longer[:known] = vectors[:known]
        params = {**params, "item_vectors": longer}
    return params


def starting_parameters(space: Workspace, ready: Ready, seed: int) -> Any:
    """The parameters that a run begins with; writes down which they are.

    Raises:
      InputError: the run has begun with others, or what `start_of` raises.
    """
    folder, path = start_of(space, seed, ready.ids), space.run(seed) / START
    params, step = read_params(folder)
    found = {"folder": str(folder), "step": step, "digest": artifacts.value_digest(
        artifacts.read_json(folder / artifacts.MANIFEST))}
    if path.exists():
        known = artifacts.read_json(path)
        if known["digest"] != found["digest"]:
            raise InputError(
                f"{space.run(seed)} began with the parameters of step {known['step']} "
                f"in {known['folder']}, and {folder} holds others now; put those back, "
                f"or delete {space.run(seed)} to begin anew")
    else:
        artifacts.write_json(path, found)
    return params


def texts_of(cfg: Experiment) -> dict[str, Any]:
    """What a run's `run.json` tells of the texts that it is trained with, JSON values;
    nothing of a network that reads none."""
    if not cfg.model.instructions.reasoning:
        return {}
    made = {name: getattr(cfg.instructions, name)
            for name in ("train", "noise", "vague", "seed", "dropout")}
    return {"texts": made}


def instruction_table_of(space: Workspace, dataset: Dataset, kind: str
                         ) -> InstructionTable:
    """The instructions of a log's requests, made and embedded where they are not yet.

    Args:
      space: with prepared data; the table is kept in its folder.
      dataset: the data.
      kind: see `data.shop.instructions`; "store" is read anew each time.

    Raises:
      InputError: an unknown kind, the data set is no simulated shop's, or no
        instruction was thought for it.
    """
    if kind == STORE:
        return _from_store(space, dataset)
    cfg = space.cfg.instructions
    made = {"kind": kind, "noise": cfg.noise, "vague": cfg.vague, "seed": cfg.seed,
            "encoder": embeddings.describe_encoder(space.cfg.text)}
    folder = space.instructions(kind)
    if folder.exists():
        known = artifacts.read_json(folder / artifacts.MANIFEST)
        if isinstance(known, dict) and known.get("made") == made:
            return load_instructions(folder, dataset)
    found = instruction_texts(dataset, kind, noise=cfg.noise, vague=cfg.vague,
                              seed=cfg.seed)
    texts = found.texts or [""]  # "none" has no text and still a width
    vectors = embeddings.embed_texts(texts, space.cfg.text, space.folder / "cache")
    table = InstructionTable(found.index, vectors.astype(np.float32), texts)
    write_instructions(table, dataset, folder, made)
    return table


def _from_store(space: Workspace, dataset: Dataset) -> InstructionTable:
    """What the instruction store held at each request, the default where nothing."""
    served = instructions_of_log(space, dataset)
    _log.info("instructions of %d events: %s", dataset.num_events, ", ".join(
        f"{count} {name}" for name, count in served.sources.items()))
    write_instructions(served.table, dataset, space.instructions(STORE), {
        "kind": STORE, "served": space.cfg.think.served, "sources": served.sources,
        "ages": served.ages, "encoder": embeddings.describe_encoder(space.cfg.text)})
    return served.table
