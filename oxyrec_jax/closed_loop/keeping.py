"""The days of a test that are done, on disk: a killed test goes on where it stood.

    runs/<arm>/day000/  what was counted on each day
    runs/<arm>/state/   the people on the evening of the latest one
    people/             the people at the end of the log
"""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from oxyrec_jax import artifacts
from oxyrec_jax.closed_loop.days import State
from oxyrec_jax.data import shop

_VERSION = 1


def keep_people(folder: pathlib.Path, visitors: shop.Visitors) -> None:
    """Writes the people of a test as they stand at the end of the log."""
    _write(folder, "ab-people", visitors, 0)


def kept_people(folder: pathlib.Path, built: shop.Shop) -> shop.Visitors | None:
    """Reads them; None where they were not written yet."""
    if not folder.exists():
        return None
    like = jax.eval_shape(lambda: shop.begin(
        shop.draw_people(built.world, jnp.zeros(1, jnp.int32))))
    return _read(folder, "ab-people", like)[0]


class Kept:
    """The days of one arm.

    Args:
      folder: of the arm.
      morning: the people on the first morning, NumPy arrays.
    """

    def __init__(self, folder: pathlib.Path, morning: State):
        self._folder, self._morning = folder, morning
        self.day, self.state = 0, morning
        if (folder / "state").exists():
            found, self.day = _read(folder / "state", "ab-state", self._small(morning))
            people = morning.visitors.people
            self.state = State(dataclasses.replace(found[0], people=people), found[1])

    def counts(self, day: int) -> np.ndarray:
        """What was counted on a day that is done."""
        folder = self._folder / f"day{day:03d}"
        artifacts.read_manifest(folder, kind="ab-day", version=_VERSION)
        return np.asarray(artifacts.read_array(folder, "counts"))

    def add(self, state: State, counts: np.ndarray) -> None:
        """Keeps a day: first what was counted, then that it is done."""
        artifacts.write_bundle(self._folder / f"day{self.day:03d}", kind="ab-day",
                               version=_VERSION, arrays={"counts": counts},
                               facts={"day": self.day})
        _write(self._folder / "state", "ab-state", self._small(state), self.day + 1)
        self.day, self.state = self.day + 1, state

    @staticmethod
    def _small(state: State) -> tuple[Any, Any]:
        """Without what never changes: who the people are."""
        return (dataclasses.replace(state.visitors, people=None),  # type: ignore
                state.history)


def _write(folder: pathlib.Path, kind: str, tree: Any, day: int) -> None:
    arrays = {f"{number:03d}": np.asarray(leaf)
              for number, leaf in enumerate(jax.tree.leaves(tree))}
    artifacts.write_bundle(folder, kind=kind, version=_VERSION, arrays=arrays,
                           facts={"day": day, "leaves": len(arrays)})


def _read(folder: pathlib.Path, kind: str, like: Any) -> tuple[Any, int]:
    """A tree of the same structure, and the day that was written with it."""
    manifest = artifacts.read_manifest(folder, kind=kind, version=_VERSION)
    leaves = [np.array(artifacts.read_array(folder, f"{number:03d}"))
              for number in range(manifest["leaves"])]
    return jax.tree.unflatten(jax.tree.structure(like), leaves), manifest["day"]
