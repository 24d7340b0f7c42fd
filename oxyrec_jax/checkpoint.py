"""Checkpoints of a run in progress, through orbax.

A checkpoint holds the whole training state and a JSON value (position in the data,
best metric so far). A process killed at any moment leaves the newest complete one.
"""

import json
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp

from oxyrec_jax.base import InputError


class Checkpoints:
    """The checkpoints of one run in one folder."""

    def __init__(self, folder: pathlib.Path, *, keep: int = 2):
        """Opens or creates the folder.

        Args:
          folder: where they lie.
          keep: how many of the newest to keep.
        """
        self._folder = pathlib.Path(folder).absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        self._manager.close()

    def save(self, step: int, state: Any, facts: dict[str, Any]) -> None:
        """Starts saving; the arrays are copied before this returns.

        Args:
          step: training steps done.
          state: a pytree of arrays.
          facts: a JSON value.
        """
        json.dumps(facts, allow_nan=False)  # refuse now, not in the writer's thread
        self._manager.save(step, args=ocp.args.Composite(
            state=ocp.args.StandardSave(state), facts=ocp.args.JsonSave(facts)))

    def wait(self) -> None:
        """Returns once everything started is on disk."""
        self._manager.wait_until_finished()

    def latest(self) -> int | None:
        """The newest complete step, None where there is none."""
        return self._manager.latest_step()

    def restore(self, abstract: Any, step: int | None = None
                ) -> tuple[Any, dict[str, Any]]:
        """Reads a checkpoint onto devices.

        Args:
          abstract: the state's tree of `jax.ShapeDtypeStruct` with shardings; it may
            lie on another mesh than the one that saved.
          step: which; the newest by default.

        Returns:
          The state and the facts.

        Raises:
          InputError: there is none, it is damaged, or it is of another model.
        """
        step = self.latest() if step is None else step
        if step is None:
            raise InputError(f"{self._folder} holds no checkpoint; train first")
        try:
            found = self._manager.restore(step, args=ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract),
                facts=ocp.args.JsonRestore()))
        except (ValueError, KeyError, OSError) as error:
            text = (str(error) or type(error).__name__).splitlines()[0][:300]
            raise InputError(
                f"checkpoint {step} in {self._folder} cannot be restored ({text}); "
                "delete that step's folder to fall back to the one before, or train "
                "in another work directory if the configuration changed") from error
        return found["state"], found["facts"]


def abstract_like(state: Any, shardings: Any) -> Any:
    """What `Checkpoints.restore` needs: shapes and dtypes with their shardings."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype,
                                                    sharding=sharding),
        state, shardings)
