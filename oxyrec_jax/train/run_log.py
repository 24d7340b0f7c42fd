"""The log of a run: a line of figures for each window of steps, and TensorBoard's."""

import json
import pathlib

import jax
import tensorboardX

from oxyrec_jax import artifacts
from oxyrec_jax.base import InputError

_FILE = "log.jsonl"


class RunLog:
    """Writes the log of the run in a folder; a context, open while the run goes on."""

    def __init__(self, folder: pathlib.Path):
        """A log that `truncate` has to be called on before it is opened."""
        self._folder, self._step = folder, 0

    def truncate(self, step: int) -> None:
        """Drops lines after `step`: the steps that they tell of will be done again."""
        self._step = step
        if jax.process_index():
            return
        path = self._folder / _FILE
        kept = [line for line in read_log(path) if line["step"] <= step]
        with artifacts.open_atomic(path, "w") as file:
            file.writelines(json.dumps(line) + "\n" for line in kept)

    def __enter__(self) -> "RunLog":
        self._writer = tensorboardX.SummaryWriter(str(self._folder / "tensorboard"),
                                                  purge_step=self._step + 1)
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.close()

    def append(self, line: dict[str, float]) -> None:
        """Adds a line; `line["step"]` says after which step it stood."""
        if jax.process_index():
            return
        with open(self._folder / _FILE, "a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
        for name, value in line.items():
            if name != "step":
                tag = name.replace("@", "_at_").replace("/", "_per_")
                self._writer.add_scalar(tag.replace(".", "/"), value, line["step"])


def read_log(path: pathlib.Path) -> list[dict[str, float]]:
    """Reads a run's log, of which there may be none yet.

    A last line without its end is what a killed run leaves; it is left out.

    Raises:
      InputError: a line is no JSON object, or the file is no text.
    """
    if not path.exists():
        return []
    try:
        lines = path.read_text("utf-8").splitlines(keepends=True)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text ({error}); restore it, or delete it: a "
                         "run goes on without its earlier lines") from error
    return [_parsed(path, number, line) for number, line in enumerate(lines, 1)
            if line.endswith("\n")]


def _parsed(path: pathlib.Path, number: int, line: str) -> dict[str, float]:
    try:
        found = json.loads(line)
        if not isinstance(found["step"], int):
            raise TypeError
    except (ValueError, TypeError, KeyError):
        raise InputError(f"{path} line {number} is {line[:40].strip()!r}, expected a "
                         "JSON object with a step; delete the line") from None
    return found
