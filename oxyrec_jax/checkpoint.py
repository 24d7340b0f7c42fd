"""Checkpoints of a run in progress, through orbax.

A checkpoint holds the whole training state and a JSON value (position in the data,
best metric so far). A process killed at any moment leaves the newest complete one.

Each is a bundle (see `artifacts`): size and SHA-256 digest of every file are written
before it gets its name, and checked before it is read. One that does not pass is set
aside, and the checkpoint before it is used. Of several processes the first one does
both. Digests are made in orbax's thread while training goes on, from what was just
written: 0.6 GB/s of one core here, so 60 s for the 36 GB of 3 billion parameters with
Adam's moments; before a run continues they take as long.
"""

import asyncio
import json
import logging
import pathlib
import shutil
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint._src.path import atomicity  # the only place of the class below

from oxyrec_jax import artifacts
from oxyrec_jax.base import InputError

_KIND, _VERSION = "checkpoint", 1
# Orbax writes both once more after a checkpoint is sealed; neither holds an array.
_LATE = ("_CHECKPOINT_METADATA", "commit_success.txt")
_log = logging.getLogger(__name__)


class _Sealed(atomicity.AtomicRenameTemporaryPath):
    """A checkpoint that is being written; digests come before its name."""

    async def finalize(self) -> None:
        await asyncio.to_thread(artifacts.seal, pathlib.Path(self.get()), kind=_KIND,
                                version=_VERSION, leave_out=_LATE)
        await super().finalize()


class Checkpoints:
    """The checkpoints of one run in one folder."""

    def __init__(self, folder: pathlib.Path, *, keep: int = 2):
        """Opens or creates the folder.

        Args:
          folder: where they lie.
          keep: how many of the newest to keep.
        """
        self._folder = pathlib.Path(folder).absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True,
                                               temporary_path_class=_Sealed)
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
          step: which; by default the newest that is whole. Those that are not are named
            in the log and set aside as `STEP.damaged`.

        Returns:
          The state and the facts.

        Raises:
          InputError: there is none, none is whole, or it is of another model.
        """
        step = self._newest_whole() if step is None else step
        try:
            found = self._manager.restore(step, args=ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract),
                facts=ocp.args.JsonRestore()))
        except (ValueError, KeyError, OSError) as error:
            text = (str(error) or type(error).__name__).splitlines()[0][:300]
            raise InputError(
                f"checkpoint {step} in {self._folder} cannot be restored ({text}); "
                "train in another work directory if the configuration changed, or "
                "delete that step's folder to fall back to the one before") from error
        return found["state"], found["facts"]

    def _newest_whole(self) -> int:
        """The newest step whose digests hold; sets the others aside."""
        steps = sorted(self._manager.all_steps(), reverse=True)
        if not steps:
            raise InputError(f"{self._folder} holds no checkpoint; train first")
        faults: list[str] = []
        if not jax.process_index():
            for step in steps:
                if not (fault := self._fault(step)):
                    break
                faults.append(fault)
        skipped = _told_by_first(len(faults))
        if skipped == len(steps):
            raise InputError(
                f"no checkpoint in {self._folder} is whole: "
                f"{'; '.join(faults) or 'process 0 names the faults'}; put the files "
                f"back, or delete {self._folder.parent} to begin anew")
        if skipped:
            for step, fault in zip(steps, faults):
                aside = self._folder / f"{step}.damaged"
                _log.warning("checkpoint %d is damaged: %s; it is set aside as %s, and "
                             "checkpoint %d is used", step, fault, aside.name,
                             steps[skipped])
                if aside.exists():
                    shutil.rmtree(aside)
                (self._folder / str(step)).rename(aside)
            _told_by_first(0)  # the others wait until all are aside
            self._manager.reload()
        return steps[skipped]

    def _fault(self, step: int) -> str:
        """What is wrong with a checkpoint's files, "" where nothing is."""
        try:
            artifacts.read_manifest(self._folder / str(step), kind=_KIND,
                                    version=_VERSION)
        except InputError as error:
            return str(error).partition(";")[0]  # what follows is for other bundles
        return ""


def _told_by_first(number: int) -> int:
    """What process 0 says, on every process."""
    if jax.process_count() == 1:
        return number
    from jax.experimental import multihost_utils  # only where there are several hosts
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def abstract_like(state: Any, shardings: Any) -> Any:
    """What `Checkpoints.restore` needs: shapes and dtypes with their shardings."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype,
                                                    sharding=sharding),
        state, shardings)
