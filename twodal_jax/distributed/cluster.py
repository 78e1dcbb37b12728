"""Groups of processes that train as one run: joining a group, and waiting for all of its processes.

`start` joins the group, before anything uses a device. From then on `jax.process_index` and `jax.process_count`
describe it. Every process runs the same program; the primary one (index 0) writes files.
"""

import dataclasses
import os
from collections.abc import Mapping

import jax
from jax.experimental import multihost_utils

from twodal_jax.distributed import rendezvous

AUTO, ALONE, CLUSTER = "auto", "alone", "cluster"
# Environment variables of a launcher: number of processes, index of this one, and others that it always sets. In a
# SLURM allocation without `srun` some of them are missing.
SLURM = ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_LOCALID")
OPEN_MPI = ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK")
TPU_HOSTS = "TPU_WORKER_HOSTNAMES"
# How long a process waits for the others at its end. Where one exits early with an error, the others exit after it.
SHUTDOWN_SECONDS = 15
LOST = (
    "Another process of the group has ended or cannot be reached, so this one exits. The same commands resume all of"
    " them from the last checkpoint."
)


class GroupError(Exception):
    """The group of processes cannot be started; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Group:
    """The group of a process, and its place in it.

    Attributes:
      address: "HOST:PORT" of the primary process; None: JAX detects the cluster.
      count: number of processes.
      index: of this process.
    """

    address: str | None = None
    count: int | None = None
    index: int | None = None


def group_of(value: str, environment: Mapping[str, str]) -> Group | None:
    """The group that `config.distributed` and the environment define; None for a single process.

    Args:
      value: "auto": a group where SLURM, Open MPI or a TPU slice started several processes; "cluster": the
        same, but an error if JAX detects none; "alone": never; "HOST:PORT,COUNT,INDEX": address of the primary
        process, number of processes and index of this one; "HOST:PORT": number and index come from SLURM or Open
        MPI.
      environment: the environment variables.

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
    """(count, index) of a process that SLURM or Open MPI started."""
    for names in (SLURM, OPEN_MPI):
        if all(name in environment for name in names):
            return int(environment[names[0]]), int(environment[names[1]])
    return None


def start(value: str, *, start_seconds: int = 60, heartbeat_seconds: int = 10) -> None:
    """Joins the group that `value` defines, if any. To be called before a device is used.

    Args:
      value: `config.distributed`, see `group_of`.
      start_seconds: timeout for joining the primary process and the others.
      heartbeat_seconds: time without a sign of a process after which the others exit.

    Raises:
      GroupError: see `group_of`; or the other processes did not join in time.
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
            f"The group of processes did not start (config.distributed = {value!r}, primary process at"
            f" {group.address}). {error}\n"
            "Start all processes with the same HOST:PORT and COUNT, each with its own INDEX, within"
            " config.run.start_seconds; the primary one must be reachable at that port, which must be free."
        ) from error
    # Gloo connects the processes at their first exchange, with a timeout of 30 seconds. It happens here, because later
    # one process may be minutes behind the others.
    wait_for_all("started")


def is_group() -> bool:
    """Whether this process is one of several of a run."""
    return jax.process_count() > 1


def wait_for_all(name: str) -> None:
    """Returns when every process of the group has called it with this name; at once for a single process."""
    if is_group():
        multihost_utils.sync_global_devices(name)
