"""What all verbs share: their common options, and how a work directory is opened."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Annotated, Any

from tyro.conf import FlagCreatePairsOff, Positional, UseAppendAction, arg

from oxyrec_jax.errors import InputError

Settings = Annotated[
    UseAppendAction[tuple[str, ...]],
    arg(metavar="NAME=VALUE", help="Change one field of the experiment, such as "
        "train.steps=50; for more fields give --set again.")]
Mesh = Annotated[str, arg(
    metavar="AXIS=N[,AXIS=N...]", help_behavior_hint="(default: the experiment's)",
    help="How devices are laid out, such as data=4,fsdp=2; the axes are data, fsdp, "
    "tensor, expert and table, and data takes the devices that are left. Short for "
    "--set mesh.AXIS=N.")]
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
    mesh: Mesh = ""
    json: Json = False

    def work(self) -> dict[str, Any]:
        """Does the work and returns JSON values."""
        raise TypeError(f"{type(self).__name__} has no work")

    def code(self, found: Mapping[str, Any]) -> int:
        """The exit code for what `work` returned."""
        return 0

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
        return workflow.open_workspace(
            self.workdir, cfg, (*settings, *self.set, *self.layout()))

    def speaks(self) -> bool:
        """Whether this process tells what was found; one of a run's processes does."""
        return True

    def layout(self) -> list[str]:
        """`--mesh` as settings of the experiment."""
        from oxyrec_jax import parallel
        return [f"mesh.{axis}={size}" for axis, size in
                (parallel.parse_mesh(self.mesh) if self.mesh else {}).items()]


@dataclasses.dataclass(frozen=True)
class ManyHosts(Verb):
    """A verb that several processes can do together; docs/scale.md has recipes."""

    coordinator: Annotated[str, arg(
        metavar="HOST:PORT", help_behavior_hint="(default: one process)",
        help="Where process 0 of a run of many processes listens; auto inside a job of "
        "SLURM, Open MPI, Kubernetes or Cloud TPU.")] = ""
    processes: Annotated[int | None, arg(
        metavar="INT", help_behavior_hint="(with HOST:PORT)",
        help="How many processes there are.")] = None
    process: Annotated[int | None, arg(
        metavar="INT", help_behavior_hint="(with HOST:PORT)",
        help="This one's number, from 0.")] = None
    patience: Annotated[int, arg(
        metavar="SECONDS", help="Without a sign of life from a process for so long, "
        "the others end; the same commands continue.")] = 30
    wait: Annotated[int, arg(
        metavar="SECONDS", help="How long processes wait for each other at the start."
        )] = 300

    def join(self) -> None:
        """Finds the other processes; before anything touches a device."""
        from oxyrec_jax.parallel import hosts
        hosts.start(hosts.Hosts(self.coordinator, self.processes, self.process,
                                self.patience, self.wait))

    def speaks(self) -> bool:
        import jax
        return not self.coordinator or jax.process_index() == 0
