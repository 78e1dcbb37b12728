"""Several processes as one run: how they find each other, stop together, and wait for one another.

A group is started by `start`, before anything touches a device. What is known of it afterwards is JAX's
(`jax.process_index`, `jax.process_count`). Every process runs the same program; the first one writes files.
"""

import dataclasses
import os
from collections.abc import Mapping

import jax
from jax.experimental import multihost_utils

from twodal_jax.distributed import rendezvous

AUTO, ALONE, CLUSTER = "auto", "alone", "cluster"
# Of a cluster's environment: processes, this one's number, and what else must be set for it to count as one.
SLURM = ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_LOCALID")
OPEN_MPI = ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK")
TPU_HOSTS = "TPU_WORKER_HOSTNAMES"
# At its end a process waits so long for the others; where one leaves early for an error, they leave after it.
SHUTDOWN_SECONDS = 15
LOST = (
    "Another process of the group has ended or cannot be reached; this one leaves as well. The same commands"
    " continue all of them from the last checkpoint."
)


class GroupError(Exception):
    """The group of processes cannot be started; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Group:
    """Where a process belongs.

    Attributes:
      address: "HOST:PORT" of the primary process; None: JAX detects the cluster.
      count: number of processes. index: of this one.
    """

    address: str | None = None
    count: int | None = None
    index: int | None = None


def group_of(value: str, environment: Mapping[str, str]) -> Group | None:
    """The group `config.distributed` and the environment tell of; None for a process alone.

    Args:
      value: "auto": a group where SLURM, Open MPI or a TPU slice started several processes; "cluster": the
        same, but an error if JAX finds none; "alone": never; "HOST:PORT,COUNT,INDEX": the first process's
        address, how many there are and which one this is; "HOST:PORT": the last two as SLURM or Open MPI
        say.

    Raises:
      GroupError: the value is none of these.
    """
    if value == ALONE:
        return None
    if value == CLUSTER:
        return Group()
    launched = _launched(environment)
    if value == AUTO:
        several = (launched and launched[0] > 1) or "," in environment.get(TPU_HOSTS, "")
        return Group() if several else None
    address, *numbers = value.split(",")
    try:
        count, index = [int(number) for number in numbers] if numbers else launched
        port = int(address.rpartition(":")[2])
        if not (0 < port < 65536 and address.rpartition(":")[0] and 0 <= index < count):
            raise ValueError
    except (TypeError, ValueError):
        raise GroupError(
            f"config.distributed ({value!r}) must be auto, cluster, alone, HOST:PORT,COUNT,INDEX with"
            " 0 <= INDEX < COUNT, or HOST:PORT where SLURM or Open MPI starts the processes."
        ) from None
    return Group(address, count, index)


def _launched(environment: Mapping[str, str]) -> tuple[int, int] | None:
    """(count, index) as SLURM or Open MPI set them for a process they started."""
    for names in (SLURM, OPEN_MPI):
        if all(name in environment for name in names):
            return int(environment[names[0]]), int(environment[names[1]])
    return None


def start(value: str, *, start_seconds: int = 60, heartbeat_seconds: int = 10) -> None:
    """Joins the group `value` tells of (see `group_of`), or does nothing; before any use of a device.

    Args:
      start_seconds: how long to wait for the first process and for the others.
      heartbeat_seconds: how long a process may be silent before the others leave.

    Raises:
      GroupError: see `group_of`; or the others did not come in time.
    """
    group = group_of(value, os.environ)
    if group is None:
        return
    try:
        if group.address is not None:
            rendezvous.meet(group.address, group.count, group.index, start_seconds)
        jax.distributed.initialize(
            group.address,
            group.count,
            group.index,
            cluster_detection_method="deactivate" if group.address else None,
            initialization_timeout=start_seconds,
            heartbeat_timeout_seconds=heartbeat_seconds,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except (rendezvous.MeetingError, RuntimeError, ValueError) as error:
        raise GroupError(
            f"The group of processes did not start (config.distributed = {value!r}, first process at"
            f" {group.address}). {error}\n"
            "Start all processes with the same HOST:PORT and COUNT, each with its own INDEX, within"
            " config.run.start_seconds; the first one must be reachable at that port, which must be free."
        ) from error
    # While all are here: later one may be minutes behind, and Gloo's first meeting waits for 30 seconds.
    wait_for_all("started")


def is_group() -> bool:
    """Whether this process is one of several."""
    return jax.process_count() > 1


def wait_for_all(name: str) -> None:
    """Returns when every process of the group has come here; at once for a process alone."""
    if is_group():
        multihost_utils.sync_global_devices(name)
