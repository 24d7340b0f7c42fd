"""A table of semantic IDs through time: items join and leave, codebooks learn again.

    add     new items get IDs from the stored encoder and codebooks; no other item moves
    retire  items leave the trie; their rows and IDs stay, so that old logs still read
    refit   the codebooks learn anew from where they stand; it tells what moved how far

Each writes a new bundle in the place of the old one, one generation later, and a run
that was trained on the table stays valid through all but a refit.
"""

import dataclasses
import logging
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pydantic

from oxyrec_jax import artifacts
from oxyrec_jax.base import InputError
from oxyrec_jax.data.dataset import Dataset
from oxyrec_jax.data.readers.items import TEXT_FIELDS
from oxyrec_jax.tokenizer import (build, collisions, drift, embeddings, multisource,
                                  new_items, quantiser, sid_table, sources)
from oxyrec_jax.tokenizer.ordering import NEVER
from oxyrec_jax.tokenizer.quality_gate import GateConfig
from oxyrec_jax.tokenizer.sid_table import SemanticIds
from oxyrec_jax.tokenizer.vector_files import VectorFile

_log = logging.getLogger(__name__)


def add_items(
    dataset: Dataset, folder: str | os.PathLike, path: str | os.PathLike, *,
    cache_folder: str | os.PathLike, columns: Mapping[str, str] | None = None,
    text_fields: Sequence[str] = TEXT_FIELDS, gate: GateConfig = GateConfig(),
    alarm: drift.DriftConfig = drift.DriftConfig(),
) -> dict[str, Any]:
    """Gives new items semantic IDs and moves no other item.

    Args:
      dataset: that the bundle was made for.
      folder: the bundle; the next generation takes its place.
      path: the new items, see `new_items.read_new_items`.
      cache_folder: where text vectors are kept.
      columns: names of the fields in the file, where they are others.
      text_fields: fields that make an item's text, in this order.
      gate: bounds that the figures of the whole catalogue must keep.
      alarm: when the new items are too unlike the old ones.

    Returns:
      The manifest; `lifecycle` holds `step`, `added` and `drift`, see `drift.compare`.
      The new items have the last rows, in the order of the file.

    Raises:
      InputError: the file or an item in it cannot be used, the bundle holds no
        codebooks, its encoder is not there any more, no free ID is left, or a figure
        falls through the gate. The bundle then stays as it was.
    """
    path = pathlib.Path(path)
    ids = sid_table.load_semantic_ids(folder, dataset)
    if ids.codebooks is None or ids.errors is None:
        raise InputError(f"{folder} holds semantic IDs from elsewhere, without "
                         "codebooks; run oxyrec tokenize to make IDs that can grow")
    known = set(sid_table.read_item_ids(folder))
    table = new_items.read_new_items(path, known, columns=columns,
                                     text_fields=text_fields)
    x = _vectors(dataset, ids, table, path, cache_folder,
                 (columns or {}).get("item_id") or "item_id")
    codes = quantiser.encode(ids.codebooks, x)
    left = build.errors(ids.codebooks, x, codes)
    found = drift.compare(ids.errors[:dataset.num_items], left, alarm)
    (_log.warning if found["alarm"] else _log.info)(drift.describe(found))
    grown = _longer(ids, table, len(table), codes=_place(ids, codes, x), x=x, left=left)
    return sid_table.save(dataset, _next(grown, {
        "step": "add", "added": len(table), "drift": found}), folder, gate=gate)


def retire_items(dataset: Dataset, folder: str | os.PathLike, path: str | os.PathLike
                 ) -> dict[str, Any]:
    """Takes items out of the trie; their rows stay.

    Args:
      dataset: that the bundle was made for.
      folder: the bundle; the next generation takes its place.
      path: a text file of item ids, one a line.

    Returns:
      The manifest; `lifecycle` holds `step` and `retired`.

    Raises:
      InputError: an id is unknown or retired already, or no item would be left. The
        bundle then stays as it was.
    """
    ids = sid_table.load_semantic_ids(folder, dataset)
    rows = {name: row for row, name in enumerate(sid_table.read_item_ids(folder))}
    leaving = [rows[name] for name in new_items.read_ids(pathlib.Path(path), rows)]
    retired = ~ids.live
    gone = [name for name, row in rows.items() if retired[row]]
    again = set(gone) & {name for name, row in rows.items() if row in set(leaving)}
    if again:
        raise InputError(f"{path}: {len(again)} items are retired already, such as "
                         f"{min(again)}; leave them out")
    retired[leaving] = True
    if retired.all():
        raise InputError(f"{path} names all {len(retired)} items; leave at least one")
    ids = _next(dataclasses.replace(ids, retired=retired), {
        "step": "retire", "retired": len(leaving)})
    return sid_table.save(dataset, ids, folder)


def refit(dataset: Dataset, embedding: embeddings.EmbeddingConfig,
          cfg: build.TokenizerConfig, folder: str | os.PathLike, *,
          cache_folder: str | os.PathLike) -> dict[str, Any]:
    """Fits the codebooks again from where they stand, and tells what moved.

    Args:
      dataset: the one of the bundle or a later one; items are matched by their ids,
        and added items that it does not hold stay added.
      embedding: where text vectors come from.
      cfg: of the same quantiser and widths as the bundle.
      folder: the bundle; the next generation takes its place.
      cache_folder: where text vectors are kept.

    Returns:
      The manifest; `lifecycle` holds `step` and what `movement` tells.

    Raises:
      InputError: the bundle holds no codebooks or other ones than the configuration
        asks for, or a figure falls through the gate. The bundle then stays as it was.
    """
    build.check_config(cfg)
    old = sid_table.load_semantic_ids(folder)
    if old.codebooks is None or old.embeddings is None:
        raise InputError(f"{folder} holds semantic IDs from elsewhere, without "
                         "codebooks; run oxyrec tokenize")
    asked = (cfg.quantiser.kind, tuple(cfg.widths))
    if (old.codebooks.kind, old.codebooks.widths) != asked:
        raise InputError(f"{folder} holds {old.codebooks.kind} codebooks of the widths "
                         f"{old.codebooks.widths}, asked for is {asked[0]} {asked[1]}: "
                         "a refit keeps both; run oxyrec tokenize for new ones")
    names = sid_table.read_item_ids(folder)
    new_names = dataset.item_table()["item_id"].to_pylist()
    made = _encoder(dataset, embedding, cfg, old, cache_folder)
    if made.vectors.shape[1] != old.embeddings.shape[1]:
        raise InputError(f"the items' vectors have {made.vectors.shape[1]} numbers, "
                         f"those of {folder} {old.embeddings.shape[1]}; run oxyrec "
                         "tokenize for new codebooks")
    made = _turn_engagement(made, new_names, old, names)
    start = len(names) - (0 if old.added is None else len(old.added))
    held = set(new_names)
    stay = [row for row in range(start, len(names)) if names[row] not in held]
    new_names += [names[row] for row in stay]
    x = np.concatenate([made.vectors, old.embeddings[stay]])
    table = build.ordered(dataset, cfg)
    if stay and old.added is not None:
        table = _longer(table, old.added.take([row - start for row in stay]), len(stay))
    gone = {name for name, live in zip(names, old.live, strict=True) if not live}
    retired = np.array([name in gone for name in new_names])
    tokens = _tokenize(x, cfg, table, ~retired, old.codebooks)
    new = dataclasses.replace(
        table, codes=tokens.codes, widths=tokens.widths, codebooks=tokens.codebooks,
        embeddings=x, errors=tokens.errors, retired=retired, encoder=made.params,
        manifest={**table.manifest, **build.facts(embedding, cfg, made.facts)})
    told = movement(old, names, new, new_names)
    new = _next(new, {"step": "refit", **told}, parent=old.manifest)
    return sid_table.save(dataset, new, folder, gate=cfg.gate)


def movement(old: SemanticIds, old_names: Sequence[str], new: SemanticIds,
             new_names: Sequence[str]) -> dict[str, Any]:
    """Tells how far the items that live in both tables moved.

    Args:
      old, new: tables of the same quantiser and widths.
      old_names, new_names: item ids of their rows.

    Returns:
      JSON values: `compared` items and of these `moved`, those with another ID;
      `kept_mean`, `kept_median`: how many leading codes an item kept; `moved_share`:
      for each level the share of items of which that code or one before changed;
      `centroid_drift`: for each array of the codebooks the length of its change over
      its length.
    """
    place = {name: row for row, (name, live) in
             enumerate(zip(old_names, old.live, strict=True)) if live}
    both = [(place[name], row) for row, (name, live) in
            enumerate(zip(new_names, new.live, strict=True)) if live and name in place]
    before, after = np.array(both, np.int64).reshape(-1, 2).T
    levels = min(len(old.widths), len(new.widths))
    same = np.logical_and.accumulate(
        old.codes[before, :levels] == new.codes[after, :levels], axis=1)
    kept = same.sum(axis=1)
    shift = {} if old.codebooks is None or new.codebooks is None else {
        name: _relative(value, new.codebooks.arrays[name])
        for name, value in old.codebooks.arrays.items()
        if value.dtype.kind == "f" and name in new.codebooks.arrays
        and new.codebooks.arrays[name].shape == value.shape}
    some = len(kept) > 0
    return {"compared": len(kept), "moved": int((kept < levels).sum()),
            "kept_mean": float(kept.mean()) if some else None,
            "kept_median": float(np.median(kept)) if some else None,
            "moved_share": (1 - same.mean(axis=0)).tolist() if some else None,
            "centroid_drift": shift}


def turn_to(new: np.ndarray, old: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Turns points so that they lie as near as can be to where they were.

    Args:
      new: `[N, D]` float: points whose axes mean nothing.
      old: `[M, D]` float: where they were.
      pairs: `[P, 2]` int: row in `new` and row in `old` of the same point.

    Returns:
      `[N, D]` float32: `new` times the rotation (or reflection) that brings its paired
      rows nearest to the old ones; distances between points stay.

    Source: orthogonal Procrustes, Schönemann 1966; for embeddings of later data,
    Hamilton et al. 2016, https://arxiv.org/abs/1605.09096, section 3.3.
    """
    before, after = (np.asarray(values, np.float64)[rows] for values, rows in
                     ((old, pairs[:, 1]), (new, pairs[:, 0])))
    left, _, right = np.linalg.svd(after.T @ before)
    return (np.asarray(new, np.float64) @ (left @ right)).astype(np.float32)


def _next(ids: SemanticIds, step: Mapping[str, Any],
          parent: Mapping[str, Any] | None = None) -> SemanticIds:
    """The table as the generation after `parent`; None: after its own manifest, whose
    root, the first table of these codes, it keeps."""
    before = dict(ids.manifest if parent is None else parent)
    return dataclasses.replace(ids, manifest={
        **ids.manifest, "generation": before["generation"] + 1,
        "parent": artifacts.value_digest(before), "lifecycle": dict(step)})


def _longer(ids: SemanticIds, table: pa.Table, count: int, *,
            codes: np.ndarray | None = None, x: np.ndarray | None = None,
            left: np.ndarray | None = None) -> SemanticIds:
    """The table with items behind its last, which nobody has taken yet."""
    def behind(values: np.ndarray | None, new: Any) -> np.ndarray | None:
        if values is None:
            return None
        if np.ndim(new) == 0:
            new = np.full(count, new, values.dtype)
        return np.concatenate([values, new])
    added = table if ids.added is None else pa.concat_tables(
        [ids.added, table], promote_options="default")
    first = ids.codes if codes is None else np.concatenate([ids.codes, codes])
    return dataclasses.replace(
        ids, codes=first, popularity=np.concatenate(
            [ids.popularity, np.zeros(count, np.int64)]),
        recency=behind(ids.recency, NEVER), retired=behind(ids.retired, False),
        scores=behind(ids.scores, -np.inf), added=added,
        embeddings=ids.embeddings if x is None else behind(ids.embeddings, x),
        errors=ids.errors if left is None else behind(ids.errors, left))


def _place(ids: SemanticIds, codes: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The IDs of new items by the policy of the bundle."""
    if ids.codebooks is None:
        raise ValueError("no codebooks")
    policy = ids.manifest["config"]["tokenizer"]["collisions"]
    if policy == "reassign":
        rest, last = quantiser.last_level(ids.codebooks, x, codes)
        return collisions.join_reassigned(ids.codes, codes, rest, last)
    if policy == "dedup":
        return collisions.join_numbered(ids.codes, codes, ids.widths[-1])
    return codes


def _vectors(dataset: Dataset, ids: SemanticIds, table: pa.Table, path: pathlib.Path,
             cache: str | os.PathLike, id_column: str) -> np.ndarray:
    """`[M, D]` float32 vectors of new items by the encoder of the bundle."""
    config = ids.manifest["config"]
    embedding = pydantic.TypeAdapter(embeddings.EmbeddingConfig).validate_python(
        config["embedding"])
    wanted = _source_config(ids)
    reads_text = "text" in (wanted.sources or ()) and wanted.text is None
    if reads_text and embedding.source == "file":
        if path.suffix != ".parquet":
            raise InputError(f"{path}: the items' vectors come from a file, not from a "
                             "text encoder; give new items as Parquet with their "
                             f"vectors in the column {embedding.column!r}")
        wanted = dataclasses.replace(wanted, text=VectorFile(
            str(path), column=embedding.column, id_column=id_column))
    elif reads_text and embeddings.describe_encoder(embedding) != (
            ids.manifest["encoder"]):
        raise InputError(f"the text encoder of the bundle was "
                         f"{ids.manifest['encoder']}, here it is "
                         f"{embeddings.describe_encoder(embedding)}; install that one, "
                         "or run oxyrec tokenize")
    asked = table
    if reads_text and embedding.source == "hashed":  # its weights depend on all texts
        fields = sid_table.catalogue_table(dataset, ids)
        asked = pa.concat_tables([fields, table.select(fields.column_names)])
    found = sources.item_sources(asked, wanted, embedding, cache,
                                 images=_no_images(ids, len(asked)))
    known = found.present[-len(table):].any(axis=1)
    if not known.all():
        row = int(np.argmin(known))
        raise InputError(f"{path}: item {row + 1} ({table['item_id'][row]}) has none "
                         f"of {', '.join(found.names)} that an ID could be made of; "
                         "give it a title or leave it out")
    return multisource.encode_items(ids.encoder, found, wanted)[-len(table):]


def _no_images(ids: SemanticIds, rows: int) -> np.ndarray | None:
    """Zeros of the width of the data set's images, which new items are not among."""
    facts = ids.manifest["item_encoder"]["sources"].get("image")
    return None if facts is None else np.zeros((rows, facts["dimension"]), np.float32)


def _source_config(ids: SemanticIds) -> sources.SourceConfig:
    return pydantic.TypeAdapter(sources.SourceConfig).validate_python(
        ids.manifest["item_encoder"]["config"])


def _encoder(dataset: Dataset, embedding: embeddings.EmbeddingConfig,
             cfg: build.TokenizerConfig, old: SemanticIds, cache: str | os.PathLike
             ) -> multisource.ItemEncoder:
    """Vectors of the data set's items; a trained encoder stays as it is."""
    if not old.encoder:
        return multisource.item_encoder(dataset, cfg.sources, embedding, cache)
    wanted = _source_config(old)
    found = sources.item_sources(dataset.item_table(), wanted, embedding, cache,
                                 dataset=dataset)
    facts = {**old.manifest["item_encoder"], "sources": found.facts()}
    return multisource.ItemEncoder(
        multisource.encode_items(old.encoder, found, wanted), facts, dict(old.encoder))


def _turn_engagement(made: multisource.ItemEncoder, names: Sequence[str],
                     old: SemanticIds, old_names: Sequence[str]
                     ) -> multisource.ItemEncoder:
    """Turns co-engagement vectors of a later log to where the old ones stood.

    They come out of an SVD, whose axes another log turns at will, and the codebooks to
    start from stand in the old ones.
    """
    facts, start = made.facts["sources"], 0
    computed = (facts.get("co-engagement") or {}).get("origin") or {}
    if made.params or computed.get("name") != "co-engagement" or old.embeddings is None:
        return made
    for name, entry in facts.items():
        if name == "co-engagement":
            break
        start += entry["dimension"]
    part = slice(start, start + facts["co-engagement"]["dimension"])
    place = {name: row for row, name in enumerate(old_names)}
    pairs = np.array([(row, place[name]) for row, name in enumerate(names)
                      if name in place], np.int64).reshape(-1, 2)
    before = np.asarray(old.embeddings[:, part])
    if before.shape[1] != part.stop - part.start or np.array_equal(
            made.vectors[pairs[:, 0], part], before[pairs[:, 1]]):
        return made
    x = made.vectors.copy()
    x[:, part] = turn_to(x[:, part], before, pairs)
    return dataclasses.replace(made, vectors=x)


def _tokenize(x: np.ndarray, cfg: build.TokenizerConfig, table: SemanticIds,
              live: np.ndarray, start: quantiser.Codebooks) -> build.Tokens:
    """Fits on the live items; the others get their nearest codes, digit 0."""
    if live.all():
        return build.tokenize(x, cfg, table.priority, start=start)
    tokens = build.tokenize(x[live], cfg, table.priority[live], start=start)
    nearest = quantiser.encode(tokens.codebooks, x)
    codes = np.zeros((len(x), len(tokens.widths)), np.int32)
    codes[:, :nearest.shape[1]] = nearest
    codes[live] = tokens.codes
    return dataclasses.replace(tokens, codes=codes,
                               errors=build.errors(tokens.codebooks, x, nearest))


def _relative(old: np.ndarray, new: np.ndarray) -> float:
    length = float(np.linalg.norm(old))
    return float(np.linalg.norm(new - old) / length) if length else 0.0
