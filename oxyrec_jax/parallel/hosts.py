"""One run on many processes: each has its devices and its share of every batch.

JAX does the work: `jax.distributed` lets the processes find each other, XLA's
collectives carry the arrays, and its heartbeats end the run where a process is lost.
"""

import dataclasses
import logging
from typing import Any

import jax

from oxyrec_jax.base import InputError

AUTO = "auto"
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Hosts:
    """Who takes part in a run.

    Attributes:
      coordinator: "HOST:PORT" of process 0; "auto" asks the cluster's environment
        (SLURM, Open MPI, Kubernetes and Cloud TPU are known to JAX); "": this process
        is the whole run.
      processes: how many there are; None with "auto".
      process: this one's number from 0; None with "auto".
      patience: seconds without a sign of life after which a process counts as lost.
      wait: seconds that processes wait for each other at the start.
    """

    coordinator: str = ""
    processes: int | None = None
    process: int | None = None
    patience: int = 30
    wait: int = 300

    def __post_init__(self) -> None:
        counts = (self.processes, self.process)
        if not self.coordinator:
            if counts != (None, None):
                raise InputError("--processes and --process need --coordinator, the "
                                 "HOST:PORT of process 0")
            return
        for name in ("patience", "wait"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name} is {getattr(self, name)}, expected at "
                                 "least 1")
        if self.coordinator == AUTO:
            return
        if None in counts:
            raise InputError(f"--coordinator {self.coordinator} needs --processes and "
                             "--process too; only --coordinator auto finds them out")
        host, colon, port = self.coordinator.rpartition(":")
        if not (host and colon and port.isdecimal()):
            raise InputError(f"--coordinator is {self.coordinator!r}, expected "
                             "HOST:PORT or auto")
        if not 0 <= int(self.process or 0) < int(self.processes or 0):
            raise InputError(f"--process is {self.process} of {self.processes} "
                             "processes, expected 0 to one less than there are")


def start(hosts: Hosts) -> None:
    """Joins the run; to be called before anything touches a device.

    A process that is lost ends the others: at once where they wait for it in a
    collective whose connection breaks, and in any case `patience` seconds later, when
    JAX ends them with SIGABRT. One that never comes is waited for `wait` seconds.
    Started again, all continue from the newest checkpoint.

    Args:
      hosts: who takes part; without a coordinator nothing is done.

    Raises:
      InputError: the others, or the environment of a cluster, cannot be found.
    """
    if not hosts.coordinator:
        return
    given: dict[str, Any] = {} if hosts.coordinator == AUTO else {
        "coordinator_address": hosts.coordinator, "num_processes": hosts.processes,
        "process_id": hosts.process}
    try:
        jax.distributed.initialize(
            **given, initialization_timeout=hosts.wait,
            heartbeat_timeout_seconds=hosts.patience,
            shutdown_timeout_seconds=hosts.patience)
    except (RuntimeError, ValueError) as error:
        told = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            f"--coordinator {hosts.coordinator}: the processes did not come together "
            f"({told}); start all of them, each with its own --process, or with auto "
            "inside a job of SLURM, Open MPI, Kubernetes or Cloud TPU") from error
    _log.info("process %d of %d, %d of %d devices; where one is lost the others end "
              "within %d s, and the same commands continue", jax.process_index(),
              jax.process_count(), jax.local_device_count(), jax.device_count(),
              hosts.patience)
