"""Instruction texts for a simulated shop's log: what slow thinking could have said.

The truth behind each request is its need, so an instruction can be right or wrong on
purpose, which no real log allows:

    oracle  the need's own text: what perfect reasoning would write
    noisy   with probability `noise` another need's text, else with probability `vague`
            only the department, else the oracle's
    wrong   another need's text, of another leaf, always: a swapped instruction
    query   the words typed where the request is a search, none elsewhere: what a log
            really holds
    none    no text

A sixth kind, "store", is no truth of the shop's: what slow thinking wrote before each
request, of any log with times (`instruction_store.instructions_of_log`).

Source: ours; four kinds (oracle, noisy, wrong, none) for controlled comparisons, and
the real query in search samples as in OxygenREC, https://arxiv.org/abs/2512.22386.
"""

import dataclasses

import numpy as np
import pyarrow.parquet as pq

from oxyrec_jax.base import InputError
from oxyrec_jax.data.dataset import Dataset
from oxyrec_jax.data.shop.knowledge import DEPARTMENT_SEPARATOR
from oxyrec_jax.data.shop.prepare import SOURCE

KINDS = ("oracle", "noisy", "wrong", "query", "none")
STORE = "store"


@dataclasses.dataclass(frozen=True)
class InstructionSource:
    """Which texts the requests of a log carry.

    Attributes:
      train: their kind in training and validation, one of `KINDS` or "store".
      evaluate: their kind where a run is judged.
      noise, vague, seed: see `instruction_texts`.
      dropout: share of requests that go without their text in training, so that a
        network that is asked without one answers well too; 0.2 is ours.
      behaviour: the behaviour that is asked for where a run is judged or serves, for a
        network that is told one (model.instructions.behaviours); "": the log's last.
    """

    train: str = "noisy"
    evaluate: str = "noisy"
    noise: float = 0.2
    vague: float = 0.3
    seed: int = 0
    dropout: float = 0.2
    behaviour: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise InputError(f"instructions.dropout is {self.dropout}, expected 0 or "
                             "more and less than 1")
        for name in ("train", "evaluate"):
            if getattr(self, name) not in (*KINDS, STORE):
                raise InputError(f"instructions.{name} is {getattr(self, name)!r}, "
                                 f"expected one of {', '.join((*KINDS, STORE))}")


@dataclasses.dataclass(frozen=True)
class InstructionTexts:
    """A text for each event, each distinct text once.

    Attributes:
      index: `[E]` int32 row of `texts` for each event in the data set's order, -1 where
        there is none. All events of a request have the same.
      texts: M strings.
    """

    index: np.ndarray
    texts: list[str]


def instruction_texts(dataset: Dataset, kind: str, *, noise: float = 0.2,
                      vague: float = 0.3, seed: int = 0) -> InstructionTexts:
    """Writes the instruction of every event of a shop's log.

    Args:
      dataset: made by the shop.
      kind: one of `KINDS`.
      noise: of kind "noisy": share of requests whose text is of another need.
      vague: of kind "noisy": share of the others whose text names the department only.
      seed: of the draws.

    Returns:
      The texts. The same arguments give the same texts.

    Raises:
      InputError: an unknown kind, a share outside 0 to 1, or the data set is no shop's.
    """
    if kind not in KINDS:
        raise InputError(f"the kind of the instructions is {kind!r}, expected one of "
                         f"{', '.join(KINDS)}")
    for name, share in (("noise", noise), ("vague", vague)):
        if not 0 <= share <= 1:
            raise InputError(f"{name} is {share}, expected a share from 0 to 1")
    if dataset.manifest.get("source") != SOURCE:
        raise InputError(f"{dataset.folder} was made from "
                         f"{dataset.manifest.get('source')!r}: only a simulated shop "
                         "knows the needs behind its requests; write instructions for "
                         "other logs with oxyrec think and give them as the kind store"
                         )
    if kind == "none":
        return InstructionTexts(np.full(dataset.num_events, -1, np.int32), [])
    if kind == "query":
        return InstructionTexts(np.asarray(dataset.column("query"), np.int32),
                                dataset.queries())
    table = pq.read_table(dataset.folder / "needs.parquet").to_pydict()
    need = pq.read_table(dataset.folder / "requests.parquet", columns=["need"])[
        "need"].to_numpy()
    texts = list(table["text"])
    if kind == "oracle":
        rows = need
    else:
        rng = np.random.default_rng([seed, KINDS.index(kind)])
        rows = _others(need, np.array(table["leaf"]), rng)
        if kind == "noisy":
            departments, first = _departments(table["category"], len(texts))
            texts += departments
            vague_row = first[need]
            rows = np.where(rng.random(len(need)) < noise, rows,
                            np.where(rng.random(len(need)) < vague, vague_row, need))
    return InstructionTexts(rows[dataset.column("request")].astype(np.int32), texts)


def _others(need: np.ndarray, leaf: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each need one drawn evenly from the needs of other leaves."""
    order = np.argsort(leaf, kind="stable")
    count = np.bincount(leaf, minlength=leaf.max() + 1)
    begin = np.cumsum(count) - count
    own = leaf[need]
    # A place among all needs but those of the own leaf, which stand together.
    place = (rng.random(len(need)) * (len(leaf) - count[own])).astype(np.int64)
    return order[np.where(place < begin[own], place, place + count[own])]


def _departments(categories: list[str], after: int) -> tuple[list[str], np.ndarray]:
    """Texts that name a department, and for each need the row of its own."""
    roots = [path.split(DEPARTMENT_SEPARATOR)[0] for path in categories]
    names = sorted(set(roots))
    return ([f"Is looking for something in {name}." for name in names],
            after + np.array([names.index(root) for root in roots]))
