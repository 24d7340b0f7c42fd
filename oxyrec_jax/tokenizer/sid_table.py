"""The table of semantic IDs: a bundle on disk, opened, looked up, replaced.

    manifest.json            kind "semantic-ids": widths, order, config, encoder,
                             quality, gate, data set, generation, parent, root
    codes.npy                [N, T] int32
    popularity.npy           [N] int64, training targets of each item
    recency.npy              [N] int64, its newest one
    retired.npy              [N] bool
    scores.npy               [N] float64, where the order is learned
    embeddings.npy           [N, D] float32, what was quantised
    errors.npy               [N] float32, squared distance to what the codes restore
    codebooks/<name>.npy     arrays of the quantiser
    encoder/<name>.npy       parameters of the item encoder, where it has any
    item_ids.parquet         row = item
    added.parquet            item table of those that joined after the build

Rows are the data set's items and after them those that were added. A bundle is never
changed in place: each next one names its parent, and is one generation older.
"""

import dataclasses
import functools
import hashlib
import os
import pathlib
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from oxyrec_jax import artifacts
from oxyrec_jax.base import InputError
from oxyrec_jax.data import schema
from oxyrec_jax.data.dataset import Dataset
from oxyrec_jax.tokenizer import engagement, quality, quality_gate, quantiser
from oxyrec_jax.tokenizer.ordering import NEVER

KIND = "semantic-ids"
VERSION = 2
_ADDED, _NAMES = "added.parquet", "item_ids.parquet"


@dataclasses.dataclass(frozen=True)
class SemanticIds:
    """A bundle of semantic IDs, opened.

    Attributes:
      codes: `[N, T]` int32.
      widths: T numbers: codes on each level.
      popularity: `[N]` int64 training targets of each item.
      codebooks: the quantiser; None for imported IDs.
      embeddings: `[N, D]` float32, memory-mapped; None for imported IDs.
      manifest: configuration, encoder, quality, digests.
      recency: `[N]` int64, see `ordering.training_recency`; None: never.
      retired: `[N]` bool, true on items that are not recommended; None: none.
      scores: `[N]` float64 where the order is learned, else None.
      errors: `[N]` float32: squared distance of an embedding to what its nearest codes
        restore; None for imported IDs.
      encoder: parameters of the item encoder by name; empty where it has none.
      added: item table of the last rows, those beyond the data set; None: none.
    """

    codes: np.ndarray
    widths: tuple[int, ...]
    popularity: np.ndarray
    codebooks: quantiser.Codebooks | None = None
    embeddings: np.ndarray | None = None
    manifest: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    recency: np.ndarray | None = None
    retired: np.ndarray | None = None
    scores: np.ndarray | None = None
    errors: np.ndarray | None = None
    encoder: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    added: pa.Table | None = None

    @functools.cached_property
    def live(self) -> np.ndarray:
        """`[N]` bool: what may be recommended."""
        return (np.ones(len(self.codes), bool) if self.retired is None
                else ~np.asarray(self.retired))

    @property
    def priority(self) -> np.ndarray:
        """`[N]` numbers: of two items of one ID the one with the higher stands first;
        equals by item id."""
        order = self.manifest.get("order", "popularity")
        values = {"popularity": self.popularity, "recency": self.recency,
                  "learned": self.scores}[order]
        if values is None:
            raise ValueError(f"{order=}, for which there are no values")
        return values

    @functools.cached_property
    def order(self) -> np.ndarray:
        """All items that are not retired, the preferred first: `[M]` int64."""
        live = np.flatnonzero(self.live)
        return live[np.lexsort((live, -self.priority[live]))]

    @functools.cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """Item ids by semantic ID and then by `order`, and their codes."""
        order = self.order
        rows = order[np.lexsort(self.codes[order].T[::-1])]
        return rows, self.codes[rows]

    def items(self, prefix: Sequence[int]) -> np.ndarray:
        """Returns the items whose ID starts so; those of one ID in their order.

        Args:
          prefix: up to T codes. All T: the list of items behind one semantic ID.

        Returns:
          `[M]` int64 item ids, empty where there are none; retired items are left out.
        """
        if len(prefix) > len(self.widths):
            raise ValueError(f"{prefix=}, an ID has {len(self.widths)} codes")
        rows, codes = self._sorted
        first, last = 0, len(rows)
        for level, code in enumerate(prefix):
            column = codes[first:last, level]
            first, last = (first + int(np.searchsorted(column, code, side=side))
                           for side in ("left", "right"))
        return rows[first:last]


def write_semantic_ids(
    dataset: Dataset, codes: np.ndarray, widths: Sequence[int],
    folder: str | os.PathLike, *, popularity: np.ndarray,
    codebooks: quantiser.Codebooks | None = None, vectors: np.ndarray | None = None,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measures semantic IDs that were made elsewhere, and writes their bundle.

    Args:
      dataset: whose items they are.
      codes: `[N, T]` int, `0 <= code < width`.
      widths: T numbers.
      folder: where the bundle shall stand.
      popularity: `[N]` int, orders the items that share an ID.
      codebooks: the quantiser, or None.
      vectors: `[N, D]` float32, what was quantised, or None.
      facts: more for the manifest, such as `config` and `encoder`.

    Returns:
      The manifest.

    Raises:
      InputError: the codes do not fit the data set or the widths.
      ValueError: `popularity` has another length.
    """
    codes, popularity = np.asarray(codes), np.asarray(popularity, np.int64)
    if popularity.shape != (dataset.num_items,):
        raise ValueError(f"{popularity.shape=}, expected ({dataset.num_items},)")
    return save(dataset, SemanticIds(codes, tuple(widths), popularity, codebooks,
                                     vectors, dict(facts or {})), folder)


def save(dataset: Dataset, ids: SemanticIds, folder: str | os.PathLike, *,
         gate: quality_gate.GateConfig | None = None) -> dict[str, Any]:
    """Measures semantic IDs and writes their bundle in one rename.

    Args:
      dataset: whose items the first rows are.
      ids: the table; of its manifest `config`, `encoder`, `item_encoder`, `order`,
        `generation`, `parent`, `root` and `lifecycle` are kept, all else is made anew.
      folder: where the bundle shall stand; an older one is replaced.
      gate: bounds that the figures must keep; None: they are not asked.

    Returns:
      The manifest.

    Raises:
      InputError: the codes do not fit, or a figure falls through the gate: what stood
        in `folder` stays as it was.
    """
    added = 0 if ids.added is None else len(ids.added)
    rows = dataset.num_items + added
    _check_codes(ids.codes, ids.widths, rows, f"semantic IDs for {folder}")
    codes = np.ascontiguousarray(ids.codes, np.int32)
    figures = measure(dataset, ids)
    levels = None if ids.codebooks is None else len(ids.codebooks.widths)
    judge = quality_gate.check if gate is None else quality_gate.require
    verdict = judge(figures, gate or quality_gate.GateConfig(), levels=levels)
    recency = np.full(rows, NEVER) if ids.recency is None else ids.recency
    arrays = {"codes": codes, "popularity": ids.popularity, "recency": recency,
              "retired": ~ids.live}
    arrays |= {name: value for name, value in
               (("embeddings", ids.embeddings), ("errors", ids.errors),
                ("scores", ids.scores)) if value is not None}
    if ids.codebooks is not None:
        arrays |= {f"codebooks/{name}": value
                   for name, value in ids.codebooks.arrays.items()}
    arrays |= {f"encoder/{name}": value for name, value in ids.encoder.items()}
    known = ids.manifest
    facts = {
        "config": known.get("config"), "encoder": known.get("encoder"),
        "item_encoder": known.get("item_encoder"),
        "order": known.get("order", "popularity"), "widths": list(ids.widths),
        "codebooks": None if ids.codebooks is None else {
            "kind": ids.codebooks.kind, "widths": list(ids.codebooks.widths)},
        "counts": {"dataset": dataset.num_items, "added": added,
                   "retired": int((~ids.live).sum())},
        "quality": figures, "gate": verdict, "dataset": dataset_digest(dataset),
        "generation": known.get("generation", 0), "parent": known.get("parent"),
        "root": known.get("root") or _npy_digest(codes),
        "lifecycle": known.get("lifecycle")}

    def write_tables(beside: pathlib.Path) -> None:
        names = catalogue_table(dataset, ids).select(["item_id"])
        pq.write_table(names, beside / _NAMES)
        if ids.added is not None:
            pq.write_table(ids.added, beside / _ADDED)
    return artifacts.write_bundle(folder, kind=KIND, version=VERSION, arrays=arrays,
                                  facts=facts, write_files=write_tables)


def load_semantic_ids(folder: str | os.PathLike, dataset: Dataset | None = None, *,
                      verify: bool = True) -> SemanticIds:
    """Opens a bundle of semantic IDs.

    Args:
      folder: what `build.build_semantic_ids` wrote.
      dataset: the data set that they must have been made for; None: not checked.
      verify: also check the size and digest of every file.

    Raises:
      InputError: no bundle there, another kind or version, a damaged file, another
        data set's, or arrays that do not fit each other, with the file.
    """
    folder = pathlib.Path(folder)
    manifest = artifacts.read_manifest(folder, kind=KIND, version=VERSION,
                                       verify=verify)
    if dataset is not None and manifest["dataset"] != dataset_digest(dataset):
        raise InputError(f"{folder} was made for another data set than "
                         f"{dataset.folder}; tokenize this data set again, or carry "
                         "the IDs over with oxyrec tokenize --refit")
    widths = tuple(manifest["widths"])
    codes = np.asarray(artifacts.read_array(folder, "codes"))
    _check_codes(codes, widths, len(codes), str(folder / "codes.npy"))
    read = functools.partial(_read_column, folder, manifest["files"], len(codes))
    popularity = read("popularity")
    if popularity is None:
        raise InputError(f"{folder} holds no popularity.npy; make the bundle again")
    ids = SemanticIds(
        codes, widths, popularity, _codebooks(folder, manifest),
        read("embeddings", width=True), manifest, read("recency"), read("retired"),
        read("scores"), read("errors"),
        _arrays(folder, manifest, "encoder"),
        _read_table(folder / _ADDED) if _ADDED in manifest["files"] else None)
    counts = manifest["counts"]
    added = 0 if ids.added is None else len(ids.added)
    if (counts["dataset"] + counts["added"], counts["added"]) != (len(codes), added):
        raise InputError(f"{folder} holds {len(codes)} items, of which {added} were "
                         f"added; its {artifacts.MANIFEST} says {counts}; make the "
                         "bundle again")
    return ids


def read_item_ids(folder: str | os.PathLike) -> list[str]:
    """Reads the name of every row of a bundle, those of added items last."""
    return _read_table(pathlib.Path(folder) / _NAMES)["item_id"].to_pylist()


def catalogue_table(dataset: Dataset, ids: SemanticIds) -> pa.Table:
    """The fields of all items: the data set's and then the added ones'."""
    fields = list(schema.ITEM_FIELDS)
    tables = [dataset.item_table().select(fields)]
    if ids.added is not None:
        tables.append(ids.added.select(fields))
    return pa.concat_tables(tables).combine_chunks()


def measure(dataset: Dataset, ids: SemanticIds) -> dict[str, Any]:
    """Quality figures of the items that are not retired."""
    live = np.flatnonzero(ids.live)
    every = len(live) == len(ids.codes)
    names = catalogue_table(dataset, ids)["category"]
    books, vectors = ids.codebooks, ids.embeddings
    if vectors is not None and not every:
        vectors = vectors[live]
    return quality.measure(
        ids.codes if every else ids.codes[live], ids.widths,
        embeddings=None if books is None else vectors,
        decode=None if books is None else functools.partial(restore, books),
        categories=(names if every else names.take(live)).to_pylist(),
        pairs=_co_engaged(dataset, live, len(ids.codes)))


def restore(codebooks: quantiser.Codebooks, codes: np.ndarray) -> np.ndarray:
    """`quantiser.decode` of IDs that may end in a digit that numbers a list."""
    return quantiser.decode(codebooks, codes[:, :len(codebooks.widths)])


def dataset_digest(dataset: Dataset) -> str:
    """Returns the digest of a data set's manifest, which holds all files' digests."""
    return artifacts.value_digest(dict(dataset.manifest))


def _co_engaged(dataset: Dataset, live: np.ndarray, rows: int
                ) -> Iterator[tuple[np.ndarray, np.ndarray]] | None:
    """Pairs of items that training users took together, numbered among the live."""
    train = dataset.splits.get("train")
    if train is None or not len(train):
        return None
    place = np.full(rows, -1)
    place[live] = np.arange(len(live))
    pairs = engagement.co_engaged(dataset.column("item"), dataset.offsets(), train)
    kept = ((place[earlier], place[later]) for earlier, later in pairs)
    return ((earlier[both], later[both]) for earlier, later in kept
            for both in [(earlier >= 0) & (later >= 0)])


def _npy_digest(array: np.ndarray) -> str:
    """SHA-256 of the `.npy` file that holds the array."""
    digest = hashlib.sha256()
    stream = types.SimpleNamespace(write=digest.update)
    np.lib.format.write_array(stream, array, allow_pickle=False)  # type: ignore
    return digest.hexdigest()


def _read_column(folder: pathlib.Path, files: Mapping[str, Any], rows: int, name: str,
                 *, width: bool = False) -> np.ndarray | None:
    if f"{name}.npy" not in files:
        return None
    array = artifacts.read_array(folder, name)
    if array.ndim != 1 + width or len(array) != rows:
        raise InputError(f"{folder / name}.npy has shape {array.shape}, expected one "
                         f"row for each of {rows} items; make the bundle again")
    return array if width else np.asarray(array)


def _arrays(folder: pathlib.Path, manifest: Mapping[str, Any], part: str
            ) -> dict[str, np.ndarray]:
    names = [name.removesuffix(".npy") for name in manifest["files"]
             if name.startswith(f"{part}/")]
    return {name.removeprefix(f"{part}/"):
            np.asarray(artifacts.read_array(folder, name)) for name in names}


def _codebooks(folder: pathlib.Path, manifest: Mapping[str, Any]
               ) -> quantiser.Codebooks | None:
    found = manifest["codebooks"]
    if found is None:
        return None
    if found["kind"] not in quantiser.KINDS:
        raise InputError(f"{folder} holds codebooks of the kind {found['kind']!r}, "
                         f"this release reads {', '.join(quantiser.KINDS)}; make the "
                         "bundle again with this release")
    return quantiser.Codebooks(found["kind"], tuple(found["widths"]),
                               _arrays(folder, manifest, "codebooks"))


def _read_table(path: pathlib.Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path} cannot be read ({error}); make the bundle again"
                         ) from error


def _check_codes(codes: np.ndarray, widths: Sequence[int], items: int, what: str
                 ) -> None:
    if codes.dtype.kind not in "iu" or codes.shape != (items, len(widths)):
        raise InputError(f"{what}: found {codes.dtype} {codes.shape}, expected "
                         f"integers ({items}, {len(widths)})")
    wrong = np.argwhere((codes < 0) | (codes >= np.asarray(widths)))
    if len(wrong):
        row, level = wrong[0]
        raise InputError(f"{what}: row {row} has the code {codes[row, level]} at level "
                         f"{level}, expected 0 to {widths[level] - 1}")
