"""Which instruction text goes with each event: a table beside the prepared data set.

    manifest.json   kind "instructions": how they were made, encoder, data set's digest
    index.npy       [E] int32: for each event of the data set, in its order, the row of
                    its instruction, -1 where there is none
    vectors.npy     [M, F] float32, one for each distinct text
    texts.parquet   [M] text

The instruction of an event is what could be known just before it, when the request was
made. Training and evaluation read it for the targets only.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from oxyrec_jax import artifacts
from oxyrec_jax.base import InputError

if TYPE_CHECKING:  # a data set holds such a table
    from oxyrec_jax.data.dataset import Dataset

KIND = "instructions"
VERSION = 1


@dataclasses.dataclass(frozen=True)
class InstructionTable:
    """The instructions of a data set's events.

    Attributes:
      index: `[E]` int32 row of `vectors` for each event, -1: none.
      vectors: `[M, F]` float32, all finite.
      texts: M strings.
    """

    index: np.ndarray
    vectors: np.ndarray
    texts: Sequence[str]

    def __post_init__(self) -> None:
        rows = len(self.vectors)
        if self.vectors.ndim != 2 or len(self.texts) != rows or self.index.ndim != 1:
            raise ValueError(f"{self.index.shape=} {self.vectors.shape=} "
                             f"{len(self.texts)=}, expected [E], [M, F] and M")
        if len(self.index) and not -1 <= self.index.min() <= self.index.max() < rows:
            raise InputError(f"the events' instructions are rows {self.index.min()} to "
                             f"{self.index.max()} of {rows}; expected -1 for none, or "
                             "a row")
        bad = np.flatnonzero(~np.isfinite(self.vectors).all(axis=1))
        if len(bad):
            raise InputError(f"the vector of instruction {bad[0]} is not finite "
                             f"({len(bad)} such); embed the texts again")

    def take(self, events: np.ndarray) -> np.ndarray:
        """`[..., F]` float32 vectors of events `[...]`, zero where there is none."""
        rows = self.index[events]
        if not len(self.vectors):
            return np.zeros((*rows.shape, self.vectors.shape[1]), np.float32)
        return np.where((rows >= 0)[..., None], self.vectors[np.maximum(rows, 0)],
                        np.float32(0))

    def thinned(self, share: float, requests: np.ndarray, *, seed: int
                ) -> "InstructionTable":
        """The table with a share of the requests left without text.

        A network that met some requests without a text answers those as well as it
        would without instructions.

        Args:
          share: of requests, drawn evenly, from 0 to 1.
          requests: `[E]` int, the request of each event; events of one request lose
            their text together.
          seed: of the draw; the same arguments leave out the same requests.
        """
        if requests.shape != self.index.shape:
            raise ValueError(f"{requests.shape=} {self.index.shape=}")
        _, row = np.unique(requests, return_inverse=True)
        drawn = np.random.default_rng([seed, 1]).random(row.max(initial=-1) + 1)
        return dataclasses.replace(
            self, index=np.where(drawn[row] < share, -1, self.index))


def write_instructions(table: InstructionTable, dataset: "Dataset",
                       folder: str | os.PathLike, facts: Mapping[str, Any]) -> None:
    """Writes a table of instructions as a bundle.

    Args:
      table: the instructions.
      dataset: whose events they belong to; its digest is kept.
      folder: where the bundle shall stand; an older one there is replaced.
      facts: for the manifest, under "made": how the instructions were made.
    """
    dataset.with_instructions(table)  # checks that it fits

    def write_texts(place: pathlib.Path) -> None:
        pq.write_table(pa.table({"text": pa.array(list(table.texts), pa.string())}),
                       place / "texts.parquet")

    artifacts.write_bundle(
        folder, kind=KIND, version=VERSION,
        arrays={"index": table.index.astype(np.int32),
                "vectors": table.vectors.astype(np.float32)},
        facts={"made": dict(facts), "dataset": _digest(dataset)},
        write_files=write_texts)


def load_instructions(folder: str | os.PathLike, dataset: "Dataset"
                      ) -> InstructionTable:
    """Opens the instructions of a data set.

    Raises:
      InputError: none there, damaged, of another version, or of another data set.
    """
    manifest = artifacts.read_manifest(folder, kind=KIND, version=VERSION)
    if manifest["dataset"] != _digest(dataset):
        raise InputError(f"{folder} was made for another data set than "
                         f"{dataset.folder}; make the instructions again")
    texts = pq.read_table(pathlib.Path(folder) / "texts.parquet")["text"].to_pylist()
    return InstructionTable(np.asarray(artifacts.read_array(folder, "index")),
                            np.asarray(artifacts.read_array(folder, "vectors")), texts)


def _digest(dataset: "Dataset") -> str:
    return artifacts.value_digest(dict(dataset.manifest))
