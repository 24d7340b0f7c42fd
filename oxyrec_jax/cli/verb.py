"""What all verbs share: their common options, and how a work directory is opened."""

import dataclasses
import pathlib
from typing import Annotated, Any

from tyro.conf import FlagCreatePairsOff, Positional, UseAppendAction, arg

from oxyrec_jax.base import InputError

Settings = Annotated[
    UseAppendAction[tuple[str, ...]],
    arg(metavar="NAME=VALUE", help="Change one field of the experiment, such as "
        "train.steps=50; for more fields give --set again.")]
Json = Annotated[FlagCreatePairsOff[bool], arg(
    help="Print one JSON object as the last line of standard output, and nothing else "
    "there.")]
Workdir = Annotated[pathlib.Path, arg(
    metavar="FOLDER", help="Where everything of this experiment lies.")]
File = Annotated[str, arg(
    metavar="[EXPERIMENT]", help_behavior_hint="(optional)",
    help="An experiment file. Without it: the experiment of the work directory.")]


@dataclasses.dataclass(frozen=True)
class Verb:
    """What all verbs share."""

    experiment: Positional[File] = ""
    workdir: Workdir = pathlib.Path("runs/experiment")
    set: Settings = ()
    json: Json = False

    def work(self) -> dict[str, Any]:
        """Does the work and returns JSON values."""
        raise TypeError(f"{type(self).__name__} has no work")

    def begin(self) -> Any:
        """The experiment where no file is given; None: that of the work directory."""

    def space(self, *settings: str) -> Any:
        """The work directory, its experiment changed by `--set` and more settings."""
        from oxyrec_jax import config, workflow  # jax: not for --help
        if "=" in self.experiment:
            raise InputError(f"{self.experiment}: write --set {self.experiment}, with "
                             "one --set for each change")
        cfg = (config.load_experiment(self.experiment) if self.experiment else
               self.begin())
        return workflow.open_workspace(self.workdir, cfg, (*settings, *self.set))
